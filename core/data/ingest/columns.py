"""Which column holds the questions and which the answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.data.messages import data_error

# In order of preference: where a table has several of them, the first one counts.
QUESTION: tuple[str, ...] = (
    # English
    "question", "questions", "q", "prompt", "instruction", "query", "problem", "exercise",
    "task", "front", "term", "word", "concept", "user", "stem", "human", "input", "text",
    # simplified
    "问题", "题目", "题干", "提问", "问", "试题", "指令", "指示", "正面", "术语", "词语",
    "单词", "概念", "名词", "词条", "用户", "输入",
    # traditional
    "問題", "題目", "題幹", "提問", "問", "術語", "詞語", "單詞",
    # Japanese, Korean
    "質問", "設問", "問い", "질문", "문제",
    # others
    "énoncé", "frage", "aufgabe", "begriff", "pregunta", "término", "domanda", "pergunta",
    "vraag", "вопрос", "задание", "سؤال", "سوال", "प्रश्न",
)  # fmt: skip
ANSWER: tuple[str, ...] = (
    # English
    "answer", "answers", "a", "response", "output", "completion", "reply", "correct_answer",
    "solution", "definition", "meaning", "explanation", "back", "assistant", "gpt", "target",
    "chosen", "bot", "translation", "ans", "golden", "gold", "label",
    # simplified
    "答案", "参考答案", "标准答案", "正确答案", "回答", "答", "解答", "答复", "回复", "输出",
    "背面", "释义", "定义", "含义", "解释", "解析", "翻译", "助手",
    # traditional
    "參考答案", "標準答案", "正確答案", "回覆", "輸出", "釋義", "定義", "解釋",
    # Japanese, Korean
    "答え", "正解", "답변", "정답", "답",
    # others
    "réponse", "définition", "antwort", "lösung", "respuesta", "definición", "risposta",
    "resposta", "antwoord", "ответ", "определение", "جواب", "إجابة", "उत्तर",
)  # fmt: skip
SYSTEM = ("system", "system_prompt", "系统", "系統", "系统提示")
INPUT = ("input", "context", "输入", "輸入", "上下文")
REJECTED = ("rejected", "rejected_response")

_NOTES = re.compile(r"\([^)]*\)|（[^）]*）|\[[^\]]*\]|【[^】]*】")
_NO_TEXT = re.compile(
    r"\b(id|no|nr|type|index|number|date|time|count|length)\b|编号|序号|类型|日期|分数"
)


@dataclass(frozen=True)
class Mapping:
    """Columns by their part in an example; empty where there is none."""

    question: str
    answer: str
    input: str = ""
    system: str = ""
    rejected: str = ""
    guessed: bool = False

    def names(self) -> dict[str, str]:
        """Return the columns in use, by part."""
        parts = {
            "question": self.question,
            "answer": self.answer,
            "input": self.input,
            "system": self.system,
            "rejected": self.rejected,
        }
        return {part: name for part, name in parts.items() if name}

    @property
    def kind(self) -> str:
        """``alpaca``, ``preference`` or empty."""
        if self.rejected:
            return "preference"
        names = normal_name(self.question), normal_name(self.answer)
        return "alpaca" if names == ("instruction", "output") else ""


def normal_name(name: str) -> str:
    """Return a column name for comparison: no case, accents composed, no notes in brackets."""
    name = unicodedata.normalize("NFKC", name).casefold()
    name = _NOTES.sub(" ", name) if _NOTES.sub("", name).strip() else name
    return re.sub(r"[\W_]+", "_", name).strip("_")


def names_pair(cells: Sequence[str]) -> bool:
    """Say whether the cells of a row name a question and an answer column."""
    names = [normal_name(c) for c in cells]
    question = _exact(names, QUESTION)
    answer = _exact(names, ANSWER)
    return question is not None and answer is not None and question != answer


def choose_columns(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    question: str = "",
    answer: str = "",
    *,
    named: bool = True,
) -> Mapping:
    """Return the columns to learn from.

    Args:
        columns: names of all columns.
        rows: the cells below them, to prefer columns that hold text.
        question: the teacher's choice; empty: guessed.
        answer: the teacher's choice; empty: guessed.
        named: whether the names come from the file.

    Raises:
        DataError: if a chosen column does not exist, both are the same, or there is only one.
    """
    listed = ", ".join(columns)
    if len(columns) < 2:
        raise data_error("table.one_column", columns=listed)
    asked = _chosen(question, columns)
    told = _chosen(answer, columns)
    q, a = asked, told
    names = [normal_name(c) for c in columns]
    # a column without a single text is not what anyone means
    full = [n if named and _is_used(rows, i) else "" for i, n in enumerate(names)]
    if q is None:
        q = _recognised(full, QUESTION, taken=a)
    if a is None:
        a = _recognised(full, ANSWER, taken=q)
    guessed = q is None or a is None or not named
    q = _next_text(columns, rows, after=-1, taken=a) if q is None else q
    a = _next_text(columns, rows, after=q, taken=q) if a is None else a
    if q == a:
        raise data_error("table.same_column", column=columns[q], columns=listed)
    free = {i: n for i, n in enumerate(names) if i not in (q, a)}
    return Mapping(
        columns[q],
        columns[a],
        input=_extra(columns, free, INPUT) if names[q] in ("instruction", "指令") else "",
        system=_extra(columns, free, SYSTEM),
        rejected=_extra(columns, free, REJECTED) if names[a] == "chosen" else "",
        guessed=guessed and (asked is None or told is None),
    )


def _is_used(rows: Sequence[Sequence[str]], column: int) -> bool:
    return not rows or any(column < len(r) and r[column].strip() for r in rows)


def _chosen(name: str, columns: Sequence[str]) -> int | None:
    if not name:
        return None
    for same in (lambda c: c == name, lambda c: normal_name(c) == normal_name(name)):
        for i, column in enumerate(columns):
            if same(column):
                return i
    raise data_error("table.unknown_column", column=name, columns=", ".join(columns))


def _exact(names: Sequence[str], known: Iterable[str]) -> int | None:
    return next((names.index(k) for k in known if k in names), None)


def _recognised(names: Sequence[str], known: Sequence[str], taken: int | None) -> int | None:
    """Find a column by its name: equal to a known one, else containing one ("the question")."""
    free = [n if i != taken else "" for i, n in enumerate(names)]
    exact = _exact(free, known)
    if exact is not None:
        return exact
    for word in known:
        for i, name in enumerate(free):
            words = name.split("_")
            inside = word in words if word.isascii() else len(word) > 1 and word in name
            if len(word) > 1 and inside and not _NO_TEXT.search(" ".join(words)):
                return i
    return None


def _next_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], after: int, taken: int | None
) -> int:
    """Return the first free column that mostly holds texts, those after a given one first.

    Without any, the column that follows (answers may all be numbers).
    """

    def is_text(i: int) -> bool:
        cells = [r[i].strip() for r in rows[:200] if i < len(r)]
        texts = sum(bool(c) and not c.replace(".", "").isdecimal() for c in cells)
        named = _NO_TEXT.search(normal_name(columns[i]).replace("_", " "))
        return texts * 2 >= max(1, len(cells)) and not named

    n = len(columns)
    free = [i % n for i in range(after + 1, after + 1 + n) if i % n != taken]
    return next(filter(is_text, free), free[0])


def _extra(columns: Sequence[str], free: dict[int, str], known: Sequence[str]) -> str:
    return next((columns[i] for i, n in free.items() if n in known), "")
