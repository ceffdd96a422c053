"""The tables of the web application and the ways to read and change them: SQLite in WAL mode, or
PostgreSQL.

Times are seconds since 1970 in UTC by the clock of the database, so that machines need not agree on
theirs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Engine,
    ForeignKey,
    Index,
    String,
    Text,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from panoseg.errors import AppError
from panoseg.extras import require

_VERSION = 1
_BUSY_MS = 30_000
_LOCK_TABLES = 7_041_119  # numbers of PostgreSQL's advisory locks, any that nobody else uses
_PATIENCE = {
    # A machine that vanishes says nothing: a worker would wait hours for an answer, and others as
    # long for its locks.
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "options": "-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s",
}
"""What is asked of PostgreSQL's client (libpq), unless the URL asks for something else."""


class DatabaseAwayError(AppError):
    """The database does not answer; it may later."""


class Base(DeclarativeBase):
    """The tables."""


class JobRow(Base):
    """A job. claim: counts the workers that have taken it. starts: without those that a graceful
    stop sent home or that took it over from a worker that had died.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), index=True)
    stage: Mapped[str] = mapped_column(String(64), default="")
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    seconds_left: Mapped[float | None]
    created: Mapped[float]
    queued: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]
    not_before: Mapped[float] = mapped_column(default=0.0)
    worker: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float | None]
    claim: Mapped[int] = mapped_column(default=0)
    starts: Mapped[int] = mapped_column(default=0)
    cancel: Mapped[bool] = mapped_column(default=False)
    deleted: Mapped[bool] = mapped_column(default=False)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    km2: Mapped[float | None]
    work_seconds: Mapped[float] = mapped_column(default=0.0)


class LogRow(Base):
    """A line of a job's log; numbers ascend."""

    __tablename__ = "log_lines"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    time: Mapped[float]
    level: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(Text)
    __table_args__ = (Index("log_of_job", "job", "number"),)


class UploadRow(Base):
    """A file that a user has given."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    file: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[float]


class ShareRow(Base):
    """A link to the result of a job, which whoever has it may read."""

    __tablename__ = "shares"
    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created: Mapped[float]


class WorkerRow(Base):
    """A worker that lives, or did until lately."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    started: Mapped[float]
    seen: Mapped[float]
    job: Mapped[str | None] = mapped_column(String(32))


class VersionRow(Base):
    """Of which version the tables are; one row."""

    __tablename__ = "version"
    number: Mapped[int] = mapped_column(primary_key=True)


class Database:
    """A connection to the tables, made where they are missing. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        """Raises ``DatabaseAwayError``, and ``AppError`` for one whose tables are of another
        version.
        """
        self.engine = _engine(url)
        try:
            self._make_tables()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            shown = make_url(url).render_as_string(hide_password=True)
            raise DatabaseAwayError(
                f"database {shown} ({reason})",
                "one that can be used",
                "start it, or change --database",
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are kept where the block ends well, and undone where it does
        not.
        """
        with (
            Session(self.engine.execution_options(writes=True), expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _make_tables(self) -> None:
        with self.writing() as session:
            one_at_a_time(session, _LOCK_TABLES)
            Base.metadata.create_all(session.connection())
            found = session.scalar(select(VersionRow.number))
            if found is None:
                session.add(VersionRow(number=_VERSION))
            elif found != _VERSION:
                raise AppError(
                    f"tables of version {found} in the database",
                    f"version {_VERSION}",
                    "use the panoseg that made them",
                )


def now(session: Session) -> float:
    """Seconds since 1970 by the clock that all workers share: the database's, or this machine's for
    the embedded one.
    """
    if session.get_bind().dialect.name == "postgresql":
        return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))))  # type: ignore[arg-type]
    return time.time()


def one_at_a_time(session: Session, key: int) -> None:
    """Wait until no other transaction has said the same key; until this one ends. SQLite lets one
    write at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        require("postgres", "A PostgreSQL database")
        patience = {
            name: value for name, value in _PATIENCE.items() if name not in make_url(url).query
        }
        return create_engine(
            url, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args=patience
        )
    name = make_url(url).database
    if name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, connect_args={"timeout": _BUSY_MS / 1000}, pool_size=10, max_overflow=20
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # Python's own transactions begin too late to lock
        _use_wal(connection)
        for pragma in ("synchronous=NORMAL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A reader that becomes a writer would fail where another one wrote in between.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead. Of several that do so at once to a new file SQLite lets all but one fail,
    without the patience it was asked for.
    """
    end = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)
