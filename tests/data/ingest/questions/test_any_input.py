"""Whatever a file holds, its reader returns questions or raises a sentence, and soon."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
import time
import zipfile
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data.ingest.encoding import Decoded
from core.data.ingest.question_formats import FORMATS as QUESTION_FORMATS
from core.data.ingest.question_formats import binary_kind, text_kind
from core.data.ingest.reader import FORMATS, Source
from core.data.messages import Findings
from core.errors import DataError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))  # of each reader; raise it to look longer
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # by the clock, which other work slows
)
SECONDS = 5  # of processor time, for one file of some kilobytes

# What a format is made of: strung together at random, it reaches far into its reader.
PIECES: dict[str, list[str]] = {
    "xml": [
        '<?xml version="1.0"?>', "<quiz>", "</quiz>", '<question type="multichoice">',
        "</question>", '<question type="cloze">', '<question type="gapfill">',
        '<question type="matching">', '<question type="stack">', '<question type="kprime">',
        '<question type="ordering">', '<question type="numerical">',
        '<question type="gapselect">', '<question type="category">',
        '<questiontext format="html"><text>', "</text></questiontext>", "<![CDATA[", "]]>",
        '<answer fraction="100"><text>', '<answer fraction="x">', "</text></answer>", "&amp;",
        "&nbsp;", "&lt;b&gt;", "<text>", "</text>", "{1:SHORTANSWER:=a#b~%50%c}", "{1:MR:~",
        "[[1]]", "[a|b]",
        "<subquestion><text>a</text><answer><text>b</text></answer></subquestion>",
        "<tolerance>0.1</tolerance>", "<weight rownumber='1' columnnumber='1'><value>x</value>",
        "<questestinterop>", '<item title="t">', "</item>", "<presentation>", "</presentation>",
        '<response_lid ident="r" rcardinality="Multiple">', "</response_lid>", "<mattext>[r] x",
        "</mattext>", '<response_label ident="1">', "</response_label>", "<respcondition>",
        "</respcondition>", "<conditionvar>", "</conditionvar>", '<varequal respident="r">1',
        "</varequal>", '<setvar action="Set">1e400</setvar>', "<not>", "</not>", "<or>", "</or>",
        '<assessmentItem identifier="i">', "</assessmentItem>", "<itemBody>", "</itemBody>",
        '<choiceInteraction responseIdentifier="R">', "</choiceInteraction>",
        '<simpleChoice identifier="A">', "</simpleChoice>", "<qti-match-interaction>",
        '<responseDeclaration identifier="R"><correctResponse><value>A B</value>',
        "</correctResponse></responseDeclaration>",
        '<gapMatchInteraction><gapText identifier="A">', '<gap identifier="G"/>',
        "</gapText></gapMatchInteraction>", "\udc80", "\x0b", "<",
    ],
    "gift": [
        "{", "}", "=", "~", "#", "####", "->", "::", "\\", "\\{", "%50%", "%-1e9%", "TRUE", "F",
        "1..2", "3:0.1", "[html]", "<b>", "//", "$CATEGORY: a/b", "\n", "\n\n", "word", "?",
    ],
    "aiken": ["What?", "A. a", "B) b", "ANSWER: B", "ANSWER: Z", "\n", "\n\n", "ANSWER:", "é"],
    "text": [
        "Q: ", "A: ", "1. ", "2) ", "(3) ", "A. a", "B. b C. c", "Ans: B", "Ans: A and C", "\n",
        "\n\n", "Answer key", "1-5 ABCDA", "1. B", "答案：", "解析：", "题目：", "( A )",
        "（B）", "*",
        "Explanation: e", "**", "__", "99999999999. x", "Question 5: ", "true",
    ],
    "markdown": [
        "# ", "## Why?", "* q", "    - !a", "- [x] b", "- [ ] c", "```", "|", "| a | b |",
        "|---|---|", "**Why?**", "![p](u)", "\n", "\n\n", "text", "1. ", "A. x", "Ans: A",
    ],
    "anki_text": [
        "#separator:tab\n", "#html:true\n", "#columns:a\tb\n", "#tags column:3\n", "\t",
        "#deck column:99999\n", "\n", '"', "<b>", "&nbsp;", "word", "\r", "[sound:x.mp3]",
    ],
    "quizlet": ["term", "---", "::", " - ", "\t", "\n", "definition", "\n\n", " = "],
    "opentriviaqa": ["#Q ", "^ ", "A ", "B ", "C ", "\n", "\n\n", "word", "^", "#Q"],
    "chatterbot": [
        "conversations:\n", "- - ", "  - ", "- ", "\n", "a: b", "'", '"', "|\n", "&a ", "*a",
        "!!python/object:os.system ", "[[[[[[[[[[[[", "{", "    x", "# c", ": ", "categories:\n",
    ],
    "rexams": [
        "Question\n========\n", "Solution\n========\n", "Answerlist\n----------\n", "* a\n",
        "Meta-information\n================\n", "exsolution: 101\n", "extype: mchoice\n",
        "exsolution: `r x`\n", "```{r}\n", "```\n", "`r y`", "\\begin{question}",
        "\\end{question}", "\\begin{answerlist}", "\\item ", "%% \\exsolution{01}\n", "|",
    ],
    "page": [
        "<html>", "<body>", "<dl>", "<dt>", "<dd>", "</dl>", "<details>", "<summary>",
        "</summary>", "<p>", "Q: a", "A: b", "<script>", "</script>", "<h2>", "Why?", "</h2>",
        "<!", "<![", "&#x;", "<!--", "-->", "<var id='a'>", "<br/>", "\n",
    ],
    "yaml": ["a: b\n", "- x\n", "!!python/object:x\n"],
}  # fmt: skip
TEXTS = sorted(PIECES)
BINARIES = sorted(set(QUESTION_FORMATS) - set(PIECES))


def read(kind: str, data: bytes, text: str) -> None:
    """Read with the reader of one format, whatever the content looks like."""
    start = time.process_time()
    try:
        result = FORMATS[kind].read(Source(data, ""), Decoded(text, "utf-8"), Findings())
    except DataError as error:
        assert error.problem.what
        assert error.code
    else:
        assert all(e.question.strip() and e.answer.strip() for e in result.examples)
        assert len(result.rows) == len(result.row_where) or not result.row_where
    assert time.process_time() - start < SECONDS


ROOTS = ["quiz", "questestinterop", "assessmentItem", "qti-assessment-item"]
TAGS = [
    *(
        "question",
        "questiontext",
        "text",
        "answer",
        "feedback",
        "subquestion",
        "selectoption",
        "row",
    ),
    *(
        "group",
        "weight",
        "value",
        "column",
        "input",
        "tans",
        "single",
        "delimitchars",
        "units",
        "name",
    ),
    *("item", "presentation", "response_lid", "response_str", "render_choice", "response_label"),
    *(
        "material",
        "mattext",
        "resprocessing",
        "respcondition",
        "conditionvar",
        "varequal",
        "setvar",
    ),
    *("vargte", "varlte", "itemfeedback", "displayfeedback", "var_set", "itemproc_extension", "or"),
    *("itemBody", "choiceInteraction", "matchInteraction", "gapMatchInteraction", "gap", "gapText"),
    *("textEntryInteraction", "inlineChoiceInteraction", "inlineChoice", "simpleChoice", "prompt"),
    *("responseDeclaration", "correctResponse", "mapping", "mapEntry", "modalFeedback", "p", "br"),
]
ATTRIBUTES = {
    "type": [
        "multichoice", "truefalse", "shortanswer", "numerical", "matching", "cloze", "gapselect",
        "gapfill", "ordering", "kprime", "stack", "essay", "coderunner", "calculated", "x",
    ],
    "fraction": ["100", "0", "-50", "x", "1e999", "nan"],
    "ident": ["r", "1"],
    "respident": ["r", "1"],
    "identifier": ["A", "B"],
    "rcardinality": ["Multiple"],
    "responseIdentifier": ["A"],
    "mapKey": ["A"],
    "mappedValue": ["1", "x"],
    "format": ["html"],
    "rownumber": ["1"],
    "columnnumber": ["1"],
    "number": ["1"],
    "action": ["Set", "Add"],
}  # fmt: skip
WORDS = st.sampled_from(
    [
        "A",
        "A B",
        "r",
        "1",
        "100",
        "[[1]]",
        "[[9]]",
        "[a|b]",
        "{1:SA:=a}",
        "<b>x</b>",
        "&nbsp;",
        "\\",
        "",
    ]
)


def element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    named = "".join(f' {k}="{v}"' for k, v in attributes.items())
    return f"<{tag}{named}>{''.join(children)}</{tag}>"


def trees() -> st.SearchStrategy[str]:
    """Return well-formed XML of the names that the readers look for, in any order."""
    attributes = st.fixed_dictionaries(
        {}, optional={k: st.sampled_from(v) for k, v in ATTRIBUTES.items()}
    )
    leaves = st.one_of(WORDS, st.text("ab&<[]{}:=~#|%", max_size=6)).map(escape)
    inner = st.recursive(
        leaves,
        lambda c: st.builds(element, st.sampled_from(TAGS), attributes, st.lists(c, max_size=5)),
        max_leaves=25,
    )
    items = st.builds(
        element,
        st.sampled_from(["question", "item", "assessmentItem", "itemBody", "presentation"]),
        attributes,
        st.lists(inner, max_size=6),
    )
    roots = st.sampled_from(ROOTS)
    return st.builds(element, roots, st.just({}), st.lists(items, min_size=1, max_size=4))


def strung(kind: str) -> st.SearchStrategy[str]:
    pieces = st.sampled_from(PIECES[kind])
    return st.lists(st.one_of(pieces, pieces, pieces, st.text(max_size=8)), max_size=60).map(
        "".join
    )


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_of_a_formats_pieces_is_read_or_refused(kind: str) -> None:
    @FEW
    @given(strung(kind))
    def check(text: str) -> None:
        read(kind, text.encode("utf-8", "surrogateescape") if kind == "xml" else b"", text)
        text_kind(text, "")

    check()


@pytest.mark.parametrize("kind", BINARIES)
def test_bytes_of_any_kind_are_refused_in_a_sentence(kind: str) -> None:
    starts = {"pdf": b"%PDF-1.4\n", "anki_collection": b"SQLite format 3\0"}
    starts["moodle_backup"] = b"\x1f\x8b\x08\0"

    @FEW
    @given(st.binary(max_size=300))
    def check(data: bytes) -> None:
        read(kind, starts.get(kind, b"PK\x03\x04") + data, "")

    check()


@settings(FEW, max_examples=2 * EXAMPLES)
@given(trees())
def test_well_formed_xml_of_known_names_is_read_or_refused(text: str) -> None:
    read("xml", b"", text)


@FEW
@given(
    st.dictionaries(st.sampled_from(["a.xml", "b/q.xml.qti", "c.qti", "imsmanifest.xml"]), trees())
)
def test_packages_of_such_xml_are_read_or_refused(parts: dict[str, str]) -> None:
    read("qti_package", packed({k: v.encode() for k, v in parts.items()}), "")


TEMPLATES = st.lists(
    st.sampled_from(["{{Front}}", "{{Back}}", "{{cloze:Front}}", "{{#Back}}", "x"])
)
MODELS = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5), TEMPLATES.map("".join)),
    lambda c: st.one_of(
        st.lists(c, max_size=3),
        st.dictionaries(st.sampled_from(["1", "flds", "tmpls", "name", "qfmt", "afmt", "type"]), c),
    ),
    max_leaves=12,
)
FIELDS = st.lists(
    st.sampled_from(
        ["Front", "Back", "{{c1::x::h}}", "{{c1::", "\x1f", "<b>y</b>", "[sound:a]", ""]
    ),
    max_size=8,
).map("".join)


@FEW
@given(MODELS, st.lists(FIELDS, max_size=4), st.binary(max_size=40), st.booleans())
def test_collections_with_any_note_types_are_read_or_refused(
    models: object, notes: list[str], config: bytes, newer: bool
) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, mid, flds, tags)")
    database.execute("CREATE TABLE col (models)")
    database.execute("INSERT INTO col VALUES (?)", [json.dumps(models)])
    database.executemany(
        "INSERT INTO notes (mid, flds, tags) VALUES (1, ?, '')", [[n] for n in notes]
    )
    if newer:
        database.execute("CREATE TABLE notetypes (id, name)")
        database.execute("CREATE TABLE fields (ntid, ord, name)")
        database.execute("CREATE TABLE templates (ntid, ord, config)")
        database.execute("INSERT INTO notetypes VALUES (1, 'x')")
        database.execute("INSERT INTO fields VALUES (1, 0, 'Front'), (1, 1, 'Back')")
        database.execute("INSERT INTO templates VALUES (1, 0, ?)", [config])
    read("anki_collection", database.serialize(), "")
    database.close()


@FEW
@given(
    st.sampled_from(["qti_package", "anki", "docx"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_packages_are_read_or_refused(kind: str, changes: list[tuple[int, int]]) -> None:
    quiz = b'<quiz><question type="essay"><questiontext/></question></quiz>'
    data = bytearray(
        packed({"quiz.xml": quiz, "collection.anki2": quiz, "word/document.xml": quiz})
    )
    for place, value in changes:
        data[place % len(data)] = value
    binary_kind(bytes(data))
    read(kind, bytes(data), "")


BANK = ["question_bank_entry", "question_versions", "version", "questions", "question", "qtype",
        "questiontext", "answers", "answer", "answertext", "fraction", "match", "multianswer",
        "sequence", "numerical_record", "tolerance", "parent", "single", "name"]  # fmt: skip
SAID = ["multichoice", "match", "multianswer", "numerical", "{#1} {#9}", "1,2", "1.0", "-1e999",
        "0", "{1:SA:=a}", "&lt;b&gt;", "$@NULL@$", ""]  # fmt: skip


@FEW
@given(
    st.recursive(
        st.sampled_from(SAID),
        lambda c: st.builds(
            element,
            st.sampled_from(BANK),
            st.fixed_dictionaries({}, optional={"id": st.sampled_from(["1", "2"])}),
            st.lists(c, max_size=6),
        ),
        max_leaves=30,
    ),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
)
def test_backups_of_any_bank_whole_or_damaged_are_read_or_refused(
    inner: str, changes: list[tuple[int, int]]
) -> None:
    bank = f"<question_categories><question_category>{inner}</question_category>"
    content = f"{bank}</question_categories>".encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as files:
        info = tarfile.TarInfo("questions.xml")
        info.size = len(content)
        files.addfile(info, io.BytesIO(content))
    data = bytearray(archive.getvalue())
    for place, value in changes:
        data[place % len(data)] = value
    binary_kind(bytes(data))
    read("moodle_backup", bytes(data), "")


def packed(parts: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return data.getvalue()
