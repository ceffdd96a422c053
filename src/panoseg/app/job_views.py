"""Jobs, their log lines and claims as values, made from rows of the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from panoseg.app.database import JobRow, LogRow

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
