"""Folds without common land: they get whole blocks, and a parcel counts in one fold.

Shape suffixes: B blocks, K classes, F folds, N patches (in ``assign_blocks``) or parcels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from panoseg.errors import DatasetError
from panoseg.maps.outlines import shared_areas

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
