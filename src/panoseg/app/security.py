"""What every request passes: host and origin are checked, bodies are bounded, answers get headers,
a log line and a count.

Sources: OWASP Secure Headers Project; Fetch standard (``Sec-Fetch-Site``, ``Origin``); Content
Security Policy level 3.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from panoseg.app.monitoring import REQUESTS, SECONDS
from panoseg.app.settings import AppSettings, is_loopback

LOG = logging.getLogger("panoseg.app.access")
UPLOADS = "/api/uploads"
LARGEST_BODY = 4 * 1024**2
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def content_policy(background: str | None) -> str:
    """Where pages may take what from. The pages' library compiles templates and has its import map
    inline.
    """
    tiles = ""
    if background:
        parts = urlsplit(background)
        tiles = f" {parts.scheme}://{parts.netloc.replace('{s}', '*')}"
    return (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self'"
        f" 'unsafe-inline'; img-src 'self' data: blob:{tiles}; font-src 'self' data:; connect-src"
        " 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""Of files that a browser shows: the report, whose text may come from uploads, runs nothing."""


class Guard:
    """The outermost layer of the server (ASGI)."""

    def __init__(self, app: ASGIApp, settings: AppSettings) -> None:
        self.app, self.settings = app, settings
        self.headers = {
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",  # links to results carry their token
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
            "content-security-policy": content_policy(settings.background),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._refused(scope, headers)
        if scope["type"] == "websocket":
            if reason is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": reason[1]})
            return
        await _Exchange(self, scope, receive, send).run(reason)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._known_host(host):
            return (
                421,
                f"host {host[:80]!r}; expected one of this server's; open it by its own address",
            )
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE
        foreign = origin is not None and urlsplit(origin).netloc != host
        if changes and (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return (
                403,
                (
                    "a request that another site's page sends; expected one of this page; use it"
                    " from there"
                ),
            )
        length = headers.get("content-length", "0")
        if (
            scope["type"] == "http"
            and scope["path"] != UPLOADS
            and length.isdigit()
            and int(length) > LARGEST_BODY
        ):
            return 413, f"a body of {int(length)} bytes; expected at most {LARGEST_BODY}; send less"
        return None

    def _known_host(self, host: str) -> bool:
        """Whether a request is meant for this server; a name that somebody else lets point here is
        not.

        Where people sign in and no names were given any is: without a cookie for it, such a name is
        of no use.
        """
        name = (urlsplit(f"//{host}").hostname or "") if host.isascii() else ""
        names = (*_LOCAL_NAMES, self.settings.host, *self.settings.public_host)
        return (
            name in names
            or is_loopback(name)
            or (self.settings.tokens is not None and not self.settings.public_host)
        )


class _Exchange:
    """A request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.send_on, self.receive_on = guard, scope, send, receive
        self.status, self.received, self.start = 500, 0, time.perf_counter()

    async def run(self, refused: tuple[int, str] | None) -> None:
        try:
            if refused is None:
                await self.guard.app(self.scope, self.receive, self.send)
            else:
                await self._answer(*refused)
        finally:
            self._record()

    async def receive(self) -> Message:
        """The next part of a body; of one that is too large, nothing more."""
        message = await self.receive_on()
        self.received += len(message.get("body", b""))
        if self.received > LARGEST_BODY and self.scope["path"] != UPLOADS:
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self.guard.headers.items():
                headers.setdefault(name, value)
            if self.scope["path"].startswith("/api/"):
                headers.setdefault("cache-control", "private, no-store")
        await self.send_on(message)

    async def _answer(self, status: int, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _record(self) -> None:
        """Paths are logged as their patterns: they hold tokens of shared results."""
        route: Any = self.scope.get("route")
        path = getattr(route, "path", None) or "(none)"
        method = (
            self.scope["method"]
            if self.scope["method"] in (*_SAFE, "POST", "PUT", "DELETE")
            else "(other)"
        )
        seconds = time.perf_counter() - self.start
        REQUESTS.labels(method, path, self.status).inc()
        SECONDS.labels(path).observe(seconds)
        level = (
            logging.ERROR
            if self.status >= 500
            else logging.DEBUG
            if path in ("/healthz", "/metrics")
            else logging.INFO
        )
        extra = {
            "method": method,
            "path": path,
            "status": self.status,
            "ms": round(1000 * seconds, 1),
        }
        LOG.log(level, "request", extra=extra | {"user": self.scope.get("state", {}).get("user")})
