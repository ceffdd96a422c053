"""Which addresses of users this server asks: hosts on a list, and never its own network unless that
is allowed.

Source: OWASP, Server-Side Request Forgery Prevention.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from panoseg.app.settings import AppSettings
from panoseg.errors import AppError, TooLargeError
from panoseg.files import atomic

_REDIRECTS = 5
_TIMEOUT_S = 60.0
_MIB = 1024**2


class RefusedAddressError(AppError):
    """An address that this server does not ask."""


class AllowedUrls:
    """The addresses that may be asked."""

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Hosts that may be named by users; * stands for any part."""
        from panoseg.imagery.catalogue import CATALOGUES

        urls = [catalogue.url for catalogue in CATALOGUES.values()]
        urls += [self.settings.catalog] if "://" in self.settings.catalog else []
        return (
            *(urlsplit(url).hostname or "" for url in urls),
            *(pattern.lower() for pattern in self.settings.allow),
        )

    def check(self, url: str) -> None:
        """Raise ``RefusedAddressError`` for a URL whose host is not on the list, or whose address
        is private.
        """
        try:
            parts = urlsplit(url)
            host, port = (
                (parts.hostname or "").rstrip("."),
                parts.port or (443 if parts.scheme == "https" else 80),
            )
        except ValueError as error:
            raise RefusedAddressError(f"{url[:100]!r}", "a URL", "correct it") from error
        if (
            parts.scheme not in ("http", "https")
            or not host
            or parts.username is not None
            or parts.password is not None
        ):
            raise RefusedAddressError(
                f"{url[:100]!r}", "a URL of http or https without a password", "correct it"
            )
        if not any(fnmatchcase(host, pattern) for pattern in self.patterns):
            raise RefusedAddressError(
                f"the host {host[:100]}",
                f"one of {', '.join(sorted(set(self.patterns)))}",
                "let the operator add it by --allow",
            )
        self.addresses(host, port)

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to. Raises ``RefusedAddressError`` for
        none, or private ones.
        """
        try:
            found = [
                str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            ]
        except (OSError, UnicodeError) as error:
            raise RefusedAddressError(
                f"the host {host[:100]!r}", "one that has an address", "correct it"
            ) from error
        if not self.settings.private_addresses and not all(map(is_public, found)):
            raise RefusedAddressError(
                f"the host {host[:100]}, whose address is private",
                "a public one",
                "ask the operator for --private-addresses",
            )
        return found

    def download(self, url: str, path: Path, largest_mib: int) -> None:
        """Fetch a file; every address that it is redirected to is checked like the first.

        Raises ``RefusedAddressError``, ``TooLargeError``, ``AppError`` for an answer that is none,
        ``OutputError``.
        """
        import httpx

        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            for _ in range(_REDIRECTS):
                self.check(url)
                try:
                    with client.stream("GET", url) as answer:
                        if answer.is_redirect:
                            url = urljoin(url, answer.headers["location"])
                            continue
                        answer.raise_for_status()
                        _keep(answer.iter_bytes(_MIB), path, largest_mib)
                        return
                except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise AppError(
                        f"{url[:100]} ({reason})", "a file", "try again later, or upload it"
                    ) from error
        raise AppError(f"{url[:100]}, which is redirected for ever", "a file", "upload it")


def _keep(chunks: Iterator[bytes], path: Path, largest_mib: int) -> None:
    size = 0
    with atomic(path) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > largest_mib * _MIB:
                raise TooLargeError(
                    "a file that goes on and on",
                    f"at most {largest_mib} MiB",
                    "upload a smaller one",
                )
            file.write(chunk)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever form of IPv6 it hides in.

    >>> [is_public(text) for text in ("93.184.216.34", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        inner = (
            number.ipv4_mapped or number.sixtofour or (number.teredo[1] if number.teredo else None)
        )
        if inner is None and number in _NAT64:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return number.is_global and not number.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_NO_PROXY = ("no_proxy", "NO_PROXY")
_LONGEST_HEAD = 65_536
_CONNECT_S, _IDLE_S = 20.0, 300.0
_PIECE = 65_536
_UPSTREAM = "PANOSEG_UPSTREAM_PROXY"


def guard_process(settings: AppSettings) -> None:
    """From now on, what this process and its children fetch over HTTP goes through a proxy of its
    own.

    Where the environment already names a proxy, that one is used behind ours, and resolves the
    names.
    """
    given = next(
        (
            os.environ[name]
            for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
            if os.environ.get(name)
        ),
        "",
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
        """A connection to an allowed address, or to the proxy behind. Raises
        ``RefusedAddressError``, ``OSError``.
        """
        if self.upstream is not None:
            if _is_number(host):
                self.allowed.addresses(host, port)
            return socket.create_connection(
                (self.upstream.hostname or "", self.upstream.port or 80), _CONNECT_S
            )
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

    def _open(
        self, other: socket.socket, method: str, target: str, head: bytes, rest: bytes
    ) -> None:
        """Send on what has come, in the form that the other side wants."""
        if self.server.upstream is not None:
            other.sendall(head + b"\r\n\r\n" + rest)
        elif method == "CONNECT":
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other.sendall(rest)
        else:
            parts = urlsplit(target)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lines = [
                line
                for line in head.split(b"\r\n")[1:]
                if not line.lower().startswith((b"proxy-", b"connection:"))
            ]
            first = f"{method} {path} HTTP/1.1".encode("latin-1")
            other.sendall(b"\r\n".join([first, *lines, b"Connection: close"]) + b"\r\n\r\n" + rest)

    def _refuse(self, status: str, text: str) -> None:
        body = text.encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length:"
            f" {len(body)}\r\nConnection: close\r\n\r\n"
        )
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
