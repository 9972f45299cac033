"""Write the locks: exact versions with hashes, for every platform and Python the studio supports.

``python requirements/compile.py`` keeps what is locked where it still fits; with ``--upgrade`` it
takes the newest versions. Needs ``uv`` and a package index; torch and its CUDA packages stay out
(``overrides.txt`` says why).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PYPROJECT = FOLDER.parent / "pyproject.toml"

HEADER = "# Written by requirements/compile.py; install with --require-hashes --no-deps.\n"
OPTIONS = (
    "--quiet",
    "--universal",
    "--generate-hashes",
    "--python-version=3.11",
    "--no-annotate",
    "--no-header",
    "--no-emit-index-url",
    f"--override={FOLDER / 'overrides.txt'}",
)
LOCKS: dict[str, tuple[str, ...]] = {
    "build.txt": (str(FOLDER / "build.in"),),
    "lock.txt": (str(PYPROJECT), str(FOLDER / "torch.in")),
    "test.txt": (
        str(PYPROJECT),
        str(FOLDER / "torch.in"),
        "--extra=dev",
        f"--constraint={FOLDER / 'lock.txt'}",
    ),
}


def compile_lock(name: str, sources: tuple[str, ...], *, upgrade: bool) -> None:
    """Resolve one lock in place.

    Raises:
        subprocess.CalledProcessError: if there is no solution, or no index answers.
    """
    target = FOLDER / name
    command = ["uv", "pip", "compile", *OPTIONS, *sources, f"--output-file={target}"]
    subprocess.run([*command, "--upgrade"] if upgrade else command, check=True)
    target.write_text(HEADER + target.read_text("utf-8"), "utf-8")


def main() -> None:
    """Write all locks."""
    for name, sources in LOCKS.items():
        compile_lock(name, sources, upgrade="--upgrade" in sys.argv)


if __name__ == "__main__":
    main()
