"""The memory of a step, measured on a few blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core import workspace
from core.plan import memory


def test_a_step_is_measured_alike_whatever_ran_before(tiny: Callable[[str], Path]) -> None:
    path = tiny("llama")
    workspace.forget()
    first = memory.measure_step(path)
    again = memory.measure_step(path)
    assert first == again


def test_more_tokens_and_kept_activations_hold_more(tiny: Callable[[str], Path]) -> None:
    step = memory.measure_step(tiny("llama"))
    for recomputed in (0, 1, 2):
        held = [step.at(tokens, recomputed) for tokens in (32, 64, 256, 1024)]
        assert held == sorted(held)
        assert held[0] > 0
    assert step.at(1024, 2) < step.at(1024, 0)


def test_the_counted_step_is_that_of_a_whole_model_however_many_blocks_are_recomputed(
    tiny: Callable[[str], Path],
) -> None:
    path = tiny("llama")
    whole = memory.probe_model(path, 2)
    step = memory.measure_step(path)
    for recomputed in (0, 1, 2):
        whole.recompute(recomputed)
        for tokens in (100, 300):
            found = max(memory.peaks(whole, tokens)) + step.shared(tokens)
            assert step.at(tokens, recomputed) == pytest.approx(found, rel=0.1)
