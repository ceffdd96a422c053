"""Outgoing HTTP requests: only to allowed hosts, and not to private addresses unless allowed.

``AllowedUrls`` checks URLs that users give. ``guard_process`` sends all HTTP requests of a process
through a proxy that applies the same checks when it connects, so that neither a redirect nor a
changed DNS answer leads elsewhere.

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

_MAX_REDIRECTS = 5
_TIMEOUT_S = 60.0
_MIB = 1024**2
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddressError(AppError):
    """A URL or host that this server does not connect to."""


def is_public(address: str) -> bool:
    """Return whether an address is on the public internet, also if IPv6 wraps an IPv4 address.

    >>> is_public("93.184.216.34"), is_public("10.0.0.1"), is_public("169.254.169.254")
    (True, False, False)
    >>> is_public("::ffff:127.0.0.1"), is_public("64:ff9b::7f00:1")
    (False, False)
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


class AllowedUrls:
    """The URLs that this server may request for users.

    Args:
        settings: Settings with the catalogue, the allowed hosts, and whether private addresses are
            allowed.
    """

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of allowed hosts, in which * matches any text."""
        from panoseg.imagery.catalogue import CATALOGUES

        urls = [catalogue.url for catalogue in CATALOGUES.values()]
        urls += [self.settings.catalog] if "://" in self.settings.catalog else []
        return (
            *(urlsplit(url).hostname or "" for url in urls),
            *(pattern.lower() for pattern in self.settings.allow),
        )

    def check(self, url: str) -> None:
        """Check a URL.

        Raises:
            RefusedAddressError: The URL is not valid, its host is not allowed, or its address is
                private.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise RefusedAddressError(f"{url[:100]!r} is not a valid URL; correct it.") from error
        if (
            parts.scheme not in ("http", "https")
            or not host
            or parts.username is not None
            or parts.password is not None
        ):
            raise RefusedAddressError(
                f"{url[:100]!r} must be an http or https URL without a user name and password."
            )
        if not any(fnmatchcase(host, pattern) for pattern in self.patterns):
            raise RefusedAddressError(
                f"The host {host[:100]} is not one of"
                f" {', '.join(sorted(set(self.patterns)))}. The operator of this server can add it"
                " with --allow."
            )
        self.addresses(host, port)

    def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host that may be connected to.

        Raises:
            RefusedAddressError: The host has no address, or a private one.
        """
        try:
            found = [
                str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            ]
        except (OSError, UnicodeError) as error:
            raise RefusedAddressError(
                f"The host {host[:100]!r} has no address; correct it."
            ) from error
        if not self.settings.private_addresses and not all(map(is_public, found)):
            raise RefusedAddressError(
                f"The address of the host {host[:100]} is private. The operator of this server can"
                " allow that with --private-addresses."
            )
        return found

    def download(self, url: str, path: Path, max_mib: int) -> None:
        """Download a file; every URL that it is redirected to is checked like the first.

        Args:
            url: The URL.
            path: The file to write.
            max_mib: Largest size in MiB.

        Raises:
            RefusedAddressError: The URL, or one that it is redirected to, is not allowed.
            TooLargeError: The file is too large.
            AppError: The server does not answer or does not have the file.
            OutputError: The file cannot be written.
        """
        import httpx

        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            for _ in range(_MAX_REDIRECTS):
                self.check(url)
                try:
                    with client.stream("GET", url) as answer:
                        if answer.is_redirect:
                            url = urljoin(url, answer.headers["location"])
                            continue
                        answer.raise_for_status()
                        _write(answer.iter_bytes(_MIB), path, max_mib)
                        return
                except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise AppError(
                        f"{url[:100]} cannot be downloaded ({reason}). Try again later, or upload"
                        " the file."
                    ) from error
        raise AppError(f"{url[:100]} is redirected too often; upload the file instead.")


def _write(chunks: Iterator[bytes], path: Path, max_mib: int) -> None:
    size = 0
    with atomic(path) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_mib * _MIB:
                raise TooLargeError(
                    f"The file at that URL has more than {max_mib} MiB; use a smaller one."
                )
            file.write(chunk)


# -- the proxy

_PROXY_VARIABLES = (
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
)
_NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
_MAX_HEAD = 65_536
_CONNECT_TIMEOUT_S, _IDLE_TIMEOUT_S = 20.0, 300.0
_CHUNK = 65_536
_UPSTREAM = "PANOSEG_UPSTREAM_PROXY"


def guard_process(settings: AppSettings) -> None:
    """Send the HTTP requests of this process and its children through a proxy in this process.

    If the environment already names a proxy, requests are passed on to that one, which resolves the
    host names.
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
    os.environ.update(
        dict.fromkeys(_PROXY_VARIABLES, address) | dict.fromkeys(_NO_PROXY_VARIABLES, "")
    )


class _Proxy(socketserver.ThreadingTCPServer):
    """The proxy; one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, allowed: AllowedUrls, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.allowed, self.upstream = allowed, urlsplit(upstream) if upstream else None

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to an allowed host, or to the upstream proxy.

        Raises:
            RefusedAddressError: The host has no address, or a private one.
            OSError: No connection can be made.
        """
        if self.upstream is not None:
            if _is_address(host):
                self.allowed.addresses(host, port)
            return socket.create_connection(
                (self.upstream.hostname or "", self.upstream.port or 80), _CONNECT_TIMEOUT_S
            )
        failure: OSError = OSError("no address")
        for address in self.allowed.addresses(host, port):
            try:
                return socket.create_connection((address, port), _CONNECT_TIMEOUT_S)
            except OSError as error:
                failure = error
        raise failure


class _Handler(socketserver.BaseRequestHandler):
    """A connection; the first request names its host, and no request to another host follows."""

    server: _Proxy

    def handle(self) -> None:
        """Connect to the host and relay, or refuse."""
        self.request.settimeout(_IDLE_TIMEOUT_S)
        try:
            head, rest = self._read_head()
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            host, port = _destination(method, target)
            with self.server.connect(host, port) as other:
                self._forward_head(other, method, target, head, rest)
                _relay(self.request, other)
        except RefusedAddressError as error:
            self._refuse("403 Forbidden", str(error))
        except (OSError, ValueError) as error:
            self._refuse("502 Bad Gateway", str(error))

    def _read_head(self) -> tuple[bytes, bytes]:
        """Return the head of the first request and what has arrived after it."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self.request.recv(_CHUNK)
            if not chunk or len(data) > _MAX_HEAD:
                raise ValueError("no request")
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _forward_head(
        self, other: socket.socket, method: str, target: str, head: bytes, rest: bytes
    ) -> None:
        """Send on what has arrived, in the form that a proxy or a server expects."""
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
        with suppress(OSError):  # the client may have closed the connection
            self.request.sendall(head.encode() + body)


def _destination(method: str, target: str) -> tuple[str, int]:
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if not parts.hostname or (method != "CONNECT" and parts.scheme != "http"):
        raise ValueError(f"no address: {target[:100]}")
    return parts.hostname, parts.port or (443 if method == "CONNECT" else 80)


def _is_address(host: str) -> bool:
    """Return whether a host is an address in any notation: 127.1, 0x7f000001, 0177.0.0.1, ::1."""
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host
    return True


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Relay bytes both ways until either side closes its connection."""
    target = {one: other, other: one}
    while True:
        ready, _, _ = select.select([one, other], [], [], _IDLE_TIMEOUT_S)
        if not ready:
            return
        for source in ready:
            data = source.recv(_CHUNK)
            if not data:
                return
            target[source].sendall(data)
