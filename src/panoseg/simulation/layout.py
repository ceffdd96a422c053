"""Landscapes around given parcels, which are kept exactly.

Shape suffixes: H W pixels, Y X cells, N cells of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from panoseg.errors import DatasetError
from panoseg.simulation.countryside import Countryside
from panoseg.simulation.draws import Style
from panoseg.simulation.landscape import CELL_M, CELLS, HECTARE_CELLS, PIXEL_M, Landscape, Plan
from panoseg.simulation.options import Material, Region, SimulationOptions

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyproj import Transformer
    from shapely import STRtree
    from shapely.geometry.base import BaseGeometry

_NARROW_PIXELS = 2.5
"""Half width in pixels up to which a gap between given parcels is a border."""
_GAP_PIECE_M = 350
"""Side in metres of the squares in which such gaps have one kind."""
_TRIES = 12
"""Number of places that are tried in a file of parcels, of which the fullest is taken."""
_FULL = 0.5
"""Share of a window in parcels from which no other place is tried."""


@dataclass(frozen=True)
class Layout:
    """A given map of parcels."""

    parcels_HW: np.ndarray
    """Integers, number of the parcel at each pixel, 0 for none."""
    classes_HW: np.ndarray | None = None
    """Integers, PASTIS class ids 0..19; None to draw crops."""
    cells_YX: np.ndarray | None = None
    """Integers, number of the parcel at each cell, three to a side of a pixel; by default those of
    the pixels.
    """


@dataclass(frozen=True, eq=False)
class ParcelFile:
    """Parcels of a place, out of which windows are cut."""

    outlines: Sequence[BaseGeometry]
    """Polygons."""
    crs: str
    """Coordinate system of the outlines, as pyproj takes it."""

    @classmethod
    def of(cls, parcels: GeoDataFrame) -> ParcelFile:
        """Take the outlines of a table; raise ``DatasetError`` where there is none."""
        if not len(parcels):
            raise DatasetError("The file of parcels holds no parcel; give another.")
        return cls(list(parcels.geometry), parcels.crs.to_wkt())

    def window(self, size: tuple[int, int], rng: np.random.Generator, scale: float = 1) -> Layout:
        """Cut a window around a parcel drawn at random, turned by any angle and mirrored.

        Args:
            size: Height and width in pixels.
            rng: The generator.
            scale: Factor on the area of parcels.
        """
        best = np.zeros((size[0] * CELLS, size[1] * CELLS), np.int32)
        for _ in range(_TRIES):
            cells_YX = self._cut(size, rng, scale)
            if (cells_YX > 0).mean() > (best > 0).mean() or not best.any():
                best = cells_YX
            if (best > 0).mean() >= _FULL:
                break
        return Layout(np.ascontiguousarray(best[1::CELLS, 1::CELLS]), None, best)

    def _cut(self, size: tuple[int, int], rng: np.random.Generator, scale: float) -> np.ndarray:
        import shapely
        from affine import Affine
        from rasterio.features import rasterize

        stretch = scale**0.5
        reach = 0.75 * max(size) * PIXEL_M / stretch
        anchor = self.outlines[int(rng.integers(len(self.outlines)))].centroid
        to_metres = _transformer(self.crs, anchor.x, anchor.y)
        middle = np.array(to_metres.transform(anchor.x, anchor.y))
        middle = middle + rng.uniform(-0.35, 0.35, 2) * reach
        turn, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
        (left, low), (right, high) = middle - reach, middle + reach
        box = to_metres.transform_bounds(left, low, right, high, direction="INVERSE")
        near = _tree(self).query(shapely.box(*box))
        pieces = shapely.transform(
            [self.outlines[int(index)] for index in near],
            lambda xy: np.stack(to_metres.transform(xy[:, 0], xy[:, 1]), axis=1) - middle,
        )
        shape_YX = size[0] * CELLS, size[1] * CELLS
        if not len(near):
            return np.zeros(shape_YX, np.int32)
        # Rows and columns of cells from metres around the middle.
        place = (
            Affine.scale(CELL_M * mirror / stretch, -CELL_M / stretch)
            @ Affine.translation(-shape_YX[1] / 2, -shape_YX[0] / 2)
        )  # fmt: skip
        place = Affine.rotation(np.degrees(turn)) @ place
        burnt: np.ndarray = rasterize(
            ((piece, number) for number, piece in enumerate(pieces, 1) if not piece.is_empty),
            out_shape=shape_YX,
            transform=place,
            dtype="int32",
        )
        return burnt


@lru_cache(maxsize=2)
def _tree(parcels: ParcelFile) -> STRtree:
    """Return an index of the outlines."""
    import shapely

    return shapely.STRtree(parcels.outlines)


@lru_cache(maxsize=64)
def _zone(crs: str, zone: int, south: bool) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(crs, (32700 if south else 32600) + zone, always_xy=True)


def _transformer(crs: str, x: float, y: float) -> Transformer:
    """Return the way from a coordinate system to the UTM zone of a place."""
    longitude, latitude = _degrees(crs).transform(x, y)
    zone = int(np.clip((longitude + 180) // 6 + 1, 1, 60))
    return _zone(crs, zone, latitude < 0)


@lru_cache(maxsize=8)
def _degrees(crs: str) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(crs, 4326, always_xy=True)


def check_layout(
    parcels_HW: np.ndarray, classes_HW: np.ndarray | None, size: tuple[int, int]
) -> None:
    """Raise ``DatasetError`` for maps of parcels and classes that cannot be simulated."""
    if parcels_HW.shape != tuple(size) or not np.issubdtype(parcels_HW.dtype, np.integer):
        raise DatasetError(
            f"The map of parcels must hold integers of shape {tuple(size)}, not {parcels_HW.dtype}"
            f" of shape {parcels_HW.shape}."
        )
    if parcels_HW.min() < 0 or parcels_HW.max() > np.iinfo(np.int32).max:
        raise DatasetError(
            "The map of parcels must hold numbers from 0 (none) to 2147483647; renumber them."
        )
    if classes_HW is not None and (
        classes_HW.shape != parcels_HW.shape or classes_HW.min() < 0 or classes_HW.max() > 19
    ):
        raise DatasetError(
            "The map of classes must have the shape of the map of parcels and PASTIS class ids"
            " 0..19; map its classes first."
        )


def landscape_of_parcels(
    layout: Layout,
    region: Region,
    style: Style,
    options: SimulationOptions,
    rng: np.random.Generator,
) -> Landscape:
    """Make the landscape of given parcels.

    Narrow gaps between parcels become verges, tracks, roads or hedges; wide ones become woods,
    villages and grassland.

    Args:
        layout: The parcels.
        region: The kind of countryside.
        style: What the season is like.
        options: How it is simulated.
        rng: The generator.
    """
    from scipy import ndimage

    parcels_HW, classes_HW = layout.parcels_HW, layout.classes_HW
    if style.real:
        rest = replace(style, fields_share=0.0, village_share=rng.uniform(0, 0.6), drawn=False)
        plan: Plan = Countryside(parcels_HW.shape, region, rest, options, rng)
    else:
        plan = Plan(parcels_HW.shape, region, options, rng)
    free_HW = parcels_HW == 0
    deep_HW = (
        ndimage.distance_transform_edt(np.pad(free_HW, 3, mode="edge"))[3:-3, 3:-3] > _NARROW_PIXELS
    )
    wide_HW = ndimage.binary_dilation(deep_HW, iterations=2) & free_HW
    wide_N, narrow_N = _fine(wide_HW), _fine(free_HW & ~wide_HW)
    number_N = _fine(parcels_HW) if layout.cells_YX is None else layout.cells_YX.ravel()
    if layout.cells_YX is not None:
        narrow_N = (number_N == 0) & ~wide_N
        wide_N &= number_N == 0
    if isinstance(plan, Countryside):
        plan.fill(np.flatnonzero(wide_N), np.flatnonzero(narrow_N))
    else:
        _fill_wide(plan, np.flatnonzero(wide_N))
        _fill_narrow(plan, np.flatnonzero(narrow_N))
    names = _place_parcels(plan, number_N, _classes_of(parcels_HW, classes_HW))
    drawn = plan.landscape(0)
    return replace(
        drawn,
        parcel_U=names[drawn.parcel_U],
        parcels_HW=parcels_HW.astype(np.int32),
        classes_HW=drawn.classes_HW if classes_HW is None else classes_HW.astype(np.uint8),
    )


def _classes_of(parcels_HW: np.ndarray, classes_HW: np.ndarray | None) -> dict[int, int]:
    """Return the class of each parcel, none where none is given."""
    if classes_HW is None:
        return {}
    ids, first = np.unique(parcels_HW, return_index=True)
    return dict(zip(ids.tolist(), classes_HW.ravel()[first].tolist(), strict=True))


def _fine(values_HW: np.ndarray) -> np.ndarray:
    """Repeat pixels to cells, flat."""
    return values_HW.repeat(CELLS, 0).repeat(CELLS, 1).ravel()


def _place_parcels(plan: Plan, number_N: np.ndarray, class_of: dict[int, int]) -> np.ndarray:
    """Make one unit of each parcel; return the given numbers by those of the plan."""
    ids, position_N = np.unique(number_N, return_inverse=True)
    order_N = np.argsort(position_N, kind="stable")
    ends = np.cumsum(np.bincount(position_N, minlength=ids.size))
    names = [0]
    for parcel, cells_N in zip(ids.tolist(), np.split(order_N, ends[:-1]), strict=True):
        if parcel == 0:
            continue
        given = class_of.get(parcel, 0)
        crop = (
            given if 1 <= given <= 18 else int(plan.rng.choice(plan.crop_ids, p=plan.crop_weights))
        )
        plan.parcels += 1
        plan.unit(cells_N, crop, plan.parcels, _direction(plan, cells_N))
        names.append(parcel)
    return np.array(names, np.int32)


def _direction(plan: Plan, cells_N: np.ndarray) -> float:
    """Return the direction of the longest extent, along which rows usually run, radians."""
    x_N, y_N = plan.x_N[cells_N], plan.y_N[cells_N]
    if cells_N.size < 2:
        return 0.0
    covariance = np.cov(x_N, y_N)
    return float(0.5 * np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1]))


def _fill_narrow(plan: Plan, cells_N: np.ndarray) -> None:
    """Fill narrow gaps, square by square."""
    kinds = [Material.GRASS, Material.TRACK, Material.ASPHALT, Material.HEDGE]
    piece_N = (
        plan.x_N[cells_N] // _GAP_PIECE_M * 31 + plan.y_N[cells_N] // _GAP_PIECE_M * 17
    ).astype(np.int64)
    for piece in np.unique(piece_N):
        plan.unit(cells_N[piece_N == piece], int(plan.rng.choice(kinds, p=[0.4, 0.2, 0.2, 0.2])))


def _fill_wide(plan: Plan, cells_N: np.ndarray) -> None:
    """Fill wide gaps with woods, idle land and villages."""
    rng, angle = plan.rng, float(plan.rng.uniform(0, np.pi))
    nodes = [cells_N]
    while nodes:
        cells_N = nodes.pop()
        if cells_N.size == 0:
            continue
        use = rng.random()
        if cells_N.size > HECTARE_CELLS * rng.lognormal(np.log(6), 0.5):
            nodes += plan.cut(cells_N, angle + rng.normal(0, 0.3)).halves
        elif use < 0.4:
            plan.unit(cells_N, Material.CONIFER if rng.random() < 0.25 else Material.BROADLEAF)
        elif use < 0.75:
            plan.idle(cells_N, angle)
        else:
            plan.village(cells_N, angle, declared=0.0)
