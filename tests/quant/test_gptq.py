import pytest
import torch

from core.quant.gptq import inverse_factor, round_with_feedback
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def correlated_inputs(n: int, i: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(i, i, generator=generator)
    return torch.randn(n, i, generator=generator) @ mix


def output_error(weight, dequantized, x) -> float:
    return float((x @ (weight - dequantized).t()).square().mean())


@pytest.mark.parametrize("shape", [(48, 128), (20, 100)])
def test_feedback_beats_rounding_to_nearest_on_the_outputs(shape):
    torch.manual_seed(0)
    weight, x = torch.randn(shape), correlated_inputs(400, shape[1])
    rounded = round_with_feedback(weight, x.t() @ x / len(x), (2, 3, 4))
    for bits, found in rounded.items():
        ours = found.stored(Scheme(bits), shape[1]).dequantize()
        nearest = QuantizedWeight.from_dense(weight, Scheme(bits)).dequantize()
        assert output_error(weight, ours, x) < 0.8 * output_error(weight, nearest, x)


def test_widths_rounded_together_equal_widths_rounded_alone():
    torch.manual_seed(0)
    weight, x = torch.randn(12, 64), correlated_inputs(200, 64)
    gram = x.t() @ x / len(x)
    together = round_with_feedback(weight, gram, (2, 3, 4))
    for bits in (2, 3, 4):
        alone = round_with_feedback(weight, gram, (bits,))[bits]
        assert torch.equal(together[bits].codes, alone.codes)


def test_inverse_factor_is_a_factor_of_the_inverse():
    x = correlated_inputs(300, 32).double()
    gram = x.t() @ x / len(x)
    upper = inverse_factor(gram, damp=0.0)
    assert torch.allclose(upper.t() @ upper @ gram, torch.eye(32).double(), atol=1e-4)


def test_on_the_grid_already_nothing_changes():
    weight = QuantizedWeight.from_dense(torch.randn(8, 64), Scheme(4)).dequantize()
    found = round_with_feedback(weight, torch.eye(64), (8,))[8]
    assert torch.allclose(found.stored(Scheme(8), 64).dequantize(), weight, atol=0.02)
