"""The documentation says what the code does, as far as a program can tell."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from core.home import CHECKOUT
from core.methods import METHODS

REFERENCE = CHECKOUT / "docs" / "reference"
PAGES = sorted(
    path
    for path in [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
    if ".venv" not in path.parts
)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "command-line.md"])
def test_the_generated_reference_is_up_to_date(generate: ModuleType, name: str) -> None:
    written = (REFERENCE / name).read_text("utf-8")
    assert written == generate.PAGES[name](), "run: python docs/reference/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_inside_the_documentation_lead_somewhere(page: Path) -> None:
    words = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)  # code links nowhere
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", words)
    pages = [target for target in targets if not target.endswith(".png")]
    missing = [target for target in pages if not (page.parent / target).exists()]
    assert missing == []


def test_the_smallest_method_is_what_the_guide_shows() -> None:
    guide = (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", guide, re.DOTALL)
    shown: dict[str, list[str]] = {}
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            shown[line.removeprefix("+++ b/")] = lines = []
        elif line.startswith("+"):
            lines.append(line[1:])
    assert {"core/methods.py", "docs/explanation/methods/qlora.md"} <= set(shown)
    for path, added in shown.items():
        assert "\n".join(added) in (CHECKOUT / path).read_text("utf-8"), path
    page = shown["docs/explanation/methods/qlora.md"]
    assert page == (CHECKOUT / "docs/explanation/methods/qlora.md").read_text("utf-8").splitlines()
    files = [f for part in ("core", "studio") for f in (CHECKOUT / part).rglob("*.py")]
    knowing = [f for f in files if '"qlora"' in f.read_text("utf-8")]
    assert knowing == [CHECKOUT / "core/methods.py"]


@pytest.mark.parametrize("method", [m.id for m in METHODS])
def test_every_method_has_its_page(method: str) -> None:
    page = CHECKOUT / "docs" / "explanation" / "methods" / f"{method}.md"
    text = " ".join(page.read_text("utf-8").split())
    assert "our interpretation" in text or "(ours)" in text
