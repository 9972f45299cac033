"""One click for each finding: a new version of the class, so that it can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from core.data.edit import Version
from core.data.health import letters
from core.data.health.lengths import shortened
from core.data.health.private import KINDS, masked

# What a button does; its words are under health.fix.<name>.
LEAVE_OUT, KEEP_FIRST, BLACK_OUT = "leave_out", "keep_first", "black_out"
TAKE_OUT, PLAIN, REPAIR, SHORTEN = "take_out", "plain", "repair", "shorten"

FIXES: dict[str, str] = {
    **{kind.code: BLACK_OUT for kind in KINDS},
    "health.secrets": BLACK_OUT,
    "health.leak": LEAVE_OUT,
    "health.contradictions": KEEP_FIRST,
    "health.duplicates": KEEP_FIRST,
    "health.near_duplicates": KEEP_FIRST,
    "health.empty": LEAVE_OUT,
    "health.echo": LEAVE_OUT,
    "health.long": LEAVE_OUT,
    "health.control_words": TAKE_OUT,
    "health.mixed": LEAVE_OUT,
    "health.mojibake": REPAIR,
    "health.html": PLAIN,
    "health.latex": PLAIN,
    "health.bidi": TAKE_OUT,
    "health.marks": TAKE_OUT,
    "text.control": TAKE_OUT,
    "tokens.truncated": SHORTEN,
    "tokens.no_room": LEAVE_OUT,
}
_ROWS_GO = (LEAVE_OUT, KEEP_FIRST)
_MEND: dict[str, Callable[[str], str]] = {
    "health.mojibake": letters.repaired,
    "health.html": letters.without_html,
    "health.latex": letters.without_latex,
    "health.bidi": letters.without_bidi,
    "health.marks": letters.without_marks,
    "text.control": letters.without_control,
}


def fixed(
    version: Version,
    code: str,
    rows: Sequence[int],
    *,
    tokens: Sequence[str] = (),
    kept: Mapping[int, int] | None = None,
) -> Version:
    """Return the version with a finding mended in some rows; the old one is untouched.

    Args:
        version: rows to mend.
        code: of the finding, a key of :data:`FIXES`.
        rows: indices of the rows of ``version`` that it concerns.
        tokens: control tokens of the chosen model (for ``health.control_words``).
        kept: characters of each row's answer that are learned (for ``tokens.truncated``).

    Raises:
        KeyError: there is no fix for the code.
    """
    fix = FIXES[code]
    if fix in _ROWS_GO:
        return version.remove(rows)
    if code == "tokens.truncated":
        return _shortened(version, {i: n for i, n in (kept or {}).items() if i in rows})
    if code == "health.control_words":
        return version.rewrite(rows, letters.without_words(letters.control_words(tokens)))
    return version.rewrite(rows, _MEND.get(code) or partial(masked, code=code))


def _shortened(version: Version, kept: Mapping[int, int]) -> Version:
    """Cut answers down to whole sentences; of several columns the last ones give way first."""
    columns = version.parts.get("answer") or (version.mapping["answer"],)
    cells: dict[tuple[int, str], str] = {}
    for i, room in kept.items():
        for column in columns:
            text = version.rows[i][version.columns.index(column)]
            cut = shortened(text, max(room, 0)) if len(text) > room else text
            cells[i, column] = cut
            room -= len(text) + 1  # a line break joins them
    return version.edit_many(cells)
