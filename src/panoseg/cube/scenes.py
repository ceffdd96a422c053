"""Read scenes onto a grid: the mosaic of a day.

Coarser bands are repeated (nearest neighbour), as in the cubes that the networks are trained on.
Everything is read by rasterio window by window, so that an unreadable file is named.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from scipy.ndimage import distance_transform_edt

from panoseg.cube import CubeOptions
from panoseg.imagery.area import FOOTPRINT_MARGIN_DEGREES, may_intersect
from panoseg.imagery.remote import drop_cached, is_remote, open_raster
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset, offset_is_removed
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION

_SAMPLED_SIDE = 512
_VISIBLE = ("B04", "B03", "B02")  # where land is darkest
NO_DATA = -32768
"""No data in bands of a cube: int16 reflectance x 10 000, as PASTIS stores it."""
_LARGEST = 32767
_TRIES = 3
RETRY_WAIT_S = 1.0
"""Seconds before the second attempt to read; doubled for each further one."""
# Messages of servers, S3 and this machine. GDAL says "does not exist in the file system" of any
# address that failed before.
_GONE = re.compile(
    r"HTTP response code: (404|410)|specified key does not exist|NoSuchKey|No such file"
)

_Read = TypeVar("_Read")


def on_grid(
    source: DatasetReader, index: int, grid: GeoBox, nodata: float, tolerance: float = 0.125
) -> np.ndarray:
    """Return a band on a grid by nearest neighbour, no data outside of it: H x W.

    Raises ``RasterioError`` for a band that the file does not have.

    Args:
        source: The file.
        index: Which of its bands, from 1.
        grid: Where it is wanted.
        nodata: The number that means no data.
        tolerance: Pixels by which places may be wrong where coordinate systems differ.
    """
    if index > source.count:
        raise RasterioError(f"band {index} of {source.count}")
    height, width = grid.shape
    target = {"crs": str(grid.crs), "transform": grid.affine, "width": width, "height": height}
    with WarpedVRT(
        source,
        **target,
        resampling=Resampling.nearest,
        src_nodata=nodata,
        nodata=nodata,
        tolerance=tolerance,
    ) as warped:
        numbers_HW: np.ndarray = warped.read(index)
    return numbers_HW


def correct_offset(scene: Scene) -> Scene:
    """Return the scene with the offset that its numbers really have.

    Where metadata are known to be wrong, a sample of the numbers decides. Raises ``RasterioError``
    if it cannot be read.
    """
    band = doubtful_band(scene)
    if band is None:
        return scene
    asset = scene.assets[band]
    with open_raster(asset.href) as source:
        numbers_HW = source.read(
            asset.index, out_shape=tuple(min(side, _SAMPLED_SIDE) for side in source.shape)
        )
    if not offset_is_removed(numbers_HW, asset.radiometry):
        return scene
    assets = {
        band: replace(asset, radiometry=replace(asset.radiometry, offset=0.0, doubtful=False))
        for band, asset in scene.assets.items()
    }
    return replace(scene, assets=assets)


def doubtful_band(scene: Scene) -> str | None:
    """Return the band whose numbers are to be sampled; None if the metadata are not in doubt."""
    band = next((band for band in _VISIBLE if band in scene.assets), None)
    return band if band is not None and scene.assets[band].radiometry.doubtful else None


class UnreadableSceneError(Exception):
    """A file of a scene cannot be read."""

    def __init__(self, scene: str, reason: str, *, gone: bool = False) -> None:
        """Create the error.

        Args:
            scene: Id of the scene.
            reason: What is wrong, in a few words.
            gone: Whether its server says that the file does not exist.
        """
        super().__init__(scene, reason)
        self.scene, self.reason, self.gone = scene, reason, gone


def mosaic(
    scenes: Sequence[Scene], bands: Sequence[str], grid: GeoBox, options: CubeOptions
) -> dict[str, np.ndarray]:
    """Return each band, and SCL, of a day on a grid (H x W).

    A pixel takes the first scene that has data there.

    Returns:
        Bands: int16 reflectance x 10 000, ``NO_DATA`` where there is none or where ``options.mask``
            hides the pixel. SCL: uint8, 0 = no data, never masked.

    Raises:
        UnreadableSceneError: A file cannot be read.
    """
    box = grid.extent.to_crs("EPSG:4326").geom.buffer(FOOTPRINT_MARGIN_DEGREES)
    met = [scene for scene in scenes if may_intersect(scene.outline, box)]
    values = {band: _first_data(met, band, grid, NO_DATA) for band in bands}
    if options.masked_classes:
        hidden_HW = _masked(met, grid, options)
        for value_HW in values.values():
            value_HW[hidden_HW] = NO_DATA
    return {**values, SCENE_CLASSIFICATION: classification(met, grid)}


def classification(scenes: Sequence[Scene], grid: GeoBox) -> np.ndarray:
    """Return SCL of a day: uint8, H x W, 0 where no scene has data.

    On a coarse grid pixels are subsampled.
    """
    return _first_data(scenes, SCENE_CLASSIFICATION, grid, 0).astype(np.uint8)


def correct_offset_with_retries(scene: Scene) -> Scene:
    """Return ``correct_offset`` of a scene, tried several times.

    Raises:
        UnreadableSceneError: A file cannot be read.
    """
    band = doubtful_band(scene)
    return scene if band is None else _with_retries(scene, band, lambda: correct_offset(scene))


def _masked(scenes: Sequence[Scene], grid: GeoBox, options: CubeOptions) -> np.ndarray:
    """Return pixels of masked classes and those near them, also near ones outside: bool, H x W."""
    pixel_m = abs(float(grid.resolution.x))
    rim = math.ceil(options.dilate_m / pixel_m)
    masked_HW = np.isin(classification(scenes, grid.pad(rim)), options.masked_classes)
    if rim and masked_HW.any():
        masked_HW = distance_transform_edt(~masked_HW) * pixel_m <= options.dilate_m
    return masked_HW[rim : rim + grid.shape[0], rim : rim + grid.shape[1]]


def _first_data(scenes: Sequence[Scene], band: str, grid: GeoBox, empty: int) -> np.ndarray:
    """Return a band from the first scene with data at each pixel: int16, H x W.

    Later scenes are opened only for what is missing.
    """
    values_HW = np.full(grid.shape, empty, np.int16)
    for scene in scenes:
        missing_HW = values_HW == empty
        if not missing_HW.any():
            break
        values_HW[missing_HW] = _read(scene, band, grid, empty)[missing_HW]
    return values_HW


def _read(scene: Scene, band: str, grid: GeoBox, empty: int) -> np.ndarray:
    """Return a band of a scene on a grid. Raises ``UnreadableSceneError``."""
    if band not in scene.assets:
        raise UnreadableSceneError(scene.id, f"has no file of {band}", gone=True)
    return _with_retries(scene, band, lambda: _numbers(scene.assets[band], grid, band, empty))


def _with_retries(scene: Scene, band: str, read: Callable[[], _Read]) -> _Read:
    """Return what ``read`` reads from the file of a band; a remote file is tried several times.

    Raises:
        UnreadableSceneError: It cannot be read.
    """
    href = scene.assets[band].href
    for attempt in range(_TRIES):
        try:
            return read()
        # ValueError: a stated no data value that the file's type cannot hold.
        except (RasterioError, OSError, ValueError) as error:
            # The cause of rasterio's error is GDAL's message.
            lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            reason = lines[0]
            gone = bool(_GONE.search(f"{reason} {error}"))
            if gone or attempt == _TRIES - 1 or not is_remote(href):
                raise UnreadableSceneError(
                    scene.id, f"{band} cannot be read ({reason[:200]})", gone=gone
                ) from error
            drop_cached(href)
            time.sleep(RETRY_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")


def _numbers(asset: SceneAsset, grid: GeoBox, band: str, empty: int) -> np.ndarray:
    """Return a file on a grid by nearest neighbour: int16, H x W.

    Classes of SCL, else reflectance x 10 000; ``empty`` where there is no data.
    """
    radiometry = asset.radiometry
    with open_raster(asset.href) as source:
        numbers_HW = on_grid(source, asset.index, grid, radiometry.nodata)
    seen_HW = np.isfinite(numbers_HW) & (numbers_HW != radiometry.nodata)
    numbers_HW = np.where(seen_HW, numbers_HW, 0).astype(np.float32)
    if band != SCENE_CLASSIFICATION:
        with np.errstate(over="ignore", invalid="ignore"):  # a stated scale may be anything
            scale, offset = np.float32(radiometry.scale * 1e4), np.float32(radiometry.offset * 1e4)
            numbers_HW = np.rint(np.nan_to_num(numbers_HW * scale + offset))
        numbers_HW[numbers_HW == 0] = DARKEST
    return np.where(seen_HW, np.clip(numbers_HW, -_LARGEST, _LARGEST), empty).astype(np.int16)
