"""What penalties on directions and balanced decay see of layers of PEFT, and of whole models.

W = Q + X Y with Q (o, i) the frozen weight, dense or in NF4; B (o, r) and A (r, i) are PEFT's
``lora_B`` and ``lora_A``, s its scale:

    LoRA, PiSSA, LoftQ   X = s B,  Y = A
    AdaLoRA              X = s / rank * B diag(E),  Y = A
    DoRA                 the same as LoRA, its rows of trained length g

A base in NF4 is expanded layer by layer, as its own product does in every step.

What decays, in our interpretation: A and B to 0, where the weight is that of the base; of AdaLoRA E
alone, because its regularisation holds A and B at unit length; factors that stand for a part of the
weight (PiSSA) or of what rounding lost (LoftQ), and whole weights, to where they began. Magnitudes
do not decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.adapters import peers
from core.config import RunConfig
from core.dense import DenseModel
from core.objectives.directed import Directed, Factors, Leaves, LowRank, Scaled, Stored
from core.workspace import Frame

_NAME = "default"  # of the one adapter


class _Frozen:
    """The frozen weight of a layer of PEFT (o, i)."""

    def __init__(self, layer: Any) -> None:
        self._module = layer.get_base_layer()
        self._transposed = not isinstance(self._module, nn.Linear)
        self._packed = getattr(self._module.weight, "quant_state", None) is not None
        self.out_features, self.in_features = int(layer.out_features), int(layer.in_features)
        if self._packed:
            self.rows_at_once = self.out_features  # it can only be expanded as a whole

    def expanded(self, room: Frame, dtype: torch.dtype, rows: slice) -> Tensor:
        """Rows (k, i) in ``dtype``."""
        weight: Tensor = self._module.weight.data
        if self._packed:
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(weight, self._module.weight.quant_state)
        return (weight.t() if self._transposed else weight)[rows].to(dtype)


class _Lora(LowRank):
    """A layer of LoRA; ``begun``: its factors begin as a part of the weight, or of its error."""

    def __init__(self, layer: Any, *, begun: bool) -> None:
        self._layer, self._begun, self._stored = layer, begun, _Frozen(layer)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """A and B."""
        return self._layer.lora_A[_NAME].weight, self._layer.lora_B[_NAME].weight

    @property
    def decays_to_start(self) -> bool:
        """Whether 0 would take a part of the weight away."""
        return self._begun

    @property
    def stored(self) -> Stored:
        """Q."""
        return self._stored

    def factors(self, leaves: Leaves) -> Factors:
        """See the base class."""
        A, B = leaves
        return B.float() * self._layer.scaling[_NAME], A.float()


class _Dora(Scaled):
    """A layer of DoRA."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._low_rank = layer, _Lora(layer, begun=False)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """A, B and g."""
        magnitude: Tensor = self._layer.lora_magnitude_vector[_NAME].weight
        return (*self._low_rank.trained, magnitude)

    @property
    def decaying(self) -> tuple[Tensor, ...]:
        """A and B."""
        return self._low_rank.trained

    @property
    def stored(self) -> Stored:
        """Q."""
        return self._low_rank.stored

    def low_rank(self, leaves: Leaves) -> Factors:
        """See the base class."""
        return self._low_rank.factors(leaves)


class _AdaLora(LowRank):
    """A layer of AdaLoRA, whose triplets are masked by zeros in E."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._stored = layer, _Frozen(layer)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """A, E (r, 1) and B."""
        layer = self._layer
        return layer.lora_A[_NAME], layer.lora_E[_NAME], layer.lora_B[_NAME]

    @property
    def decaying(self) -> tuple[Tensor, ...]:
        """E."""
        return (self._layer.lora_E[_NAME],)

    @property
    def stored(self) -> Stored:
        """Q."""
        return self._stored

    def factors(self, leaves: Leaves) -> Factors:
        """See the base class."""
        A, E, B = (leaf.float() for leaf in leaves)
        rank = float(self._layer.ranknum[_NAME]) + 1e-5  # as PEFT divides
        return B * (E[:, 0] * (self._layer.scaling[_NAME] / rank)), A


def layers_of(config: RunConfig, model: DenseModel, peft: Any) -> dict[str, Directed]:
    """All linear layers of the decoder blocks, by name.

    Args:
        config: of the run.
        model: the base model.
        peft: PEFT's model around it; None: all weights train.
    """
    if peft is None:
        return model.directed()
    variant = config.peer.variant
    found: dict[str, Directed] = {}
    for name, layer in peers.adapted(peft).items():
        if variant == "adalora":
            found[name] = _AdaLora(layer)
        elif variant == "dora":
            found[name] = _Dora(layer)
        else:
            found[name] = _Lora(layer, begun=variant in ("pissa", "loftq"))
    return found
