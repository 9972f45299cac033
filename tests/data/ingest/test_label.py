from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.ingest import clean_label
from core.errors import DataError


@pytest.mark.parametrize(("name", "label"), [
    ("class.csv", "class.csv"),
    ("../../evil.csv", "evil.csv"),
    ("..\\..\\evil.csv", "evil.csv"),
    ("%2e%2e%2fevil.csv", "%2e%2e%2fevil.csv"),
    ("a\nb\0.csv", "ab.csv"),
    ("quiz.csv. ", "quiz.csv"),
    ("QUIZ.CSV", "QUIZ.CSV"),
    ("七年级📚.xlsx", "七年级📚.xlsx"),
    ("quiz", "quiz"),
    ("", "class"),
    ("/", "class"),
])  # fmt: skip
def test_labels(name: str, label: str) -> None:
    assert clean_label(name) == label


@pytest.mark.parametrize("name", [".env", "a.exe", "quiz.csv.exe", "quiz\u202evsc.exe", "a.pkl"])
def test_types_that_are_no_class_file_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"not accepted. Accepted are CSV"):
        clean_label(name)


def test_long_names_are_cut_and_keep_their_ending() -> None:
    assert len(clean_label("a" * 300 + ".csv")) <= 120
    assert clean_label("a" * 300 + ".csv").endswith("….csv")


@given(st.text())
def test_a_label_is_one_printable_line_without_separators(name: str) -> None:
    try:
        label = clean_label(name)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert 0 < len(label) <= 120
    assert label.isprintable()
    assert not set(label) & set("/\\")
