"""Remove what is no parcel from a map of segments: crumbs beside a parcel's body, and segments of a
few pixels.

A map comes in pieces of land, by rows of pieces; of what lies behind, only tables of regions and
the last lines are kept.

Shape suffixes: H W pixels of a piece, R regions (connected, of one segment).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from panoseg.classes import ClassTable
from panoseg.cube.window import Window
from panoseg.files import atomic
from panoseg.maps.rasters import (
    CONFIDENCE,
    NO_CONFIDENCE,
    NO_DATA_CLASS,
    SEGMENTS,
    PlainRaster,
    background_class,
    class_kind,
)
from panoseg.maps.windows import WindowFiles
from panoseg.panoptic.join import join_tiles
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import present_segments
from panoseg.progress import track


def tidy(picture: Panoptic, min_pixels: int) -> Panoptic:
    """The picture in which every part of a segment has at least ``min_pixels``.

    A smaller part goes to the segment, or to the land between segments, with which it shares the
    longest border. Segments whose largest part is smaller are taken out. Parts are connected
    through the sides of pixels, so that a polygon never hangs on a corner. Other pixels do not
    change; ids stay.

    >>> from panoseg.classes import PASTIS
    >>> segments = np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 2], [1, 1, 1, 2, 1], [0, 0, 0, 3, 3]])
    >>> tidy(Panoptic.from_maps(segments, {1: 1, 2: 2, 3: 3}, PASTIS), 3).segment_HW
    array([[1, 1, 1, 2, 2],
           [1, 1, 2, 2, 2],
           [1, 1, 1, 2, 2],
           [0, 0, 0, 0, 0]], dtype=int32)
    """
    height, width = picture.segment_HW.shape
    tidying = Tidying(width, min_pixels)
    region_HW = tidying.add(Window(0, 0, height, width), picture.segment_HW)
    return redrawn(picture, tidying.finish()[0][region_HW])


class Tidying:
    """``tidy`` for a map that comes piece by piece: from left to right, then the next row of
    pieces.

    width: of the map. Pieces of a row are as high as each other and cover the width.
    """

    def __init__(self, width: int, min_pixels: int) -> None:
        self.min_pixels = min_pixels
        self._values: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._unions: list[np.ndarray] = [np.empty((0, 2), np.int64)]
        self._borders: list[np.ndarray] = [np.empty((0, 3), np.int64)]
        self._count = 0
        self._above = _Line(*(np.zeros(width, np.int64) for _ in range(3)))
        self._before = self._above

    def add(self, land: Window, value_HW: np.ndarray) -> np.ndarray:
        """Take the next piece; gives the region of each of its pixels, from 0, int32."""
        region_HW, count = regions(value_HW)
        area_R, value_R = np.bincount(region_HW.ravel(), minlength=count), np.zeros(count, np.int32)
        value_R[region_HW.ravel()] = value_HW.ravel()
        one, other, sides = _borders(region_HW)
        wanted = (area_R[one] < self.min_pixels) & (value_R[one] != 0)
        self._borders.append(
            np.stack([one + self._count, other + self._count, sides], axis=1)[wanted]
        )

        def line(regions_L: np.ndarray) -> _Line:
            return _Line(
                regions_L.astype(np.int64) + self._count, value_R[regions_L], area_R[regions_L]
            )

        if land.left:
            self._meet(self._before, line(region_HW[:, 0]))
        if land.top:
            self._meet(self._above.part(land.columns), line(region_HW[0]))
        self._above.put(land.columns, line(region_HW[-1]))
        self._before = line(region_HW[:, -1])
        self._values.append(value_R)
        self._areas.append(area_R)
        self._count += count
        return region_HW

    def _meet(self, one: _Line, other: _Line) -> None:
        """Regions of two pieces along the line between them: one and the same, or neighbours."""
        same = one.value_L == other.value_L
        self._unions.append(
            np.unique(np.stack([one.region_L[same], other.region_L[same]], axis=1), axis=0)
        )
        for crumb, neighbour in ((one, other), (other, one)):
            wanted = ~same & (crumb.area_L < self.min_pixels) & (crumb.value_L != 0)
            pairs = np.stack([crumb.region_L[wanted], neighbour.region_L[wanted]], axis=1)
            pairs, sides = np.unique(pairs, axis=0, return_counts=True)
            self._borders.append(np.concatenate([pairs, sides[:, None]], axis=1))

    def finish(self) -> list[np.ndarray]:
        """For each piece, in the order in which they came, the value of each of its regions;
        int32.
        """
        part_value, part_area = np.concatenate(self._values), np.concatenate(self._areas)
        unions = np.concatenate(self._unions)
        graph = coo_matrix(
            (np.ones(len(unions), np.bool_), (unions[:, 0], unions[:, 1])),
            shape=(self._count, self._count),
        )
        count, region = connected_components(graph, directed=False)
        value_R, area_R = np.zeros(count, np.int32), np.bincount(region, part_area, minlength=count)
        value_R[region] = part_value
        small_R = area_R < self.min_pixels
        stays = np.zeros(int(value_R.max(initial=0)) + 1, bool)
        stays[value_R[~small_R]] = True
        value_R[~stays[value_R]] = 0
        borders = np.concatenate(self._borders)
        given = _give_away(
            value_R,
            small_R & (value_R != 0),
            (region[borders[:, 0]], region[borders[:, 1]], borders[:, 2]),
        )
        return np.split(given[region], np.cumsum([len(values) for values in self._values])[:-1])


@dataclass(frozen=True, eq=False)
class _Line:
    """Pixels along the edge of a piece: their region among all pieces, its value, and its area in
    the piece.
    """

    region_L: np.ndarray
    value_L: np.ndarray
    area_L: np.ndarray

    def part(self, columns: slice) -> _Line:
        return _Line(self.region_L[columns], self.value_L[columns], self.area_L[columns])

    def put(self, columns: slice, line: _Line) -> None:
        self.region_L[columns], self.value_L[columns], self.area_L[columns] = (
            line.region_L,
            line.value_L,
            line.area_L,
        )


def redrawn(picture: Panoptic, segment_HW: np.ndarray) -> Panoptic:
    """The picture with another raster of the same ids, some of which may have gone; areas follow
    the raster.
    """
    ids, areas = present_segments(segment_HW)
    kept = picture.segments.take(np.searchsorted(picture.segments.ids, ids))
    return Panoptic(segment_HW, replace(kept, areas=areas))


def regions(value_HW: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of each pixel's region (equal values connected through sides), int32 from 0, and how
    many there are.

    >>> regions(np.array([[1, 1, 2], [2, 1, 2]]))[0]
    array([[0, 0, 1],
           [2, 0, 1]], dtype=int32)
    """
    height, width = value_HW.shape
    # A grid with a cell for each pixel and for each side between two, which is open where their
    # values are equal.
    open_HW = np.zeros((2 * height - 1, 2 * width - 1), np.bool_)
    open_HW[::2, ::2] = True
    np.equal(value_HW[:, 1:], value_HW[:, :-1], out=open_HW[::2, 1::2])
    np.equal(value_HW[1:], value_HW[:-1], out=open_HW[1::2, ::2])
    region_HW, count = ndimage.label(open_HW)
    return region_HW[::2, ::2].astype(np.int32) - 1, count


def _borders(region_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordered pairs of regions that touch, and on how many sides of pixels."""
    across, down = region_HW[:, 1:] != region_HW[:, :-1], region_HW[1:] != region_HW[:-1]
    one = np.concatenate([region_HW[:, 1:][across], region_HW[1:][down]]).astype(np.int64)
    other = np.concatenate([region_HW[:, :-1][across], region_HW[:-1][down]]).astype(np.int64)
    width = int(region_HW.max(initial=0)) + 1
    pairs, sides = np.unique(
        np.concatenate([one * width + other, other * width + one]), return_counts=True
    )
    return pairs // width, pairs % width, sides


def _give_away(
    value_R: np.ndarray, crumb_R: np.ndarray, borders: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Value of each region once the crumbs have gone to their neighbours; those enclosed by crumbs
    follow their neighbours.
    """
    value_R, crumb_R = value_R.copy(), crumb_R.copy()
    from_R, to_R, sides = borders
    while crumb_R.any():
        settled = crumb_R[from_R] & ~crumb_R[to_R]
        if not settled.any():
            value_R[crumb_R] = 0
            break
        # Sides with different regions of one segment count together.
        width = int(value_R.max()) + 1
        pairs, group = np.unique(
            from_R[settled].astype(np.int64) * width + value_R[to_R[settled]], return_inverse=True
        )
        shared = np.bincount(group, weights=sides[settled])
        order = np.argsort(shared, kind="stable")
        crumbs = pairs[order] // width
        value_R[crumbs] = pairs[order] % width
        crumb_R[crumbs] = False
    return value_R


@dataclass(frozen=True, eq=False)
class Assembled:
    """A whole map on disk. segments: its table, areas in pixels. data_pixels: how many have
    data.
    """

    segments: Segments
    data_pixels: int
    segment_raster: PlainRaster
    class_raster: PlainRaster
    confidence_raster: PlainRaster


def assemble(
    windows: WindowFiles,
    shape_HW: tuple[int, int],
    min_pixels: int,
    table: ClassTable,
    folder: Path,
) -> Assembled:
    """Join the finished windows of a map and write its rasters as plain numbers into ``folder``.

    min_pixels: smaller parts of segments go, see ``tidy``. The map is a function of the tiles
    alone: not of the windows in which they lie, nor of who made them in which order.
    """
    lands = [block.land for block in windows.blocks]
    joined = join_tiles(*shape_HW, windows.tile_windows(), windows.tile, lands)
    area_G, data_pixels = np.zeros(joined.count + 1, np.int64), 0
    tidying = Tidying(shape_HW[1], min_pixels)
    for number, land in enumerate(track(lands, "windows joined")):
        group_HW = joined.draw(land)
        present, pixels = np.unique(group_HW, return_counts=True)
        area_G[present] += pixels
        data_HW = windows.data(number)
        data_pixels += int(data_HW.sum())
        _save(folder, number, tidying.add(land, np.where(data_HW, group_HW, 0)))
    number_G, segments = joined.table(area_G)
    rasters = _Rasters(folder, shape_HW, table, segments)
    for number, (land, group_R) in enumerate(
        zip(track(lands, "windows written"), tidying.finish(), strict=True)
    ):
        region_HW = _load(folder, number).reshape(land.height, land.width)
        rasters.write(land, number_G[group_R][region_HW], windows.data(number))
    return Assembled(
        rasters.present(), data_pixels, rasters.segments, rasters.classes, rasters.confidence
    )


class _Rasters:
    """The rasters of a map, written window by window, and the pixels of each segment in them."""

    def __init__(
        self, folder: Path, shape_HW: tuple[int, int], table: ClassTable, segments: Segments
    ) -> None:
        self.segments, self.classes, self.confidence = (
            PlainRaster(folder / f"{name}.raw", shape_HW, kind)
            for name, kind in (
                ("segments", SEGMENTS),
                ("classes", class_kind(table)),
                ("confidence", CONFIDENCE),
            )
        )
        self.table_N = segments
        self.area_N = np.zeros(len(segments) + 1, np.int64)
        self._class_of_id = np.concatenate([[background_class(table)], segments.class_ids])
        percent_N = np.where(
            segments.is_thing, np.rint(100 * np.clip(segments.scores, 0, 1)), NO_CONFIDENCE
        )
        self._percent_of_id = np.concatenate([[NO_CONFIDENCE], percent_N])

    def write(self, land: Window, segment_HW: np.ndarray, data_HW: np.ndarray) -> None:
        """Write a window. segment_HW: final ids; data_HW: where there are data."""
        present, pixels = np.unique(segment_HW, return_counts=True)
        self.area_N[present] += pixels
        self.segments.write(land, segment_HW)
        self.classes.write(land, np.where(data_HW, self._class_of_id[segment_HW], NO_DATA_CLASS))
        self.confidence.write(land, self._percent_of_id[segment_HW])

    def present(self) -> Segments:
        """The table of the segments that have pixels."""
        rows = np.flatnonzero(self.area_N[1:])
        return replace(self.table_N.take(rows), areas=self.area_N[1:][rows])


def _save(folder: Path, number: int, region_HW: np.ndarray) -> None:
    with atomic(folder / f"regions-{number:06d}.z") as temporary:
        temporary.write_bytes(zlib.compress(region_HW.tobytes(), 1))


def _load(folder: Path, number: int) -> np.ndarray:
    path = folder / f"regions-{number:06d}.z"
    regions = np.frombuffer(zlib.decompress(path.read_bytes()), np.int32)
    path.unlink()
    return regions
