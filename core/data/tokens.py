"""Encoded examples on disk: token ids in one flat file, which is mapped into memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from core.data.chat import IGNORED, Encoded

IDS, LEARNED, BUFFER = "ids.i32", "learned.u8", 1 << 20


class TokensOnDisk(Sequence[Encoded]):
    """Encoded examples of any number; five bytes a token on disk, nine an example in memory.

    The files are in a temporary folder that goes when this object does.
    """

    def __init__(self, encoded: Iterable[Encoded], folder: Path | None = None) -> None:
        """Write examples as they come.

        Args:
            encoded: the examples.
            folder: where the temporary folder is made; None: where the system has its own.

        Raises:
            OSError: if the disk is full.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="tokens-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        lengths, cuts = self._write(encoded)
        self._ends = np.cumsum(np.frombuffer(lengths, np.int32), dtype=np.int64)
        self._cut = np.frombuffer(cuts, np.bool_)
        self._ids = self._map(IDS, np.int32)
        self._learned = self._map(LEARNED, np.uint8)

    def _write(self, encoded: Iterable[Encoded]) -> tuple[bytearray, bytearray]:
        lengths, cuts = bytearray(), bytearray()
        ids_path, learned_path = self._folder / IDS, self._folder / LEARNED
        with ids_path.open("wb", BUFFER) as ids, learned_path.open("wb", BUFFER) as learned:
            for one in encoded:
                ids.write(np.asarray(one.ids, np.int32).tobytes())
                learned.write((np.asarray(one.labels) != IGNORED).astype(np.uint8).tobytes())
                lengths += np.int32(len(one.ids)).tobytes()
                cuts.append(one.cut)
        return lengths, cuts

    def _map(self, name: str, kind: type[Any]) -> NDArray[Any]:
        path = self._folder / name
        if not path.stat().st_size:
            return np.zeros(0, kind)
        mapped: NDArray[Any] = np.memmap(path, kind, "r")
        return mapped

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> list[Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | list[Encoded]:
        """Return one example, or a part of them in memory."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        start, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        ids = self._ids[start:end]
        labels = np.where(self._learned[start:end] == 1, ids, IGNORED)
        return Encoded(ids.tolist(), labels.tolist(), bool(self._cut[place]))
