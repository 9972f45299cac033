"""``python -m benchmarks.health``: the whole health check by the size of the class.

Rows are made when they are asked for, as those of a file on disk are, so that the peak of memory is
that of the check alone. A tenth of them repeat the row before, half of these with one word changed;
one in a hundred holds an e-mail address. Each size is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import write_results
from core.data.health import examine
from core.data.types import Example
from core.home import CHECKOUT
from core.process import peak_bytes, resident_bytes

SIZES = (10_000, 100_000, 1_000_000)
WORDS, LETTERS = 20_000, "aeioubdfgklmnprst"
MIB = 2**20


class Rows(Sequence[Example]):
    """A class of ``n`` rows; each depends on its number alone."""

    def __init__(self, n: int) -> None:
        """Make the vocabulary."""
        self.n = n
        draw = random.Random(1)
        self.words = ["".join(draw.choices(LETTERS, k=draw.randint(3, 9))) for _ in range(WORDS)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.n

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # never asked for slices
        """Return row ``i``."""
        if not 0 <= i < self.n:
            raise IndexError(i)
        draw = random.Random(i - 1 if i % 10 == 9 else i)
        words = draw.choices(self.words, k=draw.randint(10, 25))
        if i % 20 == 19:
            words[len(words) // 2] = self.words[i % WORDS]
        answer = "write to anna@example.org" if i % 100 == 50 else " ".join(words[:5][::-1])
        return Example.pair(" ".join(words) + "?", answer, f"row {i + 2}")


def measured(n: int) -> dict[str, Any]:
    """Check a class of ``n`` rows in this process."""
    rows = Rows(n)
    idle = resident_bytes()
    wall, cpu = time.monotonic(), time.process_time()
    counts = examine(rows).counts
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {
        "rows": n,
        "cpu_seconds": round(cpu, 2),
        "seconds": round(wall, 2),
        "rows_per_cpu_second": round(n / cpu),
        "added_mib": round((peak_bytes() - idle) / MIB, 1),
        "duplicates": counts["duplicates"] + counts["contradictions"],
        "near_duplicates": counts["near_duplicates"],
        "e_mails": counts["personal"].get("e-mail address", 0),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sizes and write the table."""
    parser = argparse.ArgumentParser(description="the whole health check by the size of the class")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "benchmarks" / "results")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        sys.stdout.write(json.dumps(measured(options.child)) + "\n")
        return 0
    found = []
    for n in options.rows:
        command = [sys.executable, "-m", "benchmarks.health", "--child", str(n)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        sys.stderr.write(f"{found[-1]}\n")
    write_results(options.out, "health", {"sizes": found}, table(found))
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the measurements as Markdown."""
    names = list(found[0])
    head = f"| {' | '.join(n.replace('_', ' ') for n in names)} |"
    lines = [f"| {' | '.join(f'{f[n]:,}' for n in names)} |" for f in found]
    return "\n".join([head, f"|{' --- |' * len(names)}", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
