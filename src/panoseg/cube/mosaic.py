"""Scenes of one day -> the numbers of a window of a grid: each band from the first scene that has data there.

Windows are read with rasterio rather than odc-stac, because a file that cannot be read must say whose it is, so that its scene
is left out and nothing else. Nearest neighbour: 20 m pixels are repeated on the 10 m grid, as in what networks learn from.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from scipy.ndimage import distance_transform_edt

from panoseg.cube.options import CubeOptions
from panoseg.cube.scenes import doubtful_band, with_true_offset
from panoseg.imagery.area import FOOTPRINT_MARGIN_DEGREES, may_meet
from panoseg.imagery.bands import SCENE_CLASSIFICATION
from panoseg.imagery.remote import forget, is_remote, open_raster
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset

# Reflectance x 10 000 as int16, as PASTIS stores it.
NO_DATA = -32768
_LARGEST = 32767
_TRIES = 3
_WAIT_S = 1.0
# As servers, S3 and this machine say it. GDAL's "does not exist in the file system" is said of any address that failed before.
_GONE = re.compile(r"HTTP response code: (404|410)|specified key does not exist|NoSuchKey|No such file")

_Read = TypeVar("_Read")


class UnreadableSceneError(Exception):
    """A scene of which a file cannot be read. scene: its id. reason: a few words. gone: its owner says that it is not there."""

    def __init__(self, scene: str, reason: str, *, gone: bool = False) -> None:
        super().__init__(scene, reason)
        self.scene, self.reason, self.gone = scene, reason, gone


def mosaic(scenes: Sequence[Scene], bands: Sequence[str], grid: GeoBox, options: CubeOptions) -> dict[str, np.ndarray]:
    """Each band, and SCL, on a grid: int16 reflectance x 10 000 with ``NO_DATA``, uint8 classes with 0; H x W.

    The first scene that has data at a pixel gives it. What ``options.mask`` names has no data in any band, while SCL stays as
    it is. Raises ``UnreadableSceneError``.
    """
    box = grid.extent.to_crs("EPSG:4326").geom.buffer(FOOTPRINT_MARGIN_DEGREES)
    met = [scene for scene in scenes if may_meet(scene.outline, box)]
    values = {band: _first_data(met, band, grid, NO_DATA) for band in bands}
    if options.masked_classes:
        hidden_HW = _hidden(met, grid, options)
        for value_HW in values.values():
            value_HW[hidden_HW] = NO_DATA
    return {**values, SCENE_CLASSIFICATION: classification(met, grid)}


def classification(scenes: Sequence[Scene], grid: GeoBox) -> np.ndarray:
    """SCL of a day, uint8, H x W, 0 where no scene has data; a coarse grid takes every so manieth pixel."""
    return _first_data(scenes, SCENE_CLASSIFICATION, grid, 0).astype(np.uint8)


def with_offset_seen(scene: Scene) -> Scene:
    """The scene with the offset that its numbers hold, see ``with_true_offset``. Raises ``UnreadableSceneError``."""
    band = doubtful_band(scene)
    return scene if band is None else _patiently(scene, band, lambda: with_true_offset(scene))


def _hidden(scenes: Sequence[Scene], grid: GeoBox, options: CubeOptions) -> np.ndarray:
    """bool, H x W: pixels of masked classes, and those near them, beyond the window too."""
    pixel_m = abs(float(grid.resolution.x))
    rim = math.ceil(options.dilate_m / pixel_m)
    masked_HW = np.isin(classification(scenes, grid.pad(rim)), options.masked_classes)
    if rim and masked_HW.any():
        masked_HW = distance_transform_edt(~masked_HW) * pixel_m <= options.dilate_m
    return masked_HW[rim : rim + grid.shape[0], rim : rim + grid.shape[1]]


def _first_data(scenes: Sequence[Scene], band: str, grid: GeoBox, empty: int) -> np.ndarray:
    """int16, H x W: the band from the first scene with data at each pixel; later scenes are opened only for what is missing."""
    values_HW = np.full(grid.shape, empty, np.int16)
    for scene in scenes:
        missing_HW = values_HW == empty
        if not missing_HW.any():
            break
        values_HW[missing_HW] = _read(scene, band, grid, empty)[missing_HW]
    return values_HW


def _read(scene: Scene, band: str, grid: GeoBox, empty: int) -> np.ndarray:
    """A band of a scene on a grid. Raises ``UnreadableSceneError``."""
    if band not in scene.assets:
        raise UnreadableSceneError(scene.id, f"has no file of {band}", gone=True)
    return _patiently(scene, band, lambda: _numbers(scene.assets[band], grid, band, empty))


def _patiently(scene: Scene, band: str, read: Callable[[], _Read]) -> _Read:
    """What is read from the file of a band, tried several times if it is far away. Raises ``UnreadableSceneError``."""
    href = scene.assets[band].href
    for attempt in range(_TRIES):
        try:
            return read()
        except (RasterioError, OSError, ValueError) as error:  # ValueError: a no data that the file's numbers cannot be
            # GDAL's own word is the cause of rasterio's.
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            gone = bool(_GONE.search(f"{reason} {error}"))
            if gone or attempt == _TRIES - 1 or not is_remote(href):
                raise UnreadableSceneError(scene.id, f"{band} cannot be read ({reason[:200]})", gone=gone) from error
            forget(href)
            time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")


def _numbers(asset: SceneAsset, grid: GeoBox, band: str, empty: int) -> np.ndarray:
    """int16, H x W: a file on a grid by nearest neighbour: classes of SCL, else reflectance x 10 000; ``empty``: no data."""
    meaning = asset.meaning
    height, width = grid.shape
    with open_raster(asset.href) as source:
        nodata = meaning.nodata
        target = {"crs": str(grid.crs), "transform": grid.affine, "width": width, "height": height}
        with WarpedVRT(source, **target, resampling=Resampling.nearest, src_nodata=nodata, nodata=nodata) as warped:
            numbers_HW = warped.read(1)
    seen_HW = np.isfinite(numbers_HW) & (numbers_HW != nodata)
    numbers_HW = np.where(seen_HW, numbers_HW, 0).astype(np.float32)
    if band != SCENE_CLASSIFICATION:
        with np.errstate(over="ignore", invalid="ignore"):  # scales of anybody
            scale, offset = np.float32(meaning.scale * 1e4), np.float32(meaning.offset * 1e4)
            numbers_HW = np.rint(np.nan_to_num(numbers_HW * scale + offset))
        numbers_HW[numbers_HW == 0] = DARKEST
    return np.where(seen_HW, np.clip(numbers_HW, -_LARGEST, _LARGEST), empty).astype(np.int16)
