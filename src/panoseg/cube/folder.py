"""Read a folder of scenes as a lazy cube: the scenes that are complete, on a common grid.

Coarser bands are repeated (nearest neighbour). Everything is read by rasterio where dask needs it,
so that an unreadable file is named.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array
import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from dask.tokenize import tokenize
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.dtypes import in_dtype_range
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds

from panoseg.cube.check import LARGEST_SIDE
from panoseg.cube.metadata import OPENED
from panoseg.cube.scenes import correct_offset, doubtful_band, on_grid
from panoseg.errors import CubeError
from panoseg.imagery.remote import DRIVERS, check_blocks
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset
from panoseg.imagery.sentinel2 import PASTIS_BANDS, PIXEL_M, SCENE_CLASSIFICATION
from panoseg.text_files import json_of

_CHUNK = 512
_LIKE_10_M = (8e-5, 1.5e-4)  # degrees


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
        CubeError: A file is not a raster, or has no coordinate system; or no scene is complete.
    """
    scenes, bands, left_out = complete_scenes(scenes)
    known: dict[str, Header] = {}
    headers = [_header(scene, bands, known) for scene in scenes]
    scenes = correct_offsets(scenes)
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


def correct_offsets(scenes: Sequence[Scene]) -> list[Scene]:
    """Return scenes with the offsets that their numbers really have.

    Files without items that lie in one folder were made in one way: where the numbers of one show
    that its offset was taken off, as dark land does and bare soil does not, it was of all.
    """
    corrected = [correct_offset(scene) for scene in scenes]
    unsure = [
        place
        for place, scene in enumerate(scenes)
        if doubtful_band(scene) and all(asset.gap_at_zero for asset in scene.assets.values())
    ]
    if all(doubtful_band(corrected[place]) for place in unsure):
        return corrected
    for place in unsure:
        assets = {
            band: replace(asset, radiometry=replace(asset.radiometry, offset=0.0, doubtful=False))
            for band, asset in scenes[place].assets.items()
        }
        corrected[place] = replace(scenes[place], assets=assets)
    return corrected


def notes_of(cube: xr.Dataset) -> tuple[str, ...]:
    """Return sentences on what was left out when a folder of scenes was opened."""
    return tuple(map(str, _opened_with(cube).get("notes", ())))


def scenes_of(cube: xr.Dataset) -> dict[str, list[str]]:
    """Return the ids of scenes by day of a cube that was opened from a folder of scenes."""
    return dict(_opened_with(cube).get("scenes", {}))


def _opened_with(cube: xr.Dataset) -> dict[str, Any]:
    try:
        found = json_of(cube.attrs[OPENED])
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
                check_blocks(source)
                # No data that the type of a file cannot hold is nowhere in it.
                held = in_dtype_range(meaning.nodata, source.dtypes[0])
                nodata = meaning.nodata if held else 0.0
                # Exact places, so that values do not depend on the window that is read.
                stored_HW = on_grid(source, asset.index, window, nodata, 1e-6)
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
    sides = np.array([right - left, top - bottom]) / pixel
    if not (sides <= LARGEST_SIDE).all():  # also where a place cannot be projected
        raise CubeError(
            "The rasters are too far apart for one cube, of which at most"
            f" {LARGEST_SIDE:,} pixels a side are read: give those of one area."
        )
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
