"""Bits that move while training: measure again, choose again, and keep what does no harm.

The plan chose bits for the base model. After a third and two thirds of the steps the question is
asked again, of the model as it is now and with the bytes that removed ranks have freed:

1. The present model (stored weight and adapter) is measured on the class's text as the base was for
   the plan (core/plan/profile.py); every width is priced at the layer's present rank. W comes from
   disk, one layer at a time.
2. The same knapsack picks bits under the same bytes. Ranks stay.
3. A layer that changes computes T = Q + U diag(s m) V. With fewer bits Q' is T rounded, with more
   bits it is W rounded, or W itself; (U, s, V) are fitted anew to T - Q' at the present rank, in
   the measure of its inputs and sensitivities, and their moments start again.
4. Changes are transactions: the loss on examples that nothing was fitted to may not rise by more
   than ``RISE`` above the least seen in this round, and the ledger must balance; else layers are
   taken back, bit for bit. Several are judged at once, as many as can be taken back within the
   plan's bytes; where they do harm, each half is tried alone.

What to do is not said in the paper's abstract; all of this is our interpretation. The loss judges,
not the distance to the state before: more bits are there to change the function for the better.

Shapes: N tokens, o outputs, i inputs, r rank.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import modelload, workspace
from core.adapters import store
from core.adapters.start import stored_weight
from core.assemble import LanguageModel, assemble, name_of, skeleton
from core.data.packing import Row
from core.device import release
from core.events import BitsChanged, Note, Requantized, RolledBack
from core.layers.lora import AdapterLinear
from core.plan.allocate import solve
from core.plan.measured import MeasuredLinear, MomentsOfLast, backpropagate
from core.plan.memory import StepBytes
from core.plan.planner import SHARE
from core.plan.profile import RANKS, WIDTHS, ErrorPrice, Price, Pricer
from core.plan.types import Plan
from core.quant.gptq import round_with_feedback
from core.quant.lowrank import product_svd, truncated_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.train.ledger import LedgerError
from core.train.loop import Trainer
from core.train.optimizers import swap_parameter

RISE = 0.02  # nats an answer token that a round may cost
LEAST_TOKENS = 256  # of the class's text; below, the statistics are too poor to choose on

Rows = tuple[Tensor, Tensor, Tensor]
Read = Callable[[str], Tensor]


def due(steps: int) -> set[int]:
    """Steps of a run after which bits may change."""
    return {steps // 3, 2 * steps // 3} - {0, steps}


@dataclass(frozen=True)
class Proposal:
    """A layer in other bits, rounded and fitted; its tensors lie in ``file``.

    ``gain``: predicted nats an answer token; ``grows``: bytes, negative for fewer bits.
    """

    name: str
    from_bits: int
    to_bits: int
    gain: float
    grows: int
    file: Path


@dataclass
class Requantizer:
    """Changes the bits of a run's layers when it is time to (see the head of this file).

    Attributes:
        out: folder of the run.
        path: folder of the base model.
        plan: the run's plan.
        group: weights that share a scale.
        row_of: the class's text to measure on, of about so many tokens: ids, positions, labels.
        probe: rows of the class's other examples, on which changes are judged.
        step_bytes: what a pass of so many tokens holds.
        tokens: of the class's text, if they fit.
    """

    out: Path
    path: Path
    plan: Plan
    group: int
    row_of: Callable[[int], Rows]
    probe: Sequence[Row]
    step_bytes: StepBytes
    tokens: int

    def __call__(self, trainer: Trainer) -> None:
        """Change bits if this step is one of those that are due, and there is room to measure."""
        if trainer.progress.step not in due(trainer.steps):
            return
        tokens = self.tokens
        while tokens > LEAST_TOKENS and not self.fits(trainer, len(self.row_of(tokens)[0])):
            tokens //= 2
        row = self.row_of(tokens)
        if not self.fits(trainer, len(row[0])):
            text = "There is no room to measure the model again; the bits stay as they are."
            trainer.emit(Note(text, "train.requantize_room"))
            return
        workspace.forget()  # the next step makes it anew
        try:
            self._round(trainer, row)
        finally:
            workspace.forget()
            release()

    def fits(self, trainer: Trainer, tokens: int) -> bool:
        """Whether measuring the present model on so many tokens fits into the budget.

        It stands between two steps: stored weights, adapters and moments are there, gradients and
        activations are not.
        """
        if not self.plan.budget_bytes:
            return True
        largest = max(x.out_features * x.in_features for x in trainer.layers.values())
        widest = max(x.in_features for x in trainer.layers.values())
        # As for the plan (core/plan/planning.py), and T, its product with the adapter, and W.
        pricing = 4 * (9 * largest + 5 * widest * widest)
        parts, now = self.plan.parts, trainer.held()
        there = parts["process"] + parts["embeddings"]
        small: int = sum(p.nbytes for p in trainer.model.model.parameters() if not p.requires_grad)
        peak = there + now.total - now.gradients + small
        peak += self.step_bytes.at(tokens, self.step_bytes.layers) + pricing
        return bool(peak <= SHARE * self.plan.budget_bytes)

    def _round(self, trainer: Trainer, row: Rows) -> None:
        """Price, choose, and try what was chosen, layer by layer."""
        step = trainer.progress.step
        with tempfile.TemporaryDirectory(dir=self.out, prefix="requantize-") as name:
            folder = Path(name)
            proposals = self.propose(trainer, row, folder)
            kept = folder / "kept"
            kept.mkdir()
            bits = _Trial(trainer, self.probe, self.group, self._read(trainer), kept).all(proposals)
            if bits:
                store.save_requantized(self.out, step, bits, kept)
                trainer.progress.requantized.append(step)
                trainer.renew(bits)

    def propose(self, trainer: Trainer, row: Rows, folder: Path) -> list[Proposal]:
        """Choose bits anew; round and fit the layers whose bits change, into ``folder``."""
        model, order = present_model(trainer, self.path)
        read = self._read(trainer)
        prices, sensitivity = reprice(model, order, row, self.plan.scheme, self.group, read)
        now = trainer.held()
        ledger = trainer.ledger
        budget = now.frozen + (ledger.room(now) if ledger else 0)
        ranks = {n: active_rank(trainer, n) for n in order}
        bits = {n: x.quantized.scheme.bits for n, x in trainer.layers.items()}
        wanted = choose(prices, bits, ranks, self.group, budget)
        moments = MomentsOfLast()
        made: list[Proposal] = []

        @torch.no_grad()
        def hear(layer: MeasuredLinear, present: Tensor, x: Tensor) -> None:
            name = layer.name
            to, of = wanted[name], moments.of(x)
            source = present if to < bits[name] else read(name)
            stored = rounded(source, Scheme(to, self.group), of)
            error = present - stored.dequantize()
            tensors = dict(stored.named_buffers())
            if to > bits[name] and to >= 8:
                tensors = {}  # made of the base model again, as the plan's wide layers are
            tensors["U"], tensors["V"] = fit(
                error, sensitivity[name].to(error.device), of.lower, ranks[name]
            )
            file = folder / f"{name}.safetensors"
            save_file({k: t.contiguous().cpu() for k, t in tensors.items()}, file)
            price = prices[name]
            gain = price_at(price, bits[name], ranks[name]) - price_at(price, to, ranks[name])
            grows = stored.stored_bytes() - trainer.layers[name].quantized.stored_bytes()
            made.append(Proposal(name, bits[name], to, gain, grows, file))

        for name in wanted:
            order[name].on_forward = hear
        if wanted:
            with torch.no_grad():
                model.hidden(*(t.to(model.device) for t in row[:2]))
        return made

    def _read(self, trainer: Trainer) -> Read:
        """Weights W (o, i) of the base model by layer, from disk."""
        weights = modelload.Weights(self.path)

        def read(name: str) -> Tensor:
            weight = weights[f"{name}.weight"]
            return weight.t() if trainer.layers[name].transposed else weight

        return read


def active_rank(trainer: Trainer, name: str) -> int:
    """Triplets of a layer that are to stay; those that fade away give their rank up."""
    if trainer.ranks is not None:
        return int(trainer.ranks.tracks[name].target.sum())
    return trainer.layers[name].active_rank


def present_model(trainer: Trainer, path: Path) -> tuple[LanguageModel, dict[str, MeasuredLinear]]:
    """The model that trains, with layers that show what passes through them.

    Each makes its weight T (o, i) from the trainer's layer when it is used, and forgets it; tables
    are the trainer's own. Only norms and biases are read again.
    """
    live = cast(LanguageModel, trainer.model)  # bits change under adapters alone
    empty = skeleton(path)
    embedding = name_of(empty, empty.get_input_embeddings())
    order: dict[str, MeasuredLinear] = {}

    def linear(name: str, _read: Any, bias: Tensor | None, transposed: bool) -> MeasuredLinear:
        order[name] = MeasuredLinear(name, trainer.layers[name].effective_weight, bias, transposed)
        return order[name]

    def table(name: str) -> QuantizedWeight:
        found: QuantizedWeight = live.model.get_input_embeddings().table
        return found if name == f"{embedding}.weight" else live.head

    weights = modelload.Weights(path, empty)
    model = assemble(empty, weights, linear, table=table, device=live.device, dtype=live.dtype)
    return model, order


def reprice(
    model: LanguageModel,
    order: Mapping[str, MeasuredLinear],
    row: Rows,
    codebook: str,
    group: int,
    read: Read,
) -> tuple[dict[str, Price], dict[str, Tensor]]:
    """Prices of storing each W in other bits, by what the present model does with the row (T,).

    Returns:
        Prices and sensitivities D^1/2 (o,) by layer.
    """
    ids, positions, labels = (t.to(model.device) for t in row)
    learned = int((labels[1:] != -100).sum())
    price = ErrorPrice(codebook=codebook, group=group)
    pricer = Pricer(dict(order), price, WIDTHS, learned, lambda event: None)

    def hear(layer: MeasuredLinear, _present: Tensor, x: Tensor, d: Tensor) -> None:
        pricer.price(layer, read(layer.name).to(x), x, d)

    for layer in order.values():
        layer.on_backward = hear
    backpropagate(model, ids, positions, labels)
    for layer in order.values():
        layer.on_backward = None
    index = {name: k for k, name in enumerate(order)}
    return pricer.prices, {n: pricer.kept[f"{index[n]}.sensitivity"] for n in order}


def price_at(price: Price, bits: int, rank: int) -> float:
    """Predicted nats lost at any rank: between those that are priced, on a straight line."""
    return float(np.interp(rank, RANKS, price.cost[bits]))


def choose(
    prices: Mapping[str, Price],
    bits: Mapping[str, int],
    ranks: Mapping[str, int],
    group: int,
    budget: float,
) -> dict[str, int]:
    """Bits of the layers that should change, at their present ranks, under ``budget`` bytes.

    A change is charged its share of what a round may cost, so that none is made for less than can
    be judged.
    """
    widths = sorted(set.intersection(*(set(p.cost) for p in prices.values())))
    cost = np.array([[price_at(p, b, ranks[n]) for b in widths] for n, p in prices.items()])
    cost += np.array([[(b != bits[n]) * RISE / len(prices) for b in widths] for n in prices])
    size = np.array(
        [
            [Scheme(b, group).stored_bytes(p.out_features, p.in_features) for b in widths]
            for p in prices.values()
        ],
        dtype=float,
    )
    found = solve(cost, size, budget)
    if found is None:
        return {}
    picked = {n: widths[k] for n, k in zip(prices, found.picks, strict=True)}
    return {n: b for n, b in picked.items() if b != bits[n]}


def rounded(weight: Tensor, scheme: Scheme, moments: Any) -> QuantizedWeight:
    """Store ``weight`` (o, i): with error feedback below 8 bits, else to nearest."""
    if scheme.bits >= 8:
        return QuantizedWeight.from_dense(weight, scheme)
    found = round_with_feedback(
        weight.float(), moments.gram, (scheme.bits,), scheme.group, upper=moments.inverse_upper
    )
    return found[scheme.bits].stored(scheme, weight.shape[1])


def fit(error: Tensor, sensitivity: Tensor, lower: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (o, r) and V (r, i), rows of length 1, for which U V is closest to ``error`` (o, i).

    Close means |D^1/2 (E - U V) L|, D^1/2 = ``sensitivity`` (o,), L = ``lower`` (i, i).
    """
    rank = min(rank, *error.shape)
    if not rank:
        return error.new_zeros(error.shape[0], 0), error.new_zeros(0, error.shape[1])
    u, s, v = truncated_svd((error * sensitivity[:, None]) @ lower, rank, iterations=4)
    V = torch.linalg.solve_triangular(lower, v, upper=False, left=False)
    left, values, right = product_svd(u * s / sensitivity[:, None], V)
    return left * values, right


class Snapshot:
    """A layer as it was, tensor for tensor: nothing of it is copied, so going back is exact."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        """Remember the layer ``name``."""
        self.trainer, self.name = trainer, name
        self.layer: AdapterLinear = trainer.layers[name]
        self.quantized, self.mask = self.layer.quantized, self.layer.m
        self.factors = {key: getattr(self.layer, key) for key in ("U", "s", "V")}
        state = trainer.optimizer.state
        self.moments = {key: state[p] for key, p in self.factors.items() if p in state}
        self.track = trainer.ranks.tracks[name] if trainer.ranks else None

    @property
    def nbytes(self) -> int:
        """Bytes that stay until the change is kept."""
        moments = [v for state in self.moments.values() for v in state.values()]
        tensors = [*self.factors.values(), *(v for v in moments if isinstance(v, Tensor))]
        return self.quantized.stored_bytes() + int(sum(t.nbytes for t in tensors))

    def change(self, stored: QuantizedWeight, U: Tensor, V: Tensor) -> None:
        """Give the layer other codes and triplets; moments and scores begin anew."""
        track = self.track
        kept = torch.arange(self.layer.rank) if track is None else track.target.nonzero()[:, 0]
        self.layer.quantized = stored
        self.layer.set_triplets(U, torch.ones(U.shape[1]), V)
        for key, before in self.factors.items():
            self.trainer.optimizer.state.pop(before, None)
            swap_parameter(self.trainer.optimizer, before, getattr(self.layer, key))
        if self.trainer.ranks is not None:
            self.trainer.ranks.renew(self.name, kept[: U.shape[1]])

    def restore(self) -> None:
        """Put everything back."""
        optimizer = self.trainer.optimizer
        for key, before in self.factors.items():
            after = getattr(self.layer, key)
            optimizer.state.pop(after, None)
            swap_parameter(optimizer, after, before)
            setattr(self.layer, key, before)
            if key in self.moments:
                optimizer.state[before] = self.moments[key]
        self.layer.quantized, self.layer.m = self.quantized, self.mask
        if self.trainer.ranks is not None and self.track is not None:
            self.trainer.ranks.tracks[self.name] = self.track


@dataclass
class _Done:
    """A proposal that is applied and can still be taken back."""

    proposal: Proposal
    tensors: dict[str, Tensor]
    before: Snapshot


class _Trial:
    """Tries proposals on the trainer, several at a time; keeps those that do no harm."""

    def __init__(
        self, trainer: Trainer, probe: Sequence[Row], group: int, read: Read, kept: Path
    ) -> None:
        self.trainer, self.probe, self.group = trainer, probe, group
        self.read, self.kept = read, kept
        self.loss = self.least = trainer.mean_loss(probe)
        self.bits: dict[str, int] = {}

    def all(self, proposals: Sequence[Proposal]) -> dict[str, int]:
        """Promote while there is room, most gain a byte first; demote only to make room.

        As many are applied before the loss is measured as can be taken back within the plan's
        bytes. Returns the new bits of the layers that were kept.
        """
        up = sorted((p for p in proposals if p.grows > 0), key=lambda p: -p.gain / p.grows)
        down = sorted((p for p in proposals if p.grows <= 0), key=lambda p: p.gain / (p.grows - 1))
        batch: list[_Done] = []
        while up:
            room = self.room()
            fitting = next((p for p in up if p.grows <= room), None)
            if fitting is None and not down:
                break
            proposal = fitting or down[0]
            (up if fitting else down).remove(proposal)
            done = self._apply(proposal, batch)
            if done is None and batch:  # no room to take it back beside the others
                self._settle(batch)
                batch, done = [], self._apply(proposal, [])
            if done is None:
                self._tell_undone(proposal, None)
            else:
                batch.append(done)
        self._settle(batch)
        return self.bits

    def room(self) -> float:
        """Bytes by which stored weights may still grow."""
        ledger = self.trainer.ledger
        return ledger.room(self.trainer.held()) if ledger else math.inf

    def _apply(self, proposal: Proposal, batch: Sequence[_Done]) -> _Done | None:
        """Change the layer; None, and the layer as it was, if the ledger forbids it."""
        tensors = load_file(proposal.file)
        scheme = Scheme(proposal.to_bits, self.group)
        stored = stored_weight(tensors, scheme, lambda: self.read(proposal.name))
        before = Snapshot(self.trainer, proposal.name)
        before.change(stored, tensors["U"], tensors["V"])
        try:
            self._balance([*(d.before for d in batch), before])
        except LedgerError:
            before.restore()
            return None
        return _Done(proposal, tensors, before)

    def _balance(self, snapshots: Sequence[Snapshot]) -> None:
        """Check the next step, and this moment: old layers lie where gradients will."""
        ledger = self.trainer.ledger
        if ledger is None:
            return
        now, step = self.trainer.held(), self.trainer.progress.step
        ledger.check(now, step)
        ledger.check(now, step, sum(s.nbytes for s in snapshots) - now.gradients)

    def _settle(self, batch: Sequence[_Done]) -> None:
        """Keep what is applied if the loss allows it; else take it back and try each half."""
        if not batch:
            return
        loss = self.trainer.mean_loss(self.probe)
        if loss <= self.least + RISE:
            for done in batch:
                self._keep(done.proposal, done.tensors, done.before)
            self._tell_done(batch, loss)
            return
        for done in reversed(batch):
            done.before.restore()
        if len(batch) == 1:
            self._tell_undone(batch[0].proposal, loss if math.isfinite(loss) else None)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            again: list[_Done] = []
            for old in half:
                new = self._apply(old.proposal, again)
                if new is None:  # its room would have come from a layer that was taken back
                    self._tell_undone(old.proposal, None)
                else:
                    again.append(new)
            self._settle(again)

    def _tell_done(self, batch: Sequence[_Done], loss: float) -> None:
        """Say what changed; a batch has one loss before it and one after."""
        trainer, step = self.trainer, self.trainer.progress.step
        new = {d.proposal.name: d.proposal.to_bits for d in batch}
        trainer.emit(BitsChanged(step, new, "requantized"))
        for p in (done.proposal for done in batch):
            trainer.emit(Requantized(step, p.name, p.from_bits, p.to_bits, self.loss, loss))
        self.bits |= new
        self.loss, self.least = loss, min(self.least, loss)

    def _tell_undone(self, p: Proposal, loss: float | None) -> None:
        step = self.trainer.progress.step
        self.trainer.emit(RolledBack(step, p.name, p.from_bits, p.to_bits, self.loss, loss))

    def _keep(self, proposal: Proposal, tensors: dict[str, Tensor], before: Snapshot) -> None:
        """Write the codes down, and by what the triplets moved without anything being learned."""
        codes = {k: t for k, t in tensors.items() if k not in ("U", "V")}
        gate = before.factors["s"].data * before.mask
        old = (before.factors["U"].data * gate).cpu(), before.factors["V"].data.cpu()
        moved = {
            "U": torch.cat([tensors["U"], -old[0]], 1),
            "V": torch.cat([tensors["V"], old[1]], 0),
        }
        save_file(codes | moved, self.kept / f"{proposal.name}.safetensors")
