"""``python -m benchmarks.quantization``: what rounding costs before training, way by way.

Perplexity of answers that were not seen, of one base model stored in many ways: widths, error
feedback, what decides the bits of a layer, and how the adapter starts. See the README.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reference_model import off_the_grid, texts
from core import models
from core.data.packing import Row
from core.home import CHECKOUT
from core.plan.allocate import TRAINED_BYTES, Solution, solve
from core.plan.measured import InputMoments, MeasuredLinear, MomentsOfLast, measured_model
from core.plan.profile import RANKS, ErrorPrice, sensitivity_of
from core.plan.rounding import rounded_layer
from core.quant.gptq import round_with_feedback
from core.quant.lowrank import weighted_fit
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.runs.folder import read_json, write_json

GROUP = 64
WIDTHS = (2, 3, 4)  # 8 bits are not offered where the mean is 3
START = "loss"  # the start of adapters that the studio uses
Stored = dict[str, Tensor]  # effective weight (o, i) by layer


@dataclass(frozen=True)
class Variant:
    """One way to store the model.

    Attributes:
        name: for the table.
        codes: ``dense``, ``nf4``, ``nearest``, ``feedback`` or, as the studio rounds, ``in order``:
            with feedback on the inputs that the layers before, already rounded, give.
        bits: of every layer, or the mean where ``by`` says what chooses.
        by: what the bits go by; empty for the same bits everywhere.
        rank: of the adapter; mean rank where ``joint``.
        start: ``zero``, ``frobenius``, ``input`` or ``loss``: what the adapter's start minimises.
        joint: bits and ranks chosen together, in the bytes of the same bits and ranks apart.
    """

    name: str
    codes: str = "feedback"
    bits: float = 3
    by: str = ""
    rank: int = 0
    start: str = START
    joint: bool = False


VARIANTS = (
    Variant("reference", "dense", 16),
    Variant("NF4, no adapter", "nf4", 4),
    Variant("mixed 3.0 by loss, in order, r=8", "in order", by="loss", rank=8),
    Variant("mixed 3.0 by loss, in order", "in order", by="loss"),
    Variant("mixed 3.0 by loss", by="loss"),
    Variant("mixed 3.0 by activation", by="activation"),
    Variant("mixed 3.0 by frobenius", by="frobenius"),
    Variant("mixed 3.0 by spectrum", by="spectrum"),
    Variant("3 bits", rank=0),
    Variant("3 bits, r=16", rank=16),
    Variant("3 bits, r=16, start by inputs alone", rank=16, start="input"),
    Variant("3 bits, r=16, start by size of the error", rank=16, start="frobenius"),
    Variant("mixed 3.0 by loss, in order, r=16", "in order", by="loss", rank=16),
    Variant("3 bits, in order", "in order"),
    Variant("3 bits to nearest", "nearest"),
    Variant("mixed 3.0 by loss, r=8", by="loss", rank=8),
    Variant("the same bytes, bits and ranks together", by="loss", rank=8, joint=True),
    Variant("mixed 2.5 by loss", bits=2.5, by="loss"),
    Variant("mixed 2.5 by loss, in order, r=16", "in order", bits=2.5, by="loss", rank=16),
    Variant("mixed 2.5 by activation", bits=2.5, by="activation"),
    Variant("mixed 2.5 by frobenius", bits=2.5, by="frobenius"),
    Variant("mixed 2.5 by spectrum", bits=2.5, by="spectrum"),
)


@dataclass
class Statistics:
    """What calibration text shows of every layer.

    Attributes:
        gram: H (i, i) by the first layer of those that share an input.
        shares: name of that layer by layer.
        squares: E[d^2] (o,) of the output gradients by layer.
    """

    gram: Stored
    shares: dict[str, str]
    squares: Stored


class Laboratory:
    """A base model whose linear layers can be given any weight."""

    def __init__(self, model: Path, rows: Sequence[Row], work: Path) -> None:
        """Open ``model``; ``rows`` are evaluated, ``work`` keeps what takes long."""
        self.model, self.layers = measured_model(model, 16, None)
        self.weights = {name: layer.read().float() for name, layer in self.layers.items()}
        self.present = dict(self.weights)
        for name, layer in self.layers.items():
            layer.read = _reader(self.present, name)
        self.rows, self.work = rows, work

    def statistics(self, rows: Sequence[Row]) -> Statistics:
        """Measure the unquantized model on calibration rows."""
        watch = _Watch()
        for layer in self.layers.values():
            layer.on_forward, layer.on_backward = watch.forward, watch.backward
        spark = torch.zeros((), requires_grad=True)  # asks for gradients before the first block
        handle = self.model.blocks[0].register_forward_pre_hook(
            lambda _m, args: ((args[0] + spark.to(args[0])), *args[1:])
        )
        for row in rows:
            ids, positions, labels = _tensors(row)
            loss = self.model.loss(ids, positions, labels)
            (loss * int((labels[1:] != -100).sum())).backward()
        handle.remove()
        for layer in self.layers.values():
            layer.on_forward = layer.on_backward = None
        tokens = sum(len(row.ids) for row in rows)
        for sums in (watch.found.gram, watch.found.squares):
            for total in sums.values():
                total.div_(tokens)
        return watch.found

    @torch.no_grad()
    def losses(self, stored: Stored) -> Tensor:
        """Loss of every answer token with these weights instead of the dense ones."""
        self.present.update(self.weights)
        self.present.update(stored)
        return torch.cat([self.model.losses(*_tensors(row)) for row in self.rows])


class _Watch:
    """Adds up second moments over several rows."""

    def __init__(self) -> None:
        self.found = Statistics({}, {}, {})
        self._x: Tensor | None = None
        self._owner = ""

    @torch.no_grad()
    def forward(self, layer: MeasuredLinear, weight: Tensor, x: Tensor) -> None:
        """See inputs x (N, i); weight is not used."""
        if self._x is None or not torch.equal(self._x, x):
            self._x, self._owner = x, layer.name
            added = x.t() @ x
            known = self.found.gram.get(layer.name)
            self.found.gram[layer.name] = added if known is None else known.add_(added)
        self.found.shares[layer.name] = self._owner

    @torch.no_grad()
    def backward(self, layer: MeasuredLinear, weight: Tensor, x: Tensor, d: Tensor) -> None:
        """See output gradients d (N, o)."""
        added = d.square().sum(0)
        known = self.found.squares.get(layer.name)
        self.found.squares[layer.name] = added if known is None else known.add_(added)


class Variants:
    """Makes the effective weights of variants from what is measured once."""

    def __init__(self, lab: Laboratory, statistics: Statistics, calibration: Sequence[Row]) -> None:
        self.lab, self.statistics, self.calibration = lab, statistics, calibration
        self.moments = {k: InputMoments(gram) for k, gram in statistics.gram.items()}
        self.sensitivity = {n: sensitivity_of(d) for n, d in statistics.squares.items()}
        self._costs: dict[str, dict[str, dict[int, list[float]]]] = {}

    @cached_property
    def _codes(self) -> dict[int, dict[str, QuantizedWeight]]:
        kept = _kept(self.lab.work / "codes.pt", self._round)
        return dict(kept)

    def _of(self, name: str) -> InputMoments:
        return self.moments[self.statistics.shares[name]]

    @torch.no_grad()
    def _round(self) -> dict[int, dict[str, QuantizedWeight]]:
        found: dict[int, dict[str, QuantizedWeight]] = {b: {} for b in WIDTHS}
        for name, weight in self.lab.weights.items():
            m = self._of(name)
            rounded = round_with_feedback(weight, m.gram, WIDTHS, GROUP, upper=m.inverse_upper)
            for b in WIDTHS:
                found[b][name] = rounded[b].stored(Scheme(b, GROUP), weight.shape[1])
        return found

    @torch.no_grad()
    def costs(self, by: str) -> dict[str, dict[int, list[float]]]:
        """Prices of all layers, by what counts."""
        if by not in self._costs:
            price = ErrorPrice(by, group=GROUP)
            self._costs[by] = _kept(
                self.lab.work / f"costs-{by}.pt",
                lambda: {
                    n: price.costs(w, self._of(n), self.sensitivity[n], WIDTHS)
                    for n, w in self.lab.weights.items()
                },
            )
        return self._costs[by]

    @torch.no_grad()
    def in_order(self, variant: Variant, choice: dict[str, tuple[int, int]]) -> Stored:
        """Effective weights, each layer rounded for what the rounded ones before it give."""
        made: Stored = {}
        moments = MomentsOfLast()

        def forward(layer: MeasuredLinear, weight: Tensor, x: Tensor) -> Tensor:
            bits, rank = choice[layer.name]
            rank = 0 if variant.start == "zero" else rank
            rows = self.sensitivity[layer.name]
            scheme = Scheme(bits, GROUP)
            made[layer.name] = rounded_layer(weight, moments.of(x), rows, scheme, rank)[1]
            return made[layer.name]

        self.lab.present.update(self.lab.weights)
        for layer in self.lab.layers.values():
            layer.on_forward = forward
        rows = [_tensors(row) for row in self.calibration]
        ids, positions = (torch.cat([row[k] for row in rows]) for k in (0, 1))
        self.lab.model.hidden(ids, positions)
        for layer in self.lab.layers.values():
            layer.on_forward = None
        return made

    def choose(self, variant: Variant) -> tuple[dict[str, tuple[int, int]], float]:
        """(bits, rank) of every layer, and the gap to the dual bound (0 if nothing is chosen)."""
        weights = self.lab.weights
        if not variant.by:
            return {n: (int(variant.bits), variant.rank) for n in weights}, 0.0
        ranks = RANKS if variant.joint else (variant.rank,)
        choices = [(b, r) for b in WIDTHS for r in ranks]
        costs = self.costs(variant.by)
        # Which rank the adapter has changes what bits cost.
        cost = np.array([[_at(costs[n][b], r) for b, r in choices] for n in weights])
        size = np.array([[_bytes(w, b, r) for b, r in choices] for w in weights.values()])
        room = sum(_bytes(w, variant.bits, variant.rank) for w in weights.values())
        found: Solution | None = solve(cost, size, room)
        assert found is not None
        return dict(zip(weights, (choices[k] for k in found.picks), strict=True)), found.gap

    @torch.no_grad()
    def stored(self, variant: Variant, choice: dict[str, tuple[int, int]]) -> Stored:
        """Effective weights: what is stored, and the adapter at its start."""
        if variant.codes == "dense":
            return {}
        if variant.codes == "in order":
            return self.in_order(variant, choice)
        made = {}
        for name, weight in self.lab.weights.items():
            bits, rank = choice[name]
            made[name] = self._layer(variant.codes, name, bits).dequantize()
            if rank and variant.start != "zero":
                error = weight - made[name]
                made[name] += self._adapter(variant.start, name, error, rank)
        return made

    def _layer(self, codes: str, name: str, bits: int) -> QuantizedWeight:
        if codes == "feedback":
            return self._codes[bits][name]
        scheme = Scheme(bits, GROUP, "nf4" if codes == "nf4" else "affine")
        return QuantizedWeight.from_dense(self.lab.weights[name], scheme)

    def _adapter(self, start: str, name: str, error: Tensor, rank: int) -> Tensor:
        rows, lower = self.sensitivity[name], self._of(name).lower
        if start != "loss":
            rows = torch.ones_like(rows)
        if start == "frobenius":
            lower = torch.eye(len(lower))
        u, v = weighted_fit(error, rows, lower, rank)
        return u @ v


def _at(costs: Sequence[float], rank: int) -> float:
    """Cost at a rank, between the ranks that are priced on a straight line."""
    return float(np.interp(rank, RANKS, costs))


def _bytes(weight: Tensor, bits: float, rank: int) -> float:
    """Bytes of codes, and of an adapter with gradient and moments."""
    o, i = weight.shape
    return o * i * bits / 8 + TRAINED_BYTES * rank * (o + i + 1)


def _reader(present: Stored, name: str) -> Callable[[], Tensor]:
    return lambda: present[name]


def _tensors(row: Row) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(row.ids), torch.tensor(row.position_ids), torch.tensor(row.labels)


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """What ``file`` holds; made and written if it is not there."""
    if not file.is_file():
        torch.save(make(), file)
    return torch.load(file, weights_only=False)  # our own file


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the variants that are not in ``--work`` yet; returns the document of results."""
    source = models.ensure_local(models.resolve(options.model))
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not (model / "config.json").is_file():
        off_the_grid(source, model, options.seed)
    sides = texts(
        model, options.calibration, options.evaluation, (options.calibrate, options.evaluate)
    )
    lab = Laboratory(model, sides[1], work)
    found = _kept(work / "statistics.pt", lambda: vars(lab.statistics(sides[0])))
    statistics = Statistics(**found)
    variants = Variants(lab, statistics, sides[0])
    document = {
        "model": source.name,
        "calibration": {"file": options.calibration.name, **_counted(sides[0])},
        "evaluation": {"file": options.evaluation.name, **_counted(sides[1])},
        "seed": options.seed,
        "group": GROUP,
        "runs": [],
    }
    for variant in VARIANTS[: options.first]:
        document["runs"].append(_run(variant, variants, lab))
        write(document, options.out)
    return document


def _counted(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "tokens": sum(len(r.ids) for r in rows),
        "answer_tokens": sum(r.answer_tokens for r in rows),
        "examples": sum(len(r.members) for r in rows),
    }


def _run(variant: Variant, variants: Variants, lab: Laboratory) -> dict[str, Any]:
    kept = lab.work / f"{variant.name.replace(' ', '_')}.json"
    known = read_json(kept) if kept.is_file() else None
    if known is not None:
        return known
    choice, gap = variants.choose(variant)
    loss = lab.losses(variants.stored(variant, choice)).double()
    sizes = {n: w.numel() for n, w in lab.weights.items()}
    total = sum(sizes.values())
    bits = {b: sum(sizes[n] for n, (x, _) in choice.items() if x == b) for b in (*WIDTHS, 16)}
    result = {
        "variant": variant.name,
        "perplexity": math.exp(float(loss.mean())),
        "loss": float(loss.mean()),
        "losses": [round(float(x), 4) for x in loss],
        "bits": sum(b * n for b, n in bits.items()) / total,
        "share_of_bits": {str(b): n / total for b, n in bits.items() if n},
        "rank": sum(r for _, r in choice.values()) / len(choice),
        "dual_gap": gap,
    }
    write_json(kept, result)
    return result


def write(document: dict[str, Any], out: Path) -> None:
    """Write the results so far as JSON and as a table."""
    out.mkdir(parents=True, exist_ok=True)
    runs = document["runs"]
    name = f"quantization-{document['model']}-{Path(document['evaluation']['file']).stem}"
    bare = [{k: v for k, v in run.items() if k != "losses"} for run in runs]
    write_json(out / f"{name}.json", {**document, "runs": bare})
    (out / f"{name}.md").write_text(as_markdown(document), "utf-8")


def as_markdown(document: dict[str, Any]) -> str:
    """The table, each variant beside the one that it is to be compared with: plain NF4."""
    runs = document["runs"]
    against = next((r for r in runs if r["variant"].startswith("NF4")), runs[0])
    lines = [
        f"# Rounding without training: {document['model']}",
        "",
        "Written by `benchmarks/quantization.py`; the [README](../README.md) says what is what.",
        "",
        "| variant | code bits | rank | perplexity | nats a token against NF4 | dual gap |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        gap = f"{run['dual_gap']:.2%}" if run["dual_gap"] else ""
        difference = np.array(run["losses"]) - np.array(against["losses"])
        error = difference.std() / math.sqrt(len(difference))
        lines.append(
            f"| {run['variant']} | {run['bits']:.2f} | {run['rank']:.1f} | "
            f"{run['perplexity']:.3f} | {difference.mean():+.3f} ± {error:.3f} | {gap} |"
        )
    c, e = document["calibration"], document["evaluation"]
    lines += [
        "",
        f"Perplexity of the {e['answer_tokens']} answer tokens of {e['examples']} examples of "
        f"`{e['file']}`; calibrated on {c['tokens']} tokens of {c['examples']} other examples of "
        f"`{c['file']}`. Codes in groups of {document['group']}; scales and zeros add 0.375 bits "
        "(NF4: 0.5). ±: one standard error of the mean difference over tokens.",
    ]
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__)
    add = parser.add_argument
    add("--model", default=models.STARTER, help="id or folder of the base model")
    add("--calibration", type=Path, required=True, help="JSON Lines of questions and answers")
    add("--evaluation", type=Path, required=True, help="another one; the same: half of it each")
    add("--calibrate", type=int, default=4096, help="tokens to calibrate on")
    add("--evaluate", type=int, default=3000, help="tokens to evaluate on")
    add("--seed", type=int, default=0, help="of the noise that breaks the old grid")
    add("--first", type=int, default=len(VARIANTS), help="only the first variants")
    add("--work", type=Path, required=True, help="folder for what takes long; kept")
    add("--out", type=Path, default=CHECKOUT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Entry."""
    document = measure(parse(arguments))
    sys.stdout.write(as_markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
