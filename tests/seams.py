"""Where a map made of tiles betrays them: straight pieces of border along their lines that nothing
on the land explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import maximum_filter

from panoseg.maps.windows import plan_blocks

SHORTEST, NEAR = 6, 2
"""Pixels of border that make a seam, and how far from it another map's border explains it."""


def tile_lines(size: int, tile: int, overlap: int) -> list[int]:
    """The lines of a square map at which tiles begin, end, and leave pixels to the next one; line x
    lies before column x.
    """
    starts = sorted(
        {own.left for block in plan_blocks(size, size, tile, overlap) for own in block.tiles}
    )
    ends = [start + tile for start in starts]
    middles = [(start + end + 1) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)]
    return sorted({line for line in (*starts, *ends, *middles) if 0 < line < size})


def seams(
    segment_HW: np.ndarray, others: Sequence[np.ndarray], lines: Iterable[int]
) -> list[tuple[str, int, int, int]]:
    """Straight pieces of border on lines, far from any border of the other maps: direction, line,
    first pixel and length.
    """
    near_HW = maximum_filter(
        np.any([_at_borders(other_HW) for other_HW in others], axis=0), 2 * NEAR + 1
    )
    lines = list(lines)
    return [
        (name, line, start, length)
        for name, own_HW, excused_HW in (
            ("down", segment_HW, near_HW),
            ("across", segment_HW.T, near_HW.T),
        )
        for line in lines
        for start, length in _runs(
            (own_HW[:, line] != own_HW[:, line - 1])
            & ~excused_HW[:, line]
            & ~excused_HW[:, line - 1]
        )
        if length >= SHORTEST
    ]


def _at_borders(segment_HW: np.ndarray) -> np.ndarray:
    """Pixels on either side of a border."""
    found_HW = np.zeros(segment_HW.shape, bool)
    for own_HW, before_HW, after_HW in (
        (found_HW, segment_HW[:, :-1], segment_HW[:, 1:]),
        (found_HW.T, segment_HW.T[:, :-1], segment_HW.T[:, 1:]),
    ):
        differs = before_HW != after_HW
        own_HW[:, :-1] |= differs
        own_HW[:, 1:] |= differs
    return found_HW


def _runs(true_H: np.ndarray) -> list[tuple[int, int]]:
    """First place and length of each unbroken run."""
    changes = np.flatnonzero(np.diff(true_H.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end - start)) for start, end in changes.reshape(-1, 2)]
