"""Folds that are apart on the ground: blocks of land are dealt out whole, and a parcel that lies in
two folds stays in one.

Shape suffixes: B blocks, K classes, F folds, N patches (of ``blocks_of``) or parcels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from panoseg.errors import DatasetError
from panoseg.maps.outlines import shared_areas

_BLOCKS_A_FOLD = 4
_SMALLEST_SHARE_M2 = 1.0
"""Less is rounding where coordinate systems meet; a pixel has 100."""
_SIDES = (8, 4, 2, 1)


def blocks_of(
    outlines_N: np.ndarray,
    origin_m: tuple[float, float],
    patch_m: float,
    side: int | None,
    folds: int,
) -> tuple[np.ndarray, int]:
    """The number of each patch's block, int64 from 0, or -1 where it is left out; and how many
    patches a block has on a side.

    A patch lies in the square of land that holds its centre. Patches of one cube lie side by side,
    those of several may share
    ground: then one that shares ground with a patch before it in another block is left out, so that
    no two blocks overlap.

    outlines_N: patches as Polygon, in metres of one coordinate system. origin_m: a corner of the
    squares. patch_m: side of a patch. side: asked for; None takes the largest of 8, 4, 2 and 1 that
    gives each of ``folds`` four blocks, else 1. Raises ``DatasetError`` for fewer blocks than
    folds.
    """
    centres_N2 = shapely.get_coordinates(shapely.centroid(outlines_N)).reshape(-1, 2) - origin_m
    pairs = _sharing(outlines_N)
    for candidate in _SIDES if side is None else (side,):
        corners_N2 = np.floor(centres_N2 / (patch_m * candidate)).astype(np.int64)
        square_N = np.unique(corners_N2, axis=0, return_inverse=True)[1].reshape(-1)
        stays_N = _apart(square_N, pairs)
        count = len(np.unique(square_N[stays_N]))
        if count >= folds * (_BLOCKS_A_FOLD if side is None and candidate > 1 else 1):
            block_of = np.full(len(square_N), -1)
            block_of[stays_N] = np.unique(square_N[stays_N], return_inverse=True)[1]
            return block_of, candidate
    raise too_few_blocks(int(stays_N.sum()), count, folds)


def too_few_blocks(patches: int, blocks: int, folds: int) -> DatasetError:
    """What is raised where some fold would have no land."""
    return DatasetError(
        f"{patches} usable patches in {blocks} blocks",
        f"a block for each of {folds} folds or sets",
        "take a larger area, a smaller --size, a smaller --block, or lower --min-cover, --min-dates"
        " or --min-clear",
    )


def _sharing(outlines_N: np.ndarray) -> np.ndarray:
    """Pairs of patches that share ground, ascending: int64, pairs x 2, the first before the
    second.
    """
    first, second, shared_m2 = shared_areas(outlines_N, outlines_N)
    pairs = np.stack([first, second], axis=1)[(first < second) & (shared_m2 > _SMALLEST_SHARE_M2)]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _apart(square_N: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which patches stay, bool, so that those of two squares share no ground: each yields to those
    that stay before it.

    >>> _apart(np.array([0, 0, 1, 2]), np.array([[0, 1], [1, 2], [2, 3]])).tolist()
    [True, True, False, True]
    """
    stays_N = np.ones(len(square_N), bool)
    for first, second in pairs[square_N[pairs[:, 0]] != square_N[pairs[:, 1]]].tolist():
        stays_N[second] &= not stays_N[first]
    return stays_N


def deal(amounts_BK: np.ndarray, weights_F: Sequence[float]) -> np.ndarray:
    """The fold of each block, so that each fold gets about its share of every class; int64, each
    fold has a block at least.

    amounts_BK: what a block has of each class (pixels), in which patches may be one column. Blocks
    are taken from the largest, and each goes where it brings sum over folds and classes of amount^2
    / share closest to its least value, which is reached where all folds have their share.

    >>> deal(np.array([[4.0], [3], [3], [2], [2], [2]]), (0.5, 0.5)).tolist()
    [0, 1, 1, 0, 0, 1]
    """
    share_BK = amounts_BK / np.maximum(amounts_BK.sum(axis=0), 1e-9)
    weights = np.asarray(weights_F, np.float64)
    fold_of = np.empty(len(share_BK), np.int64)
    held_FK = np.zeros((len(weights), share_BK.shape[1]))
    empty = np.ones(len(weights), bool)
    order = np.argsort(-share_BK.sum(axis=1), kind="stable")
    for left, block in zip(range(len(order), 0, -1), order, strict=True):
        cost_F = ((2 * held_FK + share_BK[block]) * share_BK[block]).sum(axis=1) / weights
        if left <= empty.sum():
            cost_F[~empty] = np.inf
        fold = int(cost_F.argmin())
        fold_of[block], empty[fold] = fold, False
        held_FK[fold] += share_BK[block]
    return fold_of


def owners(
    parcels: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
    fold_of: Sequence[int],
    parcel_count: int,
    folds: int,
) -> np.ndarray:
    """The fold that has most pixels of each parcel, the first of equals; int64, N.

    parcels, pixels: of each patch the positions of its parcels and the pixels of each. fold_of: of
    each patch.
    """
    pixels_FN = np.zeros((folds, parcel_count), np.int64)
    for positions, counts, fold in zip(parcels, pixels, fold_of, strict=True):
        pixels_FN[fold, positions] += counts
    return pixels_FN.argmax(axis=0)
