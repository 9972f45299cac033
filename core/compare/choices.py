"""What can be compared on one class: methods, and methods with exactly one setting changed.

Exactly one, so that a difference has one cause. Which settings are offered depends on the method:
what it fixes, or does not use, would change nothing. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.config import DIRECTIONS, FOR_ADAPTERS, OPTIMIZERS, RunConfig, TrainConfig
from core.errors import ConfigError
from core.methods import METHODS, Method, composed, method

LEAST, MOST, MOST_SEEDS = 2, 6, 3
DISTILL = "distill"
# Parts of a step that are "auto" unless set: two words for the same are no variant.
_SWITCHES = ("clip", "cautious", "plateau", "recover", "balanced_decay")


@dataclass(frozen=True)
class Choice:
    """A method, and at most one setting of it that is changed."""

    method: str
    setting: str = ""
    value: Any = None


@dataclass(frozen=True)
class Setting:
    """A setting that can be varied: its dotted path, values to offer, where it has an effect."""

    path: str
    values: tuple[Any, ...]
    works: Callable[[RunConfig], bool] = lambda config: True


def _whole(config: RunConfig) -> bool:
    """Whether a student is trained in all its weights, with an optimizer of its own."""
    d = config.distill
    own = d.training == "full" or (d.training == "auto" and d.student != "quantized")
    return config.method == DISTILL and own


def _factors(config: RunConfig) -> bool:
    return config.adapter.parametrisation == "triplets" and not _whole(config)


def _singular(config: RunConfig) -> bool:
    return config.adapter.parametrisation == "svd"


def _affine(config: RunConfig) -> bool:
    return config.quant.scheme == "affine" and not _whole(config)


def _planned(config: RunConfig) -> bool:
    return _affine(config) and config.quant.bits == 0 and config.method != DISTILL


def _eduadapt(config: RunConfig) -> bool:
    return config.train.optimizer == "eduadapt" and not _whole(config)


def _distilled(config: RunConfig) -> bool:
    return config.method == DISTILL


SETTINGS: tuple[Setting, ...] = (
    Setting("adapter.rank", (2, 4, 8, 16, 32), _factors),
    Setting("quant.bits", (0, 2, 3, 4, 8, 16), _affine),
    Setting("quant.importance", ("loss", "activation", "frobenius", "spectrum"), _planned),
    Setting("adapter.start", ("error", "zero"), _factors),
    Setting("adapter.uniform", (True, False), _factors),
    Setting("adapter.dynamic", (True, False), _factors),
    Setting("train.requantize", (True, False), lambda c: _planned(c) and _factors(c)),
    Setting("train.optimizer", OPTIMIZERS, lambda c: not _whole(c)),
    Setting("train.lr", (3e-4, 1e-3, 3e-3), lambda c: not _whole(c)),
    Setting("train.direction", DIRECTIONS, _factors),
    Setting("train.balanced_decay", ("on", "off"), _factors),
    Setting("train.cautious", ("on", "off"), _eduadapt),
    Setting("train.clip", ("adaptive", "fixed"), _eduadapt),
    Setting("train.plateau", ("on", "off"), _eduadapt),
    Setting("adapter.directions", (64, 128, 256, 512), _singular),
    Setting("adapter.diagonal", ("log", "additive"), _singular),
    Setting("train.diagonal_lr", (1e-3, 5e-3, 1e-2), _singular),
    Setting("distill.student", ("layers", "quantized"), _distilled),
    Setting("distill.every", (2, 3, 4), lambda c: c.method == DISTILL and _whole(c)),
    Setting("distill.output_weight", (0.5, 0.0), _distilled),
    Setting("distill.feature_weight", (0.1, 0.0), _distilled),
    Setting("distill.attention_weight", (0.1, 0.0), _distilled),
    Setting("distill.own_share", (0.25, 0.0), _distilled),
)

# What an ablation leaves out, one part at a time: a method's own parts before those it shares.
PARTS: tuple[tuple[str, Any], ...] = (
    ("train.cautious", "off"),
    ("train.clip", "fixed"),
    ("train.plateau", "off"),
    ("train.balanced_decay", "off"),
    ("distill.output_weight", 0.0),
    ("distill.feature_weight", 0.0),
    ("distill.attention_weight", 0.0),
    ("distill.own_share", 0.0),
    ("adapter.start", "zero"),
    ("adapter.uniform", True),
    ("adapter.dynamic", False),
    ("quant.importance", "frobenius"),
)


def candidates() -> list[Method]:
    """Return the methods that learn a class of questions and answers."""
    return [known for known in METHODS if "class data" in known.needs]


def offered(base: RunConfig, method_id: str) -> dict[str, list[Any]]:
    """Return the settings of a method that change something, with the values that do.

    Args:
        base: the other settings.
        method_id: one of :func:`candidates`.

    Raises:
        ConfigError: the method is unknown, or cannot be used with ``base``.
    """
    plain = composed(_with(base, Choice(method_id)))
    found: dict[str, list[Any]] = {}
    for setting in SETTINGS:
        if not setting.works(plain) or setting.path in _fixed(method_id):
            continue
        values = [v for v in setting.values if _changes(base, Choice(method_id, setting.path, v))]
        if values:
            found[setting.path] = values
    return found


def ablation(base: RunConfig, method_id: str) -> list[Choice]:
    """Return a method, and the method with one part off, as many as can be compared at once.

    Only the method itself if it has no such part.

    Raises:
        ConfigError: the method is unknown, or cannot be used with ``base``.
    """
    known = offered(base, method_id)
    off = [Choice(method_id, path, v) for path, v in PARTS if v in known.get(path, ())]
    return [Choice(method_id), *off][:MOST]


def runs_of(base: RunConfig, choices: Sequence[Choice], seeds: int) -> list[tuple[int, RunConfig]]:
    """Return the runs of a comparison in the order in which they should be done.

    All choices with one seed, then all with the next: what is comparable comes early.

    Args:
        base: class, model, limit and whatever is the same for all.
        choices: two to six.
        seeds: 1 to 3; counted up from the seed of ``base``.

    Returns:
        The place of the choice and the settings of the run.

    Raises:
        ConfigError: too few or too many, one twice, or one that cannot be.
    """
    if not LEAST <= len(choices) <= MOST:
        raise ConfigError(
            f"A comparison has {LEAST} to {MOST} methods or settings, not {len(choices)}.",
            action="Add or remove some.",
            code="compare.number",
        )
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(
            f"A comparison has 1 to {MOST_SEEDS} seeds, not {seeds}.",
            action="Choose another number of seeds.",
            code="compare.seeds",
        )
    configs = [_checked(base, choice) for choice in choices]
    seen = [_effective(config) for config in configs]
    for place, effect in enumerate(seen):
        if effect in seen[:place]:
            raise ConfigError(
                "Two of these would be the very same run.",
                where=f"row {place + 1}",
                action="Change its method or its setting, or remove it.",
                code="compare.same",
            )
    first = base.train.seed
    return [
        (place, replace(config, train=replace(config.train, seed=first + k)))
        for k in range(seeds)
        for place, config in enumerate(configs)
    ]


def _checked(base: RunConfig, choice: Choice) -> RunConfig:
    """The settings of a choice, if it changes what it says.

    Raises:
        ConfigError: the method does not learn a class, or the setting changes nothing in it.
    """
    if choice.method not in [known.id for known in candidates()]:
        method(choice.method)  # says so if there is none of that id
        raise ConfigError(
            f"Method {choice.method} does not learn a class of questions and answers.",
            where="method",
            action="Choose another method.",
            code="compare.method",
        )
    config = _with(base, choice) if _offers(base, choice) else None
    if config is None or not (choice.setting == "" or _changes(base, choice)):
        raise ConfigError(
            f"{choice.setting} = {choice.value} changes nothing in method {choice.method}.",
            where="setting",
            action="Choose another setting or value.",
            code="compare.setting",
        )
    composed(config)
    return config


def _offers(base: RunConfig, choice: Choice) -> bool:
    return choice.setting == "" or choice.setting in offered(base, choice.method)


def _with(base: RunConfig, choice: Choice) -> RunConfig:
    """The settings of a choice as a run takes them.

    Raises:
        ConfigError: the value is of the wrong type or out of range.
    """
    tree = replace(base, method=choice.method).to_json()
    if choice.setting:
        group, _, name = choice.setting.rpartition(".")
        (tree[group] if group else tree)[name] = choice.value
    config = RunConfig.from_json(tree)
    if choice.method == DISTILL:  # holds teacher and student, and keeps to no limit
        config = replace(config, budget_bytes=0)
    if _whole(config):
        usual = TrainConfig()
        own = {part: getattr(usual, part) for part in FOR_ADAPTERS}
        config = replace(config, train=replace(config.train, **own))
    return config


def _fixed(method_id: str) -> frozenset[str]:
    return frozenset(path for path, _ in method(method_id).settings)


def _changes(base: RunConfig, choice: Choice) -> bool:
    """Whether a setting makes another run of the method; a value that it refuses does not."""
    try:
        return _effective(_with(base, choice)) != _effective(_with(base, Choice(choice.method)))
    except ConfigError:
        return False


def _effective(config: RunConfig) -> dict[str, Any]:
    """What a run does: composed, and with ``auto`` resolved where it means on or off."""
    config = composed(config)
    tree = config.to_json()
    tree["train"] |= {part: config.train.uses(part) for part in _SWITCHES}
    del tree["name"]
    return tree
