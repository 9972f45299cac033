"""Finds a Chromium for the browser tests, or obtains one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from core.setup.commands import Command
from core.setup.environment import LOG, VENV, say, watch

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright as start\n"
    "with start() as playwright: print(playwright.chromium.executable_path)"
)


def find_browser(environ: Mapping[str, str], python: Path) -> str:
    """Return the path of a Chromium-like browser on this computer, or "".

    Looks at ``STUDIO_CHROMIUM``, the PATH, the usual places, and what Playwright has fetched.
    """
    on_path = (shutil.which(name) or "" for name in NAMES)
    candidates = (environ.get("STUDIO_CHROMIUM", ""), *on_path, *PLACES)
    if found := next((path for path in candidates if path and Path(path).is_file()), ""):
        return found
    answer = subprocess.run([str(python), "-c", ASK_PLAYWRIGHT], capture_output=True, text=True)
    path = answer.stdout.strip()
    return path if answer.returncode == 0 and Path(path).is_file() else ""


def browser_commands(python: Path, *, debian_root: bool) -> list[Command]:
    """Return the ways to obtain a browser, in the order in which they are tried."""
    playwright = (str(python), "-m", "playwright", "install", "chromium")
    apt = "apt-get update && apt-get install -y --no-install-recommends chromium"
    return [playwright, ("sh", "-c", apt)] if debian_root else [playwright]


def obtain_browser(python: Path) -> str:
    """Return a browser for the tests, fetched where there is none; "" where none can be had."""
    if found := find_browser(os.environ, python):
        return found
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    debian_root = root and Path("/etc/debian_version").exists()
    say("Fetching Chromium for the browser tests ...")
    for command in browser_commands(python, debian_root=debian_root):
        watch(command, VENV / LOG, "Fetching Chromium", 0)
        if found := find_browser(os.environ, python):
            return found
    say("No Chromium could be found or fetched: the browser tests will be skipped.")
    return ""
