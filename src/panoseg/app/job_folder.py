"""The folder of a job: locked while a process works in it, removed when its job is deleted."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from panoseg.app.jobs import Jobs
from panoseg.errors import NotFoundError
from panoseg.files import output_error

LOG = logging.getLogger("panoseg.app.job_folder")
REQUEST = "request.json"
_LOCK = ".lock"
_POLL_S = 0.1


class FolderLockedError(Exception):
    """Another process works in this folder."""


@contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock ends with the process at the latest.

    Raises:
        FolderLockedError: Another process held the lock for all of ``timeout_s``.
        NotFoundError: The folder does not exist any more.
        OutputError: The lock cannot be made.
    """
    lock = FileLock(folder / _LOCK, timeout=timeout_s, poll_interval=_POLL_S)
    try:
        (folder / _LOCK).touch()  # FileLock would create the folder if it does not exist
        lock.acquire()
    except Timeout as error:
        raise FolderLockedError from error
    except FileNotFoundError as error:
        raise NotFoundError("The folder of this job is gone; submit the job again.") from error
    except OSError as error:
        raise output_error(folder / _LOCK, error) from error
    try:
        yield
    finally:
        lock.release()


def was_worked_in(folder: Path) -> bool:
    """Return whether a worker has ever started the job of a folder."""
    return (folder / _LOCK).exists()


def folder_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def without_paths(text: str, folder: Path, weights: tuple[str | Path, ...]) -> str:
    """Remove the paths of a job's folder and of weights from a message.

    Users must not learn where the server keeps its files.
    """
    for name in (folder.resolve(), folder.absolute(), folder):
        text = text.replace(f"{name}/", "").replace(str(name), "the folder of the job")
    for own in map(Path, weights):
        for name in (own.resolve(), own.absolute(), own):
            text = text.replace(str(name), own.name)
    return text


def remove_deleted(jobs: Jobs, jobs_folder: Path) -> int:
    """Remove the folders and rows of deleted jobs that have ended; return how many.

    A folder that a process still holds, because it is just being ended, is left for the next call.
    """
    removed = 0
    for id in jobs.removable():
        try:
            _remove(jobs_folder / id)
        except (FolderLockedError, OSError) as error:
            LOG.warning(
                "the folder of a deleted job cannot be removed yet",
                extra={"job": id, "reason": repr(error)},
            )
            continue
        jobs.remove(id)
        removed += 1
    return removed


def _remove(folder: Path) -> None:
    # If there is no lock, nobody has worked there or will. No lock is made for the removal: on a
    # full disk that would fail and keep the folder.
    if not was_worked_in(folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    with suppress(NotFoundError), locked(folder, 0.0):
        shutil.rmtree(folder)
