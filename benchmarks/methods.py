"""``python -m benchmarks.methods``: chosen methods on public suites, each tuned with equal effort.

Every run is a process of its own. First each method is trained with each rate of the same small
grid on a part of the training examples and asked for the loss on the rest of them; then, with the
rate that was best, on all of them with each seed, and marked on the suite's test. So no rate is
chosen on what is reported. No torch in here.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks import arms, datasets, peers, suites
from benchmarks.arms import BEFORE, TABLES, Arm, Table
from benchmarks.methods_table import as_markdown, with_summary
from benchmarks.settings import Job
from benchmarks.suites import Item, Material, Suite
from benchmarks.table import write_results
from core import models
from core.config import RunConfig
from core.data import frozen
from core.data.pairs import freeze_pairs, is_frozen_pairs, load_pairs
from core.data.split import Split
from core.errors import ConfigError, DataError, StudioError
from core.home import CHECKOUT
from core.runs.folder import write_json

TUNING_SEED = 1000  # of the runs that choose a rate; none of the seeds that are reported
HELD_SHARE = 0.2  # of the training examples, at most; the slice on which rates are chosen
LOOKED_AT = 64  # items of the test on which a run takes looks at its held-out loss

Run = Callable[[Job], dict[str, Any]]
Runs = list[dict[str, Any]]


class EnoughError(Exception):
    """As many runs were made as ``--most`` allows."""


@dataclass(frozen=True)
class Bench:
    """Where everything of one model and one suite is.

    Attributes:
        name: for folders.
        work: folder of the processes' own folders.
        model: local folder of the base model.
        writes: whether the model writes text; an encoder only reads it.
        suite: which.
        facts: numbers for the table.
    """

    name: str
    work: Path
    model: Path
    writes: bool
    suite: Suite
    facts: dict[str, Any]

    def data(self, arm: Arm, *, tuning: bool) -> Path:
        """The folder of frozen data that an arm learns from."""
        kind = "pairs" if arm.reads_pairs else "class"
        return self.work / "data" / f"{'tuning' if tuning else 'final'}-{kind}"

    @property
    def items(self) -> Path:
        """The file of the items that are marked."""
        return self.work / "data" / "test.json"


@dataclass
class Tuning:
    """What choosing a rate gave.

    Attributes:
        losses: held-out loss by factor; None where the run failed or its loss is not finite.
        errors: what the failed runs said, by factor.
        factor: the best one; None if every run failed.
    """

    losses: dict[float, float | None] = field(default_factory=dict)
    errors: dict[float, str] = field(default_factory=dict)
    factor: float | None = None

    @property
    def at_edge(self) -> bool:
        """Whether the best factor is the smallest or largest tried, so that a better may exist."""
        return len(self.losses) > 1 and self.factor in (min(self.losses), max(self.losses))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        losses = {f"{factor:g}": loss for factor, loss in self.losses.items()}
        errors = {f"{factor:g}": text for factor, text in self.errors.items()}
        return {"factor": self.factor, "losses": losses, "errors": errors, "edge": self.at_edge}


def tune(jobs: Mapping[float, Job], run: Run) -> Tuning:
    """Run a job for every factor and take the one with the smallest held-out loss.

    A single factor is taken without a run.
    """
    found = Tuning()
    if len(jobs) == 1:
        found.factor = next(iter(jobs))
        return found
    for factor, job in jobs.items():
        result = run(job)
        loss = float(result.get("nll", math.nan))
        found.losses[factor] = loss if math.isfinite(loss) else None
        if "error" in result:
            found.errors[factor] = str(result["error"])
    finite = {factor: loss for factor, loss in found.losses.items() if loss is not None}
    found.factor = min(finite, key=lambda factor: finite[factor]) if finite else None
    return found


# --- options ------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; what is not given is taken from the table.

    Raises:
        ConfigError: if nothing is chosen, or something unknown.
    """
    defaults = RunConfig()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    add = parser.add_argument
    add("--table", choices=TABLES, help="a comparison with its methods, suites and grid")
    add("--methods", nargs="+", help=f"instead of the table's: {', '.join(arms.ARMS)}")
    add("--suites", nargs="+", help=f"instead: {', '.join(s.id for s in suites.SUITES)}")
    add("--against", help="the one that differences are taken to")
    add("--factors", nargs="+", type=float, help="grid of learning rates, times each default")
    add("--looks", type=int, help="looks at the held-out loss in a run")
    add("--models", nargs="+", default=[defaults.model], help="ids or folders; encoders too")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=60, help="optimizer steps of every run")
    add("--tokens-per-step", type=int, default=defaults.train.tokens_per_step)
    add("--rank", type=int, default=defaults.adapter.rank, help="mean rank of all adapters")
    add("--train", type=int, default=400, help="most examples learned; 0: all")
    add("--test", type=int, default=120, help="most examples marked; 0: all")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--shared", type=Path, default=datasets.SHARED, help="folder of the public data")
    add("--timeout", type=float, default=7200, help="seconds after which a run has failed")
    add("--most", type=int, default=0, help="new runs this time; 0: all")
    add("--work", type=Path, help="folder for the runs; finished ones in it are not run again")
    add("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    _complete(options)
    return options


def _complete(options: argparse.Namespace) -> None:
    """Fill in what the table says, and refuse what cannot be compared."""
    table = TABLES.get(options.table or "") or Table("Methods", (), ())
    options.title, options.main, options.left_out = table.title, table.main, []
    if options.methods is None:
        options.arms, absent = arms.known(table.arms)
        options.left_out += [f"{name}: not a method of this version." for name in absent]
    else:
        options.arms = arms.chosen(options.methods)
    options.suites = [suites.suite(s).id for s in options.suites or table.suites]
    if not options.arms or not options.suites:
        raise ConfigError(
            "There is nothing to compare.",
            where="--methods, --suites",
            action="Choose a --table, or both methods and suites.",
        )
    names = [arm.name for arm in options.arms]
    options.against = options.against or (table.against if table.against in names else names[0])
    if options.against not in names:
        raise ConfigError(
            f"{options.against} is not among what is compared.",
            where="--against",
            action=f"Choose one of: {', '.join(names)}.",
        )
    options.factors = sorted(set(options.factors or table.factors))
    if TUNING_SEED in options.seeds or options.factors[0] <= 0:
        raise ConfigError(
            f"Seed {TUNING_SEED} is that of the tuning runs, and factors are larger than 0.",
            where="--seeds, --factors",
            action="Choose others.",
        )
    options.looks = table.looks if options.looks is None else options.looks


# --- data ---------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, suite_id: str, model_id: str, work: Path) -> Bench:
    """Read the suite, draw what fits this model, and freeze it for all runs.

    Raises:
        StudioError: if model or suite cannot be used, or nothing fits.
    """
    material = suites.load(suite_id, options.shared)
    info = models.resolve(model_id)
    model = models.ensure_local(info, encoder=True).resolve()
    train = fitting(material.train, model, material.suite.max_length)
    test = fitting(material.test, model, material.suite.max_length)
    drawn_train = material.suite.grouped(suites.drawn(train, options.train))
    drawn_test = suites.drawn(test, options.test)
    rest, held = suites.held_out(drawn_train, max(1, round(HELD_SHARE * len(drawn_train))))
    if not rest or not held or not drawn_test:
        raise DataError(
            f"Too few examples of {suite_id} fit into {material.suite.max_length} tokens of "
            f"{model.name}.",
            where="--suites",
            action="Choose another suite or model.",
        )
    folder = work / f"{suite_id}-{model.name}"
    facts = _facts(material, len(train), len(test), drawn_train, drawn_test, held)
    bench = Bench(
        folder.name, folder, model, models.resolve(str(model)).writes, material.suite, facts
    )
    _freeze(bench, drawn_train, drawn_test, rest, held)
    return bench


def fitting(items: Sequence[Item], model: Path, max_length: int) -> list[Item]:
    """The items whose question and first reference leave room for a chat template."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    room = max_length - datasets.TEMPLATE_TOKENS
    texts = [f"{item.question}\n{item.references[0]}" for item in items]
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [item for item, one in zip(items, encoded, strict=True) if len(one.ids) <= room]


def _facts(
    material: Material,
    fitting_train: int,
    fitting_test: int,
    train: Sequence[Item],
    test: Sequence[Item],
    held: Sequence[Item],
) -> dict[str, Any]:
    return {
        "in_the_files": f"{material.found[0]} + {material.found[1]}",
        "left_out_as_asked_in_the_test": material.leaked,
        "short_enough": f"{fitting_train} + {fitting_test}",
        "learned": len(train),
        "held_out_for_tuning": len(held),
        "marked": len(test),
    }


def _freeze(
    bench: Bench,
    train: Sequence[Item],
    test: Sequence[Item],
    rest: Sequence[Item],
    held: Sequence[Item],
) -> None:
    """Write the data of the runs: to choose a rate, and to be reported."""
    looked_at = suites.drawn(test, LOOKED_AT)
    as_class = {"tuning-class": (rest, held), "final-class": (train, looked_at)}
    for name, (learned, asked) in as_class.items():
        sides = Split(tuple(x.example() for x in learned), tuple(x.example() for x in asked))
        _freeze_class(bench.work / "data" / name, sides)
    if bench.suite.pairs:
        # A pair model chooses its threshold on pairs that it learns neither now nor then.
        learned, calibration = suites.held_out(rest, len(held), seed=1)
        _freeze_pairs(bench.work / "data" / "tuning-pairs", learned, calibration, held)
        _freeze_pairs(bench.work / "data" / "final-pairs", [*learned, *held], calibration, test)
    write_json(bench.items, {"items": [item.to_json() for item in test]})


def _freeze_class(folder: Path, sides: Split) -> None:
    if not frozen.is_frozen(folder):
        frozen.freeze([*sides.train, *sides.quiz], sides, folder)
    elif frozen.load_frozen(folder).sha256 != sides.sha256:
        raise _other_settings()


def _freeze_pairs(
    folder: Path, train: Sequence[Item], calibration: Sequence[Item], test: Sequence[Item]
) -> None:
    sides = suites.pair_split(train, calibration, test)
    if not is_frozen_pairs(folder):
        freeze_pairs(sides, folder)
    elif load_pairs(folder).sha256 != sides.sha256:
        raise _other_settings()


def _other_settings() -> ConfigError:
    return ConfigError(
        "This folder holds runs with other settings.",
        where="--work",
        action="Choose another folder, or the settings of the runs in it.",
    )


# --- runs ---------------------------------------------------------------------------------------


def applicable(options: argparse.Namespace, bench: Bench) -> tuple[list[Arm], list[str]]:
    """The arms that can do a suite with a model, and a sentence for each that cannot."""
    able, sentences = [], []
    for arm in options.arms:
        if arm.reads_pairs and not bench.suite.pairs:
            sentences.append(f"{arm.name}: it gives labels, and {bench.suite.id} wants text.")
        elif not arm.reads_pairs and not bench.writes:
            sentences.append(f"{arm.name}: it needs a model that writes, {bench.model.name} reads.")
        else:
            able.append(arm)
    return able, sentences


def make_job(
    options: argparse.Namespace, bench: Bench, arm: Arm, factor: float, seed: int, *, tuning: bool
) -> Job:
    """What the process of one arm with one rate and one seed is told."""
    rates = {name: value * factor for name, value in arm.rates().items()}
    kind = "tuning" if tuning else f"seed{seed}"
    return Job(
        variant=arm.name,
        seed=seed,
        model=str(bench.model),
        data=str(bench.data(arm, tuning=tuning)),
        out=str(bench.work / f"{arm.name.replace('/', '_')}-x{factor:g}-{kind}"),
        steps=options.steps,
        rank=options.rank,
        lr=rates.pop("train.lr"),
        tokens_per_step=options.tokens_per_step,
        max_length=bench.suite.max_length,
        budget_bytes=0,
        questions=0,
        max_new_tokens=bench.suite.max_new_tokens,
        method=arm.method,
        suite=bench.suite.id,
        items="" if tuning else str(bench.items),
        device=options.device,
        look_every=_look_every(options),
        changes={**arm.settings, **rates},
    )


def _look_every(options: argparse.Namespace) -> int:
    return max(1, options.steps // options.looks) if options.looks else 0


def before_job(options: argparse.Namespace, bench: Bench) -> Job:
    """What the process is told that marks the untrained model."""
    nothing = Arm(BEFORE, BEFORE)
    return make_job(options, bench, nothing, 1.0, 0, tuning=False)


def runner(options: argparse.Namespace, state: Path) -> Run:
    """What runs a job, or takes its finished result; at most ``--most`` new ones.

    Raises:
        EnoughError: from the returned function, instead of one run more.
    """
    left = [options.most or -1]

    def run(job: Job) -> dict[str, Any]:
        known = peers.finished(job)
        if known is not None:
            return known
        if left[0] == 0:
            raise EnoughError
        left[0] -= 1
        result = peers.run_job(job, options.timeout, state)
        if "error" not in result:  # dozens of stored models would fill the disk
            shutil.rmtree(Path(job.out) / "run", ignore_errors=True)
        return result

    return run


def ordered(compared: Sequence[Arm], seed: int) -> list[Arm]:
    """The arms, shuffled anew by each seed."""
    return random.Random(seed).sample(list(compared), len(compared))


def measure(
    options: argparse.Namespace, bench: Bench, run: Run, part: dict[str, Any]
) -> dict[str, Any]:
    """Tune every arm, then run it with every seed; ``part`` is filled as results come.

    Raises:
        EnoughError: from ``run``.
        ConfigError: if the work folder holds runs with other settings.
    """
    able, sentences = applicable(options, bench)
    part |= {"model": bench.model.name, "data": bench.facts, "left_out": sentences}
    part |= {"arms": {}, "runs": [], "before": {}}
    if bench.writes and any(not arm.reads_pairs for arm in able):
        part["before"] = run(before_job(options, bench))
    factors: dict[str, float] = {}
    for arm in able:
        jobs = {
            factor: make_job(options, bench, arm, factor, TUNING_SEED, tuning=True)
            for factor in options.factors
        }
        found = tune(jobs, run)
        told = {"note": arm.note, "method": arm.method, "settings": arm.settings}
        part["arms"][arm.name] = {**told, "rates": arm.rates(), "tuning": found.to_json()}
        if found.factor is not None:
            factors[arm.name] = found.factor
    for seed in options.seeds:
        for arm in ordered([a for a in able if a.name in factors], seed):
            job = make_job(options, bench, arm, factors[arm.name], seed, tuning=False)
            result = run(job)
            part["runs"].append({"variant": arm.name, "seed": seed, **result})
            _say(f"{bench.name}, {arm.name}, seed {seed}", result, bench.suite.main)
    return part


def _say(what: str, result: Mapping[str, Any], main: str) -> None:
    told = result.get("error") or f"{main} {result.get(main, math.nan):.3f}"
    sys.stdout.write(f"{what}: {told}\n")
    sys.stdout.flush()


# --- all ----------------------------------------------------------------------------------------


def describe(
    options: argparse.Namespace, suite: Suite, parts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The document of one suite; no host names, no paths, no text of the suite."""
    done = [run for part in parts for run in part.get("runs", ()) if "error" not in run]
    settings = {
        "steps": options.steps,
        "tokens_per_step": options.tokens_per_step,
        "rank": options.rank,
        "seeds": " ".join(map(str, options.seeds)),
        "factors": " ".join(f"{factor:g}" for factor in options.factors),
        "max_length": suite.max_length,
        "device": options.device,
    }
    return with_summary(
        {
            "title": options.title,
            "suite": {"id": suite.id, "title": suite.title, "licence": suite.licence}
            | {"note": suite.note, "kind": suite.kind, "shown": list(suite.shown)},
            "main": options.main or suite.main,
            "against": options.against,
            "machine": peers.machine(done) if done else {},
            "settings": settings,
            "left_out": options.left_out,
            "parts": list(parts),
        }
    )


def file_name(options: argparse.Namespace, suite_id: str) -> str:
    """Name of the files of a suite, without suffix."""
    return f"methods-{options.table}-{suite_id}" if options.table else f"methods-{suite_id}"


def run_suite(options: argparse.Namespace, suite_id: str, work: Path, run: Run) -> dict[str, Any]:
    """Measure one suite with every model and write what there is, also when it is enough.

    Raises:
        EnoughError: from ``run``, after writing.
        StudioError: if model or suite cannot be used.
    """
    parts: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    for model_id in options.models:
        bench = prepare(options, suite_id, model_id, work)
        parts.append({})
        try:
            measure(options, bench, run, parts[-1])
        finally:
            if parts[-1].get("runs"):
                document = describe(options, bench.suite, [p for p in parts if p.get("runs")])
                name = file_name(options, suite_id)
                write_results(options.results, name, document, as_markdown(document))
    return document


def run_all(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Measure every suite that is on this machine.

    Raises:
        EnoughError: if no more runs are wanted this time.
    """
    documents = []
    run = runner(options, work / "state")
    for sentence in options.left_out:
        sys.stdout.write(f"left out: {sentence}\n")
    for suite_id in options.suites:
        try:
            documents.append(run_suite(options, suite_id, work, run))
        except DataError as error:
            sys.stdout.write(f"{suite_id}: left out. {error}\n")
    return [document for document in documents if document]


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    try:
        options = parse(arguments)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            documents = run_all(options, Path(options.work or temporary).resolve())
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except EnoughError:
        sys.stdout.write("As many runs as asked for; the same command goes on.\n")
        return 0
    runs = [run for document in documents for part in document["parts"] for run in part["runs"]]
    return int(any("error" in run for run in runs) or not runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
