"""What quantization would cost on the class's own text, measured layer by layer.

One forward and one backward pass over a packed row of the class's questions and answers. In the
backward pass every linear layer holds its inputs x and output gradients d at once and prices
itself:

    H = E[x x^T] = L L^T,  D = E[d^2],  E_b = W - nearest_b(W),  M = D^1/2 E_b diag(L)
    cost(b, r) = 1/2 * (|M|^2 - sum of the r largest squared singular values of M)     [nats/token]
    gain(r)    = sum of the r largest squared singular values of G = sum d x^T

so one truncated decomposition prices every rank. M stands for the error D^1/2 E L that is left when
the layer is rounded with error feedback: feedback leaves per column an error like that of rounding
to nearest, seen through L's diagonal alone. That makes the price of a width one elementwise pass;
against the layers really rounded it is right within a third (docs/log.md), and only the widths
that the plan picks are rounded at all. The formulas are our interpretation
(docs/explanation/adaq.md): K-FAC with a diagonal output factor, after CLoQ (2025) for the whitening
by inputs and after GPTQ's view of feedback as successive projection.

What M is made of can be chosen (``quant.importance``), to see what each part is worth: without D
(``activation``), without D and H (``frobenius``), or from the singular values of W alone
(``spectrum``, the published idea read literally).

Shapes: N tokens, i inputs, o outputs, r rank, g group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.events import Emit, PhaseChanged
from core.manifest import whole_folder
from core.plan.measured import (
    InputMoments,
    MeasuredLinear,
    MomentsOfLast,
    backpropagate,
    measured_model,
)
from core.quant.lowrank import truncated_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight, nearest_error

WIDTHS = (2, 3, 4)  # rounded with error feedback; 8 bits are rounded to nearest, 16 kept
RANKS = (0, 2, 4, 8, 16, 32)
# Part of the min-max range that loses least on trained weights at each width; rounding proper
# searches it group by group.
CLIPS = {2: 0.7, 3: 0.85, 4: 0.95}
VERSION = 6  # of what is written to the cache
TENSORS = "profile.safetensors"


@dataclass(frozen=True)
class Price:
    """One linear layer's candidates.

    ``cost[b][k]``: nats per answer token lost at b bits and rank ``RANKS[k]``; ``gain[k]``: squared
    gradient that a rank reaches.
    """

    name: str
    out_features: int
    in_features: int
    cost: dict[int, list[float]]
    gain: list[float]
    transposed: bool = False


def unknown_prices(linears: Sequence[tuple[str, int, int]]) -> list[Price]:
    """Linear layers (name, o, i) whose costs are not known yet: enough to count bytes."""
    nothing = [0.0] * len(RANKS)
    cost = {bits: nothing for bits in (*WIDTHS, 8, 16)}
    return [Price(name, o, i, cost, nothing) for name, o, i in linears]


@dataclass(frozen=True)
class Profile:
    """Prices of all linear layers of a model on a class."""

    prices: list[Price]
    tokens: int
    loss: float
    folder: str

    def tensors(self, index: int) -> dict[str, Tensor]:
        """``sensitivity`` D^1/2 (o,), ``task`` (r, i) and ``slope`` (r,) of a linear layer.

        ``task``: right singular vectors v of the task gradient G, as rows. ``slope``: sum of
        abs(G v), nats per answer token by which the loss begins to fall for each unit by which all
        of a column of U moves.
        """
        keys = ("sensitivity", "task", "slope")
        with safe_open(Path(self.folder) / TENSORS, "pt") as file:
            return {k: file.get_tensor(f"{index}.{k}") for k in keys}

    def save(self) -> None:
        """Write the prices; their presence marks the folder as whole."""
        (Path(self.folder) / "profile.json").write_text(json.dumps(asdict(self)), "utf-8")

    @staticmethod
    def load(folder: Path) -> Profile | None:
        """Return the profile in ``folder``, or None if it is not there or not whole."""
        try:
            tree = json.loads((folder / "profile.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        prices = [
            Price(**{**p, "cost": {int(b): c for b, c in p["cost"].items()}})
            for p in tree["prices"]
        ]
        return Profile(prices, tree["tokens"], tree["loss"], str(folder))


def measure(
    path: Path,
    row: tuple[Tensor, Tensor, Tensor],
    folder: Path,
    emit: Emit,
    *,
    codebook: str = "affine",
    group: int = 64,
    importance: str = "loss",
    widths: Sequence[int] = WIDTHS,
    embedding_bits: int = 16,
    device: torch.device | None = None,
) -> Profile:
    """Profile the model at ``path`` on one packed row (ids, positions, labels), each (T,).

    Args:
        path: local model folder.
        row: the class's own text.
        folder: where the profile goes; replaced.
        emit: receives the progress.
        codebook: ``affine`` or ``nf4`` (then only 4 bits).
        group: weights that share a scale.
        importance: ``loss``, ``activation``, ``frobenius`` or ``spectrum``.
        widths: candidate bits below 8.
        embedding_bits: 8 or 16, of the tables while measuring.
        device: where it runs.
    """
    model, order = measured_model(path, embedding_bits, device)
    ids, positions, labels = (t.to(model.device) for t in row)
    learned = int((labels[1:] != -100).sum())
    pricer = Pricer(order, ErrorPrice(importance, codebook, group), tuple(widths), learned, emit)
    for layer in order.values():
        layer.on_backward = pricer.price
    loss = backpropagate(model, ids, positions, labels)
    prices = [pricer.prices[name] for name in order]
    with whole_folder(folder) as temporary:
        profile = Profile(prices, len(ids), float(loss.detach()), str(temporary))
        save_file(pricer.kept, temporary / TENSORS)
        profile.save()
    return replace(profile, folder=str(folder))


class Pricer:
    """Prices one layer at a time."""

    def __init__(
        self,
        order: dict[str, MeasuredLinear],
        price: ErrorPrice,
        widths: tuple[int, ...],
        learned: int,
        emit: Emit,
    ) -> None:
        self.error, self.learned, self.emit = price, learned, emit
        self.widths = (4,) if price.codebook == "nf4" else widths
        self.index = {name: k for k, name in enumerate(order)}
        self.prices: dict[str, Price] = {}
        self.kept: dict[str, Tensor] = {}
        self.moments = MomentsOfLast()

    @torch.no_grad()
    def price(self, layer: MeasuredLinear, weight: Tensor, x: Tensor, d: Tensor) -> None:
        """Price ``layer`` from weight (o, i), inputs x (N, i) and output gradients d (N, o)."""
        sensitivity = sensitivity_of(d.square().mean(0))
        # From one token's mean to nats per answer token of the whole row.
        unit = x.shape[0] / max(1, self.learned)
        cost = self.error.costs(weight, self.moments.of(x), sensitivity, self.widths)
        gradient = d.t() @ x
        _, s, v = truncated_svd(gradient, RANKS[-1])
        gain = [float(s[:r].square().sum()) for r in RANKS]
        index = self.index[layer.name]
        self.kept[f"{index}.task"] = v.half().contiguous().cpu()
        slope = (gradient @ v.t()).abs_().sum(0) / max(1, self.learned)
        self.kept[f"{index}.slope"] = slope.cpu()
        self.kept[f"{index}.sensitivity"] = sensitivity.cpu()
        self.prices[layer.name] = Price(
            layer.name,
            weight.shape[0],
            weight.shape[1],
            {bits: [unit * c for c in costs] for bits, costs in cost.items()},
            gain,
            layer.transposed,
        )
        self.emit(PhaseChanged("profile", len(self.prices) / len(self.index), layer.name))


def sensitivity_of(squares: Tensor) -> Tensor:
    """D^1/2 (o,) from the mean squared output gradients (o,); never zero."""
    return (squares + 1e-2 * squares.mean() + 1e-20).sqrt()


@dataclass(frozen=True)
class ErrorPrice:
    """What rounding a layer costs, by what counts as important."""

    importance: str = "loss"
    codebook: str = "affine"
    group: int = 64

    def costs(
        self, weight: Tensor, moments: InputMoments, sensitivity: Tensor, widths: Sequence[int]
    ) -> dict[int, list[float]]:
        """Cost by bits and, in the order of ``RANKS``, by rank.

        Args:
            weight: W (o, i).
            moments: of the inputs.
            sensitivity: D^1/2 (o,).
            widths: bits below 8; 8 and 16 are always priced.
        """
        cost: dict[int, list[float]] = {16: [0.0] * len(RANKS)}
        if self.importance == "spectrum":
            return cost | _spectrum_costs(weight, (*widths, 8))
        if self.importance != "loss":
            sensitivity = torch.ones_like(sensitivity)
        for bits in widths:
            left = self._left_error(weight, bits, moments).mul_(sensitivity[:, None])
            cost[bits] = _costs(float(left.square().sum()), truncated_svd(left, RANKS[-1])[1])
        # 8 bits are so close that a rank has nothing to win.
        error = nearest_error(weight, 8, self.group).mul_(sensitivity[:, None])
        seen = error if self.importance == "frobenius" else error @ moments.gram
        cost[8] = [0.5 * float((seen * error).sum())] * len(RANKS)
        return cost

    def _left_error(self, weight: Tensor, bits: int, moments: InputMoments) -> Tensor:
        """What rounding to ``bits`` leaves, seen through the inputs (o, i)."""
        through_inputs = self.importance != "frobenius"
        if self.codebook == "nf4":  # rounded to nearest: no feedback
            stored = QuantizedWeight.from_dense(weight, Scheme(4, self.group, "nf4"))
            error = weight - stored.dequantize()
            return error @ moments.lower if through_inputs else error
        error = nearest_error(weight, bits, self.group, CLIPS.get(bits, 1.0))
        return error.mul_(moments.lower.diag()) if through_inputs else error


def _spectrum_costs(weight: Tensor, widths: Sequence[int]) -> dict[int, list[float]]:
    """Costs that know the singular values of ``weight`` (o, i) and nothing else.

    One literal reading: a layer counts by the part of its energy that its leading directions hold,
    an error falls by 4 with every bit, and a rank saves its part of the energy.
    """
    total = float(weight.square().sum())
    energy = truncated_svd(weight, RANKS[-1])[1].square()
    count = weight.numel() * float(energy.sum()) / total if total else 0.0
    tail = _costs(total, energy.sqrt())
    return {b: [count * 4.0**-b * t / max(total, 1e-30) for t in tail] for b in widths}


def _costs(total: float, singular: Tensor) -> list[float]:
    """Cost at each rank of ``RANKS``; never negative, never rising with the rank."""
    kept = torch.cat([singular.new_zeros(1), singular.square().cumsum(0)])
    last = len(kept) - 1
    return [max(0.0, 0.5 * (total - float(kept[min(r, last)]))) for r in RANKS]
