"""Rasters of a season for the pages, and the check of an uploaded season.

Both read the season once from end to end, in a process of bounded memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import dask
import numpy as np
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from panoseg.cube import ReadOptions
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import clear_shares
from panoseg.errors import LimitError, NotFoundError
from panoseg.files import atomic, new_folder, write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS, PIXEL_M
from panoseg.progress import track

BANDS = ("B02", "B03", "B04", "B08")
"""Bands of a layer in order: blue, green, red, near infrared."""
LAYERS = "layers.json"
_BLOCK = 512
_WINDOW = 2048


@dataclass(frozen=True)
class Layer:
    """The raster of a date."""

    date: str
    """The date, such as 2019-05-01."""
    file: str
    """Name of a GeoTIFF with the bands ``BANDS`` and overviews: uint16, reflectance x 10 000, 0 for
    no data.
    """
    clear: float
    """Share of the area without clouds and shadows, 0 to 1."""
    used: bool
    """Whether the map was made from this date too."""


def read_layers(folder: Path) -> list[Layer]:
    """Return the layers of a finished job in order of their dates.

    Args:
        folder: The folder ``layers`` of the job.

    Raises:
        NotFoundError: There are none yet.
    """
    try:
        return list(_read_layers(folder / LAYERS, (folder / LAYERS).stat().st_mtime_ns))
    except (OSError, ValueError, TypeError) as error:
        raise NotFoundError("This map has no image layers yet; wait until it is done.") from error


@lru_cache(64)
def _read_layers(path: Path, mtime_ns: int) -> tuple[Layer, ...]:
    """Read the list; cached, as every tile of a layer asks for it, until the file changes."""
    return tuple(Layer(**row) for row in json.loads(path.read_text(encoding="utf-8")))


def write_layers(
    cube_path: Path, used: frozenset[str], folder: Path, read: ReadOptions | None = None
) -> list[Layer]:
    """Write the layer of each date of a cube and then their list.

    Layers that an interrupted run has written are kept.

    Args:
        cube_path: The season.
        used: Dates from which the map was made, such as 2019-05-01.
        folder: Output folder.
        read: What the cube does not say about itself.

    Raises:
        PanosegError: The cube cannot be read, or the layers cannot be written.
    """
    with reading(cube_path):
        cube = check_cube(open_cube(cube_path), PASTIS_BANDS, read)
        days = [str(day) for day in cube["time"].values.astype("datetime64[D]")]
        clear = clear_shares(cube)
    new_folder(folder, resumable=f"{days[0]}.tif")
    layers = [
        Layer(day, f"{day}.tif", float(share), day in used)
        for day, share in zip(days, clear, strict=True)
    ]
    for index, layer in enumerate(track(layers, "layers")):
        if not (folder / layer.file).is_file():
            with reading(cube_path), atomic(folder / layer.file) as temporary:
                _write(cube.isel(time=index), cube.odc.geobox, temporary)
    write_json(folder / LAYERS, [asdict(layer) for layer in layers])
    return layers


def _write(date: xr.Dataset, grid: GeoBox, path: Path) -> None:
    """Write a date window by window, so that memory does not grow with the area."""
    height, width = grid.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": len(BANDS),
        "dtype": "uint16",
        "nodata": 0,
        "crs": grid.crs.to_wkt() if grid.crs else None,
        "transform": grid.affine,
        "compress": "deflate",
        "predictor": 2,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "interleave": "pixel",
    }
    with rasterio.open(path, "w", **profile) as target:
        for top in range(0, height, _WINDOW):
            for left in range(0, width, _WINDOW):
                part = date.isel(
                    y=slice(top, top + _WINDOW), x=slice(left, left + _WINDOW)
                ).compute()
                values_CHW = np.nan_to_num(np.stack([part[band].values for band in BANDS])).clip(
                    0, 65535
                )
                window = Window(left, top, *reversed(values_CHW.shape[1:]))
                target.write(values_CHW.round().astype(np.uint16), window=window)
        factors = [2**level for level in range(1, 12) if max(height, width) / 2**level > _BLOCK / 2]
        if factors:
            target.build_overviews(factors, Resampling.average)


MAX_DATES = 1000
"""Of an uploaded season."""


def check_season(path: Path, max_km2: float, read: ReadOptions | None = None) -> None:
    """Read an uploaded season from end to end.

    Args:
        path: The cube.
        max_km2: Largest area in square kilometres.
        read: What the cube does not say about itself.

    Raises:
        CubeError: The file is not a season, or cannot be read.
        LimitError: It covers too large an area, or has too many dates.
    """
    with reading(path):
        cube = check_cube(open_cube(path), PASTIS_BANDS, read)
        km2, dates = cube.sizes["y"] * cube.sizes["x"] * PIXEL_M**2 / 1e6, cube.sizes["time"]
        if km2 > max_km2:
            raise LimitError(
                f"The season covers {km2:,.0f} km2, of at most {max_km2:g} km2; upload a part of"
                " it."
            )
        if dates > MAX_DATES:
            raise LimitError(
                f"The season has {dates:,} dates, of at most {MAX_DATES}; upload a part of it."
            )
        with dask.config.set(scheduler="synchronous"):
            for variable in cube.data_vars.values():
                for place in product(*map(range, variable.data.numblocks)):
                    variable.data.blocks[place].compute()
