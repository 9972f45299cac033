"""Recipes in YAML are data: nothing is built, repeated or guessed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.config import RunConfig
from core.errors import ConfigError
from core.recipe import load_recipe, load_settings


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path


def test_values_are_read_as_their_settings_say(tmp_path: Path) -> None:
    text = "lr: 1e-4\nseed: 012\nmodel: no\nrun: no\ntrain:\n  steps: 20\n  epochs: 2\n"
    config, told = load_recipe(recipe(tmp_path, text))
    assert (config.train.lr, config.train.seed, config.train.steps) == (0.0001, 12, 20)
    assert config.model == "no"
    assert [p.where for p in told] == ["lr", "seed", "run"]
    assert "0.0001" in told[0].what
    assert "12" in told[1].what


@pytest.mark.parametrize(("text", "said"), [
    ("lr: !!python/object/apply:os.mkdir [PWNED_CANARY]", "tag"),
    ("lr: !x 1", "tag"),
    ("a: &a [x]\nb: [*a, *a]", "references"),
    ("a: &a x", "references"),
    ("[1, 2]", "no settings"),
    ("lr: [1]", "list"),
    ("lr: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}}", "nested"),
    ("lr: 'open", "YAML"),
    ("", "no settings"),
    ("x: " + "y" * 70_000, "64 KB"),
])  # fmt: skip
def test_what_is_no_plain_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=rf"(?i)recipe.*{said}") as caught:
        load_recipe(recipe(tmp_path, text))
    assert time.monotonic() - begun < 5
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("text", ["lr: much", "seed: 1.5", "lr: .inf", "seed: nan", "lr: 1000"])
def test_a_value_of_another_type_is_refused_by_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text.partition(":")[0]):
        load_recipe(recipe(tmp_path, text))


def test_a_saved_configuration_is_read_as_before(tmp_path: Path) -> None:
    RunConfig(budget_bytes=7).save(tmp_path / "config.json")
    assert load_settings(tmp_path / "config.json") == (RunConfig(budget_bytes=7), [])
