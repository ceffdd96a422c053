"""Which addresses of users this server asks: hosts on a list, and never its own network unless that is allowed.

Source: OWASP, Server-Side Request Forgery Prevention.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
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
        return (*(urlsplit(url).hostname or "" for url in urls), *(pattern.lower() for pattern in self.settings.allow))

    def check(self, url: str) -> None:
        """Raise ``RefusedAddressError`` for a URL whose host is not on the list, or whose address is private."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise RefusedAddressError(f"{url[:100]!r}", "a URL", "correct it") from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.password is not None:
            raise RefusedAddressError(f"{url[:100]!r}", "a URL of http or https without a password", "correct it")
        if not any(fnmatchcase(host, pattern) for pattern in self.patterns):
            raise RefusedAddressError(
                f"the host {host[:100]}",
                f"one of {', '.join(sorted(set(self.patterns)))}",
                "let the operator add it by --allow",
            )
        self.addresses(host, port)

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to. Raises ``RefusedAddressError`` for none, or private ones."""
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise RefusedAddressError(f"the host {host[:100]!r}", "one that has an address", "correct it") from error
        if not self.settings.private_addresses and not all(map(is_public, found)):
            raise RefusedAddressError(
                f"the host {host[:100]}, whose address is private", "a public one", "ask the operator for --private-addresses"
            )
        return found

    def download(self, url: str, path: Path, largest_mib: int) -> None:
        """Fetch a file; every address that it is redirected to is checked like the first.

        Raises ``RefusedAddressError``, ``TooLargeError``, ``AppError`` for an answer that is none, ``OutputError``.
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
                    raise AppError(f"{url[:100]} ({reason})", "a file", "try again later, or upload it") from error
        raise AppError(f"{url[:100]}, which is redirected for ever", "a file", "upload it")


def _keep(chunks: Iterator[bytes], path: Path, largest_mib: int) -> None:
    size = 0
    with atomic(path) as temporary, temporary.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > largest_mib * _MIB:
                raise TooLargeError("a file that goes on and on", f"at most {largest_mib} MiB", "upload a smaller one")
            file.write(chunk)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever form of IPv6 it hides in.

    >>> [is_public(text) for text in ("93.184.216.34", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo[1] if number.teredo else None)
        if inner is None and number in _NAT64:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return number.is_global and not number.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
