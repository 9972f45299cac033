"""What quantization would cost on the class's own text, measured layer by layer.

One forward and one backward pass over a packed row of the class's questions and answers. Every
linear layer reads its weight from disk, uses it and forgets it; in the backward pass it holds its
inputs x and output gradients d at once and prices itself:

    H = E[x x^T],  D = E[d^2],  E_b = W - Q_b,  M = D^1/2 E_b L with L L^T = H
    cost(b, r) = 1/2 * (|M|^2 - sum of the r largest squared singular values of M)     [nats/token]
    gain(r)    = sum of the r largest squared singular values of G = sum d x^T

so one truncated decomposition prices every rank, and its triplets, unwhitened, are the adapter that
cancels most of the error. The formulas are our interpretation (docs/explanation/adaq.md): K-FAC
with a diagonal output factor, after CLoQ (2025) for the whitening by inputs.

Codes and triplets of all candidates go to a cache folder, from which the plan's choice is loaded.
Shapes: N tokens, i inputs, o outputs, r rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.assemble import LanguageModel, build
from core.events import Emit, PhaseChanged
from core.manifest import whole_folder
from core.quant.gptq import round_with_feedback
from core.quant.lowrank import truncated_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

WIDTHS = (2, 3, 4)  # rounded with error feedback; 8 bits are rounded to nearest, 16 kept
RANKS = (0, 2, 4, 8, 16, 32)
DAMP = 0.01  # of mean(diag H), so that directions without input stay finite
VERSION = 3  # of what is written to the cache


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


@dataclass(frozen=True)
class Profile:
    """Prices of all linear layers of a model on a class, and where their candidates lie."""

    prices: list[Price]
    tokens: int
    loss: float
    folder: str

    def candidate(self, index: int) -> dict[str, Tensor]:
        """Codes, scales and triplets of one linear layer, by key and width (``codes3`` ...)."""
        return load_file(Path(self.folder) / f"{index:04d}.safetensors")

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


@dataclass
class _Shared:
    """Statistics of one input, used by every layer that reads it (q, k and v; gate and up)."""

    x: Tensor
    gram: Tensor
    lower: Tensor  # L with L L^T = H + damping


class _Measured(nn.Module):
    """A linear layer that reads its weight on each use and prices itself in the backward pass."""

    def __init__(
        self, name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> None:
        super().__init__()
        self.name, self.read, self.transposed = name, read, transposed
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self.priced: Callable[[_Measured, Tensor, Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _MeasuredLinear.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class _MeasuredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Measured) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return x @ layer.read().to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layer: _Measured = ctx.layer
        weight = layer.read()
        dx = dy @ weight.to(dy.dtype)
        assert layer.priced is not None
        flat, grad = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        layer.priced(layer, weight.float(), flat.float(), grad.float())
        return dx, None


def measure(
    path: Path,
    row: tuple[Tensor, Tensor, Tensor],
    folder: Path,
    emit: Emit,
    *,
    codebook: str = "affine",
    group: int = 64,
    widths: Sequence[int] = WIDTHS,
    embedding_bits: int = 16,
    device: torch.device | None = None,
) -> Profile:
    """Profile the model at ``path`` on one packed row (ids, positions, labels), each (T,).

    Args:
        path: local model folder.
        row: the class's own text.
        folder: where the candidates go; replaced.
        emit: receives the progress.
        codebook: ``affine`` or ``nf4`` (then only 4 bits).
        group: weights that share a scale.
        widths: candidate bits below 8.
        embedding_bits: 8 or 16, of the tables while measuring.
        device: where it runs.
    """
    with whole_folder(folder) as temporary:
        profile = _measure(
            path, row, temporary, emit, codebook, group, widths, embedding_bits, device
        )
        profile.save()
    return replace(profile, folder=str(folder))


def _measure(
    path: Path,
    row: tuple[Tensor, Tensor, Tensor],
    folder: Path,
    emit: Emit,
    codebook: str,
    group: int,
    widths: Sequence[int],
    embedding_bits: int,
    device: torch.device | None,
) -> Profile:
    model, order = _measured_model(path, embedding_bits, device)
    ids, positions, labels = (t.to(model.device) for t in row)
    learned = int((labels[1:] != -100).sum())
    pricer = _Pricer(folder, order, codebook, group, tuple(widths), learned, emit)
    for layer in order.values():
        layer.priced = pricer.price
    model.set_checkpointing(True)
    # Something must ask for gradients before the first block; its own gradient is not used.
    spark = torch.zeros((), requires_grad=True)
    handle = model.blocks[0].register_forward_pre_hook(
        lambda _m, args: ((args[0] + spark.to(args[0])), *args[1:])
    )
    loss = model.loss(ids, positions, labels)
    (loss * learned).backward()  # summed, so that d is the gradient of each token's own loss
    handle.remove()
    prices = [pricer.prices[name] for name in order]
    return Profile(prices, len(ids), float(loss.detach()), str(folder))


def _measured_model(
    path: Path, embedding_bits: int, device: torch.device | None
) -> tuple[LanguageModel, dict[str, _Measured]]:
    order: dict[str, _Measured] = {}

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> nn.Module:
        order[name] = _Measured(name, read, bias, transposed)
        return order[name]

    return build(path, store, embedding_bits=embedding_bits, device=device), order


class _Pricer:
    """Prices one layer at a time and writes its candidates to disk."""

    def __init__(
        self,
        folder: Path,
        order: dict[str, _Measured],
        codebook: str,
        group: int,
        widths: tuple[int, ...],
        learned: int,
        emit: Emit,
    ) -> None:
        self.folder, self.codebook, self.group = folder, codebook, group
        self.widths, self.learned, self.emit = widths, learned, emit
        self.index = {name: k for k, name in enumerate(order)}
        self.prices: dict[str, Price] = {}
        self.shared: _Shared | None = None

    @torch.no_grad()
    def price(self, layer: _Measured, weight: Tensor, x: Tensor, d: Tensor) -> None:
        """Price ``layer`` from weight (o, i), inputs x (N, i) and output gradients d (N, o)."""
        shared = self._statistics(x)
        sensitivity = d.square().mean(0)  # D (o,)
        sensitivity = (sensitivity + 1e-2 * sensitivity.mean() + 1e-20).sqrt()
        # From one token's mean to nats per answer token of the whole row.
        unit = x.shape[0] / max(1, self.learned)
        kept: dict[str, Tensor] = {}
        cost: dict[int, list[float]] = {16: [0.0] * len(RANKS)}
        for bits, stored in self._candidates(weight, shared).items():
            error = weight - stored.dequantize()
            whitened = (sensitivity[:, None] * error) @ shared.lower
            u, s, v = truncated_svd(whitened, RANKS[-1])
            cost[bits] = _costs(float(whitened.square().sum()), s, unit)
            kept |= {f"{k}{bits}": b for k, b in stored.named_buffers()}
            kept[f"U{bits}"] = (u * s / sensitivity[:, None]).half()
            unwhitened = torch.linalg.solve_triangular(shared.lower, v, upper=False, left=False)
            kept[f"V{bits}"] = unwhitened.half()
        cost[8] = self._nearest_cost(weight, shared, sensitivity, unit)
        _, s, v = truncated_svd(d.t() @ x, RANKS[-1])
        kept["task"] = v.half()  # right singular vectors of the task gradient
        gain = [float(s[:r].square().sum()) for r in RANKS]
        done = len(self.prices) + 1
        save_file(
            {k: t.contiguous().cpu() for k, t in kept.items()},
            self.folder / f"{self.index[layer.name]:04d}.safetensors",
        )
        self.prices[layer.name] = Price(
            layer.name, weight.shape[0], weight.shape[1], cost, gain, layer.transposed
        )
        self.emit(PhaseChanged("profile", done / len(self.index), layer.name))

    def _statistics(self, x: Tensor) -> _Shared:
        known = self.shared
        if known is not None and known.x.shape == x.shape and torch.equal(known.x, x):
            return known
        gram = x.t() @ x / x.shape[0]
        eye = torch.eye(gram.shape[0], device=x.device)
        damped = gram + (DAMP * gram.diag().mean() + 1e-10) * eye
        self.shared = _Shared(x, gram, torch.linalg.cholesky(damped))
        return self.shared

    def _candidates(self, weight: Tensor, shared: _Shared) -> dict[int, QuantizedWeight]:
        if self.codebook == "nf4":
            return {4: QuantizedWeight.from_dense(weight, Scheme(4, self.group, "nf4"))}
        rounded = round_with_feedback(weight, shared.gram, self.widths, self.group)
        return {b: r.stored(Scheme(b, self.group), weight.shape[1]) for b, r in rounded.items()}

    def _nearest_cost(
        self, weight: Tensor, shared: _Shared, sensitivity: Tensor, unit: float
    ) -> list[float]:
        """8 bits are so close that a rank has nothing to win: the same cost at every rank."""
        stored = QuantizedWeight.from_dense(weight, Scheme(8, self.group))
        error = (weight - stored.dequantize()).mul_(sensitivity[:, None])
        return [0.5 * unit * float(((error @ shared.gram) * error).sum())] * len(RANKS)


def _costs(total: float, singular: Tensor, unit: float) -> list[float]:
    """Cost at each rank of ``RANKS``; never negative, never rising with the rank."""
    kept = torch.cat([singular.new_zeros(1), singular.square().cumsum(0)])
    last = len(kept) - 1
    return [max(0.0, 0.5 * unit * (total - float(kept[min(r, last)]))) for r in RANKS]
