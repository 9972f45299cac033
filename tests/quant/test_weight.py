import pytest
import torch

from core.errors import ConfigError
from core.quant.packing import unpack
from core.quant.schemes import NF4, Scheme
from core.quant.weight import QuantizedWeight

SCHEMES = [Scheme(b) for b in (2, 3, 4, 8, 16)] + [Scheme(4, 64, "nf4")]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(24, 128), (7, 100)])
def test_stored_bytes_equal_the_table(scheme, shape):
    stored = QuantizedWeight.from_dense(torch.randn(shape), scheme)
    assert stored.stored_bytes() == scheme.stored_bytes(*shape)
    assert stored.dequantize().shape == shape


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rows_equal_rows_of_the_whole(scheme):
    stored = QuantizedWeight.from_dense(torch.randn(40, 96), scheme)
    index = torch.tensor([3, 3, 39, 0])
    assert torch.equal(stored.rows(index), stored.dequantize()[index])
    assert torch.equal(stored.rows(slice(8, 24)), stored.dequantize()[8:24])


def test_more_bits_lose_less():
    weight = torch.randn(64, 256)
    errors = [
        float((QuantizedWeight.from_dense(weight, Scheme(b)).dequantize() - weight).norm())
        for b in (2, 3, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * float(weight.norm())


def test_no_weight_moves_by_more_than_half_a_step():
    weight = torch.randn(16, 64)
    stored = QuantizedWeight.from_dense(weight, Scheme(4))
    step = stored.scale.float()[:, None]
    assert ((stored.dequantize() - weight).abs() <= 0.51 * step + 1e-6).all()


@pytest.mark.parametrize("group", [64, 128])
def test_nf4_equals_bitsandbytes_to_the_last_bit(group):
    """Codes, scales in float32 and values, also for a group of zeros and values between codes."""
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(32, 256)
    weight[0, :group] = 0
    weight[1, :16] = NF4 * weight[1, 16:group].abs().max()
    packed, state = functional.quantize_4bit(weight, blocksize=group, quant_type="nf4")
    ours = QuantizedWeight.from_dense(weight, Scheme(4, group, "nf4"))
    assert ours.scale.dtype == state.absmax.dtype == torch.float32
    assert torch.equal(ours.scale, state.absmax)
    high, low = packed.flatten() >> 4, packed.flatten() & 15
    theirs = torch.stack([high, low], 1).view(-1, group)
    assert torch.equal(unpack(ours.codes, 4, group), theirs)
    assert torch.equal(ours.dequantize(), functional.dequantize_4bit(packed, state))


def test_unknown_widths_are_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="5 bits"):
        Scheme(5)
