"""The studio's own JSON routes: what the live page, the run list and the downloads need.

They are cheap (a few rows a request), so that many browsers can watch one run. Reading is by
cursor; writing is starting a run and saying what it should do.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from core.errors import StudioError
from core.models import ModelInfo
from core.runs.store import Run
from studio import charts, draft, library
from studio.backend import WISHES, Backend
from studio.text import DEFAULT_LANGUAGE, LANGUAGES, Words

# A report is a document made from class data: it may show itself, and nothing else.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-modals"

Endpoint = Callable[[Request], Awaitable[Response]]


class Downloads:
    """Files offered for download, by ids that cannot be guessed."""

    def __init__(self) -> None:
        """Offer nothing yet."""
        self._paths: dict[str, Path] = {}
        self._ids: dict[Path, str] = {}

    def offer(self, path: Path) -> str:
        """Return the address under which ``path`` can be fetched until the studio ends."""
        token = self._ids.setdefault(path, secrets.token_urlsafe(16))
        self._paths[token] = path
        return f"/download/{token}/{path.name}"

    def find(self, token: str) -> Path | None:
        """Return the file behind a token, if it is still there."""
        path = self._paths.get(token)
        return path if path and path.is_file() else None


def routes(backend: Backend, downloads: Downloads) -> list[Route]:
    """Return all routes of the studio's own."""
    api = Api(backend, downloads)
    return [
        Route("/healthz", api.health),
        Route("/api/words/{language}.js", api.words),
        Route("/api/overview", api.overview),
        Route("/api/runs", api.start, methods=["POST"]),
        Route("/api/runs/{run}/live", api.live),
        Route("/api/runs/{run}/want", api.want, methods=["POST"]),
        Route("/download/{token}/{name}", api.download),
    ]


class Api:
    """The endpoints; every refusal is a sentence in the page's language."""

    def __init__(self, backend: Backend, downloads: Downloads) -> None:
        """Serve ``backend``."""
        self._backend, self._downloads = backend, downloads

    async def health(self, request: Request) -> Response:
        """Say that the studio serves."""
        return JSONResponse({"status": "ok"})

    async def words(self, request: Request) -> Response:
        """Return the texts that scripts need, as a script."""
        words = words_of(request.path_params["language"])
        texts = {**words.group("js"), "language": words.language}
        body = f"window.STUDIO_WORDS = {json.dumps(texts, ensure_ascii=False)};"
        return Response(body, media_type="text/javascript; charset=utf-8")

    def overview(self, request: Request) -> Response:
        """Return the run list and the present choices, for the rail beside the pages."""
        words = words_of(request.query_params.get("lang"))
        models = self._backend.models()
        runs = [_run_row(run, words, models) for run in self._backend.runs()]
        config = draft.load()
        chosen = {
            "model": library.model_title(models, config.model),
            "class": config.name if config.data.path else "",
            "budget": words.size(config.budget_bytes),
        }
        return JSONResponse({"runs": runs, "chosen": chosen})

    async def start(self, request: Request) -> Response:
        """Start a run from the draft, or from a sample class with everything at its default."""
        words = words_of(request.query_params.get("lang"))
        asked = await read_json(request)
        try:
            if sample := str(asked.get("sample", "")):
                library.choose_sample(sample)
            task = draft.PAIRS if asked.get("task") == draft.PAIRS else draft.ANSWERS
            run = self._backend.start(draft.load(task), key=str(asked.get("key", "")))
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"run": run}, 201)

    def live(self, request: Request) -> Response:
        """Return the state of a run, and what happened after the cursor ``since``."""
        words = words_of(request.query_params.get("lang"))
        since = request.query_params.get("since", "0")
        try:
            run = self._backend.run(request.path_params["run"])
            events, cursor = self._backend.events(run.id, int(since) if since.isdecimal() else 0)
        except StudioError as error:
            return refusal(error, words, 404)
        delta = charts.live_delta(events, words)
        row = _run_row(run, words, self._backend.models())
        return JSONResponse({"run": row, "cursor": cursor, **delta})

    async def want(self, request: Request) -> Response:
        """Pause, stop or go on with a run."""
        words = words_of(request.query_params.get("lang"))
        wish = str((await read_json(request)).get("want", ""))
        if wish not in WISHES:
            return JSONResponse({"problems": [words("error.request")]}, 400)
        try:
            self._backend.want(request.path_params["run"], wish)
        except StudioError as error:
            return refusal(error, words)
        return JSONResponse({"want": wish})

    def download(self, request: Request) -> Response:
        """Send an exported file."""
        path = self._downloads.find(request.path_params["token"])
        if path is None:
            return JSONResponse({"problems": [words_of(None)("error.download")]}, 404)
        if "view" in request.query_params and path.suffix == ".html":
            policy = {"content-security-policy": REPORT_POLICY}
            return FileResponse(path, media_type="text/html", headers=policy)
        return FileResponse(path, filename=path.name)


def words_of(language: str | None) -> Words:
    """Return the words of a language that a request names, else of the first."""
    return Words(language if language in LANGUAGES else DEFAULT_LANGUAGE)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object in a request's body; an empty one for anything else."""
    try:
        asked = json.loads(await request.body() or b"{}")
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def refusal(error: StudioError, words: Words, status: int = 409) -> JSONResponse:
    """Return what went wrong as sentences in the page's language."""
    problems = [p.sentence() for p in words.error(error)]
    return JSONResponse({"problems": problems, "code": error.code}, status)


def _run_row(run: Run, words: Words, models: Sequence[ModelInfo]) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name or words("runs.unnamed"),
        "status": run.status,
        "label": words.get(f"status.{run.status}", run.status),
        "want": run.want,
        "task": "pairs" if run.config.get("method") == "pairs" else "",
        "model": library.model_title(models, str(run.config.get("model", ""))),
        "budget_bytes": run.config.get("budget_bytes", 0),
        "has_result": bool(run.result),
    }
