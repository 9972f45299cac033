"""The memory of a step, measured on a few blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.plan import memory
from core.quant.weight import forget_work_space


def test_a_step_is_measured_alike_whatever_ran_before(tiny: Callable[[str], Path]) -> None:
    path = tiny("llama")
    forget_work_space()
    first = memory.measure_step(path)
    again = memory.measure_step(path)
    assert first == again


def test_more_tokens_and_kept_activations_hold_more(tiny: Callable[[str], Path]) -> None:
    step = memory.measure_step(tiny("llama"))
    for switch in ("on", "off"):
        held = [step.at(tokens, switch) for tokens in (32, 64, 256, 1024)]
        assert held == sorted(held)
        assert held[0] > 0
    assert step.at(1024, "on") < step.at(1024, "off")
