"""Exercises of R/exams, in Markdown (.Rmd) and LaTeX (.Rnw): question, solution, meta-information.

After "First Steps" of the package exams on CRAN. R code is never run: an exercise whose question or
solution holds numbers that R would draw cannot be read, and is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.data.ingest.choices import joined
from core.data.ingest.questions import Found, Question
from core.data.messages import Findings

_SECTION = re.compile(r"^(Question|Solution|Meta-information)[ \t]*\n=+[ \t]*$", re.M | re.I)
_LIST = re.compile(r"^Answerlist[ \t]*\n-+[ \t]*$", re.M | re.I)
_CHUNK = re.compile(r"^```\{r[^\n]*\n.*?^```[ \t]*$|^<<[^\n]*>>=\n.*?^@[ \t]*$", re.M | re.S)
_SHOWN_CHUNK = re.compile(
    r"^```\{r(?![^\n]*(?:include\s*=\s*FALSE|results\s*=\s*[\"']?hide))", re.M
)
_INLINE = re.compile(r"`r [^`]+`|\\Sexpr\{")
_META = re.compile(r"^\s*(ex\w+(?:\[[^\]]*\])?)\s*:\s*(.*)$", re.M)
_LATEX_META = re.compile(r"^%+\s*\\(ex\w+)\{(.*)\}\s*$", re.M)


@dataclass(frozen=True)
class _Exercise:
    stem: str
    options: tuple[str, ...]
    solution: str
    remarks: tuple[str, ...]
    meta: dict[str, str]


def looks_like_exercise(text: str) -> bool:
    """Say whether a text is an exercise of R/exams."""
    text = text[: 1 << 20]
    markdown = re.search(r"^exsolution\s*:", text, re.M) and _SECTION.search(text)
    latex = "\\begin{question}" in text and re.search(r"\\exsolution\{", text)
    return bool(markdown or latex)


def read_exercise(text: str, findings: Findings) -> Found:
    """Return the question of an exercise; one that R would have to compute is named instead."""
    text = text.replace("\r\n", "\n")
    latex = "\\begin{question}" in text
    where = f"line {_line(text, latex)}"
    computed = _computed(text, latex)
    exercise = _latex(_CHUNK.sub("", text)) if latex else _markdown(_CHUNK.sub("", text))
    if computed:
        findings.add("question.computed", where, kind="R")
        return Found("rexams", (Question(exercise.stem, "", where, told=True),))
    answer, others = _answer(exercise)
    said = [exercise.solution]
    if len(exercise.remarks) == len(exercise.options):
        said += [f"{o}: {r}" for o, r in zip(exercise.options, exercise.remarks, strict=True) if r]
    explanation = "\n".join(filter(None, said))
    topic = exercise.meta.get("exsection", "").replace("/", " / ")
    question = Question(exercise.stem, answer, where, exercise.options, explanation, others, topic)
    return Found("rexams", (question,))


def _line(text: str, latex: bool) -> int:
    found = re.search(r"\\begin\{question\}", text) if latex else _SECTION.search(text)
    return 1 + text.count("\n", 0, found.start()) if found else 1


def _computed(text: str, latex: bool) -> bool:
    """Say whether R fills something into what is asked or answered."""
    meta = (_LATEX_META if latex else _META).findall(text)
    asked = text.split("\\begin{solution}" if latex else "Solution\n", 1)[0]
    inline = _INLINE.search(_CHUNK.sub("", asked))
    results = any(_INLINE.search(v) for k, v in meta if k == "exsolution")
    shown = _SHOWN_CHUNK.search(asked)
    return bool(inline or results or (shown and not latex))


def _markdown(text: str) -> _Exercise:
    pieces = _SECTION.split(text)
    parts = {n.casefold(): b for n, b in zip(pieces[1::2], pieces[2::2], strict=True)}
    stem, options = _listed(parts.get("question", ""))
    solution, remarks = _listed(parts.get("solution", ""))
    meta = {k: v.strip() for k, v in _META.findall(parts.get("meta-information", ""))}
    return _Exercise(stem, options, solution, remarks, meta)


def _listed(body: str) -> tuple[str, tuple[str, ...]]:
    """Split a section into its text and its answer list."""
    pieces = _LIST.split(body, maxsplit=1)
    listed = pieces[1] if len(pieces) > 1 else ""
    items = re.split(r"^[*-][ \t]+", listed, flags=re.M)[1:]
    return _unwrapped(pieces[0]), tuple(" ".join(i.split()) for i in items)


def _latex(text: str) -> _Exercise:
    stem, options = _environment(text, "question")
    solution, remarks = _environment(text, "solution")
    return _Exercise(stem, options, solution, remarks, dict(_LATEX_META.findall(text)))


def _environment(text: str, name: str) -> tuple[str, tuple[str, ...]]:
    start, end = f"\\begin{{{name}}}", f"\\end{{{name}}}"
    body = text.partition(start)[2].partition(end)[0]
    before, _, listed = body.partition("\\begin{answerlist}")
    items = re.split(r"\\item\b", listed.partition("\\end{answerlist}")[0])[1:]
    return _unwrapped(before), tuple(" ".join(i.split()) for i in items)


def _unwrapped(body: str) -> str:
    """Join the lines of each paragraph."""
    paragraphs = re.split(r"\n\s*\n", body.strip())
    return "\n".join(" ".join(p.split()) for p in paragraphs if p.strip())


def _answer(exercise: _Exercise) -> tuple[str, tuple[str, ...]]:
    """Return the right answer in words and further right ones."""
    solution = exercise.meta.get("exsolution", "").strip()
    if exercise.options and re.fullmatch(r"[01]+", solution):
        right = [o for o, s in zip(exercise.options, solution, strict=False) if s == "1"]
        return joined(right), ()
    if not solution or solution.casefold() == "nil":
        return "", ()
    return " ".join(solution.split("|")) if "|" not in solution else _parts(solution), ()


def _parts(solution: str) -> str:
    return "\n".join(f"({i}) {s.strip()}" for i, s in enumerate(solution.split("|"), 1))
