from __future__ import annotations

import subprocess
import sys

from core.home import CHECKOUT

PROGRAM = """
import pathlib
opened = []
write = pathlib.Path.write_text
read = pathlib.Path.read_text
pathlib.Path.read_text = lambda self, *a, **k: opened.append(self.suffix) or read(self, *a, **k)
pathlib.Path.write_text = lambda self, *a, **k: opened.append(self.suffix) or write(self, *a, **k)
from studio.stubs import skip_stub_files
skip_stub_files()
import gradio
with gradio.Blocks() as page:
    gradio.Button("ready")
assert page.get_config_file()["components"]
assert ".pyi" not in opened, "a stub file was touched"
"""


def test_gradio_works_and_touches_no_stub_file() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert answer.returncode == 0, answer.stderr
