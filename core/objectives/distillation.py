"""Terms that pull a student towards its teacher: outputs, features, attention relations.

Sources: generalised Jensen-Shannon divergence, Agarwal et al. 2024 (GKD, arXiv 2306.13649); feature
matching after Romero et al. 2015 (arXiv 1412.6550); relations of queries, keys and values, Wang et
al. 2021 (MiniLMv2, arXiv 2012.15828). How they are put together is our interpretation.

Shapes: N tokens, v = vocabulary, k = teacher tokens that are kept, T tokens of a row, A relation
heads; d_S and d_T hidden sizes of student and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MSE_SHARE = 0.1  # of the squared difference beside the angle


def divergence(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence (N,) of log-probabilities (N, v), nats.

        JSD_b(T, S) = b KL(T || M) + (1 - b) KL(S || M),   M = b T + (1 - b) S

    with the ends b = 0: KL(T || S) and b = 1: KL(S || T), as in TRL's ``generalized_jsd_loss``. The
    mixture itself goes to 0 at both ends, so that the ends are not its limits.
    """
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixed = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
    return beta * _kl(teacher, mixed) + (1 - beta) * _kl(student, mixed)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (N,) of log-probabilities (N, v)."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def with_tail(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    """Keep some tokens and put all others together: (N, v) and ids (N, k < v) to (N, k + 1).

    What is put together can only lose information: a divergence of such distributions is never
    larger than that of the whole ones.
    """
    kept = log_probabilities.gather(-1, ids)
    rest = log_probabilities.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([kept, rest], -1)


def largest_with_tail(log_probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k < v likeliest tokens (N, k), and log-probabilities of them and the tail (N, k + 1)."""
    ids = log_probabilities.topk(min(k, log_probabilities.shape[-1] - 1), -1).indices
    return ids, with_tail(log_probabilities, ids)


def feature_distance(student: Tensor, teacher: Tensor, projection: Tensor | None) -> Tensor:
    """Distance of hidden states (T, d_S) and (T, d_T) of one pair of layers, mean over tokens.

        1 - cos(LN(P F_S), LN(F_T)) + 0.1 |P F_S - F_T|^2 / mean |F_T|^2

    Layer norms have no weights here. The squares are divided by the teacher's own size (ours: a few
    hidden units of a language model are hundreds of times larger than the rest).

    Args:
        student: hidden states after a layer of the student.
        teacher: hidden states after its layer of the teacher.
        projection: P (d_T, d_S); None: the identity.
    """
    found = student.float()
    if projection is not None:
        found = found @ projection.float().t()
    wanted = teacher.float()
    size = (wanted.shape[-1],)
    cosine = F.cosine_similarity(F.layer_norm(found, size), F.layer_norm(wanted, size), dim=-1)
    squares = (found - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)
    return (1 - cosine).mean() + MSE_SHARE * squares


def relation_heads(most: int, *widths: int) -> int:
    """The largest number of relation heads, at most ``most``, that divides all widths."""
    return next(a for a in range(most, 0, -1) if all(width % a == 0 for width in widths))


def relation_distance(
    student: Sequence[Tensor], teacher: Sequence[Tensor], sees: Tensor, most_heads: int = 12
) -> Tensor:
    """Distance of the self-attention relations of one pair of layers, mean over queries.

    All heads of the queries are laid side by side and split anew into A relation heads, so that
    numbers of heads may differ; likewise keys and values:

        R = softmax(X X^T / sqrt(width of a relation head)),   KL(R_T || R_S)

    Args:
        student: what its query, key and value projections give, each (T, width).
        teacher: likewise; widths may differ from the student's.
        sees: (T, T), true where a query may look at a key.
        most_heads: A, or the next smaller number that divides the widths.
    """
    total = torch.zeros((), device=sees.device)
    for mine, theirs in zip(student, teacher, strict=True):
        heads = relation_heads(most_heads, mine.shape[-1], theirs.shape[-1])
        p, q = _relations(theirs, heads, sees), _relations(mine, heads, sees)
        terms = torch.where(sees, p.exp() * (p - q), 0.0)
        total = total + terms.sum(-1).mean()
    return total / len(student)


def _relations(x: Tensor, heads: int, sees: Tensor) -> Tensor:
    """Log of the relations (A, T, T) of x (T, width); 0 where a query may not look."""
    split = x.float().view(x.shape[0], heads, -1).transpose(0, 1)  # (A, T, width / A)
    scores = split @ split.transpose(1, 2) / math.sqrt(split.shape[-1])
    logs = scores.masked_fill(~sees, -torch.inf).log_softmax(-1)
    return logs.masked_fill(~sees, 0.0)
