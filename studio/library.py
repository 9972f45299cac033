"""The class's material: sample classes, uploads, edited rows, and how they are read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from core.config import DataConfig, RunConfig
from core.data.ingest import clean_label, large, read_isolated
from core.data.ingest.large import Large
from core.data.ingest.reader import LARGEST
from core.data.pairs import PairFile, read_pairs
from core.data.types import ReadResult
from core.errors import DataError
from core.home import ASSETS, home
from core.models import ModelInfo
from studio import draft
from studio.text import Words

_DIGEST_PREFIX = 16
_STREAMED = ("csv", "tsv", "jsonl", "parquet", "alpaca", "preference")  # read row by row


@dataclass(frozen=True)
class Sample:
    """A class that comes with the studio; its words are under ``samples.<id>``."""

    id: str
    file: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return ASSETS / "samples" / self.file


SAMPLES = (Sample("en", "english.csv"), Sample("zh", "chinese.csv"))
PAIR_SAMPLES = (Sample("pairs_en", "pairs_english.csv"), Sample("pairs_zh", "pairs_chinese.csv"))


def sample(sample_id: str) -> Sample:
    """Return a sample class by its id.

    Raises:
        DataError: if there is none of that id.
    """
    for known in SAMPLES:
        if known.id == sample_id:
            return known
    raise DataError("There is no such sample class.", where=sample_id[:40], code="data.sample")


def choose_sample(sample_id: str) -> RunConfig:
    """Make a sample class the draft's data; model and settings stay."""
    chosen = sample(sample_id)
    name = Words(chosen.id)(f"samples.{chosen.id}.title")
    return choose(chosen.path, name)


def choose(path: Path, name: str) -> RunConfig:
    """Make a file the draft's data, read as it asks for itself."""
    config = replace(draft.load(), name=name, data=DataConfig(path=str(path)))
    draft.save(config)
    return config


def is_sample(config: RunConfig) -> str:
    """Return the id of the sample class that the draft uses, or an empty text."""
    return next((s.id for s in SAMPLES if str(s.path) == config.data.path), "")


def keep_upload(uploaded: Path, label: str) -> tuple[Path, str]:
    """Copy an upload into the state folder, by its content.

    Args:
        uploaded: Gradio's temporary file, removed afterwards.
        label: the name it had on the teacher's computer.

    Returns:
        The kept file and the cleaned label.

    Raises:
        DataError: if the name shows that it is no class file.
    """
    clean = clean_label(label)
    with uploaded.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_PREFIX]
    folder = home() / "data" / digest
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"class{Path(clean).suffix.lower()}"
    shutil.copyfile(uploaded, kept)
    uploaded.unlink(missing_ok=True)
    return kept, clean


def needs_import(data: DataConfig, label: str) -> bool:
    """Say whether a file is too large to be read as a whole, and can be imported instead.

    Raises:
        DataError: if it could be read as a whole, but nothing in it can be used.
    """
    if Path(data.path).stat().st_size > LARGEST:
        return True
    try:
        found = read(data, label)
    except DataError as error:
        if error.code in ("file.timeout", "file.memory"):
            return True
        raise
    with Path(data.path).open("rb") as file:
        streamed = found.format in _STREAMED and file.read(1) != b"["
    return streamed and any(p.code == "table.too_many_rows" for p in found.problems)


def is_large(data: DataConfig) -> bool:
    """Say whether the class was imported, and lies on disk."""
    return bool(data.path) and large.is_imported(Path(data.path))


def imported(data: DataConfig) -> Large:
    """Return an imported class.

    Raises:
        DataError: if it was changed or damaged.
    """
    folder = Path(data.path)
    return _imported(folder, (folder / large.MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _imported(folder: Path, stamp: int) -> Large:
    return large.load(folder)


def source_of(data: DataConfig) -> Path:
    """Return the file that a large class was imported from.

    Raises:
        DataError: if it is no longer there.
    """
    found = next(Path(data.path).parent.glob("class*"), None)
    if found is None:
        raise _gone("")
    return found


def read(data: DataConfig, label: str = "") -> ReadResult:
    """Read the draft's file in a child process; unchanged files are read once.

    Raises:
        DataError: if nothing in it can be used; carries every finding.
    """
    path = Path(data.path)
    if not path.is_file():
        raise _gone(label or path.name)
    how = replace(data, quiz_share=0.0, max_quiz=0)  # which change nothing in the reading
    return _read(how, path.stat().st_mtime_ns, label)


@lru_cache(maxsize=8)
def _read(data: DataConfig, stamp: int, label: str) -> ReadResult:
    return read_isolated(data.path, **data.reading(), label=label)


def _gone(where: str) -> DataError:
    return DataError(
        "The class file is no longer there.",
        where=where,
        action="Upload it again, or choose a sample class.",
        code="data.gone",
    )


def choose_pairs(path: Path, name: str) -> RunConfig:
    """Make a file the pairs of the task "same question?"; its columns are recognised anew."""
    data, known = DataConfig(path=str(path)), draft.load(draft.PAIRS)
    columns = replace(known.pairs, first="", second="", label="")
    config = replace(known, name=name, data=data, pairs=columns)
    draft.save(config, draft.PAIRS)
    return config


def choose_pair_sample(sample_id: str) -> RunConfig:
    """Make sample pairs the pairs of the task.

    Raises:
        DataError: if there are none of that id.
    """
    for known in PAIR_SAMPLES:
        if known.id == sample_id:
            language = known.id.removeprefix("pairs_")
            return choose_pairs(known.path, Words(language)(f"samples.{known.id}.title"))
    raise DataError("There is no such sample class.", where=sample_id[:40], code="data.sample")


def read_pair_file(path: Path, label: str = "") -> PairFile:
    """Read a file of pairs in a child process; unchanged files are read once.

    Raises:
        DataError: if nothing in it can be used; carries every finding.
    """
    if not path.is_file():
        raise _gone(label or path.name)
    return _read_pairs(path, path.stat().st_mtime_ns, label)


@lru_cache(maxsize=4)
def _read_pairs(path: Path, stamp: int, label: str) -> PairFile:
    return read_pairs(path, name=label)


def model_title(models: Sequence[ModelInfo], model_id: str) -> str:
    """Return a model's title for people."""
    return next((m.title for m in models if model_id in (m.id, m.path)), Path(model_id).name)
