"""Landscapes around given parcels, which are kept exactly.

Shape suffixes: H W pixels, N cells of a node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from panoseg.errors import DatasetError
from panoseg.simulation.landscape import CELLS, HECTARE_CELLS, Landscape, Plan
from panoseg.simulation.options import Material, Region, SimulationOptions

_NARROW_PIXELS = 2.5
"""Half width in pixels up to which a gap between given parcels is a border."""
_GAP_PIECE_M = 350
"""Side in metres of the squares in which such gaps have one kind."""


@dataclass(frozen=True)
class Layout:
    """A given map of parcels."""

    parcels_HW: np.ndarray
    """Integers, number of the parcel at each pixel, 0 for none."""
    classes_HW: np.ndarray | None = None
    """Integers, PASTIS class ids 0..19; None to draw crops."""


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
    parcels_HW: np.ndarray,
    classes_HW: np.ndarray | None,
    region: Region,
    options: SimulationOptions,
    rng: np.random.Generator,
) -> Landscape:
    """Make the landscape of given parcels.

    Narrow gaps between parcels become verges, tracks, roads or hedges; wide ones become woods,
    villages and grassland.

    Args:
        parcels_HW: Integers, number of the parcel at each pixel, 0 for none.
        classes_HW: PASTIS class ids; None to draw crops.
        region: The kind of countryside.
        options: How it is simulated.
        rng: The generator.
    """
    from scipy import ndimage

    plan = Plan(parcels_HW.shape, region, options, rng)
    free_HW = parcels_HW == 0
    deep_HW = (
        ndimage.distance_transform_edt(np.pad(free_HW, 3, mode="edge"))[3:-3, 3:-3] > _NARROW_PIXELS
    )
    wide_HW = ndimage.binary_dilation(deep_HW, iterations=2) & free_HW
    _fill_wide(plan, np.flatnonzero(_fine(wide_HW)))
    _fill_narrow(plan, np.flatnonzero(_fine(free_HW & ~wide_HW)))
    names = _place_parcels(plan, parcels_HW, classes_HW)
    drawn = plan.landscape(0)
    return replace(
        drawn,
        parcel_U=names[drawn.parcel_U],
        parcels_HW=parcels_HW.astype(np.int32),
        classes_HW=drawn.classes_HW if classes_HW is None else classes_HW.astype(np.uint8),
    )


def _fine(values_HW: np.ndarray) -> np.ndarray:
    """Repeat pixels to cells, flat."""
    return values_HW.repeat(CELLS, 0).repeat(CELLS, 1).ravel()


def _place_parcels(plan: Plan, parcels_HW: np.ndarray, classes_HW: np.ndarray | None) -> np.ndarray:
    """Make one unit of each parcel; return the given numbers by those of the plan."""
    ids, first, number_HW = np.unique(parcels_HW, return_index=True, return_inverse=True)
    number_N = _fine(number_HW.reshape(parcels_HW.shape))
    order_N = np.argsort(number_N, kind="stable")
    ends = np.cumsum(np.bincount(number_N, minlength=ids.size))
    names = [0]
    for parcel, at, cells_N in zip(ids.tolist(), first, np.split(order_N, ends[:-1]), strict=True):
        if parcel == 0:
            continue
        given = 0 if classes_HW is None else int(classes_HW.ravel()[at])
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
