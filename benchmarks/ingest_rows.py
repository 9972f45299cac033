"""``python -m benchmarks.ingest_rows``: rows a second and peak memory of importing a large class.

Files of 10 000, 100 000 and a million rows are made from one seed, imported as ``data --import``
does it, and the quiz is split off by groups of near duplicates. Each figure is taken in a process
of its own. Wall-clock seconds depend on what else the machine does; processor seconds hardly do.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.data.arrow import ArrowExamples
from core.data.ingest.stream import import_rows
from core.data.ondisk import split_on_disk
from core.home import CHECKOUT

SIZES = (10_000, 100_000, 1_000_000)
FORMATS = ("csv", "jsonl")
RESULTS = CHECKOUT / "benchmarks" / "results"
WORDS = [
    *("river", "mountain", "number", "letter", "planet", "animal", "metal", "colour", "shape"),
    *("poem", "song", "sentence", "verb", "noun", "fraction", "angle", "circle", "cell", "plant"),
    *("energy", "force", "light", "sound", "water", "season", "country", "city", "border", "king"),
    *("treaty", "election", "market", "price", "demand", "supply", "author", "theme", "museum"),
]


def made_rows(rows: int) -> Iterator[tuple[str, str]]:
    """Yield question and answer pairs; one in twenty asks again what was asked before."""
    rng = random.Random(0)
    earlier: list[str] = []
    for i in range(rows):
        words = " ".join(rng.choices(WORDS, k=10))
        question = f"Question {i}: how do {words} belong together?"
        if i % 20 == 19:
            question = rng.choice(earlier)
        elif len(earlier) < 5000:
            earlier.append(question)
        yield question, f"They belong together since {words}, as lesson {i % 97} explains."


def write_file(path: Path, rows: int) -> None:
    """Write a class file of made rows; its ending says as what."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(("question", "answer"))
            writer.writerows(made_rows(rows))
            return
        for question, answer in made_rows(rows):
            said = (("user", question), ("assistant", answer))
            messages = [{"role": role, "content": text} for role, text in said]
            file.write(json.dumps({"messages": messages}) + "\n")


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Measure what happens inside: seconds, processor seconds, and the peak of memory.

    ``peak_mb`` is what the process itself holds (``RssAnon`` on Linux, looked at every 20 ms);
    pages of mapped files are the system's to take back. ``resident_mb`` counts these too.
    """
    found: dict[str, float] = {}
    ended = threading.Event()
    peak = [0.0]

    def look() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], own_mb())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    found["seconds"] = time.perf_counter() - wall
    found["cpu_seconds"] = time.process_time() - cpu
    ended.set()
    looking.join()
    found["peak_mb"] = max(peak[0], own_mb())
    found["resident_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_mb() -> float:
    """Return the process's own memory in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def measure_import(file: Path, arrow: Path) -> dict[str, float]:
    """Import a file and say what it took."""
    with watched() as found:
        about = import_rows(file, arrow)
    return {**found, "examples": about.examples}


def measure_split(_file: Path, arrow: Path) -> dict[str, float]:
    """Split a quiz off an imported class and say what it took."""
    with watched() as found:
        sides = split_on_disk(ArrowExamples(arrow), share=0.15, largest=40, seed=0)
    return {**found, "examples": len(sides.train) + len(sides.quiz)}


STAGES: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "import": measure_import,
    "split": measure_split,
}


def measured(stage: str, file: Path, arrow: Path) -> dict[str, float]:
    """Run a stage in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ingest_rows", "--stage", stage]
    done = subprocess.run(
        [*command, str(file), str(arrow)], cwd=CHECKOUT, check=True, capture_output=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Return the runs as a page."""
    lines = [
        "# Importing a large class",
        "",
        "One run each; rows/s by processor seconds; peak: what the process itself holds.",
        "",
        "| format | stage | rows | processor seconds | seconds | rows/s | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        rate = run["rows"] / max(run["cpu_seconds"], 1e-9)
        figures = f"{run['cpu_seconds']:.1f} | {run['seconds']:.1f} | {rate:,.0f}"
        lines.append(
            f"| {run['format']} | {run['stage']} | {run['rows']:,} | {figures} "
            f"| {run['peak_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def run_all(sizes: list[int], formats: list[str], results: Path) -> None:
    """Measure every size and format and write ``ingest-rows.md`` and ``.json``."""
    runs: list[dict[str, Any]] = []
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for rows in sizes:
            for kind in formats:
                file, arrow = Path(work) / f"class.{kind}", Path(work) / "class.arrow"
                write_file(file, rows)
                for stage in STAGES if kind == formats[0] else ["import"]:
                    found = measured(stage, file, arrow)
                    runs.append({"format": kind, "stage": stage, "rows": rows, **found})
                    (results / "ingest-rows.json").write_text(json.dumps(runs, indent=1) + "\n")
                    (results / "ingest-rows.md").write_text(table(runs))
                file.unlink()


def main() -> int:
    """Run all stages, or the one that a child was started for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="ROWS")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        sys.stdout.write(json.dumps(STAGES[options.stage](*options.paths)))
        return 0
    run_all(options.sizes, options.formats, options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
