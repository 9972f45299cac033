"""What is checked before anything is fetched, and what a failed installer meant."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import socket
from pathlib import Path

from core.setup.errors import SetupError

GB = 10**9
# Measured: .venv with the CPU build takes 2.1 GB. The CUDA build brings several GB of libraries
# more; both leave room for what the installer unpacks and caches on the way.
SPACE_BYTES = {"cpu": 4 * GB, "cuda": 16 * GB}

NETWORK = re.compile(
    r"name resolution|getaddrinfo|Name or service not known|Network is unreachable|"
    r"Connection refused|Failed to establish a new connection|timed out|ConnectTimeout|"
    r"dns error|error sending request|No route to host|ProxyError|SSLError",
    re.IGNORECASE,
)
NO_SPACE = re.compile(
    r"No space left on device|Errno 28|not enough space|Disk quota", re.IGNORECASE
)
HASH = re.compile(r"DO NOT MATCH THE HASHES|Hash mismatch", re.IGNORECASE)
NOT_THERE = re.compile(r"No matching distribution|no versions? of|was not found", re.IGNORECASE)


def explain(title: str, log: str, log_path: Path) -> SetupError:
    """Return the sentence for a stage that failed, from what the installer wrote.

    Args:
        title: what was being done, e.g. ``Installing the build tools``.
        log: what the installer wrote.
        log_path: where a person finds it.
    """
    doing = f"while {title[0].lower()}{title[1:]}"
    if NO_SPACE.search(log):
        return SetupError(f"The disk was full {doing}.", action="Free some space and start again.")
    if HASH.search(log):
        return SetupError(
            f"A package differed from the locked one {doing}.",
            action="Start again, with another index (--index-url URL) if it happens again.",
        )
    if NETWORK.search(log):
        return SetupError(
            f"The package index could not be reached {doing}.",
            action="Connect to the internet, or name a mirror with --index-url URL; start again.",
        )
    if NOT_THERE.search(log):
        return SetupError(
            f"The package index does not have what is needed {doing}.",
            action="Name another one with --index-url URL (STUDIO_TORCH_INDEX_URL for PyTorch).",
        )
    last = log.strip().rpartition("\n")[2][:200].rstrip(".")
    return SetupError(
        f"There was an error {doing}: {last}.", action=f"Read the end of {log_path}, start again."
    )


def check_space(folder: Path, needed: int) -> None:
    """Stop before a download that cannot fit.

    Raises:
        SetupError: with what is needed and what is free (GB).
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"The set-up needs {needed / GB:.0f} GB of disk space and {free / GB:.1f} GB are free.",
            action="Free some space, or move this folder to a larger disk.",
        )


def check_venv_module() -> None:
    """Stop where Python came without the means to make environments (Debian splits them off).

    Raises:
        SetupError: with the package to install.
    """
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return
    version = ".".join(platform.python_version_tuple()[:2])
    raise SetupError(
        "This Python has no venv module.",
        action=f"Install it (Debian, Ubuntu: sudo apt install python{version}-venv), start again.",
    )


def check_port(host: str, port: int) -> None:
    """Stop early where another program listens; port 0 takes any free one.

    Raises:
        SetupError: with a free port to use instead, or for an address that is not this computer's.
    """
    if port == 0 or is_free(host, port):
        return
    others = range(port + 1, min(port + 50, 65536))
    other = next((number for number in others if is_free(host, number)), None)
    if other is None:
        raise SetupError(
            f"The studio cannot listen on {host}, port {port}.",
            action="Leave out --host, or name an address of this computer.",
        )
    raise SetupError(
        f"Port {port} is taken, perhaps by a studio that is open at http://{host}:{port}.",
        action=f"Use that one, or start another with --port {other}.",
    )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
