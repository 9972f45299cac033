"""No adapter is saved with numbers that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from core.errors import ModelError


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Look through the tensors of an adapter, of any shape, before they are saved.

    Raises:
        ModelError: names the first tensor that holds a number that is not finite.
    """
    broken = next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)
    if broken is not None:
        raise ModelError(
            "The adapter holds numbers that are not finite and was not saved.",
            where=broken,
            action="Start again with a smaller learning rate.",
            code="adapter.not_finite",
        )
