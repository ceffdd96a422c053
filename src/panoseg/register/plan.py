"""Rasterize parcels on the grid of a cube, choose the patches, and give each a fold.

Parcels are rasterized window by window. A pixel belongs to the parcel that covers its centre, and
if several do, to the smallest of them: a strip of flowers declared inside of a field stays visible,
in any order of the rows. Folds have no common land: they get whole blocks, and a parcel counts in
one fold.

Shape suffixes: N parcels or (in ``assign_blocks``) patches, P parcels of a window, H W pixels, B
blocks, K classes, F folds.
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
from panoseg.cube.season import Window
from panoseg.errors import DatasetError
from panoseg.maps.outlines import shared_areas, to_pixels
from panoseg.maps.read_parcels import valid_outlines
from panoseg.progress import track
from panoseg.register import DatasetOptions
from panoseg.register.parcels import Register, crs_of, void_of

FIRST_ID = 10_000
"""Id of the first square; ids of patches are places of their squares, counted from it."""


@dataclass(frozen=True, eq=False)
class ParcelWindow:
    """The parcels of a window."""

    parcel_HW: np.ndarray
    """int32: position in the register, -1 for none."""
    parcels_P: np.ndarray
    """int64: positions in the register, ascending."""
    pixels_P: np.ndarray
    """int64: pixels of each parcel."""
    inside_P: np.ndarray
    """float64, 0..1: share of the parcel's area in the window."""

    def classes(self, classes_N: np.ndarray, void: int, min_inside: float) -> np.ndarray:
        """Return the class of each pixel: uint8, H x W, 0 outside of parcels.

        Args:
            classes_N: Class of each parcel of the register.
            void: Class of parcels of which less than ``min_inside`` lies in the window.
            min_inside: Share of the area of a parcel, 0..1.
        """
        class_P = np.where(self.inside_P < min_inside, void, classes_N[self.parcels_P])
        classes_HW = np.zeros(self.parcel_HW.shape, np.uint8)
        inside_HW = self.parcel_HW >= 0
        classes_HW[inside_HW] = class_P[np.searchsorted(self.parcels_P, self.parcel_HW[inside_HW])]
        return classes_HW


class ParcelGrid:
    """The parcels of a register on one grid, indexed by place."""

    def __init__(self, register: Register, grid: GeoBox) -> None:
        outlines_N = to_pixels(
            moved(register.outlines_N, register.crs, crs_of(grid).to_wkt()), grid.affine
        )
        order_N = np.argsort(-shapely.area(outlines_N), kind="stable")  # the smallest last, on top
        on_grid_N = shapely.intersects(
            outlines_N[order_N], shapely.box(0, 0, grid.width, grid.height)
        )
        self._position_N = order_N[on_grid_N]
        self._outlines_N = outlines_N[self._position_N]
        self._tree = shapely.STRtree(self._outlines_N)

    def intersecting(self, window: Window) -> np.ndarray:
        """Return the positions of the parcels that meet a window, with or without a pixel."""
        position_P: np.ndarray = self._position_N[self._found(window)]
        return position_P

    def contested_pixels(self, window: Window) -> int:
        """Return how many pixels of a window several parcels cover."""
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
        """Return the places here of the parcels that meet a window, in drawing order."""
        return np.sort(self._tree.query(pixel_box(window), predicate="intersects"))

    def rasterize(self, window: Window) -> ParcelWindow:
        """Return the parcels of a window; it may reach beyond the grid."""
        found = self._found(window)
        shape_HW, transform = (
            (window.height, window.width),
            Affine.translation(window.left, window.top),
        )
        if not len(found):
            nothing = np.empty(0, np.int64)
            return ParcelWindow(np.full(shape_HW, -1, np.int32), nothing, nothing, np.empty(0))
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
        return ParcelWindow(parcel_HW, parcels_P.astype(np.int64), pixels_P, inside_P)


def pixel_box(window: Window) -> shapely.Polygon:
    """Return a window as an outline in pixels (column, row)."""
    return shapely.box(
        window.left, window.top, window.left + window.width, window.top + window.height
    )


def moved(outlines_N: np.ndarray, crs: str, target: str) -> np.ndarray:
    """Return valid outlines in another coordinate system; both are WKT."""
    if crs == target:
        return outlines_N
    # Mended again: a corner may move across a line that stays straight.
    return valid_outlines(
        gpd.GeoDataFrame(geometry=gpd.GeoSeries(outlines_N, crs=crs).to_crs(target))
    )


@dataclass(frozen=True, eq=False)
class PlannedPatch:
    """A square of a cube that becomes a patch."""

    id: int
    """Names its files."""
    cube: int
    """Number of its cube."""
    window: Window
    """Its pixels in the cube."""
    parcels_P: np.ndarray
    """int64: positions of its parcels in the register, ascending."""
    pixels_P: np.ndarray
    """int64: pixels of each parcel."""
    cover: float
    """Share 0..1 of pixels in parcels with a known crop."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The patches with enough cover, by ascending id, and the counts of the others."""

    patches: tuple[PlannedPatch, ...]
    """Patches by ascending id."""
    squares: int
    """Number of squares in all."""
    bare: int
    """Squares with too little cover."""
    without_pixel: int
    """Parcels in squares without a pixel: too small, or hidden by smaller ones."""
    outside: int
    """Parcels in no square."""
    contested: int
    """Pixels that several parcels cover."""
    shared: int = 0
    """Patches left out because they share land with a patch in another block."""

    def without(self, shared_N: np.ndarray) -> Plan:
        """Return the plan without the patches of a mask, because they share land with others."""
        kept = tuple(
            patch
            for patch, shared in zip(self.patches, shared_N.tolist(), strict=True)
            if not shared
        )
        return replace(self, patches=kept, shared=int(shared_N.sum()))


def plan_patches(
    register: Register,
    parcel_grids: Sequence[ParcelGrid],
    grids: Sequence[GeoBox],
    table: ClassTable,
    options: DatasetOptions,
) -> Plan:
    """Cut each grid into squares from its upper left corner, and keep those with enough cover.

    What remains at the right and lower edge, narrower than a square, is not used.

    Args:
        register: The parcels.
        parcel_grids: The parcels on each grid.
        grids: Grids of the cubes.
        table: Classes of the layout.
        options: How patches are made.
    """
    squares = [
        (cube, window) for cube, grid in enumerate(grids) for window in _squares(grid, options.size)
    ]
    pixels_N = np.zeros(len(register.classes_N), np.int64)
    met_N = np.zeros(len(register.classes_N), bool)
    patches, contested = [], 0
    things = table.ids("thing")
    for number, (cube, window) in enumerate(track(squares, "drawing parcels")):
        window_parcels = parcel_grids[cube].rasterize(window)
        pixels_N[window_parcels.parcels_P] += window_parcels.pixels_P
        met_N[parcel_grids[cube].intersecting(window)] = True
        contested += parcel_grids[cube].contested_pixels(window)
        classes_HW = window_parcels.classes(register.classes_N, void_of(table), options.min_inside)
        cover = float(np.isin(classes_HW, things).mean())
        if cover >= options.min_cover and cover > 0:
            patches.append(
                PlannedPatch(
                    FIRST_ID + number,
                    cube,
                    window,
                    window_parcels.parcels_P,
                    window_parcels.pixels_P,
                    cover,
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


_BLOCKS_PER_FOLD = 4
# Less is rounding between coordinate systems; a pixel has 100.
_SMALLEST_SHARE_M2 = 1.0
_SIDES = (8, 4, 2, 1)


def assign_blocks(
    outlines_N: np.ndarray,
    origin_m: tuple[float, float],
    patch_m: float,
    side: int | None,
    folds: int,
) -> tuple[np.ndarray, int]:
    """Return the block of each patch, and how many patches a block has on a side.

    A patch belongs to the square of land that holds its centre. Patches of several cubes may share
    land: then one that shares land with an earlier patch in another block is left out, so that no
    two blocks overlap.

    Args:
        outlines_N: Patches as Polygon, in metres of one coordinate system.
        origin_m: A corner of the squares.
        patch_m: Side of a patch.
        side: Patches on a side of a block; None takes the largest of 8, 4, 2 and 1 that gives each
            fold four blocks, else 1.
        folds: Number of folds or sets.

    Returns:
        Number of the block of each patch, int64 from 0, or -1 if it is left out; and the side.

    Raises:
        DatasetError: There are fewer blocks than folds.
    """
    centres_N2 = shapely.get_coordinates(shapely.centroid(outlines_N)).reshape(-1, 2) - origin_m
    pairs = _overlapping_pairs(outlines_N)
    for candidate in _SIDES if side is None else (side,):
        corners_N2 = np.floor(centres_N2 / (patch_m * candidate)).astype(np.int64)
        square_N = np.unique(corners_N2, axis=0, return_inverse=True)[1].reshape(-1)
        stays_N = _disjoint(square_N, pairs)
        count = len(np.unique(square_N[stays_N]))
        if count >= folds * (_BLOCKS_PER_FOLD if side is None and candidate > 1 else 1):
            block_of = np.full(len(square_N), -1)
            block_of[stays_N] = np.unique(square_N[stays_N], return_inverse=True)[1]
            return block_of, candidate
    raise too_few_blocks_error(int(stays_N.sum()), count, folds)


def too_few_blocks_error(patches: int, blocks: int, folds: int) -> DatasetError:
    """Return the error for folds without land."""
    return DatasetError(
        f"The {patches} usable patches lie in {blocks} blocks, too few for {folds} folds or sets:"
        " take a larger area, a smaller --size, a smaller --block, or lower --min-cover,"
        " --min-dates or --min-clear."
    )


def _overlapping_pairs(outlines_N: np.ndarray) -> np.ndarray:
    """Return pairs of patches that share land, ascending: int64, pairs x 2.

    The first of a pair comes before the second.
    """
    first, second, shared_m2 = shared_areas(outlines_N, outlines_N)
    pairs = np.stack([first, second], axis=1)[(first < second) & (shared_m2 > _SMALLEST_SHARE_M2)]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _disjoint(square_N: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return which patches to keep, so that those of two squares share no land: bool.

    A patch yields to the earlier ones that are kept.

    >>> _disjoint(np.array([0, 0, 1, 2]), np.array([[0, 1], [1, 2], [2, 3]])).tolist()
    [True, True, False, True]
    """
    stays_N = np.ones(len(square_N), bool)
    for first, second in pairs[square_N[pairs[:, 0]] != square_N[pairs[:, 1]]].tolist():
        stays_N[second] &= not stays_N[first]
    return stays_N


def assign_folds(amounts_BK: np.ndarray, weights_F: Sequence[float]) -> np.ndarray:
    """Return the fold of each block (int64), so that each fold gets its share of every class.

    Blocks are taken from the largest. Each goes where the sum over folds and classes of amount^2 /
    weight grows least; the sum is smallest when all folds have their share. Every fold gets a
    block.

    >>> assign_folds(np.array([[4.0], [3], [3], [2], [2], [2]]), (0.5, 0.5)).tolist()
    [0, 1, 1, 0, 0, 1]

    Args:
        amounts_BK: Amount of each class in a block (pixels); the number of patches may be a column.
        weights_F: Share of each fold.
    """
    # Shares instead of pixels, so that rare classes count as much as common ones.
    share_BK = amounts_BK / np.maximum(amounts_BK.sum(axis=0), 1e-9)
    weights = np.asarray(weights_F, np.float64)
    fold_of = np.empty(len(share_BK), np.int64)
    held_FK = np.zeros((len(weights), share_BK.shape[1]))
    empty = np.ones(len(weights), bool)
    order = np.argsort(-share_BK.sum(axis=1), kind="stable")
    for left, block in zip(range(len(order), 0, -1), order, strict=True):
        cost_F = ((2 * held_FK + share_BK[block]) * share_BK[block]).sum(axis=1) / weights
        # So few blocks are left that each must go to a fold without one.
        if left <= empty.sum():
            cost_F[~empty] = np.inf
        fold = int(cost_F.argmin())
        fold_of[block], empty[fold] = fold, False
        held_FK[fold] += share_BK[block]
    return fold_of


def main_folds(
    parcels: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
    fold_of: Sequence[int],
    parcel_count: int,
    folds: int,
) -> np.ndarray:
    """Return the fold with most pixels of each parcel, the first of equals: int64, N.

    Args:
        parcels: Of each patch the positions of its parcels in the register.
        pixels: Of each patch the number of pixels of these parcels.
        fold_of: Fold of each patch.
        parcel_count: Number of parcels in the register.
        folds: Number of folds.
    """
    pixels_FN = np.zeros((folds, parcel_count), np.int64)
    for positions, counts, fold in zip(parcels, pixels, fold_of, strict=True):
        pixels_FN[fold, positions] += counts
    fold_N: np.ndarray = pixels_FN.argmax(axis=0)
    return fold_N
