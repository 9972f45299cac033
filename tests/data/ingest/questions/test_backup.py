"""Moodle backups: the question bank of tar.gz and zip files, and what is no safe backup."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from core.data.ingest import clean_label, read_file
from core.errors import DataError


def question(number: int, kind: str, text: str, plugin: str = "", parent: int = 0) -> str:
    return (
        f'<question id="{number}"><parent>{parent}</parent><questiontext>{text}</questiontext>'
        f"<questiontextformat>1</questiontextformat><generalfeedback>So.</generalfeedback>"
        f"<qtype>{kind}</qtype>{plugin}</question>"
    )


def answers(*told: tuple[str, str]) -> str:
    listed = "".join(
        f'<answer id="{i}"><answertext>{text}</answertext><answerformat>1</answerformat>'
        f"<fraction>{share}</fraction><feedback></feedback></answer>"
        for i, (text, share) in enumerate(told, 1)
    )
    return f"<plugin><answers>{listed}</answers></plugin>"


def bank(inner: str) -> bytes:
    name = '<question_category id="1"><name>Birds</name>'
    return f"<question_categories>{name}{inner}</question_category></question_categories>".encode()


MATCHES = "".join(
    f'<match id="{a}"><questiontext>{a}</questiontext><questiontextformat>1</questiontextformat>'
    f"<answertext>{b}</answertext></match>"
    for a, b in (("egg", "bird"), ("pup", "dog"))
)
NUMBER = (
    "<numerical_records><numerical_record><answer>1</answer><tolerance>0.5</tolerance>"
    "</numerical_record></numerical_records>"
)
CLOZE = "<multianswer><question>4</question><sequence>5</sequence></multianswer>"
ROBIN = answers(("Robin", "1.0000000"), ("Emu", "0.0000000"))
OLD = bank(
    "<questions>"
    + question(1, "multichoice", "&lt;p&gt;Which flies?&lt;/p&gt;", ROBIN)
    + question(2, "numerical", "Legs?", answers(("2", "1.0")) + NUMBER)
    + question(3, "match", "Pair", f"<matches>{MATCHES}</matches>")
    + question(4, "multianswer", "A wren is a {#1}.", CLOZE)
    + question(5, "shortanswer", "{1:SHORTANSWER:=bird}", parent=4)
    + question(6, "calculated", "{a} + 1?")
    + "</questions>"
)


def tar(parts: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def packed(parts: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return data.getvalue()


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / clean_label("course.mbz")
    path.write_bytes(data)
    return path


def test_every_kind_of_a_banks_questions_is_read(tmp_path: Path) -> None:
    data = tar({"moodle_backup.xml": b"<x/>", "files/a": b"x" * 5000, "questions.xml": OLD})
    result = read_file(written(tmp_path, data))
    assert [(e.question, e.answer) for e in result.examples] == [
        ("Which flies?\nA. Robin\nB. Emu", "Robin"),
        ("Legs?", "2"),
        ("Pair\n- egg\n- pup\n[bird / dog]", "egg → bird\npup → dog"),
        ("A wren is a ____.", "bird"),
    ]
    assert {e.topic for e in result.examples} == {"Birds"}
    assert "2 ± 0.5" in result.rows[1]
    assert "question.computed" in {p.code for p in result.problems}


def test_of_several_versions_the_newest_is_read_also_from_a_zip(tmp_path: Path) -> None:
    versions = "".join(
        f"<question_versions><version>{n}</version><questions>"
        + question(n, "truefalse", f"Version {n}.", answers(("True", "1.0"), ("False", "0.0")))
        + "</questions></question_versions>"
        for n in (2, 10, 9)
    )
    entry = f"<question_version>{versions}</question_version>"
    inner = f"<question_bank_entries><question_bank_entry>{entry}</question_bank_entry>"
    questions = bank(f"{inner}</question_bank_entries>")
    data = packed({"moodle_backup.xml": b"<x/>", "questions.xml": questions})
    (example,) = read_file(written(tmp_path, data)).examples
    assert (example.question, example.answer) == ("Version 10.", "True")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (tar({"moodle_backup.xml": b"<x/>"}), "backup.no_bank"),
        (tar({"zeros": bytes(3 << 20), "questions.xml": OLD}), "package.too_large"),
        (tar({"a": b"x", "questions.xml": OLD})[:-60], "package.damaged"),
        (tar({"questions.xml": b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + OLD}), "xml.not_safe"),
    ],
)
def test_what_is_no_safe_backup_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    with pytest.raises(DataError) as caught:
        read_file(written(tmp_path, data))
    assert caught.value.code == code
