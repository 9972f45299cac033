"""Import Gradio without its stub files.

Gradio writes a ``.pyi`` file beside each of its modules whenever it is imported, for editors to
read. That takes nearly half of its import time and changes installed files; nothing needs them when
the studio runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

_WRITES_THEM = "gradio.component_meta"
_FUNCTION = "create_or_modify_pyi"


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, _FUNCTION):
            setattr(module, _FUNCTION, _write_nothing)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _WRITES_THEM:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or found.origin is None:
            return found
        loader = _Loader(fullname, found.origin)
        return spec_from_file_location(fullname, found.origin, loader=loader)


def _write_nothing(*_: object) -> None:
    return


def skip_stub_files() -> None:
    """Call before Gradio is imported; without effect where it already is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
