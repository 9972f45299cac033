"""What can be compared on one class: methods, and methods with exactly one setting changed.

Exactly one, so that a difference has one cause. Which settings are offered depends on the method:
what it fixes, or does not use, would change nothing. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from core.config import DIRECTIONS, OPTIMIZERS, OWN_RULE, RunConfig, TrainConfig
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


def _elsewhere(config: RunConfig) -> str:
    """What another library trains, or empty: such methods have few settings of ours."""
    variant = str(config.to_json().get("peer", {}).get("variant", "none"))
    return "" if variant == "none" else variant


def _fixed_rule(config: RunConfig) -> bool:
    """Whether it trains with AdamW and none of the parts that adapters can have."""
    return _whole(config) or bool(_elsewhere(config))


def _factors(config: RunConfig) -> bool:
    return config.adapter.parametrisation == "triplets" and not _fixed_rule(config)


def _ranked(config: RunConfig) -> bool:
    return _factors(config) or _elsewhere(config) not in ("", "full")


def _singular(config: RunConfig) -> bool:
    return config.adapter.parametrisation == "svd"


def _affine(config: RunConfig) -> bool:
    return config.quant.scheme == "affine" and not _fixed_rule(config)


def _planned(config: RunConfig) -> bool:
    return _affine(config) and config.quant.bits == 0 and config.method != DISTILL


def _eduadapt(config: RunConfig) -> bool:
    return config.train.optimizer == "eduadapt" and not _fixed_rule(config)


def _distilled(config: RunConfig) -> bool:
    return config.method == DISTILL


SETTINGS: tuple[Setting, ...] = (
    Setting("adapter.rank", (2, 4, 8, 16, 32), _ranked),
    Setting("quant.bits", (0, 2, 3, 4, 8, 16), _affine),
    Setting("quant.importance", ("loss", "activation", "frobenius", "spectrum"), _planned),
    Setting("adapter.start", ("error", "zero"), _factors),
    Setting("adapter.uniform", (True, False), _factors),
    Setting("adapter.dynamic", (True, False), _factors),
    Setting("train.requantize", (True, False), lambda c: _planned(c) and _factors(c)),
    Setting("train.optimizer", OPTIMIZERS, lambda c: not _fixed_rule(c)),
    Setting("train.lr", (3e-4, 1e-3, 3e-3), lambda c: not _whole(c)),
    Setting("train.direction", DIRECTIONS),
    Setting("train.balanced_decay", ("on", "off")),
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
    return {path: list(values) for path, values in _offered(base, method_id).items()}


@lru_cache(maxsize=64)  # a page asks for all methods, and again at every start
def _offered(base: RunConfig, method_id: str) -> dict[str, tuple[Any, ...]]:
    plain = _with(base, Choice(method_id))
    effect, works = _effective(plain), composed(plain)
    found: dict[str, tuple[Any, ...]] = {}
    for setting in SETTINGS:
        if setting.path in _fixed(method_id) or not setting.works(works):
            continue
        tried = [(v, _effect_of(base, Choice(method_id, setting.path, v))) for v in setting.values]
        if values := tuple(v for v, other in tried if other not in (None, effect)):
            found[setting.path] = values
    return found


def ablation(base: RunConfig, method_id: str) -> list[Choice]:
    """Return a method, and the method with one part off, as many as can be compared at once.

    Only the method itself if it has no such part.

    Raises:
        ConfigError: the method is unknown, or cannot be used with ``base``.
    """
    known = _offered(base, method_id)
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
    if choice.setting and choice.setting not in _offered(base, choice.method):
        raise _without_effect(choice)
    config = RunConfig.from_json(_with(base, choice).to_json())  # checks the value
    if choice.setting and _effective(config) == _effective(_with(base, Choice(choice.method))):
        raise _without_effect(choice)
    composed(config)
    return config


def _without_effect(choice: Choice) -> ConfigError:
    return ConfigError(
        f"{choice.setting} = {choice.value} changes nothing in method {choice.method}.",
        where="setting",
        action="Choose another setting or value.",
        code="compare.setting",
    )


def _with(base: RunConfig, choice: Choice) -> RunConfig:
    """The settings of a choice as a run takes them; the value is not checked."""
    config = replace(base, method=choice.method)
    if choice.setting:
        group, _, name = choice.setting.partition(".")
        changed = replace(getattr(config, group), **{name: choice.value})
        config = replace(config, **{group: changed})
    if choice.method == DISTILL:  # holds teacher and student, and keeps to no limit
        config = replace(config, budget_bytes=0)
    if _fixed_rule(_filled(config)):
        usual = TrainConfig()
        own = {part: getattr(usual, part) for part in OWN_RULE}
        config = replace(config, train=replace(config.train, **own))
    return config


def _fixed(method_id: str) -> frozenset[str]:
    return frozenset(path for path, _ in method(method_id).settings)


def _filled(config: RunConfig) -> RunConfig:
    """The configuration with what its method fixes, whether or not it can be used."""
    for path, value in method(config.method).settings:
        group, _, name = path.partition(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
    return config


def _effect_of(base: RunConfig, choice: Choice) -> dict[str, Any] | None:
    """What a choice does; ``None`` if its method refuses it."""
    try:
        return _effective(_with(base, choice))
    except ConfigError:
        return None


def _effective(config: RunConfig) -> dict[str, Any]:
    """What a run does: composed, and with ``auto`` resolved where it means on or off."""
    config = composed(config)
    tree = config.to_json()
    tree["train"] |= {part: config.train.uses(part) for part in _SWITCHES}
    del tree["name"]
    return tree
