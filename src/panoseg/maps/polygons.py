"""Segments <-> polygons on the grid of the pixels: exact, and simplified along shared borders.

The polygons of a picture form a coverage: no two overlap, and neighbours share every vertex of their common border. That is
what lets a border be simplified once for both sides (Visvalingam and Whyatt 1993, by GEOS's coverage simplifier).

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes

from panoseg.errors import RasterError


def polygonise(segment_HW: np.ndarray, transform: Affine, tolerance_pixels: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ids in a raster, ascending without 0, and their outlines: Polygon, or MultiPolygon where a segment has parts.

    The outlines are a valid coverage in the units of ``transform``. With a tolerance of 0 they are exact, with vertices only
    where a border turns or where three segments (or two and the land between) meet. Above 0, borders are simplified: a vertex
    goes where it spans a triangle smaller than the square of the tolerance; a diagonal of steps becomes a line from 1 on.

    >>> ids, outlines = polygonise(np.array([[1, 1, 2], [1, 1, 0]]), Affine.identity())
    >>> ids.tolist(), shapely.area(outlines).tolist()
    ([1, 2], [4.0, 1.0])
    """
    values, parts = trace(segment_HW, segment_HW != 0)
    ids, outlines = _simplified(values, parts, tolerance_pixels)
    return ids, to_map(outlines, transform)


def polygonise_piece(
    segment_HW: np.ndarray, margins: tuple[int, int, int, int], tolerance_pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """As ``polygonise``, for a piece of a raster: outlines in its pixels, which fit those of the pieces around it.

    margins: how many lines of the neighbours ``segment_HW`` holds above, left, below and right, 0 (an end of the raster) or 1.
    Nothing is drawn there, but where a border crosses into a neighbour its corner stays: the pieces of a segment share whole
    edges, and the outlines of all pieces are a valid coverage.

    >>> above, below = np.array([[1, 2, 2], [1, 1, 2]]), np.array([[1, 2, 2], [1, 1, 2], [1, 1, 2]])
    >>> [shapely.area(polygonise_piece(lines, sides, 0.0)[1]).tolist() for lines, sides in
    ...  ((above, (0, 0, 1, 0)), (below, (1, 0, 0, 0)))]
    [[1.0, 2.0], [4.0, 2.0]]
    """
    top, left, bottom, right = margins
    height, width = segment_HW.shape
    outside_HW = np.ones(segment_HW.shape, bool)
    outside_HW[top : height - bottom, left : width - right] = False
    values, parts = trace(2 * segment_HW + outside_HW, segment_HW != 0)
    ids, outlines = _simplified(values, parts, tolerance_pixels)
    own = ids % 2 == 0
    return ids[own] // 2, shapely.transform(outlines[own], lambda xy: xy - (left, top))


def _simplified(values: np.ndarray, parts: np.ndarray, tolerance_pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Ids, ascending, and the outline of each: its traced parts together, borders simplified."""
    ids, part_of = np.unique(values, return_inverse=True)
    # A vertex at every corner of a pixel, so that neighbours share theirs; the simplifier takes the idle ones out again.
    parts = shapely.transform(shapely.segmentize(parts, 1.0), np.rint)
    order = np.argsort(part_of, kind="stable")
    outlines = np.asarray(shapely.multipolygons(parts[order], indices=part_of[order]))
    outlines = shapely.coverage_simplify(outlines, tolerance_pixels)
    single = shapely.get_num_geometries(outlines) == 1
    outlines[single] = shapely.get_geometry(outlines[single], 0)
    return ids, outlines


def trace(value_HW: np.ndarray, traced_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions of equal values, connected through the sides of pixels: int64 value and Polygon in pixels (column, row) of each.

    value_HW: whole numbers. traced_HW: bool, False where there is no region.
    """
    traced = list(shapes(np.ascontiguousarray(value_HW, np.int32), mask=traced_HW, connectivity=4))
    outlines = np.array([shapely.geometry.shape(outline) for outline, _ in traced], dtype=object)
    return np.array([value for _, value in traced], dtype=np.int64), outlines


def to_map(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines from pixels (column, row) to the units of the map; each vertex is computed alike wherever it occurs."""
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    return shapely.transform(outlines, lambda xy: xy @ matrix + (transform.c, transform.f))


def to_pixels(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines from the units of the map to pixels (column, row); undoes ``to_map``."""
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]])
    # Solved, not multiplied by the inverse: 30 m over 10 m is 3 pixels, 30 x 0.1 is a little more.
    return shapely.transform(outlines, lambda xy: np.linalg.solve(matrix, (xy - (transform.c, transform.f)).T).T)


def shared_areas(outlines_A: np.ndarray, outlines_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of outlines of two lists that meet, and the area they share: positions in A and in B, areas."""
    first_X, second_X = shapely.STRtree(outlines_B).query(outlines_A, predicate="intersects")
    return first_X, second_X, shapely.area(shapely.intersection(outlines_A[first_X], outlines_B[second_X]))


def affine_of(matrix: Sequence[Sequence[float]] | np.ndarray) -> Affine:
    """The transform of a matrix: 3 x 3 or 2 x 3 as written in textbooks, or their transposes, which S2TSCzCrop stores.

    A 3 x 3 matrix that reads both ways is taken as in textbooks. Raises ``RasterError`` for anything else.

    >>> affine_of([[10, 0, 0], [0, -10, 0], [500000, 5500000, 1]]) == affine_of([[10, 0, 500000], [0, -10, 5500000]])
    True
    """
    values = np.asarray(matrix, np.float64)
    last = np.array([0.0, 0.0, 1.0])
    if values.shape == (3, 2) or (values.shape == (3, 3) and not (values[2] == last).all() and (values[:, 2] == last).all()):
        values = values.T
    if values.shape not in ((2, 3), (3, 3)) or (values.shape == (3, 3) and not (values[2] == last).all()):
        raise RasterError(f"the transform {values.tolist()}", "six numbers as a 3 x 3 or 2 x 3 matrix", "correct it")
    return Affine(*values[:2].ravel().tolist())


def rasterise(
    ids: Sequence[int] | np.ndarray, outlines: np.ndarray, shape_HW: tuple[int, int], transform: Affine
) -> np.ndarray:
    """The raster of outlines: a pixel has the id of the outline that holds its centre, 0 outside of all. int32, H x W.

    Undoes ``polygonise`` exactly where nothing was simplified.
    """
    burned = [(outline, int(id_)) for id_, outline in zip(ids, outlines, strict=True)]
    if not burned:
        return np.zeros(shape_HW, np.int32)
    return rasterize(burned, out_shape=shape_HW, transform=transform, fill=0, dtype="int32")
