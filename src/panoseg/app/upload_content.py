"""Content of uploads: identified by their first bytes, checked and summarised by reading them.

HDF5 files (which NetCDF 4 files are) that refer to other files are refused, because these would be
files of the server. ``inspect`` and ``inspect_season`` are called in a process of bounded memory
and time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from panoseg.app.archives import check_archive, check_codecs, zarr_root
from panoseg.app.requests import in_field_words, names_field
from panoseg.cube import ReadOptions
from panoseg.errors import AppError, AreaError, PanosegError
from panoseg.imagery.outlines import WKT_START
from panoseg.text_files import decode, table_of

if TYPE_CHECKING:
    import h5py

    from panoseg.maps.inspect import Inspection

UploadKind = Literal["outline", "register", "cube", "photo", "codes"]
FORMATS = (
    "an outline or parcels (GeoJSON, GeoPackage, zipped Shapefile or FileGDB, KML, GML, FlatGeobuf,"
    " GeoParquet, WKT), a season"
    " (NetCDF, zipped Zarr), a photograph, or a table of crop codes (CSV with the columns code and"
    " class)"
)
"""What can be uploaded, for messages."""
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_IMAGE_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
_MARKS = {
    **dict.fromkeys((_HDF5_SIGNATURE, b"CDF\x01", b"CDF\x02", b"CDF\x05"), ".nc"),
    b"PK\x03\x04": ".zip",
    b"\x1f\x8b": ".gz",
    b"SQLite format 3\0": ".gpkg",
    b"PAR1": ".parquet",
    b"fgb\x03": ".fgb",
}
_MAX_COLUMN_LENGTH = 100
_MAX_DRAWN_POINTS = 5000
_MAX_DAYS, _MAX_LINES, _MAX_TEXT = 1000, 40, 800
_FEWEST_DATES = 2
_THREADS = 2  # each takes address space, which is bounded


def suffix_of(path: Path) -> str:
    """Return the suffix of a file by its first bytes, or raise ``AppError`` for other formats."""
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, suffix in _IMAGE_SUFFIXES.items():
        if head.startswith(mark):
            return suffix
    for mark, suffix in _MARKS.items():
        if head.startswith(mark):
            return suffix
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    try:
        text = decode(head[: head.rfind(b"\n") + 1] or head).text.lstrip("\x1e\ufeff \t\r\n")
    except ValueError:
        text = ""
    names = {name.strip(" '\"").casefold() for name in _first_line(text)}
    for found, suffix in (
        (text.startswith(("{", "[")), ".geojson"),
        (text.startswith("<") and "<kml" in text, ".kml"),
        (text.startswith("<") and "opengis.net/gml" in text, ".gml"),
        (WKT_START.match(text), ".wkt"),
        ({"code", "class"} <= names, ".csv"),
    ):
        if found:
            return suffix
    raise AppError(f"The format of the upload is unknown. It must be {FORMATS}.")


def _first_line(text: str) -> list[str]:
    """Return the names of the columns of a table; none where the text is no table."""
    try:
        return list(table_of(text).columns)
    except ValueError:
        return []


def inspect(path: Path) -> tuple[UploadKind, dict[str, Any]]:
    """Read a file and return what it is and a summary.

    Raises:
        PanosegError: The file is damaged or not acceptable.
    """
    if path.suffix in (".jpg", ".png", ".bmp", ".gif", ".tif", ".webp"):
        return "photo", _photo(path)
    if path.suffix == ".nc":
        return "cube", _season(path, ReadOptions(), kept=False)
    if path.suffix == ".csv":
        return "codes", _codes(path)
    if path.suffix == ".zip" and zarr_root(check_archive(path)) is not None:
        return "cube", _season(path, ReadOptions(), kept=False)
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
        table, notes = read_rows(path)
    except PanosegError as error:
        raise _about_upload(error, path) from error
    if not table.rows:
        raise AppError("The table of crop codes has no rows; add one row per code.")
    return {"codes": len(table.rows), "notes": [_without_path(note, path) for note in notes]}


def _photo(path: Path) -> dict[str, Any]:
    from panoseg.data.photograph_files import decode_photograph, read_bytes

    image = decode_photograph(read_bytes(path), "The upload")
    return {"width": image.width, "height": image.height}


def inspect_season(path: Path, options: ReadOptions) -> dict[str, Any]:
    """Read an uploaded season again, with what its file does not say, and return its summary.

    If it cannot be read, the summary says why.
    """
    return _season(path, options, kept=True)


def _season(path: Path, options: ReadOptions, *, kept: bool) -> dict[str, Any]:
    """Return the summary of a season.

    Args:
        path: The file.
        options: What the file does not say.
        kept: Whether every problem is part of the summary; if not, one that no option solves is
            raised.
    """
    import dask

    from panoseg.maps.inspect import describe_unusable, inspect_cube

    zipped = path.suffix == ".zip"
    if zipped:
        check_codecs(path, check_archive(path))
    else:
        check_contained(path)
    summary: dict[str, Any] = {
        "format": "Zarr" if zipped else "NetCDF",
        "problem": None,
        "rows": [],
        "warnings": [],
        "days": [],
        "content": [],
        "read": options.to_json(),
    }
    with dask.config.set(num_workers=_THREADS):
        try:
            found = inspect_cube(path, options).inspection
        except PanosegError as error:
            refused = _about_upload(error, path)
            if not kept and not names_field(str(refused)):
                raise refused from error
            summary["problem"] = _shown(str(refused), path)
            summary["content"] = [_shown(line, path) for line in describe_unusable(path)]
            return summary
    return summary | _understood(found, path)


def _understood(found: Inspection, path: Path) -> dict[str, Any]:
    """Return how a season is understood, as JSON."""
    used = sum(day.used for day in found.dates)
    problem, warnings = None, found.warnings
    if used < _FEWEST_DATES:
        problem = (
            f"Only {used} of the {len(found.dates)} dates can be used, and a map needs at least"
            " two: choose other days, or upload a longer season."
        )
        warnings = tuple(text for text in warnings if not text.startswith("Only "))
    return {
        "problem": problem,
        "dates": len(found.dates),
        "used": used,
        "first": found.dates[0].date,
        "last": found.dates[-1].date,
        "km2": float(found.height * found.width * found.pixel_m**2 / 1e6),
        "rows": [[label, _shown(text, path)] for label, text in found.rows()],
        "warnings": [_shown(text, path) for text in warnings[:_MAX_LINES]],
        "days": [
            {
                "date": day.date,
                "used": day.used,
                "reason": _shown(day.reason, path),
                "clear": None if day.clear is None or math.isnan(day.clear) else day.clear,
            }
            for day in found.dates[:_MAX_DAYS]
        ],
    }


def _shown(text: str, path: Path) -> str:
    """Return a text of bounded length for a page and the database."""
    words = in_field_words(_without_path(text, path))
    return "".join(letter if letter.isprintable() else " " for letter in words)[:_MAX_TEXT]


def _outline(path: Path) -> dict[str, Any]:
    from shapely import get_num_coordinates
    from shapely.geometry import mapping

    from panoseg.imagery.area import read_area

    area = read_area(path)
    # The outline is drawn on the pages; more points than this would slow down browsers.
    drawn, tolerance = area.outline, 0.0001
    while get_num_coordinates(drawn) > _MAX_DRAWN_POINTS:
        drawn, tolerance = drawn.simplify(tolerance), tolerance * 4
    return {
        "km2": area.km2,
        "bounds": list(area.outline.bounds),
        "notes": list(area.notes),
        "outline": dict(mapping(drawn)),
    }


def _register(path: Path, outline_error: PanosegError | None) -> dict[str, Any]:
    """Return the summary of a register.

    Args:
        path: The file.
        outline_error: Why the file is not an outline; it says more than why it is not a register.
    """
    from panoseg.maps.read_parcels import left_out_notes, read_parcels

    try:
        # Beside the upload: if this process is ended, the server tidies that folder.
        parcels = read_parcels(path, scratch=path.parent)
    except PanosegError as error:
        raise _about_upload(outline_error or error, path) from error
    if not len(parcels):
        empty = AppError("The upload has no parcels; choose another file.")
        raise _about_upload(outline_error or empty, path)
    columns = [
        str(name)[:_MAX_COLUMN_LENGTH]
        for name in parcels.columns
        if name != parcels.active_geometry_name
    ]
    notes = [_without_path(note, path) for note in left_out_notes(parcels)]
    return {"parcels": len(parcels), "columns": columns[:100], "notes": notes}


def _about_upload(error: PanosegError, path: Path) -> AppError:
    """Return the same error without the path of the file on the server."""
    text = _without_path(str(error), path)
    return AppError(text[:1].upper() + text[1:])


def _without_path(text: str, *paths: Path) -> str:
    for path in paths:
        for name in (str(path.absolute()), str(path), path.name, path.stem):
            text = text.replace(name, "the upload")
    return text


def check_contained(path: Path) -> None:
    """Raise ``AppError`` for an HDF5 file that refers to other files; other formats pass.

    A dataset may keep its values in any other file, and a link or a virtual dataset may refer to
    other HDF5 files.
    """
    import h5py

    with path.open("rb") as file:
        if file.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
            return
    try:
        with h5py.File(path, "r") as root:
            reference = root.visititems_links(_external_link) or root.visititems(_external_data)
    except (OSError, RuntimeError, ValueError, KeyError, RecursionError) as error:
        raise AppError("The upload is not a complete NetCDF file; write it again.") from error
    if reference:
        raise AppError(
            f"In the upload the {reference} refers to another file; copy it with nccopy, so that"
            " everything is in one file."
        )


def _external_link(
    name: str, link: h5py.HardLink | h5py.SoftLink | h5py.ExternalLink
) -> str | None:
    import h5py

    return f"link {name[:80]!r}" if isinstance(link, h5py.ExternalLink) else None


def _external_data(name: str, part: h5py.Group | h5py.Dataset | h5py.Datatype) -> str | None:
    import h5py

    is_external = isinstance(part, h5py.Dataset) and (part.external or part.is_virtual)
    return f"variable {name[:80]!r}" if is_external else None
