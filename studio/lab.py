"""The JSON routes of the page that compares methods, and its two downloads.

Nothing is kept here: what is compared stands in the address of the page, what was measured in the
runs themselves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.compare import choices as offers
from core.compare import report, table
from core.compare.choices import Choice
from core.compare.entries import KINDS, Entry, entry_of
from core.compare.words import Wording
from core.config import MB, DataConfig, RunConfig
from core.errors import ConfigError, DataError, StudioError
from core.methods import Method
from core.runs.store import Run
from studio import draft, library
from studio.api import REPORT_POLICY, read_json, refusal, words_of
from studio.backend import Backend
from studio.library import SAMPLES
from studio.text import Words

MOST_RUNS = 4 * offers.MOST * offers.MOST_SEEDS
OWN = "draft"  # the class chosen on the page Class data
_LIVE = ("evaluated", "failed", "phase", "status")
LONGEST_NAME = 120


def routes(backend: Backend) -> list[Route]:
    """Return the routes of the page."""
    lab = Lab(backend)
    return [
        Route("/api/lab/options", lab.options),
        Route("/api/lab/runs", lab.start, methods=["POST"]),
        Route("/api/lab/curves", lab.curves),
        Route("/api/lab/comparison", lab.comparison),
        Route("/api/lab/comparison.csv", lab.csv),
        Route("/api/lab/report.html", lab.report),
    ]


class Lab:
    """The endpoints; every refusal is a sentence in the page's language."""

    def __init__(self, backend: Backend) -> None:
        """Serve ``backend``."""
        self._backend = backend

    def options(self, request: Request) -> Response:
        """Return what can be compared with the present choices of the other pages."""
        words = words_of(request.query_params.get("lang"))
        config = draft.load()
        found = [_method(known, config, words) for known in offers.candidates()]
        model = library.model_title(self._backend.models(), config.model)
        steps = config.train.steps
        amount = words("lab.steps", n=steps) if steps else _passes(config, words)
        return JSONResponse(
            {
                "methods": found,
                "data": _classes(config, words),
                "budget_mb": config.budget_bytes // MB,
                "basis": words("lab.basis", model=model, amount=amount),
                "most": offers.MOST,
                "least": offers.LEAST,
            }
        )

    async def start(self, request: Request) -> Response:
        """Queue all runs of a comparison, or none; the same key again queues nothing twice."""
        words = words_of(request.query_params.get("lang"))
        asked = await read_json(request)
        try:
            configs = planned(asked, words)
        except StudioError as error:
            return refusal(error, words)
        except (TypeError, ValueError, KeyError):
            return JSONResponse({"problems": [words("error.request")]}, 400)
        key = str(asked.get("key", ""))
        try:
            started = [
                self._backend.start(config, key=f"{key} {place}" if key else "")
                for place, config in enumerate(configs)
            ]
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"runs": started}, 201)

    def curves(self, request: Request) -> Response:
        """Return what is new of each run since its cursor (``run=ID:CURSOR``, repeated)."""
        words = words_of(request.query_params.get("lang"))
        found = []
        try:
            for named in _named(request):
                run_id, _, since = named.partition(":")
                found.append(self._curve(run_id, int(since) if since.isdecimal() else 0, words))
        except StudioError as error:
            return refusal(error, words, 404)
        return JSONResponse({"runs": found})

    def _curve(self, run_id: str, since: int, words: Words) -> dict[str, Any]:
        run = self._backend.run(run_id)
        events, cursor = self._backend.events(run_id, since, _LIVE)
        points = [
            [e["step"], e["nll"], e.get("which") == "base"]
            for e in events
            if e["kind"] == "evaluated" and e.get("nll") is not None
        ]
        phases = [str(e.get("phase", "")) for e in events if e["kind"] == "phase"]
        step = self._backend.last_event(run_id, "step") or {}
        return {
            "id": run_id,
            "status": run.status,
            "label": words.get(f"status.{run.status}", run.status),
            "cursor": cursor,
            "tuned": [[step, nll] for step, nll, base in points if not base],
            "base": any(base for _, _, base in points),
            "phase": phases[-1] if phases else "",
            "step": step.get("step", 0),
            "steps": step.get("steps", 0),
        }

    def comparison(self, request: Request) -> Response:
        """Return runs side by side (``run=ID``, repeated; ``reference=ID``)."""
        words = words_of(request.query_params.get("lang"))
        try:
            found, wording = self._compared(request, words)
        except StudioError as error:
            return refusal(error, words, 404)
        return JSONResponse(table.to_json(found, wording))

    def csv(self, request: Request) -> Response:
        """Return the same as a table for spreadsheets."""
        words = words_of(request.query_params.get("lang"))
        try:
            found, wording = self._compared(request, words)
        except StudioError as error:
            return refusal(error, words, 404)
        # By the byte order mark spreadsheets know that it is UTF-8.
        body = "\ufeff" + table.to_csv(found, wording)
        return Response(body, headers=_file("comparison.csv"), media_type="text/csv; charset=utf-8")

    def report(self, request: Request) -> Response:
        """Return the same as a page to print; with ``view`` to be shown, else to be kept."""
        words = words_of(request.query_params.get("lang"))
        try:
            found, wording = self._compared(request, words)
        except StudioError as error:
            return refusal(error, words, 404)
        page = report.report(found, wording, time.strftime("%Y-%m-%d %H:%M"))
        shown = "view" in request.query_params
        headers = {} if shown else _file("comparison.html")
        headers["content-security-policy"] = REPORT_POLICY
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    def _compared(self, request: Request, words: Words) -> tuple[table.Comparison, Wording]:
        wording = Wording(words.language)
        entries = [self._entry(self._backend.run(run_id), words) for run_id in _named(request)]
        reference = request.query_params.get("reference", "")
        return table.compare(entries, wording, reference), wording

    def _entry(self, run: Run, words: Words) -> Entry:
        events, _ = self._backend.events(run.id, 0, KINDS)
        name = run.name or words("runs.unnamed")
        entry = entry_of(run.id, name, run.status, run.config, run.result, events, run.folder)
        return replace(entry, problem=entry.problem and words.problem(entry.problem))


def planned(asked: dict[str, Any], words: Words) -> list[RunConfig]:
    """Return the runs that a comparison asks for, named, in the order of the queue.

    Args:
        asked: ``choices`` (each ``method``, ``setting``, ``value``), ``data`` (``draft`` or the id
            of a sample class), ``budget_mb`` (0: no limit) and ``seeds``.
        words: the language of the names.

    Raises:
        StudioError: something cannot be compared, or no class is chosen.
        TypeError, ValueError, KeyError: the request is not of this form.
    """
    wanted = [
        Choice(str(c["method"]), str(c.get("setting", "")), c.get("value"))
        for c in asked["choices"]
    ]
    seeds, limit = int(asked.get("seeds", 1)), int(asked.get("budget_mb", 0)) * MB
    if limit < 0:
        raise ValueError("a limit below zero")
    base, label = _class(draft.load(), str(asked.get("data", OWN)), words)
    wording = Wording(words.language)
    runs = offers.runs_of(replace(base, budget_bytes=limit), wanted, seeds)
    return [
        replace(config, name=_name(label, wanted[place], config.train.seed, wording, words))
        for place, config in runs
    ]


def _name(label: str, choice: Choice, seed: int, wording: Wording, words: Words) -> str:
    """Say what a run is: class, method, changed setting, seed."""
    setting = wording.setting(choice.setting, choice.value) if choice.setting else ""
    said = [wording.method(choice.method), setting, words("lab.seed_n", n=seed)]
    tail = " · ".join(filter(None, said))
    room = LONGEST_NAME - len(tail) - 3
    return f"{label[:room]} · {tail}" if label and room > 0 else tail[:LONGEST_NAME]


def _class(config: RunConfig, chosen: str, words: Words) -> tuple[RunConfig, str]:
    """The settings with the class that was chosen, and its name; the draft stays as it is.

    Raises:
        DataError: if there is none.
    """
    if chosen != OWN:
        sample = library.sample(chosen)
        data = DataConfig(
            path=str(sample.path),
            quiz_share=config.data.quiz_share,
            max_quiz=config.data.max_quiz,
        )
        return replace(config, data=data), words(f"samples.{chosen}.title")
    if not config.data.path:
        raise DataError(
            "No class data is chosen yet.",
            action="Choose a sample class or upload a file first.",
            code="data.none",
        )
    return config, config.name


def _classes(config: RunConfig, words: Words) -> list[dict[str, str]]:
    own = library.is_sample(config)
    found = []
    if config.data.path and not own:
        found.append({"id": OWN, "name": config.name or words("runs.unnamed")})
    samples = sorted(SAMPLES, key=lambda s: (s.id != own, s.id != words.language))
    return found + [{"id": s.id, "name": words(f"samples.{s.id}.title")} for s in samples]


def _method(known: Method, config: RunConfig, words: Words) -> dict[str, Any]:
    """A method with the settings of it that can be varied, and its ablation."""
    wording = Wording(words.language)
    found: dict[str, Any] = {
        "id": known.id,
        "name": wording.method(known.id),
        "about": wording.about(known.id),
        "settings": [],
        "ablation": [],
        "problem": "",
    }
    try:
        offered = offers.offered(config, known.id)
        parts = offers.ablation(config, known.id)
    except ConfigError as error:
        return {**found, "problem": words.error(error)[0].sentence()}
    found["settings"] = [
        {
            "path": path,
            "name": wording.field(path),
            "values": [{"value": v, "name": wording.value(path, v)} for v in values],
        }
        for path, values in offered.items()
    ]
    found["ablation"] = [{"setting": c.setting, "value": c.value} for c in parts]
    return found


def _passes(config: RunConfig, words: Words) -> str:
    return words("lab.passes", n=f"{config.train.epochs:g}")


def _named(request: Request) -> Sequence[str]:
    """The runs that a request names, each once.

    Raises:
        ConfigError: there are none, or too many.
    """
    named = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 1 <= len(named) <= MOST_RUNS:
        raise ConfigError(
            f"1 to {MOST_RUNS} runs can be compared, not {len(named)}.",
            action="Tick some, or fewer.",
            code="compare.runs",
        )
    return named


def _file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
