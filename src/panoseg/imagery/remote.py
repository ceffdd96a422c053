"""Open remote rasters with GDAL: signed addresses, credentials, and retries on a bad network.

Saved addresses are never signed, because signatures expire after an hour.

Sources: Planetary Computer's data authentication API; Copernicus Data Space, access to EO data via
S3; GDAL, configuration options of ``/vsicurl/`` and ``/vsis3/``.
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

# Scenes are GeoTIFF or JPEG 2000; files of GDAL's other formats may refer to other files.
DRIVERS = ["GTiff", "JP2OpenJPEG"]
REMOTE = ("http", "https", "s3")
COPERNICUS_HOST = "eodata.dataspace.copernicus.eu"
COPERNICUS_BUCKET = "eodata"
TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
_SIGNED_HOST = "sentinel2l2a01.blob.core.windows.net"  # of Planetary Computer's Sentinel-2
_TOKEN_MARGIN = timedelta(minutes=5)
GDAL_RETRIES: dict[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no request for a listing
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # a connection slower than a byte a second is given up
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # the header of a GeoTIFF in one request
    "GDAL_CACHEMAX": 128 * 1024**2,  # bytes, by rasterio; windows are read once
}
_LARGEST_BLOCK = 10_980**2  # pixels: to read one pixel GDAL reads its block
MAX_TOKEN_BYTES = 1024**2
"""Of the answer with a token."""
MAX_ANSWER_S = 600.0
"""Seconds until an answer must be complete."""
_PIECE_BYTES = 64 * 1024
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE")


@dataclass
class Signer:
    """Tokens of Planetary Computer, one for each account and container.

    They are fetched when first needed, and again before they expire. Threads may share a signer.
    """

    url: str = TOKENS
    """Address of the service that issues tokens."""
    _tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """Account/container: its token and the time when it expires."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while a token is looked up or fetched."""

    def sign(self, href: str) -> str:
        """Return ``href`` with a token.

        Raises ``requests.RequestException``, or ``ValueError`` for an answer without a token.
        """
        parts = urlsplit(href)
        place = f"{parts.netloc.split('.')[0]}/{parts.path.split('/')[1]}"
        with self._lock:
            token, end = self._tokens.get(place, ("", datetime.min.replace(tzinfo=UTC)))
            if datetime.now(UTC) + _TOKEN_MARGIN > end:
                token, end = self._tokens[place] = self.fetch_token(place)
        return f"{href}?{token}"

    def fetch_token(self, place: str) -> tuple[str, datetime]:
        """Return a token for an account/container, and the time when it expires."""
        with requests.Session() as session:
            limit_answers(session, MAX_TOKEN_BYTES)
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
            raise ValueError(f"{self.url} returned no token")
        return str(value["token"]), datetime.fromisoformat(str(value["msft:expiry"]))


_SIGNER = Signer()


def limit_answers(session: requests.Session, most_bytes: int) -> None:
    """Limit the answers of a session, redirections included.

    Answers that are longer than ``most_bytes`` unpacked, or take too long, are cut off and raise
    ``requests.RequestException``.
    """

    def read(answer: requests.Response, *_: object, **__: object) -> None:
        end, pieces, size = time.monotonic() + MAX_ANSWER_S, [], 0
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
        answer._content = b"".join(pieces)  # where requests keeps what was read

    session.hooks["response"].append(read)


def is_remote(href: str) -> bool:
    """Return whether a file lies on a server."""
    return urlsplit(href).scheme in REMOTE


def needs_credentials(href: str) -> bool:
    """Return whether only users of the Copernicus Data Space may read a file."""
    parts = urlsplit(href)
    return parts.scheme == "s3" and parts.netloc == COPERNICUS_BUCKET


def check_credentials(hrefs: Iterator[str]) -> None:
    """Check that the environment has the credentials that files need.

    Raises:
        CatalogueError: It lacks them.
    """
    if any(map(needs_credentials, hrefs)) and not any(os.environ.get(name) for name in _KEYS):
        raise CatalogueError(
            "Files of the Copernicus Data Space need keys: make them in your account at"
            " dataspace.copernicus.eu and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " choose another --catalog."
        )


def gdal_path(href: str, signer: Signer = _SIGNER) -> str:
    """Return what GDAL opens for the address of a file: http(s), s3, or a path."""
    parts = urlsplit(href)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    if parts.scheme not in ("http", "https"):
        return href
    signed = parts.netloc == _SIGNED_HOST and not parts.query
    return f"/vsicurl/{signer.sign(href) if signed else href}"


def gdal_options(href: str) -> dict[str, str | int]:
    """Return GDAL's configuration for a file."""
    if needs_credentials(href):
        return {
            **GDAL_RETRIES,
            "AWS_S3_ENDPOINT": COPERNICUS_HOST,
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_HTTPS": "YES",
        }
    public = urlsplit(href).scheme == "s3" and not any(os.environ.get(name) for name in _KEYS)
    return {**GDAL_RETRIES, **({"AWS_NO_SIGN_REQUEST": "YES"} if public else {})}


def drop_cached(href: str) -> None:
    """Make GDAL request a file again: it also caches what it received of a broken response."""
    with suppress(RasterioError, requests.RequestException, ValueError):
        path = gdal_path(href)
        with rasterio.Env(**gdal_options(href), CPL_VSIL_CURL_NON_CACHED=path):
            DatasetReader(path, driver=DRIVERS, sharing=False).close()


@contextmanager
def open_raster(href: str) -> Iterator[DatasetReader]:
    """Open a georeferenced raster for reading, local or remote; any thread may use it.

    Raises ``RasterioError`` for a file that cannot be read (404 included), a raster without
    georeference, and blocks of absurd size.
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
        check_blocks(source)
        yield source


def check_blocks(source: DatasetReader) -> None:
    """Raise ``RasterioError`` for a raster of which a single pixel would fill memory."""
    if max(height * width for height, width in source.block_shapes) > _LARGEST_BLOCK:
        raise RasterioError(
            "blocks larger than a whole tile of Sentinel-2, which would fill memory"
        )
