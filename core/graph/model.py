"""The joint model: a span tagger and a relation scorer over one shared projection.

    z = (x - mean) / spread W                          every token, concept and passage
    BIO = conv(relu(conv3(z)))                         of tokens
    H1 = relu(A z W1),  H2 = H1 + GATv2(H1)            of nodes; A is GCN's normalised adjacency
    s_r(i -> j) = h_i^T M_r h_j / sqrt(D) + MLP_r[h_i; h_j; h_i - h_j; h_i * h_j; f_ij]

After the abstract of arXiv 2411.15195 (GCN and GAT, joint, end to end), which gives no formula:
all of this is our interpretation. GCN is Kipf and Welling 2017, GATv2 Brody et al. 2022, both from
torch_geometric. ``passing`` names what stands between z and h: ``gcn-gat``, ``gcn``, ``gat`` or
``none`` (a linear layer in the place of GCN, the baseline without messages).

Shapes: T tokens, N nodes of which the first C are concepts, d width of the states, D hidden width,
K kinds, R relations, F pair features, E edges, n pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv, GCNConv

from core.graph import features, network
from core.graph.types import KINDS, RELATIONS

PASSING = ("gcn-gat", "gcn", "gat", "none")
CHUNK = 16_384  # pairs that are scored at once


@dataclass(frozen=True)
class Shape:
    """What a joint model is made like.

    Attributes:
        width: d of the states.
        passing: gcn-gat | gcn | gat | none.
        kinds: K kinds of spans.
        relations: R.
        features: F.
        edge_types: of the graph.
        hidden: D.
        heads: of GATv2; each has D / heads outputs.
        dropout: of nodes, of the scorer and of the tagger.
    """

    width: int
    passing: str = "gcn-gat"
    kinds: int = len(KINDS)
    relations: int = len(RELATIONS)
    features: int = len(features.NAMES)
    edge_types: int = len(network.TYPES)
    hidden: int = 128
    heads: int = 4
    dropout: float = 0.3

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class JointModel(nn.Module):
    """Tagger and scorer over one projection."""

    mean: Tensor
    spread: Tensor

    def __init__(self, shape: Shape) -> None:
        """Make it with random weights from torch's generator."""
        super().__init__()
        self.shape = shape
        d, D = shape.width, shape.hidden
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("spread", torch.ones(d))
        self.shared = nn.Linear(d, D)
        self.tagger = nn.Sequential(
            nn.Conv1d(D, D, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
            nn.Conv1d(D, 1 + 2 * shape.kinds, 1),
        )
        self.first: nn.Module = GCNConv(D, D) if "gcn" in shape.passing else nn.Linear(D, D)
        self.second: nn.Module | None = None
        if "gat" in shape.passing:
            self.second = GATv2Conv(
                D, D // shape.heads, heads=shape.heads, edge_dim=shape.edge_types
            )
        self.kind = nn.Linear(D, shape.kinds)
        self.M = nn.Parameter(torch.randn(shape.relations, D, D) / D)
        self.pair = nn.Sequential(
            nn.Linear(4 * D + shape.features, D),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
            nn.Linear(D, shape.relations),
        )

    def standardise(self, states: Tensor) -> None:
        """Take mean and spread of states (n, d) that stand for what will be read."""
        self.mean.copy_(states.mean(0))
        self.spread.copy_(states.std(0, correction=0).clamp_min(1e-4))

    def project(self, states: Tensor, known: Tensor | None = None) -> Tensor:
        """Return z of states (..., d); rows with ``known`` 0 give the bias alone."""
        x = (states - self.mean) / self.spread
        return cast(Tensor, self.shared(x if known is None else x * known[..., None]))

    def tags(self, z: Tensor) -> Tensor:
        """Logits (B, T, 1 + 2 K) of O, B-kind and I-kind, of projected tokens (B, T, D)."""
        return cast(Tensor, self.tagger(z.transpose(1, 2)).transpose(1, 2))

    def nodes(self, z: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        """Node states h (N, D) of projected nodes (N, D).

        Args:
            z: from :meth:`project`.
            edges: (2, E) from source to target; direction is kept.
            kinds: (E,) type of every edge.
        """
        drop = self.shape.dropout
        first = self.first(z, edges) if isinstance(self.first, GCNConv) else self.first(z)
        h = functional.dropout(functional.relu(first), drop, self.training)
        if self.second is not None:
            typed = functional.one_hot(kinds, self.shape.edge_types).to(h.dtype)
            h = h + functional.dropout(self.second(h, edges, typed), drop, self.training)
        return h

    def scores(self, h: Tensor, pairs: Tensor, f: Tensor) -> Tensor:
        """Logits (n, R) that a relation holds from ``pairs[:, 0]`` to ``pairs[:, 1]``.

        Args:
            h: (N, D).
            pairs: (n, 2) indices of nodes.
            f: (n, F) features of the pairs.
        """
        a, b = h[pairs[:, 0]], h[pairs[:, 1]]
        bilinear = torch.einsum("nd,rde,ne->nr", a, self.M, b) / math.sqrt(self.shape.hidden)
        return cast(Tensor, bilinear + self.pair(torch.cat([a, b, a - b, a * b, f], -1)))

    def all_scores(self, h: Tensor, pairs: Tensor, f: Tensor) -> Tensor:
        """As :meth:`scores`, in chunks and without gradients."""
        with torch.no_grad():
            parts = [
                self.scores(h, pairs[i : i + CHUNK], f[i : i + CHUNK])
                for i in range(0, len(pairs), CHUNK)
            ]
        return torch.cat(parts) if parts else torch.zeros(0, self.shape.relations)


# --- spans as tags -------------------------------------------------------------------------------


def bio(offsets: Any, spans: Sequence[tuple[int, int, int]]) -> Tensor:
    """Tags (T,): 0 outside, 1 + 2 k begin and 2 + 2 k inside of kind k.

    Args:
        offsets: (T, 2) characters of tokens.
        spans: start, end and kind, in characters; a token belongs to a span that it overlaps.
    """
    tags = torch.zeros(len(offsets), dtype=torch.long)
    for start, end, kind in spans:
        begun = False
        for t, (a, b) in enumerate(offsets):
            if a < end and b > start:
                tags[t] = 2 + 2 * kind if begun else 1 + 2 * kind
                begun = True
    return tags


def spans_of(offsets: Any, logits: Tensor) -> list[tuple[int, int, int, float]]:
    """Spans of the likeliest tags: start, end, kind and mean probability of its tokens.

    An inside without its begin begins a span.
    """
    if not len(logits):
        return []
    p = logits.softmax(-1)
    best = p.argmax(-1).tolist()
    found: list[tuple[int, int, int, float]] = []
    begun, kind, total = -1, -1, 0.0

    def close(at: int) -> None:
        if begun >= 0:
            end = int(offsets[at - 1][1])
            found.append((int(offsets[begun][0]), end, kind, total / (at - begun)))

    for t, tag in enumerate(best):
        inside = tag > 0 and tag % 2 == 0 and begun >= 0 and (tag - 1) // 2 == kind
        if not inside:
            close(t)
            begun, kind, total = (t, (tag - 1) // 2, 0.0) if tag else (-1, -1, 0.0)
        if tag:
            total += float(1 - p[t, 0])
    close(len(best))
    return found


def padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """Rows of different lengths as one tensor, ``value`` behind the shorter ones."""
    return nn.utils.rnn.pad_sequence(list(rows), True, value)
