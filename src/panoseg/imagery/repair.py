"""Make outlines valid, within bounds.

The time to repair an outline, or to intersect two, grows with how often edges cross. A drawn parcel
crosses itself a few times; a star of a thousand corners does so 250,000 times. Crossings are
therefore counted first, and what has too many is not repaired.

Shape suffixes: N outlines, S edges, X pairs of edges or of outlines.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from shapely import GeometryType, Polygon
from shapely.geometry.base import BaseGeometry

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
_CHUNK = 64
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
    for start in range(0, len(lines_S), _CHUNK):
        first_X, second_X = tree.query(lines_S[start : start + _CHUNK])
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
    for start in range(0, len(outlines_A), _CHUNK):
        met += tree.query(outlines_A[start : start + _CHUNK]).shape[1]
        if met > most:
            return True
    return False
