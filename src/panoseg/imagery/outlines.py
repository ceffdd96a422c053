"""Outlines: read from text that people write by hand, and made valid within bounds.

The text formats are KML, WKT, and tables (CSV) with WKT, of which GDAL's readers take fewer
variants. XML is read as a stream, so that nesting is bounded.

The time to repair an outline, or to intersect two, grows with how often edges cross. A drawn parcel
crosses itself a few times; a star of a thousand corners does so 250,000 times. Crossings are
therefore counted first, and what has too many is not repaired.

Shape suffixes: N outlines, S edges, X pairs of edges or of outlines.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from shapely import GeometryType, MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from panoseg.text_files import shortened, table_of

WGS84 = CRS.from_epsg(4326)
WKT_START = re.compile(
    r"\s*(SRID\s*=\s*(?P<srid>\d{1,6})\s*;)?\s*"
    r"(?=(MULTI|CURVE|COMPOUND)?(POLYGON|SURFACE|POINT|LINESTRING|CURVE)|GEOMETRYCOLLECTION)",
    re.IGNORECASE,
)
_HEX = re.compile(r"(00|01)[0-9A-Fa-f]{16,}")
WKT_COLUMNS = ("wkt", "geometry", "geom", "the_geom", "wkt_geom", "wkb", "wkb_geometry", "shape")
_GEOJSON_COLUMN = ".geo"  # of tables that Earth Engine exports
_DEEPEST_XML = 100
_DEEPEST_WKT = 20
_ROUND = str.maketrans("[{]}", "(())")
_CHUNK = 1024**2


class OutlineError(ValueError):
    """A whole file says what cannot be used; the text says what, of "it"."""


def check_xml(path: Path) -> str:
    """Check that XML has no entities and is not nested deeply; return the name of its root."""
    return _Xml().read(path)


def read_kml(path: Path) -> gpd.GeoDataFrame:
    """Read the placemarks of a KML with their name and extended data."""
    kml = _Kml()
    root = kml.read(path)
    if root != "kml":
        raise OutlineError(f"it is XML of the kind {root[:20]!r}")
    return gpd.GeoDataFrame(kml.values, geometry=kml.outlines, crs=WGS84)


class _Xml:
    """A reader of XML that calls ``begin`` and ``end`` with the names of elements."""

    def __init__(self) -> None:
        self.parents: list[str] = []
        self.root = ""
        # Without namespaces: files are common in which one is not declared.
        self._parser = xml.parsers.expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.buffer_text = True

    def read(self, path: Path) -> str:
        """Read a file, return the name of its root."""
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self._parser.Parse(chunk, False)
            self._parser.Parse(b"", True)
        return self.root

    def _refuse(self, *_: object) -> NoReturn:
        raise OutlineError("it declares XML entities; write it without a document type")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rsplit(":", 1)[-1]
        self.root = self.root or name
        if len(self.parents) >= _DEEPEST_XML:
            raise OutlineError(f"its elements are nested more than {_DEEPEST_XML} deep")
        self.begin(name, attributes)
        self.parents.append(name)

    def _end(self, name: str) -> None:
        self.end(self.parents.pop())

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""


class _Kml(_Xml):
    """A reader of KML."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[dict[str, Any]] = []
        """Name and extended data of each placemark."""
        self.outlines: list[BaseGeometry | None] = []
        """Outline of each placemark."""
        self._text: list[str] | None = None
        self._key = ""
        self._found: list[BaseGeometry] = []
        self._shells: list[np.ndarray] = []
        self._holes: list[np.ndarray] = []
        self._parser.CharacterDataHandler = self._characters

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Collect the text of the elements that matter."""
        parent = self.parents[-1] if self.parents else ""
        if name == "Placemark":
            self.values.append({})
            self._found = []
        elif name == "Polygon":
            self._shells, self._holes = [], []
        elif name in ("Data", "SimpleData"):
            self._key = attributes.get("name", "")
        if name in ("coordinates", "SimpleData") or (name, parent) in (
            ("name", "Placemark"),
            ("value", "Data"),
        ):
            self._text = []

    def end(self, name: str) -> None:
        """Keep what an element holds."""
        text = "".join(self._text or []).strip()
        if name == "coordinates":
            self._coordinates(text)
        elif name == "Polygon":
            if len(self._shells) > 1:
                raise OutlineError("a polygon with two outer boundaries")
            if self._shells:
                self._found.append(Polygon(self._shells[0], self._holes))
        elif name == "Placemark":
            self.outlines.append(_together(self._found))
        elif self.values and self._text is not None and name in ("name", "value", "SimpleData"):
            self.values[-1]["name" if name == "name" else self._key] = text
        if name in ("coordinates", "name", "value", "SimpleData"):
            self._text = None

    def _coordinates(self, text: str) -> None:
        if "outerBoundaryIs" in self.parents:
            self._shells.append(_places(text))
        elif "innerBoundaryIs" in self.parents:
            self._holes.append(_places(text))
        elif "LineString" in self.parents:  # so that a message can say what the file holds
            self._found.append(shapely.linestrings([(0, 0), (0, 0)]))
        elif "Point" in self.parents:
            self._found.append(shapely.Point(0, 0))


def _places(text: str) -> np.ndarray:
    """Return the places (N x 2) of a KML ring, "longitude,latitude,height longitude,...".

    Spaces around commas, which do not belong there, are common.
    """
    places = [
        [number for number in place.split(",") if number]
        for place in re.sub(r"\s*,\s*", ",", text).split()
    ]
    if any(not 2 <= len(place) <= 3 for place in places):
        raise OutlineError(
            f"the coordinates {shortened(text, 40)!r} are not places of two or three numbers"
        )
    ring = np.array([[float(number) for number in place[:2]] for place in places])
    if len(ring) < 3:
        raise OutlineError(f"a ring of {len(ring)} places")
    return ring


def _together(outlines: list[BaseGeometry]) -> BaseGeometry | None:
    """Return the geometries of a placemark as one."""
    if len(outlines) < 2:
        return outlines[0] if outlines else None
    if all(isinstance(outline, Polygon) for outline in outlines):
        return MultiPolygon(outlines)  # type: ignore[arg-type]
    return shapely.geometrycollections(outlines)


def read_wkt(text: str) -> gpd.GeoDataFrame:
    """Read outlines in WKT or EWKT, one after the other."""
    found, depth, start = [], 0, 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket.group() == "(" else -1
        if depth > _DEEPEST_WKT or depth < 0:
            raise OutlineError("its brackets are nested deeply, or do not match")
        if depth == 0:
            found.append(text[start : bracket.end()].lstrip(" \t\r\n,;"))
            start = bracket.end()
    if text[start:].strip(" \t\r\n,;"):
        found.append(text[start:])
    outlines, crs = _of_texts(found)
    return gpd.GeoDataFrame(geometry=outlines, crs=crs)


def read_csv(text: str) -> gpd.GeoDataFrame | None:
    """Read a table with a column of WKT, WKB in hexadecimal or GeoJSON; None if it has none."""
    table = table_of(text, longest=len(text) + 1)  # outlines are long values
    names = {name.casefold(): name for name in table.columns}
    known = (*WKT_COLUMNS, _GEOJSON_COLUMN)
    column = next((names[name] for name in known if name in names), None)
    if column is None:
        column = next(
            (
                name
                for name in table.columns
                if table.rows and WKT_START.match(table.rows[0].get(name, ""))
            ),
            None,
        )
    if column is None:
        return None
    outlines, crs = _of_texts([row.get(column, "") for row in table.rows])
    values = [{name: row[name] for name in row if name not in (column, "")} for row in table.rows]
    return gpd.GeoDataFrame(values, geometry=outlines, crs=crs)


def _of_texts(texts: list[str]) -> tuple[np.ndarray, CRS | None]:
    """Return the outlines of WKT, EWKT, WKB in hexadecimal or GeoJSON, and their system."""
    outlines, numbers = np.full(len(texts), None, dtype=object), set()
    for row, text in enumerate(texts):
        if _HEX.match(text):
            check_wkb([bytes.fromhex(text)])
            outlines[row] = shapely.from_wkb(text)
            numbers.add(int(shapely.get_srid(outlines[row])))
        elif text.lstrip().startswith("{"):
            if text.count("[") > _DEEPEST_WKT and _depth(text.translate(_ROUND)) > _DEEPEST_WKT:
                raise OutlineError("its brackets are nested deeply")
            outlines[row] = shapely.from_geojson(text)
            numbers.add(4326)  # as GeoJSON defines
        elif text.strip():
            start = WKT_START.match(text)
            if start is None:
                raise OutlineError(f"{shortened(text, 40)!r} is no WKT")
            if text.count("(") > _DEEPEST_WKT and _depth(text) > _DEEPEST_WKT:
                raise OutlineError("its brackets are nested deeply")
            outlines[row] = shapely.from_wkt(text[start.end() :])
            numbers.add(int(start["srid"] or 0))
    numbers.discard(0)
    if len(numbers) > 1:
        raise OutlineError(f"its outlines have {len(numbers)} coordinate systems")
    return outlines, CRS.from_epsg(numbers.pop()) if numbers else None


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket.group() == "(" else -1
        deepest = max(deepest, depth)
    return deepest


# The first bytes of collections in WKB: types 4 to 7, in both orders of bytes, with heights or not.
_COLLECTION = re.compile(
    rb"[\x00\x01](?:[\x04-\x07]\x00\x00[\x00\x20\x40\x60\x80\xa0\xc0\xe0]"
    rb"|[\x00\x20\x40\x60\x80\xa0\xc0\xe0]\x00\x00[\x04-\x07]"
    rb"|(?:[\xec-\xef]\x03|[\xd4-\xd7]\x07|[\xbc-\xbf]\x0b)\x00\x00"
    rb"|\x00\x00(?:\x03[\xec-\xef]|\x07[\xd4-\xd7]|\x0b[\xbc-\xbf]))"
)
_MOST_COLLECTIONS = 1000


def check_wkb(blobs: Iterable[Any]) -> None:
    """Raise ``OutlineError`` for WKB of collections in collections, which exhaust GEOS's stack."""
    for blob in blobs:
        if (
            isinstance(blob, bytes)
            and len(blob) > 9 * _MOST_COLLECTIONS
            and _COLLECTION.match(blob)
            and len(_COLLECTION.findall(blob)) > _MOST_COLLECTIONS
        ):
            raise OutlineError("its collections of outlines are nested deeply")


MOST_CROSSINGS = 50_000
"""Most crossings of the edges of an outline that is repaired."""
_MOST_TOGETHER = 150_000
"""Most crossings of all outlines that are repaired together."""
MOST_CORNERS = 5_000_000
"""Most corners of an outline."""
_FEW_CROSSINGS = 100
"""Up to this number the slower repair is quick enough; it keeps more of what was drawn."""
_FEW_CORNERS = 15
"""An outline of so few corners cannot cross itself more often than that."""
_PAIRS_AN_EDGE = 50
_FEWEST_PAIRS = 4_000_000
"""Pairs of edges that are looked at in any case."""
_ROWS_AT_ONCE = 64
_PAIRS_A_ROW = 100
_FEWEST_OVERLAPS = 200_000


def valid_polygons(outlines_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return outlines as valid Polygons and MultiPolygons, and which were too tangled.

    Outlines that cross themselves are repaired. A missing outline, one without area, one with
    coordinates that are not finite and one that is too tangled become an empty Polygon.

    >>> bow_tie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    >>> repaired, tangled = valid_polygons(np.array([bow_tie, None], dtype=object))
    >>> [outline.area for outline in repaired], tangled.tolist()
    ([2.0, 0.0], [False, False])

    Args:
        outlines_N: Geometries of any kind, or None.

    Returns:
        The polygons (object, N), and bool, N.
    """
    outlines_N = np.array(outlines_N, dtype=object)
    outlines_N[~np.isfinite(shapely.bounds(outlines_N)).all(axis=1)] = Polygon()
    tangled_N = shapely.get_num_coordinates(outlines_N) > MOST_CORNERS
    outlines_N[tangled_N] = Polygon()
    invalid = np.flatnonzero(~shapely.is_valid(outlines_N))
    corners = shapely.get_num_coordinates(outlines_N[invalid])
    few = invalid[corners <= _FEW_CORNERS]
    outlines_N[few] = shapely.make_valid(outlines_N[few])
    many = invalid[corners > _FEW_CORNERS]
    crossings = crossings_of(outlines_N[many])
    # All together are bounded, too: those that cross themselves least come first.
    order = np.argsort(crossings, kind="stable")
    too_many = crossings > MOST_CROSSINGS
    too_many[order] |= np.cumsum(crossings[order]) > _MOST_TOGETHER
    tangled_N[many[too_many]] = True
    outlines_N[many[too_many]] = Polygon()
    simple = many[~too_many & (crossings <= _FEW_CROSSINGS)]
    outlines_N[simple] = shapely.make_valid(outlines_N[simple])
    rest = many[~too_many & (crossings > _FEW_CROSSINGS)]
    outlines_N[rest] = shapely.make_valid(
        outlines_N[rest], method="structure", keep_collapsed=False
    )
    areal = np.isin(
        shapely.get_type_id(outlines_N), (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
    )
    outlines_N[~areal] = [_polygons_of(outline) for outline in outlines_N[~areal]]
    return outlines_N, tangled_N


def _polygons_of(outline: BaseGeometry) -> BaseGeometry:
    """Keep the polygons of a collection: repair leaves lines where a ring ran back on itself."""
    parts = shapely.get_parts(shapely.get_parts(outline))
    return shapely.union_all(parts[shapely.get_type_id(parts) == GeometryType.POLYGON])


def crossings_of(outlines_N: np.ndarray, *, between: bool = False) -> np.ndarray:
    """Count how often edges cross: int64, N.

    Counting ends when there are too many to repair; outlines that were not looked at by then have
    ``MOST_CROSSINGS + 1``.

    Args:
        outlines_N: Geometries.
        between: Count crossings of edges of different outlines, too.
    """
    crossings_N = np.zeros(len(outlines_N), np.int64)
    edges_S, owner_S = _edges(outlines_N)
    if not len(edges_S):
        return crossings_N
    if not between:  # moved apart, so that only edges of the same outline are near each other
        west_N, _, east_N, _ = shapely.bounds(outlines_N).T
        apart_N = np.arange(len(outlines_N)) * 2 * np.nanmax(east_N - west_N) - west_N
        edges_S[:, :, 0] += apart_N[owner_S][:, None]
    seen, most = 0, max(_FEWEST_PAIRS, _PAIRS_AN_EDGE * len(edges_S))
    for first_X, second_X in _near(edges_S):
        seen += len(first_X)
        counts_X = second_X > first_X
        first_X, second_X = first_X[counts_X], second_X[counts_X]
        cross_X = _cross(edges_S[first_X], edges_S[second_X])
        crossings_N += np.bincount(owner_S[first_X[cross_X]], minlength=len(outlines_N))
        if seen > most or (between and crossings_N.sum() > MOST_CROSSINGS):
            crossings_N[owner_S[int(first_X[-1]) if len(first_X) else 0] :] += MOST_CROSSINGS + 1
            break
    return crossings_N


def _edges(outlines_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges (float64, S x 2 x 2) of outlines, and the position of their outline."""
    parts, part_of = shapely.get_parts(outlines_N, return_index=True)
    while np.isin(shapely.get_type_id(parts), (4, 5, 6, 7)).any():  # collections of collections
        parts, inner = shapely.get_parts(parts, return_index=True)
        part_of = part_of[inner]
    polygons = shapely.get_type_id(parts) == GeometryType.POLYGON
    rings, ring_of = shapely.get_rings(parts[polygons], return_index=True)
    places, place_of = shapely.get_coordinates(rings, return_index=True)
    same = place_of[1:] == place_of[:-1]
    edges_S = np.stack([places[:-1], places[1:]], axis=1)[same]
    return edges_S, part_of[polygons][ring_of[place_of[:-1][same]]]


def _near(edges_S: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of edges whose bounding boxes meet, some hundred edges at a time."""
    lines_S = np.asarray(shapely.linestrings(edges_S))
    tree = shapely.STRtree(lines_S)
    for start in range(0, len(lines_S), _ROWS_AT_ONCE):
        first_X, second_X = tree.query(lines_S[start : start + _ROWS_AT_ONCE])
        yield first_X + start, second_X


def _cross(first_X: np.ndarray, second_X: np.ndarray) -> np.ndarray:
    """Return whether edges (X x 2 x 2) cross in a point inside of both: bool, X."""

    def side(line_X: np.ndarray, place_X2: np.ndarray) -> np.ndarray:
        along, to = line_X[:, 1] - line_X[:, 0], place_X2 - line_X[:, 0]
        turned: np.ndarray = np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])
        return turned

    result: np.ndarray = (side(first_X, second_X[:, 0]) * side(first_X, second_X[:, 1]) < 0) & (
        side(second_X, first_X[:, 0]) * side(second_X, first_X[:, 1]) < 0
    )
    return result


def too_many_overlaps(outlines_A: np.ndarray, outlines_B: np.ndarray) -> bool:
    """Return whether so many pairs of two lists of outlines meet that measuring takes hours.

    Parcels meet some neighbours each, also in registers of several years.
    """
    most = max(_FEWEST_OVERLAPS, _PAIRS_A_ROW * (len(outlines_A) + len(outlines_B)))
    tree, met = shapely.STRtree(outlines_B), 0
    for start in range(0, len(outlines_A), _ROWS_AT_ONCE):
        met += tree.query(outlines_A[start : start + _ROWS_AT_ONCE]).shape[1]
        if met > most:
            return True
    return False
