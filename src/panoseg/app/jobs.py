"""Jobs: submitted, claimed by a worker for as long as it gives signs of life, finished once.

A worker holds a job by a ``Claim``. Every change by a worker is made only while its claim is the
job's newest, so that one that was thought dead cannot end a job that another has taken over. Users
take turns: next comes a job of whoever has the fewest running, and among those of whoever has
waited longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, CursorResult, case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from panoseg.app.database import Database, JobRow, LogRow, ShareRow, WorkerRow, now, one_at_a_time
from panoseg.errors import ConflictError, LimitError, NotFoundError

Kind = Literal["map", "photo"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
MOST_STARTS = 5
"""A job whose own process has died so often is given up."""
MOST_TAKEN = 50
"""A job that was taken so often, and whose worker has died once more, is given up; that is seldom
the job's fault.
"""
_MOST_LINES = 2000
_FORGOTTEN_S = 86_400.0
_LOCK_USER = 1_000_000_000


@dataclass(frozen=True)
class JobView:
    """A job as its owner sees it.

    id: 32 hexadecimal digits. stage: what is being done, empty before and after. progress: 0..1 of
    the whole job. message: the latest news, a sentence. request: what was asked for, as
    ``panoseg.app.requests`` has checked it. error: why it failed.
    seconds_left: an estimate, while it runs. bytes: of its folder, once it has ended. Times are in
    UTC.
    """

    id: str
    kind: Kind
    owner: str
    name: str
    state: State
    stage: str
    progress: float
    message: str
    created: datetime
    started: datetime | None
    ended: datetime | None
    request: dict[str, Any]
    error: str | None
    seconds_left: float | None
    bytes: int


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log. number: ascends. level: info, warning or error."""

    number: int
    time: datetime
    level: str
    text: str


@dataclass(frozen=True)
class Claim:
    """That a worker holds a job. number: of the claims of this job, the newest is the one that
    counts.
    """

    job: str
    worker: str
    number: int


class LostClaimError(Exception):
    """Another worker has taken the job over, or it was cancelled or deleted."""


class Jobs:
    """All jobs. The methods for users take no heed of who asks; ``panoseg.app.service`` does."""

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self.database, self.lease_seconds = database, lease_seconds

    # -- for users

    def submit(
        self, id: str, owner: str, name: str, request: dict[str, Any], most: int, km2: float | None
    ) -> JobView:
        """Add a job to the queue, whose folder is ready. request: with its kind. most: jobs of the
        owner that may wait or run.

        Raises ``LimitError``.
        """
        with self.database.writing() as session:
            self._check_count(session, owner, most)
            row = JobRow(
                id=id,
                kind=request["kind"],
                owner=owner,
                name=name,
                request=request,
                state="queued",
                km2=km2,
            )
            row.created = row.queued = now(session)
            row.message = "waiting for a worker"
            session.add(row)
            session.flush()
            return _view(row)

    def get(self, id: str) -> JobView:
        """A job. Raises ``NotFoundError``."""
        with self.database.reading() as session:
            return _view(_row(session, id))

    def of(self, owner: str) -> list[JobView]:
        """The jobs of a user, the newest first."""
        rows = (
            select(JobRow)
            .where(JobRow.owner == owner, ~JobRow.deleted)
            .order_by(JobRow.created.desc())
        )
        with self.database.reading() as session:
            return [_view(row) for row in session.scalars(rows)]

    def log(self, id: str, after: int = 0) -> list[LogLine]:
        """The lines of a job's log behind the line of that number, at most 2000."""
        wanted = (
            select(LogRow)
            .where(LogRow.job == id, LogRow.number > after)
            .order_by(LogRow.number)
            .limit(_MOST_LINES)
        )
        with self.database.reading() as session:
            return [
                LogLine(row.number, _utc(row.time), row.level, row.text)
                for row in session.scalars(wanted)
            ]

    def cancel(self, id: str) -> JobView:
        """End a job that waits; ask the worker of one that runs to end it. Nothing happens to one
        that has ended.
        """
        with self.database.writing() as session:
            time, _ = (
                now(session),
                _row(session, id, lock=True),
            )  # else it could change from one state to the other between
            waiting = JobRow.id == id, JobRow.state == "queued"
            ended = {
                "state": "cancelled",
                "ended": time,
                "message": "cancelled",
                "stage": "",
                "seconds_left": None,
            }
            if not _changed(session, update(JobRow).where(*waiting).values(ended)):
                session.execute(
                    update(JobRow)
                    .where(JobRow.id == id, JobRow.state == "running")
                    .values(cancel=True)
                )
            session.expire_all()
            return _view(_row(session, id))

    def requeue(
        self,
        id: str,
        most: int,
        request: dict[str, Any] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> JobView:
        """Let an ended job run again; stages that are done stay done. request: replaces the old
        one. prepare: readies its folder, called when nobody else can start or requeue the job;
        nothing changes where it raises.

        Raises ``ConflictError`` for one that has not ended, ``LimitError``.
        """
        with self.database.writing() as session:
            row = _row(session, id, lock=True)
            self._check_count(session, row.owner, most)
            values: dict[str, Any] = {
                "state": "queued",
                "queued": now(session),
                "ended": None,
                "error": None,
                "cancel": False,
            }
            values |= {
                "starts": 0,
                "progress": 0.0,
                "stage": "",
                "message": "waiting for a worker",
                "not_before": 0.0,
            }
            values |= {} if request is None else {"request": request}
            if row.state not in ENDED:
                raise ConflictError(
                    f"job {id} is {row.state}", "one that has ended", "wait for it, or cancel it"
                )
            if prepare is not None:
                prepare()
            _changed(session, update(JobRow).where(JobRow.id == id).values(values))
            session.refresh(row)
            return _view(row)

    def mark_deleted(self, id: str) -> None:
        """Hide a job for ever; ``removable`` names it once no worker holds it."""
        with self.database.writing() as session:
            session.execute(
                update(JobRow).where(JobRow.id == id).values(deleted=True, cancel=True)
            )  # keeps others out
            session.execute(
                update(JobRow)
                .where(JobRow.id == id, JobRow.state == "queued")
                .values(state="cancelled", ended=now(session))
            )
            session.execute(delete(ShareRow).where(ShareRow.job == id))

    def _check_count(self, session: Session, owner: str, most: int) -> None:
        one_at_a_time(session, _LOCK_USER + hash_of(owner))
        open_jobs = select(func.count()).where(JobRow.owner == owner, JobRow.state.not_in(ENDED))
        count = session.scalar(open_jobs) or 0
        if count >= most:
            raise LimitError(
                f"{count} jobs that wait or run",
                f"at most {most} a user",
                "wait for one, or cancel one",
            )

    # -- for the server

    def expired(self, days: int) -> list[str]:
        """Jobs that ended more than so many days ago."""
        with self.database.reading() as session:
            before = now(session) - 86_400 * days
            return list(
                session.scalars(
                    select(JobRow.id).where(JobRow.state.in_(ENDED), JobRow.ended < before)
                )
            )

    def removable(self) -> list[str]:
        """Deleted jobs that no worker holds, whose files may go."""
        with self.database.reading() as session:
            return list(
                session.scalars(select(JobRow.id).where(JobRow.deleted, JobRow.state.in_(ENDED)))
            )

    def remove(self, id: str) -> None:
        """Forget a deleted job."""
        with self.database.writing() as session:
            session.execute(delete(LogRow).where(LogRow.job == id))
            session.execute(delete(JobRow).where(JobRow.id == id, JobRow.deleted))

    def known(self, id: str) -> bool:
        """Whether there is a row of a job, be it deleted."""
        with self.database.reading() as session:
            return session.get(JobRow, id) is not None

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self.database.reading() as session:
            rows = session.execute(
                select(JobRow.state, func.count()).where(~JobRow.deleted).group_by(JobRow.state)
            )
            return {str(state): int(count) for state, count in rows}

    def longest_wait(self) -> float:
        """Seconds for which the oldest waiting job has waited; 0 without one."""
        with self.database.reading() as session:
            first = session.scalar(select(func.min(JobRow.queued)).where(JobRow.state == "queued"))
            return 0.0 if first is None else max(0.0, now(session) - first)

    def position(self, id: str) -> int:
        """How many jobs wait that were queued before this one; an upper bound, for users take
        turns.
        """
        with self.database.reading() as session:
            row = _row(session, id)
            ahead = select(func.count()).where(JobRow.state == "queued", JobRow.queued < row.queued)
            return int(session.scalar(ahead) or 0)

    def pace(self) -> float | None:
        """Seconds of work a square kilometre that finished maps took lately, all together; None
        before the first.

        Not the mean of their paces: a map of a few fields takes most of its time to begin.
        """
        done = select(JobRow.work_seconds, JobRow.km2).where(
            JobRow.state == "done", JobRow.km2 > 0, JobRow.work_seconds > 0
        )
        with self.database.reading() as session:
            rows = session.execute(done.order_by(JobRow.ended.desc()).limit(21)).all()
            return (
                sum(row.work_seconds for row in rows) / sum(row.km2 for row in rows)
                if rows
                else None
            )

    # -- for workers

    def claim(self, worker: str, take_over: bool = True) -> Claim | None:
        """Take the next job: one whose worker has fallen silent, else the longest waiting one of
        the user whose turn it is.

        take_over: whether jobs of silent workers are taken.
        """
        while True:
            with self.database.writing() as session:
                time = now(session)
                abandoned = self._abandoned(session, time) if take_over else None
                id = abandoned or self._next(session, time)
                if id is None:
                    return None
                free = or_(
                    JobRow.state == "queued",
                    (JobRow.state == "running") & (JobRow.lease_until < time),
                )
                values = {
                    "state": "running",
                    "worker": worker,
                    "lease_until": time + self.lease_seconds,
                    "claim": JobRow.claim + 1,
                    "starts": JobRow.starts + (0 if abandoned else 1),
                    "started": time,
                    "message": "starting",
                }
                if _changed(session, update(JobRow).where(JobRow.id == id, free).values(values)):
                    if abandoned:
                        _log(
                            session,
                            id,
                            "its worker has fallen silent; another one goes on",
                            "warning",
                        )
                    return Claim(
                        id,
                        worker,
                        int(session.scalar(select(JobRow.claim).where(JobRow.id == id)) or 0),
                    )

    def _abandoned(self, session: Session, time: float) -> str | None:
        """A running job without a living worker; those that were abandoned too often, or are no
        longer wanted, end here.
        """
        lost = JobRow.state == "running", JobRow.lease_until < time
        unwanted = {
            "state": "cancelled",
            "ended": time,
            "message": "cancelled",
            "stage": "",
            "seconds_left": None,
        }
        session.execute(update(JobRow).where(*lost, JobRow.cancel).values(unwanted))
        text = (
            "its worker was ended again and again, perhaps for memory; expected less work; ask for"
            " a smaller area"
        )
        failed = {
            "state": "failed",
            "ended": time,
            "error": text,
            "message": text,
            "stage": "",
            "seconds_left": None,
        }
        session.execute(update(JobRow).where(*lost, JobRow.claim >= MOST_TAKEN).values(failed))
        return session.scalar(select(JobRow.id).where(*lost).order_by(JobRow.lease_until).limit(1))

    def _next(self, session: Session, time: float) -> str | None:
        running = func.sum(case((JobRow.state == "running", 1), else_=0))
        waiting = func.min(
            case(((JobRow.state == "queued") & (JobRow.not_before <= time), JobRow.queued))
        )
        served = func.coalesce(func.max(JobRow.started), 0.0)
        turns = (
            select(JobRow.owner)
            .group_by(JobRow.owner)
            .having(waiting.is_not(None))
            .order_by(running, served, waiting)
        )
        owner = session.scalar(turns.limit(1))
        if owner is None:
            return None
        ready = JobRow.owner == owner, JobRow.state == "queued", JobRow.not_before <= time
        return session.scalar(
            select(JobRow.id).where(*ready).order_by(JobRow.queued, JobRow.id).limit(1)
        )

    def heartbeat(self, claim: Claim) -> bool:
        """Say that the worker lives; returns whether the job is still wanted. Raises
        ``LostClaimError``.
        """
        with self.database.writing() as session:
            self._change(session, claim, lease_until=now(session) + self.lease_seconds)
            return not session.scalar(select(JobRow.cancel).where(JobRow.id == claim.job))

    def report(
        self, claim: Claim, stage: str, progress: float, message: str, seconds_left: float | None
    ) -> None:
        """Tell how far a job is. Raises ``LostClaimError``."""
        with self.database.writing() as session:
            self._change(
                session,
                claim,
                stage=stage,
                progress=progress,
                message=message,
                seconds_left=seconds_left,
            )

    def write(self, claim: Claim, text: str, level: str = "info") -> None:
        """Add a line to a job's log. Raises ``LostClaimError``."""
        with self.database.writing() as session:
            if session.scalar(select(JobRow.id).where(*_held(claim)).with_for_update()) is None:
                raise LostClaimError(claim.job)
            _log(session, claim.job, text, level)

    def finish(
        self, claim: Claim, size: int, seconds: float, message: str, complaints: Sequence[str] = ()
    ) -> None:
        """The job is done. size: bytes of its folder. seconds: of this worker's work. complaints:
        lines for its log.

        Raises ``LostClaimError``.
        """
        values = {"progress": 1.0, "bytes": size, "work_seconds": JobRow.work_seconds + seconds}
        self._end(claim, "done", message, complaints, **values)

    def fail(self, claim: Claim, error: str, size: int) -> None:
        """The job cannot be done; its log says so too. Raises ``LostClaimError``."""
        self._end(claim, "failed", error, [error], error=error, bytes=size)

    def end_cancelled(self, claim: Claim, size: int) -> None:
        """The job was stopped because its owner wants it no more. Raises ``LostClaimError``."""
        self._end(claim, "cancelled", "cancelled", bytes=size)

    def give_back(self, claim: Claim, seconds: float, counted: bool, message: str) -> None:
        """Put a job back into the queue for after so many seconds; one that is not wanted any more
        ends instead.

        counted: whether it was a failed start. Raises ``LostClaimError``.
        """
        with self.database.writing() as session:
            time, fewer = now(session), case((JobRow.starts > 0, JobRow.starts - 1), else_=0)
            values = {
                "state": case((JobRow.cancel, "cancelled"), else_="queued"),
                "ended": case((JobRow.cancel, time), else_=None),
                "message": case((JobRow.cancel, "cancelled"), else_=_storable(message)),
                "not_before": time + seconds,
            }
            self._change(
                session,
                claim,
                starts=JobRow.starts if counted else fewer,
                seconds_left=None,
                **values,
            )

    def starts(self, claim: Claim) -> int:
        """How often a job was started, graceful stops not counted."""
        with self.database.reading() as session:
            return _row(session, claim.job, deleted=True).starts

    def live(self, worker: str, job: str | None) -> None:
        """Say that a worker lives, and what it does."""
        with self.database.writing() as session:
            time = now(session)
            if not _changed(
                session, update(WorkerRow).where(WorkerRow.id == worker).values(seen=time, job=job)
            ):
                session.execute(delete(WorkerRow).where(WorkerRow.seen < time - _FORGOTTEN_S))
                session.add(WorkerRow(id=worker, started=time, seen=time, job=job))

    def leave(self, worker: str) -> None:
        """A worker ends."""
        with self.database.writing() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker))

    def workers(self) -> int:
        """How many workers live."""
        with self.database.reading() as session:
            living = WorkerRow.seen >= now(session) - 2 * self.lease_seconds
            return int(
                session.scalar(select(func.count()).select_from(WorkerRow).where(living)) or 0
            )

    def _end(
        self, claim: Claim, state: State, message: str, lines: Sequence[str] = (), **values: Any
    ) -> None:
        """End a job; the lines go to its log as errors."""
        with self.database.writing() as session:
            ended = {
                "state": state,
                "message": message,
                "ended": now(session),
                "stage": "",
                "seconds_left": None,
            }
            self._change(session, claim, **ended, **values)
            for line in lines:
                _log(session, claim.job, line, "error")

    def _change(self, session: Session, claim: Claim, **values: Any) -> None:
        kept = {
            name: _storable(value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        if not _changed(session, update(JobRow).where(*_held(claim)).values(kept)):
            raise LostClaimError(claim.job)


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """That a claim is its job's newest, and the job runs."""
    return (
        JobRow.id == claim.job,
        JobRow.state == "running",
        JobRow.worker == claim.worker,
        JobRow.claim == claim.number,
    )


def _log(session: Session, job: str, text: str, level: str) -> None:
    session.add(LogRow(job=job, time=now(session), level=level, text=_storable(text)))


def _storable(text: str) -> str:
    """A text without what databases refuse: zero bytes and halves of characters, as names in files
    of strangers may have.
    """
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def hash_of(owner: str) -> int:
    """A number of a user's name that is the same in every process."""
    return int.from_bytes(owner.encode()[-3:].rjust(3, b"\0"))


def _changed(session: Session, statement: Any) -> bool:
    return (
        cast(
            CursorResult, session.execute(statement.execution_options(synchronize_session=False))
        ).rowcount
        > 0
    )


def _row(session: Session, id: str, deleted: bool = False, lock: bool = False) -> JobRow:
    """lock: whether it stays as it is until this transaction ends."""
    row = session.get(JobRow, id, with_for_update=lock)
    if row is None or (row.deleted and not deleted):
        raise NotFoundError(f"job {id}", "a job of yours", "look at the list of jobs")
    return row


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _view(row: JobRow) -> JobView:
    times: Sequence[datetime | None] = [
        None if time is None else _utc(time) for time in (row.started, row.ended)
    ]
    return JobView(
        id=row.id,
        kind=cast(Kind, row.kind),
        owner=row.owner,
        name=row.name,
        state=cast(State, row.state),
        stage=row.stage,
        progress=row.progress,
        message=row.message,
        created=_utc(row.created),
        started=times[0],
        ended=times[1],
        request=row.request,
        error=row.error,
        seconds_left=row.seconds_left,
        bytes=row.bytes,
    )
