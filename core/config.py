"""The settings of a run: one frozen tree, the same for page, command line and saved file.

Every field carries its unit and one line of help in ``metadata`` (the CLI, the pages and the
reference in ``docs/`` are fed from it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from core.errors import ConfigError
from core.whole import write_whole

MB, GB = 10**6, 10**9
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": MB, "GB": GB, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str | float) -> int:
    """Return bytes for ``900MB``, ``1.5GB``, ``2GiB`` or a plain number of bytes.

    Raises:
        ConfigError: if it is no positive size.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(text))
    unit = match and _UNITS.get(match[2].upper())
    if not match or unit is None or float(match[1]) <= 0:
        raise ConfigError(
            f"{str(text)[:40]!r} is not a size.",
            where="budget",
            action="Write a number with a unit, for example 900MB or 1.5GB.",
            code="config.size",
        )
    return int(float(match[1]) * unit)


def _help(
    default: Any,
    text: str,
    unit: str = "",
    *,
    low: Any = None,
    high: Any = None,
    choices: tuple[str, ...] = (),
) -> Any:
    told = {"help": text, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class DataConfig:
    """Which file, and how it is read."""

    path: str = _help("", "The class file, or the frozen data of a run")
    sheet: str = _help("", "Sheet of a workbook; empty: the first one with questions")
    encoding: str = _help("", "Text encoding; empty: recognised from the content")
    question: str = _help("", "Column with the questions; empty: guessed")
    answer: str = _help("", "Column with the answers; empty: guessed")
    columns: str = _help(
        "",
        "Columns of every part of an example, a line each: part=column; several columns of a part "
        "are joined in their order; empty: guessed",
    )
    quiz_share: float = _help(0.15, "Part of the class kept for the quiz", "share", low=0, high=0.5)
    max_quiz: int = _help(40, "Largest number of quiz questions", "questions", low=0, high=2000)

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The columns of every part, as ``columns`` says.

        Raises:
            ConfigError: a line of it names no part.
        """
        found: dict[str, tuple[str, ...]] = {}
        for line in filter(str.strip, self.columns.split("\n")):
            part, equals, column = line.partition("=")
            if not equals or not part.strip():
                raise ConfigError(
                    f"{line[:80]!r} does not name the column of a part.",
                    where="data.columns",
                    action="Write one column on each line, for example: system=Role",
                    code="config.columns",
                )
            found[part.strip()] = (*found.get(part.strip(), ()), column.strip())
        return {part: tuple(filter(None, names)) for part, names in found.items()}

    def reading(self) -> dict[str, Any]:
        """Return how the file is read, as arguments of ``core.data.ingest.read_file``.

        Raises:
            ConfigError: ``columns`` is no list of columns.
        """
        names = ("question", "answer", "sheet", "encoding")
        return {name: getattr(self, name) for name in names} | {"columns": self.parts or None}


def columns_text(parts: Mapping[str, Sequence[str]]) -> str:
    """Return columns by part as ``DataConfig.columns`` holds them.

    A part without columns is kept as ``part=``: it was chosen to have none.
    """
    return "\n".join(f"{part}={name}" for part, names in parts.items() for name in names or ("",))


@dataclass(frozen=True)
class QuantConfig:
    """How frozen weights are stored."""

    scheme: str = _help(
        "affine",
        "affine (own 2, 3, 4 and 8 bits) or nf4 (the codes of bitsandbytes)",
        choices=("affine", "nf4"),
    )
    bits: int = _help(0, "The same bits for every layer; 0: chosen layer by layer", "bits")
    group: int = _help(64, "Weights that share one scale", "weights", low=32, high=256)
    importance: str = _help(
        "loss",
        "What a layer's bits go by: loss (what an error costs the answers), activation (what it"
        " changes in the layer's outputs), frobenius (its size) or spectrum (the singular values"
        " of the weight alone)",
        choices=("loss", "activation", "frobenius", "spectrum"),
    )
    calibration_tokens: int = _help(
        512, "Tokens of the class's own text that the plan is measured on", "tokens", low=64
    )


@dataclass(frozen=True)
class AdapterConfig:
    """The trainable part."""

    rank: int = _help(8, "Mean rank at the end of training", "", low=1, high=256)
    uniform: bool = _help(False, "The same rank everywhere instead of the planned ones")
    start: str = _help(
        "error",
        "error (cancels the quantization error) or zero (as plain LoRA)",
        choices=("error", "zero"),
    )
    dynamic: bool = _help(True, "Let ranks move while training (mask, revive, compact)")
    parametrisation: str = _help(
        "triplets",
        "What trains: triplets (U, s, V of a low rank) or svd (singular values and row scales of"
        " the weight itself; set by method svd)",
        choices=("triplets", "svd"),
    )
    directions: int = _help(
        256, "Singular directions of a weight whose values train (svd)", "", low=1, high=4096
    )
    diagonal: str = _help(
        "log",
        "How singular values change (svd): log (times e^d, always positive) or additive (plus d)",
        choices=("log", "additive"),
    )


# What may train the adapter (core/train/optimizers.py) and how its rate runs (core/train/rules.py).
OPTIMIZERS = (
    "adamw",
    "adam",
    "sgd",
    "momentum",
    "adagrad",
    "rmsprop",
    "lion",
    "schedulefree",
    "prodigy",
    "eduadapt",
)
DIRECTIONS = ("off", "anchor", "trajectory")
SWITCH = ("auto", "on", "off")
# Settings of training that a method with an optimizer of its own does not follow.
OWN_RULE = ("optimizer", "clip", "cautious", "recover")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = _help(0, "Optimizer steps; 0: from epochs", "steps", low=0)
    epochs: float = _help(
        1.0, "Passes over the class data; small classes get more, for 12 steps", "passes", low=0
    )
    lr: float = _help(
        1e-3,
        "Peak learning rate, on the scale of AdamW; others take a multiple",
        low=1e-6,
        high=1.0,
    )
    diagonal_lr: float = _help(
        5e-3,
        "Peak learning rate of the singular values (svd), on the same scale",
        low=1e-6,
        high=1.0,
    )
    warmup: float = _help(0.06, "Part of the steps in which the rate rises", "share")
    weight_decay: float = _help(
        0.0, "Weight decay of the adapter, in the form that its optimizer was published with"
    )
    optimizer: str = _help("adamw", "What makes a step of a gradient", choices=OPTIMIZERS)
    schedule: str = _help(
        "auto",
        "After the warm-up: cosine (to a tenth), late (a tenth, falling from 30 % of the steps on)"
        " or constant; auto: as the optimizer is meant to be used",
        choices=("auto", "cosine", "late", "constant"),
    )
    clip: str = _help(
        "auto",
        "Largest gradient norm: fixed (train.grad_clip) or adaptive (from the norms seen so far);"
        " auto: adaptive with eduadapt",
        choices=("auto", "fixed", "adaptive"),
    )
    cautious: str = _help(
        "auto",
        "Drop the parts of a step that go against the gradient (adamw, eduadapt);"
        " auto: with eduadapt",
        choices=SWITCH,
    )
    plateau: str = _help(
        "auto",
        "Halve the rate after three looks at the quiz loss without a gain of 0.1 %;"
        " auto: with eduadapt",
        choices=SWITCH,
    )
    recover: str = _help(
        "auto",
        "After three steps in a row without finite gradients go back to the last checkpoint, at"
        " half the rate, instead of ending; auto: with eduadapt",
        choices=SWITCH,
    )
    balanced_decay: str = _help(
        "auto",
        "Let what is trained decay so that decay and step are in one ratio in all kinds of layers;"
        " auto: with eduadapt",
        choices=SWITCH,
    )
    decay_ratio: float = _help(
        0.02, "Of balanced decay: decay divided by step", "ratio", low=0.0, high=1.0
    )
    direction: str = _help(
        "off",
        "Penalty on the attention weights' direction: anchor (turning away from the start),"
        " trajectory (turning back on the way learned so far) or off",
        choices=DIRECTIONS,
    )
    direction_share: float = _help(
        0.1, "Largest gradient of that penalty beside that of the loss", "ratio", low=0.0, high=1.0
    )
    tokens_per_step: int = _help(512, "Tokens of one optimizer step", "tokens", low=32)
    max_length: int = _help(512, "Longest example; longer answers are cut", "tokens", low=32)
    grad_clip: float = _help(1.0, "Largest gradient norm", "", low=0)
    checkpointing: str = _help(
        "auto",
        "auto, on or off: recompute activations to save memory",
        choices=("auto", "on", "off"),
    )
    micro_batch_tokens: int = _help(0, "Tokens of one forward pass; 0: as the plan says", "tokens")
    eval_every: int = _help(0, "Steps between looks at the quiz loss; 0: ten times a run", "steps")
    checkpoint_every: int = _help(0, "Steps between checkpoints; 0: ten times a run", "steps")
    requantize: bool = _help(
        False, "Choose the layers' bits again after a third and two thirds of the steps"
    )
    stop_early: bool = _help(True, "Keep the best checkpoint when the quiz loss rises")
    seed: int = _help(0, "Seed of everything random", "", low=0)

    def uses(self, part: str) -> bool:
        """Whether a switch is on: ``auto`` means that it belongs to the optimizer ``eduadapt``."""
        value = getattr(self, part)
        return value in ("on", "adaptive") or (value == "auto" and self.optimizer == "eduadapt")


@dataclass(frozen=True)
class QuizConfig:
    """Marks after training."""

    generate: bool = _help(True, "Let both models write answers (ROUGE, BLEU, exact match)")
    max_new_tokens: int = _help(64, "Longest answer in the quiz", "tokens", low=1)
    questions: int = _help(24, "Questions answered in writing", "questions", low=0)


@dataclass(frozen=True)
class DistillConfig:
    """A smaller student that learns from the model of the run, its teacher (method distill)."""

    student: str = _help(
        "layers",
        "What the student begins as: layers (every k-th layer of the teacher), quantized (the same"
        " model in fewer bits), or the id or folder of a smaller model with the same tokenizer",
    )
    every: int = _help(2, "Of the teacher's layers keep every so-many-th, and the first", low=2)
    training: str = _help(
        "auto",
        "full (all weights of the student train), adapter (its weights are stored in few bits and"
        " an adapter trains) or auto (adapter for a quantized student, full for others)",
        choices=("auto", "full", "adapter"),
    )
    student_lr: float = _help(
        3e-4, "Peak learning rate of a student that is trained in full", low=1e-7, high=1.0
    )
    answer_weight: float = _help(0.3, "Weight of the class's own answers (cross-entropy)", low=0)
    output_weight: float = _help(0.5, "Weight of the teacher's probabilities", low=0)
    feature_weight: float = _help(0.1, "Weight of the teacher's hidden states", low=0)
    attention_weight: float = _help(0.1, "Weight of the teacher's attention relations", low=0)
    soft_temperature: float = _help(
        2.0, "Softening of both models' probabilities", low=0.1, high=20.0
    )
    jsd_beta: float = _help(
        0.0,
        "Generalised Jensen-Shannon divergence: 0 is KL(teacher, student), 1 the reverse",
        low=0.0,
        high=1.0,
    )
    layer_map: str = _help(
        "rounding",
        "Layers that are compared: rounding (in proportion) or cka (the monotone map of the most"
        " similar ones, measured on the class's text)",
        choices=("rounding", "cka"),
    )
    relation_heads: int = _help(
        12, "Heads into which queries, keys and values are split to be compared", low=1, high=128
    )
    fade: float = _help(
        0.3,
        "Last part of the steps, in which features and relations fade",
        "share",
        low=0,
        high=1,
    )
    own_share: float = _help(
        0.25,
        "Part of the steps in which the student's own answers count",
        "share",
        low=0,
        high=1,
    )
    own_from: float = _help(
        0.3, "Part of the steps before the student's own answers begin", "share", low=0, high=1
    )
    own_tokens: int = _help(48, "Longest answer of the student's own in training", "tokens", low=1)
    cache_top: int = _help(
        64,
        "Likeliest tokens of the teacher kept on disk for each answer token, the others as one; 0:"
        " the teacher answers anew in every step",
        "tokens",
        low=0,
        high=4096,
    )


@dataclass(frozen=True)
class PairsConfig:
    """Telling whether two questions mean the same (method ``pairs``)."""

    first: str = _help("", "Column with the one question of a pair; empty: recognised")
    second: str = _help("", "Column with the other question; empty: recognised")
    label: str = _help("", "Column that says whether they mean the same; empty: recognised")
    pair_split: str = _help(
        "clusters",
        "clusters (no question of the training occurs in the test) or random",
        choices=("clusters", "random"),
    )
    calibration_share: float = _help(
        0.15, "Part of the pairs on which the threshold is chosen", "share", low=0.02, high=0.4
    )
    test_share: float = _help(
        0.2, "Part of the pairs that is only marked", "share", low=0.02, high=0.5
    )
    alpha: float = _help(16.0, "Scale of the adapter before it is divided by its rank", "", low=0)
    scaling: str = _help(
        "rank-stabilised",
        "rank-stabilised (alpha / square root of the rank) or plain (alpha / rank)",
        choices=("rank-stabilised", "plain"),
    )
    rate_ratio: float = _help(
        16.0, "The rate of V is the learning rate divided by this; U and head have it whole",
        "", low=1, high=1000,
    )  # fmt: skip
    gradient_start: bool = _help(
        True, "V starts along the task's gradient instead of at random; U starts at zero"
    )
    magnitude: bool = _help(False, "Train a magnitude for every output as well (DoRA)")
    dropout: float = _help(
        0.05, "Inputs of the adapter left out in training", "share", low=0, high=0.9
    )
    r_drop: float = _help(
        0.5, "Weight of the agreement of two passes with other dropout; 0: one pass", "", low=0
    )
    class_weights: bool = _help(True, "The rarer label counts as much as the other")


@dataclass(frozen=True)
class PeerConfig:
    """What other libraries train: adapters of PEFT, or all weights."""

    variant: str = _help(
        "none",
        "lora, dora, pissa, loftq, adalora (adapters of PEFT), full (all weights) or none (the"
        " studio's own); set by the method",
        choices=("none", "lora", "dora", "pissa", "loftq", "adalora", "full"),
    )
    stored: str = _help(
        "dense",
        "Frozen weights under an adapter of PEFT: dense (as the studio computes) or nf4 (4 bits,"
        " by bitsandbytes); set by the method",
        choices=("dense", "nf4"),
    )
    alpha_ratio: float = _help(
        2.0, "Of adapters of PEFT: lora_alpha divided by the rank", "ratio", low=0.01, high=100.0
    )


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    model: str = _help("starter", "Id of a base model, or a local folder")
    budget_bytes: int = _help(0, "Hard limit of the training process's memory; 0: none", "bytes")
    method: str = _help("adaq", "Id of the method family")
    name: str = _help("", "A label for people")
    device: str = _help(
        "auto",
        "auto or cpu: train on the processor; cuda: on the GPU (not yet tried on a device)",
        choices=("auto", "cpu", "cuda"),
    )
    data: DataConfig = field(default_factory=DataConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    quiz: QuizConfig = field(default_factory=QuizConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    peer: PeerConfig = field(default_factory=PeerConfig)

    def to_json(self) -> dict[str, Any]:
        """Return the tree as plain dictionaries."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write the tree as JSON."""
        write_whole(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False))

    @staticmethod
    def from_json(tree: dict[str, Any]) -> RunConfig:
        """Build and check a configuration.

        Raises:
            ConfigError: names the field that is unknown, of the wrong type or out of range.
        """
        config: RunConfig = _build(RunConfig, tree, "")
        return config

    @staticmethod
    def load(path: Path) -> RunConfig:
        """Read a configuration written by :meth:`save`.

        Raises:
            ConfigError: if the file is no JSON object or a field is wrong.
        """
        try:
            tree = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "The configuration file could not be read.",
                where=path.name,
                action="Choose a config.json that the studio has written.",
                code="config.unreadable",
            ) from error
        return RunConfig.from_json(tree)


def _build(cls: type[Any], tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(
            "A group of settings must be an object.", where=prefix or "config", code="config.type"
        )
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(
                f"There is no setting {where!r}.",
                where=where,
                action=f"Known here: {', '.join(known)}.",
                code="config.unknown",
            )
        kind = hints[key]
        values[key] = (
            _build(cast(type[Any], kind), value, f"{where}.")
            if is_dataclass(kind)
            else _checked(kind, value, where, known[key].metadata)
        )
    return cls(**values)


def _checked(kind: Any, value: Any, where: str, meta: Any) -> Any:
    good = isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value, good = float(value), True
    if not good:
        raise ConfigError(
            f"{where} should be {kind.__name__}, not {value!r}."[:200],
            where=where,
            action=meta.get("help", ""),
            code="config.type",
        )
    low, high = meta.get("low"), meta.get("high")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(
            f"{where} = {value} is out of range.",
            where=where,
            action=f"Choose between {low} and {high if high is not None else 'any larger value'}.",
            code="config.range",
        )
    choices = meta.get("choices")
    if choices and value not in choices:
        raise ConfigError(
            f"{where} cannot be {value!r}."[:200],
            where=where,
            action=f"Choose {', '.join(choices[:-1])} or {choices[-1]}.",
            code="config.choice",
        )
    return value
