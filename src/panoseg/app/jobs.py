"""Jobs: submitted by users, claimed by workers, finished once.

A worker holds a job by a ``Claim`` for as long as it gives signs of life. It can change the job
only while its claim is the job's newest one, so that a worker that was considered dead cannot end a
job that another one has taken over. ``panoseg.app.job_views`` says which job comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from panoseg.app.database import (
    Database,
    JobRow,
    LogRow,
    ShareRow,
    now,
    row_count,
    take_lock,
    user_lock_key,
)
from panoseg.app.job_views import (
    ENDED,
    Claim,
    JobView,
    LogLine,
    State,
    WorkerRegistry,
    abandoned_job,
    next_job,
)
from panoseg.errors import ConflictError, LimitError, NotFoundError

MAX_STARTS = 5
"""A job whose own process has died so often fails."""
_MAX_LINES = 2000
_JOB_COUNT_LOCKS = 1_000_000_000  # first of the locks of users that add jobs


class LostClaimError(Exception):
    """Another worker has taken the job over, or it was cancelled or deleted."""


class Jobs:
    """All jobs, for users, the server and workers.

    The methods for users do not check who asks; ``panoseg.app.service`` does.

    Args:
        database: The database.
        lease_seconds: Time after which the job of a silent worker may be taken over.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self.database, self.lease_seconds = database, lease_seconds
        self.workers = WorkerRegistry(database, lease_seconds)

    # -- for users

    def submit(
        self,
        id: str,
        owner: str,
        name: str,
        request: dict[str, Any],
        max_jobs: int,
        km2: float | None,
    ) -> JobView:
        """Add a job, whose folder is ready, to the queue.

        Args:
            id: 32 hexadecimal digits.
            owner: Name of the user.
            name: Name for display.
            request: The checked request as JSON, with its kind.
            max_jobs: Most jobs of the owner that may be queued or running.
            km2: Area of a map, if it is known.

        Raises:
            LimitError: The owner has too many jobs.
        """
        with self.database.writing() as session:
            _check_count(session, owner, max_jobs)
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
            return JobView.of(row)

    def get(self, id: str) -> JobView:
        """Return a job, or raise ``NotFoundError``."""
        with self.database.reading() as session:
            return JobView.of(_row(session, id))

    def of(self, owner: str) -> list[JobView]:
        """Return the jobs of a user, newest first."""
        rows = (
            select(JobRow)
            .where(JobRow.owner == owner, ~JobRow.deleted)
            .order_by(JobRow.created.desc())
        )
        with self.database.reading() as session:
            return [JobView.of(row) for row in session.scalars(rows)]

    def log(self, id: str, after: int = 0) -> list[LogLine]:
        """Return up to 2000 lines of a job's log with numbers above ``after``."""
        lines = (
            select(LogRow)
            .where(LogRow.job == id, LogRow.number > after)
            .order_by(LogRow.number)
            .limit(_MAX_LINES)
        )
        with self.database.reading() as session:
            return [LogLine.of(row) for row in session.scalars(lines)]

    def cancel(self, id: str) -> JobView:
        """End a queued job, or ask the worker of a running one to end it.

        A job that has ended stays as it is.
        """
        with self.database.writing() as session:
            # The row is locked: else the job could change its state between the two updates.
            time, _ = now(session), _row(session, id, lock=True)
            ended = {
                "state": "cancelled",
                "ended": time,
                "message": "cancelled",
                "stage": "",
                "seconds_left": None,
            }
            this = JobRow.id == id
            if not row_count(
                session, update(JobRow).where(this, JobRow.state == "queued").values(ended)
            ):
                session.execute(
                    update(JobRow).where(this, JobRow.state == "running").values(cancel=True)
                )
            session.expire_all()
            return JobView.of(_row(session, id))

    def requeue(
        self,
        id: str,
        max_jobs: int,
        request: dict[str, Any] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> JobView:
        """Put an ended job into the queue again; stages that are done are not repeated.

        Args:
            id: The job.
            max_jobs: Most jobs of the owner that may be queued or running.
            request: Replaces the old request.
            prepare: Prepares the job's folder. It is called while nobody else can start or requeue
                the job; if it raises, nothing changes.

        Raises:
            ConflictError: The job has not ended.
            LimitError: The owner has too many jobs.
        """
        with self.database.writing() as session:
            row = _row(session, id, lock=True)
            _check_count(session, row.owner, max_jobs)
            if row.state not in ENDED:
                raise ConflictError(f"The job is {row.state}; wait until it ends, or cancel it.")
            values: dict[str, Any] = {
                "state": "queued",
                "queued": now(session),
                "ended": None,
                "error": None,
                "cancel": False,
                "starts": 0,
                "progress": 0.0,
                "stage": "",
                "message": "waiting for a worker",
                "not_before": 0.0,
            }
            if request is not None:
                values["request"] = request
            if prepare is not None:
                prepare()
            row_count(session, update(JobRow).where(JobRow.id == id).values(values))
            session.refresh(row)
            return JobView.of(row)

    def mark_deleted(self, id: str) -> None:
        """Hide a job permanently; ``removable`` lists it once no worker holds it."""
        with self.database.writing() as session:
            # The first update locks the row against other transactions.
            session.execute(update(JobRow).where(JobRow.id == id).values(deleted=True, cancel=True))
            session.execute(
                update(JobRow)
                .where(JobRow.id == id, JobRow.state == "queued")
                .values(state="cancelled", ended=now(session))
            )
            session.execute(delete(ShareRow).where(ShareRow.job == id))

    # -- for the server

    def expired(self, days: int) -> list[str]:
        """Return the ids of jobs that ended more than ``days`` days ago."""
        with self.database.reading() as session:
            old = JobRow.state.in_(ENDED), JobRow.ended < now(session) - 86_400 * days
            return list(session.scalars(select(JobRow.id).where(*old)))

    def removable(self) -> list[str]:
        """Return the ids of deleted jobs that no worker holds, whose files can be removed."""
        with self.database.reading() as session:
            return list(
                session.scalars(select(JobRow.id).where(JobRow.deleted, JobRow.state.in_(ENDED)))
            )

    def remove(self, id: str) -> None:
        """Remove the row and the log of a deleted job."""
        with self.database.writing() as session:
            session.execute(delete(LogRow).where(LogRow.job == id))
            session.execute(delete(JobRow).where(JobRow.id == id, JobRow.deleted))

    def exists(self, id: str) -> bool:
        """Return whether there is a row of a job, also of a deleted one."""
        with self.database.reading() as session:
            return session.get(JobRow, id) is not None

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state."""
        with self.database.reading() as session:
            rows = session.execute(
                select(JobRow.state, func.count()).where(~JobRow.deleted).group_by(JobRow.state)
            )
            return {str(state): int(count) for state, count in rows}

    def longest_wait(self) -> float:
        """Return for how many seconds the oldest queued job has waited; 0 without one."""
        with self.database.reading() as session:
            first = session.scalar(select(func.min(JobRow.queued)).where(JobRow.state == "queued"))
            return 0.0 if first is None else max(0.0, now(session) - first)

    def position(self, id: str) -> int:
        """Return how many queued jobs are older than this one.

        This is an upper bound of how many are served before it, as users take turns.
        """
        with self.database.reading() as session:
            row = _row(session, id)
            ahead = select(func.count()).where(JobRow.state == "queued", JobRow.queued < row.queued)
            return int(session.scalar(ahead) or 0)

    def seconds_per_km2(self) -> float | None:
        """Return the work time per square kilometre of the latest maps; None before the first.

        It is the ratio of the sums, not the mean of the ratios: a map of a few fields takes most of
        its time to start.
        """
        done = select(JobRow.work_seconds, JobRow.km2).where(
            JobRow.state == "done", JobRow.km2 > 0, JobRow.work_seconds > 0
        )
        with self.database.reading() as session:
            rows = session.execute(done.order_by(JobRow.ended.desc()).limit(21)).all()
        if not rows:
            return None
        return float(sum(row.work_seconds for row in rows) / sum(row.km2 for row in rows))

    # -- for workers

    def claim(self, worker: str, take_over: bool = True) -> Claim | None:
        """Take the next job; None if there is none.

        Args:
            worker: Id of the worker.
            take_over: Whether jobs of silent workers are taken, and first.
        """
        while True:
            with self.database.writing() as session:
                time = now(session)
                abandoned = abandoned_job(session, time) if take_over else None
                id = abandoned or next_job(session, time)
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
                if row_count(session, update(JobRow).where(JobRow.id == id, free).values(values)):
                    if abandoned:
                        text = "The worker stopped responding; another one continues the job."
                        _log(session, id, text, "warning")
                    number = session.scalar(select(JobRow.claim).where(JobRow.id == id))
                    return Claim(id, worker, int(number or 0))

    def heartbeat(self, claim: Claim) -> bool:
        """Extend the lease; return whether the job is still wanted.

        Raises:
            LostClaimError: The claim is not valid any more.
        """
        with self.database.writing() as session:
            self._change(session, claim, lease_until=now(session) + self.lease_seconds)
            return not session.scalar(select(JobRow.cancel).where(JobRow.id == claim.job))

    def report(
        self, claim: Claim, stage: str, progress: float, message: str, seconds_left: float | None
    ) -> None:
        """Record the progress of a job, or raise ``LostClaimError``."""
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
        """Add a line to a job's log, or raise ``LostClaimError``."""
        with self.database.writing() as session:
            if session.scalar(select(JobRow.id).where(*_held(claim)).with_for_update()) is None:
                raise LostClaimError(claim.job)
            _log(session, claim.job, text, level)

    def finish(
        self, claim: Claim, size: int, seconds: float, message: str, problems: Sequence[str] = ()
    ) -> None:
        """Mark a job as done.

        Args:
            claim: The claim.
            size: Size of the job's folder in bytes.
            seconds: Time that this worker spent on it.
            message: The final status.
            problems: Lines for its log, as errors.

        Raises:
            LostClaimError: The claim is not valid any more.
        """
        values = {"progress": 1.0, "bytes": size, "work_seconds": JobRow.work_seconds + seconds}
        self._end(claim, "done", message, problems, **values)

    def fail(self, claim: Claim, error: str, size: int) -> None:
        """Mark a job as failed, also in its log, or raise ``LostClaimError``."""
        self._end(claim, "failed", error, [error], error=error, bytes=size)

    def end_cancelled(self, claim: Claim, size: int) -> None:
        """Mark a job as cancelled that was stopped, or raise ``LostClaimError``."""
        self._end(claim, "cancelled", "cancelled", bytes=size)

    def release(self, claim: Claim, delay_s: float, counted: bool, message: str) -> None:
        """Put a job back into the queue; one that is not wanted any more is cancelled instead.

        Args:
            claim: The claim.
            delay_s: Seconds before which no worker takes it.
            counted: Whether this counts as a failed start.
            message: The status until then.

        Raises:
            LostClaimError: The claim is not valid any more.
        """
        with self.database.writing() as session:
            time, fewer = now(session), case((JobRow.starts > 0, JobRow.starts - 1), else_=0)
            values = {
                "state": case((JobRow.cancel, "cancelled"), else_="queued"),
                "ended": case((JobRow.cancel, time), else_=None),
                "message": case((JobRow.cancel, "cancelled"), else_=_storable(message)),
                "not_before": time + delay_s,
            }
            self._change(
                session,
                claim,
                starts=JobRow.starts if counted else fewer,
                seconds_left=None,
                **values,
            )

    def starts(self, claim: Claim) -> int:
        """Return how often a job was started, without graceful stops."""
        with self.database.reading() as session:
            return _row(session, claim.job, deleted=True).starts

    def _end(
        self,
        claim: Claim,
        state: State,
        message: str,
        lines: Sequence[str] = (),
        **values: object,
    ) -> None:
        """End a job and add the lines to its log as errors."""
        with self.database.writing() as session:
            ended: dict[str, object] = {
                "state": state,
                "message": message,
                "ended": now(session),
                "stage": "",
                "seconds_left": None,
            }
            self._change(session, claim, **ended, **values)
            for line in lines:
                _log(session, claim.job, line, "error")

    def _change(self, session: Session, claim: Claim, **values: object) -> None:
        storable = {
            name: _storable(value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        if not row_count(session, update(JobRow).where(*_held(claim)).values(storable)):
            raise LostClaimError(claim.job)


def _check_count(session: Session, owner: str, max_jobs: int) -> None:
    take_lock(session, _JOB_COUNT_LOCKS + user_lock_key(owner))
    count = session.scalar(
        select(func.count()).where(JobRow.owner == owner, JobRow.state.not_in(ENDED))
    )
    if (count or 0) >= max_jobs:
        raise LimitError(
            f"You have {count} jobs queued or running, of at most {max_jobs}; wait until one ends,"
            " or cancel one."
        )


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that the claim is the newest and the job runs."""
    return (
        JobRow.id == claim.job,
        JobRow.state == "running",
        JobRow.worker == claim.worker,
        JobRow.claim == claim.number,
    )


def _log(session: Session, job: str, text: str, level: str) -> None:
    session.add(LogRow(job=job, time=now(session), level=level, text=_storable(text)))


def _storable(text: str) -> str:
    """Replace what databases refuse: zero bytes and lone surrogates, as file names may have."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _row(session: Session, id: str, deleted: bool = False, lock: bool = False) -> JobRow:
    """Return the row of a job; ``lock`` keeps others from changing it in this transaction."""
    row = session.get(JobRow, id, with_for_update=lock)
    if row is None or (row.deleted and not deleted):
        raise NotFoundError(f"There is no job {id}; look at the list of your jobs.")
    return row
