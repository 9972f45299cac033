"""What makes a step of a gradient: a table of optimizers, and one way to keep their state.

All but the cautious mask of :class:`EduAdapt` are well-kept implementations of others. Whatever an
optimizer remembers of a parameter follows it: into checkpoints and back, through compaction of
triplets, and through the change of a layer's bits.

Every optimizer takes ``train.lr`` times a factor of its own, so that one setting, and one range to
search in, means the same for all: the factor turns the usual rate of AdamW for adapters (1e-3) into
the usual one of that optimizer.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from core.config import OWN_RULE, TrainConfig
from core.errors import ConfigError
from core.layers.lora import AdapterLinear

DIAGONAL = "d"  # role of singular values, which have a rate of their own
LONG = 2000  # steps from which on second moments are remembered for longer

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Values:
    """What an optimizer is made with: peak rate, decay, memory of the second moment, mask."""

    lr: float
    decay: float
    beta2: float
    cautious: bool


@dataclass(frozen=True)
class Rule:
    """An optimizer that can be chosen.

    Attributes:
        title: for people.
        source: where it was published.
        make: makes it of parameter groups.
        factor: of ``train.lr``.
        schedule: what ``train.schedule`` = auto means.
        package: what has to be installed beside PyTorch.
        spoils: whether its step writes over the gradients.
    """

    title: str
    source: str
    make: Callable[[Groups, Values], Optimizer]
    factor: float = 1.0
    schedule: str = "cosine"
    package: str = ""
    spoils: bool = False


class EduAdapt(AdamW):
    """AdamW that leaves out the parts of a step that go against the present gradient.

    u = m / (sqrt(v) + eps) as in AdamW, phi = 1 where u g > 0, and the step is
    u phi d / (sum phi + 1), d the number of elements of the parameter (after Liang et al. 2024,
    arXiv 2411.16085). Elements without a gradient, as those of masked triplets, do not count in d:
    nothing that rests may make the others faster (our interpretation). Without ``cautious`` it is
    AdamW of PyTorch, exactly.

    Attributes:
        agreed: of the elements that had a gradient in the last step, the share that moved.
    """

    def __init__(self, params: Any, *, cautious: bool = True, **others: Any) -> None:
        """Take what ``torch.optim.AdamW`` takes."""
        super().__init__(params, **others)
        self.cautious = cautious
        self.agreed = 1.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step; ``closure`` as in PyTorch, where the mask is off."""
        if not self.cautious:
            return super().step(closure)
        counts = [
            self._masked(p, group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.numel()
        ]
        agreed, told = torch.stack(counts).sum(0).tolist() if counts else (1, 1)
        self.agreed = agreed / max(1, told)
        return None

    def _masked(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Move one parameter; returns how many elements agreed, of how many with a gradient."""
        state, g = self.state[p], p.grad
        assert g is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        t = float(state["step"])
        m, v = state["exp_avg"].lerp_(g, 1 - beta1), state["exp_avg_sq"]
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        u = v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(group["eps"])
        torch.div(m, u, out=u)
        agrees = u * g > 0
        counts = torch.stack([agrees.sum(), g.count_nonzero()])
        u.mul_(agrees).mul_(counts[1] / (counts[0] + 1) / (1 - beta1**t))
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])
        return counts


class LateAdagrad(Adagrad):
    """Adagrad whose sums begin with a parameter's first step.

    PyTorch makes them with the optimizer, so that it would refuse parameters that come in later, as
    those of a layer do whose bits have changed.
    """

    def __init__(self, params: Any, **others: Any) -> None:
        """Take what ``torch.optim.Adagrad`` takes."""
        super().__init__(params, **others)
        self.state.clear()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not self.state[p]:
                    self.state[p].update(step=torch.zeros(()), sum=torch.zeros_like(p))
        return super().step(closure)


def _adamw(groups: Groups, v: Values) -> Optimizer:
    if v.cautious:
        return _eduadapt(groups, v)
    return AdamW(groups, lr=v.lr, betas=(0.9, v.beta2), weight_decay=v.decay, fused=True)


def _eduadapt(groups: Groups, v: Values) -> Optimizer:
    others = {"lr": v.lr, "betas": (0.9, v.beta2), "weight_decay": v.decay}
    return EduAdapt(groups, cautious=v.cautious, fused=True, **others)


def _adam(groups: Groups, v: Values) -> Optimizer:
    return Adam(groups, lr=v.lr, betas=(0.9, v.beta2), weight_decay=v.decay, fused=True)


def _sgd(groups: Groups, v: Values) -> Optimizer:
    return SGD(groups, lr=v.lr, weight_decay=v.decay)


def _momentum(groups: Groups, v: Values) -> Optimizer:
    return SGD(groups, lr=v.lr, momentum=0.9, weight_decay=v.decay)


def _adagrad(groups: Groups, v: Values) -> Optimizer:
    return LateAdagrad(groups, lr=v.lr, weight_decay=v.decay)


def _rmsprop(groups: Groups, v: Values) -> Optimizer:
    return RMSprop(groups, lr=v.lr, alpha=v.beta2, weight_decay=v.decay)


def _lion(groups: Groups, v: Values) -> Optimizer:
    lion = _imported("bitsandbytes.optim").Lion
    made: Optimizer = lion(groups, lr=v.lr, betas=(0.9, 0.99), weight_decay=v.decay)
    return made


def _schedulefree(groups: Groups, v: Values) -> Optimizer:
    kind = _imported("schedulefree").AdamWScheduleFree
    made: Any = kind(groups, lr=v.lr, betas=(0.9, v.beta2), weight_decay=v.decay)
    made.train()
    return made  # type: ignore[no-any-return]


def _prodigy(groups: Groups, v: Values) -> Optimizer:
    kind = _imported("prodigyopt").Prodigy
    options = {"use_bias_correction": True, "safeguard_warmup": True}  # as advised with a warm-up
    made: Optimizer = kind(groups, lr=v.lr, betas=(0.9, v.beta2), weight_decay=v.decay, **options)
    return made


RULES: dict[str, Rule] = {
    "adamw": Rule("AdamW", "Loshchilov and Hutter 2019, arXiv 1711.05101; PyTorch", _adamw),
    "adam": Rule("Adam", "Kingma and Ba 2015, arXiv 1412.6980; PyTorch", _adam),
    "sgd": Rule("SGD", "Robbins and Monro 1951; PyTorch", _sgd, 1000.0),
    "momentum": Rule("SGD with momentum 0.9", "Polyak 1964; PyTorch", _momentum, 100.0),
    "adagrad": Rule("AdaGrad", "Duchi et al. 2011; PyTorch", _adagrad, 10.0),
    "rmsprop": Rule("RMSProp", "Tieleman and Hinton 2012; PyTorch", _rmsprop),
    "lion": Rule(
        "Lion",
        "Chen et al. 2023, arXiv 2302.06675; bitsandbytes",
        _lion,
        0.3,  # "3 to 10 times smaller" than that of AdamW
        package="bitsandbytes",
    ),
    "schedulefree": Rule(
        "Schedule-Free AdamW",
        "Defazio et al. 2024, arXiv 2405.15682; schedulefree",
        _schedulefree,
        2.5,
        schedule="constant",
        package="schedulefree",
        spoils=True,
    ),
    "prodigy": Rule(
        "Prodigy",
        "Mishchenko and Defazio 2024, arXiv 2306.06101; prodigyopt",
        _prodigy,
        1000.0,
        package="prodigyopt",
    ),
    "eduadapt": Rule(
        "EduAdapt",
        "inspired by arXiv 2412.04718 (abstract); our interpretation",
        _eduadapt,
        schedule="late",
    ),
}


def check(config: TrainConfig) -> None:
    """Say at once what cannot work, before a model is loaded.

    Raises:
        ConfigError: a package is missing, or two settings contradict each other.
    """
    rule = RULES[config.optimizer]
    if rule.package:
        _imported(rule.package, load=False)
    if config.cautious == "on" and config.optimizer not in ("adamw", "eduadapt"):
        raise ConfigError(
            f"The cautious mask is not made for {rule.title}.",
            where="train.cautious",
            action="Choose the optimizer adamw or eduadapt, or leave the mask off.",
            code="train.cautious",
        )
    _one_decay(config)


def _one_decay(config: TrainConfig) -> None:
    if config.uses("balanced_decay") and config.weight_decay:
        raise ConfigError(
            "Balanced decay and a fixed weight decay were both asked for.",
            where="train.weight_decay",
            action="Set the weight decay to 0, or turn balanced decay off.",
            code="train.two_decays",
        )


def must_be_plain(train: TrainConfig, who: str) -> None:
    """Say what cannot be had where an AdamW of its own trains.

    Args:
        train: the settings.
        who: begins the sentence.

    Raises:
        ConfigError: for another optimizer, or parts of one; or for two decays at once.
    """
    plain = {"optimizer": "adamw", "clip": "fixed"}
    for part in OWN_RULE:
        if getattr(train, part) not in ("auto", plain.get(part, "off")):
            raise ConfigError(
                f"{who} trains with AdamW, with a fixed clip and without going back.",
                where=f"train.{part}",
                action="Leave this setting as it is, or choose another method.",
                code="config.own_optimizer",
            )
    _one_decay(train)


def _imported(name: str, *, load: bool = True) -> Any:
    """A package that an optimizer comes from; with ``load`` off only looked for.

    Raises:
        ConfigError: if it is not installed.
    """
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"This optimizer comes with the package {package}, which is not installed.",
            where="train.optimizer",
            action=f"Choose another optimizer, or install it: pip install {package}.",
            code="train.package",
        )
    return importlib.import_module(name) if load else None


def make_optimizer(
    layers: Mapping[str, AdapterLinear], config: TrainConfig, steps: int = 0
) -> Optimizer:
    """The optimizer of a run over all that trains, in one group for each role (U, s, V; d, c).

    ``share`` of a group is its part of the schedule's rate: singular values have one of their own.

    Args:
        layers: adapted layers by name.
        config: the settings.
        steps: optimizer steps of the whole run; short ones forget second moments sooner.

    Raises:
        ConfigError: as :func:`check`.
    """
    check(config)
    rule = RULES[config.optimizer]
    groups: Groups = [
        {
            "params": [p for x in layers.values() for key, p in _trained(x) if key == role],
            "role": role,
            "share": config.diagonal_lr / config.lr if role == DIAGONAL else 1.0,
        }
        for role in dict.fromkeys(key for x in layers.values() for key in x.TRAINED)
    ]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.numel()]
    long = config.optimizer == "eduadapt" and steps >= LONG
    values = Values(
        config.lr * rule.factor,
        config.weight_decay,
        0.999 if long else 0.99,
        config.uses("cautious"),
    )
    return rule.make([g for g in groups if g["params"]] or groups[:1], values)


def _trained(layer: AdapterLinear) -> Iterator[tuple[str, Tensor]]:
    """What a layer trains, by role."""
    return zip(layer.TRAINED, layer.trained, strict=True)


# --- state --------------------------------------------------------------------------------------

# Kept as they are when a triplet's moments are stilled: where it began, and Prodigy's distance.
_NO_MOMENT = {"step", "p0", "s"}


def optimizer_tensors(
    optimizer: Optimizer, layers: Mapping[str, AdapterLinear]
) -> dict[str, Tensor]:
    """State tensors by parameter name, for a checkpoint."""
    return {
        f"optim.{name}.{role}.{key}": value
        for name, role, state in _states(optimizer, layers)
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(
    optimizer: Optimizer, layers: Mapping[str, AdapterLinear]
) -> dict[str, dict[str, Any]]:
    """State that is no tensor, by parameter name, and that of each group; JSON-serialisable."""
    out = {
        f"{name}.{role}": {k: v for k, v in state.items() if isinstance(v, (int, float))}
        for name, role, state in _states(optimizer, layers)
    }
    for k, group in enumerate(optimizer.param_groups):
        out[f"group {k}"] = {x: v for x, v in group.items() if isinstance(v, (int, float))}
    return {name: numbers for name, numbers in out.items() if numbers}


def _states(
    optimizer: Optimizer, layers: Mapping[str, AdapterLinear]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, layer in layers.items():
        for role, p in _trained(layer):
            yield name, role, optimizer.state.get(p, {})


def state_of(optimizer: Optimizer, p: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimizer remembers of a parameter: tensors, and numbers."""
    state = optimizer.state.get(p, {})
    return (
        {k: v for k, v in state.items() if isinstance(v, Tensor)},
        {k: v for k, v in state.items() if isinstance(v, (int, float))},
    )


def restore_optimizer(
    optimizer: Optimizer,
    layers: Mapping[str, AdapterLinear],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Take the state back that a checkpoint holds; what it does not hold begins anew."""
    numbers = numbers or {}
    optimizer.state.clear()
    found: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            name, _, entry = key.removeprefix("optim.").rpartition(".")
            found.setdefault(name, {})[entry] = value
    for name, layer in layers.items():
        for role, p in _trained(layer):
            own = f"{name}.{role}"
            state = {k: t.to(p.device) for k, t in found.get(own, {}).items()}
            state |= numbers.get(own, {})
            if state:
                optimizer.state[p] = state
    for k, group in enumerate(optimizer.param_groups):
        group.update(numbers.get(f"group {k}", {}))


def swap_parameter(optimizer: Optimizer, before: Tensor, after: Tensor) -> None:
    """Let the optimizer train ``after`` instead of ``before``; its state is not touched."""
    for group in optimizer.param_groups:
        group["params"] = [after if p is before else p for p in group["params"]]


def replace_parameter(
    optimizer: Optimizer, before: Tensor, after: Tensor, index: Tensor, dim: int
) -> None:
    """Put ``after`` in the place of ``before``, its state cut to ``index`` along ``dim``."""
    swap_parameter(optimizer, before, after)
    state = optimizer.state.pop(before, None)
    if state:
        optimizer.state[after] = {
            key: _cut(value, before, index, dim) for key, value in state.items()
        }


def _cut(value: Any, before: Tensor, index: Tensor, dim: int) -> Any:
    """The part of a state that belongs to the triplets ``index``; counters as they are."""
    if not isinstance(value, Tensor) or value.numel() != before.numel() or value.dim() == 0:
        return value
    if value.shape == before.shape:
        return value.index_select(dim, index)
    return value.view(before.shape).index_select(dim, index).flatten()  # Prodigy keeps them flat


def still_moments(optimizer: Optimizer, p: Tensor, index: Tensor, dim: int) -> None:
    """Let triplets ``index`` of a parameter rest where they are: nothing pushes them any more."""
    for key, value in optimizer.state.get(p, {}).items():
        if key == "z":  # Schedule-Free draws a parameter towards z
            value.index_copy_(dim, index, p.detach().index_select(dim, index))
        elif key not in _NO_MOMENT and isinstance(value, Tensor) and value.shape == p.shape:
            value.index_fill_(dim, index, 0.0)


# --- weights that answer ------------------------------------------------------------------------


@contextmanager
def answering(optimizer: Optimizer) -> Iterator[None]:
    """Inside, parameters are what answers: with Schedule-Free a mean of the way, else unchanged.

    Afterwards they are again, to the bit, what trains. The copies lie where gradients will.
    """
    if not averages(optimizer):
        yield
        return
    kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    settle(optimizer)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, before in kept:
                p.copy_(before)
        for group in optimizer.param_groups:
            group["train_mode"] = True


def averages(optimizer: Optimizer) -> bool:
    """Whether what answers is another than what trains."""
    return "train_mode" in optimizer.param_groups[0]


def settle(optimizer: Optimizer) -> None:
    """Make what answers of what trained, at the end of a training."""
    if averages(optimizer):
        optimizer.eval()  # type: ignore[attr-defined]
