"""Questions written as plain text: ``Q:`` and ``A:``, numbers with options and ``Ans: B``, Aiken.

The lines may come from a text file, a Word document, a PDF or a page; each knows its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.data.ingest.choices import joined
from core.data.ingest.questions import Found, Question
from core.data.messages import Findings, data_error

SAMPLE = 1 << 16  # characters by which a text is recognised

_STOP = r"[.):、．：）\]]"
_LABEL_END = r"\s*(?:\*\*|__)?\s*[:：]\s*(?:\*\*|__)?\s*"
_ASKS = re.compile(
    r"(?:[-*•]\s+)?(?:\*\*|__|#{1,6}\s+)?(?:Q|Question|Frage|Pregunta|问题|问|题目|問題|問|質問)"
    rf"\s*(?:No\.?\s*)?\d{{0,4}}(?:{_LABEL_END}|\s*[.)]\s*(?:\*\*|__)?\s*(?=\S))(.*)",
    re.IGNORECASE,
)
_SHORT_ANSWER = re.compile(rf"(?:[-*•]\s+)?(?:\*\*|__)?A\d{{0,4}}{_LABEL_END}(.*)", re.IGNORECASE)
_ANSWERS = re.compile(
    r"(?:[-*•]\s+)?(?:\*\*|__|\[|【|\()?(?:(?:the\s+)?(?:correct|right)\s+(?:answer|option|choice)s?"
    r"|answers?|ans|solution|antwort|respuesta|réponse|参考答案|标准答案|正确答案|答案|答|回答|解答|正解)"
    rf"(?:\]|】|\))?\s*\d{{0,4}}(?:{_LABEL_END}|\s*[.]\s+|\s+is\s+|(?<=[】\]])\s*)(.*)",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    r"(?:\*\*|__|\[|【)?(?:explanation|rationale|feedback|reason|hint|解析|说明|解釋|解释)"
    rf"(?:\]|】)?(?:{_LABEL_END}|(?<=[】\]])\s*)(.*)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?:\*\*|__|#{1,6}\s+)?[(（]?(\d{1,4})\s*(?:[.．](?!\d)|[)）、:：])\s*(?:\*\*|__)?\s*(\S.*)"
)
_OPTION = re.compile(
    rf"([*✓✔√]\s*)?(?:[-•]\s+)?(?:\*\*)?([(（\[])?([A-Ha-h])\s*{_STOP}(?:\*\*)?\s*(\S.*)?"
)
_BULLET = re.compile(r"[-•*–]\s+(\S.*)")
_INLINE = re.compile(rf"(?:(?<=\s)|(?<=^)|(?<=[。；;,，)）]))[(（]?([A-H])\s*{_STOP}\s*")
_RIGHT_MARK = re.compile(r"\s*(?:\*+|✓|✔|√|\((?:correct|right|正确)\)|（正确）)\s*$", re.IGNORECASE)
_IN_STEM = re.compile(r"([（(])[\s_]*([A-H]{1,8})[\s_]*([）)])")
_LETTERS = re.compile(r"[(\[]?([A-Ha-h])(?:[.):、．\]]\s*|\s*$|(?=\s*(?:,|，|、|;|&|and\b|和)))")
_MANY = re.compile(r"[(\[]?([A-H](?:\s*(?:,|，|、|;|&|and|和)?\s*[A-H])*)[)\]]?[.。]?$")
_KEY = re.compile(
    r"(?:#{1,6}\s*|\*\*)?(?:answer\s*key|answers|key|参考答案|答案)\s*[:：]?\s*(?:\*\*)?",
    re.IGNORECASE,
)
_KEY_RANGE = re.compile(r"(\d{1,4})\s*[-–—~]\s*(\d{1,4})\s*[.:：]?\s*([A-H](?:\s*[A-H])*)")
_KEY_ONE = re.compile(
    r"(\d{1,4})\s*[.)、．:：]?\s*\(?([A-H]{1,8}|true|false|[TF√×对错])\)?(?![\w])", re.IGNORECASE
)
_WORDS = {"t": "True", "f": "False", "√": "对", "×": "错", "✓": "对", "✗": "错"}


@dataclass(frozen=True)
class Line:
    """A line of text and its place."""

    text: str
    where: str


@dataclass
class _Block:
    """A question while it is read; ``marked`` if a number or a label opened it."""

    where: str
    marked: str = ""  # "label", "number" or empty
    number: int = 0
    stem: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    starred: list[bool] = field(default_factory=list)
    answer: list[str] | None = None
    explanation: list[str] = field(default_factory=list)
    bulleted: bool = False  # options without letters; perhaps only a list in the stem

    @property
    def chosen_by_letter(self) -> bool:
        """Whether the answer is there and a letter of the options."""
        return bool(self.options and self.answer and _letters(" ".join(self.answer)))


def lines_of(text: str) -> list[Line]:
    """Return the lines of a text file with their numbers."""
    return [Line(t, f"line {i}") for i, t in enumerate(text.lstrip("\ufeff").splitlines(), 1)]


def looks_like_questions(text: str) -> str:
    """Return ``aiken`` or ``text`` for a text that holds questions in words, empty for another."""
    lines = [line.strip() for line in text[:SAMPLE].splitlines() if line.strip()]
    asks = sum(bool(_ASKS.match(s)) for s in lines)
    answers = sum(bool(_ANSWERS.match(s)) for s in lines)
    short = sum(bool(_SHORT_ANSWER.match(s)) for s in lines)
    options = sum(bool(_OPTION.match(s)) for s in lines)
    numbers = sum(bool(_NUMBERED.match(s)) for s in lines)
    if options >= 2 and any(re.match(r"ANSWER:\s*[A-Z]\s*$", s) for s in lines) and not asks:
        return "aiken"
    told = answers + short + any(_KEY.fullmatch(s) for s in lines)
    enough = (asks + numbers + answers) * 8 >= len(lines)  # a stray "Note 1:" makes no quiz
    listed = told and (asks or options >= 2 or numbers >= 2)
    return "text" if listed and enough else ""


def is_option(line: str) -> bool:
    """Say whether a line begins with the letter of an option."""
    return _OPTION.match(line.strip()) is not None


def read_questions(lines: Sequence[Line], findings: Findings, form: str = "text") -> Found:
    """Return the questions of a text.

    Args:
        lines: of the text.
        findings: is told lines that belong to no question, and answers that fit no option.
        form: the format's name.

    Raises:
        DataError: if there is no question.
    """
    reader = _Reader(labels=any(_ASKS.match(line.text.strip()) for line in lines))
    for i, line in enumerate(lines):
        if reader.wants_key and _KEY.fullmatch(line.text.strip()):
            reader.use_key(lines[i + 1 :])
            break
        reader.take(line, lines[i + 1 : i + 4])
    questions = []
    for block in reader.blocks:
        if block.marked or block.options or block.answer is not None:
            questions.append(_question(block, findings))
        else:
            findings.add("question.stray", block.where)
    if not questions:
        raise data_error("question.none")
    return Found(form, tuple(questions))


class _Reader:
    """Takes one line after the other and puts it where it belongs."""

    def __init__(self, *, labels: bool) -> None:
        self.blocks: list[_Block] = []
        self._labels = labels
        self._state = ""  # stem, options, answer or explanation
        self._gap = False

    @property
    def wants_key(self) -> bool:
        """Whether most questions so far have no answer yet."""
        marked = [b for b in self.blocks if b.marked]
        return len(marked) > 1 and sum(b.answer is None for b in marked) * 2 > len(marked)

    @property
    def _block(self) -> _Block | None:
        return self.blocks[-1] if self.blocks else None

    def take(self, line: Line, ahead: Sequence[Line]) -> None:
        """Take a line; ``ahead`` are those that follow it."""
        text = line.text.strip()
        if not text:
            self._gap = True
            return
        if not self._labelled(text, line, ahead) and not self._option(text):
            self._text(text, line)
        self._gap = False

    def use_key(self, lines: Iterable[Line]) -> None:
        """Give the questions the answers of a key such as ``1. B  2. C`` or ``1-5 ABCDA``."""
        text = "\n".join(line.text for line in lines)
        key: dict[int, str] = {}
        for first, last, letters in _KEY_RANGE.findall(text):
            answers = re.sub(r"\s", "", letters)
            if int(last) - int(first) + 1 == len(answers):
                key |= dict(enumerate(answers, int(first)))
        for number, answer in _KEY_ONE.findall(_KEY_RANGE.sub(" ", text)):
            key.setdefault(int(number), answer)
        for block in self.blocks:
            if block.number in key and block.answer is None:
                block.answer = [key[block.number]]

    def _open(self, where: str, marked: str, stem: str, number: int = 0) -> None:
        self.blocks.append(_Block(where, marked, number))
        self._state = "stem"
        before, options = _inline(stem, 0)
        self.blocks[-1].stem.append(before)
        self._add(options)

    def _labelled(self, text: str, line: Line, ahead: Sequence[Line]) -> bool:
        """Take a line that a label or a number begins."""
        block = self._block
        if block and (found := _ANSWERS.match(text)):
            self._answer(block, found[1])
        elif block and block.marked == "label" and (found := _SHORT_ANSWER.match(text)):
            if not block.options and _next_is_option(ahead):
                return False
            self._answer(block, found[1])
        elif block and (found := _EXPLAINS.match(text)):
            block.explanation.append(found[1])
            self._state = "explanation"
        elif found := _ASKS.match(text):
            self._open(line.where, "label", _bare(found[1]))
        elif (found := _NUMBERED.match(text)) and self._counts(int(found[1])):
            self._open(line.where, "number", _bare(found[2]), int(found[1]))
        else:
            return False
        return True

    def _counts(self, number: int) -> bool:
        """Say whether a number opens a question, and is no list inside one."""
        block = self._block
        if self._labels and block and block.marked == "label":
            return False
        if block is None or not block.marked:
            return True
        return number == block.number + 1 or bool(block.options) or block.answer is not None

    def _answer(self, block: _Block, text: str) -> None:
        if block.answer is None:
            block.answer = []
        block.answer.append(_bare(text))
        self._state = "answer"

    def _option(self, text: str) -> bool:
        block = self._block
        if block is None or block.answer is not None:
            return False
        _, options = _inline(text, len(block.options), whole=True)
        if options:
            self._add(options)
            return True
        found = _OPTION.match(text)
        if found and ord(found[3].upper()) - 65 == len(block.options):
            body = found[4] or ""
            self._add([f"{body} *" if found[1] else body])
            return True
        bullet = _BULLET.match(text)
        if bullet is None or (block.options and not block.bulleted):
            return False
        block.bulleted = True
        self._add([bullet[1]])
        return True

    def _add(self, options: Sequence[str]) -> None:
        for option in options:
            block = self.blocks[-1]
            block.starred.append(bool(_RIGHT_MARK.search(option)))
            block.options.append(_bare(_RIGHT_MARK.sub("", option)))
            self._state = "options"

    def _text(self, text: str, line: Line) -> None:
        """Take a line without a sign: it goes on with what is there, or begins a question."""
        block = self._block
        ended = block is None or (
            not block.marked and self._gap and self._state != "options"
        ) or (block.chosen_by_letter and self._state == "answer") or (
            bool(block.options) and self._gap and block.answer is None and not block.marked
        )  # fmt: skip
        if ended or block is None:
            self._open(line.where, "", text)
        elif self._state == "stem":
            block.stem.append(line.text.rstrip())
        elif self._state == "options":
            block.options[-1] = f"{block.options[-1]} {text}".strip()
        elif self._state == "answer" and block.answer is not None:
            block.answer += ["", text] if self._gap and block.answer != [""] else [text]
        else:
            block.explanation.append(text)


def _next_is_option(ahead: Sequence[Line]) -> bool:
    following = next((line.text.strip() for line in ahead if line.text.strip()), "")
    found = _OPTION.match(following)
    return bool(found and found[3] in "Bb")


def _inline(text: str, first: int, *, whole: bool = False) -> tuple[str, list[str]]:
    """Split ``stem A. one B. two`` into the stem and at least two options.

    Args:
        text: a line.
        first: the number of the option that is expected.
        whole: whether the options must begin the line.
    """
    marks: list[re.Match[str]] = []
    for found in _INLINE.finditer(text):
        if ord(found[1]) - 65 == first + len(marks):
            marks.append(found)
    if len(marks) < 2 or (whole and marks[0].start() > 0):
        return text, []
    ends = [m.start() for m in marks[1:]] + [len(text)]
    options = [text[m.end() : end].strip() for m, end in zip(marks, ends, strict=True)]
    return text[: marks[0].start()].strip(), options


def _bare(text: str) -> str:
    """Return a text without the asterisks of Markdown that enclose all of it or end it."""
    text = text.strip()
    if len(text) > 4 and text.startswith(("**", "__")) and text.endswith(text[:2]):
        text = text[2:-2].strip()
    elif text.endswith("**") and text.count("**") == 1:
        text = text[:-2].strip()
    return text


def _letters(answer: str) -> str:
    """Return the letters that an answer begins with (``B``, ``A, C``, ``ABD``, ``B) Paris``)."""
    if found := _MANY.fullmatch(answer.strip()):
        return re.sub(r"[^A-H]", "", found[1].replace("and", ""))
    found = _LETTERS.match(answer.strip())
    return found[1].upper() if found else ""


def _question(block: _Block, findings: Findings) -> Question:
    stem = "\n".join(block.stem).strip()
    answer = "\n".join(block.answer or []).strip()
    if block.bulleted and not any(block.starred) and not _names_option(block, answer):
        stem = "\n".join([stem, *(f"- {o}" for o in block.options)])
        block.options, block.starred = [], []
    if not answer and block.options and not any(block.starred):
        stem, answer = _answer_in_stem(stem)
    answer = _in_words(block, answer, findings)
    explanation = "\n".join(block.explanation).strip()
    return Question(stem, answer, block.where, tuple(block.options), explanation)


def _names_option(block: _Block, answer: str) -> bool:
    """Say whether an answer is a letter of the options, or one of them."""
    letters = [ord(letter) - 65 for letter in _letters(answer)]
    fits = bool(letters) and max(letters) < len(block.options)
    return fits or answer.casefold() in [o.casefold() for o in block.options]


def _answer_in_stem(stem: str) -> tuple[str, str]:
    """Take the letter out of a stem such as ``It is ( B ).``, as Chinese papers have it."""
    found = list(_IN_STEM.finditer(stem))
    if len(found) != 1:
        return stem, ""
    at = found[0]
    return f"{stem[: at.start()]}{at[1]}  {at[3]}{stem[at.end() :]}", at[2]


def _in_words(block: _Block, answer: str, findings: Findings) -> str:
    """Return the right answer in words; empty (and a finding) if it names no option."""
    if not block.options:
        return _WORDS.get(answer.casefold(), answer)
    if not answer:
        marked = [o for o, s in zip(block.options, block.starred, strict=True) if s]
        return joined(marked) if len(marked) < len(block.options) else ""
    if same := next((o for o in block.options if o.casefold() == answer.casefold()), ""):
        return same
    letters = _letters(answer)
    places = [ord(letter) - 65 for letter in dict.fromkeys(letters)]
    if places and max(places) < len(block.options):
        return joined([block.options[i] for i in places])
    if answer.isascii() and answer.isdecimal() and 0 < int(answer[:3]) <= len(block.options):
        return block.options[int(answer[:3]) - 1]
    findings.add("question.bad_answer", block.where, answer=answer)
    return ""
