"""Puts the pages behind the guard and serves them.

Two Gradio applications are mounted, one a language, built from the same code; ``/`` leads to the
one that the cookie or the browser asks for.
"""

from __future__ import annotations

import socket
import sys
import threading
import webbrowser
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlencode

import gradio as gr
import plotly
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from core.home import ASSETS
from studio import classfiles, concepts, lab
from studio.api import Downloads, routes
from studio.app import build
from studio.backend import Backend
from studio.dress import Dress
from studio.guard import Guard
from studio.text import LANGUAGES, Words, preferred_language
from studio.theme import studio_theme, stylesheet

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
MAX_UPLOAD = "1gb"
GRACE_SECONDS = 3  # an open page keeps its connections; ending the studio does not wait for it


def create_app(backend: Backend) -> FastAPI:
    """Return the whole application, guard included, around ``backend``."""
    downloads = Downloads()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Gradio adds a CORS layer that answers any origin, unless its parent has one.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.router.routes.extend(routes(backend, downloads))
    app.router.routes.extend(lab.routes(backend))
    app.router.routes.extend(concepts.routes(backend))
    app.router.routes.extend(classfiles.routes(backend.desk))
    app.router.routes.extend(_static_routes())
    theme, css = studio_theme(), stylesheet()
    for language in LANGUAGES:
        page = build(backend, Words(language), downloads)
        page.queue(default_concurrency_limit=8, max_size=64, api_open=False)
        app = gr.mount_gradio_app(
            app,
            page,
            path=f"/{language}",
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            max_file_size=MAX_UPLOAD,
            theme=theme,
            css=css,
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )
    app.add_middleware(Dress, version=_fingerprint())
    app.add_middleware(Guard)
    return app


def _static_routes() -> list[Route | Mount]:
    return [
        Route("/", _choose_language),
        Route("/static/plotly.js", _plotly),
        Mount("/static/js", StaticFiles(directory=ASSETS / "js")),
        Route("/static/icon.svg", _icon),
    ]


async def _choose_language(request: Request) -> Response:
    language = preferred_language(
        request.cookies.get("lang"), request.headers.get("accept-language")
    )
    query = f"?{urlencode(request.query_params)}" if request.query_params else ""
    return RedirectResponse(f"/{language}/{query}", 307, {"cache-control": "no-store"})


async def _plotly(request: Request) -> Response:
    headers = {"cache-control": "max-age=86400"}
    return FileResponse(PLOTLY, media_type="text/javascript", headers=headers)


async def _icon(request: Request) -> Response:
    return FileResponse(ASSETS / "icon.svg", media_type="image/svg+xml")


def _fingerprint() -> str:
    """Return a text that changes with the scripts, so that no browser keeps old ones."""
    newest = max(file.stat().st_mtime_ns for file in (ASSETS / "js").iterdir())
    return f"{version('gradio')}-{newest:x}"


def serve(door: socket.socket, *, open_browser: bool) -> None:
    """Serve on a bound socket until interrupted.

    Raises:
        StudioError: if another studio uses the same state folder.
    """
    host, port = door.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    backend = Backend.open(address)
    try:
        app = create_app(backend)
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
        )
        server = uvicorn.Server(config)
        announcer = threading.Thread(target=_announce, args=(server, address, open_browser))
        announcer.daemon = True
        announcer.start()
        server.run(sockets=[door])
    finally:
        backend.close()


def _announce(server: uvicorn.Server, address: str, open_browser: bool) -> None:
    pause = threading.Event()
    while not server.started and not server.should_exit:
        pause.wait(0.05)
    if server.should_exit:
        return
    sys.stderr.write(f"The studio is open at {address}  (end it with Ctrl+C)\n")
    sys.stderr.flush()
    if open_browser:
        webbrowser.open(address)
