"""Real question files: each gives the right number of examples, or is refused in a sentence.

The numbers were counted by hand or by another parser; where one is at hand it counts again here.
"""

from __future__ import annotations

import io
import json
import re
import sqlite3
import zipfile
from pathlib import Path

import pytest
import yaml

from core.data.ingest import clean_label, read_file, read_isolated
from core.errors import DataError

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "educator_files"
EXPECTED: dict[str, tuple[str, int]] = {
    "anki/docker.csv": ("anki", 21),
    "anki/pratyahara_deck.apkg": ("anki", 52),
    "anki/ultimate_geography_capital.csv": ("csv", 219),
    "anki/ultimate_geography_country.csv": ("csv", 323),
    "anki/ultimate_geography_country_info.csv": ("csv", 79),  # 34 have no text in English
    "docx/quiz_chemistry.docx": ("docx", 12),
    "gift/TFTwoFeedback.gift": ("gift", 3),
    "gift/giftFormatPhpExamples.gift": ("gift", 10),
    "gift/matching1.gift": ("gift", 2),
    "gift/numerical1.gift": ("gift", 10),
    "gift/options1.gift": ("gift", 14),
    "gift/totara_moodle_numerical.gift": ("gift", 1),
    "hsk/hsk_new_1.min.json": ("json", 506),
    "hsk/hsk_new_1_anki.tsv": ("tsv", 506),
    "moodle_xml/layout_gapselects.xml": ("moodle_xml", 5),
    "moodle_xml/layout_multichoices.xml": ("moodle_xml", 5),
    "moodle_xml/layout_numericals.xml": ("moodle_xml", 5),
    "moodle_xml/layout_shortanswer.xml": ("moodle_xml", 1),
    "moodle_xml/markdown_example-DummyCategory1.xml": ("moodle_xml", 3),
    "moodle_xml/markdown_example.md": ("markdown", 8),
    "moodle_xml/rexams_moodlequiz.xml": ("moodle_xml", 6),
    "moodle_xml_gapfill/gapfill_examples_en.xml": ("moodle_xml", 24),
    "moodle_xml_gapfill/gapfill_examples_fr.xml": ("moodle_xml", 3),
    "opentriviaqa/for-kids.txt": ("opentriviaqa", 200),
    "opentriviaqa/geography.txt": ("opentriviaqa", 250),
    "opentriviaqa/history.txt": ("opentriviaqa", 249),  # a stray byte costs one of 250
    "opentriviaqa/science-technology.txt": ("opentriviaqa", 300),
    "qti/canvas_all_simple_qti12.xml": ("qti", 9),  # the tenth is an essay
    "qti/test_qti_1.2.zip": ("qti", 3),
    "quizlet/gov_quizlet.txt": ("quizlet", 54),
    "r_exams/capitals.Rmd": ("rexams", 1),
    "r_exams/gaussmarkov.Rmd": ("rexams", 1),
    "r_exams/switzerland.Rmd": ("rexams", 1),
    "xlsx/questions_from_xls.xml": ("moodle_xml", 1),
}
REFUSED = {
    "khan_html/adding_fractions.html": "html.template",
    "khan_html/area_of_a_circle.html": "html.template",
    "khan_html/prime_factorization.html": "html.template",
    "moodle_xml/layout_calculated.xml": "question.computed",
    "moodle_xml_stack/1-1-4-T3-BODMAS.xml": "question.computed",
    "moodle_xml_stack/37_2_quiz.json": "json.no_texts",
    "moodle_xml_stack/9-0-10-_Find-entry-in-Pascal-3_.xml": "question.computed",
    "moodle_xml_stack/AlgMap-13-11.xml": "question.computed",
    "pdf/quiz_example.pdf": "question.none_answered",
    "qti/canvas_cartridge_imsmanifest.xml": "xml.manifest",
    "r_exams/countrycodes.Rmd": "question.computed",
    "r_exams/essayreg.Rmd": "question.computed",
    "r_exams/tstat.Rmd": "question.computed",
    "r_exams/tstat.Rnw": "question.computed",
}
TALKS = sorted(p.relative_to(SHARED).as_posix() for p in SHARED.glob("chatterbot_yml/*/*.yml"))
# Read by the readers of tables, whose tests they are.
ELSEWHERE = {"xlsx/questions.xls"}
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared/data/educator_files beside the checkout"
)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_file_gives_the_right_number_of_examples(name: str) -> None:
    result = read_file(SHARED / name)
    assert (result.format, len(result.examples)) == EXPECTED[name]
    assert not [p for p in result.problems if p.severity == "error"]
    assert all(e.question.strip() and e.answer.strip() for e in result.examples)
    lost = len(result.rows) - len(result.examples)
    told = [p for p in result.problems if "left out" in p.what and p.severity != "info"]
    assert bool(told) == bool(lost)


@pytest.mark.parametrize("name", REFUSED)
def test_each_other_file_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_file(SHARED / name)
    assert REFUSED[name] in {p.code for p in caught.value.problems}
    assert str(caught.value).startswith(Path(name).name)
    assert caught.value.action
    assert str(SHARED) not in "\n".join(p.sentence() for p in caught.value.problems)


@pytest.mark.parametrize("name", TALKS)
def test_each_conversation_of_a_corpus_is_an_example(name: str) -> None:
    result = read_file(SHARED / name)
    tree = yaml.safe_load((SHARED / name).read_text("utf-8"))
    whole = [c for c in tree["conversations"] if isinstance(c, list) and len(c) > 1]
    bad = len(tree["conversations"]) - len(whole)
    assert result.format == "chatterbot"
    assert len(result.examples) == len(whole)
    told = {p.code for p in result.problems}
    assert ("yaml.bad_item" in told) == bool(bad)
    first = [str(line).strip() for line in whole[0]]
    assert [t.content for t in result.examples[0].turns] == first[: len(first) // 2 * 2]


def test_other_parsers_count_the_same() -> None:
    trivia = (SHARED / "opentriviaqa/geography.txt").read_text("utf-8")
    assert len(re.findall(r"^#Q", trivia, re.MULTILINE)) == 250
    with zipfile.ZipFile(SHARED / "anki/pratyahara_deck.apkg") as package:
        data = package.read("collection.anki2")
    database = sqlite3.connect(":memory:")
    database.deserialize(data)
    assert database.execute("SELECT count(*) FROM notes").fetchone() == (52,)
    database.close()
    docx = pytest.importorskip("docx")
    content = (SHARED / "docx/quiz_chemistry.docx").read_bytes()
    paragraphs = docx.Document(io.BytesIO(content)).paragraphs
    assert sum(p.text.startswith("Ans:") for p in paragraphs) == 12
    assert len(json.loads((SHARED / "hsk/hsk_new_1.min.json").read_text("utf-8"))) == 506


def test_no_file_is_forgotten_and_each_may_be_uploaded() -> None:
    known = {*EXPECTED, *REFUSED, *TALKS, *ELSEWHERE}
    there = {
        p.relative_to(SHARED).as_posix()
        for p in SHARED.rglob("*")
        if p.is_file() and p.name != "SOURCE.md" and not p.name.endswith(".expected.json")
    }
    assert there == known
    for name in there:
        assert clean_label(Path(name).name) == Path(name).name


@pytest.mark.parametrize("name", ["docx/quiz_chemistry.docx", "anki/pratyahara_deck.apkg"])
def test_the_child_reads_the_same_within_its_limits(name: str) -> None:
    assert read_isolated(SHARED / name) == read_file(SHARED / name)
