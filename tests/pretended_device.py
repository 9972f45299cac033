"""A device that only pretends: its tensors lie in ordinary memory, but may meet no other tensor.

``python tests/pretended_device.py CONFIG OUT`` does a whole run with its model on that device,
stopped and resumed once, and prints the result. An operation on tensors of two devices, which a GPU
would refuse, is refused here too, so that where every tensor is made can be tested without a GPU.
(Scalars may mix, as they may on a GPU.) It needs a process of its own: torch can register only one
such device, and for good.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from core import pipeline
from core.config import RunConfig
from core.errors import Stopped
from core.plan import memory, planning


class Backend(_DummyBackendModule):
    """What torch asks of the module of a device."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", Backend())
DEVICE = torch.device("pretended", 0)
CPU = torch.device("cpu")
STOP_AT = 5  # steps


class Pretended(torch.Tensor):
    """A tensor that says it is on ``DEVICE``; ``held`` has its numbers."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held):
        self.held = held

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


class OnPretended(TorchDispatchMode):
    """Also operations that make tensors on the device are seen."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


MOVES = ("_to_copy", "copy_")
asked = [0]  # operations on the device


def operate(func, args, kwargs):
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Pretended)]
    name = func.overloadpacket.__name__
    asked[0] += bool(there)
    if there and name not in MOVES:
        here = [t for t in tensors if not isinstance(t, Pretended) and t.dim()]
        if here:
            shapes = [tuple(t.shape) for t in here]
            raise RuntimeError(f"{func} meets {shapes} on the cpu")
    wanted = kwargs.get("device")
    on = bool(there) if wanted is None else torch.device(wanted).type == DEVICE.type
    if wanted is not None and on:
        kwargs = {**kwargs, "device": CPU}
    owner = {id(t.held): t for t in there}
    args, kwargs = tree_map_only(Pretended, lambda t: t.held, (args, kwargs))
    result = func(*args, **kwargs)

    def back(t):  # what an operation changes in place it gives back itself
        return owner.get(id(t)) if id(t) in owner else Pretended(t) if on else t

    return tree_map_only(torch.Tensor, back, result)


class Uncounted:
    """Stands for the counter of bytes: tensors that pretend have no storage to count."""

    now = peak = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def probe(path, device):
    """Step through the measurement here; its figures come from the processor."""
    memory.LiveBytes = Uncounted
    memory.measure_step(path, device, tensors=contextlib.nullcontext())
    return memory.probe(path, CPU)


def main(config: Path, out: Path) -> None:
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) then asks the mode too
    pipeline.device_of = planning.device_of = lambda setting: DEVICE
    planning.probe = probe
    pipeline._quiz = (
        lambda *others: {}
    )  # marks are made in a process of their own, on the processor
    told: list[Any] = []

    def stop_in_the_middle() -> str:
        return "stop" if any(e.kind == "step" and e.step == STOP_AT for e in told) else ""

    with OnPretended():
        with contextlib.suppress(Stopped):
            pipeline.run(RunConfig.load(config), out, told.append, stop_in_the_middle)
        result = pipeline.resume(out, lambda event: None, lambda: "")
    sys.stdout.write(json.dumps({**result, "operations": asked[0]}) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
