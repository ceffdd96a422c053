"""Where a dataset lies: a folder of this machine, or a URL of any store that fsspec knows (s3, gs,
https ..).

Stores are asked by one function each for a whole file, a part of one and its size. They are made
anew in each process, which fsspec remembers; those of another process do not survive a fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from panoseg.errors import DatasetError, PanosegError
from panoseg.extras import Extra, is_installed, missing

Result = TypeVar("Result")
Place = Path | str
"""A folder, or a URL as text; text may be a folder too."""

_EXTRAS: dict[str, Extra] = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra with the package of each kind of store."""

_WAITS_S = (0.2, 1.0, 4.0)
"""Between attempts: a network that fails for a moment does not end a training of days."""


def is_url(place: Place) -> bool:
    """Whether a place is a URL, and not a folder.

    >>> is_url("s3://bucket/coco"), is_url("filecache::https://host/coco"), is_url("C:/coco"), is_url(Path("coco"))
    (True, True, False, False)
    """
    return isinstance(place, str) and ("://" in place or "::" in place)


def place_of(text: str) -> Place:
    """The place that a user names."""
    return text if is_url(text) else Path(text)


def resolved(place: Place) -> str:
    """A place that means the same from every folder."""
    return (
        place.rstrip("/")
        if isinstance(place, str) and is_url(place)
        else str(Path(place).resolve())
    )


def joined(place: Place, name: str) -> str:
    """The place of a file inside a place.

    >>> joined("s3://bucket/coco/", "index.json")
    's3://bucket/coco/index.json'
    """
    return f"{str(place).rstrip('/')}/{name}"


def read_file(place: str, most: int) -> bytes:
    """All bytes of a file. Raises ``DatasetError``, also where it has more than ``most``."""
    size = size_of(place)
    if size is not None and size > most:
        raise DatasetError(f"{place}: {size} bytes", f"at most {most}", "name the right file")
    return _asked(place, lambda store, path: store.cat_file(path, start=0, end=most))


def read_part(place: str, start: int, end: int) -> bytes:
    """Some bytes of a file. Raises ``DatasetError`` where it does not have that many."""
    data = _asked(place, lambda store, path: store.cat_file(path, start=start, end=end))
    if len(data) != end - start:
        found = (
            f"{place}: {len(data)} bytes where {end - start} were asked for, from byte {start} on"
        )
        raise DatasetError(
            found,
            "a whole file, of a server that gives parts",
            "copy the file again, or use another server",
        )
    return data


def size_of(place: str) -> int | None:
    """Bytes of a file; None where its store does not say. Raises ``DatasetError``."""
    size: int | None = _asked(place, lambda store, path: store.info(path).get("size"))
    return size


def store_of(place: str) -> tuple[Any, str]:
    """The store of a place and the path there. Raises ``DatasetError`` for a kind of store that is
    not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(place)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(place.split(":", 1)[0])
        if extra and not is_installed(extra):
            raise DatasetError(missing(extra, place)) from error
        raise DatasetError(
            f"{place} cannot be opened: {_line(error)}. Install the package of this kind of store,"
            " or use another store."
        ) from error


def _asked(place: str, question: Callable[[Any, str], Result]) -> Result:
    store, path = store_of(place)
    for wait_s in (*_WAITS_S, None):
        try:
            return question(store, path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise DatasetError(
                f"{place}: {_line(error)}", "a file that can be read", "correct the address"
            ) from error
        except PanosegError:
            raise
        except Exception as error:  # every store has exceptions of its own
            if wait_s is None:
                raise DatasetError(
                    f"{place}: {_line(error)}", "a store that answers", "try again"
                ) from error
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _line(error: Exception) -> str:
    """What an exception says, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
