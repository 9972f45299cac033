import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.quant.packing import pack, unpack


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@given(groups=st.integers(1, 9), group=st.sampled_from([32, 64, 128]), seed=st.integers(0, 99))
def test_unpack_after_pack_is_exact_and_takes_exactly_its_bits(bits, groups, group, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (groups, group), dtype=torch.uint8, generator=generator)
    packed = pack(codes, bits)
    assert packed.nbytes * 8 == codes.numel() * bits
    assert torch.equal(unpack(packed, bits, group), codes)


def test_a_width_without_planes_is_refused():
    with pytest.raises(ValueError, match="5 bits"):
        pack(torch.zeros(1, 64, dtype=torch.uint8), 5)
