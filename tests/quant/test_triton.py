"""The kernels for GPUs against the torch path: interpreted, compiled, and on a GPU if there is one.

Without ``triton`` (it comes with PyTorch's CUDA build only) nothing of it can be tried.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

CHECKOUT = Path(__file__).resolve().parent.parent.parent
WIDTHS = ["affine 2", "affine 3", "affine 4", "affine 8", "nf4 4"]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, int]:
    """Differing values by case; a process of its own, because kernels are interpreted for good."""
    pytest.importorskip("triton", reason="triton comes with PyTorch's CUDA build")
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "tests" / "quant" / "interpreted.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_every_interpreted_value_equals_that_of_the_torch_path(interpreted, width):
    cases = {name: count for name, count in interpreted.items() if name.startswith(width)}
    assert len(cases) >= 18
    assert not {name: count for name, count in cases.items() if count}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", TYPES)
def test_kernels_compile_for_a_gpu_and_round_to_nearest(width, dtype, tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="triton comes with PyTorch's CUDA build")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from core.quant import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    codebook, bits = width.split()
    nf4 = codebook == "nf4"
    kernel = triton_kernels.expand_nf4 if nf4 else triton_kernels.KERNELS[int(bits)]
    types = {
        "out": f"*{dtype}",
        "codes": "*u8",
        "scale": "*fp32" if nf4 else "*fp16",
        "book" if nf4 else "zero": "*fp32" if nf4 else "*u8",
        "n": "i32",
        "g": "constexpr",
        "size": "constexpr",
    }
    source = ASTSource(kernel, types, {(5,): 64, (6,): triton_kernels.BLOCK})
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert len(compiled.asm["cubin"]) > 1000
    if dtype != "fp32":
        assert f"cvt.rn.{dtype.replace('fp', 'f')}.f32" in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_gpu_expands_as_the_processor_does(width, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    codebook, bits = width.split()
    for shape in ((24, 128), (7, 100), (300, 4096)):
        stored = QuantizedWeight.from_dense(torch.randn(shape), Scheme(int(bits), 64, codebook))
        expected = stored.dequantize(TYPES[dtype])
        there = stored.to("cuda")
        assert torch.equal(there.dequantize(TYPES[dtype]).cpu(), expected)
        assert torch.equal(there.lent(TYPES[dtype], slice(3, 6)).cpu(), expected[3:6])
        rows = torch.tensor([5, 0, 5], device="cuda")
        assert torch.equal(there.rows(rows, TYPES[dtype]).cpu(), expected[rows.cpu()])
