"""The table of live workers."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update

from panoseg.app.database import Database, WorkerRow, now, row_count

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
