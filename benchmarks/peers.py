"""``python -m benchmarks.peers``: ours against other libraries, each run in a fresh process.

The same model, frozen data, steps, examples a step and rank budget for all; the order of the
variants is shuffled with each seed. No torch in here.
"""

from __future__ import annotations

import argparse
import os
import random
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

from benchmarks.settings import DEFAULT_VARIANTS, OURS, OWN, PEERS, RESULT, VARIANTS, Job
from benchmarks.table import MEASURES, as_json, as_markdown
from core import doctor, models
from core.config import DataConfig, RunConfig, parse_size
from core.data import frozen
from core.data.ingest import read_isolated
from core.data.split import Split, split
from core.errors import ConfigError, StudioError
from core.home import ASSETS, CHECKOUT
from core.runs.environment import child_environment, usable_cores
from core.runs.folder import read_json, write_json

QUICK_STEPS, QUICK_QUESTIONS = 3, 2
# Beginnings of the names that tune allocator and waiting threads of our own processes; the peers
# run as their users start them.
OUR_TUNING = ("MALLOC_", "GOMP_", "OMP_WAIT_POLICY")
SHOWN_VERSIONS = ("python", "torch", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Bench:
    """Where everything of one benchmark is.

    Attributes:
        work: folder of the processes' own folders.
        model: local folder of the base model.
        data: folder of the frozen data.
        sides: the frozen data.
    """

    work: Path
    model: Path
    data: Path
    sides: Split


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: if the budget is no size.
    """
    defaults = RunConfig()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=list(DEFAULT_VARIANTS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=60, help="optimizer steps of every run")
    add("--budget", default="", help="memory budget of ours, such as 500MB; without: none")
    add("--model", default=defaults.model, help="id or folder of the base model")
    add("--data", type=Path, default=ASSETS / "samples" / "english.csv", help="class file")
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
    add("--quick", action="store_true", help="3 steps, first seed: does everything start?")
    options = parser.parse_args(arguments)
    options.budget_bytes = parse_size(options.budget) if options.budget else 0
    if options.quick:
        options.steps, options.questions = QUICK_STEPS, QUICK_QUESTIONS
        options.seeds = options.seeds[:1]
    return options


def prepare(options: argparse.Namespace, work: Path) -> Bench:
    """Make the model local and freeze the class, once for all runs.

    Raises:
        StudioError: if model or class file cannot be used.
    """
    model = models.ensure_local(models.resolve(options.model)).resolve()
    defaults = DataConfig()
    examples = read_isolated(options.data).examples
    sides = split(examples, share=defaults.quiz_share, largest=defaults.max_quiz, seed=0)
    frozen.freeze(examples, sides, work / "data")
    return Bench(work, model, work / "data", sides)


def learning_rate(options: argparse.Namespace, variant: str) -> float:
    """Return the peak learning rate of a variant."""
    if variant in OWN:
        return float(options.lr)
    is_adalora = PEERS[variant].method == "adalora"
    return float(options.adalora_lr if is_adalora else options.peer_lr)


def make_job(options: argparse.Namespace, bench: Bench, variant: str, seed: int) -> Job:
    """Return what the process of one variant with one seed is told."""
    return Job(
        variant=variant,
        seed=seed,
        model=str(bench.model),
        data=str(bench.data),
        out=str(bench.work / f"{variant}-seed{seed}"),
        steps=options.steps,
        rank=options.rank,
        lr=learning_rate(options, variant),
        tokens_per_step=options.tokens_per_step,
        max_length=options.max_length,
        budget_bytes=options.budget_bytes if variant == OURS else 0,
        questions=options.questions,
        max_new_tokens=options.max_new_tokens,
    )


def environment(job: Job, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process: the same threads for all, no network.

    Ours gets what the studio gives its children, and a state folder of its own, so that nothing
    measured by an earlier run is recalled. The peers get the allocator and the waiting threads
    that their users have.
    """
    ours = child_environment(_untuned(base))
    if job.variant in OWN:
        return {**ours, "STUDIO_HOME": str(Path(job.out) / "state")}
    return _untuned(ours)


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
    return [sys.executable, "-m", f"benchmarks.{module}", str(Path(job.out) / "job.json")]


def run_job(job: Job, timeout: float) -> dict[str, Any]:
    """Run a job in a fresh process, in a fresh folder.

    Args:
        job: what to do.
        timeout: seconds after which the process is ended.

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
                env=environment(job, os.environ),
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


def describe(
    options: argparse.Namespace, bench: Bench, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the document of :func:`benchmarks.table.as_markdown`; no host names, no paths."""
    found = doctor.report()
    done = [run for run in runs if "error" not in run]
    versions = {name: found["versions"].get(name, "") for name in SHOWN_VERSIONS}
    machine = {
        "cores": usable_cores(),
        "threads": "/".join(sorted({str(run["threads"]) for run in done})),
        "instructions": "/".join(sorted({run["instructions"] for run in done})),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": sys.platform,
        **versions,
        "trl": version("trl"),
    }
    kept = (
        "seeds",
        "steps",
        "rank",
        "lr",
        "peer_lr",
        "adalora_lr",
        "tokens_per_step",
        "max_length",
    )
    settings = {
        **{name: getattr(options, name) for name in (*kept, "questions", "max_new_tokens")},
        "seeds": " ".join(map(str, options.seeds)),
        "budget_of_ours": f"{options.budget_bytes / 1e6:.0f} MB" if options.budget else "none",
        "examples_per_step": next(
            (r["examples_per_step"] for r in done if r["variant"] not in OWN), ""
        ),
    }
    data = {
        "model": bench.model.name,
        "file": options.data.name,
        "train_examples": len(bench.sides.train),
        "quiz_questions": len(bench.sides.quiz),
        "sha256": bench.sides.sha256,
    }
    base: dict[str, Any] = next((run["base"] for run in done if run["variant"] in OWN), {})
    return {"machine": machine, "settings": settings, "data": data, "base": base, "runs": runs}


def measure(options: argparse.Namespace, bench: Bench) -> list[dict[str, Any]]:
    """Run every variant with every seed, the order shuffled anew by each seed.

    What is finished in the work folder already is taken from there.
    """
    runs = []
    for seed in options.seeds:
        variants = random.Random(seed).sample(options.variants, len(options.variants))
        for variant in variants:
            job = make_job(options, bench, variant, seed)
            result = finished(job) or run_job(job, options.timeout)
            run = {"variant": variant, "seed": seed, **result}
            runs.append(run)
            _say(run)
    return runs


def _say(run: Mapping[str, Any]) -> None:
    shown = [f"{m.title} {m.show(run[m.name])}" for m in MEASURES if run.get(m.name) is not None]
    text = run.get("error") or ", ".join(shown)
    sys.stdout.write(f"{run['variant']}, seed {run['seed']}: {text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    try:
        options = parse(arguments)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            work = Path(options.work or temporary).resolve()
            bench = prepare(options, work)
            runs = measure(options, bench)
            document = describe(options, bench, runs)
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    name = "quick" if options.quick else "peers"
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(options.results / f"{name}.json", as_json(document))
    (options.results / f"{name}.md").write_text(as_markdown(document), "utf-8")
    return int(any("error" in run for run in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
