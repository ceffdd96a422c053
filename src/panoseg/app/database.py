"""The tables of the web application, and sessions to read and change them.

The database is SQLite in WAL mode, or PostgreSQL. Times are seconds since 1970 in UTC by the clock
of the database, so that the clocks of the machines need not agree.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    CursorResult,
    Engine,
    ForeignKey,
    Index,
    String,
    Text,
    Update,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from panoseg.errors import AppError, require

_VERSION = 1
_SQLITE_TIMEOUT_MS = 30_000
_SCHEMA_LOCK = 7_041_119  # key of a PostgreSQL advisory lock: any number that nothing else uses
_POSTGRES_TIMEOUTS = {
    # A machine that vanishes sends nothing: without these a worker would wait hours for an answer,
    # and others as long for its locks.
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "options": "-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s",
}
"""Connection parameters of PostgreSQL's client library (libpq) that the URL does not set."""


class DatabaseUnavailableError(AppError):
    """The database does not answer at the moment."""


class Base(DeclarativeBase):
    """Base class of the tables."""


class JobRow(Base):
    """A job."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """32 hexadecimal digits."""
    kind: Mapped[str] = mapped_column(String(16))
    """Either "map" or "photo"."""
    owner: Mapped[str] = mapped_column(String(64), index=True)
    """Name of the user."""
    name: Mapped[str] = mapped_column(String(200))
    """Name for display."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    """One of "queued", "running", "done", "failed" or "cancelled"."""
    stage: Mapped[str] = mapped_column(String(64), default="")
    """Name of the current stage; empty unless the job runs."""
    progress: Mapped[float] = mapped_column(default=0.0)
    """Completed share of the job, 0 to 1."""
    message: Mapped[str] = mapped_column(Text, default="")
    """Current status, a sentence."""
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The request as JSON, see ``panoseg.app.requests``."""
    error: Mapped[str | None] = mapped_column(Text)
    """Reason of the failure."""
    seconds_left: Mapped[float | None]
    """Estimated time until the job is done."""
    created: Mapped[float]
    """Time of submission."""
    queued: Mapped[float]
    """Time at which the job was last put into the queue."""
    started: Mapped[float | None]
    """Time of the latest claim."""
    ended: Mapped[float | None]
    """Time at which the job was done, failed or was cancelled."""
    not_before: Mapped[float] = mapped_column(default=0.0)
    """Time before which no worker takes the job."""
    worker: Mapped[str | None] = mapped_column(String(64))
    """Worker of the latest claim."""
    lease_until: Mapped[float | None]
    """Time after which another worker may take the job over."""
    claim: Mapped[int] = mapped_column(default=0)
    """Number of claims; the latest claim has this number."""
    starts: Mapped[int] = mapped_column(default=0)
    """Number of starts, not counting those that ended by a graceful stop of the worker and those
    that took the job over from a dead worker.
    """
    cancel: Mapped[bool] = mapped_column(default=False)
    """Whether the worker has been asked to stop the job."""
    deleted: Mapped[bool] = mapped_column(default=False)
    """Whether the job is hidden and waits for the removal of its files."""
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Size of the job's folder once the job has ended."""
    km2: Mapped[float | None]
    """Area of a map in square kilometres, where it was known at submission."""
    work_seconds: Mapped[float] = mapped_column(default=0.0)
    """Time that workers have spent on the job."""


class LogRow(Base):
    """A line of a job's log."""

    __tablename__ = "log_lines"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    """Ascends with time, across all jobs."""
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    """Id of the job."""
    time: Mapped[float]
    """Time of the line."""
    level: Mapped[str] = mapped_column(String(16))
    """One of "info", "warning" or "error"."""
    text: Mapped[str] = mapped_column(Text)
    """The line."""
    __table_args__ = (Index("log_of_job", "job", "number"),)


class UploadRow(Base):
    """A file that a user has uploaded."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """32 hexadecimal digits."""
    owner: Mapped[str] = mapped_column(String(64), index=True)
    """Name of the user."""
    name: Mapped[str] = mapped_column(String(200))
    """Name of the file for display."""
    kind: Mapped[str] = mapped_column(String(16))
    """One of ``panoseg.app.uploads.UploadKind``."""
    file: Mapped[str] = mapped_column(String(64))
    """Name of the file in the folder of uploads."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the file."""
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Description of the content, see ``panoseg.app.uploads.Upload``."""
    created: Mapped[float]
    """Time of the upload."""


class ShareRow(Base):
    """A public link to the result of a job."""

    __tablename__ = "shares"
    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Token in the link; everyone who has it may read the result."""
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    """Id of the job."""
    created: Mapped[float]
    """Time of creation."""


class WorkerRow(Base):
    """A worker that lives or lived until recently."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Host, process id and a random part."""
    started: Mapped[float]
    """Time of its first sign of life."""
    seen: Mapped[float]
    """Time of its latest sign of life."""
    job: Mapped[str | None] = mapped_column(String(32))
    """Id of the job that it works on."""


class VersionRow(Base):
    """The version of the tables; the only row."""

    __tablename__ = "version"
    number: Mapped[int] = mapped_column(primary_key=True)
    """The version."""


class Database:
    """Connections to the tables; safe to use from many threads.

    Args:
        url: SQLAlchemy URL; missing tables are created.

    Raises:
        DatabaseUnavailableError: The database does not answer.
        AppError: The tables have another version.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        try:
            self._make_tables()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            shown = make_url(url).render_as_string(hide_password=True)
            raise DatabaseUnavailableError(
                f"The database {shown} cannot be used ({reason}). Start it, or change --database."
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a session whose changes are committed if the block succeeds, else rolled back."""
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
            take_lock(session, _SCHEMA_LOCK)
            Base.metadata.create_all(session.connection())
            found = session.scalar(select(VersionRow.number))
            if found is None:
                session.add(VersionRow(number=_VERSION))
            elif found != _VERSION:
                raise AppError(
                    f"The tables in the database have version {found}, but this panoseg needs"
                    f" version {_VERSION}. Use the panoseg that created them, or another database."
                )


def now(session: Session) -> float:
    """Return the seconds since 1970 by the clock that all workers share.

    That is the clock of PostgreSQL, or for SQLite that of this machine.
    """
    if session.get_bind().dialect.name == "postgresql":
        return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))))  # type: ignore[arg-type]
    return time.time()


def take_lock(session: Session, key: int) -> None:
    """Wait until no other transaction holds the lock ``key``, then hold it until this one ends.

    Nothing is to be done for SQLite, which runs one writing transaction at a time.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def user_lock_key(user: str) -> int:
    """Return a number below 2**24 for a user's name, the same in every process."""
    return int.from_bytes(user.encode()[-3:].rjust(3, b"\0"))


def row_count(session: Session, statement: Update) -> int:
    """Run an update and return how many rows it changed."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        require("postgres", "A PostgreSQL database")
        timeouts = {
            name: value
            for name, value in _POSTGRES_TIMEOUTS.items()
            if name not in make_url(url).query
        }
        return create_engine(
            url, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args=timeouts
        )
    name = make_url(url).database
    if name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, connect_args={"timeout": _SQLITE_TIMEOUT_MS / 1000}, pool_size=10, max_overflow=20
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # Python's own transactions begin too late to lock
        _use_wal(connection)
        for pragma in (
            "synchronous=NORMAL",
            f"busy_timeout={_SQLITE_TIMEOUT_MS}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails if another one wrote in between.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging.

    If several processes do so to a new file at once, SQLite ignores the timeout and fails in all
    but one of them; the others try again here.
    """
    end = time.monotonic() + _SQLITE_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)
