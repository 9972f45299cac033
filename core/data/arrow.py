"""Examples on disk: an Arrow stream, mapped into memory, read one at a time.

The file is what the library ``datasets`` keeps (``Dataset.from_file`` opens it): a column
``messages`` of (role, content) lists, and ``where`` and ``topic``. What is mapped counts as the
system's file cache, not as the process's own memory, however many examples there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from core.data.types import Example, Turn

BATCH = 2048  # examples of one record batch


def _schema() -> Any:
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema([("messages", pa.list_(turn)), ("where", pa.string()), ("topic", pa.string())])


class ExampleWriter:
    """Writes examples to a file as they come; at most one batch of them is in memory.

    Used in a ``with`` statement. If that ends with an error, the file is removed.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file; an older one of that name is overwritten."""
        import pyarrow as pa

        self.path, self.count = path, 0
        self._pa, self._schema = pa, _schema()
        self._waiting: list[Example] = []
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, self._schema)

    def add(self, example: Example) -> None:
        """Write an example, at the latest when the next batch is full."""
        self._waiting.append(example)
        self.count += 1
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        pa, waiting = self._pa, self._waiting
        turn = self._schema.field("messages").type.value_type
        counts = [len(e.turns) for e in waiting]
        offsets = pa.array(np.cumsum([0, *counts]).astype(np.int32))
        turns = [t for e in waiting for t in e.turns]
        roles = pa.array([t.role for t in turns], pa.string())
        texts = pa.array([t.content for t in turns], pa.string())
        inner = pa.StructArray.from_arrays([roles, texts], fields=list(turn))
        columns = [
            pa.ListArray.from_arrays(offsets, inner),
            pa.array([e.where for e in waiting], pa.string()),
            pa.array([e.topic for e in waiting], pa.string()),
        ]
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._waiting = []

    def __enter__(self) -> ExampleWriter:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what waits and close the file, or remove it after an error."""
        try:
            if kind is None:
                self._flush()
        finally:
            self._stream.close()
            self._file.close()
            if kind is not None:
                self.path.unlink(missing_ok=True)


class ArrowExamples(Sequence[Example]):
    """The examples of a file that :class:`ExampleWriter` wrote."""

    def __init__(self, path: Path) -> None:
        """Map the file; nothing but the sizes of its batches is read.

        Raises:
            OSError: if it cannot be opened or is no such file.
        """
        import pyarrow as pa

        self.path = path
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        self._batches = list(reader)
        sizes = [b.num_rows for b in self._batches]
        self._starts: NDArray[np.int64] = np.cumsum([0, *sizes]).astype(np.int64)
        self._last = -2  # the place that was asked for last
        self._batch = -1, list[Example]()  # the batch that is being read through

    def __len__(self) -> int:
        """Return how many there are."""
        return int(self._starts[-1])

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        """Return one example, or a part of them that lies on disk too."""
        if isinstance(at, slice):
            return Chosen(self, np.arange(len(self))[at])
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        k = int(np.searchsorted(self._starts, place, "right")) - 1
        at = place - int(self._starts[k])
        near, self._last = 0 < place - self._last <= 16, place
        if near and self._batch[0] != k:  # one after the other: the batch as a whole is faster
            self._batch = k, list(map(_example, self._batches[k].to_pylist()))
        if self._batch[0] == k:
            return self._batch[1][at]
        return _example(self._batches[k].slice(at, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        """Yield all, a batch at a time in memory."""
        for batch in self._batches:
            yield from map(_example, batch.to_pylist())


class Chosen(Sequence[Example]):
    """Some examples of a sequence on disk, by their places."""

    def __init__(self, examples: Sequence[Example], places: NDArray[np.int64]) -> None:
        """Choose examples.

        Args:
            examples: where they are.
            places: which of them, (N,), in the order wanted.
        """
        self.examples, self.places = examples, places

    def __len__(self) -> int:
        """Return how many were chosen."""
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        """Return one example, or a part of the choice."""
        if isinstance(at, slice):
            return Chosen(self.examples, self.places[at])
        return self.examples[int(self.places[at])]

    def __iter__(self) -> Iterator[Example]:
        """Yield them; where the places ascend, the file is read through once."""
        if len(self) < 2 or bool((np.diff(self.places) <= 0).any()):
            yield from (self.examples[int(i)] for i in self.places)
            return
        wanted = iter(self.places.tolist())
        following = next(wanted)
        for i, example in enumerate(self.examples):
            if i == following:
                yield example
                following = next(wanted, -1)
                if following < 0:
                    return


class Joined(Sequence[Example]):
    """Two sequences of examples, one after the other."""

    def __init__(self, first: Sequence[Example], second: Sequence[Example]) -> None:
        """Give the two."""
        self.first, self.second = first, second

    def __len__(self) -> int:
        """Return how many there are in both."""
        return len(self.first) + len(self.second)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        """Return one example, or a part of them."""
        if isinstance(at, slice):
            return Chosen(self, np.arange(len(self))[at])
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        n = len(self.first)
        return self.first[place] if place < n else self.second[place - n]

    def __iter__(self) -> Iterator[Example]:
        """Yield those of the first, then those of the second."""
        yield from self.first
        yield from self.second


class TextsOf(Sequence[str]):
    """A text of each example, made when it is asked for."""

    def __init__(self, examples: Sequence[Example], text: Callable[[Example], str]) -> None:
        """Give the examples and how a text is made of one."""
        self.examples, self.text = examples, text

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.examples)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        """Return one text, or a part of them."""
        if isinstance(at, slice):
            return TextsOf(self.examples[at], self.text)
        return self.text(self.examples[at])


def _example(record: dict[str, Any]) -> Example:
    turns = tuple(Turn(m["role"], m["content"]) for m in record["messages"])
    return Example(turns, record["where"], record["topic"])
