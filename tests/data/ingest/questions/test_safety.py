"""Files that were made to do harm, and what is refused before anything opens them."""

from __future__ import annotations

import io
import stat
import time
import zipfile
from collections.abc import Callable

import pytest

from core.data.ingest import clean_label
from core.data.types import ReadResult
from core.errors import DataError

Read = Callable[..., ReadResult]
GOOD = (
    '<quiz><question type="shortanswer"><questiontext><text>2+2?</text></questiontext>'
    '<answer fraction="100"><text>4</text></answer></question></quiz>'
)
LAUGHS = (
    '<!DOCTYPE quiz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(97 + i)} "{f"&{chr(96 + i)};" * 10}">' for i in range(1, 10))
    + "]>"
)
FETCHES = '<!DOCTYPE quiz [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


def packed(parts: dict[str, bytes], form: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", form) as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize("prolog", [LAUGHS, FETCHES, "<!DOCTYPE quiz [<!ELEMENT quiz ANY>]>"])
@pytest.mark.parametrize("zipped", [False, True])
def test_entities_are_refused_at_once(prolog: str, zipped: bool, read: Read) -> None:
    text = f'<?xml version="1.0"?>{prolog}' + GOOD.replace("2+2?", "&j;&x;")
    name, content = "quiz.xml", text.encode()
    if zipped:
        name, content = "quiz.zip", packed({"imsmanifest.xml": b"<m/>", "quiz.xml": content})
    start = time.process_time()
    with pytest.raises(DataError, match="not safe to open") as caught:
        read(name, content)
    assert caught.value.code == "xml.not_safe"
    assert time.process_time() - start < 5


def test_a_bare_doctype_is_never_fetched_and_does_no_harm(read: Read) -> None:
    doctype = '<!DOCTYPE quiz SYSTEM "http://127.0.0.1:9/quiz.dtd">\n'
    result = read("quiz.xml", f'<?xml version="1.0"?>\n{doctype}{GOOD}')
    assert [e.answer for e in result.examples] == ["4"]
    assert result.row_where == ("question 1, line 3",)


def test_xml_nested_without_end_is_refused(read: Read) -> None:
    with pytest.raises(DataError, match="nested too deeply") as caught:
        read("quiz.xml", "<quiz>" + "<a>" * 100_000)
    assert caught.value.code == "xml.too_deep"


@pytest.mark.parametrize("name", ["quiz.xml", "collection.anki2", "word/document.xml"])
def test_a_bomb_is_stopped_while_it_swells(name: str, read: Read) -> None:
    bomb = packed({name: b"<quiz>" + b" " * (8 << 20), "imsmanifest.xml": b"<m/>"})
    assert len(bomb) < 1 << 15
    with pytest.raises(DataError, match="too large when unpacked") as caught:
        read("file.zip", bomb)
    assert caught.value.code == "package.too_large"


@pytest.mark.parametrize(
    "name", ["../quiz.xml", "/tmp/quiz.xml", "a/../../quiz.xml", "C:/quiz.xml"]
)
def test_names_that_lead_out_are_refused(name: str, read: Read) -> None:
    with pytest.raises(DataError, match=r"not safe to open: .* lead out"):
        read("file.zip", packed({name: GOOD.encode()}))


def test_links_are_refused(read: Read) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as package:
        link = zipfile.ZipInfo("quiz.xml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        package.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="holds a link"):
        read("file.zip", data.getvalue())


def test_an_encrypted_package_says_so(read: Read) -> None:
    data = bytearray(packed({"quiz.xml": GOOD.encode()}, zipfile.ZIP_STORED))
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(sign) + offset] |= 1
    with pytest.raises(DataError, match="protected by a password"):
        read("file.zip", bytes(data))


def test_recipes_and_other_yaml_are_called_by_their_name(read: Read) -> None:
    with pytest.raises(DataError, match="recipe") as caught:
        read("run.yaml", "model: x\nlr: !!python/object/apply:os.mkdir [PWNED]\n")
    assert "model, lr" in str(caught.value)


@pytest.mark.parametrize("name", [
    "a.xml", "b.gift", "c.apkg", "d.colpkg", "e.docx", "f.pdf", "g.md", "h.yml", "i.imscc", "J.Rmd",
])  # fmt: skip
def test_files_of_questions_may_be_uploaded(name: str) -> None:
    assert clean_label(name) == name
