"""``python -m benchmarks.concepts``: the concept map's parts on public sets, resumable.

    python -m benchmarks.concepts --work build/concepts                     # everything, CPU size
    python -m benchmarks.concepts --work build/concepts --tasks relations   # goes on where it was

Three tasks (``--tasks``):

- ``relations``: prerequisites on metacademy, AL-CPL and LectureBank, split by concept, for every
  seed: cosine, logistic regression on f_ij, the decoder without message passing, GCN alone, GATv2
  alone, both; and the same with shuffled labels.
- ``spans``: entities and joint relations on CoNLL04 and SciERC (strict spans and types).
- ``links``: link prediction on Nations, UMLS and Kinships (filtered MRR and Hits@k, AUC).

Every cell (task, set, method, seed) is one JSON file in ``--work``; what is there is not computed
again. ``--most N`` computes at most N new cells. The table is written to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks import concept_data, concept_links, concept_spans
from benchmarks.concept_table import as_markdown
from benchmarks.datasets import SHARED
from core.errors import StudioError
from core.graph import encoder, reading, reason
from core.graph.features import NAMES
from core.graph.model import PASSING, Shape
from core.graph.reason import TEST, TRAIN, VALIDATION, World
from core.home import CHECKOUT
from core.runs.folder import write_json

RELATION_METHODS = ("cosine", "logistic", *PASSING, "gcn-gat-shuffled")
RESULTS = CHECKOUT / "benchmarks" / "results" / "concepts"


@dataclass(frozen=True)
class Cell:
    """One measurement: where it is kept, and how it is made."""

    task: str
    data: str
    method: str
    seed: int

    def path(self, work: Path) -> Path:
        """Its file."""
        name = f"{self.task}-{self.data.replace('/', '-')}-{self.method}-{self.seed}.json"
        return work / "cells" / name


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    epochs: int
    train: int
    test: int


def cells(tasks: Sequence[str], seeds: Sequence[int], sets: Sequence[str]) -> Iterator[Cell]:
    """All cells that are asked for, in the order in which they are computed."""
    known: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "relations": (concept_data.SETS, RELATION_METHODS),
        "spans": (concept_spans.SETS, concept_spans.METHODS),
        "links": (concept_links.SETS, concept_links.METHODS),
    }
    for task in tasks:
        data, methods = known[task]
        for name in data:
            if not sets or name in sets:
                for seed in seeds:
                    yield from (Cell(task, name, method, seed) for method in methods)


def measure(cell: Cell, shared: Path, model: str, size: Size) -> dict[str, Any]:
    """Compute a cell.

    Raises:
        StudioError: if its files are absent.
    """
    begun = time.monotonic()
    if cell.task == "relations":
        found = relation_marks(cell, shared, model, size)
    elif cell.task == "spans":
        loaded = _encoder(model)
        found = concept_spans.measure(
            cell.data, cell.method, cell.seed, shared, loaded, size.epochs, size.train, size.test
        )
    else:
        found = concept_links.measure(cell.data, cell.method, cell.seed, shared, size.epochs)
    return {**found, "seconds": round(time.monotonic() - begun, 1)}


# --- prerequisites -------------------------------------------------------------------------------


def relation_marks(cell: Cell, shared: Path, model: str, size: Size) -> dict[str, Any]:
    """Marks on the pairs whose concepts were kept out."""
    world = _world(cell.data, str(shared), model, cell.seed)
    if cell.method.endswith("-shuffled"):
        world = shuffled(world, cell.seed)
    if cell.method in ("cosine", "logistic"):
        return _plain(world, cell.method)
    passing = cell.method.removesuffix("-shuffled")
    shape = Shape(int(world.states.shape[1]), passing=passing)
    settings = reason.Settings(epochs=size.epochs, seed=cell.seed, tag=False)
    fitted = reason.fit([world], shape, settings)
    scores, truth = reason.answers(fitted.model, [world], TEST)
    return {**reason.marks(truth, scores, fitted.calibration), "validation": fitted.marks}


def shuffled(world: World, seed: int) -> World:
    """The world with the truth of its pairs dealt anew within every side."""
    draw = np.random.default_rng(seed)
    if world.drawn:  # only positives are listed: deal their second concepts anew
        pairs = world.pairs.copy()
        for side in (TRAIN, VALIDATION, TEST):
            rows = world.of(side)
            pairs[rows, 1] = pairs[draw.permutation(rows), 1]
        apart = pairs[:, 0] != pairs[:, 1]
        kept = {k: getattr(world, k)[apart] for k in ("relation", "truth", "side", "weight")}
        return World(world.states, world.features, world.text, pairs[apart], **kept)
    truth = world.truth.copy()
    for side in (TRAIN, VALIDATION, TEST):
        rows = world.of(side)
        truth[rows] = truth[draw.permutation(rows)]
    return World(
        world.states,
        world.features,
        world.text,
        world.pairs,
        world.relation,
        truth,
        world.side,
        world.weight,
        drawn=False,
    )


def _plain(world: World, method: str) -> dict[str, Any]:
    """Marks of what needs no graph: one number of a pair, or all of f_ij by logistic regression."""

    def asked(side: int) -> tuple[Any, Any]:
        pairs, _, truth = reason.asked_of(world, side)
        f = world.features[pairs[:, 0], pairs[:, 1]]
        return (f[:, NAMES.index("cosine")] if method == "cosine" else f), truth.astype(float)

    (validation, held), (test, truth) = asked(VALIDATION), asked(TEST)
    if method == "logistic":
        x, y = asked(TRAIN)
        # Scored by the log odds, so that calibration means the same for all.
        fitted = LogisticRegression(max_iter=1000).fit(x, y)
        validation, test = (fitted.decision_function(v) for v in (validation, test))
    calibration = reason.calibrate(np.asarray(validation, float), held)
    return reason.marks(truth, np.asarray(test, float), calibration)


@lru_cache(maxsize=1)
def _encoder(model: str) -> encoder.Encoder:
    return encoder.Encoder(encoder.folder_of(model))


@lru_cache(maxsize=1)
def _read(name: str, shared: str, model: str) -> tuple[Any, ...]:
    """A set with everything that no seed changes."""
    data, loaded = concept_data.read(name, Path(shared)), _encoder(model)
    concepts, passages = concept_data.concepts_of(data)
    vectors = reading.name_vectors(loaded, data.names)
    read_text = reading.read(loaded, passages)
    evidence, _ = reading.evidence_of(concepts, passages, vectors)
    around = reading.contexts(read_text, concepts, loaded.width)
    return data, evidence, around, read_text, concepts


def _world(name: str, shared: str, model: str, seed: int) -> World:
    data, evidence, around, read_text, concepts = _read(name, shared, model)
    return concept_data.made(data, evidence, around, read_text, concepts, seed)


# --- the command ---------------------------------------------------------------------------------


def run(
    wanted: Sequence[Cell], work: Path, most: int, compute: Callable[[Cell], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compute what is missing, at most ``most`` cells; return all that is there."""
    (work / "cells").mkdir(parents=True, exist_ok=True)
    rows, new = [], 0
    for cell in wanted:
        path = cell.path(work)
        if not path.is_file():
            if new >= most:
                continue
            sys.stderr.write(f"{path.stem}\n")
            try:
                found = compute(cell)
            except StudioError as error:  # its files are absent: left out with a sentence
                found = {"error": str(error)}
            new += 1
            write_json(path, found)
        marks = json.loads(path.read_text("utf-8"))
        rows.append({"task": cell.task, "data": cell.data, "method": cell.method, **marks})
        rows[-1]["seed"] = cell.seed
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--tasks", nargs="+", default=["relations", "spans", "links"])
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--model", default="", help="gives the states; empty: the best there is")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--train", type=int, default=0, help="sentences; 0: all")
    parser.add_argument("--test", type=int, default=0, help="sentences; 0: all")
    parser.add_argument("--most", type=int, default=1 << 30)
    o = parser.parse_args(arguments)
    size = Size(o.epochs, o.train, o.test)
    wanted = list(cells(o.tasks, o.seeds, o.sets))
    rows = run(wanted, o.work, o.most, lambda cell: measure(cell, o.shared, o.model, size))
    o.out.mkdir(parents=True, exist_ok=True)
    facts = {"epochs": o.epochs, "model": o.model or encoder.default_model(), "rows": rows}
    write_json(o.out / "concepts.json", facts)
    (o.out / "concepts.md").write_text(as_markdown(facts), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
