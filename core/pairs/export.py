"""A trained pair model as one folder that ``transformers`` loads without us.

``model.safetensors`` holds the base model without its output head, the adapters (and magnitudes)
folded in; ``head.safetensors`` the head; ``pairs.json`` the rest: pooling, what stands around the
questions as token ids, and the threshold. No class of ``transformers`` pools and averages as we do,
so that ``README.md`` shows the ten lines that do, and every export is checked by loading it back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from core.config import RunConfig
from core.data.pairs import load_pairs
from core.errors import ConfigError, ModelError
from core.events import Emit, PhaseChanged
from core.export.tensors import write_safetensors
from core.manifest import read_manifest, whole_folder, write_manifest
from core.modelload import Weights
from core.pairs.model import PairModel, empty_inner
from core.pairs.store import Trained, load_trained

KIND = "pairs-merged"
CHECKED_PAIRS = 16
TOLERANCE = 1e-4  # of a probability: the sum of weights rounds otherwise than that of products
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

USE = """\
import json
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = "."
facts = json.load(open(f"{folder}/pairs.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
head = load_file(f"{folder}/head.safetensors")["head"]
begin, between, end = facts["frame"]

def tokens(text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

def logits(first, second):
    one, two = begin + tokens(first) + between, tokens(second) + end
    kinds = torch.tensor([[0] * len(one) + [1] * len(two)])
    more = {"token_type_ids": kinds} if facts["token_types"] else {}
    states = model(input_ids=torch.tensor([one + two]), **more).last_hidden_state[0]
    return (states.mean(0) if facts["pool"] == "mean" else states[-1]) @ head.T

@torch.no_grad()
def same(first, second):
    p = ((logits(first, second) + logits(second, first)) / 2).softmax(0)[1].item()
    return p, p >= facts["threshold"]
"""


def export_merged(run: Path, form: str, out: Path, emit: Emit) -> dict[str, Any]:
    """Write the merged model of a finished run, load it back and compare its verdicts.

    Returns:
        ``files[]``, ``checked{prompts, equal}`` and ``marks``.

    Raises:
        ConfigError: for another format than ``merged``, or an ``out`` that holds something else.
        ModelError: if the run is not finished, or the export judges otherwise.
        OSError: if the disk is full.
    """
    if form != "merged":
        raise ConfigError(
            f"A model that compares questions is not exported as {form[:40]}.",
            where="format",
            action="Choose merged.",
            code="pairs.export",
        )
    if out.exists() and any(out.iterdir()) and read_manifest(out).get("kind") != KIND:
        raise ConfigError(
            "The folder to write is not empty.",
            where=out.name,
            action="Choose a new or empty folder.",
            code="export.not_empty",
        )
    emit(PhaseChanged("export", 0.0, "weights"))
    trained, marks = load_trained(run), _marks(run)
    with whole_folder(out) as folder:
        _write(trained, folder)
        emit(PhaseChanged("export", 0.6, "check"))
        checked = _check(trained, folder, run)
        text = _card(RunConfig.load(run / "config.json"), trained, marks, checked)
        (folder / "README.md").write_text(text, "utf-8", newline="\n")
        write_manifest(folder, kind=KIND, checked=checked)
    emit(PhaseChanged("export", 1.0, "done"))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"files": files, "checked": checked, "marks": marks}


def _marks(run: Path) -> dict[str, Any]:
    try:
        result = json.loads((run / "result.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            "This run is not finished, so there is nothing to export yet.",
            where=run.name,
            action="Let it finish, or resume it.",
            code="export.unfinished",
        ) from error
    return dict(result["quiz"]["tuned"])


def _write(trained: Trained, folder: Path) -> None:
    model, base = trained.model, trained.path
    config = json.loads((base / "config.json").read_text("utf-8"))
    for key in ("_name_or_path", "_model_name_or_path", "torch_dtype"):
        config.pop(key, None)
    config |= {"dtype": "float32", "architectures": [type(model.inner).__name__]}
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    for path in [*(base / name for name in _TOKENIZER), *sorted(base.glob("LICENSE*"))]:
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    weights = Weights(base, empty_inner(base))
    layers = {f"{name}.weight": layer for name, layer in model.layers.items()}

    def read(name: str) -> Tensor:
        if name not in layers:
            return weights[name].float()
        dense = layers[name].effective_weight()
        return dense.t() if layers[name].transposed else dense

    shapes = {name: weights.shape(name) for name in weights}
    write_safetensors(folder / "model.safetensors", shapes, torch.float32, read)
    save_file({"head": model.head.detach().cpu().contiguous()}, folder / "head.safetensors")
    facts = {
        "pool": "mean" if model.encoder else "last",
        "frame": [list(part) for part in trained.encoder.frame],
        "token_types": model.typed,
        "max_length": trained.encoder.max_length,
        "threshold": trained.threshold,
        "classes": ["different", "same"],
    }
    (folder / "pairs.json").write_text(json.dumps(facts, indent=2), "utf-8")


def _check(trained: Trained, folder: Path, run: Path) -> dict[str, int]:
    """Let the fresh copy judge some test pairs.

    Raises:
        ModelError: if a probability differs by more than ``TOLERANCE``.
    """
    pairs = [(p.first, p.second) for p in load_pairs(run / "data").test[:CHECKED_PAIRS]]
    inner = AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    ).eval()
    kind = trained.model
    copy = PairModel(inner, encoder=kind.encoder, shape=kind.shape, device=torch.device("cpu"))
    copy.separator = kind.separator
    copy.head.data.copy_(load_file(folder / "head.safetensors")["head"])
    found = [m.scores(trained.encoder, pairs).softmax(1)[:, 1] for m in (kind, copy)]
    equal = int(((found[0] - found[1]).abs() <= TOLERANCE).sum())
    if equal < len(pairs):
        raise ModelError(
            f"The export answers {len(pairs) - equal} of {len(pairs)} quiz questions otherwise"
            " than the studio, so it was not kept.",
            where=folder.name,
            action="Export it again; if it happens again, report it with the run's folder.",
            code="export.unequal",
        )
    return {"prompts": len(pairs), "equal": equal}


def _card(
    config: RunConfig, trained: Trained, marks: dict[str, Any], checked: dict[str, int]
) -> str:
    names = {"accuracy": "accuracy", "f1": "F1", "mcc": "MCC", "pr_auc": "PR-AUC", "ece": "ECE"}
    rows = "\n".join(f"| {title} | {marks[name]:.3f} |" for name, title in names.items())
    c = marks["confusion"]
    return (
        "# Do two questions mean the same?\n\n"
        f"Made with Edu-ADAQ Studio from the base model `{Path(config.model).name}`. The weights "
        "hold what was learned; the threshold was chosen on pairs that are not reported.\n\n"
        f"Marks on {marks['examples']} pairs that were kept out of training:\n\n"
        f"| mark | |\n|---|---|\n{rows}\n\n"
        f"Same and called so {c['tp']}, missed {c['fn']}; different and called so {c['tn']}, "
        f"taken for the same {c['fp']}.\n\n"
        f"Checked after writing: {checked['equal']} of {checked['prompts']} pairs get the same "
        f"probability (within {TOLERANCE:g}).\n\n## Use\n\n```python\n{USE}```\n"
    )
