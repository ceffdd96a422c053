"""Read scenes onto a grid: a lazy cube of all scenes, or the mosaic of a day.

Coarser bands are repeated (nearest neighbour), as in the cubes that the networks are trained on. A
folder of scenes becomes a lazy cube by odc-stac. Scenes of a catalogue are read by rasterio window
by window, because an unreadable file must be traced to its scene.
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
from panoseg.imagery.remote import DRIVERS, drop_cached, is_remote, open_raster
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset, offset_is_removed
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION

_CHUNK = 512
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


@dataclass(frozen=True)
class Header:
    """Where a raster lies."""

    crs: str
    """Coordinate system as WKT."""
    transform: Affine
    """From pixels (column, row) to coordinates."""
    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top."""


def cube_of_scenes(scenes: Sequence[Scene]) -> xr.Dataset:
    """Return a lazy cube of scenes by time: float32 reflectance x 10 000 with NaN, and SCL.

    The grid has the coordinate system of most scenes and the finest pixels, and covers all scenes.

    Raises:
        CubeError: A file is not a raster, or has no coordinate system.
    """
    import odc.stac

    bands = sorted(scenes[0].assets)
    headers = [_header(scene) for scene in scenes]
    scenes = [correct_offset(scene) for scene in scenes]
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
    """Return the band whose numbers are to be sampled; None if the metadata are not in doubt."""
    band = next((band for band in _VISIBLE if band in scene.assets), None)
    return band if band is not None and scene.assets[band].radiometry.doubtful else None


def _item(scene: Scene, number: int, header: Header) -> pystac.Item:
    """Return a STAC item whose assets are named by band.

    Its id is its place in time, because names of scenes may repeat.
    """
    box = shapely.box(*transform_bounds(header.crs, "EPSG:4326", *header.bounds)).buffer(
        FOOTPRINT_MARGIN_DEGREES, join_style="mitre"
    )  # odc-stac opens only files whose footprint meets the window
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
    """Return reflectance x 10 000 by each scene's own scale and offset.

    A season may span a change of the processing baseline.
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


def _common_grid(headers: Sequence[Header]) -> GeoBox:
    """Return the smallest grid that covers all rasters.

    It has the coordinate system of most of them and the finest pixels.
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
    # Rounding by a millionth of a pixel must not add a row or a column.
    first_column, first_row = np.floor(np.array([left - anchor.c, anchor.f - top]) / pixel_m + 1e-6)
    last_column, last_row = np.ceil(
        np.array([right - anchor.c, anchor.f - bottom]) / pixel_m - 1e-6
    )
    origin = anchor * Affine.translation(first_column, first_row)
    return GeoBox((int(last_row - first_row), int(last_column - first_column)), origin, crs)


def _header(scene: Scene) -> Header:
    """Return the header of a scene's finest band, after those of all bands were checked."""
    headers = [_header_of(Path(asset.href)) for asset in scene.assets.values()]
    return min(
        zip(scene.assets.values(), headers, strict=True), key=lambda pair: pair[0].resolution_m
    )[1]


def _header_of(path: Path) -> Header:
    try:
        # Other formats may refer to files outside of the folder.
        with rasterio.Env(), DatasetReader(str(path), driver=DRIVERS, sharing=False) as source:
            crs, transform, bounds = source.crs, source.transform, tuple(source.bounds)
    except RasterioError as error:
        raise CubeError(f"{path} is not readable as a GeoTIFF: copy the file again.") from error
    if crs is None:
        raise CubeError(f"{path} has no coordinate system: write one with gdal_edit.py -a_srs.")
    if transform.b or transform.d or transform.e != -transform.a:
        raise CubeError(
            f"{path} has rotated or non-square pixels: warp it with gdalwarp to north-up square"
            " pixels."
        )
    return Header(crs.to_wkt(), transform, bounds)


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
        with np.errstate(over="ignore", invalid="ignore"):  # a stated scale may be anything
            scale, offset = np.float32(radiometry.scale * 1e4), np.float32(radiometry.offset * 1e4)
            numbers_HW = np.rint(np.nan_to_num(numbers_HW * scale + offset))
        numbers_HW[numbers_HW == 0] = DARKEST
    return np.where(seen_HW, np.clip(numbers_HW, -_LARGEST, _LARGEST), empty).astype(np.int16)
