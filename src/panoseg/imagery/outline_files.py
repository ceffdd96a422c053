"""Read outlines from files of users: GeoJSON, GeoPackage, Shapefile and KML, zipped or not.

The format is known by the first bytes, and each has one reader; GDAL sees only SQLite and
Shapefiles, whose bytes cannot stand for other files. Sizes are limited; XML with entities and
archives with paths out of their folder are refused.
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
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyproj import CRS
from shapely.geometry import Polygon, shape
from shapely.geometry.base import BaseGeometry

from panoseg.errors import AreaError

OUTLINE_FORMATS = "GeoJSON, GeoPackage, a zipped Shapefile or KML"
WGS84 = CRS.from_epsg(4326)
_LARGEST_BYTES = 64 * 1024**2
_SIDECARS = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_OUTLINES = (".shp", ".gpkg", ".geojson", ".json", ".kml")
_REFERENCES = (b"<OGR", b"<VRT", b"<GDAL")
_HEAD_BYTES = 4096


def read_outlines(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """Return all geometries of a file, as they are written, and its coordinate system.

    Returns:
        The geometries, and the stated coordinate system or None.

    Raises:
        AreaError: The file is missing, too large, damaged, of another format, or dangerous.
    """
    if not path.is_file():
        raise AreaError(f"{path} is not a file: give {OUTLINE_FORMATS}.")
    if path.stat().st_size > _LARGEST_BYTES:
        raise AreaError(
            f"{path} has {path.stat().st_size / 1024**2:,.0f} MiB: simplify the outline to at most"
            f" {_LARGEST_BYTES >> 20} MiB."
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # the checks below report what matters
            return _read(path)
    except AreaError:
        raise
    except Exception as error:  # every reader raises its own exceptions
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].split(";")[0]
        raise AreaError(
            f"{path} cannot be read ({text}): write it again as {OUTLINE_FORMATS}."
        ) from error


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
    raise AreaError(f"{path} is of no known format: write it as {OUTLINE_FORMATS}.")


def _table(path: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """Read a GeoPackage with one layer, or a Shapefile."""
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) != 1:
        names = f" ({', '.join(layers[:3])}{', ..' if len(layers) > 3 else ''})" if layers else ""
        raise AreaError(
            f"{path} has {len(layers)} layers{names}: write the outline into a separate file."
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


def _geometries(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
    """Return the polygons of a KML.

    Its points and lines are returned as placeholders, so that a message can say what it holds.
    """
    content = path.read_bytes()
    # NUL: another encoding could hide the declarations.
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content:
        raise AreaError(f"{path} declares XML entities: write it again as plain KML.")
    root = ElementTree.fromstring(content)
    if _tag(root) != "kml":
        raise AreaError(
            f"{path} is XML of the kind {_tag(root)[:20]!r}: write it as {OUTLINE_FORMATS}."
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
    """Return the name of an element without its namespace."""
    return str(element.tag).rsplit("}", 1)[-1]


def _rings(polygon: ElementTree.Element, boundary: str) -> list[np.ndarray]:
    """Return the rings (N x 2) of the boundaries of that name; boundaries come in any order."""
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
    """Read the only outline in an archive."""
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
                f"{path} holds {len(outlines)} outlines: write the one that is meant into an"
                " archive of its own."
            )
        stem = PurePosixPath(outlines[0].filename).with_suffix("")
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if name.with_suffix("") == stem:
                # Under a fixed name: names in an archive never become paths here.
                with (
                    archive.open(entry) as source,
                    (Path(folder) / f"outline{name.suffix.lower()}").open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
        return _unpacked(
            Path(folder) / f"outline{PurePosixPath(outlines[0].filename).suffix.lower()}", path
        )


def _unpacked(outline: Path, archive: Path) -> tuple[list[BaseGeometry], CRS | None]:
    """Read the outline that an archive held; errors name the archive."""
    try:
        if zipfile.is_zipfile(outline):
            raise AreaError(f"{outline} is an archive in an archive: unpack it.")
        return _read(outline)
    except AreaError as error:
        raise error.with_text(str(outline), str(archive)) from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse archives with paths out of their folder, and those that unpack to too much.

    Python's reader ends each entry at its stated size, so stated sizes limit what is written.
    """
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise AreaError(
                f"{path} holds {entry.filename!r}, a path out of its folder: zip the files again"
                " under plain names."
            )
    if sum(entry.file_size for entry in entries) > _LARGEST_BYTES:
        raise AreaError(
            f"{path} unpacks to more than {_LARGEST_BYTES >> 20} MiB: simplify the outline."
        )
