"""The door of the studio: who may talk to it, how much they may send, what the browser may do.

Gradio accepts any ``Host`` and, on names other than localhost, any ``Origin`` with credentials; a
page open in the same browser could then act as the teacher. This middleware stands before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_BODY_BYTES = 55 * 10**6  # of any request but an upload
UPLOAD = "/gradio_api/upload"
MAX_UPLOAD_BYTES = 1050 * 10**6  # a class file of 1 GB and its multipart frame

# Gradio needs inline scripts and eval; nothing may come from, or go to, another host.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class TooLargeError(Exception):
    """A request body went over the limit while it was read."""


class Guard:
    """ASGI middleware: host allow-list, same-origin rule, body limit, security headers.

    Args:
        app: the application behind the door.
        hosts: host names (without port) under which the studio may be addressed.
        max_body_bytes: largest request body, declared or not.
        max_upload_bytes: the same of an upload, which is written to disk as it comes.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str] = LOOPBACK,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
    ) -> None:
        """Put the guard before ``app``."""
        self._app, self._hosts = app, hosts
        self._limits = max_body_bytes, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with limits and headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if refusal := self._refusal(scope, headers):
            await _refuse(scope, send, *refusal)
            return
        state = {"started": False}
        sender = _with_headers(send, state)
        try:
            await self._app(scope, _limited(receive, self._limit(scope)), sender)
        except TooLargeError:
            if not state["started"]:
                await _refuse(scope, send, 413, "The request is too large.")

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return 421, "This address is not one of the studio's."
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        changes = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        cross_site = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign or (changes and cross_site):
            return 403, "Requests from other sites are refused."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limit(scope):
            return 413, "The request is too large."
        return None

    def _limit(self, scope: Scope) -> int:
        return self._limits[scope["path"].endswith(UPLOAD)]


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLargeError
        return message

    return limited


def _name(host: str) -> str:
    """Return the host name of a ``Host`` header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send, state: dict[str, bool]) -> Send:
    extra = [(k.encode(), v.encode()) for k, v in HEADERS.items()]

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            state["started"] = True
            own = {k.lower() for k, _ in message["headers"]}
            message["headers"] = [
                *(pair for pair in message["headers"] if pair[0].lower() != b"server"),
                *(pair for pair in extra if pair[0] not in own),
            ]
        await send(message)

    return sender


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(k.encode(), v.encode()) for k, v in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
