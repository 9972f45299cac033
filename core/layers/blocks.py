"""Decoder blocks that keep little for the backward pass.

``transformers`` computes a block operation by operation, and autograd keeps what each of them
needs: 44 kB per token and block of the starter. Here three parts of a block are one step of the
backward pass each: norm with the q, k and v products, attention, norm with the MLP. They keep the
normalised input, q, k, v, the output of attention, gate and up, in 16 bits, and recompute the
rest: 12 kB. The linear products still expand a stored weight for one multiplication only.

The modules stay where they are (names, parameters, state); only their ``forward`` is replaced, so
that every architecture whose blocks are built of RMS norms, ``q_proj``/``k_proj``/``v_proj`` and
``gate_proj``/``up_proj``/``down_proj`` takes part, with its own rotary embedding, scales and
residuals. Blocks of other shapes are left alone.

Shapes: T tokens, d hidden, f intermediate, i inputs, o outputs, H heads, h size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from core.layers.lora import AdapterLinear, adapted_gradients, adapted_product
from core.workspace import Frame, frame, kept

# The blocks that are known to be ``norm, attention, add, norm, MLP, add``, with the attribute of
# the norm that only the MLP sees. Blocks that compute both from one norm must not be in here.
NORM_BEFORE_MLP = {
    "LlamaDecoderLayer": "post_attention_layernorm",
    "MistralDecoderLayer": "post_attention_layernorm",
    "Qwen2DecoderLayer": "post_attention_layernorm",
    "Qwen3DecoderLayer": "post_attention_layernorm",
    "SmolLM3DecoderLayer": "post_attention_layernorm",
    "GraniteDecoderLayer": "post_attention_layernorm",
    "GemmaDecoderLayer": "post_attention_layernorm",
    "Gemma2DecoderLayer": "pre_feedforward_layernorm",
    "Gemma3DecoderLayer": "pre_feedforward_layernorm",
}
# Norms whose factor is 1 + weight.
_SHIFTED = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")

_aten = torch.ops.aten
# Activation by its name in the configuration: value, and gradient from (d value, argument).
ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "silu": (_aten.silu, _aten.silu_backward),
    "gelu": (_aten.gelu, _aten.gelu_backward),
    "gelu_pytorch_tanh": (
        partial(_aten.gelu, approximate="tanh"),
        partial(_aten.gelu_backward, approximate="tanh"),
    ),
}


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of kept activations: 16 bits.

    What is computed in fp32 is kept in fp16, whose 11 bits are four times as fine as bf16's 8; its
    range is enough, because what is kept is normalised or went through a product with such.
    """
    return torch.float16 if dtype == torch.float32 else dtype


class RmsNorm:
    """What an RMS norm of ``transformers`` computes: x / sqrt(mean(x^2) + eps) * factor (d)."""

    def __init__(self, module: nn.Module) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        shift = 1.0 if type(module).__name__ in _SHIFTED else 0.0
        self.factor = weight.detach().float() + shift
        self.eps = float(getattr(module, "variance_epsilon", None) or module.eps)  # type: ignore[arg-type]

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is such a norm."""
        name = type(module).__name__
        return name.endswith("RMSNorm") and (
            hasattr(module, "variance_epsilon") or name in _SHIFTED
        )

    def normalised(self, x: Tensor, room: Frame) -> tuple[Tensor, Tensor]:
        """Return x / rms (T, d) fp32, lent by ``room``, and 1 / rms (T, 1)."""
        wide = x if x.dtype == torch.float32 else x.float()
        rms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = rms.add_(self.eps).rsqrt_()
        return torch.mul(wide, inverse, out=room.like(wide)), inverse

    def output(self, unit: Tensor, dtype: torch.dtype, room: Frame) -> Tensor:
        """The norm's output (T, d) from ``unit`` (T, d) fp32."""
        out = torch.mul(unit, self.factor, out=room.like(unit))
        return out if dtype == torch.float32 else out.to(dtype)

    def gradient(self, dn: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
        """Gradient of x (T, d), a new tensor, from that of the output, which is overwritten.

        Args:
            dn: gradient of the output (T, d).
            unit: x / rms (T, d), fp32.
            inverse: 1 / rms (T, 1).
        """
        dtype = dn.dtype
        g = dn.mul_(self.factor) if dtype == torch.float32 else dn.float().mul_(self.factor)
        with frame() as room:
            along = torch.mul(g, unit, out=room.like(unit)).mean(-1, keepdim=True)
        return g.addcmul_(unit, along, value=-1).mul(inverse).to(dtype)


class Kept:
    """Where a block keeps what its backward pass needs: 16 bits, in memory of its own.

    A recomputed block needs it only from its second forward pass to its backward pass, so all of
    these share one place.
    """

    def __init__(self, block: int) -> None:
        self.block, self.recomputed = block, False
        self._output: Tensor | None = None

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """A copy of ``tensor``."""
        place = "recomputed" if self.recomputed else str(self.block)
        return kept(f"{place} {name}", tensor, kept_dtype(tensor.dtype))

    def output(self, out: Tensor) -> Tensor:
        """A copy of the output (T, H, h) of attention; the product that follows needs it too."""
        self._output = self("output", out)
        return self._output

    def input_of(self, layer: AdapterLinear, x: Tensor) -> Tensor:
        """The input (..., i) of the product after attention, once."""
        found, self._output = self._output, None
        return self("output", x) if found is None else found.view(x.shape)


class _Norm(torch.autograd.Function):
    """An RMS norm that keeps its normalised input in 16 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RmsNorm, keep: Kept, name: str) -> Tensor:
        with frame() as room:
            unit, inverse = norm.normalised(x, room)
            ctx.norm = norm
            ctx.save_for_backward(keep(name, unit), inverse)
            return (unit * norm.factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, inverse = ctx.saved_tensors
        with frame() as room:
            unit = room.like(saved, torch.float32).copy_(saved)
            return ctx.norm.gradient(dy.clone(), unit, inverse), None, None, None


class _Rotary(torch.autograd.Function):
    """Rotary position embedding of one tensor: four products and no copy beside the result.

    ``transformers`` turns halves into new tensors, of which autograd keeps some.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(dy, cos, sin, back=True), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Pairs (x_j, x_(j + h/2)) turned by their angles, or ``back``; x (1, H, T, h), cos (1, T, h).

    A new tensor that lies in memory as (1, T, H, h), as the products before and after want it.
    """
    half, sign = x.shape[-1] // 2, -1 if back else 1
    out = torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    (a, b), (to_a, to_b) = x.split(half, -1), out.split(half, -1)
    (cos_a, cos_b), (sin_a, sin_b) = (t[:, None].split(half, -1) for t in (cos, sin))
    if back:  # transposed: each half is given the other's sine
        sin_a, sin_b = sin_b, sin_a
    torch.mul(a, cos_a, out=to_a).addcmul_(b, sin_a, value=-sign)
    torch.mul(b, cos_b, out=to_b).addcmul_(a, sin_b, value=sign)
    return out


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Turn q (1, H, T, h) and k (1, G, T, h) as ``apply_rotary_pos_emb`` of the models does."""
    turned = [_Rotary.apply(x, cos, sin) for x in (q, k)]  # type: ignore[no-untyped-call]
    return turned[0], turned[1]


class _NormProducts(torch.autograd.Function):
    """Several adapted products of one normalised input: q, k and v."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: RmsNorm, owner: FusedProducts, *trained: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.norm, ctx.layers, ctx.shape = norm, owner.layers, x.shape
        with frame() as room:
            unit, inverse = norm.normalised(x.reshape(-1, x.shape[-1]), room)
            ctx.save_for_backward(owner.keep("attention", unit), inverse)
            n = norm.output(unit, x.dtype, room)
            made = [adapted_product(n, layer) for layer in owner.layers]
        return tuple(y.view(*x.shape[:-1], -1) for y in made)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        saved, inverse = ctx.saved_tensors
        needed = ctx.needs_input_grad[0]  # not in the first block
        dn: Tensor | None = None
        gradients: list[Tensor | None] = []
        with frame() as room:
            unit = room.like(saved, torch.float32).copy_(saved)
            n = ctx.norm.output(unit, dys[0].dtype, room)
            into = room.like(n)
            for dy, layer in zip(dys, ctx.layers, strict=True):
                flat = dy.reshape(-1, dy.shape[-1])
                dn, found = adapted_gradients(flat, n, layer, add_to=dn, out=into, needed=needed)
                gradients += found
            if dn is None:
                return None, None, None, *gradients
            dx = ctx.norm.gradient(dn, unit, inverse)
        return dx.view(ctx.shape), None, None, *gradients


class _NormMlp(torch.autograd.Function):
    """down(act(gate(n)) * up(n)) of the normalised input n; keeps n, gate and up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RmsNorm, mlp: FusedMlp, *trained: Tensor) -> Tensor:
        ctx.norm, ctx.mlp = norm, mlp
        value, _ = mlp.activation
        with frame() as room:
            unit, inverse = norm.normalised(x.reshape(-1, x.shape[-1]), room)
            n = norm.output(unit, x.dtype, room)
            gate = adapted_product(n, mlp.gate, mlp.room(room, n))
            up = adapted_product(n, mlp.up, mlp.room(room, n))
            parts = {"mlp": unit, "gate": gate, "up": up}
            ctx.save_for_backward(*(mlp.keep(k, t) for k, t in parts.items()), inverse)
            return adapted_product(value(gate, out=gate).mul_(up), mlp.down).view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        mlp: FusedMlp = ctx.mlp
        value, slope = mlp.activation
        kept_unit, kept_gate, kept_up, inverse = ctx.saved_tensors
        flat = dy.reshape(-1, dy.shape[-1])
        with frame() as room:
            gate = mlp.room(room, flat).copy_(kept_gate)
            up = mlp.room(room, flat).copy_(kept_up)
            active = value(gate, out=mlp.room(room, flat))
            d = mlp.room(room, flat)
            product = torch.mul(active, up, out=mlp.room(room, flat))
            _, down = adapted_gradients(flat, product, mlp.down, out=d)
            d_up = active.mul_(d)
            d_gate = slope(d.mul_(up), gate, grad_input=d)
            unit = room.like(kept_unit, torch.float32).copy_(kept_unit)
            n = ctx.norm.output(unit, dy.dtype, room)
            dn, of_gate = adapted_gradients(d_gate, n, mlp.gate, out=room.like(n))
            dn, of_up = adapted_gradients(d_up, n, mlp.up, add_to=dn)
            assert dn is not None
            dx = ctx.norm.gradient(dn, unit, inverse)
        return dx.view(dy.shape), None, None, *of_gate, *of_up, *down


class FusedMlp:
    """A gated MLP of three adapted layers with the norm before it."""

    def __init__(self, mlp: nn.Module, activation: str, keep: Kept) -> None:
        self.gate, self.up, self.down = _linears(mlp, "gate_proj", "up_proj", "down_proj")
        self.activation, self.keep = ACTIVATIONS[activation], keep

    def room(self, room: Frame, like: Tensor) -> Tensor:
        """A lent tensor (T, f) for ``like`` (T, ...)."""
        size = (like.shape[0], self.gate.out_features)
        return room.take(*size, dtype=like.dtype, device=like.device)

    def apply(self, x: Tensor, norm: RmsNorm) -> Tensor:
        """Map the residual stream x (..., d) to what is added to it (..., d)."""
        trained = [t for x in (self.gate, self.up, self.down) for t in x.trained]
        y: Tensor = _NormMlp.apply(x, norm, self, *trained)  # type: ignore[no-untyped-call]
        return y


class FusedProducts:
    """q, k and v of one input, computed when the first of them is asked for.

    Attention modules call their projections one after the other with the same tensor; each call is
    given its own result, and all three are one step of the backward pass.
    """

    def __init__(self, norm: RmsNorm, layers: tuple[AdapterLinear, ...], keep: Kept) -> None:
        self.norm, self.layers, self.keep = norm, layers, keep
        self._input: Tensor | None = None
        self._left: dict[int, Tensor] = {}

    def result(self, index: int, x: Tensor) -> Tensor:
        """What layer ``index`` makes of the residual stream x (..., d)."""
        if self._input is not x or index not in self._left:
            trained = [t for layer in self.layers for t in layer.trained]
            made = _NormProducts.apply(x, self.norm, self, *trained)  # type: ignore[no-untyped-call]
            self._input, self._left = x, dict(enumerate(made))
        found = self._left.pop(index)
        if not self._left:
            self._input = None
        return found


@dataclass
class FusedBlock:
    """A block that computes as this module describes.

    Attributes:
        keep: where it keeps what its backward pass needs.
        undo: gives it back the computation of ``transformers``.
    """

    keep: Kept
    undo: Callable[[], None]


def fuse_block(block: nn.Module, index: int, activation: str) -> FusedBlock | None:
    """Let a decoder block compute as this module describes; None if it has another shape.

    Args:
        block: its linear layers are :class:`AdapterLinear`.
        index: its number in the model.
        activation: of the MLP, by its name in the configuration.
    """
    after = NORM_BEFORE_MLP.get(type(block).__name__)
    attention, mlp = getattr(block, "self_attn", None), getattr(block, "mlp", None)
    if after is None or attention is None or mlp is None or activation not in ACTIVATIONS:
        return None
    before: nn.Module = block.input_layernorm  # type: ignore[assignment]
    before_mlp: nn.Module = getattr(block, after)
    projections = _linears(attention, "q_proj", "k_proj", "v_proj", "o_proj")
    if not (RmsNorm.fits(before) and RmsNorm.fits(before_mlp) and len(projections) == 4):
        return None
    if len(_linears(mlp, "gate_proj", "up_proj", "down_proj")) != 3:
        return None
    *qkv, out = projections
    keep = Kept(index)
    products = FusedProducts(RmsNorm(before), tuple(qkv), keep)
    fused, norm = FusedMlp(mlp, activation, keep), RmsNorm(before_mlp)
    replaced: dict[nn.Module, Callable[..., Any]] = {
        before: _unchanged,
        before_mlp: _unchanged,
        mlp: lambda x: fused.apply(x, norm),
    }
    for k, layer in enumerate(qkv):
        replaced[layer] = partial(products.result, k)
    turning = _with_rotary(attention)
    if turning is not None:
        replaced[attention] = turning
    for name, module in block.named_modules():
        if RmsNorm.fits(module) and module not in replaced:
            replaced[module] = partial(_normed, norm=RmsNorm(module), keep=keep, name=name)
    for module, forward in replaced.items():
        module.forward = forward
    out.keeper = attention.keep = keep

    def undo() -> None:
        for module in replaced:
            del module.forward
        del attention.keep
        out.keeper = None

    return FusedBlock(keep, undo)


def _with_rotary(attention: nn.Module) -> Callable[..., Any] | None:
    """The module's own ``forward`` with :func:`rotary` in it; None: it turns nothing.

    The copy has its own globals, so that the library stays as it is for everything else.
    """
    forward = type(attention).forward
    if "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return None
    names = {**forward.__globals__, "apply_rotary_pos_emb": rotary}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return MethodType(copy, attention)


def _normed(x: Tensor, norm: RmsNorm, keep: Kept, name: str) -> Tensor:
    y: Tensor = _Norm.apply(x, norm, keep, name)  # type: ignore[no-untyped-call]
    return y


def _linears(module: nn.Module, *names: str) -> tuple[AdapterLinear, ...]:
    """The submodules of these names that are adapted layers."""
    found = (getattr(module, name, None) for name in names)
    return tuple(x for x in found if isinstance(x, AdapterLinear))


def _unchanged(x: Tensor) -> Tensor:
    """Stand for a norm that the following step applies itself."""
    return x
