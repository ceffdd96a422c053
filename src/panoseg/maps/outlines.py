"""Segments <-> polygons on the grid of the pixels: exact, and simplified along shared borders.

The polygons of a picture form a coverage: no two overlap, and neighbours share every vertex of
their common border. That is what lets a border be simplified once for both sides (Visvalingam and
Whyatt 1993, by GEOS's coverage simplifier).

Shape suffixes: H W pixels, N segments.
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

from panoseg.cube.window import Window, windows_over
from panoseg.errors import RasterError
from panoseg.files import output_error
from panoseg.maps.rasters import PlainRaster


def polygonise(
    segment_HW: np.ndarray, transform: Affine, tolerance_pixels: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Ids in a raster, ascending without 0, and their outlines: Polygon, or MultiPolygon where a
    segment has parts.

    The outlines are a valid coverage in the units of ``transform``. With a tolerance of 0 they are
    exact, with vertices only where a border turns or where three segments (or two and the land
    between) meet. Above 0, borders are simplified: a vertex goes where it spans a triangle smaller
    than the square of the tolerance; a diagonal of steps becomes a line from 1 on.

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
    """As ``polygonise``, for a piece of a raster: outlines in its pixels, which fit those of the
    pieces around it.

    margins: how many lines of the neighbours ``segment_HW`` holds above, left, below and right, 0
    (an end of the raster) or 1. Nothing is drawn there, but where a border crosses into a neighbour
    its corner stays: the pieces of a segment share whole edges, and the outlines of all pieces are
    a valid coverage.

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


def _simplified(
    values: np.ndarray, parts: np.ndarray, tolerance_pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ids, ascending, and the outline of each: its traced parts together, borders simplified."""
    ids, part_of = np.unique(values, return_inverse=True)
    # A vertex at every corner of a pixel, so that neighbours share theirs; the simplifier takes the
    # idle ones out again.
    parts = shapely.transform(shapely.segmentize(parts, 1.0), np.rint)
    order = np.argsort(part_of, kind="stable")
    outlines = np.asarray(shapely.multipolygons(parts[order], indices=part_of[order]))
    outlines = shapely.coverage_simplify(outlines, tolerance_pixels)
    single = shapely.get_num_geometries(outlines) == 1
    outlines[single] = shapely.get_geometry(outlines[single], 0)
    return ids, outlines


def trace(value_HW: np.ndarray, traced_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions of equal values, connected through the sides of pixels: int64 value and Polygon in
    pixels (column, row) of each.

    value_HW: whole numbers. traced_HW: bool, False where there is no region.
    """
    traced = list(shapes(np.ascontiguousarray(value_HW, np.int32), mask=traced_HW, connectivity=4))
    outlines = np.array([shapely.geometry.shape(outline) for outline, _ in traced], dtype=object)
    return np.array([value for _, value in traced], dtype=np.int64), outlines


def to_map(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines from pixels (column, row) to the units of the map; each vertex is computed alike
    wherever it occurs.
    """
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    return shapely.transform(outlines, lambda xy: xy @ matrix + (transform.c, transform.f))


def to_pixels(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines from the units of the map to pixels (column, row); undoes ``to_map``."""
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]])
    # Solved, not multiplied by the inverse: 30 m over 10 m is 3 pixels, 30 x 0.1 is a little more.
    return shapely.transform(
        outlines, lambda xy: np.linalg.solve(matrix, (xy - (transform.c, transform.f)).T).T
    )


def shared_areas(
    outlines_A: np.ndarray, outlines_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of outlines of two lists that meet, and the area they share: positions in A and in
    B, areas.
    """
    first_X, second_X = shapely.STRtree(outlines_B).query(outlines_A, predicate="intersects")
    return (
        first_X,
        second_X,
        shapely.area(shapely.intersection(outlines_A[first_X], outlines_B[second_X])),
    )


def affine_of(matrix: Sequence[Sequence[float]] | np.ndarray) -> Affine:
    """The transform of a matrix: 3 x 3 or 2 x 3 as written in textbooks, or their transposes, which
    S2TSCzCrop stores.

    A 3 x 3 matrix that reads both ways is taken as in textbooks. Raises ``RasterError`` for
    anything else.

    >>> affine_of([[10, 0, 0], [0, -10, 0], [500000, 5500000, 1]]) == affine_of([[10, 0, 500000], [0, -10, 5500000]])
    True
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
        raise RasterError(
            f"the transform {values.tolist()}",
            "six numbers as a 3 x 3 or 2 x 3 matrix",
            "correct it",
        )
    return Affine(*values[:2].ravel().tolist())


def rasterise(
    ids: Sequence[int] | np.ndarray,
    outlines: np.ndarray,
    shape_HW: tuple[int, int],
    transform: Affine,
) -> np.ndarray:
    """The raster of outlines: a pixel has the id of the outline that holds its centre, 0 outside of
    all. int32, H x W.

    Undoes ``polygonise`` exactly where nothing was simplified.
    """
    burned = [(outline, int(id_)) for id_, outline in zip(ids, outlines, strict=True)]
    if not burned:
        return np.zeros(shape_HW, np.int32)
    return rasterize(burned, out_shape=shape_HW, transform=transform, fill=0, dtype="int32")


SHEET_SIDE = 512
"""Simplifying a coverage takes more than twice as long for twice the borders; larger maps have
several sheets.
"""


@dataclass(frozen=True, eq=False)
class Sheet:
    """A piece of a raster of segments. ``window``: where it lies; margins: lines of its neighbours
    that ``segment_HW`` holds above, left, below and right, 0 or 1; tolerance_pixels: how far
    borders are simplified.
    """

    window: Window
    segment_HW: np.ndarray
    margins: tuple[int, int, int, int]
    tolerance_pixels: float


@dataclass(frozen=True, eq=False)
class SheetOutlines:
    """What a sheet holds: ``ids`` of segments, ascending, their pixels on the sheet, and their
    outlines as WKB in pixels of the map (column, row).
    """

    ids: np.ndarray
    pixels: np.ndarray
    outlines: np.ndarray


def plan_sheets(height: int, width: int, side: int = SHEET_SIDE) -> list[Window]:
    """Sheets that cover a raster, by rows."""
    return windows_over(height, width, side)


def read_sheets(raster: PlainRaster, drawn: np.ndarray, tolerance_pixels: float) -> Iterator[Sheet]:
    """The sheets of a raster of segments, one after the other. drawn: bool by id; other segments
    have no outline.
    """
    height, width = raster.shape_HW
    for window in plan_sheets(height, width):
        top, left = int(window.top > 0), int(window.left > 0)
        bottom, right = int(window.rows.stop < height), int(window.columns.stop < width)
        wide = Window(
            window.top - top,
            window.left - left,
            window.height + top + bottom,
            window.width + left + right,
        )
        segment_HW = raster.read(wide)
        yield Sheet(
            window,
            np.where(drawn[segment_HW], segment_HW, 0),
            (top, left, bottom, right),
            tolerance_pixels,
        )


def draw_sheet(sheet: Sheet) -> SheetOutlines:
    """The outlines of a sheet; a function of the sheet alone, so that any worker may do it."""
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
    """Collects the outlines of sheets, in any order, and keeps whole ones in a file of a folder,
    where they are found by id.

    area_N: pixels of each segment in the whole map, by id: a segment is whole when all of them have
    been seen. Methods raise ``OutputError`` for a full disk.
    """

    def __init__(self, folder: Path, area_N: np.ndarray) -> None:
        self.path, self.area_N = folder / "outlines.sqlite", area_N
        self._seen: dict[int, int] = {}
        self._pieces: dict[int, list[tuple[int, bytes]]] = {}
        with self._open() as database:
            database.execute("CREATE TABLE outlines (id INTEGER PRIMARY KEY, outline BLOB)")

    def add(self, number: int, sheet: SheetOutlines) -> None:
        """Take what sheet ``number`` holds; no sheet twice."""
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
                finished.append((id_, _dissolve(self._pieces.pop(id_))))
        with self._open() as database:
            database.executemany("INSERT INTO outlines VALUES (?, ?)", finished)

    def finish(self) -> None:
        """Raise ``RuntimeError`` where a sheet is missing."""
        if self._pieces:
            raise RuntimeError(f"{len(self._pieces)} segments are not whole: a sheet is missing")

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The outlines of some segments, ids ascending, in their order: Polygon or MultiPolygon,
        pixels (column, row).
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
                # The file goes when the work stops: nothing of it is to be saved from a crash.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                yield database
                database.commit()
        except sqlite3.Error as error:
            raise output_error(self.path, error) from error


def _dissolve(pieces: list[tuple[int, bytes]]) -> bytes:
    """One outline of the pieces of a segment, whatever the order in which they came."""
    outlines = shapely.from_wkb(np.array([outline for _, outline in sorted(pieces)], dtype=object))
    return shapely.to_wkb(shapely.union_all(outlines))
