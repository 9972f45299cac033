"""The relation scorer that comes with the studio: how it is kept, found and loaded.

``assets/graph/scorer-<width>.safetensors`` holds two joint models (with message passing and
without) for states of one encoder, the ``.json`` beside it their calibration, marks and sources.
``assets/graph/make_scorer.py`` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from core.errors import ModelError
from core.graph.features import NAMES
from core.graph.model import JointModel, Shape
from core.graph.reason import Calibration, Fitted, better
from core.home import ASSETS
from core.manifest import sha256_of

FOLDER = ASSETS / "graph"


@dataclass(frozen=True)
class Scorer:
    """Models for one encoder.

    Attributes:
        encoder: name of the model folder whose states they read.
        used: the passing of the better one.
        models: by passing.
        blind: the same models, calibrated for names in a language that the encoder does not know;
            empty: as ``models``.
        facts: sources, licence, and how they were trained.
    """

    encoder: str
    used: str
    models: dict[str, Fitted]
    facts: dict[str, Any]
    blind: dict[str, Fitted] = field(default_factory=dict)

    def chosen(self, *, names_known: bool) -> tuple[str, dict[str, Fitted]]:
        """The passing of the model to use, and all of them, calibrated for what is known."""
        if names_known or not self.blind:
            return self.used, self.models
        return better(self.blind), self.blind


def save(scorer: Scorer, folder: Path = FOLDER) -> None:
    """Write a scorer's two files.

    Raises:
        OSError: if they cannot be written.
    """
    tensors, described = {}, {}
    for name, fitted in scorer.models.items():
        for key, value in fitted.model.state_dict().items():
            tensors[f"{name}.{key}"] = value.half().contiguous()
        shape, calibration = fitted.model.shape.to_json(), asdict(fitted.calibration)
        described[name] = {"shape": shape, "calibration": calibration, "marks": fitted.marks}
        if (blind := scorer.blind.get(name)) is not None:
            described[name]["blind"] = {
                "calibration": asdict(blind.calibration),
                "marks": blind.marks,
            }
    path = folder / f"scorer-{scorer.encoder}.safetensors"
    save_file(tensors, path)
    tree = {"encoder": scorer.encoder, "used": scorer.used, "models": described}
    tree |= {"features": list(NAMES), "sha256": sha256_of(path), **scorer.facts}
    text = json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, "utf-8", newline="\n")


def load(encoder: str, folder: Path = FOLDER) -> Scorer | None:
    """The scorer for an encoder's states; None if there is none.

    Raises:
        ModelError: if it is damaged.
    """
    path = folder / f"scorer-{encoder}.safetensors"
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if sha256_of(path) != tree["sha256"] or tree["features"] != list(NAMES):
            raise ValueError(path.name)
        tensors = load_file(path)
        models = {name: _fitted(name, tensors, d) for name, d in tree["models"].items()}
        own = ("encoder", "used", "models", "features", "sha256")
        facts = {k: v for k, v in tree.items() if k not in own}
        blind = {
            name: Fitted(
                models[name].model,
                Calibration(**d["blind"]["calibration"]),
                dict(d["blind"]["marks"]),
            )
            for name, d in tree["models"].items()
            if "blind" in d
        }
        return Scorer(str(tree["encoder"]), str(tree["used"]), models, facts, blind)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            "The relation scorer that comes with the studio is damaged.",
            where=path.name,
            action="Copy the studio's folder again.",
            code="graph.scorer",
        ) from error


def _fitted(name: str, tensors: Mapping[str, torch.Tensor], tree: Mapping[str, Any]) -> Fitted:
    model = JointModel(Shape(**tree["shape"]))
    own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
    model.load_state_dict({k: v.float() for k, v in own.items()})
    model.eval()
    return Fitted(model, Calibration(**tree["calibration"]), dict(tree["marks"]))
