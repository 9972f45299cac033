"""``python -m studio``: open the studio on this computer."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Set before Gradio is imported: it would otherwise ask foreign hosts for news.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

from core.errors import StudioError
from studio.door import take_port
from studio.guard import LOOPBACK
from studio.stubs import skip_stub_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, serve, and return an exit code (``core.errors``)."""
    parser = argparse.ArgumentParser(prog="studio", description="Open the studio in the browser.")
    parser.add_argument("--host", default="127.0.0.1", help=f"one of {', '.join(sorted(LOOPBACK))}")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    options = parser.parse_args(arguments)
    try:
        door = take_port(options.host, options.port)
        skip_stub_files()
        from studio.server import serve  # seconds of imports, after the port is ours

        serve(door, open_browser=not options.no_browser)
    except StudioError as error:
        sys.stderr.write(f"{error.problem.sentence()}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
