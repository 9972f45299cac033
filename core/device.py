"""Where a run computes, and how much memory it holds there. Bytes throughout.

On the processor the budget is the resident memory of the training process, as the operating system
counts it (:mod:`core.process`). On a GPU it is device memory: what PyTorch's allocator has
reserved, and an allowance for the CUDA context, which no allocator sees. Host memory does not count
there, and the allocator itself refuses what would pass the budget.

The figures of a GPU have not been compared with a device yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import torch

from core import process
from core.config import MB
from core.errors import ConfigError, MemoryBudgetError

# An allowance, not a measurement: what a context and the libraries' kernels take of a GPU differs
# with GPU and driver.
CONTEXT_BYTES = 512 * MB


def device_of(setting: str) -> torch.device:
    """The device for the setting ``auto``, ``cpu`` or ``cuda``.

    ``auto`` means the processor until training on a GPU has been measured.

    Raises:
        ConfigError: for ``cuda`` where PyTorch can use no GPU.
    """
    if setting != "cuda":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "PyTorch can use no GPU here.",
            where="device",
            action="Choose auto or cpu; python launch.py doctor says what is missing.",
            code="config.no_gpu",
        )
    return torch.device("cuda", torch.cuda.current_device())


def name_of(device: torch.device) -> str:
    """What tells one device from another: measurements of memory hold for one of them."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def total_bytes(device: torch.device) -> int:
    """Memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def held_bytes(device: torch.device) -> int:
    """Memory that this process holds now, of what the budget counts."""
    if device.type == "cuda":
        return CONTEXT_BYTES + torch.cuda.memory_reserved(device)
    return process.resident_bytes()


def peak_bytes(device: torch.device) -> int:
    """High-water mark of :func:`held_bytes`; on a GPU since :func:`within_budget` was entered."""
    if device.type == "cuda":
        return CONTEXT_BYTES + torch.cuda.max_memory_reserved(device)
    return process.peak_bytes()


def release() -> None:
    """Free what only cycles still hold, and give what is free back to system and GPU."""
    process.release()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def within_budget(device: torch.device, budget_bytes: int) -> Iterator[None]:
    """Let PyTorch's allocator for a GPU refuse what would pass the budget (0: none).

    On the processor nothing can refuse it; there the plan alone keeps to the budget.

    Raises:
        MemoryBudgetError: if the allocator refused. The smallest budget that works is not known
            then; the error names a quarter more.
    """
    if device.type != "cuda":
        yield
        return
    total = total_bytes(device)
    allowed = max(0, budget_bytes - CONTEXT_BYTES) if budget_bytes else total
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    except torch.OutOfMemoryError as error:
        free = torch.cuda.mem_get_info(device)[0]
        if not budget_bytes or free < allowed - torch.cuda.memory_reserved(device):
            raise  # the GPU itself is full: other programs hold the rest
        more = budget_bytes * 5 // 4
        raise MemoryBudgetError(
            f"The run does not fit into {budget_bytes / MB:.0f} MB.",
            minimum_budget_bytes=more,
            action=f"Raise the budget to {more / MB:.0f} MB.",
        ) from error
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
