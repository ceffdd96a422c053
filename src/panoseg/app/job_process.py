"""What the process of a job does, from its first import to the job's end in the database.

It ends with the worker that made it, and waits for a database that is away. As only the newest
claim may end a job, and one process at a time works in its folder, whatever else happens costs time
and no more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from panoseg.app.database import Database, DatabaseAwayError
from panoseg.app.job_folder import REQUEST, HeldError, folder_bytes, locked, without_paths
from panoseg.app.jobs import MOST_STARTS, Claim, Jobs, LostClaimError
from panoseg.app.requests import MapRequest, PhotoRequest
from panoseg.app.settings import AppSettings
from panoseg.app.stages import Stage, Tell, Work, run_stages
from panoseg.errors import ClusterError, NotFoundError, PanosegError
from panoseg.processes import belong_to_parent

LOG = logging.getLogger("panoseg.app.job_process")
AWAY = (OperationalError, InterfaceError, DatabaseAwayError)
"""What a database that is away for a while raises."""
_PATIENCE_S = 2.0  # for the lock of a process that is just being ended
_PAUSE_S = 2.0
_REPORT_S = 0.5
_REPORT_AGAIN_S = 10.0
_CLUSTER_S = 5.0
_NICENESS = 10  # pages come first
_FULL = (errno.ENOSPC, errno.EDQUOT)
_T = TypeVar("_T")


def run_process(settings: AppSettings, claim: Claim) -> None:
    """The process of a job."""
    _end_with_worker()
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(_NICENESS)
    from panoseg.app.egress import guard_process
    from panoseg.app.monitoring import set_up_logging

    set_up_logging()
    guard_process(settings)
    database = insist(lambda: Database(settings.database_url))
    try:
        run_claimed(settings, Jobs(database, settings.lease_seconds), claim)
    except LostClaimError:
        sys.exit(0)


def _end_with_worker() -> None:
    """Let the system end this process by SIGIO as soon as the worker's end of the pipe between the
    two is closed.

    ``belong_to_parent`` alone needs the interpreter for that, which a library may hold for minutes.
    The death of the process that forked this one would tell nothing: it holds out for as long as
    its children do.
    """
    worker = multiprocessing.parent_process()
    if worker is not None and hasattr(os, "O_ASYNC"):
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(worker.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(
            worker.sentinel, fcntl.F_SETFL, fcntl.fcntl(worker.sentinel, fcntl.F_GETFL) | os.O_ASYNC
        )


def insist(call: Callable[[], _T]) -> _T:
    """What a call gives that asks the database, made again for as long as that is away: hours of
    work must not be lost for it.

    The worker ends this process when it is to stop.
    """
    while True:
        try:
            return call()
        except AWAY as error:
            LOG.warning(
                "the database does not answer",
                extra={"reason": str(getattr(error, "orig", error))[:200]},
            )
            time.sleep(_PAUSE_S)


def run_claimed(settings: AppSettings, jobs: Jobs, claim: Claim) -> None:
    """Do a job to its end: done, or failed with the reason, or put back because what it needs is
    away.

    Raises ``LostClaimError`` where it is no longer ours.
    """
    folder, start = settings.jobs_folder / claim.job, time.monotonic()
    weights = (*settings.weights, *settings.photo_weights)
    try:
        with locked(folder, _PATIENCE_S):
            work = _open(settings, folder, lambda text: insist(lambda: jobs.write(claim, text)))
            run_stages(work, Reporter(jobs, claim).enter)
    except HeldError:
        message = "waiting: an earlier process of it still runs"
        insist(lambda: jobs.give_back(claim, _PAUSE_S, counted=False, message=message))
        return
    except LostClaimError:
        raise
    except Exception as error:
        _failed(
            jobs,
            claim,
            without_paths(_told(error, claim), folder, weights),
            folder_bytes(folder),
            error,
        )
        return
    complaints = [without_paths(complaint, folder, weights) for complaint in work.complaints]
    size, seconds = folder_bytes(folder), time.monotonic() - start
    insist(lambda: jobs.finish(claim, size, seconds, "; ".join(["done", *complaints]), complaints))


def _failed(jobs: Jobs, claim: Claim, text: str, size: int, error: Exception) -> None:
    """The job fails, or, where a cluster is away that may come back, waits a while, the longer the
    more often.

    text: what its user reads. size: of its folder in bytes.
    """
    starts = insist(lambda: jobs.starts(claim))
    if isinstance(error, ClusterError) and starts < MOST_STARTS:
        pause = _CLUSTER_S * 2**starts
        insist(lambda: jobs.write(claim, f"{text}; it is tried again in {pause:.0f} s", "warning"))
        insist(lambda: jobs.give_back(claim, pause, counted=True, message=f"waiting: {text}"))
    else:
        insist(lambda: jobs.fail(claim, text, size))


def _told(error: Exception, claim: Claim) -> str:
    """An error as its user reads it; what is nobody's fault but ours goes to the log with all that
    is known.
    """
    if isinstance(error, PanosegError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return "The disk of the server is full: delete some jobs, then try again."
    LOG.error("a job met a bug", exc_info=error, extra={"job": claim.job})
    return (
        f"an error inside of panoseg ({type(error).__name__}); expected none; tell whoever runs"
        " this server"
    )


def _open(settings: AppSettings, folder: Path, write: Callable[[str], None]) -> Work:
    try:
        given: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError(
            "the folder of this job has gone", "its request", "start it anew"
        ) from error
    request = PhotoRequest(**given) if given.get("kind") == "photo" else MapRequest(**given)
    return Work(settings, folder, request, write)


class Reporter:
    """Tells the database how far a job is, now and then."""

    def __init__(self, jobs: Jobs, claim: Claim) -> None:
        self.jobs, self.claim = jobs, claim
        self._start, self._next, self._most = time.monotonic(), 0.0, 0.0
        self._first: float | None = None

    def enter(self, stage: Stage, before: float) -> Tell:
        """A stage begins, with so much of the job behind it."""

        def tell(share: float, message: str) -> None:
            begins = share == 0.0 and message == stage.title
            if begins:
                self._first = before if self._first is None else self._first
                insist(lambda: self.jobs.write(self.claim, message))
            elif time.monotonic() < self._next:
                return
            self._most = max(self._most, min(before + stage.share * share, 1.0))
            self._report(stage, message)

        return tell

    def _report(self, stage: Stage, message: str) -> None:
        """A database that is away costs a report, not the work."""
        time_now = time.monotonic()
        try:
            self.jobs.report(
                self.claim, stage.name, self._most, message, self._left(self._most, time_now)
            )
            self._next = time_now + _REPORT_S
        except AWAY:
            self._next = time.monotonic() + _REPORT_AGAIN_S

    def _left(self, progress: float, time_now: float) -> float | None:
        """Seconds left, by what this start has done so far."""
        done = progress - (self._first or 0.0)
        return None if done < 0.02 else (time_now - self._start) / done * (1 - progress)
