"""Runs the kernels in Triton's interpreter, which needs no GPU; a program of its own.

Prints, for every scheme, group, shape and dtype, how many values differ from the torch path.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

import torch
import triton.language as tl
from triton.runtime import interpreter

from core.quant import triton_kernels
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

SHAPES = ((24, 128), (7, 100), (130, 320))


def round_bf16_to_nearest() -> None:
    """The interpreter cuts fp32 off where a GPU (``cvt.rn.bf16.f32``) and torch round it."""
    cut = interpreter.InterpreterBuilder.cast_impl

    def cast(self, src, dst_type):
        if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
            return cut(self, src, dst_type)
        nearest = torch.from_numpy(src.data.copy()).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(nearest, tl.bfloat16)

    interpreter.InterpreterBuilder.cast_impl = cast


def differing(scheme: Scheme, shape: tuple[int, int], dtype: torch.dtype) -> int:
    stored = QuantizedWeight.from_dense(torch.randn(shape), scheme)
    zero = getattr(stored, "zero", None)
    n = stored.codes.shape[0]
    expected = stored.dequantize(dtype)
    out = torch.full((n, scheme.group), float("nan"), dtype=dtype)
    triton_kernels.expand(out, stored.codes, stored.scale, zero, scheme.bits)
    found = out.view(shape[0], -1)[:, : shape[1]]
    return int((found != expected).sum()) + int(out.isnan().sum())


def main() -> None:
    torch.manual_seed(0)
    round_bf16_to_nearest()
    schemes = [Scheme(b, g) for b in (2, 3, 4, 8) for g in (32, 64, 96)]
    schemes += [Scheme(4, g, "nf4") for g in (32, 64)]
    found = {
        f"{s.codebook} {s.bits} g{s.group} {shape} {dtype}": differing(s, shape, dtype)
        for s in schemes
        for shape in SHAPES
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
