"""Whatever the engine says to a person can be said in every language of the studio.

The sentences are read out of the source of ``core``: each call that makes an error, a finding or a
note with a ``code``. Sentences with fields are tried with sample values.
"""

import ast
from collections.abc import Iterator

import pytest

from core.data.messages import CODES
from core.errors import Problem
from core.home import CHECKOUT
from studio.text import LANGUAGES, Words, translations

OTHERS = [language for language in LANGUAGES if language != "en"]
MAKERS = {"ConfigError", "DataError", "ModelError", "StoreError", "StudioError", "TrainingError"}
MAKERS |= {"Note", "Problem", "Stopped"}
FIXED_CODES = {"MemoryBudgetError": "budget.too_small"}
# Said on the command line only, which speaks English, or before anything is installed.
NOT_SHOWN = ("cli.", "setup.", "doctor.")


def literal(node: ast.expr | None) -> str | None:
    """Return a text as it would be said, ``7`` in each field; ``None`` if it is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "7" for v in node.values)
    return None


def problem_of(call: ast.Call) -> Problem | None:
    """Return what a call would say, or ``None`` if it makes no problem or computes its code."""
    maker = ast.unparse(call.func).split(".")[-1]
    if maker not in MAKERS | set(FIXED_CODES):
        return None
    named = {k.arg: k.value for k in call.keywords}
    what = literal(named.get("what", named.get("text", call.args[0] if call.args else None)))
    code = named.get("code", call.args[1] if maker == "Note" and len(call.args) > 1 else None)
    known = FIXED_CODES.get(maker) or (str(code.value) if isinstance(code, ast.Constant) else "")
    if not known or known.startswith(NOT_SHOWN):
        return None
    return Problem("", what or "", literal(named.get("action")) or "", code=known)


def said() -> Iterator[tuple[str, Problem]]:
    """Yield every problem that ``core`` can say in a sentence written out in its source."""
    for file in sorted((CHECKOUT / "core").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (problem := problem_of(node)):
                yield f"{file.relative_to(CHECKOUT).as_posix()}:{node.lineno}", problem


SAID = list(said())


def test_the_sentences_of_the_engine_are_found() -> None:
    codes = {problem.code for _, problem in SAID}
    assert {"train.early_stop", "run.vanished", "model.pickle", "export.unequal"} <= codes


@pytest.mark.parametrize("language", OTHERS)
def test_every_code_of_the_engine_is_translated(language: str) -> None:
    known = {*translations(language), *CODES}
    assert not [f"{place} {p.code}" for place, p in SAID if p.code not in known]


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_of_the_engine_is_translated(language: str) -> None:
    words = Words(language)
    untold = [
        f"{place} {p.code}: {p.what}"
        for place, p in SAID
        if p.what and p.code not in CODES and words.problem(p).what == p.what
    ]
    assert not untold
