"""What a run has been exported to, as found in its folder: the page survives any restart."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("merged", "peft-exact", "peft-learned", "report", "card")
OF_PAIRS = ("merged",)  # what a model that compares questions can be exported to
_FOLDERS = ("merged", "peft-exact", "peft-learned")  # fetched as one archive each


@dataclass(frozen=True)
class Made:
    """A finished export.

    Attributes:
        files: what can be downloaded.
        size: bytes of all of them.
        prompts: questions that the export was checked with after loading it back, 0 if none.
        equal: how many of them it answered as the studio does.
        marks: its marks after loading it back (0 to 100), empty if they were not taken.
    """

    files: tuple[Path, ...]
    size: int
    prompts: int
    equal: int
    marks: str


def folder_of(run_folder: Path, form: str) -> Path:
    """Return where an export of a run is written."""
    return run_folder / "export" / form


def finish(run_folder: Path, form: str, result: dict[str, Any]) -> dict[str, Any]:
    """Make a written export ready for download: archive a folder, note what its check found.

    Args:
        run_folder: folder of the run.
        form: one of ``FORMATS``.
        result: what the export reported: ``files`` and ``checked``.
    """
    folder = folder_of(run_folder, form)
    if form in _FOLDERS:
        offered = [_archive(folder, folder.with_suffix(".zip"))]
    else:
        offered = sorted(path for path in folder.iterdir() if path.is_file())
    note = {
        "files": [path.relative_to(run_folder).as_posix() for path in offered],
        "checked": result.get("checked") or {},
        "marks": result.get("marks") or {},
    }
    part = _note(run_folder, form).with_suffix(".part")
    part.write_text(json.dumps(note, ensure_ascii=False), "utf-8")
    part.replace(_note(run_folder, form))
    return {**result, **note}


def find(run_folder: Path, form: str) -> Made | None:
    """Return a finished export, or ``None`` if there is none (or its files are gone)."""
    try:
        note = json.loads(_note(run_folder, form).read_text("utf-8"))
        files = tuple(run_folder / name for name in note["files"])
        size = sum(path.stat().st_size for path in files)
    except (OSError, ValueError, KeyError):
        return None
    checked = note.get("checked") or {}
    marks = (note.get("marks") or {}).get("rouge_l")
    return Made(
        files,
        size,
        int(checked.get("prompts") or 0),
        int(checked.get("equal") or 0),
        "" if marks is None else f"{100 * float(marks):.0f}",
    )


def _note(run_folder: Path, form: str) -> Path:
    return run_folder / "export" / f"{form}.offered.json"


def _archive(folder: Path, target: Path) -> Path:
    """Write ``folder`` as a ZIP file; weights do not compress, so nothing is."""
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for path in _files(folder):
            archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    return part.replace(target)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
