"""QTI 1.2 and 2.x (also 3.0's names), single files and packages, as LMS export them.

After 1EdTech's specifications "QTI ASI XML Binding 1.2" and "QTI Item Information Model 2.1"; and
after what Canvas, Blackboard and Respondus write. QTI has no element that says "this is right" in
1.2: an answer is right if choosing it adds to the score.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from core.data.ingest import qti2
from core.data.ingest.archive import natural, opened, part
from core.data.ingest.choices import joined
from core.data.ingest.encoding import decode
from core.data.ingest.markup import declared_encoding, line_of, parse_xml, plain
from core.data.ingest.moodle import read_moodle
from core.data.ingest.package import LARGEST
from core.data.ingest.questions import GAP, Found, Question, gap, match_texts, numbered
from core.data.messages import Findings, data_error
from core.errors import DataError

_ITEMS = ("item", "assessmentItem")
_WITHOUT_ANSWER = ("essay_question", "file_upload_question", "Essay")


@dataclass(frozen=True)
class _Response:
    """What a student fills in: a choice (labels by their identifiers), a text or a number."""

    ident: str
    prompt: str
    labels: dict[str, str]
    multiple: bool


def read_qti(root: Element, findings: Findings, member: str = "", topic: str = "") -> Found:
    """Return the questions of one QTI document.

    Args:
        root: ``questestinterop``, ``assessmentItem`` or whatever holds items.
        findings: is told what cannot be read.
        member: the part of a package that it is, empty for a file of its own.
        topic: of its questions, where it names none itself.
    """
    qti2.to_camel_case(root)
    questions: list[Question] = []
    items = [e for e in root.iter() if e.tag in _ITEMS]
    title = next((e.get("title", "") for e in root.iter("assessment")), "") or topic
    for number, item in enumerate(items, 1):
        place = f"question {number}, line {line_of(item)}"
        where = f"{member}, {place}" if member else place
        read = _item if item.tag == "item" else qti2.read_item
        if question := read(item, where, title, findings):
            questions.append(question)
    return Found("qti", tuple(questions))


def read_package(data: bytes, findings: Findings) -> Found:
    """Return the questions of a zipped package (content package, Common Cartridge, Canvas export).

    Raises:
        DataError: if it cannot be opened safely.
    """
    questions: list[Question] = []
    left = LARGEST
    with opened(data) as package:
        for name in _members(set(package.namelist())):
            content = part(package, name, left)
            left -= len(content)
            try:
                told = Findings()
                text = decode(content, told, declared_encoding(content))
                root = parse_xml(text.text, told)
                found = _read_part(root, told, name)
            except DataError as error:
                if error.code == "xml.not_safe":
                    raise data_error(error.code, name) from error
                findings.add("package.part", f"{name}, {error.where}".rstrip(", "))
                continue
            findings.extend(told)
            questions += found.questions
    return Found("qti", tuple(questions))


def _read_part(root: Element, findings: Findings, name: str) -> Found:
    """Return the questions of one XML part; none if it is about something else."""
    if root.tag == "quiz" and root.find("question/questiontext") is not None:
        return read_moodle(root, findings, name)
    return read_qti(root, findings, name) if holds_items(root) else Found("qti")


def _members(names: set[str]) -> list[str]:
    """Return the XML parts in their natural order.

    Canvas keeps its quizzes twice: ``ID/assessment_qti.xml`` is the poorer copy of
    ``non_cc_assessments/ID.xml.qti``.
    """
    full = {posixpath.basename(n)[: -len(".xml.qti")] for n in names if n.endswith(".xml.qti")}
    chosen = []
    for name in names:
        folder, file = posixpath.split(name)
        hidden = name.startswith("__MACOSX/") or file.startswith(".")
        copy = file == "assessment_qti.xml" and posixpath.basename(folder) in full
        manifest = file == "imsmanifest.xml"
        if name.casefold().endswith((".xml", ".qti")) and not (hidden or copy or manifest):
            chosen.append(name)
    return sorted(chosen, key=natural)


def holds_items(root: Element) -> bool:
    """Say whether a document has items, also those of QTI 3."""
    qti2.to_camel_case(root)
    return any(e.tag in _ITEMS for e in root.iter())


def _item(item: Element, where: str, topic: str, findings: Findings) -> Question | None:
    """Return a QTI 1.2 item; ``None`` (and a finding) if it asks nothing."""
    kind = _metadata(item, "question_type") or _metadata(item, "qmd_itemtype")
    presentation = item.find("presentation")
    if presentation is None or kind == "text_only_question":
        findings.add("question.description", where)
        return None
    responses = [_response(e, where, findings) for e in presentation.iter() if _is_response(e)]
    stem = _material(_outside(presentation), where, findings)
    if kind == "calculated_question":
        return _calculated(item, stem, where, topic, findings)
    rights = _rights(item)
    explanation = _feedback(item, rights, where, findings)
    if kind in _WITHOUT_ANSWER or not responses:
        return Question(stem, "", where, (), explanation, (), topic)
    if len(responses) == 1:
        text, answer, options, others = _single(stem, responses[0], rights)
    else:
        text, answer = _several(stem, responses, rights)
        options, others = (), ()
    if len(responses) == 1 and f"[{responses[0].prompt}]" in stem and responses[0].labels:
        shown = gap(1, 1, list(responses[0].labels.values()))
        text, options = stem.replace(f"[{responses[0].prompt}]", shown, 1), ()
    return Question(text, answer, where, options, explanation, others, topic)


def _metadata(item: Element, label: str) -> str:
    for field in item.iter("qtimetadatafield"):
        if field.findtext("fieldlabel", "").strip() == label:
            return field.findtext("fieldentry", "").strip()
    return item.findtext(f".//{label}", "").strip()


def _is_response(element: Element) -> bool:
    return element.tag in ("response_lid", "response_str", "response_num", "response_grp")


def _outside(presentation: Element) -> Iterator[Element]:
    """Yield the texts that belong to no response, in order."""
    for child in presentation:
        if child.tag == "mattext" or child.tag == "matemtext":
            yield child
        elif not _is_response(child):
            yield from _outside(child)


def _material(texts: Iterator[Element], where: str, findings: Findings) -> str:
    shown = []
    for text in texts:
        raw = "".join(text.itertext())
        html = "html" in text.get("texttype", "html")
        shown.append(plain(raw, findings, where) if html else raw.strip())
    return "\n".join(filter(None, shown))


def _response(element: Element, where: str, findings: Findings) -> _Response:
    prompt = []
    for child in element:
        if not child.tag.startswith("render"):
            prompt += list(child.iter("mattext"))
    labels = {}
    for label in element.iter("response_label"):
        labels[label.get("ident", "")] = _material(label.iter("mattext"), where, findings)
    kept = {k: v for k, v in labels.items() if v} if element.tag != "response_str" else {}
    multiple = element.get("rcardinality", "").casefold() in ("multiple", "ordered")
    return _Response(
        element.get("ident", ""), _material(iter(prompt), where, findings), kept, multiple
    )


@dataclass(frozen=True)
class _Right:
    """An answer that earns something: to which response, what, and how much."""

    response: str
    value: str
    score: float
    feedback: tuple[str, ...]


def _rights(item: Element) -> list[_Right]:
    """Return the answers that add to the score, in the order of the file.

    A condition without a score counts if its title or feedback is called "correct".
    """
    found: list[_Right] = []
    for condition in item.iter("respcondition"):
        said = tuple(d.get("linkrefid", "") for d in condition.iter("displayfeedback"))
        score = _score(condition, said)
        if score > 0:
            for variable in condition.findall("conditionvar"):
                for ident, value in _values(variable):
                    found.append(_Right(ident, value, score, said))
    return found


def _score(condition: Element, said: Sequence[str]) -> float:
    settings = condition.findall("setvar")
    if not settings:
        named = [condition.get("title", ""), *said]
        return 1.0 if any(n.casefold() == "correct" for n in named) else 0.0
    total = 0.0
    for setting in settings:
        text = (setting.text or "").strip()
        if setting.get("action", "Set").casefold() in ("set", "add"):
            total += float(text) if re.fullmatch(r"[-+]?\d{1,12}(\.\d{1,12})?", text) else 0.0
    return total


def _values(condition: Element) -> Iterator[tuple[str, str]]:
    """Yield what a condition asks to be chosen; what it asks not to be (``not``) is passed over."""
    lows: dict[str, str] = {}
    exact: set[str] = set()
    for child in condition:
        ident, text = child.get("respident", ""), (child.text or "").strip()
        if child.tag in ("varequal", "varsubstring"):
            exact.add(ident)
            yield ident, text
        elif child.tag in ("vargte", "vargt"):
            lows[ident] = text
        elif child.tag in ("varlte", "varlt") and ident in lows:
            low = lows[ident]
            yield ident, text if low == text else f"{low} – {text}"
        elif child.tag in ("and", "or"):
            yield from _values(child)


def _single(
    stem: str, response: _Response, rights: Sequence[_Right]
) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Return text, answer, options and other answers of a question with one response."""
    mine = [r for r in rights if r.response in ("", response.ident)]
    best = max((r.score for r in mine), default=0.0)
    if response.labels:
        chosen = [r for r in mine if response.multiple or r.score == best]
        names = list(dict.fromkeys(response.labels.get(r.value, "") for r in chosen))
        names = [n for n in names if n]
        names = names if response.multiple else names[:1]
        return stem, joined(names), tuple(response.labels.values()), ()
    values = list(dict.fromkeys(r.value for r in mine if r.score == best and r.value))
    return stem, (values[0] if values else ""), (), tuple(values[1:])


def _several(
    stem: str, responses: Sequence[_Response], rights: Sequence[_Right]
) -> tuple[str, str]:
    """Return a question with several responses: gaps if the text names them, else matching."""
    answers, gaps = [], []
    for response in responses:
        _, answer, _, _ = _single("", response, rights)
        answers.append(answer)
        gaps.append(response)
    named = [f"[{r.prompt}]" for r in gaps]
    if all(n in stem for n in named):
        for i, (response, name) in enumerate(zip(gaps, named, strict=True), 1):
            choices = list(response.labels.values()) if len(response.labels) > 1 else []
            alike = len({c.casefold() for c in choices}) == 1
            stem = stem.replace(name, gap(i, len(gaps), [] if alike else choices), 1)
        return stem, numbered(answers) if all(answers) else ""
    if not any(r.prompt for r in responses):
        marks = " ".join(gap(i, len(gaps)) for i in range(1, len(gaps) + 1))
        text = stem if GAP[:2] in stem else f"{stem}\n{marks}"
        return text, numbered(answers) if all(answers) else ""
    pairs = [(r.prompt, a) for r, a in zip(responses, answers, strict=True) if r.prompt]
    extra = [label for r in responses for label in r.labels.values()]
    if not pairs or not all(a for _, a in pairs):
        return stem, ""
    return match_texts(stem, pairs, extra)


def _calculated(
    item: Element, stem: str, where: str, topic: str, findings: Findings
) -> Question | None:
    """Return a formula question with the first of the number sets that its export lists."""
    chosen = item.find(".//var_set")
    answer = chosen.findtext("answer", "").strip() if chosen is not None else ""
    if chosen is None or not answer:
        findings.add("question.computed", where, kind="calculated")
        return None
    for variable in chosen.findall("var"):
        stem = stem.replace(f"[{variable.get('name', '')}]", (variable.text or "").strip())
    findings.add("question.one_of_many", where)
    return Question(stem, answer, where, topic=topic)


def _feedback(item: Element, rights: Sequence[_Right], where: str, findings: Findings) -> str:
    """Return the feedback that a right answer shows, and what is shown in any case."""
    texts = {}
    for element in item.iter("itemfeedback"):
        texts[element.get("ident", "")] = _material(element.iter("mattext"), where, findings)
    right = {r.value for r in rights}
    wanted = [f"{r.value}_fb" for r in rights]
    wanted += [name for r in rights for name in r.feedback]
    for condition in item.iter("respcondition"):
        chosen = {value for variable in condition.findall("conditionvar")
                  for _, value in _values(variable)}  # fmt: skip
        if chosen and chosen <= right:
            wanted += [d.get("linkrefid", "") for d in condition.iter("displayfeedback")]
    wanted += ["correct_fb", "correct", "general_fb", "solution"]
    return "\n".join(dict.fromkeys(texts[w] for w in wanted if texts.get(w)))
