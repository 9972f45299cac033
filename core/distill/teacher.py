"""The teacher's answers: asked in every step, or kept on disk.

What is kept of each answer token are the likeliest tokens, their log-probabilities and that of all
others together: 6 bytes a kept token. The folder is named by what it was made from, so that another
model, class, template or temperature never meets an old one.

Shapes: N answer tokens, k kept tokens, v vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.assemble import shifted
from core.data.chat import IGNORED, Encoded
from core.data.packing import Row, pack_rows
from core.dense import DenseModel
from core.errors import ModelError
from core.home import cache_folder
from core.manifest import check_manifest, read_manifest, sha256_of, whole_folder, write_manifest
from core.modelcheck import weight_files
from core.objectives.distillation import largest_with_tail
from core.objectives.head import each_chunk

VERSION = 1
FOLDER = "teachers"


def model_sha256(path: Path) -> str:
    """SHA-256 over a model folder's configuration and weights (from its manifest if it has one)."""
    listed = read_manifest(path).get("files", {})
    digest = hashlib.sha256()
    for file in (path / "config.json", *weight_files(path)):
        known = listed.get(file.name, {}).get("sha256")
        digest.update(f"{file.name} {known or sha256_of(file)}\n".encode())
    return digest.hexdigest()


def data_sha256(encoded: Sequence[Encoded], shared: int) -> str:
    """SHA-256 over tokens and labels of the examples, and the beginning that rows hold once."""
    digest = hashlib.sha256(str(shared).encode())
    for e in encoded:
        digest.update(json.dumps([e.ids, e.labels]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class TeacherCache:
    """The teacher's softened probabilities of every answer token of a class.

    Attributes:
        ids: kept tokens (N, k).
        logs: log-probabilities (N, k) fp16 of the kept tokens.
        tail: log-probability (N,) fp32 of all others together.
        starts: first answer token of each example, and N at the end.
    """

    ids: Tensor
    logs: Tensor
    tail: Tensor
    starts: Tensor

    def of_row(self, row: Row) -> tuple[Tensor, Tensor]:
        """Kept tokens (n, k) and log-probabilities with the tail's (n, k + 1) of a row's answers.

        Half precision is put right again: the probabilities add up to one.
        """
        spans = [range(*self.starts[i : i + 2].tolist()) for i in row.members]
        index = torch.tensor([n for span in spans for n in span], dtype=torch.long)
        logs = torch.cat([self.logs[index].float(), self.tail[index, None]], -1)
        return self.ids[index].long(), logs - logs.logsumexp(-1, keepdim=True)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(t.nbytes for t in (self.ids, self.logs, self.tail, self.starts))


def cached(
    teacher: Callable[[], DenseModel],
    path: Path,
    encoded: Sequence[Encoded],
    *,
    shared: int,
    k: int,
    temperature: float,
    vocabulary: int,
    row_tokens: int,
    on_done: Callable[[float], None] = lambda share: None,
) -> TeacherCache:
    """The cache of a teacher and a class: read from disk, or made and kept there.

    Args:
        teacher: loads the teacher; only called if there is no whole cache yet.
        path: the teacher's folder.
        encoded: training examples.
        shared: tokens that rows hold once.
        k: tokens to keep.
        temperature: of the softening.
        vocabulary: tokens of which probabilities are compared; heads may have unused rows.
        row_tokens: tokens of a forward pass.
        on_done: hears the share done.

    Raises:
        OSError: if the disk is full.
    """
    facts = [VERSION, model_sha256(path), data_sha256(encoded, shared), k, temperature, vocabulary]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    folder = cache_folder() / FOLDER / key
    found = _read(folder)
    if found is not None:
        return found
    made = _ask(
        teacher(), pack_rows(encoded, row_tokens, shared), k, temperature, vocabulary, on_done
    )
    folder.parent.mkdir(exist_ok=True)
    with whole_folder(folder) as temporary:
        tensors = {name: getattr(made, name) for name in ("ids", "logs", "tail", "starts")}
        save_file(tensors, temporary / "teacher.safetensors")
        write_manifest(temporary, k=k, temperature=temperature)
    return made


def _read(folder: Path) -> TeacherCache | None:
    """A whole cache, or None."""
    if not (folder / "teacher.safetensors").is_file():
        return None
    try:
        if not check_manifest(folder, contents=True):
            return None
        return TeacherCache(**load_file(folder / "teacher.safetensors"))
    except (ModelError, OSError, ValueError, TypeError):
        return None  # damaged: made anew


def _ask(
    teacher: DenseModel,
    rows: Sequence[Row],
    k: int,
    temperature: float,
    vocabulary: int,
    on_done: Callable[[float], None],
) -> TeacherCache:
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for done, row in enumerate(rows, 1):
        ids, logs = row_answers(teacher, row, k, temperature, vocabulary)
        counts = answer_counts(row)
        parts = zip(row.members, ids.split(counts), logs.split(counts), strict=True)
        found |= {member: (i.to(torch.int32), p) for member, i, p in parts}
        on_done(done / len(rows))
    ordered = [found[i] for i in range(len(found))]
    starts = torch.tensor([0, *(len(i) for i, _ in ordered)]).cumsum(0)
    logs = torch.cat([p for _, p in ordered])
    return TeacherCache(
        torch.cat([i for i, _ in ordered]).contiguous(),
        logs[:, :-1].half().contiguous(),
        logs[:, -1].float().contiguous(),
        starts,
    )


def answer_counts(row: Row) -> list[int]:
    """Learned tokens of each segment of a row."""
    counts, at = [], row.shared
    for length in row.lengths:
        counts.append(sum(label != IGNORED for label in row.labels[at : at + length]))
        at += length
    return counts


@torch.no_grad()
def row_answers(
    teacher: DenseModel, row: Row, k: int, temperature: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Likeliest tokens (n, k) and softened log-probabilities with the tail's (n, k + 1), on CPU."""
    device = teacher.device
    hidden = teacher.hidden(
        torch.tensor(row.ids, device=device), torch.tensor(row.position_ids, device=device)
    )
    learned = shifted(torch.tensor(row.labels, device=device)) != IGNORED
    parts: list[tuple[Tensor, Tensor]] = []

    def see(logits: Tensor, part: slice) -> None:
        ids, logs = largest_with_tail((logits[:, :vocabulary] / temperature).log_softmax(-1), k)
        parts.append((ids.cpu(), logs.cpu()))

    each_chunk(hidden[learned], teacher.head, see)
    return torch.cat([i for i, _ in parts]), torch.cat([p for _, p in parts])
