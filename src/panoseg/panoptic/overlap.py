"""Pixels that the segments of two rasters share: what matching, joining and scoring all start from.

Shape suffixes: H W pixels, P pairs of segments that share pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Overlap:
    """Every pair of positions that meet, and how often. All int64, P; position 0 is "no segment"."""

    first_P: np.ndarray
    second_P: np.ndarray
    pixels_P: np.ndarray


def overlap(first_HW: np.ndarray, second_HW: np.ndarray, first_count: int, second_count: int) -> Overlap:
    """The table of shared pixels of two rasters of positions 0 .. count.

    >>> table = overlap(np.array([[1, 1, 0, 0], [1, 1, 2, 2]]), np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), 2, 1)
    >>> for row in zip(table.first_P, table.second_P, table.pixels_P):
    ...     print(*row)
    0 0 1
    0 1 1
    1 1 4
    2 1 2
    """
    width = second_count + 1
    code_HW = np.multiply(first_HW, width, dtype=np.int64)
    code_HW += second_HW
    codes = (first_count + 1) * width
    if codes <= 4 * code_HW.size:
        count = np.bincount(code_HW.ravel(), minlength=codes)
        present = np.flatnonzero(count)
        pixels_P = count[present]
    else:
        present, pixels_P = np.unique(code_HW, return_counts=True)
    return Overlap(present // width, present % width, pixels_P)


def overlap_of_colours(first_3HW: np.ndarray, second_3HW: np.ndarray) -> Overlap:
    """The table of shared pixels of two rasters of ids as colours, uint8, with the ids in place of positions, ascending.

    An id is red + 256 green + 65536 blue. Runs of equal pairs are counted instead of pixels, which costs no more for large
    ids than for small ones, and a tenth of the time of sorting pixels.

    >>> first = np.array([[[7, 7, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> second = np.array([[[0, 0, 0, 0]], [[2, 2, 2, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> table = overlap_of_colours(first, second)
    >>> table.first_P, table.second_P, table.pixels_P
    (array([0, 0, 7]), array([  0, 512, 512]), array([1, 1, 2]))
    """
    planes = [plane_HW.ravel() for plane_HW in (*second_3HW, *first_3HW)]
    size = planes[0].size
    changes = np.ones(size, bool)
    changes[1:] = False
    for plane in planes:
        changes[1:] |= plane[1:] != plane[:-1]
    starts = np.flatnonzero(changes)
    code = sum(plane[starts].astype(np.int64) << 8 * place for place, plane in enumerate(planes))
    codes, pair = np.unique(code, return_inverse=True)
    pixels_P = np.bincount(pair, np.diff(starts, append=size), minlength=len(codes)).astype(np.int64)
    return Overlap(codes >> 24, codes & 2**24 - 1, pixels_P)
