from __future__ import annotations

import re
import string

import pytest

from core.data.messages import CODES, Findings, data_error, problem
from core.home import CHECKOUT

FIELDS = {
    code: {f for text in (m.what, m.action) for _, f, _, _ in string.Formatter().parse(text) if f}
    for code, m in CODES.items()
}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_sentence_can_be_built(code: str) -> None:
    values = dict.fromkeys(FIELDS[code], "x")
    found = problem(code, "row 2", **values)
    assert found.what.endswith((".", "!"))
    assert found.action == "" or found.action.rstrip('"').endswith((".", "}"))
    assert dict(found.values) == values
    assert (found.code, found.severity) == (code, CODES[code].severity)


def test_every_code_in_use_is_known_and_every_known_code_is_used() -> None:
    source = "\n".join(
        p.read_text("utf-8")
        for p in sorted((CHECKOUT / "core" / "data").rglob("*.py"))
        if p.name != "messages.py"
    )
    groups = {code.split(".")[0] for code in CODES}
    used = set(re.findall(rf'"((?:{"|".join(groups)})\.[a-z_0-9]+)"', source))
    used |= {f"health.{sign}" for sign in ("bidi", "marks", "mojibake", "control_words")}
    others = {"chat.no_answer", "chat.question_too_long", "chat.conversation"}
    others |= {"frozen.other", "frozen.version", "frozen.damaged"}
    assert used - others - set(CODES) <= {"excel.xlsx"}
    assert set(CODES) - used == set()


def test_findings_of_one_kind_are_one_problem() -> None:
    findings = Findings()
    for row in (3, 5, 5, 9):
        findings.add("table.no_answer", f"row {row}")
    findings.add("chat.unknown_role", "line 1", role="teacher")
    findings.add("chat.unknown_role", "line 2", role="pupil")
    assert [p.where for p in findings.problems()] == ["row 3, row 5, row 9", "line 1", "line 2"]


def test_values_from_a_file_are_one_short_safe_line() -> None:
    error = data_error("table.unknown_column", column="a\n\x1b[2J" + "x" * 999, columns="{evil}")
    assert error.what.isprintable()
    assert len(error.what) < 500
    assert "{evil}" in error.what
