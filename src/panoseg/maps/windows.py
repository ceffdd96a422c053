"""The windows of an unfinished map on disk.

Holds the plan of windows and tiles, the finished windows, and the fingerprint that makes two maps
the same, so that only the same command continues an unfinished map.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.season import Season, Window
from panoseg.errors import ConfigError, OutputError
from panoseg.files import (
    atomic,
    new_folder,
    output_error,
    remove,
    remove_folder,
    signature,
    write_json,
)
from panoseg.maps import MapOptions
from panoseg.models.weights import Weights
from panoseg.panoptic import Segments
from panoseg.panoptic.join import Tile
from panoseg.text_files import read_json

Save = Callable[[int, bytes], None]
"""Takes the number of a window and its content from ``to_bytes``."""


@dataclass(frozen=True)
class Block:
    """Tiles that are read, predicted and saved together. Coordinates are those of the whole map."""

    window: Window
    """The rectangle that encloses the tiles."""
    land: Window
    """The block's own part of ``window``; the lands of all blocks cover each pixel exactly once."""
    tiles: tuple[Window, ...]
    """The tiles, by rows."""


@dataclass(frozen=True, eq=False)
class FinishedWindow:
    """What was predicted for a block."""

    tiles: Sequence[Tile]
    """The segments of each tile, in the order of the block's tiles."""
    data_HW: np.ndarray
    """bool: where the block's window has data."""


def plan_blocks(
    height: int, width: int, tile: int = 128, overlap: int = 40, block: int = 512
) -> list[Block]:
    """Cover height x width pixels with tiles, grouped into blocks.

    >>> blocks = plan_blocks(100, 300, tile=128, overlap=40, block=256)
    >>> [(own.window.left, own.window.width, own.land.width, len(own.tiles)) for own in blocks]
    [(0, 216, 172, 2), (172, 128, 128, 1)]

    Args:
        height: Rows of the map.
        width: Columns of the map.
        tile: Side of a tile in pixels; the map's own size where that is smaller.
        overlap: Minimum overlap of neighbouring tiles in pixels.
        block: Maximum side of a block in pixels, unless one tile is larger.

    Returns:
        The blocks, by rows, from left to right.

    Raises:
        ConfigError: If the overlap is not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise ConfigError(
            f"--overlap must be from 0 to {tile - 1}, the tile's side, not {overlap}."
        )
    rows, next_tops = _runs(height, tile, overlap, block)
    columns, next_lefts = _runs(width, tile, overlap, block)
    side_y, side_x = min(tile, height), min(tile, width)
    return [
        Block(
            Window(tops[0], lefts[0], tops[-1] + side_y - tops[0], lefts[-1] + side_x - lefts[0]),
            Window(tops[0], lefts[0], bottom - tops[0], right - lefts[0]),
            tuple(Window(top, left, side_y, side_x) for top in tops for left in lefts),
        )
        for tops, bottom in zip(rows, next_tops, strict=True)
        for lefts, right in zip(columns, next_lefts, strict=True)
    ]


def _runs(length: int, tile: int, overlap: int, block: int) -> tuple[list[list[int]], list[int]]:
    """Group the tiles along an axis into runs that span at most ``block`` pixels.

    Returns:
        The first pixel of each tile, by run; and where the next run begins or the axis ends.
    """
    last = max(length - tile, 0)  # the last tile ends with the axis
    starts = [*range(0, last, tile - overlap), last]
    runs = [starts[:1]]
    for start in starts[1:]:
        if start + tile - runs[-1][0] <= block:
            runs[-1].append(start)
        else:
            runs.append([start])
    return runs, [*(run[0] for run in runs[1:]), length]


def to_bytes(finished: FinishedWindow) -> bytes:
    """Serialise a finished window; equal windows give equal bytes."""
    tables = [tile.segments for tile in finished.tiles]
    arrays = dict(vars(Segments.concatenate(tables)))
    arrays["positions"] = np.stack([tile.position_hw for tile in finished.tiles])
    arrays["counts"] = np.array([len(table) for table in tables])
    arrays["data"] = np.packbits(finished.data_HW)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def from_bytes(content: bytes, block: Block) -> FinishedWindow | None:
    """Undo ``to_bytes``; None if the bytes are damaged or belong to another block."""
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
    """Return a window without data; broadcasting keeps its arrays from taking memory."""
    nothing, zero = Segments.of([]), np.zeros(1, np.uint8)
    tiles = [
        Tile(tile, np.broadcast_to(zero, (tile.height, tile.width)), nothing)
        for tile in block.tiles
    ]
    return FinishedWindow(
        tiles, np.broadcast_to(np.zeros(1, bool), (block.window.height, block.window.width))
    )


class WindowFiles:
    """The finished windows of a map, one file each.

    Some may exist already, from an earlier start; a damaged file counts as missing.

    Args:
        folder: Where the files are.
        blocks: The plan of the map; windows are numbered by it.
        outside: Numbers of the windows outside of the mapped outline. They have no data and no
            file.
        kept: How many finished windows are kept in memory, at 1-2 bytes a pixel. The default is
            about one row of windows of a Sentinel-2 scene and part of the next.
    """

    def __init__(
        self,
        folder: Path,
        blocks: Sequence[Block],
        outside: Collection[int] = (),
        kept: int = 64,
    ) -> None:
        self.folder, self.blocks, self.outside, self.kept = folder, blocks, frozenset(outside), kept
        self._kept: OrderedDict[int, FinishedWindow] = OrderedDict()
        places = [
            (tile.top, tile.left, number, row)
            for number, block in enumerate(blocks)
            for row, tile in enumerate(block.tiles)
        ]
        self._tiles = [(number, row) for *_, number, row in sorted(places)]

    def path(self, number: int) -> Path:
        """Return the file of a window."""
        return self.folder / f"window-{number:06d}.npz"

    def missing(self) -> list[int]:
        """Return the numbers of the windows that are still to be predicted."""
        inside = (number for number in range(len(self.blocks)) if number not in self.outside)
        return [number for number in inside if self._read(number) is None]

    def save(self, number: int, content: bytes) -> None:
        """Write a finished window, atomically."""
        with atomic(self.path(number)) as temporary:
            temporary.write_bytes(content)

    def load(self, number: int) -> FinishedWindow:
        """Return a finished window; the most recently used ones are kept in memory."""
        if number in self.outside:
            return _empty(self.blocks[number])
        if number not in self._kept:
            finished = self._read(number)
            if finished is None:
                raise RuntimeError(f"{self.path(number)} disappeared while the map was made")
            self._kept[number] = finished
            if len(self._kept) > self.kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def tile_windows(self) -> list[Window]:
        """Return the place of each tile of the map, by top row, then left column."""
        return [self.blocks[number].tiles[row] for number, row in self._tiles]

    def tile(self, place: int) -> Tile:
        """Return a tile by its position in ``tile_windows``."""
        number, row = self._tiles[place]
        return self.load(number).tiles[row]

    def data(self, number: int) -> np.ndarray:
        """Return where the land of a block has data: bool, H x W."""
        land, window = self.blocks[number].land, self.blocks[number].window
        top, left = land.top - window.top, land.left - window.left
        return self.load(number).data_HW[top : top + land.height, left : left + land.width]

    def _read(self, number: int) -> FinishedWindow | None:
        try:
            return from_bytes(self.path(number).read_bytes(), self.blocks[number])
        except OSError:
            return None


UNFINISHED = "unfinished"
"""Name of the folder inside a map's folder that holds its finished windows."""
_PLAN = "plan.json"
_FREE_OPTIONS = (
    "min_area_ha",
    "simplify",
    "gpkg",
    "pmtiles",
    "rows_per_file",
    "year",
    "min_dates",
    "min_clear",
    "max_dates",
    "device",
)
"""Options that may differ between two starts: they do not change the predicted tiles, or only
through the dates, which are compared themselves.
"""


def fingerprint(
    path: Path,
    cube: xr.Dataset,
    season: Season,
    weights: Weights,
    options: MapOptions,
    outline: BaseGeometry | None,
) -> dict[str, Any]:
    """Return all that the predicted tiles depend on, as a JSON-ready dictionary."""
    digest = hashlib.sha256(json.dumps(weights.card.to_json(), sort_keys=True).encode())
    for name in sorted(weights.state):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights.state[name].cpu().numpy()).tobytes())
    return {
        "panoseg": panoseg.__version__,
        "cube": {
            "path": str(path.resolve()),
            "files": signature(path),
            "grid": str(cube.odc.geobox),
            "dates": season.dates_T.astype(str).tolist(),
        },
        "weights": digest.hexdigest(),
        "options": {
            name: value for name, value in options.to_json().items() if name not in _FREE_OPTIONS
        },
        "outline": None if outline is None else hashlib.sha256(outline.normalize().wkb).hexdigest(),
    }


def begin(out: Path, plan: dict[str, Any]) -> Path:
    """Create or continue a map in ``out``, and return the folder for its finished windows.

    Args:
        out: A folder that is new, empty, or holds an unfinished map of the same plan.
        plan: The result of ``fingerprint``.

    Raises:
        OutputError: For any other folder.
    """
    out = new_folder(out, resumable=UNFINISHED)
    work = out / UNFINISHED
    recorded = work / _PLAN
    if recorded.is_file():
        try:
            earlier = read_json(recorded)
        except ValueError:
            earlier = {}
        differing = [name for name in plan if earlier.get(name) != plan[name]]
        if differing:
            raise OutputError(
                f"{out} holds an unfinished map that differs in its {' and '.join(differing)}. Run"
                f" it with the same cube, weights and options, choose another folder, or remove"
                f" {work}."
            )
    else:
        # Windows without a plan are left when ``finish`` is killed. Folders stay: a temporary cube
        # may be there, with its own plan.
        try:
            for entry in work.glob("*"):
                if entry.is_file():
                    entry.unlink()
        except OSError as error:
            raise output_error(work, error) from error
        write_json(recorded, plan)
    return work


def finish(work: Path) -> None:
    """Remove the folder of a finished map.

    Its plan goes first, so that after a kill the windows that are left belong to no plan; then
    whole cubes.

    Raises:
        OutputError: If something cannot be removed.
    """
    try:
        (work / _PLAN).unlink()
        for cube in work.glob("*.zarr"):
            remove_folder(cube)
        remove(work)
    except OSError as error:
        raise output_error(work, error) from error
