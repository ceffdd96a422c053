"""Addresses of files -> what GDAL opens, signed where the owner wants it, with patience for a bad
network.

Saved addresses are never signed: signatures end after an hour. Sources: Planetary Computer's data
authentication API; Copernicus Data Space, access to EO data via S3; GDAL, configuration options of
``/vsicurl/`` and ``/vsis3/``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import rasterio
import requests
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from panoseg.errors import CatalogueError

# GeoTIFF and JPEG 2000 are what scenes come as; other formats of GDAL may stand for other files.
DRIVERS = ["GTiff", "JP2OpenJPEG"]
REMOTE = ("http", "https", "s3")
COPERNICUS_HOST = "eodata.dataspace.copernicus.eu"
COPERNICUS_BUCKET = "eodata"
TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
_SIGNED_HOST = "sentinel2l2a01.blob.core.windows.net"  # of Planetary Computer's Sentinel-2
_TOKEN_MARGIN = timedelta(minutes=5)
_PATIENCE: dict[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_CACHEMAX": 128 * 1024**2,  # bytes, by rasterio; windows are read once
}
_LARGEST_BLOCK = 10_980**2  # pixels: reading one of them takes a whole block
_LARGEST_TOKEN_BYTES = 1024**2
_LONGEST_ANSWER_S = 600.0
_PIECE_BYTES = 64 * 1024
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE")


@dataclass
class Signer:
    """Tokens of Planetary Computer, one an account and container, fetched when first needed and
    again before they end.

    url: of the service that gives them.
    """

    url: str = TOKENS
    _tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sign(self, href: str) -> str:
        """``href`` with a token. Raises ``requests.RequestException``, or ``ValueError`` for an
        answer without a token.
        """
        parts = urlsplit(href)
        place = f"{parts.netloc.split('.')[0]}/{parts.path.split('/')[1]}"
        with self._lock:
            token, end = self._tokens.get(place, ("", datetime.min.replace(tzinfo=UTC)))
            if datetime.now(UTC) + _TOKEN_MARGIN > end:
                token, end = self._tokens[place] = self._fetch(place)
        return f"{href}?{token}"

    def _fetch(self, place: str) -> tuple[str, datetime]:
        with requests.Session() as session:
            limit_answers(session, _LARGEST_TOKEN_BYTES)
            patience = Retry(
                total=5,
                backoff_factor=0.5,
                status_forcelist=(429, 500, 502, 503, 504),
                retry_after_max=60,
            )
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=patience))
            answer = session.get(f"{self.url}/{place}", timeout=60)
            answer.raise_for_status()
            value = answer.json()
        if not isinstance(value, dict) or "token" not in value or "msft:expiry" not in value:
            raise ValueError(f"{self.url} gave no token")
        return str(value["token"]), datetime.fromisoformat(str(value["msft:expiry"]))


_SIGNER = Signer()


def limit_answers(session: requests.Session, most_bytes: int) -> None:
    """Make a session end answers, redirections included, that are longer than ``most_bytes``
    unpacked, or never end.

    Those raise ``requests.RequestException``.
    """

    def read(answer: requests.Response, *_: object, **__: object) -> None:
        end, pieces, size = time.monotonic() + _LONGEST_ANSWER_S, [], 0
        for piece in answer.iter_content(_PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes or time.monotonic() > end:
                answer.close()
                raise requests.RequestException(
                    f"an answer longer than {most_bytes:,} bytes"
                    if size > most_bytes
                    else "an answer that does not end"
                )
        answer._content = b"".join(pieces)  # where requests itself keeps what was read

    session.hooks["response"].append(read)


def is_remote(href: str) -> bool:
    """Whether a file lies on a server."""
    return urlsplit(href).scheme in REMOTE


def needs_keys(href: str) -> bool:
    """Whether a file lies in the Copernicus Data Space, whose files are given to users with keys
    alone.
    """
    parts = urlsplit(href)
    return parts.scheme == "s3" and parts.netloc == COPERNICUS_BUCKET


def check_keys(hrefs: Iterator[str]) -> None:
    """Raise ``CatalogueError`` where files need keys and the environment has none."""
    if any(map(needs_keys, hrefs)) and not any(os.environ.get(name) for name in _KEYS):
        raise CatalogueError(
            "files of the Copernicus Data Space without keys to it",
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            "make keys in your account at dataspace.copernicus.eu, or choose another --catalog",
        )


def gdal_path(href: str, signer: Signer = _SIGNER) -> str:
    """What GDAL opens for the address of a file: http(s), s3, or a path."""
    parts = urlsplit(href)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    if parts.scheme not in ("http", "https"):
        return href
    signed = parts.netloc == _SIGNED_HOST and not parts.query
    return f"/vsicurl/{signer.sign(href) if signed else href}"


def gdal_options(href: str) -> dict[str, str | int]:
    """GDAL's configuration for a file."""
    if needs_keys(href):
        return {
            **_PATIENCE,
            "AWS_S3_ENDPOINT": COPERNICUS_HOST,
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_HTTPS": "YES",
        }
    public = urlsplit(href).scheme == "s3" and not any(os.environ.get(name) for name in _KEYS)
    return {**_PATIENCE, **({"AWS_NO_SIGN_REQUEST": "YES"} if public else {})}


def forget(href: str) -> None:
    """Make GDAL ask for a file anew: it keeps what it has received, an answer that broke off in its
    middle included.
    """
    with suppress(RasterioError, requests.RequestException, ValueError):
        path = gdal_path(href)
        with rasterio.Env(**gdal_options(href), CPL_VSIL_CURL_NON_CACHED=path):
            DatasetReader(path, driver=DRIVERS, sharing=False).close()


@contextmanager
def open_raster(href: str) -> Iterator[DatasetReader]:
    """A raster that lies somewhere on Earth, for reading in any thread, wherever the file is.

    Raises ``RasterioError`` for what cannot be read, 404 included, for a raster without a place,
    and for blocks of absurd size.
    """
    try:
        path = gdal_path(href)
    except (requests.RequestException, ValueError) as error:
        raise RasterioError(f"{href} cannot be signed ({error})") from error
    with (
        rasterio.Env(**gdal_options(href)),
        DatasetReader(path, driver=DRIVERS, sharing=False) as source,
    ):
        if source.crs is None or source.transform.is_identity:
            raise RasterioError("no coordinate system")
        if max(height * width for height, width in source.block_shapes) > _LARGEST_BLOCK:
            raise RasterioError(
                "blocks larger than a whole tile of Sentinel-2, which would fill memory"
            )
        yield source
