"""Where state lives: one folder, ``STUDIO_HOME`` or the platform's usual place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = CHECKOUT / "assets"


def home() -> Path:
    """Return the state folder, created if it is missing.

    Raises:
        OSError: if it cannot be created.
    """
    if set_by_person := os.environ.get("STUDIO_HOME"):
        folder = Path(set_by_person).expanduser()
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", "~")).expanduser() / "edu-adaq-studio"
    elif sys.platform == "darwin":
        folder = Path("~/Library/Application Support/edu-adaq-studio").expanduser()
    else:
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        folder = Path(data).expanduser() / "edu-adaq-studio"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def models_folder() -> Path:
    """Models made local (the converted starter among them)."""
    folder = home() / "models"
    folder.mkdir(exist_ok=True)
    return folder


def runs_folder() -> Path:
    """One folder a run made in the studio."""
    folder = home() / "runs"
    folder.mkdir(exist_ok=True)
    return folder


def cache_folder() -> Path:
    """What can be made again (measurements of a class on a model)."""
    folder = home() / "cache"
    folder.mkdir(exist_ok=True)
    return folder
