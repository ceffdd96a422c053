"""Writing so that nothing is lost or half-written: beside the target, then renamed over it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseg.errors import OutputError

_REASONS = {
    errno.ENOSPC: (
        "the disk is full",
        "free space for the result",
        "free some space or choose another folder, then run again",
    ),
    errno.EDQUOT: (
        "the disk quota is used up",
        "free space for the result",
        "free some space or choose another folder",
    ),
    errno.EFBIG: (
        "the file is larger than may be written",
        "a place for large files",
        "choose another folder or raise the limit",
    ),
    errno.EACCES: (
        "no permission to write",
        "a writable folder",
        "choose another folder or change its permissions",
    ),
    errno.EPERM: (
        "no permission to write",
        "a writable folder",
        "choose another folder or change its permissions",
    ),
    errno.EROFS: ("the file system is read-only", "a writable folder", "choose another folder"),
    errno.ENOTDIR: ("a part of the path is a file", "a folder", "choose another folder"),
    errno.EEXIST: ("a file of that name exists", "a folder", "choose another folder"),
}


_PROBE_BYTES = 1024**2
_LOCK_PATIENCE_S = 3.0  # a process that was just killed takes a moment to end
# Names of ``_temporary``; a library may append an ending of its own.
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part(\..*)?", re.DOTALL)


def output_error(path: Path, error: Exception) -> OutputError:
    """The user's view of what went wrong while ``path`` was written: an ``OSError``, or a writing
    library's own exception.
    """
    number = getattr(error, "errno", None)
    if number in (None, errno.EACCES):  # which netCDF says whenever a file cannot be made
        number = _obstacle(path.parent) or number
    text = (
        getattr(error, "strerror", None)
        or (str(error).strip().splitlines() or [type(error).__name__])[0]
    )
    what, expected, fix = _REASONS.get(
        number or 0, (text, "a path that can be written", "choose another")
    )
    return OutputError(f"{path}: {what}", expected, fix)


def _obstacle(folder: Path) -> int | None:
    """The number of the error that keeps a file from being written into ``folder``, for libraries
    that do not tell; or None.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so that a kill leaves none
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


@contextmanager
def atomic(path: Path | str, failures: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Give a temporary path beside ``path`` (same suffix) and rename it over ``path`` when the
    block ends well.

    The temporary may become a file or a folder. Whatever goes wrong, ``path`` is untouched and the
    temporary is removed; what a killed process leaves, ``remove_unfinished`` finds. failures: what
    a writing library raises beside ``OSError`` when it cannot write. Raises ``OutputError`` for a
    full disk, missing permission and the like.
    """
    path = Path(path).absolute()
    caught: tuple[type[Exception], ...] = (OSError, *failures)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except (
        OutputError
    ) as error:  # of a file inside a temporary folder, whose name tells the user nothing
        raise OutputError(
            error.found.replace(str(temporary), str(path)), error.expected, error.fix
        ) from error
    except caught as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            discard(temporary)


@dataclass
class _Hold:
    """A folder in which this process makes something.

    descriptor: of the folder. thread: that has it. made: whether the folder is new. depth: how
    often the thread asked.
    """

    descriptor: int
    thread: int
    made: bool
    depth: int = 1


_HELD: dict[Path, _Hold] = {}


@contextmanager
def making(folder: Path | str, *, of: Path | str | None = None) -> Iterator[None]:
    """Hold a folder in which a command makes its output, so that no other command writes there at
    the same time.

    The folder is made where there is none, and goes again if nothing came into it. The lock is the
    system's own on the folder itself (flock): it ends with the process, however that ends, and
    leaves no file; what holds a folder may hold it again inside. of: what is made, if that is not
    the folder, for the message. Where a file system has no locks nothing is held. Raises
    ``OutputError`` where another command holds the folder.
    """
    shown = Path(folder if of is None else of)
    try:
        place = Path(folder).resolve()
        hold = _HELD.get(place)
        if hold is not None and hold.thread == threading.get_ident():
            hold.depth += 1
        else:
            hold = _HELD[place] = _hold(place, shown)
    except OSError as error:
        raise output_error(shown, error) from error
    try:
        yield
    finally:
        hold.depth -= 1
        if not hold.depth:
            _release(place, hold)


def _hold(place: Path, shown: Path) -> _Hold:
    """Make and lock a folder. Raises ``OSError``, and ``OutputError`` where somebody else has
    it.
    """
    end, made = time.monotonic() + _LOCK_PATIENCE_S, False
    while True:
        made |= not place.exists()
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(FileNotFoundError):  # who held it has just taken it away
            if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), place.stat()):
                return _Hold(descriptor, threading.get_ident(), made)
        os.close(descriptor)
        if time.monotonic() > end:
            raise OutputError(
                f"another command writes {shown}",
                "one at a time",
                "wait until it ends, or choose another --out",
            )
        time.sleep(_LOCK_PATIENCE_S / 60)


def _lock(descriptor: int) -> bool:
    """Take the lock of an open folder, as far as its file system has locks; whether nobody else has
    it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, or without those of folders
        return True
    return True


def _release(place: Path, hold: _Hold) -> None:
    del _HELD[place]
    if hold.made:
        with suppress(OSError):
            place.rmdir()  # an empty one
    os.close(hold.descriptor)


def _let_go() -> None:
    """Close what a forked process has from its parent: it would hold the parent's folders for as
    long as it lives.
    """
    for hold in _HELD.values():
        os.close(hold.descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def discard(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there. Raises ``OSError``."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def take_away(folder: Path) -> None:
    """Remove a folder so that half of it is never there: what a kill leaves ``remove_unfinished``
    finds. Raises ``OSError``.
    """
    temporary = _temporary(folder)
    os.rename(folder, temporary)
    discard(temporary)


def _temporary(path: Path) -> Path:
    """A name beside a path for what is not whole. Names of files end at 255 bytes: of long ones the
    beginning is enough.
    """
    return path.with_name(f".{path.stem[:50]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def remove_unfinished(folder: Path | str) -> None:
    """Remove the temporaries of ``atomic`` that a killed process left in ``folder`` or below.
    Raises ``OutputError``.
    """
    try:
        for path in [
            entry for entry in Path(folder).rglob(".*.part*") if _TEMPORARY.fullmatch(entry.name)
        ]:
            discard(path)
    except OSError as error:
        raise output_error(Path(folder), error) from error


def check_writable(path: Path | str) -> None:
    """Raise ``OutputError`` where a file of that path could not be written: before a long
    computation, not after it.
    """
    path = Path(path).absolute()
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    number = errno.EISDIR if path.is_dir() else _obstacle(folder)
    if number is not None:
        raise output_error(path, OSError(number, os.strerror(number)))


def signature(path: Path) -> list[int | str]:
    """Number, size, and a digest of names, sizes and times of a file or of all files in a folder:
    changed data have another.
    """
    files = (
        [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    )
    digest, size = hashlib.sha256(), 0
    for entry in files:
        status = entry.stat()
        size += status.st_size
        digest.update(
            f"{entry.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
        )
    return [len(files), size, digest.hexdigest()]


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, indented; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def new_folder(path: Path | str, *, resumable: str | None = None) -> Path:
    """Create an output folder, or accept an empty one.

    A folder with files in it is refused, unless it holds the file named by ``resumable``, the mark
    of an unfinished run of the same command. What a killed process was just writing into an
    accepted folder is removed. Raises ``OutputError``.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        entries = sorted(
            entry.name for entry in path.iterdir() if not _TEMPORARY.fullmatch(entry.name)
        )
        if entries and (resumable is None or resumable not in entries):
            count = f"{len(entries)} file{'s' * (len(entries) > 1)}"
            raise OutputError(
                f"{path} holds {count}"
                f" ({', '.join(entries[:3])}{', …' if len(entries) > 3 else ''})",
                "a new or empty folder",
                "choose another folder or empty this one",
            )
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise output_error(path, error) from error
    remove_unfinished(path)
    return path
