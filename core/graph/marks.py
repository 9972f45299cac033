"""Mastery of concepts from the quiz marks of a run. No torch in here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.data.frozen import load_frozen
from core.errors import DataError
from core.graph import use
from core.graph.types import ConceptMap


def mastery_of(found: ConceptMap, run: Path) -> list[dict[str, Any]]:
    """Mastery per concept before and after the tuning of a run, from its quiz marks.

    Raises:
        DataError: if the run has no marks.
    """
    try:
        marks = json.loads((run / "quiz.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "This run has no quiz marks.",
            where=run.name,
            action="Choose a finished run whose class was large enough for a quiz.",
            code="graph.no_marks",
        ) from error
    quiz = load_frozen(run / "data").quiz
    return [m.to_json() for m in use.mastery(found, quiz, marks)]
