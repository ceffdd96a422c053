"""Middleware that every request passes.

It checks the host and the origin, bounds bodies, and adds security headers, a log line and metrics.

Sources: OWASP Secure Headers Project; Fetch standard (``Sec-Fetch-Site``, ``Origin``); Content
Security Policy level 3.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import time
from functools import cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from panoseg.app.monitoring import REQUESTS, SECONDS
from panoseg.app.settings import AppSettings, is_loopback

LOG = logging.getLogger("panoseg.app.access")
UPLOADS = "/api/uploads"
MAX_BODY = 4 * 1024**2
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def content_policy(background: str | None) -> str:
    """Return the Content-Security-Policy of the pages.

    NiceGUI compiles templates and has an inline import map, so inline and evaluated scripts are
    allowed.

    Args:
        background: URL template of the tiles of a background map.
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
"""Content-Security-Policy of files of results.

The report is shown in the browser and may contain text of uploads, so it must not run scripts.
"""


class Guard:
    """ASGI middleware, the outermost layer of the server."""

    def __init__(self, app: ASGIApp, settings: AppSettings) -> None:
        self.app, self.settings = app, settings
        self.headers = {
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",  # links to results contain their token
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
            "content-security-policy": content_policy(
                settings.background_map.url if settings.background_map else None
            ),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
        """Return the status and the message of a request that is refused, else None."""
        host = headers.get("host", "")
        if not self._known_host(host):
            return 421, (
                f"This server is not {host[:80]!r}; open it by its own address, or start it with"
                " --public-host and this name."
            )
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        foreign = origin is not None and _place_of(origin)[0] != host
        if changes and (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return 403, "Requests from pages of other sites are refused; use this server's pages."
        length = headers.get("content-length", "0")
        if (
            scope["type"] == "http"
            and scope["path"] != UPLOADS
            and length.isdigit()
            and int(length) > MAX_BODY
        ):
            return 413, f"The request has {int(length)} bytes, of at most {MAX_BODY}; send less."
        return None

    def _known_host(self, host: str) -> bool:
        """Return whether a request is meant for this server (DNS rebinding protection).

        If users sign in and no ``public_host`` was given, the name and every address of this
        machine are accepted, too: a page of another site cannot choose an address as its name.
        """
        name = _place_of(f"//{host}")[1] if host.isascii() else ""
        names = (*_LOCAL_HOSTS, self.settings.host, *self.settings.public_host)
        if name in names or is_loopback(name):
            return True
        by_users = self.settings.tokens is not None and not self.settings.public_host
        return by_users and (_is_address(name) or name in _names_of_this_machine())


def _place_of(url: str) -> tuple[str, str]:
    """Return host with port, and host, of a URL that may be anything; empty where it has none."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:  # such as "[::1" without its end
        return "", ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


@cache
def _names_of_this_machine() -> tuple[str, ...]:
    return socket.gethostname().lower(), socket.getfqdn().lower()


class _Exchange:
    """A request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.send_on, self.receive_on = guard, scope, send, receive
        self.status, self.received, self.start = 500, 0, time.perf_counter()

    async def run(self, refused: tuple[int, str] | None) -> None:
        """Answer the request, or refuse it with a status and a message, and record it."""
        try:
            if refused is None:
                await self.guard.app(self.scope, self.receive, self.send)
            else:
                await self._refuse(*refused)
        finally:
            self._record()

    async def receive(self) -> Message:
        """Return the next part of the body; disconnect if the body is too large."""
        message = await self.receive_on()
        self.received += len(message.get("body", b""))
        if self.received > MAX_BODY and self.scope["path"] != UPLOADS:
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers of all answers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self.guard.headers.items():
                headers.setdefault(name, value)
            if self.scope["path"].startswith("/api/"):
                headers.setdefault("cache-control", "private, no-store")
        await self.send_on(message)

    async def _refuse(self, status: int, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _record(self) -> None:
        # The pattern of the path is logged: paths themselves contain tokens of shared results.
        route = self.scope.get("route")
        path = getattr(route, "path", None) or "(none)"
        method = (
            self.scope["method"]
            if self.scope["method"] in (*_SAFE_METHODS, "POST", "PUT", "DELETE")
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
