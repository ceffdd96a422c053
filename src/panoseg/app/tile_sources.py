"""Data of Web Mercator tiles: pixels of rasters, and outlines of parcels.

Rasters are read and warped by rio-tiler. Outlines are read in blocks, for many tiles at once, which
are kept in memory.

Shape suffixes: C bands, H W pixels of a tile, N outlines, M polygons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from rio_tiler.io import Reader

from panoseg.app.limits import BoundedCache
from panoseg.app.result_map import MERCATOR, reproject, transformer
from panoseg.errors import NotFoundError

SIZE = 256
"""Side of a tile in pixels."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top in metres."""


def mtime_of(path: Path) -> int:
    """Return the time of modification of a file in ns, or raise ``NotFoundError``."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError("This layer does not exist; wait until the map is done.") from error


def read_tile(
    path: Path, box: Box, indexes: tuple[int, ...] = (1,), smooth: bool = False, fill: int = 0
) -> np.ndarray | None:
    """Read a raster in a tile.

    Args:
        path: The raster.
        box: Bounds of the tile in Web Mercator.
        indexes: Numbers of the bands, from 1.
        smooth: Interpolate between pixels (bilinear) instead of taking the nearest one.
        fill: Value where there are no data.

    Returns:
        Values, C x 256 x 256, of the type of the raster; None if the raster does not reach the
        tile.
    """
    left, _, right, top = box
    scale = SIZE / (right - left)
    resampling = "bilinear" if smooth else "nearest"
    with Reader(str(path)) as source:
        west, south, east, north = transformer(source.crs.to_wkt(), MERCATOR).transform_bounds(
            *source.bounds
        )
        columns = _pixels((west - left) * scale, (east - left) * scale)
        rows = _pixels((top - north) * scale, (top - south) * scale)
        if not columns or not rows:
            return None
        # Only the part of the tile that the raster covers is read: rio-tiler warps all of what is
        # asked for at the raster's resolution, which is the whole world in a tile of zoom level 0.
        part = source.part(
            (
                left + columns.start / scale,
                top - rows.stop / scale,
                left + columns.stop / scale,
                top - rows.start / scale,
            ),
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


def _pixels(first: float, last: float) -> range:
    """Return the pixels of a tile between two positions along one of its sides, in pixels."""
    if not (math.isfinite(first) and math.isfinite(last)):
        return range(0)
    return range(max(0, math.floor(first)), min(SIZE, math.ceil(last)))


@dataclass(frozen=True, eq=False)
class OutlineBlock:
    """Outlines in a part of a map, as flat arrays (shapely's ragged arrays)."""

    columns: dict[str, np.ndarray]
    """Attributes of the outlines by name, N each."""
    boxes_N4: np.ndarray
    """float64, left, bottom, right, top of each outline in Web Mercator."""
    coordinates: np.ndarray
    """float64, x and y of all points in Web Mercator."""
    offsets: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Index of the first point of each ring, of the first ring of each polygon, and of the first
    polygon of each outline.
    """

    @property
    def bytes(self) -> int:
        """Size in memory; names are counted as pointers, as there are few different ones."""
        arrays = [*self.columns.values(), self.boxes_N4, self.coordinates, *self.offsets]
        return sum(array.nbytes for array in arrays)

    def within(self, box: Box) -> np.ndarray:
        """Return the indices of the outlines whose bounds meet a box, in the order of the file."""
        left, bottom, right, top = self.boxes_N4.T
        return np.flatnonzero(
            (left <= box[2]) & (right >= box[0]) & (bottom <= box[3]) & (top >= box[1])
        )

    def polygons(self, number: int) -> Iterator[list[np.ndarray]]:
        """Yield the polygons of an outline, each a list of rings, outer ring first, points x 2."""
        rings, polygons, outlines = self.offsets
        for polygon in range(outlines[number], outlines[number + 1]):
            numbers = range(polygons[polygon], polygons[polygon + 1])
            yield [self.coordinates[rings[ring] : rings[ring + 1]] for ring in numbers]


_BLOCKS = BoundedCache[OutlineBlock](32 * 1024**2, lambda block: block.bytes)


def read_outlines(path: Path, crs: str, box: Box, columns: tuple[str, ...]) -> OutlineBlock:
    """Return the outlines of a file whose bounds meet a box; cached until the file changes.

    Args:
        path: The file, with a spatial index.
        crs: Its coordinate system, WKT.
        box: The box in Web Mercator.
        columns: Names of the attributes to read.

    Raises:
        NotFoundError: The file does not exist.
    """
    key = (path, mtime_of(path), box, columns)
    return _BLOCKS.get(key, lambda: _read(path, crs, box, columns))


def _read(path: Path, crs: str, box: Box, columns: tuple[str, ...]) -> OutlineBlock:
    own_box = transformer(MERCATOR, crs).transform_bounds(*box)
    if not np.isfinite(own_box).all():
        return make_outline_block(
            np.empty(0, object), crs, {name: np.empty(0, object) for name in columns}
        )
    fields, _, outlines, values = pyogrio.raw.read(path, bbox=own_box, columns=list(columns))
    by_name = dict(zip(fields["fields"], values, strict=True))
    return make_outline_block(
        shapely.from_wkb(outlines), crs, {name: by_name[name] for name in columns}
    )


def make_outline_block(
    outlines_N: np.ndarray, crs: str, columns: dict[str, np.ndarray]
) -> OutlineBlock:
    """Transform polygons from a coordinate system (WKT) to Web Mercator, dropping other parts."""
    moved_N = reproject(outlines_N, crs, MERCATOR)
    parts_M, owners_M = shapely.get_parts(moved_N, return_index=True)
    is_polygon_M = shapely.get_type_id(parts_M) == shapely.GeometryType.POLYGON
    parts_M, owners_M = parts_M[is_polygon_M], owners_M[is_polygon_M]
    starts_N = np.searchsorted(owners_M, np.arange(len(moved_N) + 1))
    _, coordinates, offsets = shapely.to_ragged_array(
        parts_M if len(parts_M) else np.array([shapely.Polygon()])
    )
    return OutlineBlock(
        columns,
        shapely.bounds(moved_N).reshape(-1, 4),
        coordinates,
        (offsets[0], offsets[1], starts_N),
    )
