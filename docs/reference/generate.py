"""Write the reference from the code: ``python docs/reference/generate.py``.

``configuration.md`` comes from the metadata of ``core.config``, ``command-line.md`` from the parser
of ``core.cli``. A test compares the files with what the code says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

from core.cli import build_parser  # noqa: E402  (the path to it is set just above)
from core.config import RunConfig  # noqa: E402

SETTINGS_TOO = (
    "Also, every [setting of a run](configuration.md) is an option under its last name: "
    "`train.max_length` is `--max-length`, `train.stop_early` is `--stop-early` or "
    "`--no-stop-early`."
)
WRITTEN = "<!-- Written by docs/reference/generate.py; change the code instead. -->\n\n"


def configuration() -> str:
    """Return the reference of all settings as Markdown."""
    lines = [
        "# Settings of a run",
        "",
        "What `config.json` of a run holds, and what `train --config FILE` reads.",
        "",
        *_settings_table(RunConfig, ""),
    ]
    for field in fields(RunConfig):
        group = get_type_hints(RunConfig)[field.name]
        if is_dataclass(group):
            lines += ["", f"## `{field.name}`", "", f"{group.__doc__}", ""]
            lines += _settings_table(group, f"{field.name}.")
    return WRITTEN + "\n".join(lines) + "\n"


def _settings_table(group: Any, prefix: str) -> Iterator[str]:
    yield "| setting | default | unit | range | meaning |"
    yield "|---|---|---|---|---|"
    for field in fields(group):
        if "help" in field.metadata:
            default = f"`{json.dumps(field.default)}`"
            unit, meaning = field.metadata["unit"], field.metadata["help"]
            yield _row(f"`{prefix}{field.name}`", default, unit, _range(field), meaning)


def _range(field: Field[Any]) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None and high is None:
        return ""
    return f"from {low}" if high is None else f"{low} to {high}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def command_line() -> str:
    """Return the reference of all verbs and options as Markdown."""
    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    about = {choice.dest: choice.help or "" for choice in verbs._choices_actions}
    lines = [
        "# The command line",
        "",
        "`python launch.py VERB ...`; [how to use it](../how-to/command-line.md).",
    ]
    for verb, its_parser in verbs.choices.items():
        arguments = [a for a in its_parser._actions if not isinstance(a, argparse._HelpAction)]
        # A dotted name is a setting of the run; those stand in configuration.md.
        own = [action for action in arguments if "." not in action.dest]
        lines += ["", f"## `{verb}`", "", f"{about[verb][:1].upper()}{about[verb][1:]}.", ""]
        lines += ["| argument | meaning |", "|---|---|", *(_row(*_argument(a)) for a in own)]
        if len(own) < len(arguments):
            lines += ["", SETTINGS_TOO]
    return WRITTEN + "\n".join(lines) + "\n"


def _argument(action: argparse.Action) -> tuple[str, str]:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices:
        value = " or ".join(map(str, action.choices))
    meaning = action.help or f"default: {action.default}"
    if not action.option_strings:
        return f"`{value}`", meaning
    name = ", ".join(action.option_strings)
    needed = " (needed)" if action.required else ""
    return f"`{name} {value}`".replace(" `", "`"), f"{meaning}{needed}"


PAGES = {"configuration.md": configuration, "command-line.md": command_line}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
