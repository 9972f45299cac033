"""What a penalty on directions asks of a layer, whatever is trained in it.

Four kinds: a low-rank change W = Q + X Y of a stored weight (triplets; LoRA, LoftQ, PiSSA and
AdaLoRA of PEFT), the same with a magnitude for every output (DoRA), singular values and row scales
(method ``svd``), and a weight that trains itself. Of the first three no dense weight is made: what
the cosine of two rows needs follows from

    cos = (n + dot) / sqrt(n (n + 2 dot + q)),  dot = (X * P) 1,  q = (X G * X) 1,

P = W0 Y^T, G = Y Y^T and n_j = |w0_j|^2, where W - W0 = X Y; and a cosine of two changes from Grams
of factors. Rows of the stored weight are expanded some at a time. All of it is our interpretation;
see :mod:`core.objectives.direction`.

Shapes: o outputs, i inputs, R columns of X; g (o,) magnitudes; r singular directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from core.quant.weight import QuantizedWeight
from core.workspace import Frame, frame

ROWS = 512  # of a weight, expanded at a time: less than a step's own products need
SMALL = 1e-12  # a change whose square is smaller, relative to what it is made of, has no direction

State = dict[str, Tensor]  # what has to be remembered of a layer to know its weight again
Leaves = Sequence[Tensor]  # in the order of ``trained``


class Stored(Protocol):
    """A frozen weight (o, i) of which some rows can be had at a time."""

    out_features: int
    in_features: int

    def expanded(self, room: Frame, dtype: torch.dtype, rows: slice) -> Tensor:
        """Rows (k, i) in ``dtype``."""
        ...


class Adapted(Protocol):
    """A layer of triplets: W = Q + U diag(s m) V."""

    quantized: QuantizedWeight
    U: nn.Parameter
    s: nn.Parameter
    V: nn.Parameter
    m: Tensor

    @property
    def rank(self) -> int:
        """Triplets that are stored."""
        ...

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """U, s and V."""
        ...


class Directed(ABC):
    """One layer.

    Attributes:
        KEYS: of what :meth:`state` gives.
    """

    KEYS: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def trained(self) -> tuple[Tensor, ...]:
        """What is trained in it, as far as the penalty has a gradient for it."""

    @property
    def rank(self) -> int:
        """0 where there is nothing that could turn."""
        return 1

    @property
    def decaying(self) -> tuple[Tensor, ...]:
        """What balanced decay pulls back, of what is trained."""
        return self.trained

    @property
    def decays_to_start(self) -> bool:
        """Whether it is pulled back to where it began, instead of to 0."""
        return False

    @abstractmethod
    def state(self) -> State:
        """The weight as it is now."""

    def begin(self) -> State:
        """The weight as the start that others are compared with; what need not be kept is not."""
        return self.state()

    @abstractmethod
    def norms(self, start: State) -> Tensor:
        """Squared norms n (o,) of the rows of W0."""

    @abstractmethod
    def cosines(self, leaves: Leaves, start: State, norms: Tensor) -> Tensor:
        """Cosines (o,) between the rows of W, which ``leaves`` make, and of W0."""

    @abstractmethod
    def path(self, leaves: Leaves, then: State, start: State) -> Tensor | None:
        """Cosine between W - W0 and W' - W0, W' that of ``then``; None if one is about zero."""


# --- products with a stored weight ----------------------------------------------------------------


def parts(stored: Stored) -> Iterator[slice]:
    """Rows of a weight that are expanded together."""
    few = getattr(stored, "rows_at_once", ROWS)
    for a in range(0, stored.out_features, few):
        yield slice(a, min(a + few, stored.out_features))


class _FrozenProduct(torch.autograd.Function):
    """Q Y^T (o, R) of a stored weight and Y (R, i); some rows of Q at a time are expanded."""

    @staticmethod
    def forward(ctx: Any, Y: Tensor, stored: Stored) -> Tensor:
        ctx.stored = stored
        found = []
        for rows in parts(stored):
            with frame() as room:
                found.append(stored.expanded(room, Y.dtype, rows) @ Y.t())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, dP: Tensor) -> tuple[Tensor, None]:
        dY = dP.new_zeros(dP.shape[1], ctx.stored.in_features)
        for rows in parts(ctx.stored):
            with frame() as room:
                dY.addmm_(dP[rows].t(), ctx.stored.expanded(room, dP.dtype, rows))
        return dY, None


def frozen_product(stored: Stored, Y: Tensor) -> Tensor:
    """Q Y^T (o, R), with a gradient for Y (R, i)."""
    product: Tensor = _FrozenProduct.apply(Y, stored)  # type: ignore[no-untyped-call]
    return product


@dataclass
class Reference:
    """A layer's start: U0 diag(s0 m0) (o, R0), V0 (R0, i), without triplets that are zero."""

    U: Tensor
    V: Tensor

    @staticmethod
    def of(layer: Adapted) -> Reference:
        """The layer as it is now."""
        return Reference.without_zeros(layer.U.data * (layer.s.data * layer.m), layer.V.data)

    @staticmethod
    def without_zeros(X: Tensor, Y: Tensor) -> Reference:
        """X (o, R) and Y (R, i), less the columns of X that are zero."""
        used = X.ne(0).any(0)
        return Reference(X[:, used].clone(), Y[used].clone())


def row_norms(stored: Stored, start: Reference) -> Tensor:
    """Squared norms (o,) of the rows of W0 = Q + U0 V0, some rows at a time."""
    found = []
    for rows in parts(stored):
        with frame() as room:
            weight = stored.expanded(room, start.U.dtype, rows) + start.U[rows] @ start.V
            found.append(weight.square().sum(1))
    return torch.cat(found)


def cosines_of_change(X: Tensor, P: Tensor, gram: Tensor, norms: Tensor) -> Tensor:
    """Cosines (o,) between rows of W0 and W0 + X Y.

    Args:
        X: (o, R).
        P: W0 Y^T (o, R).
        gram: Y Y^T (R, R).
        norms: n (o,).
    """
    dot = (X * P).sum(1)
    q = ((X @ gram) * X).sum(1)
    n = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return (n + dot) / (n * (n + 2 * dot + q).clamp_min(1e-12 * n)).sqrt()


def row_cosines(
    scaled: Tensor, V: Tensor, stored: Stored, start: Reference, norms: Tensor
) -> Tensor:
    """Cosines (o,) between the rows of W and W0; see the head of this file.

    Args:
        scaled: U diag(s m) (o, R).
        V: (R, i).
        stored: Q (o, i).
        start: U0 diag(s0 m0), V0.
        norms: n (o,).
    """
    X, Y = torch.cat([scaled, -start.U], 1), torch.cat([V, start.V], 0)
    P = frozen_product(stored, Y) + start.U @ (start.V @ Y.t())
    return cosines_of_change(X, P, Y @ Y.t(), norms)


# --- changes --------------------------------------------------------------------------------------

Factors = tuple[Tensor, Tensor]  # X (o, R) and Y (R, i)


def inner(a: Factors, b: Factors) -> Tensor:
    """Inner product of the matrices X Y and X' Y', given as factors, in double precision.

    A change is the difference of two products that are nearly alike, of which single precision
    would leave little.
    """
    (X, Y), (X_, Y_) = ((t.double() for t in factors) for factors in (a, b))
    return ((X.t() @ X_) * (Y @ Y_.t())).sum()


def change_cosine(change: Factors, before: Factors) -> Tensor | None:
    """Cosine between two matrices given as factors; None if one is about zero."""
    squares = inner(change, change), inner(before, before)
    for square, factors in zip(squares, (change, before), strict=True):
        X, Y = (t.detach().double() for t in factors)
        made_of = float((X.square().sum(0) * Y.square().sum(1)).sum())
        if float(square.detach()) <= SMALL * made_of:
            return None
    return inner(change, before) / (squares[0] * squares[1]).sqrt()


def path_cosine(now: Factors, then: Factors, start: Reference) -> Tensor | None:
    """Cosine between the changes since the start, now and at an earlier time.

    Args:
        now: U diag(s m) (o, R) and V (R, i).
        then: the same at an earlier time.
        start: U0 diag(s0 m0) and V0.

    Returns:
        A scalar, or None if one of the changes is about zero.
    """
    change, before = (
        (torch.cat([X, -start.U], 1), torch.cat([Y, start.V], 0)) for X, Y in (now, then)
    )
    return change_cosine(change, before)


# --- kinds of layers ------------------------------------------------------------------------------


class LowRank(Directed):
    """A stored weight with a low-rank change: W = Q + X Y."""

    KEYS: ClassVar[tuple[str, ...]] = ("U", "V")

    @property
    @abstractmethod
    def stored(self) -> Stored:
        """Q (o, i)."""

    @abstractmethod
    def factors(self, leaves: Leaves) -> Factors:
        """X (o, R) and Y (R, i) of what is trained."""

    @torch.no_grad()
    def state(self) -> State:
        """X and Y, less what is zero."""
        found = Reference.without_zeros(*self.factors(tuple(p.detach() for p in self.trained)))
        return {"U": found.U, "V": found.V}

    def norms(self, start: State) -> Tensor:
        """See the base class."""
        return row_norms(self.stored, Reference(start["U"], start["V"]))

    def cosines(self, leaves: Leaves, start: State, norms: Tensor) -> Tensor:
        """See the base class."""
        reference = Reference(start["U"], start["V"])
        return row_cosines(*self.factors(leaves), self.stored, reference, norms)

    def path(self, leaves: Leaves, then: State, start: State) -> Tensor | None:
        """See the base class."""
        reference = Reference(start["U"], start["V"])
        return path_cosine(self.factors(leaves), (then["U"], then["V"]), reference)


class Triplets(LowRank):
    """A layer of ours: X = U diag(s m), Y = V."""

    def __init__(self, layer: Adapted) -> None:
        """Look at ``layer``, whose parameters may be replaced at any time."""
        self.layer = layer

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """U, s and V."""
        return self.layer.trained

    @property
    def rank(self) -> int:
        """Triplets that are stored."""
        return self.layer.rank

    @property
    def stored(self) -> Stored:
        """Q."""
        return self.layer.quantized

    def factors(self, leaves: Leaves) -> Factors:
        """See the base class."""
        U, s, V = leaves
        return U * (s * self.layer.m), V


class Scaled(LowRank):
    """A low-rank change whose rows have a trained length: W = diag(a) (Q + X Y), a = g / |Q + X Y|.

    The last of what is trained is g. A positive g turns no row, so that the cosines of rows are
    those of Q + X Y. The change W - W0 = diag(a - a0) Q + [diag(a) X, -diag(a0) X0] [Y; Y0] is not
    of low rank, but inner products of two such need only |Q_j|^2 and Q Y^T beside the factors.
    """

    KEYS: ClassVar[tuple[str, ...]] = ("U", "V", "a")
    _squares: Tensor | None = None

    @abstractmethod
    def low_rank(self, leaves: Leaves) -> Factors:
        """X and Y without the scale, of what is trained before g."""

    def factors(self, leaves: Leaves) -> Factors:
        """See the base class; the scale left out."""
        return self.low_rank(leaves[:-1])

    @torch.no_grad()
    def state(self) -> State:
        """X, Y and a."""
        leaves = tuple(p.detach() for p in self.trained)
        return {**super().state(), "a": self._scale(leaves)}

    def cosines(self, leaves: Leaves, start: State, norms: Tensor) -> Tensor:
        """See the base class."""
        return super().cosines(leaves, start, norms) * leaves[-1].detach().sign()

    def path(self, leaves: Leaves, then: State, start: State) -> Tensor | None:
        """See the base class."""
        X, Y = self.factors(leaves)
        now = self._change(self._scale(leaves), X, Y, start)
        before = self._change(then["a"], then["U"], then["V"], start)
        squares = self._inner(now, now), self._inner(before, before)
        scale = float(self._row_squares().sum())
        if any(float(s.detach()) <= SMALL * scale for s in squares):
            return None
        return self._inner(now, before) / (squares[0] * squares[1]).sqrt()

    def _row_squares(self) -> Tensor:
        """|Q_j|^2 (o,), made once."""
        if self._squares is None:
            with torch.no_grad():
                wide = self.trained[0]
                none = wide.new_zeros(self.stored.out_features, 0)
                start = Reference(none.float(), wide.new_zeros(0, self.stored.in_features).float())
                self._squares = row_norms(self.stored, start)
        return self._squares

    def _scale(self, leaves: Leaves) -> Tensor:
        """The scale a (o,) = g / |Q + X Y|."""
        X, Y = self.factors(leaves)
        dot = (X * frozen_product(self.stored, Y)).sum(1)
        q = ((X @ (Y @ Y.t())) * X).sum(1)
        n = self._row_squares().to(X.dtype)
        return leaves[-1] / (n + 2 * dot + q).clamp_min(1e-12).sqrt()

    def _change(self, a: Tensor, X: Tensor, Y: Tensor, start: State) -> tuple[Tensor, ...]:
        """Of a change diag(b) Q + X Y: b (o,), X (o, R), Y (R, i), Q Y^T (o, R); in double."""
        a, a0 = a.double(), start["a"].double()
        left = torch.cat([a[:, None] * X.double(), -a0[:, None] * start["U"].double()], 1)
        right = torch.cat([Y, start["V"]], 0)
        return a - a0, left, right.double(), frozen_product(self.stored, right).double()

    def _inner(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
        (b, X, Y, P), (b_, X_, Y_, P_) = one, other
        crossed = (b * (X_ * P_).sum(1) + b_ * (X * P).sum(1)).sum()
        return (b * b_ * self._row_squares().double()).sum() + crossed + inner((X, Y), (X_, Y_))


class Singular(Protocol):
    """A layer of method ``svd``: W = R + diag(1 + c) U diag(g) V, see core/layers/spectral.py."""

    quantized: QuantizedWeight
    additive: bool
    U: Tensor
    sigma: Tensor
    V: Tensor
    d: Tensor
    c: Tensor


class SingularValues(Directed):
    """A layer of method ``svd``: X = diag(1 + c) U diag(g) - U diag(sigma), Y = V.

    V is frozen, so that P and G have no gradient; the start, d = c = 0, is no state to be kept.
    """

    KEYS: ClassVar[tuple[str, ...]] = ("d", "c")

    def __init__(self, layer: Singular) -> None:
        """Look at ``layer``."""
        self.layer = layer

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """Diagonal d (r,) and row scales c (o,)."""
        return self.layer.d, self.layer.c

    def state(self) -> State:
        """Both, as they are now."""
        return {"d": self.layer.d.detach().clone(), "c": self.layer.c.detach().clone()}

    def begin(self) -> State:
        """Nothing: it is where d and c are 0."""
        return {}

    def norms(self, start: State) -> Tensor:
        """See the base class."""
        return row_norms(self.layer.quantized, Reference(self._first(), self.layer.V.float()))

    def cosines(self, leaves: Leaves, start: State, norms: Tensor) -> Tensor:
        """See the base class."""
        with torch.no_grad():
            V = self.layer.V.to(leaves[0].dtype)
            gram = V @ V.t()
            P = frozen_product(self.layer.quantized, V) + self._first().to(V) @ gram
        return cosines_of_change(self._change(*leaves), P, gram, norms)

    def path(self, leaves: Leaves, then: State, start: State) -> Tensor | None:
        """See the base class."""
        V = self.layer.V.double()
        change = self._change(*(x.double() for x in leaves))
        return change_cosine((change, V), (self._change(then["d"].double(), then["c"].double()), V))

    def _first(self) -> Tensor:
        """U diag(sigma) (o, r)."""
        return self.layer.U.float() * self.layer.sigma.float()

    def _change(self, d: Tensor, c: Tensor) -> Tensor:
        """diag(1 + c) U diag(g) - U diag(sigma) (o, r), without a difference of like numbers."""
        sigma = self.layer.sigma.to(d.dtype)
        gain = d if self.layer.additive else sigma * torch.expm1(d)  # g - sigma
        return self.layer.U.to(d.dtype) * (gain + c[:, None] * (sigma + gain))


class Dense(Directed):
    """A weight that trains itself; there is nothing smaller to compute with."""

    KEYS: ClassVar[tuple[str, ...]] = ("W",)

    def __init__(self, module: Any, *, transposed: bool = False) -> None:
        """Look at the ``weight`` of a module; ``transposed``: it lies there as (i, o)."""
        self.module, self.transposed = module, transposed

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """W."""
        weight: Tensor = self.module.weight
        return (weight,)

    @property
    def decays_to_start(self) -> bool:
        """A weight that decayed to 0 would forget the base model."""
        return True

    def state(self) -> State:
        """W."""
        return {"W": self.module.weight.detach().clone()}

    def norms(self, start: State) -> Tensor:
        """See the base class."""
        return self._rows(start["W"]).square().sum(1)

    def cosines(self, leaves: Leaves, start: State, norms: Tensor) -> Tensor:
        """See the base class."""
        W, first = self._rows(leaves[0]), self._rows(start["W"])
        n = norms.clamp_min(torch.finfo(norms.dtype).tiny)
        own = W.square().sum(1).clamp_min(1e-12 * n)
        return (W * first).sum(1) / (n * own).sqrt()

    def path(self, leaves: Leaves, then: State, start: State) -> Tensor | None:
        """See the base class."""
        change, before = leaves[0] - start["W"], then["W"] - start["W"]
        squares = change.square().sum(), before.square().sum()
        if any(float(s.detach()) == 0 for s in squares):
            return None
        return (change * before).sum() / (squares[0] * squares[1]).sqrt()

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.t() if self.transposed else weight


def directed(layer: Any) -> Directed:
    """What a penalty sees of a layer: of ours by what they train, of others what is given."""
    if isinstance(layer, Directed):
        return layer
    return SingularValues(layer) if "d" in getattr(layer, "TRAINED", ()) else Triplets(layer)
