"""Places of datasets: a folder, or a URL of any store that fsspec knows (s3, gs, https ..).

The functions read a whole file, a part of one, or its size. A store is opened in each process,
where fsspec keeps it; one of another process does not survive a fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from panoseg.errors import DatasetError, Extra, PanosegError, is_installed, missing

Result = TypeVar("Result")
Place = Path | str
"""A folder, or a URL as text; text may be a folder too."""

_EXTRAS: dict[str, Extra] = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra with the package of each kind of store."""

# Seconds between attempts: a network that fails for a moment does not end a training of days.
RETRY_WAITS_S = (0.2, 1.0, 4.0)


def is_url(place: Place) -> bool:
    """Return whether a place is a URL, and not a folder.

    >>> is_url("s3://bucket/coco"), is_url("filecache::https://host/coco")
    (True, True)
    >>> is_url("C:/coco"), is_url(Path("coco"))
    (False, False)
    """
    return isinstance(place, str) and ("://" in place or "::" in place)


def place_of(text: str) -> Place:
    """Return the place that a user names."""
    return text if is_url(text) else Path(text)


def resolved(place: Place) -> str:
    """Return a place that means the same from every working folder."""
    return (
        place.rstrip("/")
        if isinstance(place, str) and is_url(place)
        else str(Path(place).resolve())
    )


def joined(place: Place, name: str) -> str:
    """Return the place of a file inside a place.

    >>> joined("s3://bucket/coco/", "index.json")
    's3://bucket/coco/index.json'
    """
    return f"{str(place).rstrip('/')}/{name}"


def read_file(place: str, most: int) -> bytes:
    """Read a file; raise ``DatasetError`` where it has more than ``most`` bytes or is not there."""
    size = size_of(place)
    if size is not None and size > most:
        raise DatasetError(f"{place} has {size} bytes, more than {most}; name the right file.")
    data: bytes = _with_retries(place, lambda store, path: store.cat_file(path, start=0, end=most))
    return data


def read_part(place: str, start: int, end: int) -> bytes:
    """Read the bytes from ``start`` to before ``end``; raise ``DatasetError`` where some lack."""
    data: bytes = _with_retries(
        place, lambda store, path: store.cat_file(path, start=start, end=end)
    )
    if len(data) != end - start:
        raise DatasetError(
            f"{place} returned {len(data)} bytes instead of {end - start}, from byte {start}"
            " on; the file is cut, or its server does not send parts of files."
        )
    return data


def size_of(place: str) -> int | None:
    """Return the number of bytes of a file, None where its store does not say.

    Raises:
        DatasetError: There is no such file, or its store does not answer.
    """
    size: int | None = _with_retries(place, lambda store, path: store.info(path).get("size"))
    return size


def store_of(place: str) -> tuple[Any, str]:
    """Return the store of a place, an fsspec file system, and the path there.

    Raises:
        DatasetError: The package for that kind of store is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        store, path = url_to_fs(place)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(place.split(":", 1)[0])
        if extra and not is_installed(extra):
            raise DatasetError(missing(extra, place)) from error
        raise DatasetError(
            f"{place} cannot be opened: {_line(error)}. Install the package of this kind of store,"
            " or use another store."
        ) from error
    return store, path


def _with_retries(place: str, question: Callable[[Any, str], Result]) -> Result:
    """Ask a store something, several times where it fails."""
    store, path = store_of(place)
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return question(store, path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise DatasetError(
                f"{place} cannot be read ({_line(error)}); correct the address."
            ) from error
        except PanosegError:
            raise
        except Exception as error:  # every store has its own exceptions
            if wait_s is None:
                raise DatasetError(
                    f"The store of {place} does not answer ({_line(error)}); try again later."
                ) from error
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _line(error: Exception) -> str:
    """Return the message of an exception in one line of at most 200 letters."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
