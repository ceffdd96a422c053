"""Rasters of a map in tiles of Web Mercator, read and warped by rio-tiler.

Shape suffixes: C bands, H W pixels of a tile.
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
from panoseg.app.result_map import MERCATOR, moved, transformer
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
        raise NotFoundError(
            "this layer", "one of a map that is done", "wait until it is done"
        ) from error


def read_tile(
    path: Path, box: Box, indexes: tuple[int, ...] = (1,), smooth: bool = False, fill: int = 0
) -> np.ndarray | None:
    """The numbers of a raster in the tile with this box in Web Mercator, C x 256 x 256; None where
    it does not reach.

    indexes: of the bands, from 1. smooth: mixed of neighbouring pixels, rather than one of them.
    fill: where there are no data.
    """
    left, _, right, top = box
    scale = SIZE / (right - left)
    resampling = "bilinear" if smooth else "nearest"
    with Reader(str(path)) as source:
        west, south, east, north = transformer(source.crs.to_wkt(), MERCATOR).transform_bounds(
            *source.bounds
        )
        columns = _steps((west - left) * scale, (east - left) * scale)
        rows = _steps((top - north) * scale, (top - south) * scale)
        if not columns or not rows:
            return None
        # Only what the raster has of the tile is asked for: of all of it rio-tiler would warp every
        # pixel at the raster's own
        # size, which is the whole world in a tile of zoom level 0.
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


def _steps(first: float, last: float) -> range:
    """The pixels of a tile between two places along one of its sides."""
    if not (math.isfinite(first) and math.isfinite(last)):
        return range(0)
    return range(max(0, math.floor(first)), min(SIZE, math.ceil(last)))


_SHEETS = BoundedCache["Sheet"](32 * 1024**2, lambda sheet: sheet.bytes)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Outlines of a part of a map.

    columns: what is known of each, by name. boxes_N4: left, bottom, right, top of each.
    coordinates: of all corners, x and y in Web Mercator; offsets: where each ring begins among
    them, each polygon among the rings, each outline among the polygons.
    """

    columns: dict[str, np.ndarray]
    boxes_N4: np.ndarray
    coordinates: np.ndarray
    offsets: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def bytes(self) -> int:
        """What it takes in memory; names are counted as pointers, for there are few different
        ones.
        """
        arrays = [*self.columns.values(), self.boxes_N4, self.coordinates, *self.offsets]
        return sum(array.nbytes for array in arrays)

    def within(self, box: Box) -> np.ndarray:
        """The numbers of the outlines whose box meets this one, in the order of the file."""
        left, bottom, right, top = self.boxes_N4.T
        return np.flatnonzero(
            (left <= box[2]) & (right >= box[0]) & (bottom <= box[3]) & (top >= box[1])
        )

    def polygons(self, number: int) -> Iterator[list[np.ndarray]]:
        """The polygons of an outline, each a list of rings, the outer one first; a ring is x and y
        of each corner.
        """
        rings, polygons, outlines = self.offsets
        for polygon in range(outlines[number], outlines[number + 1]):
            numbers = range(polygons[polygon], polygons[polygon + 1])
            yield [self.coordinates[rings[ring] : rings[ring + 1]] for ring in numbers]


def sheet_of(path: Path, crs: str, box: Box, columns: tuple[str, ...]) -> Sheet:
    """The outlines of a file that may meet a box in Web Mercator. crs: of the file. Raises
    ``NotFoundError``.
    """
    return _SHEETS.get((path, stamp_of(path), box, columns), lambda: _read(path, crs, box, columns))


def _read(path: Path, crs: str, box: Box, columns: tuple[str, ...]) -> Sheet:
    own_box = transformer(MERCATOR, crs).transform_bounds(*box)
    if not np.isfinite(own_box).all():
        return make_sheet(np.empty(0, object), crs, {name: np.empty(0, object) for name in columns})
    fields, _, outlines, values = pyogrio.raw.read(path, bbox=own_box, columns=list(columns))
    by_name = dict(zip(fields["fields"], values, strict=True))
    return make_sheet(shapely.from_wkb(outlines), crs, {name: by_name[name] for name in columns})


def make_sheet(outlines_N: np.ndarray, crs: str, columns: dict[str, np.ndarray]) -> Sheet:
    """Polygons in a coordinate system of their own, put into Web Mercator."""
    moved_N = moved(outlines_N, crs, MERCATOR)
    parts_M, owners_M = shapely.get_parts(moved_N, return_index=True)
    flat_M = shapely.get_type_id(parts_M) == shapely.GeometryType.POLYGON
    parts_M, owners_M = parts_M[flat_M], owners_M[flat_M]
    starts_N = np.searchsorted(owners_M, np.arange(len(moved_N) + 1))
    _, coordinates, offsets = shapely.to_ragged_array(
        parts_M if len(parts_M) else np.array([shapely.Polygon()])
    )
    return Sheet(
        columns,
        shapely.bounds(moved_N).reshape(-1, 4),
        coordinates,
        (offsets[0], offsets[1], starts_N),
    )
