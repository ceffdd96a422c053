"""Parcels drawn on the grid of a cube, window by window.

A pixel belongs to the parcel that covers its centre; where several do, to the smallest of them, so that a strip of flowers
that is declared inside of a field stays visible, whatever the order of the rows.

Shape suffixes: N parcels, P parcels of a window, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import MergeAlg
from rasterio.features import rasterize

from panoseg.cube.window import Window
from panoseg.maps.outlines import to_pixels
from panoseg.maps.read_parcels import valid_outlines
from panoseg.register.parcels import Register, crs_of


@dataclass(frozen=True, eq=False)
class Drawing:
    """The parcels of a window.

    parcel_HW: int32, position in the register, -1 for none. parcels_P, pixels_P: positions in ascending order, and how many
    pixels each has. inside_P: share of the parcel's area in the window, 0..1.
    """

    parcel_HW: np.ndarray
    parcels_P: np.ndarray
    pixels_P: np.ndarray
    inside_P: np.ndarray

    def classes(self, classes_N: np.ndarray, void: int, min_inside: float) -> np.ndarray:
        """Class of each pixel, uint8; 0 outside of parcels, ``void`` where less of a parcel than ``min_inside`` is inside."""
        class_P = np.where(self.inside_P < min_inside, void, classes_N[self.parcels_P])
        classes_HW = np.zeros(self.parcel_HW.shape, np.uint8)
        inside_HW = self.parcel_HW >= 0
        classes_HW[inside_HW] = class_P[np.searchsorted(self.parcels_P, self.parcel_HW[inside_HW])]
        return classes_HW


class Canvas:
    """The parcels of a register on one grid, found quickly by window."""

    def __init__(self, register: Register, grid: GeoBox) -> None:
        outlines_N = to_pixels(moved(register.outlines_N, register.crs, crs_of(grid).to_wkt()), grid.affine)
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
        shape_HW, transform = (window.height, window.width), Affine.translation(window.left, window.top)
        claims_HW = rasterize(claims, shape_HW, fill=0, transform=transform, merge_alg=MergeAlg.add, dtype="int32")
        return int((claims_HW > 1).sum())

    def _found(self, window: Window) -> np.ndarray:
        """Places in the canvas of the parcels that meet a window, in the order in which they are drawn."""
        return np.sort(self._tree.query(pixel_box(window), predicate="intersects"))

    def draw(self, window: Window) -> Drawing:
        """The parcels of a window; some of its land may lie outside of the grid."""
        found = self._found(window)
        shape_HW, transform = (window.height, window.width), Affine.translation(window.left, window.top)
        if not len(found):
            nothing = np.empty(0, np.int64)
            return Drawing(np.full(shape_HW, -1, np.int32), nothing, nothing, np.empty(0))
        outlines = self._outlines_N[found]
        drawn = ((outline, number) for number, outline in enumerate(outlines, 1))
        number_HW = rasterize(drawn, shape_HW, fill=0, transform=transform, dtype="int32")
        parcel_HW = np.concatenate([[-1], self._position_N[found]])[number_HW].astype(np.int32)
        parcels_P, first_P, pixels_P = np.unique(parcel_HW[parcel_HW >= 0], return_index=True, return_counts=True)
        visible_P = outlines[number_HW[parcel_HW >= 0][first_P] - 1]
        inside_P = shapely.area(shapely.intersection(visible_P, pixel_box(window))) / shapely.area(visible_P)
        return Drawing(parcel_HW, parcels_P.astype(np.int64), pixels_P, inside_P)


def pixel_box(window: Window) -> shapely.Polygon:
    """A window as an outline in pixels (column, row)."""
    return shapely.box(window.left, window.top, window.left + window.width, window.top + window.height)


def moved(outlines_N: np.ndarray, crs: str, target: str) -> np.ndarray:
    """Valid outlines from one coordinate system in another; both as WKT."""
    if crs == target:
        return outlines_N
    # Mended again: a corner may move across a line that stays straight.
    return valid_outlines(gpd.GeoDataFrame(geometry=gpd.GeoSeries(outlines_N, crs=crs).to_crs(target)))
