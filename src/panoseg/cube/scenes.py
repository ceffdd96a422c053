"""Scenes -> cube: every band on one grid of the finest pixels, lazily, by odc-stac.

Coarser bands are repeated (nearest neighbour), as in the cubes that the networks are trained on.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pystac
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from scipy.ndimage import distance_transform_edt
from shapely.geometry import mapping

from panoseg.cube.options import CubeOptions
from panoseg.errors import CubeError
from panoseg.imagery.area import FOOTPRINT_MARGIN_DEGREES, may_intersect
from panoseg.imagery.bands import SCENE_CLASSIFICATION
from panoseg.imagery.remote import DRIVERS, drop_cached, is_remote, open_raster
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset, offset_is_removed

_CHUNK = 512
_SAMPLED_SIDE = 512
_VISIBLE = ("B04", "B03", "B02")  # where land is darkest


def cube_of_scenes(scenes: Sequence[Scene]) -> xr.Dataset:
    """A lazy cube of scenes in the order of their times: float32 reflectance x 10 000, NaN where no
    data is; SCL as numbers.

    The grid has the coordinate system of most scenes, the finest pixels, and covers all scenes.
    Raises ``CubeError`` for a file that is no raster or has no coordinate system.
    """
    import odc.stac

    bands = sorted(scenes[0].assets)
    headers = [_header(scene) for scene in scenes]
    scenes = [with_true_offset(scene) for scene in scenes]
    loaded = odc.stac.load(
        [
            _item(scene, number, header)
            for number, (scene, header) in enumerate(zip(scenes, headers, strict=True))
        ],
        bands=bands,
        geobox=_common_grid(headers),
        chunks={"x": _CHUNK, "y": _CHUNK, "time": 1},
        groupby="id",
        resampling="nearest",
        dtype="float32",
        nodata=float("nan"),
    )
    return loaded.assign({band: _reflectance(loaded[band], scenes, band) for band in bands})


def with_true_offset(scene: Scene) -> Scene:
    """The scene; where its metadata are known to err, a sample of its numbers decides whether they
    still hold the offset.

    Raises ``RasterioError`` where that cannot be read.
    """
    band = doubtful_band(scene)
    if band is None:
        return scene
    asset = scene.assets[band]
    with open_raster(asset.href) as source:
        numbers_HW = source.read(
            1, out_shape=tuple(min(side, _SAMPLED_SIDE) for side in source.shape)
        )
    if not offset_is_removed(numbers_HW, asset.radiometry):
        return scene
    assets = {
        band: replace(asset, radiometry=replace(asset.radiometry, offset=0.0, doubtful=False))
        for band, asset in scene.assets.items()
    }
    return replace(scene, assets=assets)


def doubtful_band(scene: Scene) -> str | None:
    """The band whose numbers say whether a scene's metadata err; None where they are not known
    to.
    """
    band = next((band for band in _VISIBLE if band in scene.assets), None)
    return band if band is not None and scene.assets[band].radiometry.doubtful else None


def _item(scene: Scene, number: int, header: Header) -> pystac.Item:
    """A plain item whose assets are named by band; its name is its place in time, since names of
    scenes may repeat.
    """
    box = shapely.box(*transform_bounds(header.crs, "EPSG:4326", *header.bounds)).buffer(
        FOOTPRINT_MARGIN_DEGREES, join_style="mitre"
    )  # odc-stac asks only the files whose footprint meets the window
    item = pystac.Item(f"{number:06d}", mapping(box), list(box.bounds), scene.time, {})
    for band, asset in scene.assets.items():
        raster = {"raster:bands": [{"data_type": "uint16", "nodata": asset.radiometry.nodata}]}
        item.add_asset(
            band,
            pystac.Asset(
                asset.href, media_type=pystac.MediaType.COG, roles=["data"], extra_fields=raster
            ),
        )
    return item


def _reflectance(numbers_TYX: xr.DataArray, scenes: Sequence[Scene], band: str) -> xr.DataArray:
    """Reflectance x 10 000 by each scene's own scale and offset (a season may cross a change of
    processing baseline).
    """
    assets = [scene.assets[band] for scene in scenes]

    def per_time(values: list[float]) -> xr.DataArray:
        return xr.DataArray(
            np.array(values, np.float32), coords={"time": numbers_TYX.time}, dims="time"
        )

    nodata = per_time([asset.radiometry.nodata for asset in assets])
    values = numbers_TYX.where(numbers_TYX != nodata)
    if band == SCENE_CLASSIFICATION:
        return values
    scale, offset = (
        per_time([number * 1e4 for number in numbers])
        for numbers in zip(
            *((asset.radiometry.scale, asset.radiometry.offset) for asset in assets), strict=True
        )
    )
    reflectance = values * scale + offset
    return reflectance.where(reflectance != 0, np.float32(DARKEST))


@dataclass(frozen=True)
class Header:
    """Where a raster lies: ``crs`` as text, ``transform`` of its pixels, ``bounds`` (left, bottom,
    right, top).
    """

    crs: str
    transform: Affine
    bounds: tuple[float, float, float, float]


def _common_grid(headers: Sequence[Header]) -> GeoBox:
    """The smallest grid that covers all rasters, in the coordinate system of most, on the finest
    pixels.
    """
    crs = Counter(header.crs for header in headers).most_common(1)[0][0]
    anchor = min(
        (header.transform for header in headers if header.crs == crs),
        key=lambda transform: transform.a,
    )
    boxes = np.array(
        [h.bounds if h.crs == crs else transform_bounds(h.crs, crs, *h.bounds) for h in headers]
    )
    left, bottom = boxes[:, :2].min(axis=0)
    right, top = boxes[:, 2:].max(axis=0)
    pixel_m = anchor.a
    # A millionth of a pixel of rounding must not add a row or a column.
    first_column, first_row = np.floor(np.array([left - anchor.c, anchor.f - top]) / pixel_m + 1e-6)
    last_column, last_row = np.ceil(
        np.array([right - anchor.c, anchor.f - bottom]) / pixel_m - 1e-6
    )
    origin = anchor * Affine.translation(first_column, first_row)
    return GeoBox((int(last_row - first_row), int(last_column - first_column)), origin, crs)


def _header(scene: Scene) -> Header:
    """The header of a scene's finest band, once those of all its bands are known to be whole."""
    headers = [_header_of(Path(asset.href)) for asset in scene.assets.values()]
    return min(
        zip(scene.assets.values(), headers, strict=True), key=lambda pair: pair[0].resolution_m
    )[1]


def _header_of(path: Path) -> Header:
    try:
        # Other formats may stand for files outside of the folder.
        with rasterio.Env(), DatasetReader(str(path), driver=DRIVERS, sharing=False) as source:
            crs, transform, bounds = source.crs, source.transform, tuple(source.bounds)
    except RasterioError as error:
        raise CubeError(
            f"{path} is not readable as a raster", "a GeoTIFF", "copy the file again"
        ) from error
    if crs is None:
        raise CubeError(
            f"{path} has no coordinate system",
            "a GeoTIFF with one",
            "write it with gdal_edit.py -a_srs",
        )
    if transform.b or transform.d or transform.e != -transform.a:
        raise CubeError(
            f"{path} has turned or oblong pixels", "north-up square pixels", "warp it with gdalwarp"
        )
    return Header(crs.to_wkt(), transform, bounds)


# Reflectance x 10 000 as int16, as PASTIS stores it.
NO_DATA = -32768
_LARGEST = 32767
_TRIES = 3
_WAIT_S = 1.0
# As servers, S3 and this machine say it. GDAL's "does not exist in the file system" is said of any
# address that failed before.
_GONE = re.compile(
    r"HTTP response code: (404|410)|specified key does not exist|NoSuchKey|No such file"
)

_Read = TypeVar("_Read")


class UnreadableSceneError(Exception):
    """A scene of which a file cannot be read. scene: its id. reason: a few words. gone: its owner
    says that it is not there.
    """

    def __init__(self, scene: str, reason: str, *, gone: bool = False) -> None:
        super().__init__(scene, reason)
        self.scene, self.reason, self.gone = scene, reason, gone


def mosaic(
    scenes: Sequence[Scene], bands: Sequence[str], grid: GeoBox, options: CubeOptions
) -> dict[str, np.ndarray]:
    """Each band, and SCL, on a grid: int16 reflectance x 10 000 with ``NO_DATA``, uint8 classes
    with 0; H x W.

    The first scene that has data at a pixel gives it. What ``options.mask`` names has no data in
    any band, while SCL stays as it is. Raises ``UnreadableSceneError``.
    """
    box = grid.extent.to_crs("EPSG:4326").geom.buffer(FOOTPRINT_MARGIN_DEGREES)
    met = [scene for scene in scenes if may_intersect(scene.outline, box)]
    values = {band: _first_data(met, band, grid, NO_DATA) for band in bands}
    if options.masked_classes:
        hidden_HW = _hidden(met, grid, options)
        for value_HW in values.values():
            value_HW[hidden_HW] = NO_DATA
    return {**values, SCENE_CLASSIFICATION: classification(met, grid)}


def classification(scenes: Sequence[Scene], grid: GeoBox) -> np.ndarray:
    """SCL of a day, uint8, H x W, 0 where no scene has data; a coarse grid takes every so manieth
    pixel.
    """
    return _first_data(scenes, SCENE_CLASSIFICATION, grid, 0).astype(np.uint8)


def with_offset_seen(scene: Scene) -> Scene:
    """The scene with the offset that its numbers hold, see ``with_true_offset``. Raises
    ``UnreadableSceneError``.
    """
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
    """int16, H x W: the band from the first scene with data at each pixel; later scenes are opened
    only for what is missing.
    """
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
    """What is read from the file of a band, tried several times if it is far away. Raises
    ``UnreadableSceneError``.
    """
    href = scene.assets[band].href
    for attempt in range(_TRIES):
        try:
            return read()
        except (
            RasterioError,
            OSError,
            ValueError,
        ) as error:  # ValueError: a no data that the file's numbers cannot be
            # GDAL's own word is the cause of rasterio's.
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[
                0
            ]
            gone = bool(_GONE.search(f"{reason} {error}"))
            if gone or attempt == _TRIES - 1 or not is_remote(href):
                raise UnreadableSceneError(
                    scene.id, f"{band} cannot be read ({reason[:200]})", gone=gone
                ) from error
            drop_cached(href)
            time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")


def _numbers(asset: SceneAsset, grid: GeoBox, band: str, empty: int) -> np.ndarray:
    """int16, H x W: a file on a grid by nearest neighbour: classes of SCL, else reflectance x 10
    000; ``empty``: no data.
    """
    radiometry = asset.radiometry
    height, width = grid.shape
    with open_raster(asset.href) as source:
        nodata = radiometry.nodata
        target = {"crs": str(grid.crs), "transform": grid.affine, "width": width, "height": height}
        with WarpedVRT(
            source, **target, resampling=Resampling.nearest, src_nodata=nodata, nodata=nodata
        ) as warped:
            numbers_HW = warped.read(1)
    seen_HW = np.isfinite(numbers_HW) & (numbers_HW != nodata)
    numbers_HW = np.where(seen_HW, numbers_HW, 0).astype(np.float32)
    if band != SCENE_CLASSIFICATION:
        with np.errstate(over="ignore", invalid="ignore"):  # scales of anybody
            scale, offset = np.float32(radiometry.scale * 1e4), np.float32(radiometry.offset * 1e4)
            numbers_HW = np.rint(np.nan_to_num(numbers_HW * scale + offset))
        numbers_HW[numbers_HW == 0] = DARKEST
    return np.where(seen_HW, np.clip(numbers_HW, -_LARGEST, _LARGEST), empty).astype(np.int16)
