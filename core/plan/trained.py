"""Bytes of a trained number: itself, its gradient, and what the settings keep beside them.

The plan allots these before a tensor exists; that they are what the optimizers really keep is
tested for each (tests/train/test_optimizers.py).
"""

from __future__ import annotations

from core.config import MB, TrainConfig

# Numbers that an optimizer keeps for each trained one, all of four bytes.
MOMENTS = {
    "sgd": 0,
    "momentum": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "lion": 1,
    "adam": 2,
    "adamw": 2,
    "eduadapt": 2,
    "schedulefree": 2,
    "prodigy": 4,
}
# Numbers that a penalty on directions keeps: the start, and an earlier state (core/objectives).
PENALTY = {"off": 0, "anchor": 1, "trajectory": 2}
# What importing an optimizer's package adds to the process: measured 45 to 48 MB.
IMPORTED = {"lion": 52 * MB}


def moments(train: TrainConfig) -> int:
    """Numbers that the optimizer keeps for each trained one."""
    return MOMENTS[train.optimizer]


def trained_bytes(train: TrainConfig) -> int:
    """Bytes of a trained number at the moment of a step when most is held."""
    # The gradient of a penalty, and later the copy that a decay is measured from: not both at once.
    passing = train.direction != "off" or train.uses("balanced_decay")
    return 4 * (2 + moments(train) + PENALTY[train.direction] + passing)


def imported_bytes(train: TrainConfig) -> int:
    """Bytes by which the optimizer's package makes the process larger."""
    return IMPORTED.get(train.optimizer, 0)
