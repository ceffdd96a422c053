"""A plan of overlapping tiles over an area, and of the windows of land in which they are read,
predicted and joined.

Two tiles that lie side by side see a strip in common, in which their parcels are recognised as the
same.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from panoseg.cube.window import Window
from panoseg.errors import ConfigError
from panoseg.files import atomic
from panoseg.panoptic.join import Tile
from panoseg.panoptic.panoptic import Segments


@dataclass(frozen=True)
class Block:
    """Tiles that are read together: ``window`` encloses them; ``tiles`` are in coordinates of the
    whole area.

    land: the part of ``window`` that is this block's own; the lands of all blocks cover the area,
    each pixel once.
    """

    window: Window
    land: Window
    tiles: tuple[Window, ...]


def plan_blocks(
    height: int, width: int, tile: int = 128, overlap: int = 40, block: int = 512
) -> list[Block]:
    """Tiles that cover height x width pixels, in blocks whose sides are at most ``block`` pixels
    (or one tile).

    Blocks come by rows, from left to right. Every tile has the side ``tile``, or the area's where
    that is smaller; neighbours share at least ``overlap`` pixels. Raises ``ConfigError`` where the
    overlap leaves no way forward.

    >>> [(b.window.columns, b.land.columns, len(b.tiles)) for b in plan_blocks(100, 300, tile=128, overlap=40, block=256)]
    [(slice(0, 216, None), slice(0, 172, None), 2), (slice(172, 300, None), slice(172, 300, None), 1)]
    """
    if not 0 <= overlap < tile:
        raise ConfigError(
            f"an overlap of {overlap} pixels on tiles of {tile}",
            "less than the tile",
            "lower --overlap",
        )
    rows = _in_runs(_starts(height, tile, overlap), tile, block)
    columns = _in_runs(_starts(width, tile, overlap), tile, block)
    side_y, side_x = min(tile, height), min(tile, width)
    next_top, next_left = (
        [*(run[0] for run in rows[1:]), height],
        [*(run[0] for run in columns[1:]), width],
    )
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


Save = Callable[[int, bytes], None]
"""Takes a finished window, with its number."""
_KEPT_WINDOWS = 64
"""In memory: a tile takes one or two bytes a pixel. A row of windows of a scene of Sentinel-2, and
some of the next.
"""


@dataclass(frozen=True, eq=False)
class FinishedWindow:
    """The tiles of a window, and where the window has data: bool, H x W."""

    tiles: Sequence[Tile]
    data_HW: np.ndarray


def to_bytes(finished: FinishedWindow) -> bytes:
    """A finished window for a file, or for the way from a worker; the same window gives the same
    bytes.
    """
    tables = [tile.segments for tile in finished.tiles]
    arrays = dict(vars(Segments.concatenate(tables)))
    arrays["positions"] = np.stack([tile.position_hw for tile in finished.tiles])
    arrays["counts"] = np.array([len(table) for table in tables])
    arrays["data"] = np.packbits(finished.data_HW)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def from_bytes(content: bytes, block: Block) -> FinishedWindow | None:
    """Undo ``to_bytes``; None for bytes that are damaged, or of another block."""
    shape_HW = block.window.height, block.window.width
    try:
        with np.load(io.BytesIO(content)) as saved:
            ends = np.cumsum(saved["counts"])[:-1]
            columns = [np.split(saved[field.name], ends) for field in fields(Segments)]
            rows = zip(block.tiles, saved["positions"], *columns, strict=True)
            tiles = [
                Tile(window, position_hw, Segments(*table)) for window, position_hw, *table in rows
            ]
            data_HW = (
                np.unpackbits(saved["data"], count=shape_HW[0] * shape_HW[1])
                .reshape(shape_HW)
                .astype(bool)
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = all(tile.position_hw.shape == (tile.window.height, tile.window.width) for tile in tiles)
    return FinishedWindow(tiles, data_HW) if fits else None


def _empty(block: Block) -> FinishedWindow:
    """A window without data; its arrays take no memory."""
    nothing, zero = Segments.of([]), np.zeros(1, np.uint8)
    tiles = [
        Tile(tile, np.broadcast_to(zero, (tile.height, tile.width)), nothing)
        for tile in block.tiles
    ]
    return FinishedWindow(
        tiles, np.broadcast_to(np.zeros(1, bool), (block.window.height, block.window.width))
    )


class WindowFiles:
    """The windows of a plan in a folder. Any number of them may be there already; a damaged file
    counts as none.

    outside: numbers of windows that have no land to be mapped: they have neither data nor a file.
    """

    def __init__(
        self, folder: Path, blocks: Sequence[Block], outside: Collection[int] = ()
    ) -> None:
        self.folder, self.blocks, self.outside = folder, blocks, frozenset(outside)
        self._kept: OrderedDict[int, FinishedWindow] = OrderedDict()
        places = [
            (tile.top, tile.left, number, row)
            for number, block in enumerate(blocks)
            for row, tile in enumerate(block.tiles)
        ]
        self._tiles = [(number, row) for *_, number, row in sorted(places)]

    def path(self, number: int) -> Path:
        """The file of a window."""
        return self.folder / f"window-{number:06d}.npz"

    def missing(self) -> list[int]:
        """The windows that are still to be predicted."""
        inside = (number for number in range(len(self.blocks)) if number not in self.outside)
        return [number for number in inside if self._read(number) is None]

    def save(self, number: int, content: bytes) -> None:
        """Write a finished window, atomically."""
        with atomic(self.path(number)) as temporary:
            temporary.write_bytes(content)

    def load(self, number: int) -> FinishedWindow:
        """A finished window; the last few are kept in memory."""
        if number in self.outside:
            return _empty(self.blocks[number])
        if number not in self._kept:
            finished = self._read(number)
            if finished is None:
                raise RuntimeError(f"{self.path(number)} has gone while the map was made")
            self._kept[number] = finished
            if len(self._kept) > _KEPT_WINDOWS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def tile_windows(self) -> list[Window]:
        """Where each tile of the map lies, by row, then column."""
        return [self.blocks[number].tiles[row] for number, row in self._tiles]

    def tile(self, place: int) -> Tile:
        """A tile by its place in ``tile_windows``."""
        number, row = self._tiles[place]
        return self.load(number).tiles[row]

    def data(self, number: int) -> np.ndarray:
        """Where the land of a block has data: bool, H x W."""
        land, window = self.blocks[number].land, self.blocks[number].window
        top, left = land.top - window.top, land.left - window.left
        return self.load(number).data_HW[top : top + land.height, left : left + land.width]

    def _read(self, number: int) -> FinishedWindow | None:
        try:
            return from_bytes(self.path(number).read_bytes(), self.blocks[number])
        except OSError:
            return None
