"""Images, outlines and NDVI curves for the report of a map.

Shape suffixes: T dates, H W pixels, P pixels of a parcel.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import rasterio
import shapely
import xarray as xr
from affine import Affine
from PIL import Image
from rasterio.features import geometry_mask

from panoseg.cube.season import CLEAR_CLASSES, Season
from panoseg.data.arrays import CLOUD_REFLECTANCE
from panoseg.imagery.sentinel2 import PASTIS_BANDS, SCENE_CLASSIFICATION
from panoseg.maps.rasters import NO_DATA_CLASS

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("panoseg.maps", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The templates of pages. They escape what they are given."""
_LONGEST_SIDE = 1024
_SMALLEST_SIDE = 640


@dataclass(frozen=True)
class Curve:
    """NDVI of a parcel over a season."""

    dates: list[str]
    """The dates, as YYYY-MM-DD."""
    mean_T: np.ndarray
    """float64: mean over the parcel's pixels, NaN where there are no data."""
    low_T: np.ndarray
    """float64: first quartile of the pixels."""
    high_T: np.ndarray
    """float64: third quartile of the pixels."""
    cloudy_T: np.ndarray
    """bool: whether the parcel is in cloud or shadow."""


def clearest_date(season: Season) -> int:
    """Return the position of a clear date near midsummer.

    It is the one nearest to 15 June among those within 0.03 of the highest clear share.
    """
    nearly = np.flatnonzero(season.clear_T >= season.clear_T.max() - 0.03)
    june = np.datetime64(f"{season.harvest_year}-06-15")
    return int(nearly[np.abs(season.dates_T[nearly] - june).argmin()])


_VISIBLE = ("B02", "B03", "B04")
_NANOMETRES = dict(
    zip(PASTIS_BANDS, (492, 560, 665, 704, 740, 781, 833, 865, 1612, 2196), strict=True)
)
"""Centre wavelengths of Sentinel-2's bands, rounded."""


def nearest_band(cube: xr.Dataset, wanted: str) -> str:
    """Return the band of a checked cube whose wavelength is nearest to that of ``wanted``."""
    present = [band for band in PASTIS_BANDS if band in cube]
    return min(present, key=lambda band: abs(_NANOMETRES[band] - _NANOMETRES[wanted]))


def true_colour(cube: xr.Dataset, position: int) -> str:
    """Return one date of a checked cube as a true-colour JPEG, in a data URI.

    Brightness is stretched so that land is well lit; pixels without data are light grey.
    """
    step = max(1, max(cube.sizes["y"], cube.sizes["x"]) // _LONGEST_SIDE)
    part = cube.isel(time=position, y=slice(None, None, step), x=slice(None, None, step))
    bands_HW3 = np.stack(
        [part[nearest_band(cube, band)].values for band in ("B04", "B03", "B02")], axis=-1
    )
    data_HW = (np.isfinite(bands_HW3) & (bands_HW3 != 0)).all(axis=-1)
    colours_HW3 = np.full(bands_HW3.shape, 225, np.uint8)
    if data_HW.any():
        low, high = np.percentile(bands_HW3[data_HW], (1, 98))
        lit = np.clip((bands_HW3[data_HW] - 0.8 * low) / max(high - 0.8 * low, 1), 0, 1) ** 0.75
        colours_HW3[data_HW] = (255 * lit).astype(np.uint8)
    image = enlarged(colours_HW3, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def enlarged(colours_HW3: np.ndarray, resampling: Image.Resampling) -> Image.Image:
    """Return uint8 colours as an image of at least 640 pixels on its longer side."""
    image = Image.fromarray(colours_HW3)
    factor = max(1, -(-_SMALLEST_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), resampling)


def class_image(path: Path, background: int) -> str:
    """Return a class raster in its own colours, reduced in size, as a PNG in a data URI.

    Pixels without data and those of class ``background`` are transparent.
    """
    with rasterio.open(path) as source:
        step = max(1, max(source.shape) / _LONGEST_SIDE)
        classes_HW = source.read(
            1, out_shape=tuple(max(1, round(side / step)) for side in source.shape)
        )
        colours = source.colormap(1)
    palette = np.array([colours[value] for value in range(256)], np.uint8)
    palette[[background, NO_DATA_CLASS], 3] = 0
    stream = io.BytesIO()
    Image.fromarray(palette[classes_HW]).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def svg_paths(outlines: np.ndarray, transform: Affine) -> list[str]:
    """Return the ``d`` attribute of each outline, in pixels of the grid, to 0.1 pixels."""
    inverse = ~transform
    matrix = np.array([[inverse.a, inverse.d], [inverse.b, inverse.e]])
    paths = []
    for outline in outlines:
        pixels = shapely.transform(outline, lambda xy: xy @ matrix + (inverse.c, inverse.f))
        pieces = []
        for ring in shapely.get_rings(shapely.get_parts(pixels)):
            points = [f"{x:.1f} {y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1].tolist()]
            pieces.append("M" + "L".join(points) + "Z")
        paths.append("".join(pieces))
    return paths


def ndvi_curve(cube: xr.Dataset, outline: shapely.Geometry) -> Curve:
    """Return the NDVI, (B08 - B04) / (B08 + B04), of the pixels inside an outline.

    Args:
        cube: A checked cube.
        outline: Polygon in the coordinate system of the cube.
    """
    grid = cube.odc.geobox
    left, bottom, right, top = shapely.bounds(outline).tolist()
    first_x, first_y = ~grid.affine * (left, top)
    last_x, last_y = ~grid.affine * (right, bottom)
    rows = slice(max(int(first_y), 0), min(int(np.ceil(last_y)), grid.shape[0]))
    columns = slice(max(int(first_x), 0), min(int(np.ceil(last_x)), grid.shape[1]))
    part = cube.isel(y=rows, x=columns)
    shape_HW = part.sizes["y"], part.sizes["x"]
    corner = grid.affine * Affine.translation(columns.start, rows.start)
    # A tiny parcel may contain no pixel's centre.
    tiny = shape_HW[0] * shape_HW[1] < 9
    inside_HW = ~geometry_mask([outline], shape_HW, corner, all_touched=tiny)
    near, red, blue = (nearest_band(cube, band) for band in ("B08", "B04", "B02"))
    near_TP, red_TP, blue_TP = (part[band].values[:, inside_HW] for band in (near, red, blue))
    sum_TP = near_TP + red_TP
    data_TP = (near != red) & np.isfinite(sum_TP) & (sum_TP > 0) & (near_TP != 0) & (red_TP != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ndvi_TP = np.where(data_TP, (near_TP - red_TP) / sum_TP, np.nan)
    # pandas, because numpy warns of dates without data.
    ndvi = pd.DataFrame(ndvi_TP.T)
    quartiles = ndvi.quantile([0.25, 0.75]).to_numpy()
    if SCENE_CLASSIFICATION in part:
        scene_TP = part[SCENE_CLASSIFICATION].values[:, inside_HW]
        cloudy_T = np.isin(scene_TP, CLEAR_CLASSES).mean(axis=1) < 0.5
    else:
        # Clouds are bright in blue; a date without data has no mean and counts as clear.
        blue_T = pd.DataFrame(blue_TP.T).mean().to_numpy()
        cloudy_T = (blue in _VISIBLE) & (np.nan_to_num(blue_T) > CLOUD_REFLECTANCE)
    return Curve(
        cube["time"].dt.strftime("%Y-%m-%d").values.tolist(),
        ndvi.mean().to_numpy(),
        quartiles[0],
        quartiles[1],
        cloudy_T,
    )
