"""The only way out of a process: a proxy inside of it that connects to nothing but addresses that are allowed.

A catalogue may redirect, name files on other hosts, and change what its name resolves to; requests, httpx and GDAL each follow
in their own way. All of them use the proxy that the environment names, so that one place checks the very address that is
connected to. Sources: RFC 9110, section 9.3.6 (CONNECT); RFC 9112, section 3.2.2 (absolute form).
"""

from __future__ import annotations

import os
import select
import socket
import socketserver
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from panoseg.app.allowed_urls import AllowedUrls, RefusedAddressError
from panoseg.app.settings import AppSettings

_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_NO_PROXY = ("no_proxy", "NO_PROXY")
_LONGEST_HEAD = 65_536
_CONNECT_S, _IDLE_S = 20.0, 300.0
_PIECE = 65_536
_UPSTREAM = "PANOSEG_UPSTREAM_PROXY"


def guard_process(settings: AppSettings) -> None:
    """From now on, what this process and its children fetch over HTTP goes through a proxy of its own.

    Where the environment already names a proxy, that one is used behind ours, and resolves the names.
    """
    given = next(
        (os.environ[name] for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY") if os.environ.get(name)), ""
    )
    upstream = os.environ.setdefault(_UPSTREAM, given)
    server = _Proxy(AllowedUrls(settings), upstream)
    threading.Thread(target=server.serve_forever, name="egress", daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    os.environ.update(dict.fromkeys(_VARIABLES, address) | dict.fromkeys(_NO_PROXY, ""))


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, allowed: AllowedUrls, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.allowed, self.upstream = allowed, urlsplit(upstream) if upstream else None

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to an allowed address, or to the proxy behind. Raises ``RefusedAddressError``, ``OSError``."""
        if self.upstream is not None:
            if _is_number(host):
                self.allowed.addresses(host, port)
            return socket.create_connection((self.upstream.hostname or "", self.upstream.port or 80), _CONNECT_S)
        failure: OSError = OSError("no address")
        for address in self.allowed.addresses(host, port):
            try:
                return socket.create_connection((address, port), _CONNECT_S)
            except OSError as error:
                failure = error
        raise failure


class _Handler(socketserver.BaseRequestHandler):
    """One connection: its first request says where to; a connection never serves a second host."""

    server: _Proxy

    def handle(self) -> None:
        """Connect and pass on, or refuse."""
        self.request.settimeout(_IDLE_S)
        try:
            head, rest = self._head()
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            host, port = _destination(method, target)
            with self.server.connect(host, port) as other:
                self._open(other, method, target, head, rest)
                _relay(self.request, other)
        except RefusedAddressError as error:
            self._refuse("403 Forbidden", str(error))
        except (OSError, ValueError) as error:
            self._refuse("502 Bad Gateway", str(error))

    def _head(self) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.request.recv(_PIECE)
            if not piece or len(data) > _LONGEST_HEAD:
                raise ValueError("no request")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _open(self, other: socket.socket, method: str, target: str, head: bytes, rest: bytes) -> None:
        """Send on what has come, in the form that the other side wants."""
        if self.server.upstream is not None:
            other.sendall(head + b"\r\n\r\n" + rest)
        elif method == "CONNECT":
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other.sendall(rest)
        else:
            parts = urlsplit(target)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lines = [line for line in head.split(b"\r\n")[1:] if not line.lower().startswith((b"proxy-", b"connection:"))]
            first = f"{method} {path} HTTP/1.1".encode("latin-1")
            other.sendall(b"\r\n".join([first, *lines, b"Connection: close"]) + b"\r\n\r\n" + rest)

    def _refuse(self, status: str, text: str) -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with suppress(OSError):  # whoever asked may have gone
            self.request.sendall(head.encode() + body)


def _destination(method: str, target: str) -> tuple[str, int]:
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if not parts.hostname or (method != "CONNECT" and parts.scheme != "http"):
        raise ValueError(f"no address: {target[:100]}")
    return parts.hostname, parts.port or (443 if method == "CONNECT" else 80)


def _is_number(host: str) -> bool:
    """Whether a host is an address in any of its spellings: 127.1, 0x7f000001, 0177.0.0.1, ::1."""
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host
    return True


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until either side ends."""
    target = {one: other, other: one}
    while True:
        ready, _, _ = select.select([one, other], [], [], _IDLE_S)
        if not ready:
            return
        for source in ready:
            data = source.recv(_PIECE)
            if not data:
                return
            target[source].sendall(data)
