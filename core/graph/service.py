"""What command line and pages ask of the concept map: read files, find or load, make, save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.config import DataConfig
from core.errors import DataError
from core.events import Emit, PhaseChanged
from core.graph import document, scorer
from core.graph.build import MOST, Options, build
from core.graph.classes import examples_of
from core.graph.document import MapDocument
from core.graph.encoder import Encoder, default_model, folder_of
from core.graph.material import Paragraph, read_material


@dataclass(frozen=True)
class Asked:
    """What a map is made of.

    Attributes:
        data: the class; an empty path if there is only material.
        material: files of added texts.
        encoder: id or folder of a model; empty: the best that is there.
        pairs: folder of a run of the method pairs, whose model finds doubles; empty: none.
        previous: file of an earlier map whose corrections are kept; empty: none.
        name: of the map; empty: the name of the class file.
        most: concepts at most.
    """

    data: DataConfig
    material: tuple[str, ...] = ()
    encoder: str = ""
    pairs: str = ""
    previous: str = ""
    name: str = ""
    most: int = MOST


def make(asked: Asked, emit: Emit = lambda event: None) -> MapDocument:
    """Make a map.

    Raises:
        StudioError: if a file, a model or the class cannot be used.
    """
    emit(PhaseChanged("graph", 0.0, "data"))
    examples = examples_of(asked.data) if asked.data.path else ()
    texts: list[tuple[str, Sequence[Paragraph]]] = [
        (Path(f).name, read_material(Path(f))) for f in asked.material
    ]
    previous = document.load(Path(asked.previous)) if asked.previous else None
    name = asked.name or Path(asked.data.path or (asked.material or ("map",))[0]).stem
    same = _same(asked.pairs, [e.question for e in examples], emit) if asked.pairs else ()
    loaded = _encoder(
        str(
            folder_of(
                asked.encoder or default_model(),
                lambda share, text: emit(PhaseChanged("load", share, text)),
            )
        )
    )
    return build(
        examples,
        texts,
        loaded,
        _scorer(loaded),
        options=Options(name=name, most=asked.most, same=same),
        previous=previous,
        emit=emit,
    )


def _scorer(loaded: Encoder) -> scorer.Scorer | None:
    """The studio's scorer for an encoder's states, if there is one of this width."""
    found = scorer.load(loaded.name)
    if found is None or found.models[found.used].model.shape.width != loaded.width:
        return None
    return found


@lru_cache(maxsize=1)
def _encoder(folder: str) -> Encoder:
    """The encoder, kept for the next map."""
    return Encoder(Path(folder))


def _same(run: str, questions: Sequence[str], emit: Emit) -> tuple[tuple[int, ...], ...]:
    """Groups of questions that a pair model finds to be the same."""
    from core.pairs.duplicates import MOST_QUESTIONS, find_duplicates, groups
    from core.pairs.store import load_trained

    if len(questions) > MOST_QUESTIONS:
        raise DataError(
            f"The class has {len(questions)} questions; at most {MOST_QUESTIONS} are compared.",
            where="class data",
            action="Split the file.",
            code="pairs.too_many",
        )

    def tell(share: float) -> None:
        emit(PhaseChanged("compare", share))

    found = find_duplicates(load_trained(Path(run)), questions, on_share=tell)
    return tuple(tuple(g) for g in groups(found, len(questions)))
