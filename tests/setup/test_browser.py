from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.setup import browser
from core.setup.browser import browser_commands, find_browser

PYTHON = Path(sys.executable)


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser.shutil, "which", lambda _: None)
    monkeypatch.setattr(browser, "PLACES", ())


def answer(text: str) -> object:
    return lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=text + "\n")


def test_the_browser_of_the_environment_variable_comes_first(tmp_path: Path) -> None:
    chosen = tmp_path / "my-chromium"
    chosen.touch()
    assert find_browser({"STUDIO_CHROMIUM": str(chosen)}, PYTHON) == str(chosen)


@pytest.mark.usefixtures("no_browser")
def test_what_playwright_has_fetched_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "chrome"
    monkeypatch.setattr(browser.subprocess, "run", answer(str(fetched)))
    assert find_browser({}, PYTHON) == ""
    fetched.touch()
    assert find_browser({}, PYTHON) == str(fetched)


def test_the_system_s_packages_are_installed_only_by_root_on_debian() -> None:
    assert len(browser_commands(PYTHON, debian_root=False)) == 1
    assert "apt-get" in browser_commands(PYTHON, debian_root=True)[1][-1]
