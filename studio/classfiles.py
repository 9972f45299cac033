"""Downloads of a class: the rows as they stand now, a version, or a template to fill in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.data import edit
from core.errors import StudioError
from studio import draft
from studio.api import refusal, words_of
from studio.workbench import Desk

WRITERS = {
    "csv": (edit.to_csv, "text/csv; charset=utf-8"),
    "xlsx": (
        edit.to_xlsx,
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    "jsonl": (edit.to_jsonl, "application/jsonl; charset=utf-8"),
}


def routes(desk: Desk) -> list[Route]:
    """Return the routes of a class's downloads."""

    def template(request: Request) -> Response:
        words = words_of(request.query_params.get("lang"))
        form = request.path_params["form"]
        if form not in WRITERS:
            return JSONResponse({"problems": [words("error.request")]}, 404)
        return _file(edit.template(words.language), words("data.template_name"), form)

    def rows(request: Request) -> Response:
        words = words_of(request.query_params.get("lang"))
        form, version = request.path_params["form"], request.query_params.get("version", "")
        config = draft.load()
        if form not in WRITERS or not config.data.path:
            return JSONResponse({"problems": [words("error.request")]}, 404)
        try:
            found = desk.rows(config, version) if version else desk.bench(config).version
        except StudioError as error:
            return refusal(error, words, 404)
        return _file(found, Path(config.name or "class").stem, form)

    return [
        Route("/api/class/template.{form}", template),
        Route("/api/class/rows.{form}", rows),
    ]


def _file(version: edit.Version, name: str, form: str) -> Response:
    write, media = WRITERS[form]
    named = f"filename=\"class.{form}\"; filename*=UTF-8''{quote(f'{name}.{form}')}"
    headers = {"content-disposition": f"attachment; {named}", "cache-control": "no-store"}
    return Response(write(version), media_type=media, headers=headers)
