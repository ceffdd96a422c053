"""Join the predicted tiles of a map, remove small fragments, and write the map as raw rasters.

A map comes window by window, row by row. ``assemble`` makes two passes over it: the first joins
tiles and collects the connected regions of all windows (``Tidying``), the second writes the
rasters. Between windows only tables of regions and the last row of pixels are kept, so memory does
not grow with the area.

Shape suffixes: H W pixels of a window, R regions (connected pixels of one segment), L pixels along
an edge of a window, G groups of joined segments, N segments.
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
from panoseg.cube.season import Window
from panoseg.files import atomic, remove
from panoseg.maps.rasters import (
    CONFIDENCE,
    NO_CONFIDENCE,
    NO_DATA_CLASS,
    SEGMENTS,
    RawRaster,
    background_class,
    class_kind,
)
from panoseg.maps.windows import WindowFiles
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.join import join_tiles
from panoseg.panoptic.segments import present_segments
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class Assembled:
    """A whole map on disk."""

    segments: Segments
    """The segments that have pixels; areas in pixels."""
    data_pixels: int
    """Pixels that have data on some date."""
    segment_raster: RawRaster
    """int32: the segment of each pixel, 0 for none."""
    class_raster: RawRaster
    """uint8: the class of each pixel, 255 for no data."""
    confidence_raster: RawRaster
    """uint8: the confidence of each pixel's parcel in percent, 255 outside of parcels."""


def assemble(
    windows: WindowFiles,
    shape_HW: tuple[int, int],
    min_pixels: int,
    table: ClassTable,
    folder: Path,
) -> Assembled:
    """Join the finished windows of a map and write its rasters into ``folder``.

    The map depends only on the tiles: not on their division into windows, nor on the order in which
    these were predicted.

    Args:
        windows: All windows of the map, finished.
        shape_HW: Shape of the map.
        min_pixels: Smaller parts of segments are removed, see ``tidy``.
        table: The classes.
        folder: For the rasters and temporary files.
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
        region_HW = tidying.add(land, np.where(data_HW, group_HW, 0))
        with atomic(_regions_file(folder, number)) as temporary:
            temporary.write_bytes(zlib.compress(region_HW.tobytes(), 1))
    number_G, segments = joined.table(area_G)
    rasters = _Rasters(folder, shape_HW, table, segments)
    for number, (land, group_R) in enumerate(
        zip(track(lands, "windows written"), tidying.finish(), strict=True)
    ):
        saved = _regions_file(folder, number)
        region_HW = np.frombuffer(zlib.decompress(saved.read_bytes()), np.int32)
        region_HW = region_HW.reshape(land.height, land.width)
        remove(saved)
        rasters.write(land, number_G[group_R][region_HW], windows.data(number))
    return Assembled(
        rasters.present(), data_pixels, rasters.segments, rasters.classes, rasters.confidence
    )


def _regions_file(folder: Path, number: int) -> Path:
    return folder / f"regions-{number:06d}.z"


class _Rasters:
    """The rasters of a map, written window by window, and the number of pixels of each segment."""

    def __init__(
        self, folder: Path, shape_HW: tuple[int, int], table: ClassTable, segments: Segments
    ) -> None:
        self.segments, self.classes, self.confidence = (
            RawRaster(folder / f"{name}.raw", shape_HW, kind)
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
        """Write a window, given its final ids and where it has data."""
        present, pixels = np.unique(segment_HW, return_counts=True)
        self.area_N[present] += pixels
        self.segments.write(land, segment_HW)
        self.classes.write(land, np.where(data_HW, self._class_of_id[segment_HW], NO_DATA_CLASS))
        self.confidence.write(land, self._percent_of_id[segment_HW])

    def present(self) -> Segments:
        """Return the table of the segments that have pixels."""
        rows = np.flatnonzero(self.area_N[1:])
        return replace(self.table_N.take(rows), areas=self.area_N[1:][rows])


def tidy(segmentation: Panoptic, min_pixels: int) -> Panoptic:
    """Remove the parts of segments that have fewer than ``min_pixels`` pixels.

    A small part goes to the segment, or to the background, with which it shares the longest border.
    A segment whose largest part is small is removed. Parts are connected through the sides of
    pixels, so that no polygon touches itself at a corner. Other pixels and all ids stay.

    >>> from panoseg.classes import PASTIS
    >>> segments = np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 2], [1, 1, 1, 2, 1], [0, 0, 0, 3, 3]])
    >>> tidy(Panoptic.from_maps(segments, {1: 1, 2: 2, 3: 3}, PASTIS), 3).segment_HW
    array([[1, 1, 1, 2, 2],
           [1, 1, 2, 2, 2],
           [1, 1, 1, 2, 2],
           [0, 0, 0, 0, 0]], dtype=int32)
    """
    height, width = segmentation.segment_HW.shape
    tidying = Tidying(width, min_pixels)
    region_HW = tidying.add(Window(0, 0, height, width), segmentation.segment_HW)
    segment_HW = tidying.finish()[0][region_HW]
    ids, areas = present_segments(segment_HW)
    kept = segmentation.segments.take(np.searchsorted(segmentation.segments.ids, ids))
    return Panoptic(segment_HW, replace(kept, areas=areas))


class Tidying:
    """``tidy`` for a map that comes window by window: from left to right, then the next row.

    Windows of a row have the same height, and together cover the width of the map.

    Args:
        width: Width of the map in pixels.
        min_pixels: Smaller parts of segments are removed.
    """

    def __init__(self, width: int, min_pixels: int) -> None:
        self.min_pixels = min_pixels
        self._values: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._unions: list[np.ndarray] = [np.empty((0, 2), np.int64)]
        self._borders: list[np.ndarray] = [np.empty((0, 3), np.int64)]
        self._count = 0
        self._above = _Edge(*(np.zeros(width, np.int64) for _ in range(3)))
        self._before = self._above

    def add(self, land: Window, value_HW: np.ndarray) -> np.ndarray:
        """Add the next window; returns the region of each of its pixels, int32, from 0.

        Args:
            land: Where the window lies in the map.
            value_HW: The segment of each pixel, 0 for none.
        """
        region_HW, count = regions(value_HW)
        area_R, value_R = np.bincount(region_HW.ravel(), minlength=count), np.zeros(count, np.int32)
        value_R[region_HW.ravel()] = value_HW.ravel()
        one, other, sides = _borders(region_HW)
        wanted = (area_R[one] < self.min_pixels) & (value_R[one] != 0)
        self._borders.append(
            np.stack([one + self._count, other + self._count, sides], axis=1)[wanted]
        )

        def edge(regions_L: np.ndarray) -> _Edge:
            return _Edge(
                regions_L.astype(np.int64) + self._count, value_R[regions_L], area_R[regions_L]
            )

        if land.left:
            self._connect(self._before, edge(region_HW[:, 0]))
        if land.top:
            self._connect(self._above.part(land.columns), edge(region_HW[0]))
        self._above.put(land.columns, edge(region_HW[-1]))
        self._before = edge(region_HW[:, -1])
        self._values.append(value_R)
        self._areas.append(area_R)
        self._count += count
        return region_HW

    def _connect(self, one: _Edge, other: _Edge) -> None:
        """Record which regions of two adjacent windows are one region and which are neighbours."""
        same = one.value_L == other.value_L
        self._unions.append(
            np.unique(np.stack([one.region_L[same], other.region_L[same]], axis=1), axis=0)
        )
        for fragment, neighbour in ((one, other), (other, one)):
            # A region that is small in its window may be large in the map: ``finish`` decides.
            wanted = ~same & (fragment.area_L < self.min_pixels) & (fragment.value_L != 0)
            pairs = np.stack([fragment.region_L[wanted], neighbour.region_L[wanted]], axis=1)
            pairs, sides = np.unique(pairs, axis=0, return_counts=True)
            self._borders.append(np.concatenate([pairs, sides[:, None]], axis=1))

    def finish(self) -> list[np.ndarray]:
        """Return the final segment of each region, int32, R, for each window in its order."""
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
        reassigned = _reassign(
            value_R,
            small_R & (value_R != 0),
            (region[borders[:, 0]], region[borders[:, 1]], borders[:, 2]),
        )
        ends = np.cumsum([len(values) for values in self._values])[:-1]
        return np.split(reassigned[region], ends)


@dataclass(frozen=True, eq=False)
class _Edge:
    """The pixels along one edge of a window, or along a row of windows."""

    region_L: np.ndarray
    """int64: their region, numbered over all windows."""
    value_L: np.ndarray
    """int32: the segment of the region, 0 for none."""
    area_L: np.ndarray
    """int64: pixels of the region in its window."""

    def part(self, columns: slice) -> _Edge:
        return _Edge(self.region_L[columns], self.value_L[columns], self.area_L[columns])

    def put(self, columns: slice, edge: _Edge) -> None:
        self.region_L[columns] = edge.region_L
        self.value_L[columns] = edge.value_L
        self.area_L[columns] = edge.area_L


def regions(value_HW: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the regions of equal values, connected through the sides of pixels.

    >>> regions(np.array([[1, 1, 2], [2, 1, 2]]))[0]
    array([[0, 0, 1],
           [2, 0, 1]], dtype=int32)

    Returns:
        The region of each pixel, int32, H x W, from 0; and the number of regions.
    """
    height, width = value_HW.shape
    # A grid with a cell for each pixel and for each side between two pixels, which is open where
    # their values are equal.
    open_HW = np.zeros((2 * height - 1, 2 * width - 1), np.bool_)
    open_HW[::2, ::2] = True
    np.equal(value_HW[:, 1:], value_HW[:, :-1], out=open_HW[::2, 1::2])
    np.equal(value_HW[1:], value_HW[:-1], out=open_HW[1::2, ::2])
    region_HW, count = ndimage.label(open_HW)
    return region_HW[::2, ::2].astype(np.int32) - 1, count


def _borders(region_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all ordered pairs of adjacent regions, and how many pixel sides each pair shares."""
    across, down = region_HW[:, 1:] != region_HW[:, :-1], region_HW[1:] != region_HW[:-1]
    one = np.concatenate([region_HW[:, 1:][across], region_HW[1:][down]]).astype(np.int64)
    other = np.concatenate([region_HW[:, :-1][across], region_HW[:-1][down]]).astype(np.int64)
    width = int(region_HW.max(initial=0)) + 1
    pairs, sides = np.unique(
        np.concatenate([one * width + other, other * width + one]), return_counts=True
    )
    return pairs // width, pairs % width, sides


def _reassign(
    value_R: np.ndarray, fragment_R: np.ndarray, borders: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the value of each region after each fragment has joined a neighbour.

    Fragments that only touch fragments follow in later rounds, once their neighbours are settled.

    Args:
        value_R: int32: the segment of each region.
        fragment_R: bool: regions to be reassigned.
        borders: Pairs of regions, from and to, and the number of pixel sides that they share.
    """
    value_R, fragment_R = value_R.copy(), fragment_R.copy()
    from_R, to_R, sides = borders
    while fragment_R.any():
        settled = fragment_R[from_R] & ~fragment_R[to_R]
        if not settled.any():
            value_R[fragment_R] = 0
            break
        # Borders with several regions of one segment count together.
        width = int(value_R.max()) + 1
        pairs, group = np.unique(
            from_R[settled].astype(np.int64) * width + value_R[to_R[settled]], return_inverse=True
        )
        shared = np.bincount(group, weights=sides[settled])
        # In ascending order, so that the assignment below ends with the longest border.
        order = np.argsort(shared, kind="stable")
        fragments = pairs[order] // width
        value_R[fragments] = pairs[order] % width
        fragment_R[fragments] = False
    return value_R
