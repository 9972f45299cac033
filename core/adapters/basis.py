"""The frozen singular directions of a base weight: computed once, and again wherever it is loaded.

A tuned model of method ``svd`` keeps no directions, only the numbers that scale them, so every
machine must find the same ones. The sign of a pair does not matter, for u_k v_k^T has none. What
matters is how far rounding turns a vector: about (precision) * sigma_1^2 / (distance of sigma_k^2
to the next). So weights are decomposed in float64, and directions closer than ``NEAR`` are called
*ambiguous* and written down with the run. With a bound of 1e-3 sigma_1, as float32 would need,
that is about half of the starter's directions; with this one it is none of them
(docs/explanation/methods/svd.md). Our interpretation.

What was computed is kept in the cache by the content of the weight.

Shapes: W (o, i), r directions; U (o, r), sigma (r,) descending, V (r, i).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.config import GB
from core.errors import ModelError
from core.home import cache_folder
from core.quant.lowrank import Triplets, exact_svd, truncated_svd
from core.quant.schemes import Scheme

EXACT = 2048  # smaller side up to which the decomposition is exact; above, randomized
ITERATIONS = 4  # of the randomized one: 0.04 % of the optimal residual is missed
NEAR = 1e-9  # of sigma_1^2: squared singular values closer than this cannot be told apart
KEPT_BYTES = 2 * GB  # of all bases in the cache
BASIS, VECTORS = "basis.json", "basis.safetensors"
VERSION = 1  # of what is written to the cache


@dataclass(frozen=True)
class Basis:
    """Directions of one weight; U and V in 16 bits.

    Attributes:
        ambiguous: (r,) whether another machine may find another vector.
        fingerprint: a number that other vectors would change, signs would not.
        digest: SHA-256 of the weight.
    """

    U: Tensor
    sigma: Tensor
    V: Tensor
    ambiguous: Tensor
    fingerprint: float
    digest: str

    @property
    def triplets(self) -> Triplets:
        """U, sigma and V."""
        return self.U, self.sigma, self.V

    def part(self) -> Tensor:
        """P = U diag(sigma) V (o, i) in float32: what is taken out of the weight."""
        return (self.U.float() * self.sigma) @ self.V.float()


def basis_of(weight: Tensor, directions: int) -> Basis:
    """The leading directions of a weight (o, i), with fixed signs.

    Args:
        weight: W (o, i).
        directions: r; at most min(o, i) are there.
    """
    r = min(directions, *weight.shape)
    wide = weight.double()
    if min(weight.shape) <= EXACT:
        U, s, V = exact_svd(wide, r + 1)
    else:
        U, s, V = truncated_svd(wide, r + 1, iterations=ITERATIONS)
    ambiguous = _ambiguous(s)[:r]
    U, s, V = U[:, :r], s[:r], V[:r]
    largest = V.gather(1, V.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    U, V = U * sign.t(), V * sign
    return Basis(
        U.half().contiguous(),
        s.float(),
        V.half().contiguous(),
        ambiguous,
        _fingerprint(U, V, ~ambiguous),
        digest_of(weight),
    )


def _ambiguous(sigma: Tensor) -> Tensor:
    """Which of these (r,) singular values have a neighbour too close; zeros have no direction."""
    squares = sigma.square()
    close = squares[:-1] - squares[1:] < NEAR * squares[0]
    none = close.new_zeros(1)
    return (torch.cat([none, close]) | torch.cat([close, none])) & (sigma > 0)


def _fingerprint(U: Tensor, V: Tensor, counted: Tensor) -> float:
    """Sum over k of w_k (a . u_k) (v_k . b) with fixed a (o,), b (i,) and w (r,) of length 1."""
    a, b, w = (_wave(n, k) for k, n in enumerate((U.shape[0], V.shape[1], U.shape[1])))
    return float((w * (a @ U) * (V @ b) * counted).sum())


def _wave(length: int, number: int) -> Tensor:
    steps = torch.arange(1, length + 1, dtype=torch.float64)
    return torch.nn.functional.normalize(torch.cos(steps * (1 + 2**0.5 * number)), dim=0)


def digest_of(weight: Tensor) -> str:
    """SHA-256 of a weight's shape and values."""
    digest = hashlib.sha256(str(tuple(weight.shape)).encode())
    digest.update(weight.detach().float().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def kept_basis(weight: Tensor, directions: int) -> Basis:
    """:func:`basis_of`, from the cache if it was computed before."""
    digest = digest_of(weight)
    folder = cache_folder() / "bases"
    file = folder / f"{digest[:32]}-{min(directions, *weight.shape)}-{VERSION}.safetensors"
    try:
        found = load_file(file)
        os.utime(file)  # the least recently used are forgotten first
        return Basis(
            found["U"],
            found["sigma"],
            found["V"],
            found["ambiguous"],
            float(found["fingerprint"]),
            digest,
        )
    except (OSError, SafetensorError, KeyError):
        basis = basis_of(weight.cpu(), directions)
    with contextlib.suppress(OSError):  # a full disk: it is computed anew next time
        _write(file, basis)
    return basis


def _write(file: Path, basis: Basis) -> None:
    file.parent.mkdir(exist_ok=True)
    names = ("U", "sigma", "V", "ambiguous")
    tensors = {name: getattr(basis, name).contiguous() for name in names}
    tensors["fingerprint"] = torch.tensor(basis.fingerprint, dtype=torch.float64)
    beside = file.with_suffix(f".{os.getpid()}")
    save_file(tensors, beside)
    beside.replace(file)
    room = KEPT_BYTES
    for old in sorted(file.parent.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True):
        room -= old.stat().st_size
        if room < 0:
            old.unlink(missing_ok=True)


class Bases:
    """The directions of all layers of one run, checked against what the run was trained with.

    Attributes:
        directions: r by layer.
        additive: form of the diagonal.
    """

    def __init__(self, directions: Mapping[str, int], *, additive: bool) -> None:
        self.directions, self.additive = directions, additive
        self._facts: dict[str, dict[str, object]] = {}
        self._vectors: dict[str, Tensor] = {}
        self._known = False

    def of(self, name: str, weight: Tensor) -> Basis:
        """The directions of the layer ``name`` with the weight W (o, i).

        Raises:
            ModelError: if the run was trained on another weight, or with other directions.
        """
        basis = kept_basis(weight, self.directions[name])
        if self._known:
            self._must_be_same(name, basis)
            return self._restored(name, basis)
        index = basis.ambiguous.nonzero()[:, 0]
        self._facts[name] = {"sha256": basis.digest, "fingerprint": basis.fingerprint}
        if len(index):
            self._vectors[f"{name}.index"] = index
            self._vectors[f"{name}.U"] = basis.U[:, index].contiguous()
            self._vectors[f"{name}.V"] = basis.V[index].contiguous()
        return basis

    def save(self, folder: Path) -> None:
        """Write what tells these directions from others, and the ambiguous ones themselves."""
        (folder / BASIS).write_text(json.dumps(self._facts, indent=1), "utf-8")
        save_file(self._vectors, folder / VECTORS)

    def load(self, folder: Path) -> Bases:
        """Read what :meth:`save` wrote; from now on, layers must agree with it."""
        self._facts = json.loads((folder / BASIS).read_text("utf-8"))
        self._vectors = load_file(folder / VECTORS)
        self._known = True
        return self

    def _must_be_same(self, name: str, basis: Basis) -> None:
        facts = self._facts.get(name, {})
        if facts.get("sha256") != basis.digest:
            raise ModelError(
                "The base model has other weights than the one that was tuned.",
                where=name,
                action="Use the base model that the run was trained on.",
                code="adapter.weights",
            )
        o, i = basis.U.shape[0], basis.V.shape[1]
        if abs(float(str(facts["fingerprint"])) - basis.fingerprint) > 1e-3 * (o * i) ** -0.5:
            raise ModelError(
                "The singular directions came out otherwise than where the run was trained.",
                where=name,
                action="Export the merged model on the computer that trained it, and use that.",
                code="adapter.directions",
            )

    def _restored(self, name: str, basis: Basis) -> Basis:
        """With the ambiguous vectors that the run was trained with."""
        index = self._vectors.get(f"{name}.index")
        if index is None:
            return basis
        U, V = basis.U.clone(), basis.V.clone()
        U[:, index], V[index] = self._vectors[f"{name}.U"], self._vectors[f"{name}.V"]
        return replace(basis, U=U, V=V)


def sha256_of_bases(folder: Path) -> str:
    """SHA-256 of all base weights of which :meth:`Bases.save` has written into ``folder``."""
    facts = json.loads((folder / BASIS).read_text("utf-8"))
    digests = "".join(str(facts[name]["sha256"]) for name in sorted(facts))
    return hashlib.sha256(digests.encode()).hexdigest()


def residual_of(weight: Tensor, basis: Basis, scheme: Scheme) -> Tensor:
    """R = W - P (o, i) as it goes to storage: float16 where it is kept at 16 bits, else float32.

    Float16 has three bits more than the base's usual bfloat16, so the rounding of R is finer than
    that of W was.
    """
    residual = weight.float() - basis.part().to(weight.device)
    return residual.half() if scheme.bits == 16 else residual
