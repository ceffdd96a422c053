"""A worker: claims one job after the other and runs each in a separate process.

While the process runs, the worker reports to the database that it is alive. If the system kills the
process, the worker puts the job back into the queue. If the worker is killed, its process ends with
it, and another worker takes the job over when the lease ends. Completed stages are not repeated.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from sqlalchemy.exc import SQLAlchemyError

from panoseg.app.database import Database, DatabaseUnavailableError
from panoseg.app.job_folder import folder_bytes, remove_deleted
from panoseg.app.job_process import run_process
from panoseg.app.job_views import Claim
from panoseg.app.jobs import MAX_STARTS, Jobs, LostClaimError
from panoseg.app.settings import AppSettings, limit_drivers
from panoseg.platforms import start_fork_server
from panoseg.processes import usable_cores

LOG = logging.getLogger("panoseg.app.worker")
_POLL_S = 0.5
_EXIT_TIMEOUT_S = 2.0  # for a process that is about to end on its own
_RETRY_S = 2.0
_HEARTBEATS = 5  # during a lease
_PRELOADED = (
    "panoseg.app.egress",
    "panoseg.cube.fetch",
    "panoseg.maps.mapping",
    "panoseg.simulation.cube",
    "panoseg.app.job_process",
    "panoseg.app.layers",
    "zarr.storage",
)


def run_worker(settings: AppSettings, belongs_to_server: bool = False) -> None:
    """Run a worker in this process until SIGTERM or SIGINT.

    Args:
        settings: The settings of the server.
        belongs_to_server: Whether a server started this process. If the server dies, the worker
            finishes its job and ends.
    """
    from panoseg.app.monitoring import set_up_logging

    set_up_logging()
    limit_drivers(writing=True)
    # Libraries read this when they are loaded, which happens later, in the processes of jobs.
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, usable_cores() // max(settings.workers, 1)))
    )
    stop, drain = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN if belongs_to_server else lambda *_: stop.set())
    server = parent_process()
    if belongs_to_server and server is not None:
        threading.Thread(target=_set_at_end_of, args=(server, drain), daemon=True).start()
    work(settings, stop, drain)


def _set_at_end_of(process: BaseProcess, event: threading.Event) -> None:
    process.join()
    event.set()


def work(settings: AppSettings, stop: threading.Event, drain: threading.Event) -> None:
    """Work on jobs until an event is set.

    Args:
        settings: The settings of the server.
        stop: The current job goes back to the queue.
        drain: The current job is finished first.
    """
    # Started before a job is claimed: on a busy machine it takes longer than a lease.
    context = start_fork_server(_PRELOADED)
    database = _connect(settings, stop)
    if database is None:
        return
    jobs = Jobs(database, settings.lease_seconds)
    worker = _Worker(settings, jobs, stop, context)
    LOG.info("worker started", extra={"worker": worker.id})
    try:
        while not stop.is_set() and not drain.is_set():
            with worker.surviving_outages():
                worker.step()
    finally:
        with suppress(SQLAlchemyError):
            jobs.workers.remove(worker.id)
        database.close()


def _connect(settings: AppSettings, stop: threading.Event) -> Database | None:
    """Return the database once it answers; None if the worker is to stop before."""
    while not stop.is_set():
        try:
            return Database(settings.database_url)
        except DatabaseUnavailableError as error:
            LOG.warning("the database does not answer", extra={"reason": str(error)})
            stop.wait(_RETRY_S)
    return None


class _Worker:
    """A worker, which holds one job at a time."""

    def __init__(
        self,
        settings: AppSettings,
        jobs: Jobs,
        stop: threading.Event,
        context: BaseContext,
    ) -> None:
        self.settings, self.jobs, self.stop, self.context = settings, jobs, stop, context
        self.id = f"{socket.gethostname()[:30]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._heartbeat_s = settings.lease_seconds / _HEARTBEATS
        self._next_heartbeat = self._takes_over_at = 0.0

    @contextmanager
    def surviving_outages(self) -> Iterator[None]:
        """Wait if the database is unavailable, instead of ending the worker.

        For one lease afterwards no jobs are taken over: their workers could not be heard either.
        """
        try:
            yield
        except SQLAlchemyError as error:
            LOG.warning(
                "the database does not answer",
                extra={"reason": str(getattr(error, "orig", error))[:200]},
            )
            self._takes_over_at = time.monotonic() + self.settings.lease_seconds
            self.stop.wait(_RETRY_S)

    def step(self) -> None:
        """Run the next job, or wait a moment if there is none."""
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + self._heartbeat_s
            self.jobs.workers.report(self.id, None)
        claim = self.jobs.claim(self.id, take_over=time.monotonic() >= self._takes_over_at)
        if claim is None:
            self.stop.wait(_POLL_S)
            return
        self._run(claim)
        self._next_heartbeat = 0.0
        # The job may have been deleted while it ran.
        remove_deleted(self.jobs, self.settings.jobs_folder)

    def _run(self, claim: Claim) -> None:
        """Start the process of a job and end it if the job is not wanted or is lost."""
        LOG.info("job claimed", extra={"job": claim.job, "worker": self.id})
        start = time.monotonic()
        process = self.context.Process(  # type: ignore[attr-defined]
            target=run_process, args=(self.settings, claim), name=f"job {claim.job}"
        )
        try:
            process.start()
        except (OSError, EOFError) as error:
            LOG.warning(
                "no process could be started", extra={"job": claim.job, "reason": repr(error)}
            )
            self.jobs.release(
                claim, _RETRY_S, counted=False, message="waiting: no process could be started"
            )
            return
        try:
            self._watch(claim, process)
        except LostClaimError:
            # The process has ended the job itself, or another worker has the job.
            process.join(_EXIT_TIMEOUT_S)
        finally:
            _end(process)
        LOG.info(
            "job left", extra={"job": claim.job, "seconds": round(time.monotonic() - start, 1)}
        )

    def _watch(self, claim: Claim, process: BaseProcess) -> None:
        next_heartbeat, wanted = 0.0, True
        while wanted and not self.stop.is_set() and process.is_alive():
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = time.monotonic() + self._heartbeat_s
                with self.surviving_outages():
                    wanted = self.jobs.heartbeat(claim)
                    self.jobs.workers.report(self.id, claim.job)
            process.join(min(_POLL_S, self._heartbeat_s))
        stopped = process.is_alive() and wanted
        _end(process)
        if stopped:
            self.jobs.release(claim, 0.0, counted=False, message="waiting: the worker was stopped")
            return
        settled = False
        while not settled:
            with self.surviving_outages():
                self._settle(claim, process)
                settled = True
            settled = settled or self.stop.is_set()

    def _settle(self, claim: Claim, process: BaseProcess) -> None:
        """Requeue or end a job whose process has ended without ending it.

        Raises:
            LostClaimError: The process had ended the job.
        """
        size = folder_bytes(self.settings.jobs_folder / claim.job)
        if not self.jobs.heartbeat(claim):
            self.jobs.end_cancelled(claim, size)
        elif self.jobs.starts(claim) >= MAX_STARTS:
            text = (
                f"The process of this job was ended {MAX_STARTS} times, perhaps for lack of memory."
                " Ask for a smaller area."
            )
            self.jobs.fail(claim, text, size)
        else:
            line = f"The process of the job was ended (exit code {process.exitcode}); it restarts."
            self.jobs.write(claim, line, "warning")
            self.jobs.release(
                claim, _RETRY_S, counted=True, message="waiting: its process was ended"
            )


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()
