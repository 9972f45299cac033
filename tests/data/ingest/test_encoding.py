from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.ingest import read_file
from core.data.ingest.encoding import candidates, decode, has_bad_bytes
from core.data.messages import Findings
from core.errors import DataError

CHINESE = "问题,答案\n什么是光合作用？,植物利用光能把水和二氧化碳变成糖。\n"
TRADITIONAL = "問題,答案\n什麼是光合作用？,植物利用光能把水變成糖。\n"
JAPANESE = "質問,答え\n日本の首都はどこですか？,東京です。\n"
KOREAN = "질문,답변\n한국의 수도는 어디입니까?,서울입니다.\n"
GERMAN = "Frage;Antwort\nWo wächst die Rübe?;Auf dem Gemüsefeld – „überall“\n"
RUSSIAN = "Вопрос;Ответ\nСтолица Франции?;Париж\n"


@pytest.mark.parametrize(("text", "encoding", "named"), [
    (CHINESE, "gbk", "GB18030"),
    (CHINESE + "𠀀,龥\n", "gb18030", "GB18030"),
    (TRADITIONAL, "big5", "Big5"),
    (JAPANESE, "cp932", "Shift-JIS"),
    (JAPANESE, "euc_jp", "EUC-JP"),
    (KOREAN, "cp949", "EUC-KR"),
    (GERMAN, "cp1252", "cp1252"),
    ("question,answer\nOù est l'école ?,À côté\n", "latin-1", "cp1252"),
    (RUSSIAN, "cp1251", "cp1251"),
])  # fmt: skip
def test_a_guess_is_right_and_named(text: str, encoding: str, named: str) -> None:
    findings = Findings()
    assert decode(text.encode(encoding), findings).text == text
    (problem,) = findings.problems()
    assert (problem.code, problem.severity) == ("encoding.guessed", "warning")
    assert named in problem.what


@pytest.mark.parametrize("text", [CHINESE, GERMAN, "question,answer\na?,b\n"])
@pytest.mark.parametrize("encoding", [
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32",
])  # fmt: skip
def test_unicode_is_recognised_without_a_word(text: str, encoding: str) -> None:
    findings = Findings()
    assert decode(text.encode(encoding), findings).text == text
    assert findings.problems() == []


@given(st.text())
def test_utf8_is_always_read_as_utf8(text: str) -> None:
    decoded = decode(text.encode("utf-8", "ignore"), Findings())
    if "\0" not in text and not text.startswith(("\ufeff", "\ufffe")):
        assert decoded.text == text.encode("utf-8", "ignore").decode()


@given(st.binary(max_size=200))
def test_any_bytes_become_some_text(data: bytes) -> None:
    assert isinstance(decode(data, Findings()).text, str)


def test_one_line_in_another_encoding_does_not_change_the_rest() -> None:
    data = CHINESE.encode() + "七乘八等于几？,五十六。\n".encode("gbk") + "好,是\n".encode()
    lines = decode(data, Findings()).text.splitlines()
    assert [has_bad_bytes(line) for line in lines] == [False, False, True, False]


def test_a_text_cut_in_the_middle_of_a_character_is_noticed() -> None:
    data = CHINESE.encode().rstrip()
    assert decode(data[:-1], Findings()).cut_off
    assert not decode(data, Findings()).cut_off


def test_the_teachers_choice_counts() -> None:
    decoded = decode(CHINESE.encode("gbk"), Findings(), "GBK")
    assert (decoded.text, decoded.encoding) == (CHINESE, "gbk")
    assert decode(CHINESE.encode("utf-8-sig"), Findings(), "utf-8").text == CHINESE


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13", "\0"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(DataError, match="no text encoding"):
        decode(b"a", Findings(), encoding)


@pytest.mark.parametrize("data", [
    b"question,answer\na\0?,b\n", b"question,\0answer\n", b"\0question,answer\na?,b\n",
    CHINESE.replace("光", "\0").encode(),
])  # fmt: skip
def test_a_stray_nul_does_not_make_utf16(data: bytes) -> None:
    assert decode(data, Findings()).encoding == "utf-8"


ROW = "什么是光合作用和呼吸作用之间最重要的区别和联系呢,前者储存能量后者释放能量\n"
LONG_CHINESE = "问题,答案\n" + ROW * 30


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [LONG_CHINESE, TRADITIONAL, JAPANESE, KOREAN, RUSSIAN, GERMAN])
def test_utf16_without_bom_is_found_by_its_pattern(text: str, encoding: str) -> None:
    findings = Findings()
    decoded = decode(text.encode(encoding), findings)
    assert (decoded.text, decoded.encoding) == (text, encoding)
    assert findings.problems() == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_stray_byte_in_utf16_costs_its_line(encoding: str) -> None:
    lines = ["question,answer\n", "a?,b\n", "c?,d\n", "e?,f\n"]
    parts = [line.encode(encoding) for line in lines]
    parts[2] = parts[2][:2] + b"x" + parts[2][2:]
    read = decode(b"".join(parts), Findings(), encoding).text.split("\n")
    assert [read[0], read[1], read[3]] == [line.strip() for line in (lines[0], lines[1], lines[3])]
    assert has_bad_bytes(read[2])


@pytest.mark.parametrize(("text", "encoding"), [
    (CHINESE, "gb18030"), (TRADITIONAL, "big5hkscs"), (JAPANESE, "cp932"), (GERMAN, "cp1252"),
    (RUSSIAN, "cp1251"), (KOREAN, "cp949"),
])  # fmt: skip
def test_a_guess_comes_with_previews_to_choose_from(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    decoded = decode(data, Findings())
    assert decoded.guessed
    first, *others = candidates(data, decoded.encoding)
    assert (first.encoding, first.fits) == (encoding, True)
    assert first.preview.splitlines()[-1] == text.splitlines()[-1]
    assert "utf-8" in {c.encoding for c in others}
    assert len({c.encoding for c in others}) == len(others) >= 7
    for other in others:  # each can be chosen, and shows what choosing it gives
        chosen = decode(data, Findings(), other.encoding)
        assert has_bad_bytes(chosen.text) or other.fits or "\ufffd" in chosen.text


@given(st.binary(max_size=200))
def test_any_bytes_have_candidates(data: bytes) -> None:
    assert len(candidates(data)) >= 8


def test_the_result_of_a_guess_carries_the_menu(tmp_path: Path) -> None:
    path = tmp_path / "class.csv"
    path.write_bytes(CHINESE.encode("gbk"))
    result = read_file(path)
    assert result.encodings[0].encoding == result.encoding == "gb18030"
    assert "光合作用" in result.encodings[0].preview
    assert read_file(path, encoding="big5hkscs").encodings[0].encoding == "big5hkscs"
    path.write_text(CHINESE, "utf-8")
    assert read_file(path).encodings == ()
