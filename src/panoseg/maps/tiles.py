"""A plan of overlapping tiles over an area, and of the windows of land in which they are read, predicted and joined.

Two tiles that lie side by side see a strip in common, in which their parcels are recognised as the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.cube.window import Window
from panoseg.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Tiles that are read together: ``window`` encloses them; ``tiles`` are in coordinates of the whole area.

    land: the part of ``window`` that is this block's own; the lands of all blocks cover the area, each pixel once.
    """

    window: Window
    land: Window
    tiles: tuple[Window, ...]


def plan_blocks(height: int, width: int, tile: int = 128, overlap: int = 40, block: int = 512) -> list[Block]:
    """Tiles that cover height x width pixels, in blocks whose sides are at most ``block`` pixels (or one tile).

    Blocks come by rows, from left to right. Every tile has the side ``tile``, or the area's where that is smaller; neighbours
    share at least ``overlap`` pixels. Raises ``ConfigError`` where the overlap leaves no way forward.

    >>> [(b.window.columns, b.land.columns, len(b.tiles)) for b in plan_blocks(100, 300, tile=128, overlap=40, block=256)]
    [(slice(0, 216, None), slice(0, 172, None), 2), (slice(172, 300, None), slice(172, 300, None), 1)]
    """
    if not 0 <= overlap < tile:
        raise ConfigError(f"an overlap of {overlap} pixels on tiles of {tile}", "less than the tile", "lower --overlap")
    rows = _in_runs(_starts(height, tile, overlap), tile, block)
    columns = _in_runs(_starts(width, tile, overlap), tile, block)
    side_y, side_x = min(tile, height), min(tile, width)
    next_top, next_left = [*(run[0] for run in rows[1:]), height], [*(run[0] for run in columns[1:]), width]
    return [
        Block(
            Window(tops[0], lefts[0], tops[-1] + side_y - tops[0], lefts[-1] + side_x - lefts[0]),
            Window(tops[0], lefts[0], bottom - tops[0], right - lefts[0]),
            tuple(Window(top, left, side_y, side_x) for top in tops for left in lefts),
        )
        for tops, bottom in zip(rows, next_top, strict=True)
        for lefts, right in zip(columns, next_left, strict=True)
    ]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along an axis; the last tile ends with the axis."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def _in_runs(starts: list[int], tile: int, block: int) -> list[list[int]]:
    """Consecutive starts whose tiles span at most ``block`` pixels, in runs."""
    runs = [[starts[0]]]
    for start in starts[1:]:
        if start + tile - runs[-1][0] <= block:
            runs[-1].append(start)
        else:
            runs.append([start])
    return runs
