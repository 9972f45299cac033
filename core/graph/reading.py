"""One reading of all texts: what stands where, what it means, and who speaks about what.

Shapes: P passages, C concepts, T tokens of a passage, d width of the states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.evaluate.metrics import language
from core.graph.encoder import Encoder, States, unit
from core.graph.features import Evidence, Matrix
from core.graph.phrases import relations_said
from core.graph.spoken import subjects
from core.graph.types import RELATIONS, Concept, Passage

KEPT_BYTES = 400_000_000  # token states that are held for the tagger
_PROBE = "光合作用是绿色植物利用光能把二氧化碳转化为有机物的过程"


@dataclass
class Read:
    """What an encoder makes of passages.

    Attributes:
        means: (P, d) of length 1; zeros where the encoder does not know the language.
        tokens: states of the passages that are held, by their number.
    """

    means: NDArray[np.float32]
    tokens: dict[int, States] = field(default_factory=dict)


def reads_chinese(encoder: Encoder) -> bool:
    """Whether an encoder's tokens are made for Chinese: few unknown ones, few for a character."""
    ids = encoder.tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    unknown = sum(i == encoder.tokenizer.unk_token_id for i in ids)
    return len(ids) < 1.3 * len(_PROBE) and unknown < 0.1 * len(ids)


def read(
    encoder: Encoder,
    passages: Sequence[Passage],
    on_share: Callable[[float], None] = lambda share: None,
) -> Read:
    """Read passages once; the states of the first ones are held, as far as memory is given."""
    chinese = reads_chinese(encoder)
    known = [p for p in passages if chinese or language(p.text) != "zh"]
    found = Read(np.zeros((len(passages), encoder.width), np.float32))
    room = KEPT_BYTES
    for at, states in encoder.states([p.text for p in known], on_share):
        if not len(states.states):
            continue
        passage = known[at].id
        found.means[passage] = unit(states.states.astype(np.float32).mean(0))
        room -= states.states.nbytes
        if room > 0:
            found.tokens[passage] = states
    return found


def name_vectors(encoder: Encoder, names: Sequence[str]) -> Matrix:
    """What names mean, (C, d) of length 1; zeros for those in a language it does not know."""
    chinese = reads_chinese(encoder)
    known = [i for i, n in enumerate(names) if chinese or language(n) != "zh"]
    vectors = np.zeros((len(names), encoder.width), np.float32)
    if known:
        vectors[known] = encoder.means([names[i] for i in known])
    return vectors


def contexts(found: Read, concepts: Sequence[Concept], width: int) -> Matrix:
    """Mean state of every concept's mentions, (C, d) of length 1; zeros without any."""
    sums = np.zeros((len(concepts), width), np.float32)
    for i, concept in enumerate(concepts):
        for mention in concept.mentions:
            if (states := found.tokens.get(mention.passage)) is not None:
                a, b = states.offsets[:, 0], states.offsets[:, 1]
                inside = (a < mention.end) & (b > mention.start)
                if inside.any():
                    sums[i] += states.states[inside].astype(np.float32).mean(0)
        sums[i] = unit(sums[i])
    return sums


def node_states(vectors: Matrix, around: Matrix, means: Matrix) -> Tensor:
    """States (C + P, d) of the nodes: of a concept its name's and its mentions', halved."""
    both = np.stack([unit(row) for row in vectors + around]) if len(vectors) else vectors
    return torch.from_numpy(np.concatenate([both, means]).astype(np.float32))


def evidence_of(
    concepts: Sequence[Concept], passages: Sequence[Passage], vectors: Matrix
) -> tuple[Evidence, dict[tuple[str, str, str], tuple[int, ...]]]:
    """What the texts say of concepts; and which passages state which relation.

    Args:
        concepts: with their mentions.
        passages: numbered from 0.
        vectors: (C, d), what the names mean.

    Returns:
        The evidence, and passages by (kind, source id, target id).
    """
    place = {c.id: i for i, c in enumerate(concepts)}
    shape = (len(passages), len(concepts))
    mentioned, about, defined = (np.zeros(shape, np.float32) for _ in range(3))
    spans: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for c in concepts:
        for m in c.mentions:
            mentioned[m.passage, place[c.id]] += 1
            spans[m.passage].append((m.start, m.end, c.id))
    said = np.zeros((len(RELATIONS), len(concepts), len(concepts)), np.float32)
    where: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for p in passages:
        here = sorted(spans.get(p.id, ()))
        if not here:
            continue
        for concept, explains in subjects(p, here):
            about[p.id, place[concept]] = 1
            defined[p.id, place[concept]] = max(explains, defined[p.id, place[concept]])
        for kind, a, b in relations_said(p, here):
            said[RELATIONS.index(kind), place[a], place[b]] += 1
            where[kind, a, b].append(p.id)
    names = tuple(c.name for c in concepts)
    evidence = Evidence(names, mentioned, about, defined, vectors, said)
    return evidence, {k: tuple(v) for k, v in where.items()}
