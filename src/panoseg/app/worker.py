"""A worker: claims jobs one after the other, and lets a process of its own do each while it tells
the database that it lives.

The process of a job may be killed by the system; the worker then puts the job back. The worker may
be killed; its process ends with it, and another worker takes the job over when the lease is over.
Stages that are done are not done again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

from sqlalchemy.exc import SQLAlchemyError

from panoseg.app.database import Database, DatabaseAwayError
from panoseg.app.job_folder import folder_bytes, remove_deleted
from panoseg.app.job_process import run_process
from panoseg.app.jobs import MOST_STARTS, Claim, Jobs, LostClaimError
from panoseg.app.settings import AppSettings, limit_drivers
from panoseg.processes import usable_cores

LOG = logging.getLogger("panoseg.app.worker")
_POLL_S = 0.5
_PATIENCE_S = 2.0  # for a process that is about to end by itself
_PAUSE_S = 2.0
_BEATS = 5  # in a lease
_PRELOADED = (
    "panoseg.app.egress",
    "panoseg.cube.fetch",
    "panoseg.maps.mapping",
    "panoseg.simulation.cube",
    "panoseg.app.job_process",
    "panoseg.app.layers",
    "zarr.storage",
)


def work(settings: AppSettings, stop: threading.Event, drain: threading.Event) -> None:
    """Work on jobs until ``stop``, at which the job in hand goes back to the queue, or ``drain``,
    at which it is finished.
    """
    context = (
        _prepared_context()
    )  # before there is a job in hand: it takes longer than a lease on a machine that is busy
    database = _connected(settings, stop)
    if database is None:
        return
    jobs = Jobs(database, settings.lease_seconds)
    worker = _Worker(settings, jobs, stop, context)
    LOG.info("worker started", extra={"worker": worker.id})
    try:
        while not stop.is_set() and not drain.is_set():
            with worker.outages_survived():
                worker.step()
    finally:
        with suppress(SQLAlchemyError):
            jobs.leave(worker.id)
        database.close()


def _connected(settings: AppSettings, stop: threading.Event) -> Database | None:
    """The database, once it answers; None where the worker is to stop before."""
    while not stop.is_set():
        try:
            return Database(settings.database_url)
        except DatabaseAwayError as error:
            LOG.warning("the database does not answer", extra={"reason": str(error)})
            stop.wait(_PAUSE_S)
    return None


class _Worker:
    """Holds one job at a time."""

    def __init__(
        self,
        settings: AppSettings,
        jobs: Jobs,
        stop: threading.Event,
        context: multiprocessing.context.ForkServerContext,
    ) -> None:
        self.settings, self.jobs, self.stop, self.context = settings, jobs, stop, context
        self.id = f"{socket.gethostname()[:30]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._beat = settings.lease_seconds / _BEATS
        self._next_beat = self._takes_over_at = 0.0

    @contextmanager
    def outages_survived(self) -> Iterator[None]:
        """A database that is away for a while costs time, not the worker; nor others their jobs,
        for they were not heard.
        """
        try:
            yield
        except SQLAlchemyError as error:
            LOG.warning(
                "the database does not answer",
                extra={"reason": str(getattr(error, "orig", error))[:200]},
            )
            self._takes_over_at = time.monotonic() + self.settings.lease_seconds
            self.stop.wait(_PAUSE_S)

    def step(self) -> None:
        """Do a job, or wait a moment where there is none."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._beat
            self.jobs.live(self.id, None)
        claim = self.jobs.claim(self.id, take_over=time.monotonic() >= self._takes_over_at)
        if claim is None:
            self.stop.wait(_POLL_S)
            return
        self._hold(claim)
        self._next_beat = 0.0
        remove_deleted(
            self.jobs, self.settings.jobs_folder
        )  # the one in hand may have been deleted meanwhile

    def _hold(self, claim: Claim) -> None:
        """Let a process do a job, and end it when the job is no longer wanted or no longer ours."""
        LOG.info("job claimed", extra={"job": claim.job, "worker": self.id})
        start = time.monotonic()
        process = self.context.Process(
            target=run_process, args=(self.settings, claim), name=f"job {claim.job}"
        )
        try:
            process.start()
        except (OSError, EOFError) as error:
            LOG.warning(
                "no process could be started", extra={"job": claim.job, "reason": repr(error)}
            )
            self.jobs.give_back(
                claim, _PAUSE_S, counted=False, message="waiting: no process could be started"
            )
            return
        try:
            self._watch(claim, process)
        except LostClaimError:
            process.join(_PATIENCE_S)  # it has ended the job itself, or another worker has the job
        finally:
            _end(process)
        LOG.info(
            "job left", extra={"job": claim.job, "seconds": round(time.monotonic() - start, 1)}
        )

    def _watch(self, claim: Claim, process: BaseProcess) -> None:
        next_beat, wanted = 0.0, True
        while wanted and not self.stop.is_set() and process.is_alive():
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._beat
                with self.outages_survived():
                    wanted = self.jobs.heartbeat(claim)
                    self.jobs.live(self.id, claim.job)
            process.join(min(_POLL_S, self._beat))
        stopped = process.is_alive() and wanted
        _end(process)
        if stopped:
            self.jobs.give_back(
                claim, 0.0, counted=False, message="waiting: the worker was stopped"
            )
            return
        settled = False
        while not settled:
            with self.outages_survived():
                self._settle(claim, process)
                settled = True
            settled = settled or self.stop.is_set()

    def _settle(self, claim: Claim, process: BaseProcess) -> None:
        """The process has ended; unless it has ended the job as well, the job goes back to the
        queue or ends here.
        """
        size = folder_bytes(self.settings.jobs_folder / claim.job)
        if not self.jobs.heartbeat(claim):
            self.jobs.end_cancelled(claim, size)
        elif self.jobs.starts(claim) >= MOST_STARTS:
            text = (
                f"its process was ended {MOST_STARTS} times, perhaps for memory; expected less"
                " work; ask for a smaller area"
            )
            self.jobs.fail(claim, text, size)
        else:
            line = f"the process of the job was ended (exit code {process.exitcode}); it goes on"
            self.jobs.write(claim, line, "warning")
            self.jobs.give_back(
                claim, _PAUSE_S, counted=True, message="waiting: its process was ended"
            )


def _prepared_context() -> multiprocessing.context.ForkServerContext:
    """What starts processes of jobs at once: from one that has imported what they need, and done
    nothing with it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    first = context.Process(target=_do_nothing)
    first.start()
    first.join()
    return context


def _do_nothing() -> None:
    """What the first process does, which is there to wait for."""


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()


def _drain_after(parent: BaseProcess, drain: threading.Event) -> None:
    parent.join()
    drain.set()


def run_worker(settings: AppSettings, belongs_to_server: bool = False) -> None:
    """A worker as a process, until SIGTERM or SIGINT; one that belongs to a server that has died
    leaves after its job.
    """
    from panoseg.app.monitoring import set_up_logging

    set_up_logging()
    limit_drivers(writing=True)
    # Read by libraries when they are loaded, which is later, in the processes of jobs.
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, usable_cores() // max(settings.workers, 1)))
    )
    stop, drain = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN if belongs_to_server else lambda *_: stop.set())
    parent = multiprocessing.parent_process()
    if belongs_to_server and parent is not None:
        threading.Thread(target=_drain_after, args=(parent, drain), daemon=True).start()
    work(settings, stop, drain)
