"""Large class files: imported once into a folder, in a child process, and read from there.

The folder holds ``examples.arrow`` (:mod:`core.data.arrow`) and ``import.json`` with everything
that was found out about the file. It appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from core.data.arrow import ArrowExamples
from core.data.ingest.isolated import MEMORY_EXIT, error_from_json, problem_from_json
from core.data.ingest.stream import Imported, Progress
from core.data.messages import data_error
from core.errors import DataError, Stopped
from core.home import CHECKOUT
from core.whole import sync_folder

EXAMPLES, MANIFEST = "examples.arrow", "import.json"
VERSION = 1
MEMORY_LIMIT = 2 * 2**30  # bytes of address space, most of which Arrow only reserves
STALLED = 60.0  # seconds without a sign of life
ASK = 0.2  # seconds between two questions whether to stop


@dataclass(frozen=True)
class Large:
    """An imported class.

    Attributes:
        examples: on disk.
        about: what was found out about the file, as for a small one.
    """

    examples: ArrowExamples
    about: Imported


def is_imported(path: Path) -> bool:
    """Say whether a path is a folder of an imported class (without checking it)."""
    return (path / MANIFEST).is_file()


def import_isolated(
    path: Path,
    folder: Path,
    *,
    question: str = "",
    answer: str = "",
    encoding: str = "",
    columns: Mapping[str, Sequence[str]] | None = None,
    label: str = "",
    progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Large:
    """Import a file as :func:`~core.data.ingest.stream.import_rows` does, in a child process.

    Args:
        path: a text table, JSON Lines or Parquet.
        folder: to make; an import that is there already is replaced when this one is whole.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.
        encoding: of the text; empty: recognised.
        columns: the columns of every part; see :func:`core.data.ingest.read_file`.
        label: how the file is called in messages; empty: its name.
        progress: is told rows, bytes and seconds about five times a second.
        should_stop: is asked as often; true ends the child, and nothing is kept.

    Raises:
        DataError: if nothing in the file can be used, or its reader crashed or hung.
        Stopped: if that was asked for.
        OSError: if the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    options = {"question": question, "answer": answer, "encoding": encoding, "label": label}
    listed = None if columns is None else {part: list(names) for part, names in columns.items()}
    request = {
        "path": str(path.absolute()),
        "to": str(staging / EXAMPLES),
        "memory_limit": MEMORY_LIMIT,
        "options": {**options, "columns": listed},
    }
    try:
        about = _watched(request, label or path.name, progress, should_stop)
        _write_manifest(staging, about)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return load(folder)


def load(folder: Path, *, verify: bool = False) -> Large:
    """Open an imported class.

    Args:
        folder: of :func:`import_isolated`.
        verify: whether to read the whole file and compare its hash.

    Raises:
        DataError: if a part is missing or was changed.
    """
    path = folder / EXAMPLES
    try:
        tree = json.loads((folder / MANIFEST).read_text("utf-8"))
        if tree["version"] != VERSION or path.stat().st_size != tree["bytes"]:
            raise ValueError
        if verify and _sha256(path) != tree["sha256"]:
            raise ValueError
        return Large(ArrowExamples(path), from_json(tree["about"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise data_error("large.damaged", folder.name) from error


def not_edited() -> DataError:
    """Return why the rows of an imported class cannot be changed one by one."""
    return data_error("large.not_edited")


def summary(about: Imported) -> dict[str, Any]:
    """Return what ``data --import --json`` prints; the rows of the preview are not listed."""
    tree = to_json(about)
    del tree["shown"]
    return tree


def to_json(about: Imported) -> dict[str, Any]:
    """Return what was found out about a file, for JSON."""
    return {**asdict(about), "problems": [p.to_json() for p in about.problems]}


def from_json(tree: dict[str, Any]) -> Imported:
    """Rebuild from :func:`to_json`."""
    rebuilt = {
        "columns": tuple(tree["columns"]),
        "parts": {part: tuple(names) for part, names in tree["parts"].items()},
        "shown": [tuple(row) for row in tree["shown"]],
        "problems": tuple(map(problem_from_json, tree["problems"])),
    }
    return Imported(**{**tree, **rebuilt})


def _write_manifest(folder: Path, about: Imported) -> None:
    path = folder / EXAMPLES
    tree = {
        "version": VERSION,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
        "about": to_json(about),
    }
    (folder / MANIFEST).write_text(json.dumps(tree, ensure_ascii=False), "utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _watched(
    request: dict[str, Any],
    where: str,
    progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Imported:
    """Run the child, pass its progress on, and return what it found."""
    with _child(request) as (child, lines):
        silent = 0.0
        while True:
            if should_stop():
                raise Stopped("The import was stopped; nothing was kept.", code="import.stopped")
            try:
                line = lines.get(timeout=ASK)
            except queue.Empty:
                silent += ASK
                if silent > STALLED:
                    seconds = f"{STALLED:g}"
                    raise data_error("file.timeout", where, seconds=seconds) from None
                continue
            silent = 0.0
            if line is None:
                code = "file.memory" if child.wait() == MEMORY_EXIT else "file.crashed"
                raise data_error(code, where)
            said = json.loads(line)
            if "progress" in said:
                progress(Progress(**said["progress"]))
            elif "error" in said:
                raise error_from_json(said["error"])
            else:
                return from_json(said["imported"])


@contextlib.contextmanager
def _child(
    request: dict[str, Any],
) -> Iterator[tuple[subprocess.Popen[bytes], queue.Queue[bytes | None]]]:
    """Start the child and a thread that collects its lines; end both in any case."""
    command = [sys.executable, "-X", "utf8", "-m", "core.data.ingest.large_child"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=CHECKOUT
    )
    lines: queue.Queue[bytes | None] = queue.Queue()
    assert child.stdin is not None
    assert child.stdout is not None
    reader = threading.Thread(target=_collect, args=(child.stdout, lines), daemon=True)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode())
            child.stdin.close()
        yield child, lines
    finally:
        child.kill()
        child.wait()
        reader.join()
        child.stdout.close()


def _collect(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
