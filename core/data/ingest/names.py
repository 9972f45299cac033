"""Column names as teachers write them, by the part that the column has in an example."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# In order of preference: where a table has several of them, the first one counts.
QUESTION: tuple[str, ...] = (
    # English
    "question", "questions", "question_text", "questiontext", "q", "prompt", "instruction",
    "query", "problem", "exercise", "task", "front", "term", "word", "concept", "user", "stem",
    "question_stem", "human", "input", "text",
    # simplified
    "问题", "题目", "题干", "试题题干", "题目内容", "试题内容", "提问", "问", "试题", "指令",
    "指示",    "正面", "术语", "词语", "单词", "概念", "名词", "词条", "用户", "输入",
    # traditional
    "問題", "題目", "題幹", "提問", "問", "術語", "詞語", "單詞",
    # Japanese, Korean
    "質問", "設問", "問い", "질문", "문제",
    # others
    "énoncé", "frage", "fragetext", "aufgabe", "begriff", "pregunta", "término", "domanda",
    "pergunta", "vraag", "вопрос", "задание", "سؤال", "سوال", "प्रश्न",
)  # fmt: skip
ANSWER: tuple[str, ...] = (
    # English
    "answer", "answers", "a", "response", "output", "completion", "reply", "correct_answer",
    "correct_answers", "correct_answer_s", "correct_option", "correct_choice", "right_answer",
    "answer_key", "solution", "definition", "meaning", "explanation", "back", "assistant", "gpt",
    "target", "chosen", "bot", "translation", "ans", "golden", "gold", "label", "answer_index",
    "answer_idx", "correct", "key",
    # simplified
    "答案", "参考答案", "标准答案", "正确答案", "正确选项", "答案选项", "试题答案", "回答", "答",
    "解答", "答复", "回复", "输出", "背面", "释义", "定义", "含义", "解释", "解析", "翻译", "助手",
    # traditional
    "參考答案", "標準答案", "正確答案", "正確選項", "回覆", "輸出", "釋義", "定義", "解釋",
    # Japanese, Korean
    "答え", "正解", "답변", "정답", "답",
    # others
    "réponse", "définition", "antwort", "lösung", "respuesta", "definición", "risposta",
    "resposta", "antwoord", "ответ", "определение", "جواب", "إجابة", "उत्तर",
)  # fmt: skip
SYSTEM = ("system", "system_prompt", "system_message", "系统", "系統", "系统提示", "系统提示词",
          "系統提示")  # fmt: skip
INPUT = ("input", "context", "输入", "輸入", "上下文")
CONTEXT = ("context", "passage", "reading_passage", "article", "paragraph", "material",
           "background", "上下文", "材料", "阅读材料", "文章", "短文", "背景", "原文", "篇章",
           "語境", "閱讀材料", "语境")  # fmt: skip
TOPIC = ("topic", "category", "subject", "chapter", "unit", "lesson", "section", "deck", "tags",
         "tag", "keywords", "章节", "主题", "知识点", "考点", "科目", "学科", "分类", "单元",
         "标签", "模块", "課題", "章節", "主題", "單元", "科目名称", "thema",
         "kapitel", "thème", "tema")  # fmt: skip
EXPLANATION = ("explanation", "rationale", "feedback", "general_feedback", "answer_explanation",
               "comment", "hint", "解析", "答案解析", "试题解析", "题目解析", "详解", "解释",
               "说明", "反馈", "erklärung", "explication", "explicación")  # fmt: skip
REJECTED = ("rejected", "rejected_response")
OPTIONS = ("options", "choices", "option", "choice", "answer_options", "answer_choices",
           "选项", "選項", "选项内容", "备选项", "备选答案", "候选答案", "候选项", "选择项",
           "optionen", "opciones", "alternatives")  # fmt: skip
WRONG = ("incorrect_answers", "wrong_answers", "incorrect", "distractors", "干扰项", "错误答案",
         "错误选项")  # fmt: skip

_NOTES = re.compile(r"\([^)]*\)|（[^）]*）|\[[^\]]*\]|【[^】]*】")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CHINESE_DIGITS = {c: i for i, c in enumerate("一二三四五六七八九十", 1)}
_COUNT = r"(?P<at>[a-j]|\d{1,2}|[一二三四五六七八九十])"
_OPTION_WORDS = (
    "answer_option|answer_choice|option_text|option|opt|choice|alternative|statement|possible_answer"
    "|answer|ans|réponse|antwort|respuesta|risposta|备选答案|备选项|备选|候选项|选项|選項|答案|选择"
)
_FLAG_WORDS = (
    "is_correct|correct_answer|correct|right|true_false|is_true|richtig|korrekt"
    "|是否正确|正确|正確|对错"
)
_WRONG_WORDS = (
    "incorrect_answer|wrong_answer|incorrect_option|wrong_option|incorrect|wrong|distractor"
    "|干扰项|错误答案|错误选项"
)


def _numbered(words: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    after = re.compile(rf"(?P<word>{words})_?{_COUNT}(?:_.*)?")
    return after, re.compile(rf"{_COUNT}_?(?P<word>{words})(?:_.*)?")


_OPTION, _FLAG, _WRONG = map(_numbered, (_OPTION_WORDS, _FLAG_WORDS, _WRONG_WORDS))
_TURN_WORDS = "|".join(
    sorted(
        (w for w in (*QUESTION, *ANSWER) if len(w) > 1 or not w.isascii()), key=len, reverse=True
    )
)
_TURN = re.compile(rf"(?P<word>{_TURN_WORDS}|q|a)_?(?P<at>\d{{1,2}})")


def normal_name(name: str) -> str:
    """Return a column name for comparison: no case, accents composed, no notes in brackets."""
    name = _apart(name).casefold()
    name = _NOTES.sub(" ", name) if _NOTES.sub("", name).strip() else name
    return _joined(name)


def whole_name(name: str) -> str:
    """Return a column name for comparison, with what stands in brackets (``选项（A）``)."""
    return _joined(_apart(name).casefold())


def _apart(name: str) -> str:
    """Return a name with the words of ``correctAnswer`` apart."""
    return _HUMP.sub("_", unicodedata.normalize("NFKC", name))


def _joined(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name).strip("_")


def column_letter(index: int) -> str:
    """Return Excel's name of a column: A .. Z, AA, AB ..."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def option_columns(columns: Sequence[str]) -> tuple[int, ...]:
    """Return the columns of a question's options in their order; empty if there are not two.

    ``A选项``, ``选项A``, ``Option 1``, ``Answer 1 - max 75 characters``, or bare ``A B C D``.
    """
    return _series(columns, _OPTION) or _bare_letters(columns)


def flag_columns(columns: Sequence[str]) -> tuple[int, ...]:
    """Return the columns that say of each option whether it is right (``Correct 1``)."""
    return _series(columns, _FLAG)


def wrong_columns(columns: Sequence[str]) -> tuple[int, ...]:
    """Return the columns of wrong answers (``Incorrect answer 1``); one is enough."""
    return _series(columns, _WRONG, least=1)


def turn_columns(columns: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return (question, answer) columns of a conversation in a row: ``question1, answer1, ...``."""
    asked: dict[int, int] = {}
    told: dict[int, int] = {}
    for i, column in enumerate(columns):
        if match := _TURN.fullmatch(whole_name(column)):
            word = match["word"]
            side = asked if word in QUESTION else told
            side.setdefault(int(match["at"]), i)
    both = sorted(asked.keys() & told.keys())
    return tuple((asked[at], told[at]) for at in both) if len(both) > 1 else ()


def _series(
    columns: Sequence[str], patterns: tuple[re.Pattern[str], ...], least: int = 2
) -> tuple[int, ...]:
    """Return the longest run of columns that one word numbers from the first on."""
    found: dict[str, dict[int, int]] = {}
    for i, column in enumerate(columns):
        name = whole_name(column)
        match = next((m for p in patterns if (m := p.fullmatch(name))), None)
        if match:
            found.setdefault(match["word"], {}).setdefault(_place(match["at"]), i)
    runs = [_from_first(places) for places in found.values()]
    best = max(runs, key=len, default=())
    return best if len(best) >= least else ()


def _bare_letters(columns: Sequence[str]) -> tuple[int, ...]:
    letters = {whole_name(c): i for i, c in enumerate(columns)}
    run = _from_first({k: letters[c] for k, c in enumerate("abcdefghij", 1) if c in letters})
    return run if len(run) > 2 else ()  # question, a, b may mean anything


def _from_first(places: dict[int, int]) -> tuple[int, ...]:
    start = 0 if 0 in places else 1
    run: list[int] = []
    while start + len(run) in places:
        run.append(places[start + len(run)])
    return tuple(run)


def _place(at: str) -> int:
    if at.isascii() and at.isdecimal():
        return int(at)
    return _CHINESE_DIGITS.get(at) or ord(at) - ord("a") + 1
