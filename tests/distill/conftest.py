"""A teacher of four layers, a class, and both as a distillation sees them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import modelload
from core.data.chat import ChatFormat
from core.data.packing import pack_rows, shared_beginning
from core.data.types import Example

ROWS = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]


@pytest.fixture(scope="session")
def deep(tiny: Callable[[str], Path], tmp_path_factory: Any) -> Callable[[str], Path]:
    """Return a function: architecture -> folder of a random model of four layers."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = _deeper(
                tiny(architecture), tmp_path_factory.mktemp(f"{architecture}-4")
            )
        return made[architecture]

    return make


def _deeper(source: Path, folder: Path) -> Path:
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    config.num_hidden_layers = 4
    for name in ("layer_types", "no_rope_layers"):
        if getattr(config, name, None):
            setattr(config, name, (list(getattr(config, name)) * 2)[:4])
    torch.manual_seed(3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    modelload.load_tokenizer(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lesson_file(tmp_path_factory: Any) -> Path:
    """A class of 24 rows."""
    path: Path = tmp_path_factory.mktemp("class") / "class.csv"
    path.write_text("\n".join(["question,answer", *ROWS]), "utf-8")
    return path


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Eight questions and answers."""
    return [Example.pair(*row.split(",", 1)) for row in ROWS[:8]]


@pytest.fixture
def encoded(deep: Callable[[str], Path], examples: list[Example]) -> Any:
    """Encoded examples, what they begin with, and their rows."""
    chat = ChatFormat.of(modelload.load_tokenizer(deep("llama")))
    found = [chat.encode(e, 64) for e in examples]
    shared = shared_beginning(found)
    return found, shared, pack_rows(found, 96, shared)
