"""The process of a job, from its first import to the end of the job in the database.

It ends with the worker that started it, and waits while the database is unavailable. Only the
newest claim can end a job, and one process at a time works in its folder, so a process that is
ended at any point costs time but no correctness.
"""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from panoseg.app.database import Database, DatabaseUnavailableError
from panoseg.app.job_folder import REQUEST, FolderLockedError, folder_bytes, locked, without_paths
from panoseg.app.job_views import Claim
from panoseg.app.jobs import MAX_STARTS, Jobs, LostClaimError
from panoseg.app.requests import MapRequest, PhotoRequest
from panoseg.app.settings import AppSettings
from panoseg.app.stages import JobContext, ReportProgress, Stage, run_stages
from panoseg.errors import ClusterError, NotFoundError, PanosegError
from panoseg.platforms import end_with_starter, lower_priority
from panoseg.processes import belong_to_parent

LOG = logging.getLogger("panoseg.app.job_process")
UNAVAILABLE = (OperationalError, InterfaceError, DatabaseUnavailableError)
"""Errors of a database that does not answer at the moment."""
LOCK_TIMEOUT_S = 2.0
"""Seconds to wait for a job's folder: another process may just be ending."""
RETRY_S = 2.0
"""Seconds between tries of a database that does not answer."""
_REPORT_S = 0.5
_REPORT_AGAIN_S = 10.0
CLUSTER_RETRY_S = 5.0
"""Seconds between tries of a cluster that does not answer."""
_NICENESS = 10  # leaves the processor to the pages
_T = TypeVar("_T")


def run_process(settings: AppSettings, claim: Claim) -> None:
    """Run the process of a job."""
    end_with_starter()
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lower_priority(_NICENESS)
    from panoseg.app.egress import guard_process
    from panoseg.app.monitoring import set_up_logging

    set_up_logging()
    guard_process(settings)
    database = retry_while_unavailable(lambda: Database(settings.database_url))
    try:
        run_claimed(settings, Jobs(database, settings.lease_seconds), claim)
    except LostClaimError:
        sys.exit(0)


def retry_while_unavailable(call: Callable[[], _T]) -> _T:
    """Return the result of a call that uses the database, repeated while that is unavailable.

    Hours of work must not be lost by an outage. If the worker is to stop, it ends this process.
    """
    while True:
        try:
            return call()
        except UNAVAILABLE as error:
            LOG.warning(
                "the database does not answer",
                extra={"reason": str(getattr(error, "orig", error))[:200]},
            )
            time.sleep(RETRY_S)


def run_claimed(settings: AppSettings, jobs: Jobs, claim: Claim) -> None:
    """Run a job until it is done or has failed, or release it if what it needs is unavailable.

    Raises:
        LostClaimError: The claim is not valid any more.
    """
    folder, start = settings.jobs_folder / claim.job, time.monotonic()
    weights = (*settings.weights, *settings.photo_weights)

    def write(text: str) -> None:
        retry_while_unavailable(lambda: jobs.write(claim, text))

    try:
        with locked(folder, LOCK_TIMEOUT_S):
            job = JobContext(settings, folder, _read_request(folder), write)
            run_stages(job, Reporter(jobs, claim).enter)
    except FolderLockedError:
        message = "waiting: an earlier process of the job is still running"
        retry_while_unavailable(
            lambda: jobs.release(claim, RETRY_S, counted=False, message=message)
        )
        return
    except LostClaimError:
        raise
    except Exception as error:
        if not isinstance(error, PanosegError) and not _is_disk_full(error):
            LOG.exception("a job failed by a bug", extra={"job": claim.job})
        text = without_paths(_message_of(error), folder, weights)
        _fail_or_wait(jobs, claim, text, folder_bytes(folder), error)
        return
    problems = [without_paths(problem, folder, weights) for problem in job.problems]
    size, seconds = folder_bytes(folder), time.monotonic() - start
    message = f"done. {' '.join(problems)}" if problems else "done"
    retry_while_unavailable(lambda: jobs.finish(claim, size, seconds, message, problems))


def _read_request(folder: Path) -> MapRequest | PhotoRequest:
    try:
        given: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError("The folder of this job is gone; submit the job again.") from error
    return PhotoRequest(**given) if given.get("kind") == "photo" else MapRequest(**given)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _message_of(error: Exception) -> str:
    """Return an error as the user reads it, without the details of bugs of panoseg."""
    if isinstance(error, PanosegError):
        return str(error)
    if _is_disk_full(error):
        return "The disk of the server is full. Delete some jobs, then try again."
    return (
        f"An internal error occurred ({type(error).__name__}). Tell the operator of this server,"
        " whose log has the details."
    )


def _fail_or_wait(jobs: Jobs, claim: Claim, text: str, size: int, error: Exception) -> None:
    """Mark a job as failed; if a Dask cluster is unavailable, let it wait, longer each time.

    Args:
        jobs: All jobs.
        claim: The claim.
        text: The error for the user.
        size: Size of the job's folder in bytes.
        error: The error itself.
    """
    starts = retry_while_unavailable(lambda: jobs.starts(claim))
    if isinstance(error, ClusterError) and starts < MAX_STARTS:
        delay = CLUSTER_RETRY_S * 2**starts
        line = f"{text} The job is tried again in {delay:.0f} s."
        retry_while_unavailable(lambda: jobs.write(claim, line, "warning"))
        retry_while_unavailable(
            lambda: jobs.release(claim, delay, counted=True, message=f"waiting: {text}")
        )
    else:
        retry_while_unavailable(lambda: jobs.fail(claim, text, size))


class Reporter:
    """Writes the progress of a job to the database at most every half second."""

    def __init__(self, jobs: Jobs, claim: Claim) -> None:
        self.jobs, self.claim = jobs, claim
        self._start, self._next_report, self._progress = time.monotonic(), 0.0, 0.0
        self._first_progress: float | None = None

    def enter(self, stage: Stage, before: float) -> ReportProgress:
        """Return the function that reports the progress of a stage.

        Args:
            stage: The stage.
            before: Share of the job that is done when the stage begins, 0 to 1.
        """

        def report(share: float, message: str) -> None:
            if share == 0.0 and message == stage.title:
                if self._first_progress is None:
                    self._first_progress = before
                retry_while_unavailable(lambda: self.jobs.write(self.claim, message))
            elif time.monotonic() < self._next_report:
                return
            self._progress = max(self._progress, min(before + stage.share * share, 1.0))
            self._report(stage, message)

        return report

    def _report(self, stage: Stage, message: str) -> None:
        time_now = time.monotonic()
        # Seconds left by the pace since this start, which may have begun at a later stage.
        done = self._progress - (self._first_progress or 0.0)
        left = None if done < 0.02 else (time_now - self._start) / done * (1 - self._progress)
        try:
            self.jobs.report(self.claim, stage.name, self._progress, message, left)
            self._next_report = time_now + _REPORT_S
        except UNAVAILABLE:  # an outage costs a report, not the work
            self._next_report = time.monotonic() + _REPORT_AGAIN_S
