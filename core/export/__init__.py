"""What leaves the studio, each written beside its place, loaded back and checked, then renamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.events import Emit

_KINDS = ("merged", "peft", "peft-learned", "peft-exact")
FORMATS = ("peft", "merged", "peft-learned", "peft-exact", "report", "card")


def export(
    run_folder: Path,
    form: str,
    out: Path,
    *,
    language: str = "en",
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Write one export of a finished run.

    Args:
        run_folder: the run.
        form: one of :data:`FORMATS`; ``peft`` is both adapters, or the one of a run whose adapter
            is PEFT's own.
        out: the folder to make.
        language: ``en`` or ``zh``, of the report.
        emit: hears how far it is.

    Returns:
        ``files[]`` (names inside ``out``), ``checked{prompts, equal}`` and ``marks``.

    Raises:
        ConfigError: for an unknown format, or an ``out`` that holds something else.
        ModelError: if the run is not finished, or the export does not answer as the run does.
        OSError: if the disk is full.
    """
    if form not in FORMATS:
        raise ConfigError(
            f"There is no export format {form[:40]!r}.",
            where="format",
            action=f"Choose one of {', '.join(FORMATS)}.",
            code="export.format",
        )
    _must_be_ours(out, {"report": "report.html", "card": "README.md"}.get(form, ""))
    from core.export.run import open_run

    run = open_run(run_folder)
    if form in ("report", "card"):
        return _page(run, form, out, language)
    if run.library:
        from core.export.peers import export_library

        return export_library(run, form, out, emit)
    from core.export import merged, peft

    make = {
        "merged": merged.export_merged,
        "peft": peft.export_both,
        "peft-learned": peft.export_learned,
        "peft-exact": peft.export_exact,
    }[form]
    return make(run, out, emit)


def _page(run: Any, form: str, out: Path, language: str) -> dict[str, Any]:
    from core.export.card import card
    from core.export.report import write_report
    from core.manifest import whole_folder

    name = "report.html" if form == "report" else "README.md"
    with whole_folder(out) as folder:
        if form == "report":
            write_report(folder / name, run, language)
        else:
            text = card(run, "run", None, {})
            (folder / name).write_text(text, "utf-8", newline="\n")
    return {"files": [name], "checked": {"prompts": 0, "equal": 0}, "marks": {}}


def _must_be_ours(out: Path, page: str) -> None:
    """Refuse to replace anything but an older export: its manifest, or the one ``page``, tells."""
    from core.manifest import read_manifest

    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    older = not names - {page} or str(read_manifest(out).get("kind", "")) in _KINDS
    if out.exists() and not (out.is_dir() and older):
        raise ConfigError(
            "The folder to write is not empty.",
            where=out.name,
            action="Choose a new or empty folder.",
            code="export.not_empty",
        )
