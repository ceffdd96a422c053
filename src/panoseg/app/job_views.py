"""Jobs as users and workers see them: views, the queue, and the workers that are alive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.orm import Session

from panoseg.app.database import Database, JobRow, LogRow, WorkerRow, now, row_count

Kind = Literal["map", "photo"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
"""States of jobs that do not change unless they are queued again."""


@dataclass(frozen=True)
class JobView:
    """A job as its owner sees it; times are in UTC."""

    id: str
    """32 hexadecimal digits."""
    kind: Kind
    """What the job makes."""
    owner: str
    """Name of the user."""
    name: str
    """Name for display."""
    state: State
    """State of the job."""
    stage: str
    """Name of the current stage; empty unless the job runs."""
    progress: float
    """Completed share of the whole job, 0 to 1."""
    message: str
    """Current status, a sentence."""
    created: datetime
    """Time of submission."""
    started: datetime | None
    """Time at which a worker last took the job."""
    ended: datetime | None
    """Time at which the job was done, failed or was cancelled."""
    request: dict[str, Any]
    """The request as JSON, checked by ``panoseg.app.requests``."""
    error: str | None
    """Reason of the failure."""
    seconds_left: float | None
    """Estimated time until the job is done, while it runs."""
    bytes: int
    """Size of the job's folder once the job has ended."""

    @classmethod
    def of(cls, row: JobRow) -> JobView:
        """Make the view of a row."""
        return cls(
            id=row.id,
            kind=cast(Kind, row.kind),
            owner=row.owner,
            name=row.name,
            state=cast(State, row.state),
            stage=row.stage,
            progress=row.progress,
            message=row.message,
            created=_utc(row.created),
            started=None if row.started is None else _utc(row.started),
            ended=None if row.ended is None else _utc(row.ended),
            request=row.request,
            error=row.error,
            seconds_left=row.seconds_left,
            bytes=row.bytes,
        )


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log."""

    number: int
    """Ascends with time."""
    time: datetime
    """Time of the line in UTC."""
    level: str
    """One of "info", "warning" or "error"."""
    text: str
    """The line."""

    @classmethod
    def of(cls, row: LogRow) -> LogLine:
        """Make the line of a row."""
        return cls(row.number, _utc(row.time), row.level, row.text)


@dataclass(frozen=True)
class Claim:
    """The right of a worker to change a job, valid until another worker claims the job."""

    job: str
    """Id of the job."""
    worker: str
    """Id of the worker."""
    number: int
    """Number among the claims of this job; only the highest is valid."""


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


MAX_CLAIMS = 50
"""A job that was claimed so often, and whose worker has died again, fails.

The limit is far above ``panoseg.app.jobs.MAX_STARTS``, because the death of a worker is seldom
caused by its job.
"""
_TOO_MANY_CLAIMS = (
    "The workers of this job were ended again and again, perhaps for lack of memory. Ask for a"
    " smaller area."
)


def abandoned_job(session: Session, time: float) -> str | None:
    """Return the running job whose lease ran out first, None if there is none.

    Abandoned jobs that were cancelled, or were claimed too often, end here instead.
    """
    lost = JobRow.state == "running", JobRow.lease_until < time
    ended = {"ended": time, "stage": "", "seconds_left": None}
    cancelled = {"state": "cancelled", "message": "cancelled"}
    session.execute(update(JobRow).where(*lost, JobRow.cancel).values(ended | cancelled))
    failed = {"state": "failed", "error": _TOO_MANY_CLAIMS, "message": _TOO_MANY_CLAIMS}
    session.execute(update(JobRow).where(*lost, JobRow.claim >= MAX_CLAIMS).values(ended | failed))
    return session.scalar(select(JobRow.id).where(*lost).order_by(JobRow.lease_until).limit(1))


def next_job(session: Session, time: float) -> str | None:
    """Return the queued job that has waited longest of the user whose turn it is.

    That is the user with the fewest running jobs; among several, the one whose latest job was
    started first.
    """
    is_ready = (JobRow.state == "queued") & (JobRow.not_before <= time)
    running = func.sum(case((JobRow.state == "running", 1), else_=0))
    waiting_since = func.min(case((is_ready, JobRow.queued)))
    last_started = func.coalesce(func.max(JobRow.started), 0.0)
    owner = session.scalar(
        select(JobRow.owner)
        .group_by(JobRow.owner)
        .having(waiting_since.is_not(None))
        .order_by(running, last_started, waiting_since)
        .limit(1)
    )
    if owner is None:
        return None
    ready = JobRow.owner == owner, JobRow.state == "queued", JobRow.not_before <= time
    return session.scalar(
        select(JobRow.id).where(*ready).order_by(JobRow.queued, JobRow.id).limit(1)
    )


_FORGOTTEN_S = 86_400.0


class WorkerRegistry:
    """The workers that have given a sign of life recently.

    Args:
        database: The database.
        lease_seconds: A worker that was silent for twice this time does not count as live.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self.database, self.lease_seconds = database, lease_seconds

    def report(self, worker: str, job: str | None) -> None:
        """Record a sign of life of a worker and the job that it works on."""
        with self.database.writing() as session:
            time = now(session)
            known = update(WorkerRow).where(WorkerRow.id == worker).values(seen=time, job=job)
            if not row_count(session, known):
                session.execute(delete(WorkerRow).where(WorkerRow.seen < time - _FORGOTTEN_S))
                session.add(WorkerRow(id=worker, started=time, seen=time, job=job))

    def remove(self, worker: str) -> None:
        """Remove a worker that ends."""
        with self.database.writing() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker))

    def count(self) -> int:
        """Return the number of live workers."""
        with self.database.reading() as session:
            living = WorkerRow.seen >= now(session) - 2 * self.lease_seconds
            return int(
                session.scalar(select(func.count()).select_from(WorkerRow).where(living)) or 0
            )
