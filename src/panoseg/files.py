"""Write files and folders atomically, and hold an output folder while a command writes it.

What is written gets a temporary name next to its target and is renamed when it is complete, so that
an interrupted command leaves no half-written result. Before a command lets go of its folder, what
it wrote is checked to be there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from panoseg.errors import OutputError, PanosegError
from panoseg.platforms import after_fork, lock, locked, move, open_for_lock, persist
from panoseg.progress import print_line

# What is wrong and what to do, by number of the error.
_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space or choose another folder, then run again."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another folder."),
    errno.EFBIG: (
        "the file is larger than may be written",
        "Choose another folder or raise the limit.",
    ),
    errno.EACCES: ("no permission to write", "Choose another folder or change its permissions."),
    errno.EPERM: ("no permission to write", "Choose another folder or change its permissions."),
    errno.EROFS: ("the file system is read-only", "Choose another folder."),
    errno.ENOTDIR: ("a part of the path is a file", "Choose another folder."),
    errno.EEXIST: ("a file of that name exists", "Choose another folder."),
}
_PROBE_BYTES = 1024**2
LOCK_WAIT_S = 3.0
"""Seconds to wait for a held folder: a process that was just killed takes a moment to end."""
_WAITING: ContextVar[bool] = ContextVar("waiting", default=False)
_LONGEST_COMMAND = 80
# Names that ``_temporary`` gives; a library may append its own suffix.
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part(\..*)?", re.DOTALL)


def output_error(path: Path, error: Exception) -> OutputError:
    """Return the error for the user when ``path`` could not be written.

    Args:
        path: The file or folder that was to be written.
        error: An ``OSError``, or the exception of a library that writes files.
    """
    number = getattr(error, "errno", None)
    # netCDF reports EACCES whenever a file cannot be created, and other libraries give no number.
    if number in (None, errno.EACCES):
        number = _write_errno(path.parent) or number
    if number in _REASONS:
        reason, advice = _REASONS[number]
    else:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason, advice = getattr(error, "strerror", None) or lines[0], "Choose another path."
    return OutputError(f"Cannot write {path}: {reason}. {advice}")


def _write_errno(folder: Path) -> int | None:
    """Return the number of the error with which writing into ``folder`` fails; None if it works."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name: a kill leaves nothing
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


@contextmanager
def atomic(path: Path | str, failures: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` and rename it to ``path`` when the block succeeds.

    The temporary has the suffix of ``path`` and may become a file or a folder. If anything fails,
    ``path`` is unchanged and the temporary is removed. ``remove_unfinished`` removes what a killed
    process left. What was written is noted (``noting_written``).

    Args:
        path: The file or folder to write; its folder is created.
        failures: Exceptions besides ``OSError`` that a library raises when it cannot write.

    Raises:
        OutputError: The disk is full, permission is missing, and the like.
    """
    path = Path(path).absolute()
    caught: tuple[type[Exception], ...] = (OSError, *failures)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # A folder can only be renamed over an empty one.
        if temporary.is_dir() and path.is_dir():
            _remove(path)
        move(temporary, path)
        is_folder = path.is_dir()
        if is_folder:
            _forget(temporary)
            _hold_again(path)
        note_written({path: None if is_folder else path.stat().st_size})
    except OutputError as error:
        # Of a file inside a temporary folder, whose name means nothing to the user.
        raise error.with_text(str(temporary), str(path)) from error
    except caught as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            _remove(temporary)


Written = dict[Path, int | None]
"""Size of each file, and None for each folder, by absolute path."""
_NOTES: list[Written] = []


@contextmanager
def noting_written() -> Iterator[Written]:
    """Yield a table in which everything is noted that ``atomic`` writes during the block."""
    noted: Written = {}
    _NOTES.append(noted)
    try:
        yield noted
    finally:
        _NOTES[:] = [other for other in _NOTES if other is not noted]


def note_written(written: Mapping[Path, int | None]) -> None:
    """Note what another process wrote for this one, or what was written without ``atomic``."""
    for noted in _NOTES:
        noted.update(written)


def _forget(path: Path) -> None:
    """Drop a path, and everything below, from what was noted: it is removed on purpose."""
    path = path.absolute()
    for noted in _NOTES:
        for entry in [entry for entry in noted if path == entry or path in entry.parents]:
            del noted[entry]


def check_written(written: Mapping[Path, int | None], output: Path) -> None:
    """Check that everything that was written is still there, whole.

    Args:
        written: What was noted.
        output: What is made, for the message.

    Raises:
        OutputError: Something is missing or has another size.
    """
    missing = []
    for path, size in written.items():
        try:
            if size is not None and path.stat().st_size != size:
                missing.append(path)
            path.lstat()
        except OSError:
            missing.append(path)
    if missing:
        raise OutputError(
            f"{output} lacks {len(missing)} of the {len(written)} files that were written, such as"
            f" {missing[0].name}: something removed or changed them meanwhile. Run the command"
            " again."
        )


@dataclass
class _Hold:
    """A folder that this process holds."""

    descriptor: int
    """Open descriptor that carries the lock."""
    thread: int
    """Identifier of the thread that holds the folder."""
    created: tuple[Path, ...]
    """Folders that were created for this hold: the folder itself and its parents."""
    depth: int = 1
    """Number of nested ``hold_folder`` blocks of that thread."""


_HELD: dict[Path, _Hold] = {}


@contextmanager
def waiting(wait: bool) -> Iterator[None]:
    """Make ``hold_folder`` wait in this block until another command lets go of the folder."""
    token = _WAITING.set(wait)
    try:
        yield
    finally:
        _WAITING.reset(token)


@contextmanager
def hold_folder(folder: Path | str, *, output: Path | str | None = None) -> Iterator[None]:
    """Hold an output folder, so that no other command writes there at the same time.

    The folder is created if needed, and removed at the end if it is empty. The system's lock on the
    folder itself is used (flock; on Windows a file next to the folder is locked): it ends with the
    process, however that ends, and leaves no file. A thread that holds a folder may hold it again.
    Where a file system has no locks, nothing is held. At the end of the outermost block it is
    checked that the folder, and everything that ``atomic`` wrote in it, is still there.

    Args:
        folder: The folder to hold.
        output: What is made, for the message, if that is not the folder; what is written in the
            folder is then not checked.

    Raises:
        OutputError: Another command holds the folder, it cannot be created, or it was removed
            before the end.
    """
    named = Path(folder if output is None else output)
    try:
        place = Path(folder).resolve()
        hold = _HELD.get(place)
        if hold is not None and hold.thread == threading.get_ident():
            hold.depth += 1
        else:
            hold = _HELD[place] = _hold(place, named)
    except OSError as error:
        raise output_error(named, error) from error
    try:
        with noting_written() as written:
            yield
        if output is None and hold.depth == 1:
            check_held(folder)
            inside = {
                path: size for path, size in written.items() if place in path.resolve().parents
            }
            check_written(inside, named)
    except Exception as error:
        if output is None and not isinstance(error, PanosegError):
            check_held(folder)  # the cause of errors of many kinds
        raise
    finally:
        hold.depth -= 1
        if not hold.depth:
            del _HELD[place]
            with suppress(OSError):  # not empty
                for created in hold.created[:1]:
                    created.rmdir()
            os.close(hold.descriptor)  # on Windows the lock is a file in the folder's parent
            with suppress(OSError):
                for created in hold.created[1:]:
                    created.rmdir()


def check_held(folder: Path | str, output: Path | str | None = None) -> None:
    """Check that a folder that this process holds is the one that it has held from the beginning.

    Args:
        folder: The folder.
        output: What is made, for the message, if that is not the folder.

    Raises:
        OutputError: It has been removed, and perhaps created again.
    """
    place = Path(folder).resolve()
    hold = _HELD.get(place)
    if hold is None:
        return
    try:
        same = os.path.samestat(os.fstat(hold.descriptor), locked(place).stat())
    except FileNotFoundError:
        same = False
    if not (same and place.is_dir()):
        raise OutputError(
            f"{folder if output is None else output} was removed while the command wrote it. Run"
            " the command again."
        )


def _hold(place: Path, named: Path) -> _Hold:
    """Create and lock a folder. Raises ``OSError``, and ``OutputError`` if it is held elsewhere."""
    end, created, told = time.monotonic() + LOCK_WAIT_S, tuple[Path, ...](), False
    while True:
        created = created or tuple(one for one in (place, *place.parents) if not one.exists())
        place.mkdir(parents=True, exist_ok=True)
        descriptor, locked = open_for_lock(place)
        # The process that held the folder may remove it between opening and locking.
        with suppress(FileNotFoundError):
            if lock(descriptor) and os.path.samestat(os.fstat(descriptor), locked.stat()):
                return _Hold(descriptor, threading.get_ident(), created)
        os.close(descriptor)
        if time.monotonic() > end and not told:
            told, holder = True, _holder(place)
            held = f"Another command writes {named}: "
            if not _WAITING.get():
                raise OutputError(
                    f"{held}wait until it ends (--wait does), or choose another --out."
                    f"{f' It is {holder}.' if holder else ''}"
                )
            print_line(f"{held}{holder or 'waiting'}; continues when it has ended", sys.stderr)
        time.sleep(LOCK_WAIT_S / 60)


def _hold_again(path: Path) -> None:
    """Lock a held folder again that this process has replaced by a new one."""
    hold = _HELD.get(path.resolve())
    if hold is not None and sys.platform != "win32":  # where the lock is on a file next to it
        old, (hold.descriptor, _) = hold.descriptor, open_for_lock(path)
        lock(hold.descriptor)
        os.close(old)


def _holder(place: Path) -> str:
    """Return the process that has locked a folder, in words; empty where the system does not tell.

    Linux lists locks as "1: FLOCK ADVISORY WRITE process device:inode 0 EOF".
    """
    with suppress(OSError, ValueError, IndexError):
        inode = str(place.stat().st_ino)
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and int(words[4]) > 0:
                return f"process {words[4]}{_command_of(words[4])}"
    return ""


def _command_of(process: str) -> str:
    """Return the panoseg command of a process, after a comma; empty where it is none."""
    line = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace")
    words = line.rstrip("\0").split("\0")
    for number, word in enumerate(words):
        if word.endswith(("/panoseg", "/panoseg/__main__.py")) or word == "panoseg":
            command = " ".join(["panoseg", *words[number + 1 :]])
            cut = command[:_LONGEST_COMMAND]
            return f", {cut}{'…' * (cut != command)}"
    return ""


def _close_inherited() -> None:
    """Close the locks that a forked process has from its parent.

    They would hold the parent's folders for as long as the child lives.
    """
    for hold in _HELD.values():
        os.close(hold.descriptor)
    _HELD.clear()


after_fork(_close_inherited)


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it, if it exists. Raises ``OSError``."""
    _forget(path)
    _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        persist(lambda: shutil.rmtree(path))
    else:
        persist(lambda: path.unlink(missing_ok=True))


def remove_folder(folder: Path) -> None:
    """Remove a folder under a temporary name, so that it is never visible half removed.

    ``remove_unfinished`` removes what a killed process left. Raises ``OSError``.
    """
    temporary = _temporary(folder)
    _forget(folder)
    move(folder, temporary)
    remove(temporary)


def _temporary(path: Path) -> Path:
    """Return a new temporary name next to ``path``; long names are cut, the limit is 255 bytes."""
    return path.with_name(f".{path.stem[:50]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def remove_unfinished(folder: Path | str) -> None:
    """Remove the temporaries of ``atomic`` that a killed process left in ``folder`` or below.

    Raises:
        OutputError: One of them cannot be removed.
    """
    try:
        # A list, because folders that are removed must not be walked.
        for path in list(Path(folder).rglob(".*.part*")):
            if _TEMPORARY.fullmatch(path.name):
                remove(path)
    except OSError as error:
        raise output_error(Path(folder), error) from error


def check_writable(path: Path | str) -> None:
    """Check before a long computation that a file ``path`` can be written.

    Raises:
        OutputError: It cannot.
    """
    path = Path(path).absolute()
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    number = errno.EISDIR if path.is_dir() else _write_errno(folder)
    if number is not None:
        raise output_error(path, OSError(number, os.strerror(number)))


def signature(path: Path) -> list[int | str]:
    """Return number of files, bytes, and a digest of their names, sizes and times.

    Changed data have another signature; no file is read.

    Args:
        path: A file, or a folder of which all files count.
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
    """Write a text file atomically, in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: object) -> None:
    """Write JSON atomically, indented. Raises ``ValueError`` for NaN, which JSON lacks."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def new_folder(path: Path | str, *, resumable: str | None = None) -> Path:
    """Create an output folder, or accept an empty one.

    What a killed process was writing into an accepted folder is removed.

    Args:
        path: The folder.
        resumable: Name of a file that marks an unfinished run of the same command; a folder that
            holds it is accepted, too.

    Raises:
        OutputError: The folder holds other files, or cannot be written.
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
                f"{path} holds {count} ({', '.join(entries[:3])}{', …' * (len(entries) > 3)}):"
                " choose a new or empty folder."
            )
        tempfile.TemporaryFile(dir=path).close()  # raises where nothing can be written
    except OSError as error:
        raise output_error(path, error) from error
    remove_unfinished(path)
    return path
