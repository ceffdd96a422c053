"""Files of outlines that anybody drew -> geometries and coordinate system: GeoJSON, GeoPackage,
Shapefile, KML, zipped or not.

Each is known by its first bytes and read by one reader; GDAL sees only SQLite and Shapefiles, whose
bytes cannot stand for other files. Sizes are bounded, XML with entities and archives that climb out
of their folder are refused.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyogrio
import shapely
from pyproj import CRS
from shapely.geometry import Polygon, shape
from shapely.geometry.base import BaseGeometry

from panoseg.errors import AreaError

FORMATS = "GeoJSON, GeoPackage, a zipped Shapefile or KML"
WGS84 = CRS.from_epsg(4326)
_LARGEST_BYTES = 64 * 1024**2
_SIDECARS = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_OUTLINES = (".shp", ".gpkg", ".geojson", ".json", ".kml")
_REFERENCES = (b"<OGR", b"<VRT", b"<GDAL")
_HEAD_BYTES = 4096


def read_outlines(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """All geometries of a file of any kind, as they are written, and the coordinate system that it
    states; None: none.

    Raises ``AreaError`` for files that are missing, too large, damaged, of another format, or
    dangerous.
    """
    if not path.is_file():
        raise AreaError(f"{path} is not a file", FORMATS, "check the path")
    if path.stat().st_size > _LARGEST_BYTES:
        raise AreaError(
            f"{path} has {path.stat().st_size / 1024**2:,.0f} MiB",
            f"an outline of at most {_LARGEST_BYTES >> 20} MiB",
            "simplify it",
        )
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # what matters of them is said by the checks that follow
            return _read(path)
    except AreaError:
        raise
    except Exception as error:  # every reader of outside files raises what it likes
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].split(";")[0]
        raise AreaError(f"{path} cannot be read ({text})", FORMATS, "write it again") from error


def _read(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    if head.startswith((b"SQLite format 3\0", b"\0\0\x27\x0a")) and not any(
        mark in head for mark in _REFERENCES
    ):
        return _table(path)
    if text.startswith(b"{"):
        return _geojson(path)
    if text.startswith(b"<"):
        return _kml(path), WGS84
    raise AreaError(f"{path} is of no known format", FORMATS, "write it as one of them")


def _table(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """A GeoPackage with one layer, or a Shapefile."""
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) != 1:
        names = f" ({', '.join(layers[:3])}{', ..' if len(layers) > 3 else ''})" if layers else ""
        raise AreaError(
            f"{path} has {len(layers)} layers{names}",
            "one with the outline",
            "write the outline into its own file",
        )
    meta, _, geometry, _ = pyogrio.raw.read(path, layer=layers[0], columns=[], force_2d=True)
    return list(shapely.from_wkb(geometry)), CRS.from_user_input(meta["crs"]) if meta[
        "crs"
    ] else None


def _geojson(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    named = (value.get("crs") or {}).get("properties", {}).get("name")  # of GeoJSON before RFC 7946
    return [shape(geometry) for geometry in _geometries(value)], CRS.from_user_input(
        named
    ) if named else WGS84


def _geometries(value: dict) -> Iterator[dict]:
    if value.get("type") == "FeatureCollection":
        for feature in value["features"]:
            yield from _geometries(feature)
    elif value.get("type") == "Feature":
        if value.get("geometry"):
            yield value["geometry"]
    elif "coordinates" in value or "geometries" in value:
        yield value
    else:
        raise ValueError(f"type {value.get('type')!r}")


def _kml(path: Path) -> list[BaseGeometry]:
    """The polygons of a KML; its points and lines too, so that a message can say what it holds."""
    content = path.read_bytes()
    if (
        b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content
    ):  # NUL: another encoding could hide them
        raise AreaError(f"{path} declares XML entities", "plain KML", "write it again without them")
    root = ElementTree.fromstring(content)
    if _tag(root) != "kml":
        raise AreaError(
            f"{path} is XML of the kind {_tag(root)[:20]!r}", FORMATS, "write it as one of them"
        )
    found: list[BaseGeometry] = []
    for element in root.iter():
        if _tag(element) == "Polygon":
            shells, holes = _rings(element, "outerBoundaryIs"), _rings(element, "innerBoundaryIs")
            if len(shells) > 1:
                raise ValueError("a polygon with two outer boundaries")
            found.append(Polygon(shells[0], holes) if shells else Polygon())
        elif _tag(element) in ("Point", "LineString"):
            found.append(
                shapely.linestrings([(0, 0), (0, 0)])
                if _tag(element) == "LineString"
                else shapely.Point(0, 0)
            )
    return found


def _tag(element: ElementTree.Element) -> str:
    """The name of an element without its namespace."""
    return str(element.tag).rsplit("}", 1)[-1]


def _rings(polygon: ElementTree.Element, boundary: str) -> list[np.ndarray]:
    """The rings of the boundaries of that name, N x 2, in whatever order a polygon has its
    boundaries.
    """
    texts = [
        element.text or ""
        for child in polygon
        if _tag(child) == boundary
        for element in child.iter()
        if _tag(element) == "coordinates"
    ]
    return [
        np.array([[float(number) for number in place.split(",")[:2]] for place in text.split()])
        for text in texts
    ]


def _zipped(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """The one outline in an archive."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        entries = [
            entry
            for entry in archive.infolist()
            if PurePosixPath(entry.filename).suffix.lower() in (*_SIDECARS, *_OUTLINES)
        ]
        outlines = [
            entry for entry in entries if PurePosixPath(entry.filename).suffix.lower() in _OUTLINES
        ]
        _check_entries(path, entries)
        if len(outlines) != 1:
            raise AreaError(
                f"{path} holds {len(outlines)} outlines",
                "one",
                "write the outline into its own archive",
            )
        stem = PurePosixPath(outlines[0].filename).with_suffix("")
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if name.with_suffix("") == stem:
                # Under a name of our own: what an archive calls its files is never a path here.
                with (
                    archive.open(entry) as source,
                    (Path(folder) / f"outline{name.suffix.lower()}").open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
        return _unpacked(
            Path(folder) / f"outline{PurePosixPath(outlines[0].filename).suffix.lower()}", path
        )


def _unpacked(outline: Path, archive: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """The outline that an archive held; errors name the archive."""
    try:
        if zipfile.is_zipfile(outline):
            raise AreaError(f"{outline} is an archive in an archive", FORMATS, "unpack it")
        return _read(outline)
    except AreaError as error:
        raise AreaError(
            error.found.replace(str(outline), str(archive)), error.expected, error.fix
        ) from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse archives that climb out of their folder, and those that unpack to more than a file may
    have.

    Python's reader ends each entry at its stated size, so stated sizes bound what is written.
    """
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise AreaError(
                f"{path} holds {entry.filename!r}, a path out of its folder",
                "plain names",
                "zip the files again",
            )
    if sum(entry.file_size for entry in entries) > _LARGEST_BYTES:
        raise AreaError(
            f"{path} unpacks to more than {_LARGEST_BYTES >> 20} MiB",
            "a small outline",
            "simplify it",
        )
