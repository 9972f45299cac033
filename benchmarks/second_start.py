"""``python -m benchmarks.second_start``: seconds until a prepared studio serves its first page.

Needs the environment and the starter model that ``python launch.py`` makes; run it with the Python
that runs ``launch.py``.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from core.home import CHECKOUT

LONGEST = 60  # seconds after which a start has failed


@contextmanager
def started_studio() -> Iterator[int]:
    """Start the studio on a free port; yield its process id once it has served a page.

    Raises:
        RuntimeError: if it ends or serves nothing.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.monotonic()
    studio = subprocess.Popen(
        [sys.executable, CHECKOUT / "launch.py", "--no-browser", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _serves(f"http://127.0.0.1:{port}/"):
            if studio.poll() is not None or time.monotonic() - begun > LONGEST:
                raise RuntimeError("The studio served no page; start it with python launch.py.")
            time.sleep(0.05)
        yield studio.pid
    finally:
        studio.terminate()
        studio.wait(20)


def start_once() -> float:
    """Seconds from the command to the first page."""
    begun = time.monotonic()
    with started_studio():
        return time.monotonic() - begun


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200 and b"<html" in answer.read().lower())
    except (urllib.error.URLError, ConnectionError):
        return False


def main(arguments: list[str]) -> int:
    """Print the median and the spread of several starts."""
    parser = argparse.ArgumentParser(description="Seconds of a second start")
    parser.add_argument("--times", type=int, default=5)
    seconds = [start_once() for _ in range(parser.parse_args(arguments).times)]
    sys.stdout.write(
        f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), "
        f"{len(seconds)} starts\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
