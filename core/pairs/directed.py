"""What penalties on directions and balanced decay see of the layers of method ``pairs``.

Their scale s is a constant, so U and V train, and a magnitude g where there is one. The head has no
direction to keep, and does not decay.
"""

from __future__ import annotations

from torch import Tensor

from core.layers.magnitude import MagnitudeLinear
from core.objectives.directed import Directed, Factors, Leaves, LowRank, Scaled, Stored


class _Factors(LowRank):
    """A layer without a magnitude."""

    def __init__(self, layer: MagnitudeLinear) -> None:
        self._layer = layer

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """U and V."""
        return self._layer.U, self._layer.V

    @property
    def rank(self) -> int:
        """Triplets that are stored."""
        return self._layer.rank

    @property
    def stored(self) -> Stored:
        """Q."""
        return self._layer.quantized

    def factors(self, leaves: Leaves) -> Factors:
        """See the base class."""
        U, V = leaves
        return U * (self._layer.s.detach() * self._layer.m), V


class _Scaled(Scaled):
    """A layer with a magnitude."""

    def __init__(self, layer: MagnitudeLinear) -> None:
        self._layer, self._plain = layer, _Factors(layer)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """U, V and g."""
        assert self._layer.magnitude is not None
        return (*self._plain.trained, self._layer.magnitude)

    @property
    def decaying(self) -> tuple[Tensor, ...]:
        """U and V."""
        return self._plain.trained

    @property
    def rank(self) -> int:
        """Triplets that are stored."""
        return self._layer.rank

    @property
    def stored(self) -> Stored:
        """Q."""
        return self._plain.stored

    def low_rank(self, leaves: Leaves) -> Factors:
        """See the base class."""
        return self._plain.factors(leaves)


def layers_of(layers: dict[str, MagnitudeLinear]) -> dict[str, Directed]:
    """All adapted layers, by name."""
    return {
        name: _Factors(layer) if layer.magnitude is None else _Scaled(layer)
        for name, layer in layers.items()
    }
