"""The outlines of the parcels of a raster of any size: sheet by sheet, dissolved where a parcel lies on several.

Shape suffixes: H W pixels of a sheet, N segments.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from panoseg.cube.window import Window, windows_over
from panoseg.files import output_error
from panoseg.maps.polygons import polygonise_piece
from panoseg.maps.rasters import PlainRaster

SHEET_SIDE = 512
"""Simplifying a coverage takes more than twice as long for twice the borders; larger maps have several sheets."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """A piece of a raster of segments. ``window``: where it lies; margins: lines of its neighbours that ``segment_HW`` holds
    above, left, below and right, 0 or 1; tolerance_pixels: how far borders are simplified."""

    window: Window
    segment_HW: np.ndarray
    margins: tuple[int, int, int, int]
    tolerance_pixels: float


@dataclass(frozen=True, eq=False)
class SheetOutlines:
    """What a sheet holds: ``ids`` of segments, ascending, their pixels on the sheet, and their outlines as WKB in pixels of the
    map (column, row)."""

    ids: np.ndarray
    pixels: np.ndarray
    outlines: np.ndarray


def plan_sheets(height: int, width: int, side: int = SHEET_SIDE) -> list[Window]:
    """Sheets that cover a raster, by rows."""
    return windows_over(height, width, side)


def read_sheets(raster: PlainRaster, drawn: np.ndarray, tolerance_pixels: float) -> Iterator[Sheet]:
    """The sheets of a raster of segments, one after the other. drawn: bool by id; other segments have no outline."""
    height, width = raster.shape_HW
    for window in plan_sheets(height, width):
        top, left = int(window.top > 0), int(window.left > 0)
        bottom, right = int(window.rows.stop < height), int(window.columns.stop < width)
        wide = Window(window.top - top, window.left - left, window.height + top + bottom, window.width + left + right)
        segment_HW = raster.read(wide)
        yield Sheet(window, np.where(drawn[segment_HW], segment_HW, 0), (top, left, bottom, right), tolerance_pixels)


def draw_sheet(sheet: Sheet) -> SheetOutlines:
    """The outlines of a sheet; a function of the sheet alone, so that any worker may do it."""
    ids, outlines = polygonise_piece(sheet.segment_HW, sheet.margins, sheet.tolerance_pixels)
    top, left, bottom, right = sheet.margins
    height, width = sheet.segment_HW.shape
    present, pixels = np.unique(sheet.segment_HW[top : height - bottom, left : width - right], return_counts=True)
    outlines = shapely.transform(outlines, lambda xy: np.add(xy, (sheet.window.left, sheet.window.top)))
    return SheetOutlines(ids, pixels[np.searchsorted(present, ids)], shapely.to_wkb(outlines))


class OutlineFiles:
    """Collects the outlines of sheets, in any order, and keeps whole ones in a file of a folder, where they are found by id.

    area_N: pixels of each segment in the whole map, by id: a segment is whole when all of them have been seen. Methods raise
    ``OutputError`` for a full disk.
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
        pieces = zip(sheet.ids[~whole].tolist(), sheet.pixels[~whole].tolist(), sheet.outlines[~whole].tolist(), strict=True)
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
        """The outlines of some segments, ids ascending, in their order: Polygon or MultiPolygon, pixels (column, row)."""
        if not len(ids):
            return np.empty(0, dtype=object)
        between = "SELECT id, outline FROM outlines WHERE id BETWEEN ? AND ? ORDER BY id"
        with self._open() as database:
            rows = database.execute(between, (int(ids[0]), int(ids[-1]))).fetchall()
        wanted = np.isin(np.array([id_ for id_, _ in rows], np.int64), ids)
        return np.asarray(shapely.from_wkb(np.array([outline for _, outline in rows], dtype=object)[wanted]), dtype=object)

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
