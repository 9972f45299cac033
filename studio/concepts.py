"""The JSON routes of the page "Concept map": making, showing, correcting, using, taking away.

The map itself is on disk (``studio/maps.py``); what needs a model is done by the service process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.config import RunConfig
from core.errors import StudioError
from core.graph import formats, layout, use
from core.graph.decode import shown
from core.graph.document import Edit
from core.graph.marks import mastery_of
from core.graph.material import MOST_BYTES, READERS
from core.graph.spoken import explanations
from core.graph.types import Concept, ConceptMap, Passage, Relation
from core.graph.words import Wording
from core.runs.store import Run
from studio import draft, maps
from studio.api import read_json, refusal, words_of
from studio.backend import Backend, map_key
from studio.tasks import Task
from studio.text import Words

STARTER = "starter"
SENTENCES = 30  # of a concept that are shown
EVIDENCE = 2  # sentences shown for a relation
MOST_GAPS = 40
TYPES = {".json": "application/json", ".graphml": "application/xml", ".csv": "text/csv"}

Endpoint = Callable[["Concepts", Request], Response]


def routes(backend: Backend) -> list[Route]:
    """Return the routes of the page."""
    page = Concepts(backend)
    post = ["POST"]
    return [
        Route("/api/concepts/state", page.state),
        Route("/api/concepts/make", page.make, methods=post),
        Route("/api/concepts/cancel", page.cancel, methods=post),
        Route("/api/concepts/material", page.add_material, methods=post),
        Route("/api/concepts/material/remove", page.remove_material, methods=post),
        Route("/api/concepts/map", page.map),
        Route("/api/concepts/layout", page.layout),
        Route("/api/concepts/one", page.one),
        Route("/api/concepts/edit", page.edit, methods=post),
        Route("/api/concepts/mastery", page.mastery),
        Route("/api/concepts/quiz", page.quiz, methods=post),
        Route("/api/concepts/file/{name}", page.file),
    ]


def _said(endpoint: Endpoint) -> Endpoint:
    """Let an endpoint answer with a sentence where something cannot be done."""

    @wraps(endpoint)
    def answer(self: Concepts, request: Request) -> Response:
        words = words_of(request.query_params.get("lang"))
        try:
            return endpoint(self, request)
        except StudioError as error:
            return refusal(error, words)

    return answer


class Concepts:
    """The endpoints; every refusal is a sentence in the page's language."""

    def __init__(self, backend: Backend) -> None:
        """Serve ``backend``."""
        self._backend = backend
        self._maps = backend.maps

    # --- making ----------------------------------------------------------------------------------

    @_said
    def state(self, request: Request) -> Response:
        """Return what there is: class, texts, work under way, map, runs, quiz."""
        words = words_of(request.query_params.get("lang"))
        config = draft.load()
        folder = maps.folder_of(config)
        task = self._backend.tasks.get(map_key(folder))
        texts = self._maps.material(folder)
        return JSONResponse(
            {
                "class": {"name": config.name, "chosen": bool(config.data.path)},
                "material": [{"id": m.id, "name": m.name} for m in texts],
                "readers": list(READERS),
                "task": task and _progress(task, words),
                "map": self._summary(config, words),
                "pairs": [_named(r) for r in self._runs() if r.config.get("method") == "pairs"],
                "runs": [_named(r) for r in self._marked(folder)],
                "quiz": maps.quiz_of(config),
            }
        )

    def _summary(self, config: RunConfig, words: Words) -> dict[str, Any] | None:
        folder = maps.folder_of(config)
        try:
            known = self._maps.get(folder)
        except StudioError as error:  # damaged: it can be made anew
            return {"stamp": "", "problem": words.error(error)[0].sentence()}
        if known is None:
            return None
        made, found = known
        about = self._maps.about(folder)
        fresh = [e for e in made.edits[int(about.get("learned", 0)) :]]
        return {
            "stamp": str(self._maps.stamp(folder)),
            "stale": maps.is_stale(about, config, self._maps.material(folder)),
            "pairs": str(about.get("pairs", "")),
            "corrections": made.version,
            "fresh": len(fresh),
            "undo": bool(made.edits),
            "redo": bool(made.undone),
            "unapplied": len(made.unapplied),
            "counts": {
                "concepts": len(found.concepts),
                "relations": len(found.relations),
                "questions": len(found.questions),
                "different": len({q.group for q in found.questions}),
                "passages": len(found.passages),
            },
            "notes": notes(found, words),
        }

    def _runs(self) -> list[Run]:
        return [run for run in self._backend.runs() if run.status == "done"]

    def _marked(self, folder: Any) -> list[Run]:
        """Finished runs of the class that have quiz marks, newest first."""
        return [
            run
            for run in self._runs()
            if maps.class_of_run(run.config.get("data", {})) == folder
            and (run.folder / "quiz.json").is_file()
        ]

    async def make(self, request: Request) -> Response:
        """Look for concepts; a search under way is followed."""
        words = words_of(request.query_params.get("lang"))
        pairs = str((await read_json(request)).get("pairs", ""))
        try:
            task = self._backend.concept_map(draft.load(), pairs)
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse(_progress(task, words), 202)

    async def cancel(self, request: Request) -> Response:
        """End the search under way."""
        self._backend.tasks.drop(map_key(maps.folder_of(draft.load())))
        return JSONResponse({})

    async def add_material(self, request: Request) -> Response:
        """Keep the text in the body under the name that the query gives."""
        words = words_of(request.query_params.get("lang"))
        if int(request.headers.get("content-length", "0")) > 2 * MOST_BYTES:
            return JSONResponse({"problems": [words("error.request")]}, 413)
        name = request.query_params.get("name", "")
        try:
            folder = maps.folder_of(draft.load())
            kept = self._maps.add_material(folder, name, await request.body())
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"id": kept.id, "name": kept.name}, 201)

    async def remove_material(self, request: Request) -> Response:
        """Remove an added text."""
        wanted = str((await read_json(request)).get("id", ""))
        self._maps.remove_material(maps.folder_of(draft.load()), wanted)
        return JSONResponse({})

    # --- showing ---------------------------------------------------------------------------------

    @_said
    def map(self, request: Request) -> Response:
        """Return the whole map as it is drawn and listed; sentences come one concept at a time."""
        words = words_of(request.query_params.get("lang"))
        folder = maps.folder_of(draft.load())
        stamp = self._maps.stamp(folder)
        return JSONResponse({"stamp": str(stamp), **drawn(self._maps.current(folder), words)})

    @_said
    def layout(self, request: Request) -> Response:
        """Return where concepts stand (``way``), all or what leads to one (``focus``)."""
        found = self._maps.current(maps.folder_of(draft.load()))
        asked = request.query_params
        focus = asked.get("focus", "")
        only = layout.needed_for(found, focus) if focus and found.concept(focus) else None
        places = layout.layout(found, asked.get("way", layout.WAYS[0]), only)
        return JSONResponse({"places": {c: [round(x), round(y)] for c, (x, y) in places.items()}})

    @_said
    def one(self, request: Request) -> Response:
        """Return the source sentences of a concept, and what speaks for its relations."""
        words = words_of(request.query_params.get("lang"))
        found = self._maps.current(maps.folder_of(draft.load()))
        concept = found.concept(request.query_params.get("id", ""))
        if concept is None:
            return JSONResponse({"problems": [words("error.request")]}, 404)
        return JSONResponse(sentences_of(found, concept, words))

    @_said
    def mastery(self, request: Request) -> Response:
        """Return how well base and tuned model of a run know each concept of its quiz."""
        found = self._maps.current(maps.folder_of(draft.load()))
        run = self._backend.run(request.query_params.get("run", ""))
        return JSONResponse({"rows": mastery_of(found, run.folder)})

    def file(self, request: Request) -> Response:
        """Return the map as a file for other programs."""
        words = words_of(request.query_params.get("lang"))
        name = request.path_params["name"]
        form = next((f for f, made in formats.FORMATS.items() if name in dict(made)), "")
        try:
            found = self._maps.current(maps.folder_of(draft.load()))
            content = formats.files_of(found, form)[name]
        except StudioError as error:
            return refusal(error, words, 404)
        media = next(kind for suffix, kind in TYPES.items() if name.endswith(suffix))
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=f"{media}; charset=utf-8", headers=headers)

    # --- correcting and using --------------------------------------------------------------------

    async def edit(self, request: Request) -> Response:
        """Correct the map; ``op`` may be ``undo`` or ``redo``."""
        asked = await read_json(request)
        return await run_in_threadpool(self._edit, request, asked)

    def _edit(self, request: Request, asked: dict[str, Any]) -> Response:
        words = words_of(request.query_params.get("lang"))
        named = {k: str(asked.get(k) or "") for k in ("op", "concept", "other", "text")}
        config = draft.load()
        folder = maps.folder_of(config)
        try:
            if named["op"] == "undo":
                self._maps.undo(folder)
            elif named["op"] == "redo":
                self._maps.redo(folder)
            else:
                self._maps.edit(folder, Edit(**named))
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"map": self._summary(config, words)})

    async def quiz(self, request: Request) -> Response:
        """Switch the quiz by concept on (``weighted`` or not) or off."""
        asked = await read_json(request)
        return await run_in_threadpool(self._quiz, request, asked)

    def _quiz(self, request: Request, asked: dict[str, Any]) -> Response:
        words, config = words_of(request.query_params.get("lang")), draft.load()
        try:
            if asked.get("on"):
                self._maps.split(config, weighted=bool(asked.get("weighted")))
            else:
                self._maps.unsplit(config)
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"quiz": maps.quiz_of(config)})


# --- documents -----------------------------------------------------------------------------------


def _progress(task: Task, words: Words) -> dict[str, Any]:
    """How far a search is; its parts have names of their own."""
    if task.error is not None:
        return {"problems": [p.sentence() for p in words.error(task.error)]}
    if task.result is not None:
        return {"done": True}
    phase, detail = (str(task.progress.get(k) or "") for k in ("phase", "detail"))
    part = detail if phase == "graph" else phase
    known = words.get(f"concepts.at.{part}", words.get(f"phase.{phase}", words("phase.graph")))
    return {"share": float(task.progress.get("share") or 0.0), "said": known}


def _named(run: Run) -> dict[str, str]:
    return {"id": run.id, "name": run.name or run.id}


def drawn(found: ConceptMap, words: Words) -> dict[str, Any]:
    """A map as the page draws and lists it.

    Returns:
        ``concepts``, ``relations`` (those that follow from others with ``shown`` false), ``gaps``
        and ``order`` (ids).
    """
    asked, supplied = use.asked_by_concept(found), use.supply_of(found)
    values = use.gap_values(found)
    seen = {r.key for r in shown(found.relations)}
    concepts = [
        {
            **_facts(c),
            "questions": len({found.questions[i].group for i in asked[c.id]}),
            "explained": supplied[c.id][1],
            "gap": round(values[c.id], 5),
        }
        for c in found.concepts
    ]
    relations = [{**_edge(r), "shown": r.key in seen} for r in found.relations]
    wording = Wording(words.language)
    gaps = [_gap(g, wording) for g in use.gaps(found, MOST_GAPS)]
    order = use.teaching_order(found)
    return {"concepts": concepts, "relations": relations, "gaps": gaps, "order": order}


def _facts(c: Concept) -> dict[str, Any]:
    return {
        **{k: getattr(c, k) for k in ("id", "name", "kind", "state")},
        "confidence": round(c.confidence, 3),
        "aliases": list(c.aliases),
        "mentions": len(c.mentions),
    }


def _edge(r: Relation) -> dict[str, Any]:
    sides = {k: getattr(r, k) for k in ("source", "target", "kind", "state")}
    return {**sides, "confidence": round(r.confidence, 3)}


def _gap(gap: use.Gap, wording: Wording) -> dict[str, Any]:
    """A gap with its sentence in the language of the page, whatever the class is written in."""
    said = wording.counted(gap.code, gap.questions, name=gap.name, explained=gap.explained)
    return {"concept": gap.concept, "name": gap.name, "sentence": said, "gap": round(gap.gap, 5)}


def sentences_of(found: ConceptMap, concept: Concept, words: Words) -> dict[str, Any]:
    """Where a concept stands, what explains it first; and what speaks for its relations."""
    explain = set(explanations([concept], found.passages).get(concept.id, ()))
    spans: dict[int, list[tuple[int, int]]] = {}
    for m in concept.mentions:
        spans.setdefault(m.passage, []).append((m.start, m.end))
    order = sorted(spans, key=lambda p: (p not in explain, p))
    listed = [
        {**_place(found.passages[p], words), "spans": sorted(spans[p]), "explains": p in explain}
        for p in order[:SENTENCES]
    ]
    evidence = [
        {**_edge(r), "sentences": [found.passages[p].text for p in r.evidence[:EVIDENCE]]}
        for r in found.relations
        if concept.id in (r.source, r.target) and r.evidence
    ]
    more = max(0, len(order) - SENTENCES)
    return {"id": concept.id, "sentences": listed, "more": more, "evidence": evidence}


def _place(passage: Passage, words: Words) -> dict[str, str]:
    where = ", ".join(filter(None, (passage.file, words.place(passage.where))))
    role = words(f"concepts.role.{passage.role}")
    return {"text": passage.text, "where": where, "role": role}


def notes(found: ConceptMap, words: Words) -> list[str]:
    """How a map was made, and what is weaker for what was not there."""
    wording, told = Wording(words.language), []
    relations = found.metrics.get("relations", {})
    used = str(relations.get("used", ""))
    validation = relations.get("validation", {})
    if used in validation and len(validation) == 2:
        other = next(name for name in validation if name != used)
        marks = {k: f"{validation[n]['auc']:.2f}" for k, n in (("used", used), ("other", other))}
        told.append(wording(f"used.{'none' if used == 'none' else 'gcn-gat'}", **marks))
    elif used == "said":
        told.append(wording("used.said"))
    learned = int(relations.get("learned_from", 0))
    if validation:
        key = "class" if learned else "shipped"
        told.append(wording(f"trained.{key}", count=learned))
    if found.metrics.get("encoder") == STARTER:
        told.append(words("concepts.note_starter"))
    if found.language == "zh":
        told.append(words("concepts.note_zh"))
    return told
