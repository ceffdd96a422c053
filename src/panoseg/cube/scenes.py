"""Read scenes onto a grid: a lazy cube of all scenes, or the mosaic of a day.

Coarser bands are repeated (nearest neighbour), as in the cubes that the networks are trained on.
Everything is read by rasterio window by window, so that an unreadable file is named.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import dask.array
import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from dask.tokenize import tokenize
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.dtypes import in_dtype_range
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from scipy.ndimage import distance_transform_edt

from panoseg.cube.options import CubeOptions
from panoseg.cube.report import OPENED
from panoseg.errors import CubeError
from panoseg.imagery.area import FOOTPRINT_MARGIN_DEGREES, may_intersect
from panoseg.imagery.remote import DRIVERS, drop_cached, is_remote, open_raster
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset, offset_is_removed
from panoseg.imagery.sentinel2 import PASTIS_BANDS, PIXEL_M, SCENE_CLASSIFICATION

_CHUNK = 512
_SAMPLED_SIDE = 512
_VISIBLE = ("B04", "B03", "B02")  # where land is darkest
"""Name of the attribute of a cube with what is known of its scenes, as JSON."""
_LIKE_10_M = (8e-5, 1.5e-4)  # degrees
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


def cube_of_scenes(scenes: Sequence[Scene], notes: Sequence[str] = ()) -> xr.Dataset:
    """Return a lazy cube of scenes by time: float32 reflectance x 10 000 with NaN, and SCL.

    The grid has the coordinate system of most scenes and the finest pixels, and covers all scenes.
    A scene that lacks a band is left out. ``notes_of`` returns the notes, those on such scenes
    included.

    Raises:
        CubeError: A file is no raster, or has no coordinate system; or no scene is complete.
    """
    scenes, bands, left_out = complete_scenes(scenes)
    known: dict[str, Header] = {}
    headers = [_header(scene, bands, known) for scene in scenes]
    scenes = [correct_offset(scene) for scene in scenes]
    grid, converted = _common_grid(headers)
    coords = xr_coords(grid, always_yx=True)
    times = np.array([scene.time for scene in scenes], "datetime64[ns]")
    coords["time"] = xr.DataArray(times, dims="time")
    variables = {}
    for band in bands:
        assets = [scene.assets[band] for scene in scenes]
        layer = SceneBand(grid, band, assets, [known[asset.href] for asset in assets])
        values_TYX = dask.array.from_array(  # type: ignore[no-untyped-call]
            layer,
            chunks=(1, _CHUNK, _CHUNK),
            name=f"scenes-{band}-{tokenize(str(grid), layer.assets)}",
            asarray=False,
            fancy=False,
            meta=np.empty((0, 0, 0), np.float32),
        )
        variables[band] = (("time", "y", "x"), values_TYX, {"grid_mapping": "spatial_ref"})
    ids: dict[str, list[str]] = {}
    for scene in scenes:
        ids.setdefault(str(scene.time.date()), []).append(scene.id)
    known_of_it = {"notes": [*notes, *left_out, *converted], "scenes": ids}
    return xr.Dataset(variables, coords, attrs={OPENED: json.dumps(known_of_it)})


def notes_of(cube: xr.Dataset) -> tuple[str, ...]:
    """Return sentences on what was left out when a folder of scenes was opened."""
    return tuple(map(str, _opened_with(cube).get("notes", ())))


def scenes_of(cube: xr.Dataset) -> dict[str, list[str]]:
    """Return the ids of scenes by day of a cube that was opened from a folder of scenes."""
    return dict(_opened_with(cube).get("scenes", {}))


def _opened_with(cube: xr.Dataset) -> dict[str, Any]:
    try:
        found = json.loads(cube.attrs[OPENED])
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def complete_scenes(scenes: Sequence[Scene]) -> tuple[list[Scene], list[str], list[str]]:
    """Return the scenes that have all bands, these bands, and a sentence on each other scene.

    A band of PASTIS counts if any scene has it, another band if half of the scenes have it.

    Raises:
        CubeError: No scene is complete.
    """
    number = Counter(band for scene in scenes for band in scene.assets)
    bands = [b for b, n in sorted(number.items()) if b in PASTIS_BANDS or 2 * n >= len(scenes)]
    lacking = {
        place: [band for band in bands if band not in scene.assets]
        for place, scene in enumerate(scenes)
    }
    kept = [scene for place, scene in enumerate(scenes) if not lacking[place] and scene.assets]
    if not kept:
        nearest = min(lacking, key=lambda place: len(lacking[place]))
        reason = (
            f"lacks {', '.join(lacking[nearest])}"
            if lacking[nearest]
            else "has no file whose bands are named"
        )
        raise CubeError(
            f"No scene has all bands (scene {scenes[nearest].id} {reason}): add the files, or name"
            " the bands in eo:bands or in the descriptions of the GeoTIFF (B02, B03, ..)."
        )
    left_out = [
        f"Scene {scenes[place].id} was left out: it"
        f" {'lacks ' + ', '.join(missing) if scenes[place].assets else 'names no band'}."
        for place, missing in lacking.items()
        if missing
    ]
    return kept, bands, left_out


class SceneBand:
    """One band of all scenes on a grid, time x y x x, read where it is indexed.

    dask indexes it block by block. Pixels are reflectance x 10 000 by each scene's own scale and
    offset, because a season may span a change of the processing baseline; NaN where there is no
    data. SCL keeps its numbers.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(
        self, grid: GeoBox, band: str, assets: Sequence[SceneAsset], headers: Sequence[Header]
    ) -> None:
        self.grid, self.band, self.assets = grid, band, tuple(assets)
        self.shape = (len(assets), *grid.shape)
        crs = str(grid.crs)
        self._boxes = np.array(
            [h.bounds if h.crs == crs else transform_bounds(h.crs, crs, *h.bounds) for h in headers]
        )

    def __getitem__(self, key: tuple[slice | int, ...]) -> np.ndarray:
        """Return a block: float32. Raises ``CubeError`` for a damaged file."""
        key = (*key, *[slice(None)] * (self.ndim - len(key)))
        places_T, rows_Y, columns_X = (
            np.atleast_1d(np.arange(size)[part]) for size, part in zip(self.shape, key, strict=True)
        )
        block_TYX = np.full((len(places_T), len(rows_Y), len(columns_X)), np.nan, np.float32)
        if block_TYX.size:
            top, left = rows_Y.min(), columns_X.min()
            window = self.grid[top : rows_Y.max() + 1, left : columns_X.max() + 1]
            for row, place in enumerate(places_T):
                if self._meets(place, window):
                    values_HW = self._read(self.assets[place], window)
                    block_TYX[row] = values_HW[np.ix_(rows_Y - top, columns_X - left)]
        return block_TYX[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]

    def _meets(self, place: int, window: GeoBox) -> bool:
        left, bottom, right, top = self._boxes[place]
        box, pixel = window.boundingbox, abs(float(window.resolution.x))
        return bool(
            left - pixel < box.right
            and right + pixel > box.left
            and bottom - pixel < box.top
            and top + pixel > box.bottom
        )

    def _read(self, asset: SceneAsset, window: GeoBox) -> np.ndarray:
        meaning = asset.radiometry
        try:
            with rasterio.Env(), _opened(asset.href) as source:
                # No data that the type of a file cannot hold is nowhere in it.
                held = in_dtype_range(meaning.nodata, source.dtypes[0])
                nodata = meaning.nodata if held else 0.0
                # Exact places, so that values do not depend on the window that is read.
                stored_HW = _on_grid(source, asset.index, window, nodata, 1e-6)
        except (RasterioError, OSError, ValueError, IndexError) as error:
            lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise CubeError(
                f"{asset.href} cannot be read ({lines[0]}): copy the file again."
            ) from error
        numbers_HW = stored_HW.astype(np.float32)
        missing_HW = numbers_HW == np.float32(nodata)
        if asset.gap_at_zero:
            missing_HW |= numbers_HW == 0
        numbers_HW[missing_HW] = np.nan
        if self.band == SCENE_CLASSIFICATION:
            return numbers_HW
        with np.errstate(over="ignore", invalid="ignore"):  # a stated scale may be anything
            scale, offset = np.float32(meaning.scale * 1e4), np.float32(meaning.offset * 1e4)
            reflectance_HW: np.ndarray = numbers_HW * scale + offset
        # Fractions without a stated scale may be reflectance 0..1, where DARKEST would be white.
        if stored_HW.dtype.kind != "f" or scale != 1 or offset != 0:
            reflectance_HW[reflectance_HW == 0] = DARKEST
        return reflectance_HW


def _opened(href: str) -> DatasetReader:
    """Open a local raster; other formats may refer to files outside of the folder."""
    return DatasetReader(href, driver=DRIVERS, sharing=False)


def _on_grid(
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


def _common_grid(headers: Sequence[Header]) -> tuple[GeoBox, list[str]]:
    """Return the smallest grid that covers all rasters, and a note if it is none of theirs.

    It has the coordinate system of most of them and the finest pixels. Rasters in degrees whose
    pixels have about 10 m are brought into their UTM zone.
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
    pixel = anchor.a
    # Rounding by a millionth of a pixel must not add a row or a column.
    first_column, first_row = np.floor(np.array([left - anchor.c, anchor.f - top]) / pixel + 1e-6)
    last_column, last_row = np.ceil(np.array([right - anchor.c, anchor.f - bottom]) / pixel - 1e-6)
    origin = anchor * Affine.translation(first_column, first_row)
    grid = GeoBox((int(last_row - first_row), int(last_column - first_column)), origin, crs)
    if grid.crs is None or not grid.crs.geographic or not _LIKE_10_M[0] < pixel < _LIKE_10_M[1]:
        return grid, []
    placed: GeoBox = grid.to_crs("utm", resolution=PIXEL_M)  # type: ignore[arg-type]
    return placed, [
        f"The files are in degrees; the cube is in {placed.crs} with pixels of {PIXEL_M:g} m, by"
        " nearest neighbour."
    ]


def _header(scene: Scene, bands: Sequence[str], known: dict[str, Header]) -> Header:
    """Return the header of a scene's finest band, after those of all bands were checked.

    Args:
        scene: The scene.
        bands: The bands that are used.
        known: Headers by file, to which new ones are added: a file may hold many bands.
    """
    assets = [scene.assets[band] for band in bands]
    for asset in assets:
        if asset.href not in known:
            known[asset.href] = _header_of(asset.href)
    return min((known[asset.href] for asset in assets), key=lambda header: header.transform.a)


def _header_of(href: str) -> Header:
    try:
        with rasterio.Env(), _opened(href) as source:
            crs, transform, bounds = source.crs, source.transform, source.bounds
    except RasterioError as error:
        raise CubeError(f"{href} is not readable as a GeoTIFF: copy the file again.") from error
    if crs is None:
        raise CubeError(f"{href} has no coordinate system: write one with gdal_edit.py -a_srs.")
    if transform.b or transform.d or not math.isclose(abs(transform.e), transform.a, rel_tol=1e-6):
        raise CubeError(
            f"{href} has rotated or non-square pixels: warp it with gdalwarp to north-up square"
            " pixels."
        )
    left, right, bottom, top = bounds.left, bounds.right, *sorted((bounds.bottom, bounds.top))
    # South-up files are read north-up.
    grid = Affine(transform.a, 0, left, 0, -transform.a, top)
    return Header(crs.to_wkt(), grid, (left, bottom, right, top))


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
        numbers_HW = _on_grid(source, asset.index, grid, radiometry.nodata)
    seen_HW = np.isfinite(numbers_HW) & (numbers_HW != radiometry.nodata)
    numbers_HW = np.where(seen_HW, numbers_HW, 0).astype(np.float32)
    if band != SCENE_CLASSIFICATION:
        with np.errstate(over="ignore", invalid="ignore"):  # a stated scale may be anything
            scale, offset = np.float32(radiometry.scale * 1e4), np.float32(radiometry.offset * 1e4)
            numbers_HW = np.rint(np.nan_to_num(numbers_HW * scale + offset))
        numbers_HW[numbers_HW == 0] = DARKEST
    return np.where(seen_HW, np.clip(numbers_HW, -_LARGEST, _LARGEST), empty).astype(np.int16)
