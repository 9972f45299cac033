"""Terms are divided by their own size, fade, and leave out what does not count."""

import pytest

from core.config import DistillConfig
from core.distill.own import is_own
from core.distill.weights import FIRST_STEPS, FLOOR, Scales, weights


def test_features_and_relations_fade_to_nothing_and_the_others_stay():
    config = DistillConfig(feature_weight=0.2, attention_weight=0.4, fade=0.5)
    found = [weights(config, step, 20, own=False) for step in range(21)]
    assert (
        found[0] == found[10] == {"answers": 0.3, "output": 0.5, "features": 0.2, "relations": 0.4}
    )
    assert found[15]["features"] == pytest.approx(0.1)
    assert found[20] == {"answers": 0.3, "output": 0.5}
    features = [w.get("features", 0.0) for w in found]
    assert features == sorted(features, reverse=True)


def test_own_answers_are_nothing_to_imitate():
    assert "answers" not in weights(DistillConfig(), 5, 10, own=True)
    assert "output" in weights(DistillConfig(), 5, 10, own=True)


def test_a_scale_is_the_mean_of_the_first_steps():
    scales = Scales()
    scales.prime({"output": 4.0})
    assert scales.of("output") == 4.0
    for step in range(FIRST_STEPS + 20):
        scales.add({"output": 2.0 if step < FIRST_STEPS else 100.0})
    assert scales.of("output") == pytest.approx(2.0)
    again = Scales.from_json(scales.to_json())
    assert again == scales


def test_what_is_nearly_nothing_is_not_blown_up():
    scales = Scales()
    scales.prime({"output": 1e-9})
    assert scales.of("output") == FLOOR


def test_own_steps_are_the_same_each_time_and_about_as_many_as_asked():
    config = DistillConfig(own_share=0.25, own_from=0.3)
    chosen = [is_own(config, 7, step, 4000) for step in range(4000)]
    assert chosen == [is_own(config, 7, step, 4000) for step in range(4000)]
    assert not any(chosen[:1200])
    assert 0.2 < sum(chosen[1200:]) / 2800 < 0.3
    assert not any(is_own(DistillConfig(own_share=0.0), 7, step, 100) for step in range(100))
