"""HDF5 files, which NetCDF 4 is, that lead out of themselves: refused before a number of them is
read.

A dataset may keep its numbers in any other file, raw; a link, or a virtual dataset, may name what
lies in other HDF5 files. In an upload these would be files of the server.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from panoseg.app.archives import check_archive, check_codecs, unpacked_parcels, zarr_root
from panoseg.app.confined import confined
from panoseg.app.database import Database, JobRow, UploadRow, now, one_at_a_time
from panoseg.app.jobs import hash_of
from panoseg.app.limits import AtATime
from panoseg.app.settings import AppSettings, Limits
from panoseg.errors import (
    AppError,
    AreaError,
    LimitError,
    NotFoundError,
    PanosegError,
    TooLargeError,
)
from panoseg.files import output_error

if TYPE_CHECKING:
    import h5py


SIGNATURE = b"\x89HDF\r\n\x1a\n"


def check_contained(path: Path) -> None:
    """Raise ``AppError`` for an HDF5 file that names others, or whose parts cannot be listed; other
    formats pass.
    """
    import h5py

    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return
    try:
        with h5py.File(path, "r") as root:
            leads_out = root.visititems_links(_other_file) or root.visititems(_numbers_elsewhere)
    except (OSError, RuntimeError, ValueError, KeyError, RecursionError) as error:
        raise AppError(
            "an upload whose parts cannot be listed", "a complete NetCDF file", "write it again"
        ) from error
    if leads_out:
        raise AppError(
            f"an upload whose {leads_out} names another file",
            "a NetCDF file on its own",
            "copy it with nccopy",
        )


def _other_file(name: str, link: h5py.HardLink | h5py.SoftLink | h5py.ExternalLink) -> str | None:
    import h5py

    return f"link {name[:80]!r}" if isinstance(link, h5py.ExternalLink) else None


def _numbers_elsewhere(name: str, part: h5py.Group | h5py.Dataset | h5py.Datatype) -> str | None:
    import h5py

    elsewhere = isinstance(part, h5py.Dataset) and (part.external or part.is_virtual)
    return f"variable {name[:80]!r}" if elsewhere else None


UploadKind = Literal["outline", "register", "cube", "photo", "codes"]
FORMATS = (
    "an outline or parcels (GeoJSON, GeoPackage, zipped Shapefile, KML, GeoParquet), a season"
    " (NetCDF, zipped Zarr), a picture, or a table of crop codes (CSV with the columns code and"
    " class)"
)
_MIB, _GIB = 1024**2, 1024**3
_LOCK_USER = 2_000_000_000
_PICTURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
_NETCDF = (b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05")
_LONGEST_NAME = 100
_AT_A_TIME, _AT_A_TIME_OF_ALL = 4, 24


@dataclass(frozen=True)
class Upload:
    """A file that a user has given.

    kind: outline (may also serve as a register), register, cube, photo, or codes of a register.
    name: as the user called it, for display alone.
    summary: what it holds, for people: km2 and notes of an outline, parcels of a register, width
    and height of a photo.
    """

    id: str
    kind: UploadKind
    owner: str
    name: str
    bytes: int
    summary: dict[str, Any]
    created: datetime


class Arrival:
    """A file that arrives in pieces."""

    def __init__(self, path: Path, file: BinaryIO, limits: Limits, room: int) -> None:
        self.path, self.size = path, 0
        self._file, self._limits, self._room = file, limits, room

    def write(self, piece: bytes) -> None:
        """Add a piece. Raises ``TooLargeError``, ``LimitError`` as soon as there are too many,
        ``OutputError``.
        """
        self.size += len(piece)
        if self.size > self._limits.upload_mib * _MIB:
            raise TooLargeError(
                f"an upload of more than {self._limits.upload_mib} MiB",
                "a smaller one",
                "reduce it",
            )
        if self.size > self._room:
            raise LimitError(
                "an upload for which you have no space left",
                "a smaller one",
                "delete jobs or uploads",
            )
        with _told(self.path.parent):
            self._file.write(piece)

    def end(self) -> None:
        """There are no more pieces. Raises ``AppError`` where there was none, ``OutputError``."""
        with _told(self.path.parent):
            self._file.close()
        if not self.size:
            raise AppError("an empty upload", FORMATS, "choose another file")


class Uploads:
    """All uploads."""

    def __init__(self, settings: AppSettings, database: Database) -> None:
        self.settings, self.database = settings, database
        self._arriving = AtATime("uploads", of_user=_AT_A_TIME, of_all=_AT_A_TIME_OF_ALL)

    def save(self, owner: str, name: str, pieces: Iterable[bytes]) -> Upload:
        """Keep a file that arrives in pieces; raises as ``arriving`` and ``keep``, and nothing is
        kept then.
        """
        with self.arriving(owner) as arrival:
            for piece in pieces:
                arrival.write(piece)
            return self.keep(owner, name, arrival)

    @contextmanager
    def arriving(self, owner: str) -> Iterator[Arrival]:
        """A file that begins to arrive; unless it is kept within the block, nothing of it stays.

        Raises ``LimitError`` for a user who has too many, or too many on their way; ``BusyError``,
        ``OutputError``.
        """
        with self._arriving.of(owner):
            with self.database.reading() as session:
                self._check_room(session, owner, 0)
                room = self._room(session, owner)
            path = self.settings.uploads_folder / f".{uuid.uuid4().hex}.part"
            with _told(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("wb")
            arrival = Arrival(path, file, self.settings.limits, room)
            try:
                yield arrival
            finally:
                file.close()
                arrival.path.unlink(missing_ok=True)

    def keep(self, owner: str, name: str, arrival: Arrival) -> Upload:
        """Keep what has arrived, if it is of some use. Raises ``AppError`` or what the reader of
        its format raises.
        """
        arrival.end()
        folder, id = self.settings.uploads_folder, uuid.uuid4().hex
        with _told(folder):
            suffix = suffix_of(arrival.path)
            arrival.path = arrival.path.replace(
                arrival.path.with_suffix(suffix)
            )  # readers want the right ending
            kind, summary = confined(inspect, arrival.path)
        with self.database.writing() as session:
            one_at_a_time(session, _LOCK_USER + hash_of(owner))
            self._check_room(
                session, owner, arrival.size
            )  # others of the same user may have arrived meanwhile
            row = UploadRow(
                id=id,
                owner=owner,
                name=clean_name(name),
                kind=kind,
                file=f"{id}{suffix}",
                summary=summary,
            )
            row.bytes, row.created = arrival.size, now(session)
            session.add(row)
            with _told(folder):
                os.replace(arrival.path, folder / row.file)
            return _view(row)

    def get(self, owner: str, id: str) -> Upload:
        """An upload of a user. Raises ``NotFoundError``, also for one of somebody else."""
        with self.database.reading() as session:
            return _view(_row(session.get(UploadRow, id), owner, id))

    def path(self, owner: str, id: str) -> Path:
        """Its file. Raises ``NotFoundError``."""
        with self.database.reading() as session:
            return self.settings.uploads_folder / _row(session.get(UploadRow, id), owner, id).file

    def of(self, owner: str) -> list[Upload]:
        """The uploads of a user, the newest first."""
        with self.database.reading() as session:
            rows = (
                select(UploadRow).where(UploadRow.owner == owner).order_by(UploadRow.created.desc())
            )
            return [_view(row) for row in session.scalars(rows)]

    def delete(self, owner: str, id: str) -> None:
        """Forget an upload; jobs that were given it have their own. Raises ``NotFoundError``."""
        path = self.path(owner, id)
        with self.database.writing() as session:
            session.execute(delete(UploadRow).where(UploadRow.id == id))
        path.unlink(missing_ok=True)

    def bytes_of(self, owner: str) -> int:
        """Disk space of the uploads and ended jobs of a user."""
        with self.database.reading() as session:
            return _bytes_of(session, owner)

    def expired(self, days: int) -> list[tuple[str, str]]:
        """Owner and id of uploads that are older than so many days."""
        with self.database.reading() as session:
            old = select(UploadRow.owner, UploadRow.id).where(
                UploadRow.created < now(session) - 86_400 * days
            )
            return [(str(owner), str(id)) for owner, id in session.execute(old)]

    def files(self) -> set[str]:
        """The names of the files that belong to uploads."""
        with self.database.reading() as session:
            return set(session.scalars(select(UploadRow.file)))

    def _check_room(self, session: Session, owner: str, size: int) -> None:
        count = int(
            session.scalar(
                select(func.count()).select_from(UploadRow).where(UploadRow.owner == owner)
            )
            or 0
        )
        if count >= self.settings.limits.uploads:
            raise LimitError(
                f"{count} uploads", f"at most {self.settings.limits.uploads} a user", "delete some"
            )
        if size > self._room(session, owner):
            raise LimitError(
                "an upload for which you have no space left",
                "a smaller one",
                "delete jobs or uploads",
            )

    def _room(self, session: Session, owner: str) -> int:
        return max(0, round(self.settings.limits.disk_gib * _GIB) - _bytes_of(session, owner))


def _bytes_of(session: Session, owner: str) -> int:
    """Disk space of the uploads and ended jobs of a user."""
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
def _told(folder: Path) -> Iterator[None]:
    """A disk that is full, or otherwise of no use, is told in a sentence. Raises
    ``OutputError``.
    """
    try:
        yield
    except OSError as error:
        raise output_error(folder, error) from error


def suffix_of(path: Path) -> str:
    """The ending of a file by its first bytes. Raises ``AppError`` for a format that is none of
    ours.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, suffix in _PICTURES.items():
        if head.startswith(mark):
            return suffix
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for found, suffix in (
        (head[:4] == b"RIFF" and head[8:12] == b"WEBP", ".webp"),
        (head.startswith(_NETCDF), ".nc"),
        (head.startswith(b"PK\x03\x04"), ".zip"),
        (head.startswith(b"SQLite format 3\0"), ".gpkg"),
        (head.startswith(b"PAR1"), ".parquet"),
        (text.startswith(b"{"), ".geojson"),
        (text.startswith(b"<") and b"<kml" in text, ".kml"),
        (
            {b"code", b"class"}
            <= {name.strip() for name in re.split(rb"[,;\t]", text.partition(b"\n")[0])},
            ".csv",
        ),
    ):
        if found:
            return suffix
    raise AppError("an upload of no known format", FORMATS, "choose another file")


def inspect(path: Path) -> tuple[UploadKind, dict[str, Any]]:
    """What a file is, by reading it. Raises ``PanosegError`` of several kinds."""
    if path.suffix in (".jpg", ".png", ".bmp", ".gif", ".tif", ".webp"):
        return "photo", _photo(path)
    if path.suffix == ".nc":
        return "cube", _cube(path)
    if path.suffix == ".csv":
        return "codes", _codes(path)
    if path.suffix == ".zip":
        entries = check_archive(path)
        if zarr_root(entries) is not None:
            check_codecs(path, entries)
            return "cube", {"format": "Zarr"}
    if path.suffix != ".parquet":
        try:
            return "outline", _outline(path)
        except AreaError as error:
            if path.suffix == ".kml":
                raise _about_upload(error, path) from error
            return "register", _register(path, error)
    return "register", _register(path, None)


def _codes(path: Path) -> dict[str, Any]:
    from panoseg.register.parcels import read_rows

    try:
        count = len(read_rows(path))
    except PanosegError as error:
        raise _about_upload(error, path) from error
    if not count:
        raise AppError("a table of crop codes without a line", "one a code", "add them")
    return {"codes": count}


def _photo(path: Path) -> dict[str, Any]:
    from panoseg.data.photograph_files import decode_photograph, read_bytes

    image = decode_photograph(read_bytes(path), "the picture")
    return {"width": image.width, "height": image.height}


def _cube(path: Path) -> dict[str, Any]:
    from panoseg.cube.check import check_cube
    from panoseg.cube.open import open_cube, reading
    from panoseg.imagery.bands import PASTIS_BANDS

    check_contained(path)
    try:
        with reading(path):
            cube = check_cube(open_cube(path), PASTIS_BANDS)
    except PanosegError as error:
        raise _about_upload(error, path) from error
    days = cube["time"].values.astype("datetime64[D]").astype(str)
    return {
        "format": "NetCDF",
        "dates": len(days),
        "first": days[0],
        "last": days[-1],
        "km2": _cube_km2(cube),
    }


def _cube_km2(cube: Any) -> float:
    from panoseg.cube.check import PIXEL_M

    return float(cube.sizes["y"] * cube.sizes["x"] * PIXEL_M**2 / 1e6)


def _outline(path: Path) -> dict[str, Any]:
    from shapely.geometry import mapping

    from panoseg.imagery.area import read_area

    area = read_area(path)
    return {
        "km2": area.km2,
        "bounds": list(area.outline.bounds),
        "notes": list(area.notes),
        "outline": _drawn(mapping, area.outline),
    }


def _drawn(mapping: Any, outline: Any) -> dict[str, Any]:
    """An outline as GeoJSON for a map, with no more corners than a browser draws at ease."""
    from shapely import get_num_coordinates

    tolerance = 0.0001
    while get_num_coordinates(outline) > 5000:
        outline, tolerance = outline.simplify(tolerance), tolerance * 4
    return dict(mapping(outline))


def _register(path: Path, earlier: PanosegError | None) -> dict[str, Any]:
    from panoseg.maps.read_parcels import left_out_notes, read_parcels

    try:
        with unpacked_parcels(path) as file:
            parcels = read_parcels(file)
    except PanosegError as error:
        raise _about_upload(earlier or error, path) from error
    if not len(parcels):
        raise _about_upload(
            earlier or AppError("an upload without parcels", FORMATS, "choose another file"), path
        )
    columns = [
        str(name)[:_LONGEST_NAME]
        for name in parcels.columns
        if name != parcels.active_geometry_name
    ]
    notes = [_without_path(note, file, path) for note in left_out_notes(parcels)]
    return {"parcels": len(parcels), "columns": columns[:100], "notes": notes}


def _about_upload(error: PanosegError, path: Path) -> PanosegError:
    """The same without the path, which is ours."""
    return AppError(_without_path(error.found, path), error.expected, error.fix)


def _without_path(text: str, *paths: Path) -> str:
    for path in paths:
        for name in (str(path.absolute()), str(path), path.name, path.stem):
            text = text.replace(name, "the upload")
    return text


def clean_name(name: str) -> str:
    """A file's name for display: its last part, without what is not printed."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:_LONGEST_NAME] or "upload"


def _row(row: UploadRow | None, owner: str, id: str) -> UploadRow:
    if row is None or row.owner != owner:
        raise NotFoundError(f"upload {id}", "an upload of yours", "upload it again")
    return row


def _view(row: UploadRow) -> Upload:
    created = datetime.fromtimestamp(row.created, UTC)
    return Upload(
        row.id, cast(UploadKind, row.kind), row.owner, row.name, row.bytes, row.summary, created
    )
