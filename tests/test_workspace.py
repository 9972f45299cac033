"""Memory that is used again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core import workspace

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    workspace.forget()
    yield
    workspace.forget()


def _take(room: workspace.Frame, n: int) -> torch.Tensor:
    return room.take(n, dtype=torch.float32, device=CPU)


def test_what_is_lent_at_the_same_time_never_overlaps_and_later_frames_reuse_it() -> None:
    for _ in range(3):  # the first round makes the block
        with workspace.frame() as room:
            outer = _take(room, 1000).fill_(1.0)
            with workspace.frame() as inner:
                one = _take(inner, 500).fill_(2.0)
                two = _take(inner, 7).fill_(3.0)
                first = one.data_ptr()
            with workspace.frame() as inner:
                again = _take(inner, 500).fill_(4.0)
            assert (outer == 1.0).all()
            assert (two == 3.0).all()
    assert again.data_ptr() == first
    assert workspace.stack_bytes() == 4 * 1000 + 32 + 4 * 500 + 48 + 64


def test_the_block_grows_to_the_most_that_was_ever_lent_at_once() -> None:
    for n in (10, 5000, 20):
        for _ in range(2):
            with workspace.frame() as room:
                _take(room, n).fill_(0.0)
    assert workspace.stack_bytes() == 5000 * 4 + 32
    workspace.forget()
    assert workspace.stack_bytes() == 0


def test_a_frame_that_ends_with_an_error_gives_its_memory_back() -> None:
    with pytest.raises(ValueError, match="x"), workspace.frame() as room:
        _take(room, 100)
        raise ValueError("x")
    with workspace.frame() as room:
        a = _take(room, 100)
    with workspace.frame() as room:
        assert _take(room, 100).data_ptr() == a.data_ptr()


def test_kept_tensors_are_copies_that_the_next_of_the_name_overwrites() -> None:
    x = torch.arange(6.0).view(2, 3)
    first = workspace.kept("a", x, torch.float16)
    other = workspace.kept("b", x, torch.float32)
    x.zero_()
    assert first.dtype == torch.float16
    assert first.tolist() == other.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert workspace.kept("a", x[:1], torch.float16).data_ptr() == first.data_ptr()
    assert workspace.kept_bytes() == 6 * 2 + 6 * 4


def test_autograd_notices_a_kept_tensor_that_was_overwritten_too_early() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(workspace.kept("x", x, x.dtype))
            return x * x

        @staticmethod
        def backward(ctx, dy):
            return 2 * ctx.saved_tensors[0] * dy

    x = torch.ones(3, requires_grad=True)
    early = Square.apply(x).sum()
    Square.apply(x).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        early.backward()
