"""Dresses Gradio's page: language, title, and the scripts that must run before Gradio's own.

Gradio chooses the words of its own parts by ``navigator.language`` as soon as it loads, so the
language has to be set by the first script of the page.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.text import LANGUAGES

TAGS = {"en": "en", "zh": "zh-CN"}
SCRIPTS = (
    "shell.js",
    "heat.js",
    "live.js",
    "pairs.js",
    "lab.js",
    "draw.js",
    "concepts.js",
    "views.js",
)


def head(language: str, version: str) -> bytes:
    """Return what goes right after ``<head>``."""
    scripts = "".join(f'<script src="/static/js/{name}?{version}"></script>' for name in SCRIPTS)
    words = f'<script src="/api/words/{language}.js?{version}"></script>'
    icon = '<link rel="icon" type="image/svg+xml" href="/static/icon.svg">'
    return f"<head>{icon}{words}{scripts}".encode()


class Dress:
    """ASGI middleware that edits the HTML of ``/en/`` and ``/zh/`` and nothing else."""

    def __init__(self, app: ASGIApp, version: str) -> None:
        """``version`` is put behind the scripts' addresses, so that a new one is fetched."""
        self._app, self._version = app, version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; collect and edit the two pages."""
        language = scope.get("path", "").strip("/")
        if scope["type"] != "http" or language not in LANGUAGES:
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                return  # an extension that reports the template; not for the network
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = self._dressed(bytes(body), language)
            kept = [p for p in start["headers"] if p[0].lower() != b"content-length"]
            start["headers"] = [*kept, (b"content-length", b"%d" % len(page))]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, collect)

    def _dressed(self, page: bytes, language: str) -> bytes:
        page = page.replace(b'lang="en"', f'lang="{TAGS[language]}"'.encode(), 1)
        # Link previews of Gradio's own page point to a foreign picture.
        page = re.sub(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', b"", page)
        return page.replace(b"<head>", head(language, self._version), 1)
