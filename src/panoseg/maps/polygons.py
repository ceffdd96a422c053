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


def polygonise(segment_HW: np.ndarray, transform: Affine, tolerance_pixels: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ids in a raster, ascending without 0, and their outlines: Polygon, or MultiPolygon where a segment has parts.

    The outlines are a valid coverage in the units of ``transform``. With a tolerance of 0 they are exact, with vertices only
    where a border turns or where three segments (or two and the land between) meet. Above 0, borders are simplified: a vertex
    goes where it spans a triangle smaller than the square of the tolerance; a diagonal of steps becomes a line from 1 on.

    >>> ids, outlines = polygonise(np.array([[1, 1, 2], [1, 1, 0]]), Affine.identity())
    >>> ids.tolist(), shapely.area(outlines).tolist()
    ([1, 2], [4.0, 1.0])
    """
    segment_HW = np.ascontiguousarray(segment_HW, np.int32)
    traced = [
        (value, shapely.geometry.shape(outline)) for outline, value in shapes(segment_HW, mask=segment_HW != 0, connectivity=4)
    ]
    parts = np.array([outline for _, outline in traced], dtype=object)
    ids, part_of = np.unique(np.array([value for value, _ in traced], dtype=np.int64), return_inverse=True)
    # A vertex at every corner of a pixel, so that neighbours share theirs; the simplifier takes the idle ones out again.
    parts = shapely.transform(shapely.segmentize(parts, 1.0), np.rint)
    order = np.argsort(part_of, kind="stable")
    outlines = np.asarray(shapely.multipolygons(parts[order], indices=part_of[order]))
    outlines = shapely.coverage_simplify(outlines, tolerance_pixels)
    single = shapely.get_num_geometries(outlines) == 1
    outlines[single] = shapely.get_geometry(outlines[single], 0)
    return ids, to_map(outlines, transform)


def to_map(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines from pixels (column, row) to the units of the map; each vertex is computed alike wherever it occurs."""
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    return shapely.transform(outlines, lambda xy: xy @ matrix + (transform.c, transform.f))


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
