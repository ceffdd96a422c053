"""Writing so that nothing is lost or half-written: beside the target, then renamed over it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from panoseg.errors import OutputError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free space for the result", "free some space or choose another folder, then run again"),
    errno.EDQUOT: ("the disk quota is used up", "free space for the result", "free some space or choose another folder"),
    errno.EACCES: ("no permission to write", "a writable folder", "choose another folder or change its permissions"),
    errno.EPERM: ("no permission to write", "a writable folder", "choose another folder or change its permissions"),
    errno.EROFS: ("the file system is read-only", "a writable folder", "choose another folder"),
    errno.ENOTDIR: ("a part of the path is a file", "a folder", "choose another folder"),
    errno.EEXIST: ("a file of that name exists", "a folder", "choose another folder"),
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The user's view of an ``OSError`` met while writing ``path``."""
    what, expected, fix = _REASONS.get(
        error.errno or 0, (error.strerror or str(error), "a path that can be written", "choose another")
    )
    return OutputError(f"{path}: {what}", expected, fix)


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path`` (same suffix) and rename it over ``path`` when the block ends well.

    The temporary may become a file or a folder. Whatever goes wrong, ``path`` is untouched and the temporary is removed.
    Raises ``OutputError`` for a full disk, missing permission and the like.
    """
    path = Path(path).absolute()
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, indented; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def new_folder(path: Path | str, *, resumable: str | None = None) -> Path:
    """Create an output folder, or accept an empty one.

    A folder with files in it is refused, unless it holds the file named by ``resumable``, the mark of an unfinished run of the
    same command. Raises ``OutputError``.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        entries = sorted(entry.name for entry in path.iterdir())
        if entries and (resumable is None or resumable not in entries):
            raise OutputError(
                f"{path} holds {len(entries)} files ({', '.join(entries[:3])}{', …' if len(entries) > 3 else ''})",
                "a new or empty folder",
                "choose another folder or empty this one",
            )
        probe = path / f".write-{uuid.uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise output_error(path, error) from error
    return path
