"""A worker: claims jobs one after the other, and lets a process of its own do each while it tells the database that it lives.

The process of a job may be killed by the system; the worker then puts the job back. The worker may be killed; its process ends
with it, and another worker takes the job over when the lease is over. Stages that are done are not done again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from panoseg.app.database import Database
from panoseg.app.gdal_drivers import limit_drivers
from panoseg.app.jobs import MOST_STARTS, Claim, Jobs, LostClaimError
from panoseg.app.requests import MapRequest, PhotoRequest
from panoseg.app.settings import AppSettings
from panoseg.app.stages import Stage, Tell, Work, run_stages
from panoseg.errors import NotFoundError, PanosegError
from panoseg.processes import belong_to_parent, usable_cores

LOG = logging.getLogger("panoseg.app.worker")
REQUEST = "request.json"
_POLL_S = 0.5
_PATIENCE_S = 2.0  # for the lock of a process that is just being ended
_PAUSE_S = 2.0
_REPORT_S = 0.5
_FATAL = 70
_NICENESS = 10  # pages come first
_PRELOADED = (
    "panoseg.app.egress",
    "panoseg.cube.fetch",
    "panoseg.maps.mapping",
    "panoseg.data.simulation.cube",
    "panoseg.app.worker",
    "panoseg.app.layers",
    "zarr.storage",
)


def work(settings: AppSettings, stop: threading.Event, drain: threading.Event | None = None) -> None:
    """Work on jobs until ``stop``, at which the job in hand goes back to the queue, or ``drain``, at which it is finished."""
    database = Database(settings.database_url)
    jobs = Jobs(database, settings.lease_seconds)
    worker = _Worker(settings, jobs, stop)
    LOG.info("worker started", extra={"worker": worker.id})
    try:
        while not stop.is_set() and not (drain is not None and drain.is_set()):
            with _outages_survived(stop):
                worker.live()
                claim = jobs.claim(worker.id)
                if claim is None:
                    stop.wait(_POLL_S)
                else:
                    worker.hold(claim)
    finally:
        with suppress(SQLAlchemyError):
            jobs.leave(worker.id)
        database.close()


@contextmanager
def _outages_survived(stop: threading.Event) -> Iterator[None]:
    """A database that is away for a while costs time, not the worker."""
    try:
        yield
    except SQLAlchemyError as error:
        LOG.warning("the database does not answer", extra={"reason": str(getattr(error, "orig", error))[:200]})
        stop.wait(_PAUSE_S)


class _Worker:
    """Holds one job at a time."""

    def __init__(self, settings: AppSettings, jobs: Jobs, stop: threading.Event) -> None:
        self.settings, self.jobs, self.stop = settings, jobs, stop
        self.context = _prepared_context()
        self._next_beat = 0.0
        self.id = f"{socket.gethostname()[:30]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def live(self) -> None:
        """Say now and then that the worker lives without a job."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self.settings.lease_seconds / 5
            self.jobs.live(self.id, None)

    def hold(self, claim: Claim) -> None:
        """Let a process do a job, and end it when the job is no longer wanted or no longer ours."""
        LOG.info("job claimed", extra={"job": claim.job, "worker": self.id})
        start = time.monotonic()
        process = self.context.Process(target=_process, args=(self.settings, claim), name=f"job {claim.job}")
        process.start()
        try:
            self._watch(claim, process)
        except LostClaimError:
            process.join(_PATIENCE_S)  # it has ended the job itself, or another worker has the job
        finally:
            _end(process)
        self._next_beat = 0.0
        LOG.info("job left", extra={"job": claim.job, "seconds": round(time.monotonic() - start, 1)})

    def _watch(self, claim: Claim, process: BaseProcess) -> None:
        beat = self.settings.lease_seconds / 5
        next_beat = time.monotonic() + beat
        while process.is_alive():
            process.join(min(_POLL_S, beat))
            if self.stop.is_set():
                _end(process)
                self.jobs.give_back(claim, 0.0, counted=False, message="waiting: the worker was stopped")
                return
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + beat
                with _outages_survived(self.stop):
                    self.jobs.live(self.id, claim.job)
                    if not self.jobs.heartbeat(claim):
                        _end(process)
                        self.jobs.end_cancelled(claim, folder_bytes(self.settings.jobs_folder / claim.job))
                        return
        self._ended(claim, process)

    def _ended(self, claim: Claim, process: BaseProcess) -> None:
        """The process has ended; unless it has ended the job as well, the job goes back to the queue or fails."""
        if not self.jobs.heartbeat(claim):
            self.jobs.end_cancelled(claim, folder_bytes(self.settings.jobs_folder / claim.job))
        elif self.jobs.starts(claim) >= MOST_STARTS:
            text = f"its process was ended {MOST_STARTS} times, perhaps for memory; expected less work; ask for a smaller area"
            self.jobs.fail(claim, text, folder_bytes(self.settings.jobs_folder / claim.job))
        else:
            self.jobs.write(
                claim.job, f"the process of the job was ended (exit code {process.exitcode}); it goes on", "warning"
            )
            self.jobs.give_back(claim, _PAUSE_S, counted=True, message="waiting: its process was ended")


def _prepared_context() -> multiprocessing.context.ForkServerContext:
    """What starts processes of jobs: from one that has imported what they need, and done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    forkserver.ensure_running()
    return context


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()


def _process(settings: AppSettings, claim: Claim) -> None:
    """The process of a job."""
    belong_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(_NICENESS)
    from panoseg.app.egress import guard_process
    from panoseg.app.logs import set_up_logging

    set_up_logging()
    guard_process(settings)
    database = Database(settings.database_url)
    try:
        run_claimed(settings, Jobs(database, settings.lease_seconds), claim)
    except LostClaimError:
        sys.exit(0)
    except SQLAlchemyError:
        LOG.exception("the database does not answer", extra={"job": claim.job})
        sys.exit(_FATAL)


def run_claimed(settings: AppSettings, jobs: Jobs, claim: Claim) -> None:
    """Do a job to its end: done, or failed with the reason. Raises ``LostClaimError`` where it is no longer ours."""
    folder, start = settings.jobs_folder / claim.job, time.monotonic()
    try:
        with _locked(folder / ".lock"):
            work = _open(settings, folder, lambda text: jobs.write(claim.job, text))
            run_stages(work, _Reporter(jobs, claim).enter)
    except _HeldError:
        jobs.give_back(claim, _PAUSE_S, counted=False, message="waiting: an earlier process of it still runs")
        return
    except PanosegError as error:
        text = without_folder(str(error), folder)
        jobs.write(claim.job, text, "error")
        jobs.fail(claim, text, folder_bytes(folder))
        return
    except (LostClaimError, SQLAlchemyError):
        raise
    except Exception as error:
        LOG.exception("a job met a bug", extra={"job": claim.job})
        text = f"an error inside of panoseg ({type(error).__name__}); expected none; tell whoever runs this server"
        jobs.write(claim.job, text, "error")
        jobs.fail(claim, text, folder_bytes(folder))
        return
    complaints = [without_folder(complaint, folder) for complaint in work.complaints]
    for complaint in complaints:
        jobs.write(claim.job, complaint, "error")
    jobs.finish(claim, folder_bytes(folder), time.monotonic() - start, "; ".join(["done", *complaints]))


def without_folder(text: str, folder: Path) -> str:
    """A message about files of a job without the folder in which they lie, which is nobody's business."""
    for name in (folder.resolve(), folder.absolute(), folder):
        text = text.replace(f"{name}/", "")
    return text


def _open(settings: AppSettings, folder: Path, write: Callable[[str], None]) -> Work:
    try:
        given: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError("the folder of this job has gone", "its request", "start it anew") from error
    request = PhotoRequest(**given) if given.get("kind") == "photo" else MapRequest(**given)
    return Work(settings, folder, request, write)


class _HeldError(Exception):
    """Another process works on this job."""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a job; the system gives it back however a process ends. Raises ``_HeldError``, ``NotFoundError``."""
    try:
        file = path.open("w")
    except OSError as error:
        raise NotFoundError("the folder of this job has gone", "its request", "start it anew") from error
    deadline = time.monotonic() + _PATIENCE_S
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise _HeldError from error
                time.sleep(0.1)
        yield


class _Reporter:
    """Tells the database how far a job is, now and then."""

    def __init__(self, jobs: Jobs, claim: Claim) -> None:
        self.jobs, self.claim = jobs, claim
        self._start, self._last, self._most = time.monotonic(), 0.0, 0.0
        self._first: float | None = None

    def enter(self, stage: Stage, before: float) -> Tell:
        """A stage begins, with so much of the job behind it."""

        def tell(share: float, message: str) -> None:
            time_now = time.monotonic()
            if share == 0.0 and message == stage.title:
                self._first = before if self._first is None else self._first
                self.jobs.write(self.claim.job, message)
            elif time_now - self._last < _REPORT_S:
                return
            self._last = time_now
            progress = self._most = max(self._most, min(before + stage.share * share, 1.0))
            self.jobs.report(self.claim, stage.name, progress, message, self._left(progress, time_now))

        return tell

    def _left(self, progress: float, time_now: float) -> float | None:
        """Seconds left, by what this start has done so far."""
        done = progress - (self._first or 0.0)
        return None if done < 0.02 else (time_now - self._start) / done * (1 - progress)


def folder_bytes(folder: Path) -> int:
    """Disk space of the files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _drain_after(parent: BaseProcess, drain: threading.Event) -> None:
    parent.join()
    drain.set()


def run_worker(settings: AppSettings, belongs_to_server: bool = False) -> None:
    """A worker as a process, until SIGTERM or SIGINT; one that belongs to a server ends its job when that has died."""
    from panoseg.app.logs import set_up_logging

    set_up_logging()
    limit_drivers(writing=True)
    # Read by libraries when they are loaded, which is later, in the processes of jobs.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // max(settings.workers, 1))))
    stop, drain = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN if belongs_to_server else lambda *_: stop.set())
    parent = multiprocessing.parent_process()
    if belongs_to_server and parent is not None:
        threading.Thread(target=_drain_after, args=(parent, drain), daemon=True).start()
    work(settings, stop, drain)
