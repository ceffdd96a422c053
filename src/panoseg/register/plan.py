"""Which patches of some cubes become part of a dataset, by what parcels cover of them.

Shape suffixes: N parcels, P parcels of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from odc.geo.geobox import GeoBox

from panoseg.classes import ClassTable
from panoseg.cube.window import Window
from panoseg.progress import track
from panoseg.register.draw import Canvas
from panoseg.register.options import DatasetOptions
from panoseg.register.parcels import Register, void_of

FIRST_ID = 10_000


@dataclass(frozen=True, eq=False)
class PlannedPatch:
    """A square of a cube.

    id: names its files. cube: its number. window: of the cube's pixels. parcels_P, pixels_P: positions of parcels in the
    register, ascending, and the pixels of each. cover: share of pixels in parcels with a known crop.
    """

    id: int
    cube: int
    window: Window
    parcels_P: np.ndarray
    pixels_P: np.ndarray
    cover: float


@dataclass(frozen=True, eq=False)
class Plan:
    """The patches that parcels cover enough of, by ascending id, and what became of the rest.

    squares: how many there are in all. bare: of them with too little cover. without_pixel: parcels inside of squares that have
    no pixel, too small or hidden by smaller ones. outside: parcels in no square. contested: pixels that several parcels claim.
    shared: patches that were left out because they share ground with a patch in another block of land.
    """

    patches: tuple[PlannedPatch, ...]
    squares: int
    bare: int
    without_pixel: int
    outside: int
    contested: int
    shared: int = 0

    def without(self, shared_N: np.ndarray) -> Plan:
        """The plan without the patches of a mask, because they share ground with others."""
        kept = tuple(patch for patch, shared in zip(self.patches, shared_N.tolist(), strict=True) if not shared)
        return replace(self, patches=kept, shared=int(shared_N.sum()))


def plan_patches(
    register: Register, canvases: Sequence[Canvas], grids: Sequence[GeoBox], table: ClassTable, options: DatasetOptions
) -> Plan:
    """Cut each grid into squares from its upper left corner and keep those with enough cover.

    What remains at the right and lower edge, narrower than a square, is not used.
    """
    squares = [(cube, window) for cube, grid in enumerate(grids) for window in _squares(grid, options.size)]
    pixels_N = np.zeros(len(register.classes_N), np.int64)
    met_N = np.zeros(len(register.classes_N), bool)
    patches, contested = [], 0
    things = table.ids("thing")
    for number, (cube, window) in enumerate(track(squares, "drawing parcels")):
        drawing = canvases[cube].draw(window)
        pixels_N[drawing.parcels_P] += drawing.pixels_P
        met_N[canvases[cube].meeting(window)] = True
        contested += canvases[cube].contested(window)
        classes_HW = drawing.classes(register.classes_N, void_of(table), options.min_inside)
        cover = float(np.isin(classes_HW, things).mean())
        if cover >= options.min_cover and cover > 0:
            patches.append(PlannedPatch(FIRST_ID + number, cube, window, drawing.parcels_P, drawing.pixels_P, cover))
    return Plan(
        tuple(patches),
        len(squares),
        len(squares) - len(patches),
        int((met_N & (pixels_N == 0)).sum()),
        int((~met_N).sum()),
        contested,
    )


def _squares(grid: GeoBox, size: int) -> list[Window]:
    return [
        Window(top, left, size, size)
        for top in range(0, grid.height - size + 1, size)
        for left in range(0, grid.width - size + 1, size)
    ]
