"""The folder of a job: one process at a time works in it, and it goes when its job is deleted."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from panoseg.app.jobs import Jobs
from panoseg.errors import NotFoundError
from panoseg.files import output_error

LOG = logging.getLogger("panoseg.app.job_folder")
REQUEST = "request.json"
_LOCK = ".lock"
_POLL_S = 0.1


class HeldError(Exception):
    """Another process works in this folder."""


@contextmanager
def locked(folder: Path, patience_s: float) -> Iterator[None]:
    """Work in a folder alone; the system gives the lock back however a process ends.

    Raises ``HeldError`` where another process keeps it for longer than ``patience_s``,
    ``NotFoundError``, ``OutputError``.
    """
    try:
        file = (folder / _LOCK).open("w")
    except FileNotFoundError as error:
        raise NotFoundError(
            "the folder of this job has gone", "its request", "start it anew"
        ) from error
    except OSError as error:
        raise output_error(folder / _LOCK, error) from error
    deadline = time.monotonic() + patience_s
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise HeldError from error
                time.sleep(_POLL_S)
        yield


def was_worked_in(folder: Path) -> bool:
    """Whether a worker has ever begun the job of a folder."""
    return (folder / _LOCK).exists()


def folder_bytes(folder: Path) -> int:
    """Disk space of the files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def without_paths(text: str, folder: Path, weights: tuple[Path, ...]) -> str:
    """A message about files of a job without the folders in which these and its weights lie, which
    are nobody's business.
    """
    for name in (folder.resolve(), folder.absolute(), folder):
        text = text.replace(f"{name}/", "").replace(str(name), "the folder of the job")
    for own in weights:
        for name in (own.resolve(), own.absolute(), own):
            text = text.replace(str(name), own.name)
    return text


def remove_deleted(jobs: Jobs, jobs_folder: Path) -> int:
    """Remove the folders of deleted jobs that have ended, then what is known of them; returns how
    many.

    A folder that cannot go now, because a process that is just being ended still holds it, goes
    another time.
    """
    removed = 0
    for id in jobs.removable():
        try:
            _remove(jobs_folder / id)
        except (HeldError, OSError) as error:
            LOG.warning(
                "the folder of a deleted job stays for now",
                extra={"job": id, "reason": repr(error)},
            )
            continue
        jobs.remove(id)
        removed += 1
    return removed


def _remove(folder: Path) -> None:
    # Without a lock nobody has worked there, nor will; and a full disk, on which none can be made,
    # is no reason to stay.
    if not was_worked_in(folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    with suppress(NotFoundError), locked(folder, 0.0):
        shutil.rmtree(folder)
