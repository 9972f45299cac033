"""``python -m benchmarks.peers``: ours against other libraries, each run in a fresh process.

For every pair of a model and a class: the same frozen data, steps, examples a step and rank budget
for all variants; their order is shuffled with each seed. No torch in here.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import datasets
from benchmarks.chart import chart
from benchmarks.settings import (
    DEFAULT_VARIANTS,
    HALF,
    LEAST,
    OURS,
    OWN,
    PAIR_PEERS,
    PEERS,
    QLORA,
    RESULT,
    UNIFORM,
    VARIANTS,
    Job,
)
from benchmarks.summary import summary_json, summary_markdown
from benchmarks.table import MEASURES, TIMED, as_json, as_markdown
from core import doctor, models
from core.config import RunConfig, parse_size
from core.errors import ConfigError, DataError, StudioError
from core.home import CHECKOUT
from core.runs.environment import child_environment, usable_cores
from core.runs.folder import read_json, write_json

QUICK_STEPS, QUICK_QUESTIONS, QUICK_EXAMPLES = 3, 2, 48
# Beginnings of the names that tune allocator and waiting threads of our own processes; the peers
# run as their users start them.
OUR_TUNING = ("MALLOC_", "GOMP_", "OMP_WAIT_POLICY")
SHOWN_VERSIONS = ("python", "torch", "transformers", "peft", "bitsandbytes")

Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """Where everything of one pair is.

    Attributes:
        name: of model and class, for files.
        work: folder of the processes' own folders.
        model: local folder of the base model.
        lesson: the frozen data.
    """

    name: str
    work: Path
    model: Path
    lesson: datasets.Lesson


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: if the budget is no size or share, or a variant lacks what it is measured by.
    """
    defaults = RunConfig()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=list(DEFAULT_VARIANTS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=60, help="optimizer steps of every run")
    add("--budget", default="", help="of ours: 500MB, or 60%% of QLoRA's peak; without: none")
    add("--models", "--model", nargs="+", default=[defaults.model], help="ids or folders")
    add("--datasets", "--data", nargs="+", default=["english"], help=_known_datasets())
    add("--shared", type=Path, default=datasets.SHARED, help="folder of the public data")
    add("--examples", type=int, default=datasets.EXAMPLES, help="drawn from a larger file")
    add("--rank", type=int, default=defaults.adapter.rank, help="mean rank at the end")
    add("--lr", type=float, default=defaults.train.lr, help="peak learning rate of ours")
    add("--peer-lr", type=float, default=1e-3, help="peak learning rate of LoRA and QLoRA")
    add("--adalora-lr", type=float, default=2e-2, help="peak learning rate of AdaLoRA")
    add("--tokens-per-step", type=int, default=defaults.train.tokens_per_step)
    add("--max-length", type=int, default=defaults.train.max_length, help="tokens of an example")
    add("--questions", type=int, default=12, help="quiz questions answered in writing")
    add("--max-new-tokens", type=int, default=48, help="longest written answer")
    add("--timeout", type=float, default=7200, help="seconds after which a run has failed")
    add("--work", type=Path, help="folder for the runs; finished ones in it are not run again")
    add("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    add("--untimed", action="store_true", help="other work runs beside: leave times out")
    add("--quick", action="store_true", help="3 steps, first seed: does everything start?")
    options = parser.parse_args(arguments)
    options.budget_share, options.budget_bytes = _budget(options.budget)
    if options.quick:
        options.steps, options.questions = QUICK_STEPS, QUICK_QUESTIONS
        options.seeds, options.examples = options.seeds[:1], QUICK_EXAMPLES
    _check_variants(options)
    return options


def _known_datasets() -> str:
    return f"{', '.join((*datasets.OWN, *datasets.PUBLIC))}, or class files"


def _budget(text: str) -> tuple[float, int]:
    """Return (share of QLoRA's peak, bytes) of a budget; one of them is 0."""
    share = re.fullmatch(r"([0-9]+)%", text.strip())
    if share:
        return int(share[1]) / 100, 0
    return 0.0, parse_size(text) if text else 0


def _check_variants(options: argparse.Namespace) -> None:
    needs = {name: (OURS,) for name in UNIFORM} | {HALF: QLORA}
    if options.budget_share:
        needs[OURS] = QLORA
    for variant in options.variants:
        wanted = needs.get(variant, ())
        if wanted and not set(wanted) & set(options.variants):
            raise ConfigError(
                f"The memory of {variant} follows from {' or '.join(wanted)}, which is left out.",
                where="--variants",
                action=f"Add {wanted[-1]}.",
            )


def prepare(options: argparse.Namespace, model_id: str, dataset: str, work: Path) -> Bench:
    """Make the model local and freeze the class, once for all runs of the pair.

    Raises:
        StudioError: if model or class file cannot be used.
    """
    model = models.ensure_local(models.resolve(model_id)).resolve()
    name = f"{model.name}-{datasets.label(dataset)}"
    lesson = datasets.prepare(
        dataset,
        model,
        work / name / "data",
        max_length=options.max_length,
        number=options.examples,
        shared=options.shared,
    )
    return Bench(name, work / name, model, lesson)


def learning_rate(options: argparse.Namespace, variant: str) -> float:
    """Return the peak learning rate of a variant."""
    if variant in OWN:
        return float(options.lr)
    is_adalora = PEERS[variant].method == "adalora"
    return float(options.adalora_lr if is_adalora else options.peer_lr)


def memory(options: argparse.Namespace, variant: str, runs: Runs) -> dict[str, Any] | None:
    """Return what a variant's job says about its memory.

    Budgets that follow from another variant are those of the first seed, so that all seeds of a
    variant have the same.

    Args:
        options: the command line's.
        variant: what is to be run.
        runs: of this pair, so far.

    Returns:
        Fields of :class:`Job`; None if the run that they follow from has failed.
    """
    first = [run for run in runs if run["seed"] == options.seeds[0] and "error" not in run]
    if variant in UNIFORM:
        plan = next((run["plan"] for run in first if run["variant"] == OURS), None)
        return plan and {
            "budget_bytes": plan["filled_bytes"],
            "bits": UNIFORM[variant],
            # How many blocks "part" means follows from the budget and the size of a pass again.
            "checkpointing": "auto" if plan["checkpointing"] == "part" else plan["checkpointing"],
            "micro_batch_tokens": plan["micro_batch"],
        }
    if variant == LEAST:
        return {"budget_bytes": 1, "or_least": True}
    share = {HALF: 0.5, OURS: options.budget_share}.get(variant, 0.0)
    if not share:
        return {"budget_bytes": options.budget_bytes if variant == OURS else 0}
    peaks = [run["peak_bytes"] for run in first if run["variant"] in QLORA]
    return {"budget_bytes": int(share * min(peaks)), "or_least": True} if peaks else None


def make_job(
    options: argparse.Namespace, bench: Bench, variant: str, seed: int, runs: Runs
) -> Job | None:
    """Return what the process of one variant with one seed is told; None as :func:`memory`."""
    told = memory(options, variant, runs)
    if told is None:
        return None
    return Job(
        variant=variant,
        seed=seed,
        model=str(bench.model),
        data=str(bench.lesson.folder),
        out=str(bench.work / f"{variant}-seed{seed}"),
        steps=options.steps,
        rank=options.rank,
        lr=learning_rate(options, variant),
        tokens_per_step=options.tokens_per_step,
        max_length=options.max_length,
        questions=options.questions,
        max_new_tokens=options.max_new_tokens,
        **told,
    )


def environment(job: Job, base: Mapping[str, str], state: Path | None = None) -> dict[str, str]:
    """Return the environment of a process: the same threads for all, no network.

    Ours gets what the studio gives its children, and a state folder of its own, so that nothing
    measured by an earlier run is recalled, unless ``state`` is given. The peers get the allocator
    and the waiting threads that their users have.
    """
    ours = child_environment(_untuned(base))
    if _is_ours(job):
        return {**ours, "STUDIO_HOME": str(state or Path(job.out) / "state")}
    return _untuned(ours)


def _is_ours(job: Job) -> bool:
    return job.method not in PAIR_PEERS if job.method else job.variant in OWN


def _untuned(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(OUR_TUNING)}


def finished(job: Job) -> dict[str, Any] | None:
    """Return the result that a job's folder holds, if it does.

    Raises:
        ConfigError: if it is that of other settings.
    """
    out = Path(job.out)
    result = read_json(out / RESULT)
    if result is not None and Job.load(out / "job.json") != job:
        raise ConfigError(
            "This folder holds runs with other settings.",
            where="--work",
            action="Choose another folder, or the settings of the runs in it.",
        )
    return result


def command(job: Job) -> list[str]:
    """Return the command line of a job's process."""
    module = "our_process" if job.variant in OWN else "peer_process"
    if job.method:
        module = "pair_process" if job.method in PAIR_PEERS else "method_process"
    return [sys.executable, "-m", f"benchmarks.{module}", str(Path(job.out) / "job.json")]


def run_job(job: Job, timeout: float, state: Path | None = None) -> dict[str, Any]:
    """Run a job in a fresh process, in a fresh folder.

    Args:
        job: what to do.
        timeout: seconds after which the process is ended.
        state: what ours remembers between runs; without: nothing.

    Returns:
        What the process measured, or ``error`` with the last line it wrote.
    """
    out = Path(job.out)
    shutil.rmtree(out, ignore_errors=True)  # what a killed run left would be gone on with
    out.mkdir(parents=True)
    job.save(out / "job.json")
    log = out / "log.txt"
    with log.open("wb") as stream:
        try:
            code = subprocess.run(
                command(job),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env=environment(job, os.environ, state),
                timeout=timeout,
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {timeout:.0f} s"}
    result = read_json(out / RESULT)
    if result is not None and not code:
        return result
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "nothing was written")
    return {"error": f"exit code {code}: {last[:200]}"}


def describe(options: argparse.Namespace, bench: Bench, runs: Runs) -> dict[str, Any]:
    """Return the document of :func:`benchmarks.table.as_markdown`; no host names, no paths."""
    done = [run for run in runs if "error" not in run]
    kept = (
        "steps",
        "rank",
        "lr",
        "peer_lr",
        "adalora_lr",
        "tokens_per_step",
        "max_length",
        "questions",
        "max_new_tokens",
    )
    settings = {
        "seeds": " ".join(map(str, options.seeds)),
        **{name: getattr(options, name) for name in kept},
        "budget_of_ours": options.budget or "none",
        "examples_per_step": next(
            (r["examples_per_step"] for r in done if r["variant"] not in OWN), ""
        ),
    }
    data = {
        "model": bench.model.name,
        "class": bench.lesson.name,
        "examples_in_the_file": bench.lesson.found,
        "short_enough": bench.lesson.fitting,
        "train_examples": len(bench.lesson.sides.train),
        "quiz_questions": len(bench.lesson.sides.quiz),
        "sha256": bench.lesson.sides.sha256,
    }
    base: dict[str, Any] = next((run["base"] for run in done if run["variant"] in OWN), {})
    return {
        "name": bench.name,
        "machine": machine(done),
        "settings": settings,
        "data": data,
        "base": base,
        "runs": runs,
    }


def machine(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the runs were measured on; no host names."""
    found = doctor.report()["versions"]
    return {
        "cores": usable_cores(),
        "threads": "/".join(sorted({str(run["threads"]) for run in done})),
        "instructions": "/".join(sorted({run["instructions"] for run in done})),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": sys.platform,
        **{name: found.get(name, "") for name in SHOWN_VERSIONS},
        "trl": version("trl"),
    }


def ordered(options: argparse.Namespace, seed: int) -> list[str]:
    """Return the variants, shuffled anew by each seed; those whose memory follows come last."""

    def after(variant: str) -> int:
        follows = {HALF: 1, OURS: bool(options.budget_share), **dict.fromkeys(UNIFORM, 2)}
        return follows.get(variant, 0)

    return sorted(random.Random(seed).sample(options.variants, len(options.variants)), key=after)


def measure(options: argparse.Namespace, bench: Bench) -> Runs:
    """Run every variant with every seed; what is finished in the work folder is taken from there.

    Raises:
        ConfigError: if what is finished there has other settings.
    """
    runs: Runs = []
    for seed in options.seeds:
        for variant in ordered(options, seed):
            job = make_job(options, bench, variant, seed, runs)
            if job is None:
                result = {"error": "the run that its memory follows from has failed"}
            else:
                result = finished(job) or run_job(job, options.timeout)
            untimed = TIMED if options.untimed else ()
            told = {name: value for name, value in result.items() if name not in untimed}
            run = {"variant": variant, "seed": seed, **told}
            runs.append(run)
            _say(f"{bench.name}, {variant}, seed {seed}", run)
    return runs


def _say(what: str, run: Mapping[str, Any]) -> None:
    shown = [f"{m.title} {m.show(run[m.name])}" for m in MEASURES if run.get(m.name) is not None]
    sys.stdout.write(f"{what}: {run.get('error') or ', '.join(shown)}\n")
    sys.stdout.flush()


def write_pair(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write the table, the numbers and the chart of a pair."""
    write_json(folder / f"{name}.json", as_json(document))
    (folder / f"{name}.md").write_text(as_markdown(document, chart=f"{name}.svg"), "utf-8")
    (folder / f"{name}.svg").write_text(chart(document), "utf-8")


def write_all(options: argparse.Namespace, documents: Sequence[Mapping[str, Any]]) -> None:
    """Write the files of every pair and the summary over them."""
    base = "quick" if options.quick else "peers"
    options.results.mkdir(parents=True, exist_ok=True)
    for document in documents:
        write_pair(options.results, f"{base}-{document['name']}", document)
    names = [f"{base}-{document['name']}" for document in documents]
    write_json(options.results / f"{base}.json", summary_json(documents))
    text = summary_markdown(documents, names)
    (options.results / f"{base}.md").write_text(text, "utf-8")


def run_all(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Measure every pair of a model and a class that is on this machine; write after each."""
    documents: list[dict[str, Any]] = []
    for model_id in options.models:
        for dataset in options.datasets:
            try:
                bench = prepare(options, model_id, dataset, work)
            except DataError as error:
                sys.stdout.write(f"{model_id}, {dataset}: left out. {error}\n")
                continue
            documents.append(describe(options, bench, measure(options, bench)))
            write_all(options, documents)
    return documents


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    try:
        options = parse(arguments)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            documents = run_all(options, Path(options.work or temporary).resolve())
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    failed = any("error" in run for document in documents for run in document["runs"])
    return int(failed or not documents)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
