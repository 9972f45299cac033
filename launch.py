"""Make the studio's environment where it is missing, then hand over to the studio.

``python launch.py`` opens the studio, ``python launch.py VERB ...`` is its command line and
``python launch.py test`` runs the project's tests. The environment is ``.venv`` beside this file
(``core.setup`` makes it, with the standard library alone). This file keeps to grammar that old
Pythons can read, so that they get a sentence and no traceback.
"""

import sys

if sys.version_info < (3, 11) or sys.version_info >= (3, 14):
    sys.stderr.write(
        "Python {}.{} cannot run the studio: start it with Python 3.11, 3.12 or 3.13 "
        "(https://www.python.org/downloads/).\n".format(*sys.version_info[:2])
    )
    raise SystemExit(2)

import argparse
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.errors import StudioError
from core.home import CHECKOUT
from core.setup.browser import obtain_browser
from core.setup.checks import check_port
from core.setup.commands import Settings
from core.setup.environment import VENV, child_environment, ensure_environment, say
from core.setup.stamp import venv_python

TEST_PROCESSES = "2"  # each holds about 2 GB; -n of a person comes later and counts


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows the verb is the verb's own."""
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Open the studio. With a VERB (doctor, models, methods, data, plan, train, "
        "resume, evaluate, chat, export) do that on the command line; 'test' runs the tests.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="which port (default 7860)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    parser.add_argument("--index-url", default="", metavar="URL", help="a package index (mirror)")
    parser.add_argument("verb", nargs="?", default="", metavar="VERB")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...")
    return parser.parse_args(arguments)


def final_command(options: argparse.Namespace, python: Path) -> "tuple[str, ...]":
    """Return what runs once the environment stands."""
    if options.verb == "test":
        chosen = ("-m", "not slow and not gpu", "-n", TEST_PROCESSES)
        return (str(python), "-m", "pytest", *chosen, *options.rest)
    if options.verb:
        return (str(python), "-m", "core.cli", options.verb, *options.rest)
    quiet = ("--no-browser",) if options.no_browser else ()
    where = ("--host", options.host, "--port", str(options.port))
    return (str(python), "-m", "studio", *where, *quiet)


def hand_over(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Become the command (POSIX), or run it and return its exit code (Windows)."""
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(command[0], list(command), dict(environ))
    with subprocess.Popen(command, env=dict(environ)) as child:
        while True:
            # Ctrl-C reaches the child too, which says what there is to say.
            with contextlib.suppress(KeyboardInterrupt):
                return child.wait()


def launch(arguments: Sequence[str]) -> int:
    """Set up what is missing and hand over.

    Raises:
        StudioError: with the sentence to show.
    """
    options = parse(arguments)
    settings = Settings.read(options.index_url, os.environ)
    if not options.verb:
        check_port(options.host, options.port)
    ensure_environment(settings, with_tests=options.verb == "test")
    python, environ = venv_python(VENV), child_environment(os.environ)
    if options.verb == "test":
        environ["STUDIO_CHROMIUM"] = obtain_browser(python)
        os.chdir(CHECKOUT)
    return hand_over(final_command(options, python), environ)


def main() -> int:
    """Run, and turn every expected failure into one sentence."""
    try:
        return launch(sys.argv[1:])
    except StudioError as error:
        say(str(error))
        return error.exit_code
    except OSError as error:
        say(f"The set-up could not go on ({error.strerror or error}). Check the disk, start again.")
        return 2
    except KeyboardInterrupt:
        say("\nStopped; the next start goes on from here.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
