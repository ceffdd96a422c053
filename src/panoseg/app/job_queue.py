"""Selection of the next job for a worker: abandoned jobs first, then the users in turn."""

from __future__ import annotations

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from panoseg.app.database import JobRow

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
