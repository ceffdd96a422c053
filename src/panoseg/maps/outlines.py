"""Convert between label rasters and polygons, for single arrays and for maps of any size.

The polygons of a label raster form a coverage: no two overlap, and neighbours share every vertex of
their common border. A border is therefore simplified once for both sides (Visvalingam and Whyatt
1993, by the coverage simplifier of GEOS).

A large raster is cut into sheets. Each sheet is polygonised independently, on any worker
(``read_sheets``, ``draw_sheet``), and ``OutlineFiles`` merges the pieces of a segment that lies on
several sheets.

Shape suffixes: H W pixels, N segments, X pairs of outlines.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes

from panoseg.cube.season import Window, windows_over
from panoseg.errors import RasterError
from panoseg.files import output_error
from panoseg.maps.rasters import RawRaster

SHEET_SIDE = 512
"""Side of a sheet in pixels. Simplifying a coverage takes more than twice as long for twice the
borders, so large maps are cut.
"""


def polygonise(
    segment_HW: np.ndarray, transform: Affine, tolerance_pixels: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids in a label raster and their outlines, a valid coverage.

    >>> ids, outlines = polygonise(np.array([[1, 1, 2], [1, 1, 0]]), Affine.identity())
    >>> ids.tolist(), shapely.area(outlines).tolist()
    ([1, 2], [4.0, 1.0])

    Args:
        segment_HW: Integer ids; 0 is no segment.
        transform: From pixels (column, row) to map units.
        tolerance_pixels: 0 keeps the exact pixel edges, with vertices only where a border turns or
            where three segments meet. Above 0, a vertex is removed if it spans a triangle smaller
            than the square of the tolerance; from 1 on, a diagonal of steps becomes a line.

    Returns:
        The ids, int64, N, ascending; and their outlines in map units, object, N: Polygon, or
        MultiPolygon where a segment is not connected.
    """
    values, parts = trace(segment_HW, segment_HW != 0)
    ids, outlines = _merge_and_simplify(values, parts, tolerance_pixels)
    return ids, to_map(outlines, transform)


def polygonise_piece(
    segment_HW: np.ndarray, margins: tuple[int, int, int, int], tolerance_pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Polygonise one piece of a label raster so that its outlines fit those of adjacent pieces.

    The margins are traced but not returned. Where a border crosses into a neighbour its corner
    stays, so the pieces of a segment share whole edges, and the outlines of all pieces together are
    a valid coverage.

    >>> above, below = np.array([[1, 2, 2], [1, 1, 2]]), np.array([[1, 2, 2], [1, 1, 2], [1, 1, 2]])
    >>> [shapely.area(polygonise_piece(lines, sides, 0.0)[1]).tolist() for lines, sides in
    ...  ((above, (0, 0, 1, 0)), (below, (1, 0, 0, 0)))]
    [[1.0, 2.0], [4.0, 2.0]]

    Args:
        segment_HW: Integer ids of the piece with its margins; 0 is no segment.
        margins: Rows or columns of the neighbours in ``segment_HW``: above, left, below, right; 0
            (at the edge of the raster) or 1.
        tolerance_pixels: As in ``polygonise``.

    Returns:
        Ids and outlines as in ``polygonise``, in pixels of the piece without its margins.
    """
    top, left, bottom, right = margins
    height, width = segment_HW.shape
    outside_HW = np.ones(segment_HW.shape, bool)
    outside_HW[top : height - bottom, left : width - right] = False
    # Even values are the piece's own pixels, odd ones the neighbours': the line between them is
    # traced as a border, but simplified together with both sides.
    values, parts = trace(2 * segment_HW + outside_HW, segment_HW != 0)
    ids, outlines = _merge_and_simplify(values, parts, tolerance_pixels)
    own = ids % 2 == 0
    return ids[own] // 2, shapely.transform(outlines[own], lambda xy: xy - (left, top))


def _merge_and_simplify(
    values: np.ndarray, parts: np.ndarray, tolerance_pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the traced regions of each value into one outline and simplify their borders."""
    ids, part_of = np.unique(values, return_inverse=True)
    # Neighbours must share their vertices, so one is set at every pixel corner; the simplifier
    # removes the redundant ones.
    parts = shapely.transform(shapely.segmentize(parts, 1.0), np.rint)
    order = np.argsort(part_of, kind="stable")
    outlines = np.asarray(shapely.multipolygons(parts[order], indices=part_of[order]))
    outlines = shapely.coverage_simplify(outlines, tolerance_pixels)
    single = shapely.get_num_geometries(outlines) == 1
    outlines[single] = shapely.get_geometry(outlines[single], 0)
    return ids, outlines


def trace(value_HW: np.ndarray, traced_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the value and exact outline of each region of equal values.

    Args:
        value_HW: Integers that fit int32.
        traced_HW: bool; False pixels belong to no region.

    Returns:
        The value of each region, int64, and its Polygon in pixels (column, row), object. Regions
        are connected through the sides of pixels.
    """
    traced = list(shapes(np.ascontiguousarray(value_HW, np.int32), mask=traced_HW, connectivity=4))
    outlines = np.array([shapely.geometry.shape(outline) for outline, _ in traced], dtype=object)
    return np.array([value for _, value in traced], dtype=np.int64), outlines


def rasterise(
    ids: Sequence[int] | np.ndarray,
    outlines: np.ndarray,
    shape_HW: tuple[int, int],
    transform: Affine,
) -> np.ndarray:
    """Burn outlines into a raster; the exact inverse of an unsimplified ``polygonise``.

    Args:
        ids: Positive id of each outline; later outlines cover earlier ones.
        outlines: Polygons in map units.
        shape_HW: Shape of the raster.
        transform: From pixels to map units.

    Returns:
        int32, H x W: the id of the outline that contains the pixel's centre, 0 outside of all.
    """
    burned = [(outline, int(id_)) for id_, outline in zip(ids, outlines, strict=True)]
    if not burned:
        return np.zeros(shape_HW, np.int32)
    return np.asarray(
        rasterize(burned, out_shape=shape_HW, transform=transform, fill=0, dtype="int32")
    )


def to_map(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Transform outlines from pixels (column, row) to map units.

    Equal vertices stay equal, so a coverage stays one.
    """
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    return shapely.transform(outlines, lambda xy: xy @ matrix + (transform.c, transform.f))


def to_pixels(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Transform outlines from map units to pixels (column, row); the inverse of ``to_map``."""
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]])
    # Solved, not multiplied by the inverse: 30 m over 10 m is 3 pixels, 30 x 0.1 is a little more.
    return shapely.transform(
        outlines, lambda xy: np.linalg.solve(matrix, (xy - (transform.c, transform.f)).T).T
    )


def affine_of(matrix: Sequence[Sequence[float]] | np.ndarray) -> Affine:
    """Return the transform of a 3 x 3 or 2 x 3 matrix or of its transpose.

    S2TSCzCrop stores transposed matrices. A 3 x 3 matrix that can be read both ways is taken as not
    transposed.

    >>> transposed = [[10, 0, 0], [0, -10, 0], [500000, 5500000, 1]]
    >>> affine_of(transposed) == affine_of([[10, 0, 500000], [0, -10, 5500000]])
    True

    Raises:
        RasterError: For any other matrix.
    """
    values = np.asarray(matrix, np.float64)
    last = np.array([0.0, 0.0, 1.0])
    if values.shape == (3, 2) or (
        values.shape == (3, 3) and not (values[2] == last).all() and (values[:, 2] == last).all()
    ):
        values = values.T
    if values.shape not in ((2, 3), (3, 3)) or (
        values.shape == (3, 3) and not (values[2] == last).all()
    ):
        raise RasterError(f"The transform {values.tolist()} is not a 3 x 3 or 2 x 3 affine matrix.")
    return Affine(*values[:2].ravel().tolist())


def shared_areas(
    outlines_A: np.ndarray, outlines_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all intersecting pairs of two lists of outlines, and the area that each pair shares.

    Returns:
        For each pair: its position in ``outlines_A``, its position in ``outlines_B`` (int64, X),
        and the shared area in squared units of the outlines (float64, X).
    """
    first_X, second_X = shapely.STRtree(outlines_B).query(outlines_A, predicate="intersects")
    area_X = shapely.area(shapely.intersection(outlines_A[first_X], outlines_B[second_X]))
    return first_X, second_X, area_X


@dataclass(frozen=True, eq=False)
class Sheet:
    """A piece of a label raster that is polygonised independently."""

    window: Window
    """Where the sheet lies in the map, without its margins."""
    segment_HW: np.ndarray
    """int32 ids of the sheet with its margins; 0 is no segment."""
    margins: tuple[int, int, int, int]
    """Rows or columns of the neighbours in ``segment_HW``: above, left, below, right; 0 or 1."""
    tolerance_pixels: float
    """Tolerance by which borders are simplified, see ``polygonise``."""


@dataclass(frozen=True, eq=False)
class SheetOutlines:
    """The segments of one sheet and their outlines."""

    ids: np.ndarray
    """int64, N: ids of the segments, ascending."""
    pixels: np.ndarray
    """int64, N: pixels of each segment on the sheet."""
    outlines: np.ndarray
    """object, N: outlines as WKB, in pixels of the map (column, row)."""


def plan_sheets(height: int, width: int, side: int | None = None) -> list[Window]:
    """Return the sheets of a side, ``SHEET_SIDE`` by default, that cover a raster, row by row."""
    return windows_over(height, width, SHEET_SIDE if side is None else side)


def read_sheets(raster: RawRaster, drawn: np.ndarray, tolerance_pixels: float) -> Iterator[Sheet]:
    """Yield the sheets of a label raster one by one, in the order of ``plan_sheets``.

    Args:
        raster: Ids of segments.
        drawn: bool, by id: whether the segment gets an outline.
        tolerance_pixels: Tolerance by which borders are simplified.
    """
    height, width = raster.shape_HW
    for window in plan_sheets(height, width):
        top, left = int(window.top > 0), int(window.left > 0)
        bottom, right = int(window.rows.stop < height), int(window.columns.stop < width)
        with_margins = Window(
            window.top - top,
            window.left - left,
            window.height + top + bottom,
            window.width + left + right,
        )
        segment_HW = raster.read(with_margins)
        yield Sheet(
            window,
            np.where(drawn[segment_HW], segment_HW, 0),
            (top, left, bottom, right),
            tolerance_pixels,
        )


def draw_sheet(sheet: Sheet) -> SheetOutlines:
    """Polygonise a sheet; depends on nothing but the sheet, so any worker may do it."""
    ids, outlines = polygonise_piece(sheet.segment_HW, sheet.margins, sheet.tolerance_pixels)
    top, left, bottom, right = sheet.margins
    height, width = sheet.segment_HW.shape
    present, pixels = np.unique(
        sheet.segment_HW[top : height - bottom, left : width - right], return_counts=True
    )
    outlines = shapely.transform(
        outlines, lambda xy: np.add(xy, (sheet.window.left, sheet.window.top))
    )
    return SheetOutlines(ids, pixels[np.searchsorted(present, ids)], shapely.to_wkb(outlines))


class OutlineFiles:
    """Collects the outlines of all sheets in a database file and finds them by id.

    A segment is complete, and stored, when all its pixels have been seen; the pieces of the others
    wait in memory. All methods raise ``OutputError`` for a full disk.

    Args:
        folder: Where the file is made.
        area_N: int64, by id: pixels of each segment in the whole map.
    """

    def __init__(self, folder: Path, area_N: np.ndarray) -> None:
        self.path, self.area_N = folder / "outlines.sqlite", area_N
        self._seen: dict[int, int] = {}
        self._pieces: dict[int, list[tuple[int, bytes]]] = {}
        with self._open() as database:
            database.execute("CREATE TABLE outlines (id INTEGER PRIMARY KEY, outline BLOB)")

    def add(self, number: int, sheet: SheetOutlines) -> None:
        """Add sheet ``number``, in any order, each sheet once."""
        whole = self.area_N[sheet.ids] == sheet.pixels
        finished = list(zip(sheet.ids[whole].tolist(), sheet.outlines[whole].tolist(), strict=True))
        pieces = zip(
            sheet.ids[~whole].tolist(),
            sheet.pixels[~whole].tolist(),
            sheet.outlines[~whole].tolist(),
            strict=True,
        )
        for id_, pixels, outline in pieces:
            self._pieces.setdefault(id_, []).append((number, outline))
            self._seen[id_] = self._seen.get(id_, 0) + pixels
            if self._seen[id_] == self.area_N[id_]:
                del self._seen[id_]
                # Sorted by sheet, so that the result does not depend on the order of arrival.
                wkb = [piece for _, piece in sorted(self._pieces.pop(id_))]
                merged = shapely.union_all(shapely.from_wkb(np.array(wkb, dtype=object)))
                finished.append((id_, shapely.to_wkb(merged)))
        with self._open() as database:
            database.executemany("INSERT INTO outlines VALUES (?, ?)", finished)

    def finish(self) -> None:
        """Raise ``RuntimeError`` if a sheet is missing."""
        if self._pieces:
            raise RuntimeError(f"{len(self._pieces)} segments are not whole: a sheet is missing")

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return the outlines of some segments, Polygon or MultiPolygon, in pixels (column, row).

        Args:
            ids: Ids of segments that have an outline, ascending.
        """
        if not len(ids):
            return np.empty(0, dtype=object)
        between = "SELECT id, outline FROM outlines WHERE id BETWEEN ? AND ? ORDER BY id"
        with self._open() as database:
            rows = database.execute(between, (int(ids[0]), int(ids[-1]))).fetchall()
        wanted = np.isin(np.array([id_ for id_, _ in rows], np.int64), ids)
        return np.asarray(
            shapely.from_wkb(np.array([outline for _, outline in rows], dtype=object)[wanted]),
            dtype=object,
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path)) as database:
                # The file is deleted when the work stops, so nothing must survive a crash.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                yield database
                database.commit()
        except sqlite3.Error as error:
            raise output_error(self.path, error) from error
