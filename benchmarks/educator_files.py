"""``python -m benchmarks.educator_files``: what each real question file gives, as a table in docs.

Every file of ``../shared/data/educator_files`` is read as the studio reads an upload: in a child
process of its own, with its limits. Writes ``docs/reference/educator-files.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data.ingest import read_isolated
from core.errors import DataError, Problem
from core.home import CHECKOUT

FOLDER = CHECKOUT.parent / "shared" / "data" / "educator_files"
PAGE = CHECKOUT / "docs" / "reference" / "educator-files.md"
HEAD = """<!-- Written by benchmarks/educator_files.py; run it again instead of editing. -->

# What real question files give

Question files as teachers and projects publish them, each read as an upload is: in a child process
of its own, with limits of memory and time. {read} of {files} files give {examples} examples; the
others are refused with the sentence in the last column. Seconds are wall-clock and include the
start of the child.{note}

Findings are named by their codes: *w* for what was left out or should be looked at, *i* for what is
only told. Where something is left out, its row stays in the editor, so that an answer can be filled
in.

| file | format | examples | findings | seconds |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a file: a format with a number of examples, or why it was refused."""

    name: str
    form: str
    examples: int
    findings: str
    seconds: float

    @property
    def row(self) -> str:
        """The line of the table."""
        shown = str(self.examples) if self.form else "refused"
        cells = (f"`{self.name}`", self.form, shown, self.findings, f"{self.seconds:.1f}")
        return f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"


def files_in(folder: Path) -> list[Path]:
    """Return the question files below a folder, without notes and expected parses."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != "SOURCE.md")
    return sorted(p for p in found if not p.name.endswith(".expected.json"))


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Read every file and yield what became of it."""
    for path in files_in(folder):
        name = path.relative_to(folder).as_posix()
        start = time.perf_counter()
        try:
            result = read_isolated(path)
        except DataError as error:
            seconds = time.perf_counter() - start
            reasons = [p for p in error.problems if p.code in _REASONS] or error.problems[:1]
            yield Outcome(name, "", 0, reasons[0].what, seconds)
        else:
            seconds = time.perf_counter() - start
            yield Outcome(
                name, result.format, len(result.examples), _counted(result.problems), seconds
            )


_REASONS = ("question.computed", "question.unknown_type", "html.template", "xml.manifest")


def _counted(problems: tuple[Problem, ...]) -> str:
    """Return ``w table.no_answer, i question.html``."""
    return ", ".join(f"{p.severity[0]} {p.code}" for p in problems)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.educator_files"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--note", default="", help="a sentence on how the times were taken")
    options = parser.parse_args()
    found = list(outcomes(options.folder))
    read = [o for o in found if o.form]
    head = HEAD.format(
        read=len(read),
        files=len(found),
        examples=f"{sum(o.examples for o in read):,}",
        note=f" {options.note}".rstrip(),
    )
    options.out.write_text(head + "\n".join(o.row for o in found) + "\n", "utf-8")


if __name__ == "__main__":
    main()
