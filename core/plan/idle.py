"""``python -m core.plan.idle``: print the resident bytes of a training process that holds nothing.

It imports what a training process imports and runs one tiny step, because the first product and the
first backward pass make the libraries take their work space.
"""

from __future__ import annotations

import sys

import torch

import core.pipeline  # noqa: F401  (what a training process imports)
from core.adapters.lora import AdapterLinear
from core.plan.process import resident_bytes
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def main() -> None:
    """Warm up and report."""
    import transformers.models.llama.modeling_llama  # noqa: F401  (any architecture costs alike)

    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(256, 256), Scheme(4)))
    layer.set_triplets(torch.randn(256, 4), torch.ones(4), torch.randn(4, 256))
    x = torch.randn(64, 256, requires_grad=True)
    layer(x).square().sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    sys.stdout.write(f"{resident_bytes()}\n")


if __name__ == "__main__":
    main()
