"""The area inside a user's outline, and the grid of pixels that covers it.

Longitudes that jump by more than half the globe cross the date line; such an outline, and one that
continues beyond 180 degrees, is cut there (RFC 7946, section 3.1.9). UTM zones are those of
Sentinel-2's tiles, with the exceptions in the north.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize
from shapely.affinity import translate
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from panoseg.errors import AreaError, ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.outlines import WGS84, crossings_of, valid_polygons
from panoseg.imagery.sentinel2 import PIXEL_M, SEASON_START, season_span, southern_start
from panoseg.imagery.vector_files import NOTES, no_crs, read_vector

_LARGEST_BYTES = 64 * 1024**2
_GLOBE = Geod(ellps="WGS84")
_SOUTH, _NORTH = -80.0, 84.0  # where UTM ends
_FARTHEST_DEGREES = 12.0  # from the middle of the zone: pixels are 2 % too large there
_SNAP_M = 20.0  # pixels of 10 and of 20 m nest
_SNAP_TOLERANCE_M = 0.5  # an edge that is straight on the grid bends by centimetres on the globe
_LONGEST_EDGE_DEGREES = 0.02  # bends by less than a metre in any zone
_EDGES_A_SIDE = 100
_MOST_CROSSINGS = 1000  # of all edges; the time to unite what is left grows with their square
_SMALLEST_M2 = 400.0  # four pixels
# A box that is straight on a grid is not so on the globe.
FOOTPRINT_MARGIN_DEGREES = 0.02
_SMALLEST_SIDE_M = 320.0  # a network needs to see something around a tiny outline


@dataclass(frozen=True, eq=False)
class Area:
    """An outline on the globe."""

    outline: BaseGeometry
    """Valid polygons in degrees (EPSG:4326), longitudes -180..180."""
    name: str
    """Name of the file, without suffix."""
    km2: float
    """Area on the ellipsoid."""
    notes: tuple[str, ...] = ()
    """What had to be repaired, a sentence each."""

    def season(self, year: int, start: tuple[int, int] = SEASON_START) -> tuple[date, date]:
        """Return the first and the last day of the season of a harvest year here.

        Args:
            year: Harvest year, in which the season ends.
            start: Month and day of day 0 north of the equator; half a year later south of it.

        Raises:
            ConfigError: There are no satellite images of that year.
        """
        southern = self.outline.centroid.y < 0
        return season_span(year, southern_start(start) if southern else start)


def read_area(path: Path | str, options: VectorOptions | None = None) -> Area:
    """Read the area of a file of any form that ``read_vector`` knows.

    Any coordinate system is understood. Outlines that cross themselves are repaired, and noted.

    Args:
        path: The file.
        options: What the file does not say itself.

    Raises:
        AreaError: The file cannot be read or states no coordinate system, or the outline is empty,
            has no area, or reaches a pole.
    """
    path = Path(path)
    try:
        table = read_vector(path, options, most_bytes=_LARGEST_BYTES)
    except ParcelsError as error:
        raise AreaError(str(error)) from error
    if table.crs is None:
        raise AreaError(no_crs(path, table))
    notes = list(table.attrs.get(NOTES, []))
    parts = _polygons(list(table.geometry), path)
    crossing = int((~shapely.is_valid(parts)).sum())
    if crossings_of(parts, between=True).sum() > _MOST_CROSSINGS:
        raise AreaError(
            f"The outlines of {path} cross themselves or each other more than"
            f" {_MOST_CROSSINGS:,} times: draw them again."
        )
    repaired, tangled = valid_polygons(parts)
    if tangled.any():
        raise AreaError(f"{path} has outlines that are too tangled to repair: draw them again.")
    if crossing:
        notes.append(
            f"{crossing} of {len(parts)} outlines in {path.name} cross themselves and were"
            " repaired."
        )
    whole = shapely.union_all(repaired)
    outline = whole if whole.is_empty else _in_degrees(whole, table.crs, path)
    km2 = _km2(outline)
    if not km2 * 1e6 >= _SMALLEST_M2:
        raise AreaError(
            f"{path} encloses {km2 * 1e6:.0f} m2, and at least {_SMALLEST_M2:g} m2 are needed: draw"
            " a larger outline."
        )
    return Area(outline, path.stem, km2, tuple(notes))


def _polygons(geometries: Sequence[BaseGeometry], path: Path) -> np.ndarray:
    """Return the polygons of a file, collections split into parts, heights dropped."""
    given = np.array(
        [geometry for geometry in geometries if geometry is not None and not geometry.is_empty],
        dtype=object,
    )
    parts = given
    while (shapely.get_type_id(parts) > shapely.GeometryType.POLYGON).any():
        parts = shapely.get_parts(parts)  # of collections of collections, too
    parts = shapely.force_2d(parts)
    areal: np.ndarray = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    if not len(areal):
        kinds = ", ".join(
            f"{count} {kind}"
            for kind, count in sorted(Counter(part.geom_type for part in parts).items())
        )
        raise AreaError(
            f"{path} holds {kinds or 'no outline'}: draw the outline of the area as a polygon."
        )
    if not np.isfinite(shapely.get_coordinates(areal)).all():
        raise AreaError(f"{path} holds coordinates that are not finite: write it again.")
    return areal


def _in_degrees(outline: BaseGeometry, crs: CRS, path: Path) -> BaseGeometry:
    """Return the outline as polygons in degrees, cut at the date line."""
    if crs != WGS84:
        left, bottom, right, top = outline.bounds
        if not crs.is_geographic:
            # A straight edge is bent on the globe.
            outline = shapely.segmentize(
                outline, max(right - left, top - bottom, 1e-9) / _EDGES_A_SIDE
            )
        to_degrees = Transformer.from_crs(crs, WGS84, always_xy=True)
        outline = shapely.transform(
            outline, lambda places: np.column_stack(to_degrees.transform(*places.T))
        )
    places = shapely.get_coordinates(outline)
    if (
        not np.isfinite(places).all()
        or np.abs(places[:, 0]).max() > 540
        or np.abs(places[:, 1]).max() > 90
    ):
        exchanged = (
            crs.is_geographic
            and np.isfinite(places).all()
            and (np.abs(places[:, 0]).max() <= 90 and np.abs(places[:, 1]).max() <= 180)
        )
        advice = (
            "latitude and longitude seem to be exchanged, longitude comes first."
            if exchanged
            else "state its true coordinate system, e.g. with --crs EPSG:32631."
        )
        raise AreaError(f"{path} has coordinates that do not exist in {crs.name}: {advice}")
    if places[:, 1].min() < _SOUTH or places[:, 1].max() > _NORTH:
        raise AreaError(
            f"{path} reaches a pole: leave out what lies beyond the latitudes {_SOUTH:g} to"
            f" {_NORTH:g}, where UTM ends."
        )
    cut = [
        part for polygon in shapely.get_parts(outline) for part in _cut_at_date_line(polygon, path)
    ]
    return _areal(shapely.union_all(shapely.make_valid(np.array(cut, dtype=object))))


def _cut_at_date_line(polygon: BaseGeometry, path: Path) -> Iterator[BaseGeometry]:
    """Yield the parts of a polygon between -180 and 180 degrees."""
    if not isinstance(polygon, Polygon):
        return  # a line, left where an outline was repaired
    shell, *holes = (
        _unwrapped(np.array(ring.coords), path) for ring in (polygon.exterior, *polygon.interiors)
    )
    # A hole may have been drawn on the other side of the date line than its shell.
    for hole in holes:
        hole[:, 0] -= 360 * np.round((hole[:, 0].mean() - shell[:, 0].mean()) / 360)
    whole = shapely.make_valid(Polygon(shell, holes))
    for turn in range(
        math.floor((shell[:, 0].min() + 180) / 360), math.ceil((shell[:, 0].max() + 180) / 360)
    ):
        yield translate(
            whole.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            -360 * turn,
        )


def _unwrapped(ring_N2: np.ndarray, path: Path) -> np.ndarray:
    """Return a ring whose longitudes continue beyond 180 degrees instead of jumping.

    Raises:
        AreaError: The ring runs around a pole.
    """
    steps = np.diff(ring_N2[:, 0])
    crossing = (np.abs(steps) > 180) & (np.abs(steps) < 360)  # 360: the edge of the whole map
    turns = np.concatenate([[0], np.cumsum(np.where(crossing, np.round(steps / 360), 0))])
    if turns[-1]:
        raise AreaError(
            f"{path} runs around a pole: leave out what lies beyond the latitudes {_SOUTH:g} to"
            f" {_NORTH:g}, where UTM ends."
        )
    unwrapped_N2: np.ndarray = ring_N2 - np.column_stack([360 * turns, np.zeros(len(turns))])
    return unwrapped_N2


def _areal(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons of a geometry as one."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])


def _km2(outline: BaseGeometry) -> float:
    """Return the area on the ellipsoid."""
    parts = shapely.get_parts(outline)
    return (
        sum(abs(_GLOBE.geometry_area_perimeter(shapely.orient_polygons(part))[0]) for part in parts)
        / 1e6
    )


def utm_zone(outline: BaseGeometry) -> CRS:
    """Return the UTM zone and hemisphere that hold the largest share of an outline in degrees."""
    shares: dict[tuple[int, bool], float] = defaultdict(float)
    for zone, box in _zone_boxes():
        if box.intersects(outline):
            for northern, half in (
                (True, shapely.box(-180, 0, 180, 90)),
                (False, shapely.box(-180, -90, 180, 0)),
            ):
                # Rounded, so that noise of the ellipsoid does not decide between equal shares.
                shares[zone, northern] += round(
                    _km2(_areal(outline.intersection(box).intersection(half))), 6
                )
    by_zone: dict[int, float] = defaultdict(float)
    for (number, _), km2 in shares.items():
        by_zone[number] += km2
    best = max(by_zone, key=lambda number: (by_zone[number], -number))
    return CRS.from_epsg((32600 if shares[best, True] >= shares[best, False] else 32700) + best)


def _zone_boxes() -> Iterator[tuple[int, BaseGeometry]]:
    """Yield the UTM zones with their boxes in degrees.

    Zone 32 is wider in the south of Norway, and four zones share Svalbard.
    """
    norway, svalbard = (56, 64), (72, 84)
    exceptions = {(31, norway): (0, 3), (32, norway): (3, 12)}
    exceptions |= {
        (31, svalbard): (0, 9),
        (33, svalbard): (9, 21),
        (35, svalbard): (21, 33),
        (37, svalbard): (33, 42),
    }
    exceptions |= {(zone, svalbard): (0, 0) for zone in (32, 34, 36)}
    for zone in range(1, 61):
        west, east = 6 * zone - 186, 6 * zone - 180
        for south, north in ((-80, 56), norway, (64, 72), svalbard):
            first, last = exceptions.get((zone, (south, north)), (west, east))
            if first < last:
                yield zone, shapely.box(first, south, last, north)


def solar_offset(grid: GeoBox) -> timedelta:
    """Return how far solar time in the middle of a grid is ahead of UTC: an hour for 15 degrees.

    The satellite passes in the middle of the solar morning, so in solar time no pass falls on two
    days, near the date line either.
    """
    return timedelta(hours=grid.extent.centroid.to_crs("EPSG:4326").coords[0][0] / 15)


def may_intersect(place: BaseGeometry | None, land: BaseGeometry) -> bool:
    """Return whether a scene may show some land, both outlines in degrees.

    True if the place of the scene is unknown, or one of the two jumps over the date line.
    """
    if place is None or _jumps(place) or _jumps(land):
        return True
    try:
        return bool(shapely.make_valid(place).intersects(land))
    except shapely.errors.ShapelyError:  # outlines come from any catalogue
        return True


def _jumps(geometry: BaseGeometry) -> bool:
    """Return whether a part spans more than half the globe, or the geometry is empty."""
    west_N, _, east_N, _ = shapely.bounds(shapely.get_parts(geometry)).T
    return not len(west_N) or not bool((east_N - west_N <= 180).all())


def project_outline(outline: BaseGeometry, crs: object) -> BaseGeometry:
    """Return an outline in degrees in another coordinate system, its long edges bent.

    Args:
        outline: In degrees (EPSG:4326).
        crs: What ``pyproj.CRS.from_user_input`` understands.
    """
    to_plane = Transformer.from_crs(WGS84, CRS.from_user_input(crs), always_xy=True)
    bent = shapely.segmentize(outline, _LONGEST_EDGE_DEGREES)
    return shapely.transform(bent, lambda places: np.column_stack(to_plane.transform(*places.T)))


def grid_of(area: Area, pixel_m: float = PIXEL_M, margin_m: float = 0.0) -> GeoBox:
    """Return the smallest grid around an area, in its UTM zone, bounds on multiples of 20 m.

    An area over two zones, over the equator or over the date line lies on one grid: that of its
    largest share. A grid has at least 320 m a side.

    Args:
        area: The area.
        pixel_m: Size of a pixel.
        margin_m: Land on each side that is covered, too.

    Raises:
        AreaError: The area is too wide for one zone.
    """
    crs = utm_zone(area.outline)
    # The last two digits of the code are the zone.
    middle = 6 * ((crs.to_epsg() or 0) % 100) - 183
    longitudes = shapely.get_coordinates(area.outline)[:, 0]
    farthest = float(np.abs((longitudes - middle + 180) % 360 - 180).max())
    if farthest > _FARTHEST_DEGREES:
        raise AreaError(
            f"{area.name} reaches {farthest:.0f} degrees from the middle of its UTM zone; beyond"
            f" {_FARTHEST_DEGREES:g} degrees pixels are no longer {pixel_m:g} m. Cut it into"
            " narrower areas."
        )
    low_2, high_2 = np.array(project_outline(area.outline, crs).bounds).reshape(2, 2)
    short_2 = np.maximum(_SMALLEST_SIDE_M - (high_2 - low_2), 0) / 2
    # The tolerance keeps an edge that is straight on the grid from costing another row.
    low_2, high_2 = (
        low_2 - margin_m - short_2 + _SNAP_TOLERANCE_M,
        high_2 + margin_m + short_2 - _SNAP_TOLERANCE_M,
    )
    (left, bottom), (right, top) = (
        np.floor(low_2 / _SNAP_M) * _SNAP_M,
        np.ceil(high_2 / _SNAP_M) * _SNAP_M,
    )
    shape = round((top - bottom) / pixel_m), round((right - left) / pixel_m)
    return GeoBox(
        shape, Affine(pixel_m, 0, float(left), 0, -pixel_m, float(top)), f"EPSG:{crs.to_epsg()}"
    )


def inside_mask(outline: BaseGeometry, grid: GeoBox) -> np.ndarray:
    """Return the pixels of a grid whose centres lie in an outline in degrees: bool, H x W.

    For an outline without the centre of a pixel, all pixels that it meets.
    """
    plane = project_outline(outline, str(grid.crs))
    for all_touched in (False, True):
        burned_HW: np.ndarray = rasterize(
            [(plane, 1)],
            out_shape=grid.shape,
            transform=grid.affine,
            fill=0,
            dtype="uint8",
            all_touched=all_touched,
        )
        if burned_HW.any():
            break
    return burned_HW.astype(bool)
