"""The outlines of the parcels of a raster of any size: sheet by sheet, dissolved where a parcel lies on several.

Shape suffixes: H W pixels of a sheet, N segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from panoseg.cube.window import Window
from panoseg.files import atomic
from panoseg.maps.polygons import polygonise_piece
from panoseg.maps.rasters import PlainRaster

SHEET_SIDE = 512
"""Simplifying a coverage takes more than twice as long for twice the borders; larger maps have several sheets."""
_ROWS_A_FILE = 10_000


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
    return [
        Window(top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


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
    """Collects the outlines of sheets, in any order, and keeps whole ones in files of a folder.

    area_N: pixels of each segment in the whole map, by id: a segment is whole when all of them have been seen.
    """

    def __init__(self, folder: Path, area_N: np.ndarray) -> None:
        self.folder, self.area_N = folder, area_N
        self._files: list[tuple[int, int, Path]] = []
        self._seen: dict[int, int] = {}
        self._pieces: dict[int, list[tuple[int, bytes]]] = {}
        self._dissolved: list[tuple[int, bytes]] = []

    def add(self, number: int, sheet: SheetOutlines) -> None:
        """Take what sheet ``number`` holds; no sheet twice."""
        whole = self.area_N[sheet.ids] == sheet.pixels
        self._write(sheet.ids[whole], sheet.outlines[whole])
        pieces = zip(sheet.ids[~whole].tolist(), sheet.pixels[~whole].tolist(), sheet.outlines[~whole].tolist(), strict=True)
        for id_, pixels, outline in pieces:
            self._pieces.setdefault(id_, []).append((number, outline))
            self._seen[id_] = self._seen.get(id_, 0) + pixels
            if self._seen[id_] == self.area_N[id_]:
                del self._seen[id_]
                self._dissolved.append((id_, _dissolve(self._pieces.pop(id_))))
        if len(self._dissolved) >= _ROWS_A_FILE:
            self._write_dissolved()

    def finish(self) -> None:
        """Write what waits. Raises ``RuntimeError`` where a sheet is missing."""
        if self._pieces:
            raise RuntimeError(f"{len(self._pieces)} segments are not whole: a sheet is missing")
        self._write_dissolved()

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The outlines of some segments, ids ascending, in their order: Polygon or MultiPolygon, pixels (column, row)."""
        found_ids, found = [np.empty(0, np.int64)], [np.empty(0, object)]
        for low, high, path in self._files:
            if len(ids) and low <= ids[-1] and high >= ids[0]:
                table = pq.read_table(path)
                own = np.isin(table["id"].to_numpy(), ids)
                found_ids.append(table["id"].to_numpy()[own])
                found.append(np.array(table["outline"].to_pylist(), dtype=object)[own])
        order = np.argsort(np.concatenate(found_ids))
        return np.asarray(shapely.from_wkb(np.concatenate(found)[order]), dtype=object)

    def _write_dissolved(self) -> None:
        rows = sorted(self._dissolved)
        self._write(np.array([id_ for id_, _ in rows], np.int64), np.array([outline for _, outline in rows], dtype=object))
        self._dissolved = []

    def _write(self, ids: np.ndarray, outlines: Sequence[bytes] | np.ndarray) -> None:
        if not len(ids):
            return
        path = self.folder / f"outlines-{len(self._files):06d}.parquet"
        table = pa.table({"id": pa.array(ids, pa.int64()), "outline": pa.array(list(outlines), pa.binary())})
        with atomic(path) as temporary:
            pq.write_table(table, temporary)
        self._files.append((int(ids.min()), int(ids.max()), path))


def _dissolve(pieces: list[tuple[int, bytes]]) -> bytes:
    """One outline of the pieces of a segment, whatever the order in which they came."""
    outlines = shapely.from_wkb(np.array([outline for _, outline in sorted(pieces)], dtype=object))
    return shapely.to_wkb(shapely.union_all(outlines))
