"""Moodle XML: every type of question whose answer is a text.

After Moodle's ``question/format/xml/format.php`` and the documentation "Moodle XML format". Types
of plug-ins that are read: gapfill, ordering, kprime, mtf, multichoiceset, coderunner, regexp,
pmatch, and STACK where its answer is written out instead of computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from core.data.ingest.choices import joined
from core.data.ingest.cloze import bracketed_gaps, numbered_gaps, read_cloze
from core.data.ingest.markup import line_of, plain
from core.data.ingest.questions import Found, Question, match_texts
from core.data.messages import Findings

_NO_HTML = ("plain_text", "markdown")
_USUAL = {
    "your answer is correct.",
    "your answer is partially correct.",
    "your answer is incorrect.",
}
_COMPUTED = ("calculated", "calculatedsimple", "calculatedmulti", "formulas", "varnumeric",
             "varnumericset", "varnumunit", "algebra")  # fmt: skip


@dataclass(frozen=True)
class _Item:
    """A question element, its place, and how its texts are read."""

    element: Element
    where: str
    findings: Findings

    def text(self, path: str, of: Element | None = None) -> str:
        """Return the text of a child as a reader sees it."""
        child = (self.element if of is None else of).find(path)
        return self.shown(child)

    def shown(self, child: Element | None, *, literal: bool = False) -> str:
        """Return what an element with a ``text`` in it shows."""
        if child is None:
            return ""
        inner = child.find("text")
        text = (inner if inner is not None else child).text or ""
        if literal or child.get("format") in _NO_HTML:
            return text.strip()
        return plain(text, self.findings, self.where)

    @property
    def stem(self) -> str:
        """What is asked."""
        return self.text("questiontext")

    def flag(self, name: str) -> bool:
        """Say whether a setting is on; Moodle writes 1 and true."""
        value = self.element.findtext(name, "").strip().casefold()
        return value in ("1", "true")


@dataclass(frozen=True)
class _Answer:
    """A possible answer: its share of the mark in percent, and what is said about it."""

    weight: float
    text: str
    feedback: str


def read_moodle(root: Element, findings: Findings, member: str = "") -> Found:
    """Return the questions below ``<quiz>``; what cannot be read is named.

    Args:
        root: the element ``quiz``.
        findings: is told what cannot be read.
        member: the part of a package that it is, empty for a file of its own.
    """
    questions: list[Question] = []
    topic, number = "", 0
    for element in root.iter("question"):
        kind = element.get("type", "").casefold()
        if kind == "category":
            topic = _category(element)
            continue
        number += 1
        place = f"question {number}, line {line_of(element)}"
        item = _Item(element, f"{member}, {place}" if member else place, findings)
        if question := _question(kind, item, topic):
            questions.append(question)
    return Found("moodle_xml", tuple(questions))


def _category(element: Element) -> str:
    path = element.findtext("category/text", "").strip()
    steps = [s for s in path.split("/") if s and not s.startswith("$") and s != "top"]
    return " / ".join(steps)


def _question(kind: str, item: _Item, topic: str) -> Question | None:
    """Return a question of a type; ``None`` (and a finding) for a text that asks nothing."""
    if kind == "description":
        item.findings.add("question.description", item.where)
        return None
    reader = _READERS.get(kind)
    read = reader(item) if reader else None
    if read is None:
        code = "question.unknown_type"
        code = "question.computed" if kind in _COMPUTED or kind == "stack" else code
        item.findings.add(code, item.where, kind=kind or "(none)")
        return Question(item.stem, "", item.where, topic=topic, told=True)
    feedback = [read.explanation, item.text("generalfeedback"), _overall(item, "correctfeedback")]
    return Question(
        read.text,
        read.answer,
        item.where,
        read.options,
        "\n".join(dict.fromkeys(filter(None, feedback))),
        read.others,
        topic,
    )


def _overall(item: _Item, name: str) -> str:
    """Return the feedback on the whole question unless it is what Moodle fills in itself."""
    text = item.text(name)
    return "" if text.casefold() in _USUAL else text


def _answers(item: _Item, *, literal: bool) -> list[_Answer]:
    found = []
    for element in item.element.findall("answer"):
        try:
            weight = float(element.get("fraction", "0"))
        except ValueError:
            weight = 0.0
        text = item.shown(element, literal=literal)
        found.append(_Answer(weight, text, item.text("feedback", element)))
    return found


def _choice(item: _Item) -> Question:
    answers = [a for a in _answers(item, literal=False) if a.text]
    single = item.element.findtext("single", "true").strip().casefold() not in ("0", "false")
    best = max((a.weight for a in answers), default=0.0)
    right = [a for a in answers if a.weight > 0 and (not single or a.weight == best)]
    if single:
        right = right[:1]
    options = tuple(a.text for a in answers)
    return Question(
        item.stem, joined([a.text for a in right]), "", options, _explained(answers, right)
    )


def _explained(answers: Sequence[_Answer], right: Sequence[_Answer]) -> str:
    """Return the feedback: first on what is right, then on each wrong answer with its name."""
    said = [a.feedback for a in right]
    said += [f"{a.text}: {a.feedback}" for a in answers if a not in right and a.feedback]
    return "\n".join(dict.fromkeys(filter(None, said)))


def _true_false(item: _Item) -> Question:
    answers = _answers(item, literal=False)
    right = [a for a in answers if a.weight > 0][:1]
    said = [a.feedback for a in (*right, *answers) if a.feedback][:1]
    text = right[0].text if right else ""
    return Question(item.stem, text.capitalize() if text.islower() else text, "", (), "".join(said))


def _short(item: _Item) -> Question:
    return _written(item, _answers(item, literal=True))


def _written(item: _Item, answers: Sequence[_Answer]) -> Question:
    """Return a question whose answer is typed: the best one is its answer, equals are others."""
    best = max((a.weight for a in answers), default=0.0)
    right = [a for a in answers if a.text and a.weight == best and best > 0 and a.text != "*"]
    others = [a.text for a in right[1:]]
    others += [f"{a.text} ({a.weight:g}%)" for a in answers if 0 < a.weight < best and a.text]
    answer = right[0].text if right else ""
    return Question(item.stem, answer, "", (), _explained(answers, right[:1]), tuple(others))


def _numerical(item: _Item) -> Question:
    question = _short(item)
    unit = item.element.findtext("units/unit/unit_name", "").strip()
    others = list(question.others)
    for element in item.element.findall("answer"):
        tolerance = element.findtext("tolerance", "").strip()
        if item.shown(element, literal=True) == question.answer and tolerance.strip("0."):
            others.insert(0, f"{question.answer} ± {tolerance}")
    answer = f"{question.answer} {unit}" if unit and question.answer else question.answer
    return replace(question, answer=answer, others=tuple(dict.fromkeys(others)))


def _matching(item: _Item) -> Question:
    pairs, extra = [], []
    for sub in item.element.findall("subquestion"):
        asked, answer = item.shown(sub), item.shown(sub.find("answer"), literal=True)
        if asked and answer:
            pairs.append((asked, answer))
        elif answer:
            extra.append(answer)
    text, answer = match_texts(item.stem, pairs, extra)
    return Question(text, answer, "")


def _cloze(item: _Item) -> Question:
    text, answer, feedback = read_cloze(item.stem)
    return Question(text, answer, "", (), feedback)


def _word_gaps(item: _Item) -> Question:
    boxes = [*item.element.findall("selectoption"), *item.element.findall("dragbox")]
    words = [(item.shown(b), b.findtext("group", "")) for b in boxes]
    text, answer = numbered_gaps(item.stem, words)
    return Question(text, answer, "")


def _gapfill(item: _Item) -> Question:
    brackets = item.element.findtext("delimitchars", "[]").strip()
    brackets = brackets if len(brackets) == 2 else "[]"
    wrong = [
        re.sub(r"\\(\W)", r"\1", a.text) for a in _answers(item, literal=False) if a.weight <= 0
    ]
    typed = item.element.findtext("answerdisplay", "").strip() == "gapfill"
    patterns = not item.flag("disableregex")
    text, answer = bracketed_gaps(item.stem, brackets, wrong, offered=not typed, patterns=patterns)
    return Question(text, answer, "")


def _ordering(item: _Item) -> Question:
    steps = [a.text for a in _answers(item, literal=False) if a.text]
    shuffled = sorted(steps, key=str.casefold)
    answer = "\n".join(f"{i}. {s}" for i, s in enumerate(steps, 1))
    return Question("\n".join([item.stem, *(f"- {s}" for s in shuffled)]), answer, "")


def _statements(item: _Item) -> Question:
    """Kprime and multiple true/false: each statement with the response that is right."""
    names = {c.get("number"): item.shown(c.find("responsetext")) or item.shown(c)
             for c in item.element.findall("column")}  # fmt: skip
    right = {}
    for weight in item.element.findall("weight"):
        if float(weight.findtext("value", "0") or 0) > 0:
            right[weight.get("rownumber")] = names.get(weight.get("columnnumber"), "")
    pairs = []
    for row in item.element.findall("row"):
        pairs.append((item.shown(row.find("optiontext")) or item.shown(row),
                      right.get(row.get("number"), "")))  # fmt: skip
    if not pairs or not all(a and b for a, b in pairs):
        return Question(item.stem, "", "")
    text, answer = match_texts(item.stem, pairs)
    return Question(text, answer, "")


def _essay(item: _Item) -> Question:
    return Question(item.stem, "", "")


def _program(item: _Item) -> Question:
    return Question(item.stem, item.element.findtext("answer", "").strip(), "")


def _stack(item: _Item) -> Question | None:
    """Return a STACK question only if nothing in it is computed (no ``{@...@}``, no variables)."""
    raw = item.element.findtext("questiontext/text", "")
    answers = [(i.findtext("tans") or "").strip() for i in item.element.findall("input")]
    literal = all(re.fullmatch(r"-?\d+(?:[./]\d+)?|true|false", a) for a in answers)
    if not answers or not literal or re.search(r"\{[@#]|\[\[(?!input|validation|feedback)", raw):
        return None
    stem = re.sub(r"\[\[(?:input|validation|feedback):\w+\]\]", "", item.stem).strip()
    return Question(stem, joined(answers), "")


_READERS: dict[str, Callable[[_Item], Question | None]] = {
    "multichoice": _choice,
    "multichoiceset": _choice,
    "oumultiresponse": _choice,
    "truefalse": _true_false,
    "shortanswer": _short,
    "shortanssimilarity": _short,
    "pmatch": _short,
    "regexp": _short,
    "numerical": _numerical,
    "matching": _matching,
    "ddmatch": _matching,
    "matchwiris": _matching,
    "cloze": _cloze,
    "multianswer": _cloze,
    "gapselect": _word_gaps,
    "ddwtos": _word_gaps,
    "gapfill": _gapfill,
    "ordering": _ordering,
    "kprime": _statements,
    "mtf": _statements,
    "essay": _essay,
    "coderunner": _program,
    "stack": _stack,
}
