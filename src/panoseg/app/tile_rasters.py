"""Rasters of a map in tiles of Web Mercator: read in pieces that are kept for the next tile, and laid into a tile.

A raster lies in a tile turned and stretched a little differently everywhere. Corners of a mesh are transformed exactly, what is
between them bilinearly, by Pillow (``Image.transform``), at a tenth of what opening and warping the file for each tile takes.

Shape suffixes: C bands, H W pixels of a part of a raster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.windows import Window

from panoseg.app.bounded_cache import BoundedCache
from panoseg.errors import NotFoundError

SIZE = 256
"""Pixels on a side of a tile."""
MERCATOR = "EPSG:3857"
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
_PIECE = 512
_CELLS = 6  # of the mesh, on a side
_MARGIN = 2
_PIECES = BoundedCache[np.ndarray](64 * 1024**2, lambda piece: piece.nbytes)


@dataclass(frozen=True)
class Raster:
    """A raster on disk. stamp: of the file, so that another one in its place is another raster. box: in Web Mercator."""

    path: Path
    stamp: int
    crs: str
    transform: Affine
    height: int
    width: int
    box: Box


@dataclass(frozen=True)
class Placed:
    """The part of a raster that a tile shows, and how it lies there.

    factor: pixels of the raster, on a side, of which a pixel of the part is made. left, top, width, height: of the part, in its
    own pixels. mesh: quadrilaterals of the part for rectangles of the tile, as Pillow takes them. full: whether the raster
    reaches over the whole tile.
    """

    raster: Raster
    factor: int
    left: int
    top: int
    width: int
    height: int
    mesh: tuple[tuple[tuple[int, int, int, int], tuple[float, ...]], ...]
    full: bool

    def read(self, smooth: bool) -> np.ndarray:
        """The numbers of the part, C x H x W. smooth: means of pixels rather than one of them."""
        first_row, first_column = self.top // _PIECE, self.left // _PIECE
        rows = range(first_row, (self.top + self.height - 1) // _PIECE + 1)
        columns = range(first_column, (self.left + self.width - 1) // _PIECE + 1)
        strips = [np.concatenate([_piece(self, row, column, smooth) for column in columns], axis=2) for row in rows]
        whole_CHW = strips[0] if len(strips) == 1 else np.concatenate(strips, axis=1)
        top, left = self.top - first_row * _PIECE, self.left - first_column * _PIECE
        return whole_CHW[:, top : top + self.height, left : left + self.width]

    def lay(self, part: Image.Image) -> Image.Image:
        """A picture of the part as it lies in the tile, pixels as squares; see-through, or black, where the raster is not."""
        return part.transform((SIZE, SIZE), Image.Transform.MESH, self.mesh, Image.Resampling.NEAREST)


def stamp_of(path: Path) -> int:
    """A number that is another one once the file is. Raises ``NotFoundError``."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError("this layer", "one of a map that is done", "wait until it is done") from error


@lru_cache(64)
def transformer(source: str, target: str) -> Transformer:
    """From one coordinate system to another, x before y; making one takes longer than a tile."""
    return Transformer.from_crs(source, target, always_xy=True)


def place(path: Path, box: Box) -> Placed | None:
    """How a raster lies in the tile with this box in Web Mercator; None where it does not reach. Raises ``NotFoundError``."""
    raster = _raster(path, stamp_of(path))
    left, _, right, top = box
    scale = SIZE / (right - left)
    west, east = ((x - left) * scale for x in (raster.box[0], raster.box[2]))
    north, south = ((top - y) * scale for y in (raster.box[3], raster.box[1]))
    columns, rows = _steps(west, east), _steps(north, south)
    if len(columns) < 2 or len(rows) < 2:
        return None
    x_HW, y_HW = np.meshgrid(left + columns / scale, top - rows / scale)
    own_x, own_y = transformer(MERCATOR, raster.crs).transform(x_HW, y_HW)
    pixel_x, pixel_y = ~raster.transform * (own_x, own_y)
    if not (np.isfinite(pixel_x).all() and np.isfinite(pixel_y).all()):
        return None
    return _placed(raster, columns, rows, pixel_x, pixel_y)


def _steps(first: float, last: float) -> np.ndarray:
    """Where cells of the mesh begin and end between two places of a tile, in whole pixels; fewer than two: nowhere."""
    start, end = max(0, math.floor(first)), min(SIZE, math.ceil(last))
    return np.unique(np.linspace(start, end, _CELLS + 1).round().astype(int)) if start < end else np.empty(0, int)


def _placed(raster: Raster, columns: np.ndarray, rows: np.ndarray, x_HW: np.ndarray, y_HW: np.ndarray) -> Placed | None:
    """x_HW, y_HW: the corners of the mesh in pixels of the raster."""
    finer = min(np.ptp(x_HW) / np.ptp(columns), np.ptp(y_HW) / np.ptp(rows))
    factor = 2 ** max(0, math.floor(math.log2(max(finer, 1))))
    width, height = -(-raster.width // factor), -(-raster.height // factor)
    inside = x_HW.min() >= 0 and y_HW.min() >= 0 and x_HW.max() <= raster.width and y_HW.max() <= raster.height
    x_HW, y_HW = x_HW / factor, y_HW / factor
    left, right = max(0, math.floor(x_HW.min()) - _MARGIN), min(width, math.ceil(x_HW.max()) + _MARGIN)
    top, bottom = max(0, math.floor(y_HW.min()) - _MARGIN), min(height, math.ceil(y_HW.max()) + _MARGIN)
    if left >= right or top >= bottom:
        return None
    full = bool(inside and np.ptp(columns) == SIZE and np.ptp(rows) == SIZE)
    mesh = _mesh(columns.tolist(), rows.tolist(), np.dstack([x_HW - left, y_HW - top]))
    return Placed(raster, factor, left, top, right - left, bottom - top, mesh, full)


def _mesh(
    columns: list[int], rows: list[int], corners_HW2: np.ndarray
) -> tuple[tuple[tuple[int, int, int, int], tuple[float, ...]], ...]:
    cells = []
    for row in range(len(rows) - 1):
        for column in range(len(columns) - 1):
            around = [(row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1)]
            quadrilateral = tuple(value for corner in around for value in corners_HW2[corner].tolist())
            cells.append(((columns[column], rows[row], columns[column + 1], rows[row + 1]), quadrilateral))
    return tuple(cells)


@lru_cache(256)
def _raster(path: Path, stamp: int) -> Raster:
    with rasterio.open(path) as source:
        box = transformer(source.crs.to_wkt(), MERCATOR).transform_bounds(*source.bounds)
        return Raster(path, stamp, source.crs.to_wkt(), source.transform, source.height, source.width, box)


def _piece(placed: Placed, row: int, column: int, smooth: bool) -> np.ndarray:
    """A square of a raster at a factor, all bands."""
    raster, factor = placed.raster, placed.factor
    key = raster.path, raster.stamp, factor, row, column, smooth
    return _PIECES.get(key, lambda: _read(raster, factor, row, column, smooth))


def _read(raster: Raster, factor: int, row: int, column: int, smooth: bool) -> np.ndarray:
    side = _PIECE * factor
    left, top = column * side, row * side
    width, height = min(side, raster.width - left), min(side, raster.height - top)
    with rasterio.open(raster.path) as source:
        return source.read(
            window=Window(left, top, width, height),
            out_shape=(source.count, -(-height // factor), -(-width // factor)),
            resampling=Resampling.average if smooth else Resampling.nearest,
        )
