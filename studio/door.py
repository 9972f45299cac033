"""The port of the studio, taken before anything heavy is imported."""

from __future__ import annotations

import socket
import sys

from core.errors import StudioError
from studio.guard import LOOPBACK


def take_port(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that the port is ours.

    Args:
        host: a loopback address or ``localhost``.
        port: 0 takes any free one.

    Raises:
        StudioError: if ``host`` is not this computer, or the port is in use.
    """
    if host not in LOOPBACK:
        raise StudioError(
            f"The studio serves this computer only and cannot listen on {host!r}.",
            action="Leave --host away: there are no accounts yet that would protect a network.",
            code="serve.host",
        )
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform == "win32":  # there, SO_REUSEADDR would share the port with another program
        door.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except (OSError, OverflowError) as error:
        door.close()
        raise StudioError(
            f"Port {port} cannot be used: another program has it, perhaps a studio already open.",
            action=f"Open http://{host}:{port} to see, or choose another one with --port.",
            code="serve.port",
        ) from error
    return door
