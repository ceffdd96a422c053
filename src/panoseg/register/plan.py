"""Parcels drawn on the grid of a cube, window by window.

A pixel belongs to the parcel that covers its centre; where several do, to the smallest of them, so
that a strip of flowers that is declared inside of a field stays visible, whatever the order of the
rows.

Shape suffixes: N parcels, P parcels of a window, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import MergeAlg
from rasterio.features import rasterize

from panoseg.classes import ClassTable
from panoseg.cube.window import Window
from panoseg.maps.outlines import to_pixels
from panoseg.maps.read_parcels import valid_outlines
from panoseg.progress import track
from panoseg.register.options import DatasetOptions
from panoseg.register.parcels import Register, crs_of, void_of


@dataclass(frozen=True, eq=False)
class Drawing:
    """The parcels of a window.

    parcel_HW: int32, position in the register, -1 for none. parcels_P, pixels_P: positions in
    ascending order, and how many pixels each has. inside_P: share of the parcel's area in the
    window, 0..1.
    """

    parcel_HW: np.ndarray
    parcels_P: np.ndarray
    pixels_P: np.ndarray
    inside_P: np.ndarray

    def classes(self, classes_N: np.ndarray, void: int, min_inside: float) -> np.ndarray:
        """Class of each pixel, uint8; 0 outside of parcels, ``void`` where less of a parcel than
        ``min_inside`` is inside.
        """
        class_P = np.where(self.inside_P < min_inside, void, classes_N[self.parcels_P])
        classes_HW = np.zeros(self.parcel_HW.shape, np.uint8)
        inside_HW = self.parcel_HW >= 0
        classes_HW[inside_HW] = class_P[np.searchsorted(self.parcels_P, self.parcel_HW[inside_HW])]
        return classes_HW


class Canvas:
    """The parcels of a register on one grid, found quickly by window."""

    def __init__(self, register: Register, grid: GeoBox) -> None:
        outlines_N = to_pixels(
            moved(register.outlines_N, register.crs, crs_of(grid).to_wkt()), grid.affine
        )
        order_N = np.argsort(-shapely.area(outlines_N), kind="stable")  # the smallest is drawn last
        here_N = shapely.intersects(outlines_N[order_N], shapely.box(0, 0, grid.width, grid.height))
        self._position_N = order_N[here_N]
        self._outlines_N = outlines_N[self._position_N]
        self._tree = shapely.STRtree(self._outlines_N)

    def meeting(self, window: Window) -> np.ndarray:
        """Positions of the parcels that meet a window, drawn or not."""
        return self._position_N[self._found(window)]

    def contested(self, window: Window) -> int:
        """How many pixels of a window several parcels claim."""
        claims = [(outline, 1) for outline in self._outlines_N[self._found(window)]]
        if not claims:
            return 0
        shape_HW, transform = (
            (window.height, window.width),
            Affine.translation(window.left, window.top),
        )
        claims_HW = rasterize(
            claims, shape_HW, fill=0, transform=transform, merge_alg=MergeAlg.add, dtype="int32"
        )
        return int((claims_HW > 1).sum())

    def _found(self, window: Window) -> np.ndarray:
        """Places in the canvas of the parcels that meet a window, in the order in which they are
        drawn.
        """
        return np.sort(self._tree.query(pixel_box(window), predicate="intersects"))

    def draw(self, window: Window) -> Drawing:
        """The parcels of a window; some of its land may lie outside of the grid."""
        found = self._found(window)
        shape_HW, transform = (
            (window.height, window.width),
            Affine.translation(window.left, window.top),
        )
        if not len(found):
            nothing = np.empty(0, np.int64)
            return Drawing(np.full(shape_HW, -1, np.int32), nothing, nothing, np.empty(0))
        outlines = self._outlines_N[found]
        drawn = ((outline, number) for number, outline in enumerate(outlines, 1))
        number_HW = rasterize(drawn, shape_HW, fill=0, transform=transform, dtype="int32")
        parcel_HW = np.concatenate([[-1], self._position_N[found]])[number_HW].astype(np.int32)
        parcels_P, first_P, pixels_P = np.unique(
            parcel_HW[parcel_HW >= 0], return_index=True, return_counts=True
        )
        visible_P = outlines[number_HW[parcel_HW >= 0][first_P] - 1]
        inside_P = shapely.area(shapely.intersection(visible_P, pixel_box(window))) / shapely.area(
            visible_P
        )
        return Drawing(parcel_HW, parcels_P.astype(np.int64), pixels_P, inside_P)


def pixel_box(window: Window) -> shapely.Polygon:
    """A window as an outline in pixels (column, row)."""
    return shapely.box(
        window.left, window.top, window.left + window.width, window.top + window.height
    )


def moved(outlines_N: np.ndarray, crs: str, target: str) -> np.ndarray:
    """Valid outlines from one coordinate system in another; both as WKT."""
    if crs == target:
        return outlines_N
    # Mended again: a corner may move across a line that stays straight.
    return valid_outlines(
        gpd.GeoDataFrame(geometry=gpd.GeoSeries(outlines_N, crs=crs).to_crs(target))
    )


FIRST_ID = 10_000


@dataclass(frozen=True, eq=False)
class PlannedPatch:
    """A square of a cube.

    id: names its files. cube: its number. window: of the cube's pixels. parcels_P, pixels_P:
    positions of parcels in the register, ascending, and the pixels of each. cover: share of pixels
    in parcels with a known crop.
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

    squares: how many there are in all. bare: of them with too little cover. without_pixel: parcels
    inside of squares that have no pixel, too small or hidden by smaller ones. outside: parcels in
    no square. contested: pixels that several parcels claim.
    shared: patches that were left out because they share ground with a patch in another block of
    land.
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
        kept = tuple(
            patch
            for patch, shared in zip(self.patches, shared_N.tolist(), strict=True)
            if not shared
        )
        return replace(self, patches=kept, shared=int(shared_N.sum()))


def plan_patches(
    register: Register,
    canvases: Sequence[Canvas],
    grids: Sequence[GeoBox],
    table: ClassTable,
    options: DatasetOptions,
) -> Plan:
    """Cut each grid into squares from its upper left corner and keep those with enough cover.

    What remains at the right and lower edge, narrower than a square, is not used.
    """
    squares = [
        (cube, window) for cube, grid in enumerate(grids) for window in _squares(grid, options.size)
    ]
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
            patches.append(
                PlannedPatch(
                    FIRST_ID + number, cube, window, drawing.parcels_P, drawing.pixels_P, cover
                )
            )
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
