"""Small encoders of the real classes, and a file of pairs that a small model can learn."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")
WORDS = ["cat", "dog", "sun", "sea", "tree", "book", "road", "song", "lamp", "bird"]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: family -> folder of a tiny random encoder."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = _encoder(family, tmp_path_factory.mktemp(family))
        return made[family]

    return make


def _tokenizer(family: str) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS), "What is it? 你好"] * 20, trainer)
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    middle = "[SEP] [SEP]" if "roberta" in family else "[SEP]:0"
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=f"[CLS] $A {middle} $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


def _encoder(family: str, folder: Path) -> Path:
    import transformers

    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 130,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.1,
    }
    if family == "distilbert":
        names = {"hidden_size": "dim", "intermediate_size": "hidden_dim"}
        names |= {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        sizes = {names.get(k, k): v for k, v in sizes.items()}
    if "roberta" in family:
        sizes["type_vocab_size"] = 1
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pair_rows() -> list[tuple[str, str, int]]:
    """Two words each; the same question if the first words agree."""
    rows = []
    for n in range(48):
        a, b = WORDS[n % 10], WORDS[(n * 7 + 3) % 10]
        other = a if n % 2 else b if a != b else WORDS[(n + 1) % 10]
        rows.append((f"what is {a} {n}", f"say {other} {n + 100}", int(n % 2)))
    return rows


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory, pair_rows: Any) -> Path:
    """The rows as a CSV file."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question1", "question2", "label"), *pair_rows])
    return path
