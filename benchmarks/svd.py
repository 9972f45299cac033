"""``python -m benchmarks.svd``: singular values and row scales against low-rank adapters.

Every variant is a run of the product on the same class, with the same held-out questions, tokens
and steps; only the method and its rates differ. Each is trained once with each rate and seed, the
rate is chosen on the held-out loss of the first seed (so all variants have the same tuning budget,
and the same small advantage). Tells trained numbers, bytes of the adapter's file, held-out loss,
peak memory and seconds of a step. Finished runs in ``--work`` are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.evaluate.metrics import bootstrap_interval
from core.home import CHECKOUT
from core.whole import write_whole

# Options of ``train`` by variant; ``{lr}`` is the rate tried. The diagonal keeps its ratio of 5.
VARIANTS: dict[str, tuple[str, ...]] = {
    "lora r=8": ("--method", "lora", "--rank", "8"),
    "lora r=2": ("--method", "lora", "--rank", "2"),
    "svd": ("--method", "svd"),
    "svd additive": ("--method", "svd", "--diagonal", "additive"),
    "svd, full rank": ("--method", "svd", "--directions", "4096"),
    "svd, 4 bits": ("--method", "svd", "--bits", "4"),
    "qlora r=8": ("--method", "qlora", "--rank", "8"),
}
FACTORS = (1.0, 4.0)  # of the default rates
LR, DIAGONAL_LR = 1e-3, 5e-3
FILE = Path("adapter", "adapter.safetensors")


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        losses: (nats, tokens) of every held-out example.
        seconds: of a step.
    """

    variant: str
    factor: float
    seed: int
    numbers: int
    file_bytes: int
    peak_bytes: int
    seconds: float
    base: float
    losses: list[tuple[float, int]]

    @property
    def nll(self) -> float:
        """Nats per held-out answer token."""
        return sum(n for n, _ in self.losses) / sum(t for _, t in self.losses)


def measured(variant: str, factor: float, seed: int, options: argparse.Namespace) -> Outcome:
    """Train one variant in a process of its own, unless that has been done.

    Raises:
        RuntimeError: if the run fails.
    """
    folder = options.work / f"{variant.replace(' ', '-').replace(',', '')}-x{factor:g}-s{seed}"
    if not (folder / "result.json").is_file():
        given = [
            *("--model", options.model, "--data", options.data, "--steps", options.steps),
            *("--tokens-per-step", options.tokens_per_step),
            *("--lr", LR * factor, "--diagonal-lr", DIAGONAL_LR * factor, "--seed", seed),
            *("--no-generate", "--no-stop-early", "--out", folder, "--json"),
        ]
        command = [sys.executable, "-m", "core.cli", "train", *VARIANTS[variant], *map(str, given)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{variant} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    quiz = result["quiz"]
    return Outcome(
        variant,
        factor,
        seed,
        result["trained_numbers"],
        (folder / FILE).stat().st_size,
        result["measured_peak_bytes"],
        result["seconds"]["train"] / result["steps"],
        quiz["base"]["nll"],
        [(x["nll"], x["tokens"]) for x in quiz["tuned"]["losses"] if x],
    )


def difference(a: Sequence[Outcome], b: Sequence[Outcome]) -> tuple[float, float, float]:
    """Mean loss of ``a`` minus that of ``b``, nats per token, and its 95 % interval over questions.

    Seeds are averaged question by question: seeds of one question are no further questions.
    """
    gaps, tokens = [], []
    for rows in zip(*(o.losses for o in (*a, *b)), strict=True):
        left, right = rows[: len(a)], rows[len(a) :]
        gaps.append(sum(n for n, _ in left) / len(a) - sum(n for n, _ in right) / len(b))
        tokens.append(float(rows[0][1]))
    return sum(gaps) / sum(tokens), *bootstrap_interval(gaps, tokens)


def table(outcomes: Sequence[Outcome], against: str) -> str:
    """The outcomes as Markdown, each variant at its best rate, compared with ``against``."""
    lines = [
        "| variant | rate | seeds | trained numbers | file, kB | held-out loss "
        f"| minus {against} (95 %) | peak, MB | s a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    kept = {v: best(outcomes, v) for v in dict.fromkeys(o.variant for o in outcomes)}
    reference = kept.get(against, [])
    for variant, runs in kept.items():
        loss = sum(o.nll for o in runs) / len(runs)
        gap = ""
        if reference and variant != against:
            mean, low, high = difference(runs, reference)
            gap = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        one = runs[0]
        lines.append(
            f"| {variant} | x{one.factor:g} | {len(runs)} | {one.numbers:,} "
            f"| {one.file_bytes / 1e3:,.0f} | {loss:.3f} | {gap} "
            f"| {max(o.peak_bytes for o in runs) / 1e6:,.0f} "
            f"| {sum(o.seconds for o in runs) / len(runs):.1f} |"
        )
    base = outcomes[0].base
    return "\n".join([*lines, "", f"Base model: {base:.3f} nats per held-out answer token."])


def best(outcomes: Sequence[Outcome], variant: str) -> list[Outcome]:
    """All seeds of a variant at the rate that was best with its first seed."""
    own = [o for o in outcomes if o.variant == variant]
    first = min((o for o in own if o.seed == own[0].seed), key=lambda o: o.nll)
    return [o for o in own if o.factor == first.factor]


def main(arguments: list[str]) -> int:
    """Run all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", default=str(CHECKOUT / "assets" / "samples" / "english.csv"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tokens-per-step", type=int, default=512)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--against", default="lora r=8", choices=VARIANTS)
    parser.add_argument("--work", type=Path, default=CHECKOUT / "build" / "svd")
    options = parser.parse_args(arguments)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for variant in options.variants:
        for factor in options.factors:
            outcomes.append(measured(variant, factor, options.seeds[0], options))
            sys.stderr.write(f"{variant} x{factor:g}: {outcomes[-1].nll:.4f}\n")
        factor = best(outcomes, variant)[0].factor
        outcomes += [measured(variant, factor, seed, options) for seed in options.seeds[1:]]
        write_whole(options.work / "table.md", table(outcomes, options.against))
    sys.stdout.write(table(outcomes, options.against) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
