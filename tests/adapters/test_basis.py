"""The same directions everywhere, or the vectors themselves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from core.adapters import basis as bases
from core.adapters.basis import Bases, basis_of, kept_basis
from core.errors import ModelError
from core.home import cache_folder
from core.layers.spectral import SpectralLinear
from core.quant.lowrank import exact_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def with_values(values, o=24, i=16):
    """A weight with these singular values."""
    U, _ = torch.linalg.qr(torch.randn(o, len(values), dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(i, len(values), dtype=torch.float64))
    return (U * torch.tensor(values, dtype=torch.float64)) @ V.t()


def learned(weight, triplets):
    """The weight with these directions after the same numbers were learned for them."""
    generator = torch.Generator().manual_seed(0)
    U, s, V = triplets
    residual = QuantizedWeight(Scheme(16), *weight.shape)
    residual.register_buffer("dense", weight.float() - (U.float() * s) @ V.float())
    layer = SpectralLinear(residual, triplets)
    for p in layer.trained:
        p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return layer.effective_weight()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_decomposition_is_that_of_the_library(shape):
    weight = torch.randn(*shape, dtype=torch.float64)
    U, s, V = exact_svd(weight, 10)
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(s, values[:10], rtol=1e-10)
    for k in range(10):
        assert torch.allclose(torch.outer(U[:, k], V[k]), torch.outer(u[:, k], v[k]), atol=1e-10)


def test_a_large_weight_is_decomposed_nearly_as_well(monkeypatch):
    weight = with_values([0.9**k for k in range(60)], 90, 70)
    exact = basis_of(weight, 12)
    monkeypatch.setattr(bases, "EXACT", 8)
    near = basis_of(weight, 12)
    assert torch.allclose(near.sigma, exact.sigma, rtol=1e-3)
    best, found = (float((weight - b.part()).norm()) for b in (exact, near))
    assert found < 1.001 * best


def test_another_algorithm_finds_the_same_function():
    weight = torch.randn(24, 40)
    ours = basis_of(weight, 10)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    theirs = (u[:, :10].half(), s[:10].float(), v[:10].half())
    assert torch.allclose(learned(weight, ours.triplets), learned(weight, theirs), atol=2e-3)
    assert not ours.ambiguous.any()


def test_signs_are_fixed():
    weight = torch.randn(24, 40)
    found = basis_of(weight, 10).V
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.equal(basis_of(weight.clone(), 10).V, found)


def test_directions_too_close_to_tell_apart_are_named_also_at_the_edge():
    close = 2 * (1 + 1e-12)
    weight = with_values([5.0, close, 2.0, 1.5, 1.0, 1.0, 0.5])
    assert basis_of(weight, 7).ambiguous.tolist() == [False, True, True, False, True, True, False]
    assert basis_of(weight, 5).ambiguous.tolist() == [False, True, True, False, True]


def turned(weight, directions):
    """What another machine may find: vectors 1 and 2 turned into each other, signs flipped."""
    found = bases_of_this_machine(weight, directions)
    U, V = found.U.clone(), found.V.clone()
    for t in (U.t(), V):
        t[1:3] = torch.stack([0.6 * t[1] + 0.8 * t[2], 0.8 * t[1] - 0.6 * t[2]])
        t[0] *= -1
    return bases.replace(found, U=U, V=V)


bases_of_this_machine = basis_of


def test_ambiguous_vectors_travel_with_the_run(monkeypatch, tmp_path):
    weight = with_values([5.0, 2.0, 2.0, 1.5, 1.0, 0.5])
    here = Bases({"l": 4}, additive=False)
    expected = learned(weight, here.of("l", weight).triplets)
    here.save(tmp_path)
    monkeypatch.setattr(bases, "kept_basis", turned)
    elsewhere = turned(weight, 4)
    assert not torch.allclose(learned(weight, elsewhere.triplets), expected, atol=1e-2)
    restored = Bases({"l": 4}, additive=False).load(tmp_path).of("l", weight)
    assert torch.allclose(learned(weight, restored.triplets), expected, atol=1e-4)


def test_only_ambiguous_vectors_are_written(tmp_path):
    found = Bases({"l": 4, "k": 4}, additive=False)
    found.of("l", with_values([5.0, 2.0, 2.0, 1.5, 1.0, 0.5]))
    found.of("k", torch.randn(24, 16))
    found.save(tmp_path)
    shapes = {k: tuple(t.shape) for k, t in load_file(tmp_path / bases.VECTORS).items()}
    assert shapes == {"l.index": (2,), "l.U": (24, 2), "l.V": (2, 16)}


def test_another_base_weight_is_refused(tmp_path):
    weight = torch.randn(24, 16)
    run = Bases({"l": 4}, additive=False)
    run.of("l", weight)
    run.save(tmp_path)
    known = Bases({"l": 4}, additive=False).load(tmp_path)
    known.of("l", weight)
    other = weight.clone()
    other[3, 4] += 1e-3
    with pytest.raises(ModelError, match="other weights"):
        known.of("l", other)


def test_other_directions_are_refused(monkeypatch, tmp_path):
    weight = torch.randn(24, 16)
    run = Bases({"l": 4}, additive=False)
    basis = run.of("l", weight)
    run.save(tmp_path)
    known = Bases({"l": 4}, additive=False).load(tmp_path)

    def unconverged(weight, directions):
        V = torch.nn.functional.normalize(basis.V.double() + 0.05 * torch.randn(4, 16), dim=1)
        counted = ~basis.ambiguous
        return bases.replace(
            basis, V=V.half(), fingerprint=bases._fingerprint(basis.U.double(), V, counted)
        )

    monkeypatch.setattr(bases, "kept_basis", unconverged)
    with pytest.raises(ModelError, match="directions came out otherwise"):
        known.of("l", weight)


def test_a_basis_is_computed_once_and_a_damaged_one_again(monkeypatch):
    weight = torch.randn(30, 20)
    first = kept_basis(weight, 6)
    (file,) = (f for f in (cache_folder() / "bases").iterdir() if first.digest[:32] in f.name)
    calls = []
    monkeypatch.setattr(bases, "basis_of", lambda *a: calls.append(a) or first)
    again = kept_basis(weight, 6)
    assert not calls
    for a, b in zip(first.triplets, again.triplets, strict=True):
        assert torch.equal(a, b)
    assert again.fingerprint == first.fingerprint
    file.write_bytes(b"nothing of use")
    kept_basis(weight, 6)
    assert len(calls) == 1


def test_the_least_recently_used_bases_are_forgotten(monkeypatch):
    monkeypatch.setattr(bases, "KEPT_BYTES", 6000)
    digests = [kept_basis(torch.randn(30, 20), 6).digest for _ in range(8)]
    files = list((cache_folder() / "bases").iterdir())
    assert 0 < sum(f.stat().st_size for f in files) <= 6000
    assert any(digests[-1][:32] in f.name for f in files)


def test_facts_are_kilobytes(tmp_path):
    run = Bases({"l": 4}, additive=False)
    run.of("l", torch.randn(24, 16))
    run.save(tmp_path)
    facts = json.loads((tmp_path / bases.BASIS).read_text("utf-8"))
    assert set(facts["l"]) == {"sha256", "fingerprint"}
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 1000
