"""Bad class files from the shared catalogue: what each must lead to, and what must be said."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.data.ingest import clean_label, read_file, read_isolated
from core.data.types import ReadResult
from core.errors import ConfigError, DataError
from core.home import CHECKOUT
from core.recipe import load_recipe

SHARED = Path(__file__).resolve().parents[3] / "shared" / "badfiles"
GROUPS = {"encoding", "csv", "table", "excel", "json", "unicode", "injection", "markup"}
LARGEST = 300  # MB above an idle reader


def rows_of(groups: set[str]) -> list[dict[str, str]]:
    catalogue = SHARED / "catalogue.csv"
    if not catalogue.is_file():
        return []
    with catalogue.open(encoding="utf-8", newline="") as file:
        return [r for r in csv.DictReader(file) if r["group"] in groups and r["file"]]


RECIPES = [r for r in rows_of({"markup"}) if Path(r["file"]).suffix in (".yaml", ".yml")]
FILES = [r for r in rows_of(GROUPS) if r not in RECIPES]
FILES += [r for r in rows_of({"file name"}) if not r["upload_as"]]  # archives with odd names inside
NAMES = [r for r in rows_of({"file name"}) if r["upload_as"]]
pytestmark = pytest.mark.skipif(not FILES, reason="needs ../shared/badfiles beside the checkout")


def said(path: Path, label: str = "") -> tuple[ReadResult | None, str, set[str]]:
    """Return the result, all that a person would read, and the severities."""
    start = time.monotonic()
    result = None
    # a child for each file would take its start-up time each; the dangerous ones are workbooks
    read = read_isolated if path.suffix.startswith(".xls") else read_file
    try:
        result = read(path, label=label)
        problems = list(result.problems)
    except DataError as error:
        problems = error.problems
    assert time.monotonic() - start < 10
    text = "\n".join(p.sentence() for p in problems)
    if result and len(result.examples) == 5:
        text += "\n5 examples"
    return result, text, {p.severity for p in problems}


@pytest.mark.parametrize("row", FILES, ids=[r["id"] for r in FILES])
def test_each_file_leads_to_what_was_promised(row: dict[str, str]) -> None:
    result, text, severities = said(SHARED / "files" / row["file"])
    if row["outcome"] == "reject":
        assert result is None, "should have been refused"
        assert "error" in severities
    else:
        assert result is not None, text
        assert "error" not in severities
        assert severities if row["outcome"] == "accept_warn" else "warning" not in severities, text
    if row["examples"]:
        assert len(result.examples if result else ()) == int(row["examples"])
    for part in filter(None, row["must_mention"].split("|")):
        assert part.casefold() in text.casefold(), text
    assert "Traceback" not in text
    assert str(SHARED) not in text


@pytest.mark.parametrize("row", RECIPES, ids=[r["id"] for r in RECIPES])
def test_each_recipe_leads_to_what_was_promised(row: dict[str, str]) -> None:
    begun = time.monotonic()
    try:
        _, problems = load_recipe(SHARED / "files" / row["file"])
    except ConfigError as error:
        problems = error.problems
    assert time.monotonic() - begun < 10
    severities = {p.severity for p in problems}
    assert ("error" in severities) == (row["outcome"] == "reject")
    assert severities or row["outcome"] == "accept"
    text = "\n".join(p.sentence() for p in problems).casefold()
    for part in filter(None, row["must_mention"].split("|")):
        assert part.casefold() in text, text


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a child's peak of memory")
def test_no_file_takes_much_memory() -> None:
    code = (
        "import resource, sys\n"
        "from core.data.ingest import read_file\n"
        "from core.errors import StudioError\n"
        "import openpyxl, pyarrow.parquet, python_calamine\n"
        "idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_file(path)\n"
        "    except StudioError:\n        pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) // 1024)\n"
    )
    paths = [str(SHARED / "files" / row["file"]) for row in FILES]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], check=True, capture_output=True, cwd=CHECKOUT
    )
    assert int(done.stdout) < LARGEST


@pytest.mark.parametrize("row", NAMES, ids=[r["id"] for r in NAMES])
def test_each_name_is_a_label_or_refused(row: dict[str, str], tmp_path: Path) -> None:
    name = json.loads(row["upload_as"])
    if row["outcome"] == "reject":
        with pytest.raises(DataError, match=r"not accepted.*CSV"):
            clean_label(name)
        return
    label = clean_label(name)
    assert label.isprintable()
    assert not set(label) & set("/\\")
    assert 0 < len(label) <= 120
    stored = tmp_path / f"4f1c{Path(label).suffix.casefold()}"
    shutil.copyfile(SHARED / "files" / row["file"], stored)
    result, text, severities = said(stored, label)
    assert result is not None
    assert len(result.examples) == 5
    assert ("warning" in severities) == (row["outcome"] == "accept_warn"), text


def test_nothing_in_a_file_was_ever_run() -> None:
    assert not list(SHARED.rglob("PWNED_CANARY"))
    assert not Path("PWNED_CANARY").exists()
