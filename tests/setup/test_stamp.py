from __future__ import annotations

from pathlib import Path

import pytest

from core.setup.stamp import (
    NAME,
    file_key,
    is_whole,
    python_key,
    read_stamp,
    venv_python,
    write_stamp,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_stamp(tmp_path, {"torch": "2 cpu"})
    assert read_stamp(tmp_path) == {"torch": "2 cpu"}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_stamp_counts_as_nothing_done(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert read_stamp(tmp_path) == {}


def test_line_ends_do_not_change_the_key_of_a_lock(tmp_path: Path) -> None:
    unix, windows, other = (tmp_path / name for name in "abc")
    unix.write_bytes(b"one==1\ntwo==2\n")
    windows.write_bytes(b"one==1\r\ntwo==2\r\n")
    other.write_bytes(b"one==1\ntwo==3\n")
    assert file_key(unix) == file_key(windows) != file_key(other)


def test_an_environment_without_its_interpreter_is_not_whole(tmp_path: Path) -> None:
    write_stamp(tmp_path, {"venv": python_key()})
    assert not is_whole(tmp_path)
    venv_python(tmp_path).parent.mkdir()
    venv_python(tmp_path).touch()
    assert is_whole(tmp_path)


def test_an_environment_of_another_python_is_not_whole(tmp_path: Path) -> None:
    venv_python(tmp_path).parent.mkdir()
    venv_python(tmp_path).touch()
    write_stamp(tmp_path, {"venv": "3.11.0 /elsewhere"})
    assert not is_whole(tmp_path)
