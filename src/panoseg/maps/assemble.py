"""Finished windows -> the whole map on disk: parcels joined across windows, tidied by their areas in the whole map.

Windows are looked at one after the other, twice: once to find which parcels and parts there are, once to write what became of
them. What is kept of the whole map are tables of segments, parcels and parts.

Shape suffixes: H W pixels of the land of a window, G groups of segments, N segments, R regions.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from panoseg.classes import ClassTable
from panoseg.cube.window import Window
from panoseg.files import atomic
from panoseg.maps.rasters import CONFIDENCE, NO_CONFIDENCE, NO_DATA_CLASS, SEGMENTS, PlainRaster, background_class, class_kind
from panoseg.maps.tidy import Tidying
from panoseg.maps.windows import WindowFiles
from panoseg.panoptic.join import join_tiles
from panoseg.panoptic.panoptic import Segments
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class Assembled:
    """A whole map on disk. segments: its table, areas in pixels. data_pixels: how many have data."""

    segments: Segments
    data_pixels: int
    segment_raster: PlainRaster
    class_raster: PlainRaster
    confidence_raster: PlainRaster


def assemble(windows: WindowFiles, shape_HW: tuple[int, int], min_pixels: int, table: ClassTable, folder: Path) -> Assembled:
    """Join the finished windows of a map and write its rasters as plain numbers into ``folder``.

    min_pixels: smaller parts of segments go, see ``tidy``. The map is a function of the tiles alone: not of the windows in
    which they lie, nor of who made them in which order.
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
    for number, (land, group_R) in enumerate(zip(track(lands, "windows written"), tidying.finish(), strict=True)):
        region_HW = _load(folder, number).reshape(land.height, land.width)
        rasters.write(land, number_G[group_R][region_HW], windows.data(number))
    return Assembled(rasters.present(), data_pixels, rasters.segments, rasters.classes, rasters.confidence)


class _Rasters:
    """The rasters of a map, written window by window, and the pixels of each segment in them."""

    def __init__(self, folder: Path, shape_HW: tuple[int, int], table: ClassTable, segments: Segments) -> None:
        self.segments, self.classes, self.confidence = (
            PlainRaster(folder / f"{name}.raw", shape_HW, kind)
            for name, kind in (("segments", SEGMENTS), ("classes", class_kind(table)), ("confidence", CONFIDENCE))
        )
        self.table_N = segments
        self.area_N = np.zeros(len(segments) + 1, np.int64)
        self._class_of_id = np.concatenate([[background_class(table)], segments.class_ids])
        percent_N = np.where(segments.is_thing, np.rint(100 * np.clip(segments.scores, 0, 1)), NO_CONFIDENCE)
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
