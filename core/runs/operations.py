"""What the engine does besides training, for the command line and for the helper process.

Each function takes plain values and an ``emit``; :data:`OPERATIONS` gives them to
:mod:`core.runs.serve` under the names that pages ask for:

==========  ==================================================================================
ping        nothing; returns ``pid``
load        ``which`` and a model (see below): loads it ahead of the first question
plan        ``config``: returns the plan
lengths     ``model``, ``data``: tokens of a class
health      ``config``: the whole check of its class (:mod:`core.runs.examination`)
chat        ``which``, ``turns``, ``temperature``, ``top_p``, ``max_new_tokens``, ``seed``: streams
evaluate    a model, ``data``, ``questions`` (unset: all), ``max_new_tokens``: returns the marks
export      ``run``, ``format``, ``out`` (unset: in the run), ``language``: files and the check
same        ``run``, ``first``, ``second``: whether two questions mean the same
duplicates  ``run``, ``data``: questions of a class that were asked before
graph       ``data``, ``material``, ``encoder``, ``pairs``, ``previous``, ``name``, ``most``: the
            concept map of a class as a document; ``save`` (unset: nowhere) a file to write it to
==========  ==================================================================================

A model is named by ``run`` (a run folder, its base being the run's) or by ``model`` and, for the
tuned one, ``adapter``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import DataConfig, RunConfig
from core.data.types import Example, Turn
from core.errors import ConfigError, ModelError
from core.events import Emit, PhaseChanged
from core.runs.folder import read_json
from core.runs.residents import PairResident, Resident, Residents, base_of

if TYPE_CHECKING:
    from core.runs.serve import Operation, Request

_residents = Residents()


def plan(config: RunConfig, emit: Emit) -> dict[str, Any]:
    """Return the plan of a configuration (``Plan.to_json()``).

    Of a model folder without weights it is a prediction from its configuration.

    Raises:
        StudioError: model or data cannot be used.
    """
    from core.modelcheck import is_shape

    if is_shape(Path(config.model)):
        from core.methods import composed, planned
        from core.plan.shapes import plan_shape

        device = "cuda" if config.device == "cuda" else "cpu"
        return plan_shape(Path(config.model), planned(composed(config)), device=device).to_json()
    from core.pipeline import plan_run

    return plan_run(config, emit).to_json()


def read_examples(data: DataConfig) -> Sequence[Example]:
    """Return the examples of a file or an imported class; of a run's frozen data those of its quiz.

    Raises:
        DataError: nothing in it can be used.
    """
    from core.data.frozen import is_frozen, load_frozen
    from core.data.ingest import large, read_isolated

    path = Path(data.path)
    if large.is_imported(path):
        return large.load(path).examples
    for folder in (path, path / "data"):
        if is_frozen(folder):
            return tuple(load_frozen(folder).quiz)
    return read_isolated(path, **data.reading()).examples


def lengths(model: str, data: DataConfig, max_length: int) -> dict[str, int]:
    """Count the tokens of a class, as the model's tokenizer sees it.

    Returns:
        ``examples``, ``tokens``, ``answer_tokens`` (those that are learned), ``longest`` and
        ``cut``: how many answers are longer than ``max_length`` allows.

    Raises:
        StudioError: model or data cannot be used.
    """
    from core.data.chat import ChatFormat
    from core.modelload import load_tokenizer
    from core.models import ensure_local, resolve

    chat = ChatFormat.of(load_tokenizer(ensure_local(resolve(model))))
    encoded = [chat.encode(example, max_length) for example in read_examples(data)]
    return {
        "examples": len(encoded),
        "tokens": sum(len(e.ids) for e in encoded),
        "answer_tokens": sum(sum(label != -100 for label in e.labels) for e in encoded),
        "longest": max((len(e.ids) for e in encoded), default=0),
        "cut": sum(e.cut for e in encoded),
    }


def answer(
    resident: Resident,
    turns: Sequence[Turn],
    *,
    on_text: Callable[[str], None],
    should_stop: Callable[[], bool],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Let a model answer a conversation, streaming whole characters to ``on_text``.

    Returns:
        ``answer``, its ``tokens`` and the ``seconds`` it took.
    """
    from core.evaluate import generate

    started = time.monotonic()
    text = generate.answer(
        resident.model,
        resident.tokenizer,
        resident.chat,
        turns,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        on_text=on_text,
        should_stop=should_stop,
    )
    tokens = len(resident.tokenizer(text, add_special_tokens=False)["input_ids"])
    return {"answer": text, "tokens": tokens, "seconds": time.monotonic() - started}


def load(model: str, adapter: str, emit: Emit) -> Resident:
    """Load the tuned model if an adapter (or run folder) is named, otherwise the base.

    Raises:
        ModelError: it cannot be used.
    """

    def progress(share: float, text: str) -> None:
        emit(PhaseChanged("load", share, text))

    emit(PhaseChanged("load"))
    if adapter and compares(Path(adapter)):
        raise ModelError(
            "The model of this run compares two questions and writes no answers.",
            where=Path(adapter).name,
            action="Use it on the page Same question?, or by the verb pairs.",
            code="pairs.no_chat",
        )
    if adapter:
        return _residents.tuned(Path(adapter), model, progress)
    return _residents.base(model or "starter", progress)


def evaluate(
    resident: Resident,
    examples: Sequence[Example],
    *,
    questions: int,
    max_new_tokens: int,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return the marks of a model on examples (see :func:`core.evaluate.quiz.mark`)."""
    from core.evaluate.quiz import mark

    return mark(
        resident.model,
        resident.tokenizer,
        resident.chat,
        examples,
        questions=questions,
        max_new_tokens=max_new_tokens,
        emit=emit,
        should_stop=should_stop,
    )


def compares(run: Path) -> bool:
    """Whether a folder is that of a run whose model compares questions."""
    return (read_json(run / "config.json") or {}).get("method") == "pairs"


# Under the names of the helper process


def _named(request: Request) -> Resident:
    """The model that a request is about."""
    arguments = request.arguments
    run = str(arguments.get("run", ""))
    adapter = str(arguments.get("adapter", "")) or run
    which = arguments.get("which", "tuned" if adapter else "base")
    if which not in ("base", "tuned"):
        raise ConfigError(f"{which!r} is neither base nor tuned.", code="service.which")
    model = str(arguments.get("model", ""))
    if run and which == "base":
        model = base_of(Path(run))
    return load(model, adapter if which == "tuned" else "", request.emit)


def _ping(request: Request) -> dict[str, Any]:
    return {"pid": os.getpid()}


def _load(request: Request) -> dict[str, Any]:
    _named(request)
    return {}


def _plan(request: Request) -> dict[str, Any]:
    return plan(RunConfig.from_json(request.arguments["config"]), request.emit)


def _data_of(request: Request) -> DataConfig:
    return RunConfig.from_json({"data": request.arguments["data"]}).data


def _lengths(request: Request) -> dict[str, Any]:
    limit = int(request.arguments.get("max_length", RunConfig().train.max_length))
    return lengths(request.arguments["model"], _data_of(request), limit)


def _health(request: Request) -> dict[str, Any]:
    from core.runs.examination import examination, tell

    config = RunConfig.from_json(request.arguments["config"])
    tell(request.emit, "read")
    return examination(config, read_examples(config.data), request.emit)


def _chat(request: Request) -> dict[str, Any]:
    known = {"max_new_tokens": int, "temperature": float, "top_p": float, "seed": int}
    given = request.arguments
    sampling: dict[str, Any] = {k: cast(given[k]) for k, cast in known.items() if k in given}
    turns = [Turn(str(t["role"]), str(t["content"])) for t in given["turns"]]
    resident = _named(request)
    with resident.lock:
        said = answer(
            resident,
            turns,
            on_text=request.text,
            should_stop=request.cancelled.is_set,
            **sampling,
        )
    return {**said, "stopped": request.cancelled.is_set()}


def _evaluate(request: Request) -> dict[str, Any]:
    asked = request.arguments.get("adapter") or request.arguments.get("run") or ""
    if asked and compares(Path(str(asked))):
        return _evaluate_pairs(request, Path(str(asked)))
    examples, quiz = read_examples(_data_of(request)), RunConfig().quiz
    questions = request.arguments.get("questions")
    resident = _named(request)
    with resident.lock:
        return evaluate(
            resident,
            examples,
            questions=len(examples) if questions is None else int(questions),
            max_new_tokens=int(request.arguments.get("max_new_tokens", quiz.max_new_tokens)),
            emit=request.emit,
            should_stop=request.cancelled.is_set,
        )


def _share(request: Request, phase: str) -> Callable[[float], None]:
    return lambda share: request.emit(PhaseChanged(phase, share))


def _pair_model(request: Request, run: Path) -> PairResident:
    request.emit(PhaseChanged("load"))
    return _residents.pairs(run)


def _evaluate_pairs(request: Request, run: Path) -> dict[str, Any]:
    from core.pairs import use

    pairs = use.read_labelled(_data_of(request))
    resident = _pair_model(request, run)
    with resident.lock:
        return use.evaluate(resident.trained, pairs, _share(request, "quiz"))


def _same(request: Request) -> dict[str, Any]:
    from core.pairs import use

    first, second = (str(request.arguments.get(k, "")) for k in ("first", "second"))
    resident = _pair_model(request, Path(str(request.arguments["run"])))
    with resident.lock:
        return use.ask(resident.trained, first, second)


def _duplicates(request: Request) -> dict[str, Any]:
    from core.pairs import use

    resident = _pair_model(request, Path(str(request.arguments["run"])))
    with resident.lock:
        return use.duplicates(resident.trained, _data_of(request), _share(request, "compare"))


def _graph(request: Request) -> dict[str, Any]:
    from core.graph import document, service
    from core.graph.build import MOST

    given = request.arguments
    texts = {k: str(given.get(k) or "") for k in ("encoder", "pairs", "previous", "name")}
    asked = service.Asked(
        data=_data_of(request) if given.get("data") else DataConfig(),
        material=tuple(map(str, given.get("material") or ())),
        most=int(given.get("most") or MOST),
        **texts,
    )
    made = service.make(asked, request.emit)
    if save := given.get("save"):
        document.save(made, Path(str(save)))
    return made.to_json()


def _export(request: Request) -> dict[str, Any]:
    from core.export import export

    run, form = Path(str(request.arguments["run"])), str(request.arguments["format"])
    out = Path(str(request.arguments.get("out") or run / "export" / form))
    language = str(request.arguments.get("language", "en"))
    if compares(run):
        from core.pairs.export import export_merged

        return export_merged(run, form, out, request.emit)
    return export(run, form, out, language=language, emit=request.emit)


OPERATIONS: dict[str, Operation] = {
    "ping": _ping,
    "load": _load,
    "plan": _plan,
    "lengths": _lengths,
    "health": _health,
    "chat": _chat,
    "evaluate": _evaluate,
    "export": _export,
    "same": _same,
    "duplicates": _duplicates,
    "graph": _graph,
}
