"""Recipes: settings written by hand in YAML, read as data and as nothing else.

YAML can build objects, repeat parts of itself without end, and takes ``no`` for a truth value and
``012`` for ten. Here only plain words and groups are read: no tags, no references; and every value
is read as its setting's type says.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from core.config import RunConfig
from core.errors import ConfigError, Problem

SUFFIXES = (".yaml", ".yml")
LARGEST = 64 * 1024  # bytes
DEEPEST = 8  # groups inside each other

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_PLAIN_INT = re.compile(r"[-+]?(?:0|[1-9]\d*)")


def load_recipe(path: Path) -> tuple[RunConfig, list[Problem]]:
    """Read settings from a YAML file.

    Args:
        path: the file; keys are settings (``train.lr``, or ``lr`` where only one group has it).

    Returns:
        The settings, and what a reader of YAML would have taken for something else.

    Raises:
        ConfigError: if it is no recipe, or a value is not of its setting's type.
    """
    known = _settings()
    tree: dict[str, Any] = {}
    told: list[Problem] = []
    for key, text in _flat(path).items():
        names = [key] if key in known else [n for n in known if n.rpartition(".")[2] == key]
        if len(names) != 1:
            told.append(_note(key, f"There is no setting {key[:80]!r}; it was passed over."))
            continue
        (name,) = names
        value, note = _value(key, text, known[name])
        if note:
            told.append(_note(key, note))
        *groups, leaf = name.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return RunConfig.from_json(tree), told


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(RunConfig).items():
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            found |= {f"{name}.{f.name}": hints[f.name] for f in fields(kind)}
        else:
            found[name] = kind
    return found


def _flat(path: Path) -> dict[str, str]:
    """Return dotted keys and the words behind them, exactly as they are written."""
    import yaml

    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise _no_recipe(path, f"it has more than {LARGEST >> 10} KB")
        text = data.decode("utf-8-sig")
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _no_recipe(path, "it has references (& and *)")
            if getattr(event, "tag", None):
                raise _no_recipe(path, "it has a tag (!), which asks for a program's object")
        node = yaml.compose(text, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _no_recipe(path, "it could not be read as YAML") from error
    if not isinstance(node, yaml.MappingNode):
        raise _no_recipe(path, "it has no settings (name: value)")
    return _leaves(node, path, "", DEEPEST)


def _leaves(node: Any, path: Path, prefix: str, depth: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if value.id == "mapping" and depth:
            found |= _leaves(value, path, f"{name}.", depth - 1)
        elif value.id == "scalar":
            found[name] = value.value
        else:
            raise _no_recipe(path, f"{name[:80]!r} is a list, or groups are nested too deeply")
    return found


def _value(key: str, text: str, kind: Any) -> tuple[Any, str]:
    """Return a value of the type, and a note if YAML would have read something else."""
    said = f"{text!r} was read as"
    if kind is bool and text.casefold() in _WORDS:
        return _WORDS[text.casefold()], ""
    try:
        if kind is int:
            number = int(text.replace("_", ""), 10)
            return number, "" if _PLAIN_INT.fullmatch(text) else f"{said} the number {number}."
        if kind is float:
            share = float(text)
            if not math.isfinite(share):
                raise ValueError
            unusual = "e" in text.casefold() and "." not in text
            return share, f"{said} the number {share:g}." if unusual else ""
    except ValueError as error:
        raise ConfigError(
            f"The setting {key} must be a number, not {text[:80]!r}.",
            where=key,
            action="Write it in digits.",
            code="cli.recipe_number",
        ) from error
    return text, ""


def _note(where: str, what: str) -> Problem:
    where = where[:80]
    return Problem(where=where, what=what, action="", severity="warning", code="cli.recipe_note")


def _no_recipe(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"This recipe cannot be used: {reason}.",
        where=path.name,
        action="Write one setting on each line, for example: lr: 0.001",
        code="cli.recipe_refused",
    )


def load_settings(path: Path) -> tuple[RunConfig, list[Problem]]:
    """Read a recipe, or a configuration that the studio has written.

    Raises:
        ConfigError: if it is neither.
    """
    if path.suffix.casefold() in SUFFIXES:
        return load_recipe(path)
    return RunConfig.load(path), []
