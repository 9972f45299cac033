"""An item of QTI 2.x: its body with interactions, and the responses that are declared correct."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from core.data.ingest.choices import joined
from core.data.ingest.markup import tidied
from core.data.ingest.questions import Question, gap, match_texts, numbered
from core.data.messages import Findings

_CHOICES = ("simpleChoice", "inlineChoice", "hottext", "simpleAssociableChoice", "gapText")
_LISTS = ("choiceInteraction", "orderInteraction", "hottextInteraction")
_PAIRS = ("matchInteraction", "associateInteraction")
_BLOCKS = ("p", "div", "br", "li", "prompt", "tr", "h1", "h2", "h3", "h4", "pre", "blockquote")


def to_camel_case(root: Element) -> None:
    """Rename the elements and attributes of QTI 3 (``qti-choice-interaction``) to those of 2.x."""
    for element in root.iter():
        if element.tag.startswith("qti-"):
            element.tag = _camel(element.tag.removeprefix("qti-"))
            for name in [n for n in element.attrib if "-" in n]:
                element.attrib[_camel(name)] = element.attrib.pop(name)


def read_item(item: Element, where: str, topic: str, findings: Findings) -> Question | None:
    """Return an ``assessmentItem`` as a question; ``None`` (and a finding) if it asks nothing."""
    body = item.find("itemBody")
    if body is None:
        findings.add("question.description", where)
        return None
    names = {e.get("identifier", ""): _text(e, where, findings)
             for e in body.iter() if e.tag in _CHOICES}  # fmt: skip
    interactions = [e for e in body.iter() if e.tag.endswith("Interaction")]
    if not interactions:
        findings.add("question.description", where)
        return None
    stem, answer, options, others = _read(item, body, interactions, names, where, findings)
    said = [_text(e, where, findings) for e in item.iter("modalFeedback") if _is_right(e)]
    said += [_text(e, where, findings) for e in item.iter("rubricBlock")]
    explanation = "\n".join(dict.fromkeys(filter(None, said)))
    return Question(stem, answer, where, options, explanation, others, topic)


def _read(
    item: Element,
    body: Element,
    interactions: Sequence[Element],
    names: dict[str, str],
    where: str,
    findings: Findings,
) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Return text, answer, options and other answers."""
    first = interactions[0]
    correct = [_correct(item, i.get("responseIdentifier", "")) for i in interactions]
    stem = _text(body, where, findings, gaps=_gaps(interactions, names))
    if len(interactions) == 1 and first.tag in _LISTS:
        options = [names[c.get("identifier", "")] for c in first.iter() if c.tag in _CHOICES]
        right = [names.get(c, "") for c in correct[0]]
        if first.tag == "orderInteraction":
            answer = "\n".join(f"{i}. {r}" for i, r in enumerate(right, 1))
            return stem, answer if all(right) else "", tuple(options), ()
        return stem, joined([r for r in right if r]), tuple(filter(None, options)), ()
    if len(interactions) == 1 and first.tag in _PAIRS:
        pairs = [tuple(names.get(n, "") for n in c.split()) for c in correct[0]]
        known = [(p[0], p[1]) for p in pairs if len(p) == 2 and all(p)]
        return *(match_texts(stem, known) if known else (stem, "")), (), ()
    if first.tag == "gapMatchInteraction":
        return *_gap_match(first, correct[0], names, stem), (), ()
    answers = [names.get(c[0], c[0]) if c else "" for c in correct]
    if len(interactions) == 1:
        others = tuple(names.get(c, c) for c in correct[0][1:])
        others += _also(item, first.get("responseIdentifier", ""), {answers[0], *others})
        return stem, answers[0], (), others
    return stem, numbered(answers) if all(answers) else "", (), ()


def _gaps(interactions: Sequence[Element], names: dict[str, str]) -> dict[Element, str]:
    """Return what is shown in place of each interaction inside the text."""
    places: list[Element] = []
    for interaction in interactions:
        if interaction.tag == "gapMatchInteraction":
            places += interaction.iter("gap")
        elif interaction.tag in ("textEntryInteraction", "inlineChoiceInteraction"):
            places.append(interaction)
    shown = {}
    for number, element in enumerate(places, 1):
        choices = [names[c.get("identifier", "")] for c in element.iter("inlineChoice")]
        shown[element] = gap(number, len(places), choices)
    return shown


def _gap_match(
    interaction: Element, correct: Sequence[str], names: dict[str, str], stem: str
) -> tuple[str, str]:
    words = {}  # by gap
    for word, place in (c.split() for c in correct if len(c.split()) == 2):
        words[place] = word
    answers = [
        names.get(words.get(g.get("identifier", ""), ""), "") for g in interaction.iter("gap")
    ]
    choices = [names[c.get("identifier", "")] for c in interaction.iter("gapText")]
    listed = f"{stem}\n[{' / '.join(choices)}]" if choices else stem
    return listed, numbered(answers) if answers and all(answers) else ""


def _correct(item: Element, response: str) -> list[str]:
    """Return the values that are right: declared, else those with the highest mapped score."""
    for declaration in item.iter("responseDeclaration"):
        if declaration.get("identifier", "") != response:
            continue
        values = [(v.text or "").strip() for v in declaration.findall("correctResponse/value")]
        if any(values):
            return [v for v in values if v]
        scores = {e.get("mapKey", ""): _number(e.get("mappedValue", ""))
                  for e in declaration.iter("mapEntry")}  # fmt: skip
        best = max(scores.values(), default=0.0)
        return [k for k, v in scores.items() if k and v == best > 0]
    return []


def _also(item: Element, response: str, known: set[str]) -> tuple[str, ...]:
    """Return further texts that earn the full score."""
    for declaration in item.iter("responseDeclaration"):
        if declaration.get("identifier", "") == response:
            entries = [(e.get("mapKey", ""), _number(e.get("mappedValue", "")))
                       for e in declaration.iter("mapEntry")]  # fmt: skip
            best = max((v for _, v in entries), default=0.0)
            return tuple(k for k, v in entries if k and v == best > 0 and k not in known)
    return ()


def _text(
    element: Element, where: str, findings: Findings, gaps: dict[Element, str] | None = None
) -> str:
    """Return what an element shows, without its choices and its feedback."""
    gaps = gaps or {}
    parts: list[str] = []

    def walk(node: Element, top: bool) -> None:
        if node in gaps:
            parts.append(gaps[node])
        hidden = not top and (node.tag in _CHOICES or node.tag in ("feedbackInline", "rubricBlock"))
        if node.tag in ("img", "object"):
            findings.add("question.picture", where)
        if hidden or (node.tag in ("feedbackBlock", "modalFeedback") and not top):
            return
        if node.tag in _BLOCKS:
            parts.append("\n")
        parts.append(re.sub(r"\s+", " ", node.text or ""))
        for child in node:
            walk(child, False)
            parts.append(re.sub(r"\s+", " ", child.tail or ""))
        if node.tag in _BLOCKS:
            parts.append("\n")

    walk(element, True)
    return tidied(re.sub(r" *\n *", "\n", "".join(parts)))


def _is_right(feedback: Element) -> bool:
    name = f"{feedback.get('identifier', '')} {feedback.get('title', '')}".casefold()
    return not re.search(r"incorrect|wrong|false", name)


def _camel(name: str) -> str:
    return re.sub(r"-([a-z])", lambda m: m[1].upper(), name)


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"[-+]?\d{1,12}(\.\d{1,12})?", text.strip()) else 0.0
