from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest

from core.data.types import ReadResult
from core.errors import DataError

Read = Callable[..., ReadResult]


def qti12(*items: str) -> str:
    inside = f'<assessment title="Unit 1">{"".join(items)}</assessment>'
    return f"<questestinterop>{inside}</questestinterop>"


def item12(stem: str, response: str, conditions: str, kind: str = "") -> str:
    field = f"<fieldlabel>question_type</fieldlabel><fieldentry>{kind}</fieldentry>"
    return (
        f"<item><itemmetadata><qtimetadata><qtimetadatafield>{field}</qtimetadatafield></qtimetadata>"
        f"</itemmetadata><presentation><material><mattext>{stem}</mattext></material>{response}"
        f"</presentation><resprocessing>{conditions}</resprocessing></item>"
    )


def choices(ident: str, labels: dict[str, str], prompt: str = "", many: bool = False) -> str:
    options = "".join(
        f'<response_label ident="{k}"><material><mattext>{v}</mattext></material></response_label>'
        for k, v in labels.items()
    )
    said = f"<material><mattext>{prompt}</mattext></material>" if prompt else ""
    count = "Multiple" if many else "Single"
    return (
        f'<response_lid ident="{ident}" rcardinality="{count}">{said}'
        f"<render_choice>{options}</render_choice></response_lid>"
    )


def right(inside: str, score: int = 100, action: str = "Set") -> str:
    return (
        f"<respcondition><conditionvar>{inside}</conditionvar>"
        f'<setvar action="{action}" varname="SCORE">{score}</setvar></respcondition>'
    )


def equal(ident: str, value: str) -> str:
    return f'<varequal respident="{ident}">{value}</varequal>'


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in result.examples]


FIELD = (
    '<response_str ident="r"><render_fib><response_label ident="a"/></render_fib></response_str>'
)
ITEMS_12 = [
    (item12("2+2?", choices("r", {"1": "3", "2": "4"}),
            right(equal("r", "1"), 0) + right(equal("r", "2"))), "2+2?\nA. 3\nB. 4", "4"),
    (item12("Primes?", choices("r", {"1": "2", "2": "3", "3": "4"}, many=True),
            right(f"<and>{equal('r', '1')}{equal('r', '2')}<not>{equal('r', '3')}</not></and>")),
     "Primes?\nA. 2\nB. 3\nC. 4", "2; 3"),
    (item12("Name?", FIELD, right(equal("r", "Ada") + equal("r", "ada"))), "Name?", "Ada"),
    (item12("Pi?", FIELD, right('<vargte respident="r">3.1</vargte>'
                                '<varlte respident="r">3.2</varlte>')),
     "Pi?", "3.1 – 3.2"),
    (item12("[x] is [y]", choices("response_x", {"1": "sky", "2": "sea"}, "x")
            + choices("response_y", {"3": "blue"}, "y"),
            right(equal("response_x", "1"), 50, "Add")
            + right(equal("response_y", "3"), 50, "Add")),
     "(1) ____ [sky / sea] is (2) ____", "(1) sky\n(2) blue"),
    (item12("Match", choices("a", {"1": "one", "2": "two"}, "I")
            + choices("b", {"1": "one", "2": "two"}, "II"),
            right(equal("a", "1"), 50, "Add") + right(equal("b", "2"), 50, "Add")),
     "Match\n- I\n- II\n[one / two]", "I → one\nII → two"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "asked", "told"), ITEMS_12)
def test_what_scores_in_qti_12_is_the_answer(item: str, asked: str, told: str, read: Read) -> None:
    result = read("quiz.xml", qti12(item))
    assert pairs(result) == [(asked, told)]
    assert dict(zip(result.columns, result.rows[0], strict=True))["topic"] == "Unit 1"


def test_an_essay_is_kept_as_a_row_and_a_text_is_passed_over(read: Read) -> None:
    essay = item12("Discuss.", FIELD, "", "essay_question")
    text = item12("Read on.", "", "", "text_only_question")
    result = read("quiz.xml", qti12(ITEMS_12[0][0], essay, text))
    assert [row[0] for row in result.rows] == ["2+2?\nA. 3\nB. 4", "Discuss."]
    codes = {p.code for p in result.problems}
    assert {"question.no_answer", "question.description"} <= codes


def qti21(declaration: str, body: str) -> str:
    return (
        '<?xml version="1.0"?><assessmentItem xmlns="http://www.imsglobal.org/xsd/imsqti_v2p1" '
        f'identifier="i" title="t">{declaration}<itemBody>{body}</itemBody></assessmentItem>'
    )


def correct(ident: str, *values: str) -> str:
    listed = "".join(f"<value>{v}</value>" for v in values)
    return (
        f'<responseDeclaration identifier="{ident}"><correctResponse>{listed}</correctResponse>'
        "</responseDeclaration>"
    )


def simple(**names: str) -> str:
    return "".join(f'<simpleChoice identifier="{k}">{v}</simpleChoice>' for k, v in names.items())


ITEMS_21 = [
    (correct("R", "B"), '<choiceInteraction responseIdentifier="R"><prompt>2+2?</prompt>'
     + simple(A="3", B="4") + "</choiceInteraction>", "2+2?\nA. 3\nB. 4", "4"),
    (correct("R", "A", "B"), '<p>Which?</p><choiceInteraction responseIdentifier="R">'
     + simple(A="2", B="3", C="4") + "</choiceInteraction>", "Which?\nA. 2\nB. 3\nC. 4", "2; 3"),
    (correct("R", "Paris"), '<p>It is <textEntryInteraction responseIdentifier="R"/>.</p>',
     "It is ____.", "Paris"),
    (correct("R", "B") + correct("S", "x"),
     '<p>A <inlineChoiceInteraction responseIdentifier="R"><inlineChoice identifier="A">cat'
     '</inlineChoice><inlineChoice identifier="B">dog</inlineChoice></inlineChoiceInteraction> and '
     '<textEntryInteraction responseIdentifier="S"/></p>',
     "A (1) ____ [cat / dog] and (2) ____", "(1) dog\n(2) x"),
    (correct("R", "B", "A"), '<orderInteraction responseIdentifier="R"><prompt>Sort</prompt>'
     + simple(A="one", B="two") + "</orderInteraction>", "Sort\nA. one\nB. two", "1. two\n2. one"),
    (correct("R", "A C", "B D"), '<matchInteraction responseIdentifier="R"><prompt>Match</prompt>'
     + "".join(f'<simpleAssociableChoice identifier="{i}">{t}</simpleAssociableChoice>'
               for i, t in (("A", "I"), ("B", "II"), ("C", "one"), ("D", "two")))
     + "</matchInteraction>", "Match\n- I\n- II\n[one / two]", "I → one\nII → two"),
    (correct("R", "W G"), '<gapMatchInteraction responseIdentifier="R"><gapText identifier="W">sat'
     '</gapText><gapText identifier="V">ran</gapText><p>It <gap identifier="G"/> down.</p>'
     "</gapMatchInteraction>", "It ____ down.\n[sat / ran]", "sat"),
]  # fmt: skip


@pytest.mark.parametrize(("declaration", "body", "asked", "told"), ITEMS_21)
def test_each_interaction_of_qti_2_has_its_answer(
    declaration: str, body: str, asked: str, told: str, read: Read
) -> None:
    assert pairs(read("item.xml", qti21(declaration, body))) == [(asked, told)]


def test_the_names_of_qti_3_are_known(read: Read) -> None:
    text = (
        '<qti-assessment-item identifier="i"><qti-response-declaration identifier="R">'
        "<qti-correct-response><qti-value>B</qti-value></qti-correct-response>"
        "</qti-response-declaration><qti-item-body>"
        '<qti-choice-interaction response-identifier="R"><qti-prompt>2+2?</qti-prompt>'
        '<qti-simple-choice identifier="A">3</qti-simple-choice>'
        '<qti-simple-choice identifier="B">4</qti-simple-choice></qti-choice-interaction>'
        "</qti-item-body></qti-assessment-item>"
    )
    assert pairs(read("item.xml", text)) == [("2+2?\nA. 3\nB. 4", "4")]


MOODLE = (
    '<quiz><question type="shortanswer"><questiontext><text>Moodle?</text></questiontext>'
    '<answer fraction="100"><text>yes</text></answer></question></quiz>'
)


def packed(parts: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return data.getvalue()


def test_a_package_is_read_in_natural_order_and_each_quiz_once(read: Read) -> None:
    one = qti21(correct("R", "1"), '<p>One <textEntryInteraction responseIdentifier="R"/></p>')
    ten = one.replace("One", "Ten").replace(">1<", ">10<")
    canvas = qti12(ITEMS_12[0][0])
    data = packed({
        "imsmanifest.xml": "<manifest/>",
        "items/item10.xml": ten,
        "items/item2.xml": one,
        "g1/assessment_qti.xml": canvas,
        "g1/assessment_meta.xml": "<quiz><title>x</title></quiz>",
        "non_cc_assessments/g1.xml.qti": canvas,
        "wiki/page.html": "<!DOCTYPE html><html/>",
        "broken.xml": "<item",
        "moodle.xml": MOODLE,
    })  # fmt: skip
    result = read("export.imscc", data)
    assert [e.answer for e in result.examples] == ["1", "10", "yes", "4"]
    assert result.row_where[0] == "items/item2.xml, question 1, line 1"
    told = {p.code: p.where for p in result.problems}
    assert told["package.part"].startswith("broken.xml")


def test_a_manifest_alone_asks_for_its_package(read: Read) -> None:
    with pytest.raises(DataError, match="table of contents") as caught:
        read("imsmanifest.xml", '<?xml version="1.0"?><manifest identifier="m"/>')
    assert caught.value.code == "xml.manifest"
