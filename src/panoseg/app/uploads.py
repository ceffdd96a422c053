"""Uploads of users: received in chunks, checked, kept, and counted against the user's limits.

What a file is, ``panoseg.app.upload_content`` finds out, in a process of bounded memory and time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from panoseg.app.confined import UPLOAD, run_confined
from panoseg.app.database import (
    Database,
    JobRow,
    UploadRow,
    now,
    take_lock,
    user_lock_key,
)
from panoseg.app.limits import ConcurrencyLimit
from panoseg.app.requests import ReadChoices, parse_read
from panoseg.app.settings import AppSettings, Limits
from panoseg.app.upload_content import UploadKind, inspect, inspect_season, suffix_of
from panoseg.errors import (
    AppError,
    LimitError,
    NotFoundError,
    TooLargeError,
)
from panoseg.files import output_error
from panoseg.platforms import move

_MIB, _GIB = 1024**2, 1024**3
_UPLOAD_LOCKS = 2_000_000_000  # first of the locks of users that add uploads
_MAX_NAME_LENGTH = 100


_NO_SPACE = "You have no disk space left for this upload; delete jobs or uploads."


@dataclass(frozen=True)
class Upload:
    """A file that a user has uploaded."""

    id: str
    """32 hexadecimal digits."""
    kind: UploadKind
    """What the file is; an outline may also serve as a register, codes are those of a register."""
    owner: str
    """Name of the user."""
    name: str
    """Name that the user gave the file, for display only."""
    bytes: int
    """Size of the file."""
    summary: dict[str, Any]
    """Description of the content: km2 and notes of an outline, parcels of a register, width and
    height of a photo, how a season is understood or why it is not, and so on.
    """
    created: datetime
    """Time of the upload in UTC."""


class IncomingUpload:
    """A file that is being received.

    Args:
        path: Temporary path of the file.
        file: The open file.
        limits: Limits for the user.
        free_bytes: Disk space that the user has left.
    """

    def __init__(self, path: Path, file: BinaryIO, limits: Limits, free_bytes: int) -> None:
        self.path, self.size = path, 0
        self._file, self._limits, self._free_bytes = file, limits, free_bytes

    def write(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            TooLargeError: The file has become too large.
            LimitError: The user's disk space is used up.
            OutputError: The file cannot be written.
        """
        self.size += len(chunk)
        if self.size > self._limits.upload_mib * _MIB:
            raise TooLargeError(
                f"The upload has more than {self._limits.upload_mib} MiB; upload a smaller file."
            )
        if self.size > self._free_bytes:
            raise LimitError(_NO_SPACE)
        with _output_errors(self.path.parent):
            self._file.write(chunk)

    def end(self) -> None:
        """Close the file, or raise ``AppError`` if it is empty."""
        with _output_errors(self.path.parent):
            self._file.close()
        if not self.size:
            raise AppError("The uploaded file is empty; choose another file.")


class Uploads:
    """All uploads.

    Args:
        settings: The settings of the server.
        database: The database.
    """

    def __init__(self, settings: AppSettings, database: Database) -> None:
        self.settings, self.database = settings, database
        self._receiving = ConcurrencyLimit("uploads", per_user=4, total=24)
        self._checking = ConcurrencyLimit("checks of seasons", per_user=2, total=8)

    def save(self, owner: str, name: str, chunks: Iterable[bytes]) -> Upload:
        """Save an upload that arrives in chunks; raises as ``receiving`` and ``keep``."""
        with self.receiving(owner) as upload:
            for chunk in chunks:
                upload.write(chunk)
            return self.keep(owner, name, upload)

    @contextmanager
    def receiving(self, owner: str) -> Iterator[IncomingUpload]:
        """Begin to receive a file; it is removed at the end unless it was kept within the block.

        Raises:
            LimitError: The user has too many uploads, or too many in progress.
            BusyError: All users together have too many in progress.
            OutputError: The file cannot be written.
        """
        with self._receiving.slot(owner):
            with self.database.reading() as session:
                self._check_space(session, owner, 0)
                free_bytes = self._free_bytes(session, owner)
            path = self.settings.uploads_folder / f".{uuid.uuid4().hex}.part"
            with _output_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("wb")
            upload = IncomingUpload(path, file, self.settings.limits, free_bytes)
            try:
                yield upload
            finally:
                file.close()
                upload.path.unlink(missing_ok=True)

    def keep(self, owner: str, name: str, upload: IncomingUpload) -> Upload:
        """Keep a file that was received, if its content is acceptable.

        Raises:
            AppError: The format is unknown, or the content is not valid.
            PanosegError: The reader of the format refuses the file.
        """
        upload.end()
        folder, id = self.settings.uploads_folder, uuid.uuid4().hex
        with _output_errors(folder):
            suffix = suffix_of(upload.path)
            # Readers choose the format by the suffix.
            upload.path = upload.path.replace(upload.path.with_suffix(suffix))
            kind, summary = run_confined(UPLOAD.of(owner), inspect, upload.path)
        with self.database.writing() as session:
            take_lock(session, _UPLOAD_LOCKS + user_lock_key(owner))
            # Checked again: other uploads of the user may have been stored in the meantime.
            self._check_space(session, owner, upload.size)
            row = UploadRow(
                id=id,
                owner=owner,
                name=clean_name(name),
                kind=kind,
                file=f"{id}{suffix}",
                summary=summary,
            )
            row.bytes, row.created = upload.size, now(session)
            session.add(row)
            with _output_errors(folder):
                move(upload.path, folder / row.file)
            return _view(row)

    def check_season(self, owner: str, id: str, read: ReadChoices | dict[str, Any]) -> Upload:
        """Read an uploaded season again, with what its file does not say.

        Raises:
            NotFoundError: There is no such upload, or it belongs to somebody else.
            AppError: The upload is no season, or a field is not understood.
            LimitError: The user has too many checks in progress.
            BusyError: All users together have too many in progress.
        """
        upload, path = self.get(owner, id), self.path(owner, id)
        if upload.kind != "cube":
            raise AppError(f"The upload is of the kind {upload.kind}; only a season is checked.")
        options = parse_read(read).options()
        with self._checking.slot(owner):
            if not path.is_file():
                raise NotFoundError("The uploaded file is gone; upload it again.")
            summary = run_confined(UPLOAD.of(owner), inspect_season, path, options)
        with self.database.writing() as session:
            row = _row(session.get(UploadRow, id), owner, id)
            row.summary = summary
            return _view(row)

    def get(self, owner: str, id: str) -> Upload:
        """Return an upload; ``NotFoundError`` also if it belongs to somebody else."""
        with self.database.reading() as session:
            return _view(_row(session.get(UploadRow, id), owner, id))

    def path(self, owner: str, id: str) -> Path:
        """Return the path of an upload, or raise ``NotFoundError``."""
        with self.database.reading() as session:
            return self.settings.uploads_folder / _row(session.get(UploadRow, id), owner, id).file

    def of(self, owner: str) -> list[Upload]:
        """Return the uploads of a user, newest first."""
        with self.database.reading() as session:
            rows = (
                select(UploadRow).where(UploadRow.owner == owner).order_by(UploadRow.created.desc())
            )
            return [_view(row) for row in session.scalars(rows)]

    def delete(self, owner: str, id: str) -> None:
        """Delete an upload; jobs that use it have their own copies."""
        path = self.path(owner, id)
        with self.database.writing() as session:
            session.execute(delete(UploadRow).where(UploadRow.id == id))
        path.unlink(missing_ok=True)

    def bytes_of(self, owner: str) -> int:
        """Return the disk space of the uploads and ended jobs of a user."""
        with self.database.reading() as session:
            return _bytes_of(session, owner)

    def expired(self, days: int) -> list[tuple[str, str]]:
        """Return owner and id of uploads that are older than ``days`` days."""
        with self.database.reading() as session:
            old = select(UploadRow.owner, UploadRow.id).where(
                UploadRow.created < now(session) - 86_400 * days
            )
            return [(str(owner), str(id)) for owner, id in session.execute(old)]

    def files(self) -> set[str]:
        """Return the names of the files of all uploads."""
        with self.database.reading() as session:
            return set(session.scalars(select(UploadRow.file)))

    def _check_space(self, session: Session, owner: str, size: int) -> None:
        count = int(
            session.scalar(
                select(func.count()).select_from(UploadRow).where(UploadRow.owner == owner)
            )
            or 0
        )
        if count >= self.settings.limits.uploads:
            raise LimitError(
                f"You have {count} uploads, of at most {self.settings.limits.uploads}; delete some."
            )
        if size > self._free_bytes(session, owner):
            raise LimitError(_NO_SPACE)

    def _free_bytes(self, session: Session, owner: str) -> int:
        return max(0, round(self.settings.limits.disk_gib * _GIB) - _bytes_of(session, owner))


def _bytes_of(session: Session, owner: str) -> int:
    return sum(
        int(
            session.scalar(
                select(func.coalesce(func.sum(table.bytes), 0)).where(table.owner == owner)
            )
            or 0
        )
        for table in (UploadRow, JobRow)
    )


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    """Turn an ``OSError``, such as of a full disk, into an ``OutputError``."""
    try:
        yield
    except OSError as error:
        raise output_error(folder, error) from error


def clean_name(name: str) -> str:
    """Return the last part of a file's name, without characters that cannot be printed."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:_MAX_NAME_LENGTH] or "upload"


def _row(row: UploadRow | None, owner: str, id: str) -> UploadRow:
    if row is None or row.owner != owner:
        raise NotFoundError(f"There is no upload {id}; upload the file again.")
    return row


def _view(row: UploadRow) -> Upload:
    created = datetime.fromtimestamp(row.created, UTC)
    return Upload(
        row.id, cast(UploadKind, row.kind), row.owner, row.name, row.bytes, row.summary, created
    )
