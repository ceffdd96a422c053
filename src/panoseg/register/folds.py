"""Folds that are apart on the ground: blocks of land are dealt out whole, and a parcel that lies in two folds stays in one.

Shape suffixes: B blocks, K classes, F folds, N parcels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panoseg.errors import DatasetError

_BLOCKS_A_FOLD = 4
_SIDES = (8, 4, 2, 1)


def blocks_of(centres_2: np.ndarray, patch_m: float, side: int | None, folds: int) -> tuple[np.ndarray, int]:
    """The number of each patch's block, int64 from 0, and how many patches a block has on a side.

    centres_2: N x 2, metres from the upper left corner of the first cube. side: asked for; None takes the largest of 8, 4, 2
    and 1 that gives each of ``folds`` four blocks, else 1. Raises ``DatasetError`` for fewer blocks than folds.
    """
    for candidate in _SIDES if side is None else (side,):
        corners_2 = np.floor(centres_2 / (patch_m * candidate)).astype(np.int64)
        block_of = np.unique(corners_2, axis=0, return_inverse=True)[1].reshape(-1) if len(corners_2) else np.empty(0, np.int64)
        count = int(block_of.max(initial=-1)) + 1
        if count >= folds * (_BLOCKS_A_FOLD if side is None and candidate > 1 else 1):
            return block_of, candidate
    raise DatasetError(
        f"{len(centres_2)} usable patches in {count} blocks",
        f"a block for each of {folds} folds or sets",
        "take a larger area, a smaller --size, a smaller --block, or lower --min-cover, --min-dates or --min-clear",
    )


def deal(amounts_BK: np.ndarray, weights_F: Sequence[float]) -> np.ndarray:
    """The fold of each block, so that each fold gets about its share of every class; int64, each fold has a block at least.

    amounts_BK: what a block has of each class (pixels), in which patches may be one column. Blocks are taken from the largest,
    and each goes where it brings sum over folds and classes of amount^2 / share closest to its least value, which is reached
    where all folds have their share.

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
    parcels: Sequence[np.ndarray], pixels: Sequence[np.ndarray], fold_of: Sequence[int], parcel_count: int, folds: int
) -> np.ndarray:
    """The fold that has most pixels of each parcel, the first of equals; int64, N.

    parcels, pixels: of each patch the positions of its parcels and the pixels of each. fold_of: of each patch.
    """
    pixels_FN = np.zeros((folds, parcel_count), np.int64)
    for positions, counts, fold in zip(parcels, pixels, fold_of, strict=True):
        pixels_FN[fold, positions] += counts
    return pixels_FN.argmax(axis=0)
