"""Rasters of a map in tiles of Web Mercator, read and warped by rio-tiler.

Shape suffixes: C bands, H W pixels of a tile.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from rio_tiler.io import Reader

from panoseg.app.coordinates import MERCATOR, transformer
from panoseg.errors import NotFoundError

SIZE = 256
"""Pixels on a side of a tile."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def stamp_of(path: Path) -> int:
    """A number that is another one once the file is. Raises ``NotFoundError``."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError("this layer", "one of a map that is done", "wait until it is done") from error


def read_tile(path: Path, box: Box, indexes: tuple[int, ...] = (1,), smooth: bool = False, fill: int = 0) -> np.ndarray | None:
    """The numbers of a raster in the tile with this box in Web Mercator, C x 256 x 256; None where it does not reach.

    indexes: of the bands, from 1. smooth: mixed of neighbouring pixels, rather than one of them. fill: where there are no data.
    """
    left, _, right, top = box
    scale = SIZE / (right - left)
    resampling = "bilinear" if smooth else "nearest"
    with Reader(str(path)) as source:
        west, south, east, north = transformer(source.crs.to_wkt(), MERCATOR).transform_bounds(*source.bounds)
        columns = _steps((west - left) * scale, (east - left) * scale)
        rows = _steps((top - north) * scale, (top - south) * scale)
        if not columns or not rows:
            return None
        # Only what the raster has of the tile is asked for: of all of it rio-tiler would warp every pixel at the raster's own
        # size, which is the whole world in a tile of zoom level 0.
        part = source.part(
            (left + columns.start / scale, top - rows.stop / scale, left + columns.stop / scale, top - rows.start / scale),
            dst_crs=MERCATOR,
            bounds_crs=MERCATOR,
            indexes=indexes,
            width=len(columns),
            height=len(rows),
            resampling_method=resampling,
            reproject_method=resampling,
        )
    tile_CHW = np.full((len(indexes), SIZE, SIZE), fill, part.array.dtype)
    tile_CHW[:, rows.start : rows.stop, columns.start : columns.stop] = part.array.filled(fill)
    return tile_CHW


def _steps(first: float, last: float) -> range:
    """The pixels of a tile between two places along one of its sides."""
    if not (math.isfinite(first) and math.isfinite(last)):
        return range(0)
    return range(max(0, math.floor(first)), min(SIZE, math.ceil(last)))
