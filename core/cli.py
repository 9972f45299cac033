"""The command line: one contract for people, scripts and checks.

``python launch.py VERB ...`` or ``python -m core.cli VERB ...``. What a person reads goes to
standard error; with ``--json`` standard output carries exactly one JSON document. Exit codes:
0 done, 2 the input is wrong, 3 it does not fit the budget, 4 training failed, 130 stopped by the
person. Nothing heavy is imported here: models are loaded in child processes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from core.config import DataConfig, RunConfig, columns_text, parse_size
from core.errors import ConfigError, StudioError
from core.home import home
from core.modelcheck import is_shape
from core.recipe import load_settings
from core.runs.attached import prepare_folder, run_attached
from core.runs.explain import error_document, explain
from core.runs.service import Service, ServiceError
from core.runs.terminal import MB, Screen, marks_line, print_document

Document = dict[str, Any]
Outcome = tuple[int, Document]
Verb = Callable[[argparse.Namespace, Screen], Outcome]

_OWN_OPTIONS = ("data.path", "data.columns", "budget_bytes")  # are --data, --map and --budget
EDITS = (
    "a correction, repeatable; A and B are names: rename:A:NEW, merge:A:B, add:A, remove:A, "
    "confirm:A, kind:A:skill, add-relation:A:B:prerequisite (also remove-, confirm-relation)"
)
_MAPPED = ("question", "answer")  # whose columns may be named while all others are guessed
_LOG = "cli.log"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{message[:1].upper()}{message[1:]}."[:300],
            action=f"See: {self.prog} --help",
            code="cli.usage",
        )


# The parser


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs (the reference in ``docs/`` is made from it)."""
    parser = _Parser(prog="launch.py", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add(verbs, "doctor", doctor, "environment, device, memory, versions, what is missing")
    _add(verbs, "models", models, "base models that can be used now")
    _add(verbs, "methods", methods, "the method families")
    _add_data(_add(verbs, "data", data, "read a class file and say what is in it"))
    _add_settings(_add(verbs, "plan", plan, "the plan for a memory budget, without training"))
    train_parser = _add(verbs, "train", train, "plan, train and mark the quiz")
    _add_settings(train_parser)
    train_parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    distill_parser = _add(verbs, "distill", distill, "make a model smaller: its student learns")
    _add_settings(distill_parser)
    distill_parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    resume_parser = _add(verbs, "resume", resume, "go on from the newest whole checkpoint")
    resume_parser.add_argument("folder", metavar="DIR", help="folder of the run")
    _add_evaluate(_add(verbs, "evaluate", evaluate, "the quiz on all examples of a file"))
    _add_chat(_add(verbs, "chat", chat, "one answer, streamed"))
    _add_export(_add(verbs, "export", export, "write a tuned model for others, and check it"))
    _add_pairs(_add(verbs, "pairs", pairs, "ask a model that compares questions (method pairs)"))
    _add_graph(_add(verbs, "graph", graph, "the concept map of a class: what it covers, gaps"))
    _add_compare(_add(verbs, "compare", compare, "runs side by side, with intervals"))
    return parser


def _add(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text[:1].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=verb)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map",
        metavar="question=COL,answer=COL",
        type=_columns,
        help="which columns to read; a part that is named twice joins them. Beside question and "
        "answer: context, system, topic, options, earlier (turns before the question); with these, "
        "no other column is used",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the class file")
    parser.add_argument(
        "--pairs", action="store_true", help="read it as pairs of questions with a label"
    )
    parser.add_argument(
        "--model",
        default="",
        help="check the class as a whole for this model: lengths, quiz questions in learned rows,"
        " near duplicates of large classes, the rows of every finding",
    )
    parser.add_argument(
        "--import",
        dest="into",
        metavar="DIR",
        help="import a large CSV, TSV, JSONL or Parquet file into this folder, for --data DIR",
    )
    _add_reading(parser)
    parser.add_argument("--sheet", default="", help="sheet of a workbook")
    parser.add_argument("--encoding", default="", help="text encoding; empty: recognised")


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of a run of the method pairs")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--ask", nargs=2, metavar=("FIRST", "SECOND"), help="do these two questions mean the same?"
    )
    asked.add_argument(
        "--duplicates", metavar="FILE", help="a class file: which questions were asked before?"
    )
    _add_reading(parser)
    parser.add_argument("--sheet", default="", help="sheet of a workbook")
    parser.add_argument("--encoding", default="", help="text encoding; empty: recognised")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of the configuration, with its help and unit."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="saved settings, or a recipe in YAML; options go before them",
    )
    parser.add_argument("--data", metavar="FILE", help="the class file", default=None)
    parser.add_argument(
        "--budget", metavar="SIZE", help="memory of the training process, e.g. 900MB or 1.5GB"
    )
    _add_reading(parser)
    for path, kind, field in settings():
        option = f"--{field.name.replace('_', '-')}"
        unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
        text = f"{field.metadata['help']}{unit} (default: {field.default})".replace("%", "%%")
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(option, dest=path, action=action, help=text, default=None)
        else:
            shown = field.name.upper()
            parser.add_argument(
                option, dest=path, type=kind, metavar=shown, help=text, default=None
            )


def settings() -> list[tuple[str, type, Any]]:
    """Return dotted path, type and field of every setting that has an option of its own name."""
    found = []
    for field in fields(RunConfig):
        kind = get_type_hints(RunConfig)[field.name]
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            found += [(f"{field.name}.{f.name}", hints[f.name], f) for f in fields(kind)]
        else:
            found.append((field.name, kind, field))
    return [entry for entry in found if entry[0] not in _OWN_OPTIONS]


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="", help="id of a base model, or a local folder")
    parser.add_argument(
        "--adapter", default="", metavar="DIR", help="a run folder or an exported adapter"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", required=True, metavar="FILE", help="the class file")
    _add_reading(parser)
    parser.add_argument("--sheet", default="", help="sheet of a workbook")
    parser.add_argument("--encoding", default="", help="text encoding; empty: recognised")
    parser.add_argument("--questions", type=int, help="questions answered in writing; all if unset")
    parser.add_argument("--max-new-tokens", type=int, default=RunConfig().quiz.max_new_tokens)


def _add_chat(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question")
    parser.add_argument("--system", default="", metavar="TEXT", help="a system message")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--format", required=True, help="peft (both adapters), merged, report or card"
    )
    parser.add_argument("--out", required=True, metavar="DIR2", help="folder to write")


def _add_graph(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="the class file, a text about the subject, or a saved map"
    )
    _add_reading(parser)
    parser.add_argument("--sheet", default="", help="sheet of a workbook")
    parser.add_argument("--encoding", default="", help="text encoding; empty: recognised")
    parser.add_argument(
        "--material", metavar="FILE", action="append", default=[], help="a text to add; repeatable"
    )
    parser.add_argument("--encoder", default="", metavar="MODEL", help="reads the texts")
    parser.add_argument(
        "--pairs", default="", metavar="DIR", help="run that finds double questions"
    )
    parser.add_argument(
        "--run", dest="marks", default="", metavar="DIR", help="mastery by its quiz"
    )
    parser.add_argument("--previous", default="", metavar="FILE", help="keep a map's corrections")
    parser.add_argument("--most", type=int, default=300, help="concepts at most (default: 300)")
    parser.add_argument(
        "--split",
        default="",
        metavar="DIR",
        help="write the class with a quiz of concepts that are not learned, for train --data DIR",
    )
    parser.add_argument(
        "--gap-weights", action="store_true", help="with --split: repeat examples of large gaps"
    )
    parser.add_argument("--edit", metavar="OP:A[:B[:C]]", action="append", default=[], help=EDITS)
    parser.add_argument("--undo", action="store_true", help="take the last correction back")
    parser.add_argument("--save", metavar="FILE", default="", help="write the map with its history")
    parser.add_argument("--format", default="", help="json, graphml or csv, into --out")
    parser.add_argument("--out", metavar="DIR", default="", help="folder of the files of --format")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of runs")
    parser.add_argument(
        "--reference", metavar="DIR", default="", help="compare with this run; empty: the first"
    )
    parser.add_argument("--csv", metavar="FILE", help="write a table for spreadsheets")
    parser.add_argument("--report", metavar="FILE", help="write a page to print (HTML)")
    parser.add_argument(
        "--language", choices=("en", "zh"), default="en", help="of table and report"
    )


# Settings


def _columns(text: str) -> dict[str, str]:
    """Read ``question=COL,answer=COL``; a column's name may hold commas and equal signs.

    Returns:
        Fields of ``DataConfig``: ``question`` and ``answer``, or ``columns`` if there is more.
    """
    from core.data.ingest.columns import PARTS

    pieces = re.split(rf"(?:^|,)({'|'.join(PARTS)})=", text)
    if pieces[0] or len(pieces) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not question=COL,answer=COL")
    named = list(zip(pieces[1::2], pieces[2::2], strict=True))
    if len(dict(named)) == len(named) and set(dict(named)) <= set(_MAPPED):
        return dict(named)
    parts: dict[str, list[str]] = {}
    for part, column in named:
        parts.setdefault(part, []).append(column)
    return {"columns": columns_text(parts)}


def configure(options: argparse.Namespace) -> RunConfig:
    """Return the settings of the command line, over those of ``--config``.

    Paths become absolute: the child works in another folder.

    Raises:
        ConfigError: a setting is wrong, or there is no data.
    """
    tree: Document = {}
    if options.config:
        config, told = load_settings(Path(options.config))
        tree = config.to_json()
        for problem in told:
            Screen().say(f"{problem.severity}: {problem.sentence()}")
    given = {path: getattr(options, path) for path, _, _ in settings()}
    given |= {"data.path": options.data, **_reading(options.map)}
    if options.budget is not None:
        given["budget_bytes"] = parse_size(options.budget)
    if given["train.epochs"] is not None:
        if given["train.steps"] is not None:
            raise ConfigError("Give --steps or --epochs, not both.", code="cli.steps_or_epochs")
        given["train.steps"] = 0
    for path, value in given.items():
        if value is not None:
            _put(tree, path, value)
    if not tree.get("data", {}).get("path"):
        raise ConfigError("No class file is given.", action="Add --data FILE.", code="cli.data")
    tree["data"]["path"] = str(_existing(tree["data"]["path"]))
    tree["model"] = _model_name(tree.get("model", RunConfig().model))
    if student := tree.get("distill", {}).get("student"):
        tree["distill"]["student"] = _model_name(student)
    return RunConfig.from_json(tree)


def _reading(mapped: dict[str, str] | None) -> Document:
    return {f"data.{name}": column for name, column in (mapped or {}).items()}


def _put(tree: Document, path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[name] = value


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(
            f"There is no file {found.name}.",
            where="--data",
            action="Check the name and the folder.",
            code="file.missing",
        )
    return found.resolve()


def _run_folder(path: str) -> Path:
    folder = Path(path).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder.name} is not the folder of a run.",
            where=folder.name,
            action="Give a folder that 'train --out' has made.",
            code="run.folder",
        )
    return folder


# Verbs without a model


def doctor(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Report the environment."""
    from core.doctor import as_text, report

    found = report()
    screen.say(as_text(found))
    return 0, found


def models(options: argparse.Namespace, screen: Screen) -> Outcome:
    """List base models."""
    from core.models import list_models

    found = list_models()
    for info in found:
        state = info.problem or ("ready" if info.ready else "made ready when first used")
        screen.say(f"{info.id}  {info.parameters / MB:.0f} M  {info.architecture}  {state}")
    return 0, {"models": [info.to_json() for info in found]}


def methods(options: argparse.Namespace, screen: Screen) -> Outcome:
    """List method families."""
    from core.methods import METHODS

    names = ("id", "title", "source", "supports", "needs")
    found = [{name: getattr(method, name) for name in names} for method in METHODS]
    for method in found:
        screen.say(f"{method['id']}  {method['title']}  ({method['source']})")
    return 0, {"methods": found}


def data(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Read a class file; nothing is changed."""
    from core.data.ingest import read_isolated

    path = _existing(options.file)
    if options.pairs:
        return _pair_data(path, options, screen)
    mapped = options.map or {}
    if options.into:
        return _import(path, Path(options.into).expanduser(), mapped, options, screen)
    asked = DataConfig(sheet=options.sheet, encoding=options.encoding, **mapped)
    result = read_isolated(path, **asked.reading())
    screen.say(f"{path.name}: {result.format}, {len(result.examples)} examples")
    whole = bool(options.model)
    for problem in result.problems:
        if not (whole and problem.code.startswith("health.")):  # said below, with more in view
            screen.say(f"{problem.severity}: {problem.sentence()}")
    return 0, {**result.to_json(), **(_checked(path, options, screen) if whole else {})}


def _checked(path: Path, options: argparse.Namespace, screen: Screen) -> dict[str, Any]:
    """Return the whole check of a class for a model, and say what it found."""
    reading = {"path": str(path), **(options.map or {})}
    reading |= {"sheet": options.sheet, "encoding": options.encoding}
    config = RunConfig.from_json({"model": options.model, "data": reading})
    found = _serve(screen, "health", config=config.to_json())
    for tree in found["findings"]:
        screen.say(f"{tree['severity']}: {tree['where']}: {tree['what']} {tree['action']}".rstrip())
    if missing := found["model_problem"]:
        screen.say(f"warning: {missing['what']}")
    if tokens := found["tokens"]:
        screen.say(
            f"{tokens['tokens']} tokens, {tokens['answer_tokens']} of them learned; the longest "
            f"example has {tokens['longest']}, {tokens['limit']} are kept"
        )
    if refusal := found["refusal"]:
        screen.say(f"error: {refusal['what']} {refusal['action']}")
    return {"check": found}


def _import(
    path: Path, to: Path, mapped: dict[str, Any], options: argparse.Namespace, screen: Screen
) -> Outcome:
    from core.data.ingest import large
    from core.data.ingest.stream import Progress

    def show(progress: Progress) -> None:
        share = 100 * progress.done / max(1, progress.total)
        left = f"{progress.rate:,.0f} rows a second, {progress.seconds_left:.0f} s left"
        screen.progress(f"importing {share:3.0f} % ({progress.rows:,} rows, {left})")

    found = large.import_isolated(
        path,
        to,
        question=mapped.get("question", ""),
        answer=mapped.get("answer", ""),
        encoding=options.encoding,
        columns=DataConfig(**mapped).parts or None,
        progress=show,
    )
    screen.say(f"{path.name}: {found.about.format}, {found.about.examples} examples in {to.name}")
    for problem in found.about.problems:
        screen.say(f"{problem.severity}: {problem.sentence()}")
    return 0, large.summary(found.about)


def _pair_data(path: Path, options: argparse.Namespace, screen: Screen) -> Outcome:
    from core.data.pairs import read_pairs

    found = read_pairs(path, sheet=options.sheet, encoding=options.encoding)
    same = sum(pair.same for pair in found.pairs)
    screen.say(f"{path.name}: {found.format}, {len(found.pairs)} pairs, {same} of them the same")
    for problem in found.problems:
        screen.say(f"{problem.severity}: {problem.sentence()}")
    return 0, found.to_json()


# Verbs with a model


def plan(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Plan without training."""
    config = configure(options)
    document = _serve(screen, "plan", config=config.to_json())
    screen.show({"kind": "plan", "plan": document})
    if is_shape(Path(config.model)):
        screen.say(
            "The folder holds no weights: this is a prediction from its configuration, for steps "
            f"of {config.train.tokens_per_step} tokens; all layers are taken to be alike."
        )
    if document["feasible"]:
        return 0, document
    smallest = document["minimum_budget_bytes"]
    screen.say(
        f"This does not fit the budget; the smallest that works is {-(-smallest // MB)} MB. "
        f"{document['suggestion']}".strip()
    )
    return 3, document


def train(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Plan, train and mark."""
    config = configure(options)
    folder = Path(options.out).expanduser().resolve()
    prepare_folder(folder, config)
    return _work(folder, screen)


def distill(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Train a smaller student of a model: ``train --method distill`` under a name of its own."""
    options.method = "distill"
    code, document = train(options, screen)
    if code == 0:
        screen.say(_before_and_after(document))
    return code, document


def _before_and_after(result: Document) -> str:
    """Size, speed and perplexity of teacher and student in a line."""
    parts = []
    for who, which in (("teacher", "base"), ("student", "tuned")):
        marks = result["quiz"].get(which, {})
        speed = f", {marks['tokens_per_second']:.0f} tokens/s" if marks else ""
        perplexity = f", perplexity {marks['perplexity']:.2f}" if marks else ""
        parts.append(f"{who}: {result['sizes'][who]['bytes'] / MB:.0f} MB{speed}{perplexity}")
    return "; ".join(parts)


def resume(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Go on with a run."""
    return _work(_run_folder(options.folder), screen)


def _work(folder: Path, screen: Screen) -> Outcome:
    code, document = run_attached(folder, screen.show, screen.say)
    for problem in document.get("problems", []):
        screen.say(_sentence(problem))
    if code in (0, 130):
        screen.say(f"{document.get('status', 'done')}: {folder}")
    return code, document


def evaluate(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Mark a model on a file."""
    reading = {"path": str(_existing(options.data)), **(options.map or {})}
    reading |= {"sheet": options.sheet, "encoding": options.encoding}
    marks = _serve(
        screen,
        "evaluate",
        **_model(options),
        data=reading,
        questions=options.questions,
        max_new_tokens=options.max_new_tokens,
    )
    if marks.get("task") == "pairs":
        screen.say(f"{marks['examples']} pairs: {marks_line(marks)}")
        return 0, marks
    screen.say(
        f"{marks['examples']} examples, perplexity {marks['perplexity']:.2f}, "
        f"ROUGE-L {marks['rouge_l']:.3f}"
    )
    return 0, marks


def chat(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Answer one question."""
    turns = [{"role": "system", "content": options.system}] if options.system else []
    turns.append({"role": "user", "content": options.prompt})
    said = _serve(
        screen,
        "chat",
        **_model(options),
        turns=turns,
        temperature=0.0 if options.greedy else options.temperature,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    screen.say(f"\n[{said['tokens']} tokens in {said['seconds']:.1f} s]")
    return 0, {name: said[name] for name in ("answer", "tokens", "seconds")}


def export(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Write a tuned model and check it."""
    folder, out = _run_folder(options.folder), Path(options.out).expanduser().resolve()
    made = _serve(screen, "export", run=str(folder), format=options.format, out=str(out))
    checked = made["checked"]
    screen.say(f"written: {out}")
    if checked["prompts"]:
        screen.say(f"{checked['equal']} of {checked['prompts']} answers equal the studio's")
    return 0, made


def pairs(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Compare two questions, or find the questions of a class that were asked before."""
    run = str(_run_folder(options.folder))
    if options.ask:
        first, second = options.ask
        said = _serve(screen, "same", run=run, first=first, second=second)
        word = "the same question" if said["same"] else "different questions"
        screen.say(f"{word}: {said['probability']:.3f} (from {said['threshold']:.3f} the same)")
        return 0, said
    reading = {"path": str(_existing(options.duplicates)), **(options.map or {})}
    reading |= {"sheet": options.sheet, "encoding": options.encoding}
    found = _serve(screen, "duplicates", run=run, data=reading)
    for group in found["groups"]:
        screen.say("\n  = ".join(f"{asked['where']}: {asked['text']}" for asked in group))
    screen.say(f"{len(found['groups'])} groups among {found['questions']} questions")
    return 0, found


def graph(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Make, correct, show and write the concept map of a class."""
    from core.graph import document, formats, use
    from core.graph.words import Wording

    made = _map(options, screen)
    for text in options.edit:
        made = made.edit(_edit(made.current(), text))
    made = made.undo() if options.undo else made
    found = made.current()
    told = use.report(found) | {"version": made.version}
    if options.marks:
        from core.graph.marks import mastery_of

        told["mastery"] = mastery_of(found, _run_folder(options.marks))
    if options.split:
        told["split"] = _split(options, found)
    if options.save:
        _free(options.save)
        document.save(made, Path(options.save).expanduser().resolve())
    if options.format:
        told["files"] = _write_map(formats.files_of(found, options.format), options.out)
    for line in lines_of(told, Wording(found.language)):
        screen.say(line)
    return 0, told


def _map(options: argparse.Namespace, screen: Screen) -> Any:
    """The document: a saved one, or one that is made in the helper process."""
    from core.graph import document
    from core.graph.material import READERS

    path = _existing(options.file)
    if path.suffix.lower() == ".json" and document.is_map(path):
        return document.load(path)
    reading = {"path": str(path), **(options.map or {})}
    reading |= {"sheet": options.sheet, "encoding": options.encoding}
    material = [str(_existing(name)) for name in options.material]
    text_only = path.suffix.lower() in READERS and not options.map and not is_class(path)
    made = _serve(
        screen,
        "graph",
        data=None if text_only else reading,
        material=[str(path), *material] if text_only else material,
        encoder=_model_name(options.encoder),
        pairs=str(_run_folder(options.pairs)) if options.pairs else "",
        previous=str(_existing(options.previous)) if options.previous else "",
        name=path.stem,
        most=options.most,
    )
    return document.MapDocument.from_json(made)


def _split(options: argparse.Namespace, found: Any) -> Document:
    """Freeze the class split by concept.

    Raises:
        ConfigError: if a saved map was given in the place of the class.
    """
    from core.graph.classes import freeze_by_concept

    path = _existing(options.file)
    if path.suffix.lower() == ".json":
        from core.graph.document import is_map

        if is_map(path):
            raise ConfigError(
                "--split needs the class itself.",
                where="--split",
                action="Give the class file, and the map by --previous.",
                code="cli.split",
            )
    config = RunConfig.from_json(
        {
            "data": {
                "path": str(path),
                "sheet": options.sheet,
                "encoding": options.encoding,
                **(options.map or {}),
            }
        }
    )
    folder = Path(options.split).expanduser().resolve()
    return freeze_by_concept(found, config.data, folder, weighted=options.gap_weights)


def is_class(path: Path) -> bool:
    """Whether a text, Word or PDF file can be read as a class: it holds questions and answers."""
    from core.data.ingest import read_isolated

    if path.suffix.lower() not in (".txt", ".docx", ".pdf"):
        return False
    try:
        return len(read_isolated(path).examples) > 0
    except StudioError:
        return False


def _edit(found: Any, text: str) -> Any:
    """Read ``OP:A[:B[:C]]``; a name may stand for a concept.

    Raises:
        ConfigError: if it is none, or a name is not on the map.
    """
    from core.graph.document import OPERATIONS, Edit

    op, *parts = text.split(":")
    first, second, third = (*parts, "", "", "")[:3]

    def concept(name: str) -> str:
        here = found.named(name)
        if here is None:
            raise ConfigError(
                f"There is no concept {name[:60]!r} on the map.",
                where="--edit",
                action="Write a name as the map has it.",
                code="cli.concept",
            )
        return str(here.id)

    if op not in OPERATIONS or not first:
        raise ConfigError(
            f"{text[:60]!r} is no correction.",
            where="--edit",
            action=f"Write {EDITS.split('names: ')[1]}.",
            code="cli.edit",
        )
    if op == "add":
        return Edit(op, other=second, text=first)
    if op.endswith("relation"):
        return Edit(op, concept(first), concept(second), third or "prerequisite")
    return Edit(op, concept(first), concept(second) if op == "merge" else "", second)


def _free(name: str) -> Path:
    """The file to write, if it can be; before anything long is begun."""
    path = Path(name).expanduser().resolve()
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"{path.name} cannot be written there.",
            where=name[:60],
            action="Give the name of a file in a folder that exists.",
            code="cli.file",
        )
    return path


def _write_map(files: dict[str, bytes], out: str) -> list[str]:
    folder = Path(out or ".").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return sorted(files)


def lines_of(told: Document, words: Any) -> list[str]:
    """A map in lines: concepts, relations as sentences, gaps."""
    listed = told["entities"]
    lines = [f"{len(listed)} concepts in {told['questions']} questions"]
    lines += [f"  {e['name']}  ({words('kind.' + e['kind'])}, {e['count']})" for e in listed[:40]]
    shown = [r for r in told["relations"] if r["shown"]]
    for r in shown[:40]:
        said = words(f"relation.{r['kind']}", source=r["source"], target=r["target"])
        lines.append(f"  {said}  {r['confidence']:.2f}")
    if len(listed) > 40 or len(shown) > 40:
        lines.append(f"  ... {len(listed)} concepts, {len(shown)} relations in all")
    if split := told.get("split"):
        lines.append(f"{split['train']} to learn, {split['quiz']} in the quiz: {split['held'][:9]}")
    for m in told.get("mastery", ()):
        lines.append(f"  {m['name']}: {m['base']:.2f} -> {m['tuned']:.2f}")
    return lines + [g["sentence"] for g in told["gaps"]]


def compare(options: argparse.Namespace, screen: Screen) -> Outcome:
    """Put runs side by side; runs that differ in their seed alone are one row."""
    from core.compare import report, table
    from core.compare.folders import read_entry
    from core.compare.words import Wording

    words = Wording(options.language)
    entries = [read_entry(_run_folder(folder)) for folder in dict.fromkeys(options.folders)]
    reference = str(_run_folder(options.reference)) if options.reference else ""
    found = table.compare(entries, words, reference)
    for line in table.as_text(found, words):
        screen.say(line)
    if options.csv:  # with a byte order mark, by which spreadsheets know UTF-8
        _write(options.csv, "\ufeff" + table.to_csv(found, words))
    if options.report:
        today = time.strftime("%Y-%m-%d %H:%M")
        _write(options.report, report.report(found, words, today))
    return 0, table.to_json(found, words)


def _write(name: str, text: str) -> None:
    _free(name).write_text(text, "utf-8", newline="")


def _model(options: argparse.Namespace) -> Document:
    if not options.adapter:
        return {"model": _model_name(options.model), "which": "base"}
    folder = Path(options.adapter).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"There is no folder {folder.name}.",
            where="--adapter",
            action="Give a run folder or an exported adapter.",
            code="adapter.missing",
        )
    return {"adapter": str(folder), "model": _model_name(options.model), "which": "tuned"}


def _model_name(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if len(path.parts) > 1 and path.exists() else name


def _serve(screen: Screen, op: str, **arguments: Any) -> Document:
    """Ask the helper process, showing its progress and its text.

    Raises:
        StudioError: it could not be done.
    """
    service = Service(log=home() / _LOG)
    try:
        for answer in service.stream(op, **arguments):
            if answer["event"] == "token":
                screen.stream(answer["text"])
            elif answer["event"] == "progress":
                screen.show(answer)
        result: Document = answer["result"]
        return result
    finally:
        service.close()


# Entry


def _sentence(problem: Document) -> str:
    head = f"{problem['where']}: " if problem.get("where") else ""
    return f"{head}{problem['what']} {problem.get('action', '')}".strip()


def _document_of(error: StudioError) -> Document:
    document = error_document(error)
    if isinstance(error, ServiceError) and error.exit_code == 3:
        document |= {"feasible": False, "minimum_budget_bytes": error.minimum_budget_bytes}
    return document


def _run(arguments: Sequence[str], screen: Screen) -> Outcome:
    try:
        options = build_parser().parse_args(arguments)
        verb: Verb = options.run
        return verb(options, screen)
    except StudioError as error:
        for problem in error.problems:
            screen.say(problem.sentence())
        return error.exit_code, _document_of(error)
    except KeyboardInterrupt:
        screen.say("Stopped.")
        return 130, {"status": "stopped", "problems": []}
    except Exception as error:  # a bug: its traceback goes to the log, a sentence to the person
        said = explain(error, _log_file())
        screen.say(str(said))
        return said.exit_code, error_document(said)


def _log_file() -> Path:
    try:
        return home() / _LOG
    except OSError:
        return Path("edu-adaq-studio.log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    code, document = _run(arguments, Screen())
    if "--json" in arguments:
        print_document(document)
    return code


if __name__ == "__main__":
    sys.exit(main())
