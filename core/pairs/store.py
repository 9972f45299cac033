"""A trained pair model on disk, and back: ``adapter/`` of a run folder.

``adapter.safetensors`` holds the head and, layer by layer, U, s (masks folded in), V and the
magnitude; ``adapter.json`` the threshold and what the frozen weights are stored in. The base model
is named by the run's ``config.json``, as of every run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import models
from core.adapters.finite import check_finite
from core.adapters.store import ADAPTER, sha256_of_tensors
from core.config import RunConfig
from core.errors import ModelError
from core.manifest import check_manifest, whole_folder, write_manifest
from core.pairs.model import PairEncoder, PairModel, Shape, opened

FORMAT = "edu-adaq-pairs"


@dataclass(frozen=True)
class Trained:
    """A trained pair model ready to be asked.

    Attributes:
        model: the model.
        encoder: lays pairs out as its tokens.
        threshold: probability from which two questions are called the same.
        path: folder of the base model.
    """

    model: PairModel
    encoder: PairEncoder
    threshold: float
    path: Path

    def same(self, first: str, second: str) -> float:
        """Probability that two questions mean the same; the order does not matter."""
        return float(self.model.scores(self.encoder, [(first, second)]).softmax(1)[0, 1])


def is_pair_run(run: Path) -> bool:
    """Whether a folder is that of a run of the method ``pairs``."""
    try:
        tree = json.loads((run / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and tree.get("method") == "pairs"


def folded(model: PairModel) -> dict[str, Tensor]:
    """What is kept of a trained model: no masked triplet, no moment."""
    found: dict[str, Tensor] = {"head": model.head.detach().cpu().contiguous()}
    for name, layer in model.layers.items():
        keep = (layer.m > 0).nonzero()[:, 0]
        found[f"{name}.U"] = layer.U.data[:, keep].cpu().contiguous()
        found[f"{name}.s"] = (layer.s.data * layer.m)[keep].cpu().contiguous()
        found[f"{name}.V"] = layer.V.data[keep].cpu().contiguous()
        if layer.magnitude is not None:
            found[f"{name}.magnitude"] = layer.magnitude.detach().cpu().contiguous()
    return found


def save_trained(out: Path, model: PairModel, threshold: float, facts: dict[str, Any]) -> str:
    """Write ``adapter/`` of a run and return the SHA-256 of its tensors.

    Raises:
        ModelError: if a number in it is not finite.
    """
    tensors = folded(model)
    check_finite(tensors)
    digest = sha256_of_tensors(tensors)
    with whole_folder(out / ADAPTER) as folder:
        save_file(tensors, folder / "adapter.safetensors")
        tree = {**facts, "format": FORMAT, "threshold": threshold, "sha256": digest}
        tree |= {"shape": asdict(model.shape), "encoder": model.encoder}
        (folder / "adapter.json").write_text(json.dumps(tree, indent=2), "utf-8")
        write_manifest(folder)
    return digest


def load_trained(run: Path, device: torch.device | None = None) -> Trained:
    """The trained pair model of a run folder.

    Raises:
        ModelError: if there is none, or it is damaged.
    """
    folder = run / ADAPTER
    if not is_pair_run(run) or not folder.is_dir():
        raise ModelError(
            "This folder holds no trained pair model.",
            where=run.name,
            action="Choose the folder of a finished run of the method pairs.",
            code="pairs.no_model",
        )
    check_manifest(folder, contents=True)
    config = RunConfig.load(run / "config.json")
    facts = json.loads((folder / "adapter.json").read_text("utf-8"))
    path = models.ensure_local(models.resolve(config.model), encoder=True)
    shape = Shape(**facts["shape"])
    model, encoder = opened(path, shape, config.train.max_length, device=device)
    fill(model, load_file(folder / "adapter.safetensors"))
    return Trained(model, encoder, float(facts["threshold"]), path)


def fill(model: PairModel, tensors: dict[str, Tensor]) -> None:
    """Give a model what :func:`folded` took."""
    model.head.data.copy_(tensors["head"])
    for name, layer in model.layers.items():
        layer.set_triplets(*(tensors[f"{name}.{key}"] for key in ("U", "s", "V")))
        if (magnitude := tensors.get(f"{name}.magnitude")) is not None:
            layer.magnitude = torch.nn.Parameter(magnitude.to(model.device))
