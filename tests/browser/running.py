"""Starting and ending a real studio."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from core.home import CHECKOUT

START_SECONDS = 90.0
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """Return ``STUDIO_CHROMIUM``, else a browser on ``PATH``; ``None``: Playwright's own."""
    return os.environ.get("STUDIO_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Studio:
    """A running studio: its address, its process and its state folder."""

    url: str
    process: subprocess.Popen[str]
    home: Path

    def stop(self) -> None:
        """End it as Ctrl+C does (Windows has no such signal for children); training goes on."""
        if sys.platform == "win32":
            self.process.terminate()
        else:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def start_studio(home: Path) -> Studio:
    """Start ``python -m studio`` on a free port and wait until it says that it is open."""
    environment = {**os.environ, "STUDIO_HOME": str(home), "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "studio", "--port", "0", "--no-browser"],
        cwd=CHECKOUT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    opened, lines = threading.Event(), []

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                opened.set()
        opened.set()

    threading.Thread(target=listen, daemon=True).start()
    opened.wait(START_SECONDS)
    found = re.search(r"http://\S+", "".join(lines))
    if found is None:
        process.kill()
        raise RuntimeError(f"the studio did not open: {''.join(lines)[-2000:]}")
    return Studio(found[0], process, home)
