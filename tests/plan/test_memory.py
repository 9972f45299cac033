"""The memory of a step, counted on shapes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from core import workspace
from core.assemble import skeleton
from core.plan import memory


def test_a_step_is_measured_alike_whatever_ran_before(tiny: Callable[[str], Path]) -> None:
    path = tiny("llama")
    workspace.forget()
    first = memory.measure_step(path, tensors=nullcontext())
    again = memory.measure_step(path, tensors=nullcontext())
    assert first == again


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("llama", torch.float32),
        pytest.param("qwen2", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("gemma3", torch.float32, marks=pytest.mark.slow),  # two kinds of block
        pytest.param("gpt2", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_shapes_count_what_real_tensors_hold(
    tiny: Callable[[str], Path], architecture: str, dtype: torch.dtype
) -> None:
    path = tiny(architecture)
    counted = memory.measure_step(path, dtype=dtype)
    assert counted == memory.measure_step(path, dtype=dtype, tensors=nullcontext())
    assert counted.at(512, 0) > 0


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
    step = memory.measure_step(tiny("llama"), tensors=nullcontext())
    for recomputed in (0, 1, 2):
        held = [step.at(tokens, recomputed) for tokens in (32, 64, 256, 1024)]
        assert held == sorted(held)
        assert held[0] > 0
    assert step.at(1024, 2) < step.at(1024, 0)


def test_the_counted_step_is_that_of_a_whole_model_however_many_blocks_are_recomputed(
    tiny: Callable[[str], Path],
) -> None:
    path = tiny("llama")
    whole = memory.probe_model(skeleton(path))
    step = memory.measure_step(path, tensors=nullcontext())
    for recomputed in (0, 1, 2):
        whole.recompute(recomputed)
        for tokens in (100, 300):
            found = max(memory.peaks(whole, tokens)) + step.shared(tokens)
            assert step.at(tokens, recomputed) == pytest.approx(found, rel=0.1)
