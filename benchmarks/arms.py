"""What is compared: methods with their settings, and the tables of the method families.

An arm is a row of ``core/methods.py``, perhaps with further settings. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from benchmarks.settings import PAIR_PEERS
from core.config import OPTIMIZERS, RunConfig
from core.errors import ConfigError
from core.methods import METHODS

BEFORE = "before"
ANSWERS_ALONE = {
    "distill.answer_weight": 1.0,
    "distill.output_weight": 0.0,
    "distill.feature_weight": 0.0,
    "distill.attention_weight": 0.0,
    "distill.own_share": 0.0,
}
PLAIN_PAIRS = {
    "pairs.scaling": "plain",
    "pairs.rate_ratio": 1.0,
    "pairs.gradient_start": False,
    "pairs.dropout": 0.0,
    "pairs.r_drop": 0.0,
}
# Where the grids of the peers begin; those of ours begin at their defaults.
PEER_RATES = {"full-head": 5e-5, "lora-head": 1e-3, "adalora-head": 5e-3, "svd-head": 1e-3}


@dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Attributes:
        name: for tables and folders.
        method: id of a method family, or one of :data:`PAIR_PEERS`.
        settings: beside what the method fixes, by dotted field of the configuration.
        note: one phrase for the table.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def reads_pairs(self) -> bool:
        """Whether it reads two texts and gives a label, on decoders and encoders alike."""
        return self.method == "pairs" or self.method in PAIR_PEERS

    def rates(self) -> dict[str, float]:
        """Its peak learning rates before the grid's factor, by dotted field.

        Every rate of the configuration, as the method's row and the arm's settings have it: the
        grid moves all of them together, so that their ratios stay the method's own.
        """
        if self.method in PEER_RATES:
            return {"train.lr": PEER_RATES[self.method]}
        fixed = next((dict(m.settings) for m in METHODS if m.id == self.method), {})
        return {**_default_rates(), **_rates_in(fixed), **_rates_in(self.settings)}


def _is_rate(dotted: str) -> bool:
    name = dotted.rpartition(".")[2]
    return name == "lr" or name.endswith("_lr")


def _rates_in(settings: dict[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in settings.items() if _is_rate(k)}


def _default_rates() -> dict[str, float]:
    defaults = RunConfig()
    return {
        f"{group.name}.{one.name}": getattr(getattr(defaults, group.name), one.name)
        for group in fields(defaults)
        if hasattr(getattr(defaults, group.name), "__dataclass_fields__")
        for one in fields(getattr(defaults, group.name))
        if _is_rate(one.name)
    }


def _all() -> dict[str, Arm]:
    more = [
        Arm("lora-r1", "lora", {"adapter.rank": 1}, "LoRA of rank 1"),
        Arm("svd-additive", "svd", {"adapter.diagonal": "additive"}, "SVD, singular values plus d"),
        Arm("lora+anchor", "lora", {"train.direction": "anchor"}, "LoRA, direction penalty"),
        Arm("lora+decay", "lora", {"train.balanced_decay": "on"}, "LoRA, balanced decay"),
        Arm(
            "lora+anchor+decay",
            "lora",
            {"train.direction": "anchor", "train.balanced_decay": "on"},
            "LoRA, direction penalty and balanced decay",
        ),
        *(
            Arm(f"lora/{name}", "lora", {"train.optimizer": name}, f"LoRA, optimizer {name}")
            for name in OPTIMIZERS
        ),
        Arm("pairs-plain", "pairs", PLAIN_PAIRS, "method pairs with every improvement off"),
        Arm("full-head", "full-head", note="all weights and a head; torch"),
        Arm("lora-head", "lora-head", note="LoRA of PEFT and a head"),
        Arm("lora-r1-head", "lora-head", {"adapter.rank": 1}, "LoRA of PEFT, rank 1, and a head"),
        Arm("adalora-head", "adalora-head", note="AdaLoRA of PEFT and a head"),
        Arm("svd-head", "svd-head", note="singular values and row scales, and a head"),
        Arm("distill-answers", "distill", ANSWERS_ALONE, "the same student, answers alone"),
    ]
    return {arm.name: arm for arm in [*(Arm(m.id, m.id, note=m.title) for m in METHODS), *more]}


ARMS: dict[str, Arm] = _all()


@dataclass(frozen=True)
class Table:
    """The comparison that a method family owes.

    Attributes:
        title: of the file.
        arms: names; those that :data:`ARMS` lacks are left out with a sentence.
        suites: on which.
        against: the arm that differences are taken to.
        factors: of each arm's learning rates, tried on the slice that is held out of training.
        main: the mark that is compared; empty: the suite's own.
        looks: how many looks at the held-out loss a run takes; 0: at its ends.
    """

    title: str
    arms: tuple[str, ...]
    suites: tuple[str, ...]
    against: str = "lora"
    factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    main: str = ""
    looks: int = 0


FIVE = (0.1, 0.3, 1.0, 3.0, 10.0)
TABLES: dict[str, Table] = {
    "s2": Table(
        "Singular values against LoRA",
        ("lora", "lora-r1", "svd", "svd-additive"),
        ("sst2", "cola", "mrpc", "rte", "e2e"),
    ),
    "s2-heads": Table(
        "Singular values against LoRA, with a head",
        ("lora-head", "lora-r1-head", "svd-head"),
        ("sst2", "mrpc", "qqp-clusters", "rte"),
        against="lora-head",
    ),
    "s3": Table(
        "Direction penalty and balanced decay against AdamW alone",
        ("lora", "lora+anchor", "lora+decay", "lora+anchor+decay"),
        ("alpaca", "gsm8k"),
        factors=FIVE,
        main="nll",
        looks=20,
    ),
    "s4": Table(
        "Same question? against full tuning, LoRA and AdaLoRA",
        (
            "pairs",
            "pairs-plain",
            "full-head",
            "lora-head",
            "adalora-head",
            "full",
            "lora",
            "adalora",
        ),
        ("qqp", "qqp-clusters"),
        against="lora-head",
    ),
    "s5": Table(
        "Distillation against the answers alone",
        ("distill", "distill-answers"),
        ("e2e", "alpaca"),
        against="distill-answers",
        main="perplexity",
    ),
    "s6": Table(
        "Ten optimizers",
        tuple(f"lora/{name}" for name in OPTIMIZERS),
        ("squad", "sst2", "alpaca"),
        against="lora/adamw",
        factors=FIVE,
    ),
}


def known(names: Iterable[str]) -> tuple[list[Arm], list[str]]:
    """The arms of these names that there are, and the names that there are not."""
    listed = list(names)
    return [ARMS[n] for n in listed if n in ARMS], [n for n in listed if n not in ARMS]


def chosen(names: Iterable[str]) -> list[Arm]:
    """The arms that a person asked for.

    Raises:
        ConfigError: if one is unknown.
    """
    found, unknown = known(names)
    if unknown:
        raise ConfigError(
            f"There is nothing called {', '.join(unknown)} to compare.",
            where="--methods",
            action=f"Choose of: {', '.join(ARMS)}.",
        )
    return found
