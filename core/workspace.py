"""Memory that is used again and again, because fresh pages cost more time than what fills them.

Two kinds, both of one thread:

* A *frame* lends tensors that live only inside one step of the forward or backward pass. All
  frames share one block of memory, used as a stack: what the loss needs lies where the MLP's
  tensors lay before.
* A *kept* tensor waits for the backward pass of its block and is overwritten in the next step.

Autograd notices if one is overwritten too early, since it counts the changes of what it saves.
On other devices than the processor both are plain tensors: their allocators reuse memory already.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ALIGNED = 64  # bytes, as the library aligns its own tensors


class _Stack(threading.local):
    """The block that frames share."""

    def __init__(self) -> None:
        self.block: Tensor | None = None
        self.top = 0  # bytes in use
        self.most = 0  # bytes ever in use at once
        self.kept: dict[str, Tensor] = {}


_stack = _Stack()


class Frame:
    """Lends tensors that are not initialised and are valid until the frame ends."""

    def take(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of this shape."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        size = math.prod(shape) * dtype.itemsize
        begin, _stack.top = _stack.top, _stack.top + -(-size // ALIGNED) * ALIGNED
        _stack.most = max(_stack.most, _stack.top)
        if _stack.block is None or _stack.top > len(_stack.block):
            return torch.empty(shape, dtype=dtype, device=device)  # the block grows when it is free
        return _stack.block[begin : begin + size].view(dtype).view(shape)

    def like(self, other: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the shape of ``other``."""
        return self.take(*other.shape, dtype=dtype or other.dtype, device=other.device)


@contextmanager
def frame() -> Iterator[Frame]:
    """Lend tensors until the end of the ``with`` block; frames may be nested."""
    begin = _stack.top
    if begin == 0 and _stack.most > (0 if _stack.block is None else len(_stack.block)):
        _stack.block = None
        _stack.block = torch.empty(_stack.most, dtype=torch.uint8)
    try:
        yield _FRAME
    finally:
        _stack.top = begin


_FRAME = Frame()


def kept(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of ``tensor`` in ``dtype`` that is valid until the same name is kept again."""
    if tensor.device.type != "cpu":
        return tensor.to(dtype, copy=True)
    room = _stack.kept.get(name)
    if room is None or room.numel() < tensor.numel() or room.dtype != dtype:
        _stack.kept[name] = room = torch.empty(tensor.numel(), dtype=dtype)
    return room[: tensor.numel()].view(tensor.shape).copy_(tensor)


def stack_bytes() -> int:
    """Bytes of the block that frames share, as the next outermost frame will have it."""
    return max(_stack.most, 0 if _stack.block is None else _stack.block.nbytes)


def kept_bytes() -> int:
    """Bytes of all kept tensors, of the last step or the present one."""
    return sum(b.nbytes for b in _stack.kept.values())


def forget() -> None:
    """Give all of it back; it is made anew where it is needed."""
    _stack.block, _stack.most = None, 0
    _stack.kept.clear()
