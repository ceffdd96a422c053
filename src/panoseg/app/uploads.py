"""Uploads: known by their bytes, never by their names; bounded in size; kept under names of our own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import delete, func, select

from panoseg.app.archives import check_archive, check_codecs, unpacked_parcels, zarr_root
from panoseg.app.confined import confined
from panoseg.app.database import Database, UploadRow, now
from panoseg.app.hdf5_check import check_contained
from panoseg.app.settings import AppSettings
from panoseg.errors import AppError, AreaError, LimitError, NotFoundError, PanosegError, TooLargeError
from panoseg.files import output_error

UploadKind = Literal["outline", "register", "cube", "photo"]
FORMATS = (
    "an outline or parcels (GeoJSON, GeoPackage, zipped Shapefile, KML, GeoParquet), a season (NetCDF, zipped Zarr), a picture"
)
_MIB = 1024**2
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


@dataclass(frozen=True)
class Upload:
    """A file that a user has given.

    kind: outline (may also serve as a register), register, cube or photo. name: as the user called it, for display alone.
    summary: what it holds, for people: km2 and notes of an outline, parcels of a register, width and height of a photo.
    """

    id: str
    kind: UploadKind
    owner: str
    name: str
    bytes: int
    summary: dict[str, Any]
    created: datetime


class Uploads:
    """All uploads."""

    def __init__(self, settings: AppSettings, database: Database) -> None:
        self.settings, self.database = settings, database

    def save(self, owner: str, name: str, chunks: Iterable[bytes], allowed: int) -> Upload:
        """Keep a file that arrives in pieces, once it is known to be of some use. allowed: bytes that the user has left.

        Raises ``TooLargeError``, ``LimitError``, ``AppError`` or what the reader of its format raises; nothing is kept then.
        """
        self._check_count(owner)
        folder, id = self.settings.uploads_folder, uuid.uuid4().hex
        part = folder / f".{id}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            size = _receive(part, chunks, self.settings.limits.upload_mib * _MIB, allowed)
            suffix = suffix_of(part)
            known = part.with_suffix(suffix)  # readers want the right ending
            os.replace(part, known)
            part = known
            kind, summary = confined(inspect, known)
            os.replace(known, folder / f"{id}{suffix}")
        except OSError as error:
            raise output_error(folder, error) from error
        finally:
            part.unlink(missing_ok=True)
        with self.database.writing() as session:
            row = UploadRow(
                id=id, owner=owner, name=clean_name(name), kind=kind, file=f"{id}{suffix}", bytes=size, summary=summary
            )
            row.created = now(session)
            session.add(row)
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
            rows = select(UploadRow).where(UploadRow.owner == owner).order_by(UploadRow.created.desc())
            return [_view(row) for row in session.scalars(rows)]

    def delete(self, owner: str, id: str) -> None:
        """Forget an upload; jobs that were given it have their own. Raises ``NotFoundError``."""
        path = self.path(owner, id)
        with self.database.writing() as session:
            session.execute(delete(UploadRow).where(UploadRow.id == id))
        path.unlink(missing_ok=True)

    def bytes_of(self, owner: str) -> int:
        """Disk space of a user's uploads."""
        with self.database.reading() as session:
            return int(session.scalar(select(func.coalesce(func.sum(UploadRow.bytes), 0)).where(UploadRow.owner == owner)) or 0)

    def expired(self, days: int) -> list[tuple[str, str]]:
        """Owner and id of uploads that are older than so many days."""
        with self.database.reading() as session:
            old = select(UploadRow.owner, UploadRow.id).where(UploadRow.created < now(session) - 86_400 * days)
            return [(str(owner), str(id)) for owner, id in session.execute(old)]

    def files(self) -> set[str]:
        """The names of the files that belong to uploads."""
        with self.database.reading() as session:
            return set(session.scalars(select(UploadRow.file)))

    def _check_count(self, owner: str) -> None:
        with self.database.reading() as session:
            count = int(session.scalar(select(func.count()).select_from(UploadRow).where(UploadRow.owner == owner)) or 0)
        if count >= self.settings.limits.uploads:
            raise LimitError(f"{count} uploads", f"at most {self.settings.limits.uploads} a user", "delete some")


def _receive(path: Path, chunks: Iterable[bytes], largest: int, allowed: int) -> int:
    """Write pieces to a file; returns its size. Raises as soon as there are too many."""
    size = 0
    with path.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > largest:
                raise TooLargeError(f"an upload of more than {largest // _MIB} MiB", "a smaller one", "reduce it")
            if size > allowed:
                raise LimitError("an upload for which you have no space left", "a smaller one", "delete jobs or uploads")
            file.write(chunk)
    if not size:
        raise AppError("an empty upload", FORMATS, "choose another file")
    return size


def suffix_of(path: Path) -> str:
    """The ending of a file by its first bytes. Raises ``AppError`` for a format that is none of ours."""
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


def _photo(path: Path) -> dict[str, Any]:
    from panoseg.data.photograph_files import decode_photograph, read_bytes

    image = decode_photograph(read_bytes(path), "the picture")
    return {"width": image.width, "height": image.height}


def _cube(path: Path) -> dict[str, Any]:
    from panoseg.cube.check import check_cube
    from panoseg.cube.open import open_cube, reading
    from panoseg.data.bands import PASTIS_BANDS

    check_contained(path)
    try:
        with reading(path):
            cube = check_cube(open_cube(path), PASTIS_BANDS)
    except PanosegError as error:
        raise _about_upload(error, path) from error
    days = cube["time"].values.astype("datetime64[D]").astype(str)
    return {"format": "NetCDF", "dates": len(days), "first": days[0], "last": days[-1], "km2": _cube_km2(cube)}


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
        raise _about_upload(earlier or AppError("an upload without parcels", FORMATS, "choose another file"), path)
    columns = [str(name) for name in parcels.columns if name != parcels.active_geometry_name]
    return {"parcels": len(parcels), "columns": columns[:100], "notes": list(left_out_notes(parcels))}


def _about_upload(error: PanosegError, path: Path) -> PanosegError:
    """The same without the path, which is ours."""
    found = error.found
    for name in (str(path.absolute()), str(path), path.name, path.stem):
        found = found.replace(name, "the upload")
    return AppError(found, error.expected, error.fix)


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
    return Upload(row.id, cast(UploadKind, row.kind), row.owner, row.name, row.bytes, row.summary, created)
