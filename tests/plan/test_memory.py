"""The memory of a step, counted on shapes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from core.plan import memory
from core.quant.weight import forget_work_space


def test_a_step_is_measured_alike_whatever_ran_before(tiny: Callable[[str], Path]) -> None:
    path = tiny("llama")
    forget_work_space()
    first = memory.measure_step(path)
    again = memory.measure_step(path)
    assert first == again


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("llama", torch.bfloat16),
        ("qwen2", torch.float32),
        pytest.param("gemma3", torch.float32, marks=pytest.mark.slow),  # two kinds of block
        pytest.param("gpt2", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_shapes_count_what_real_tensors_hold(
    tiny: Callable[[str], Path], architecture: str, dtype: torch.dtype
) -> None:
    path = tiny(architecture)
    counted = memory.measure_step(path, dtype)
    assert counted == memory.measure_step(path, dtype, nullcontext())
    assert counted.at(512, "on") > 0


def test_what_is_hollow_has_no_memory_and_keeps_masks_real() -> None:
    with memory.Hollow(), memory.LiveBytes() as live:
        x = torch.zeros(10**6, 10**6)  # 4 TB
        mask = torch.arange(8) % 2 == 0
        few = torch.ones(8, 3)[mask]
    assert live.now >= 4 * 10**12
    assert x.shape == (10**6, 10**6)
    assert mask.tolist() == [True, False] * 4
    assert few.shape == (4, 3)


def test_more_tokens_and_kept_activations_hold_more(tiny: Callable[[str], Path]) -> None:
    step = memory.measure_step(tiny("llama"))
    for switch in ("on", "off"):
        held = [step.at(tokens, switch) for tokens in (32, 64, 256, 1024)]
        assert held == sorted(held)
        assert held[0] > 0
    assert step.at(1024, "on") < step.at(1024, "off")
