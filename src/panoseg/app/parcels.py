"""Parcels of a map as the pages show them, with corrections applied, and areas by crop.

Shape suffixes: I identifiers of parcels, T dates, K classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from panoseg.app.corrections import CorrectedParcel, Corrections, read_corrections
from panoseg.app.result_map import DEGREES, NO_PARCEL, ResultMap, reproject, transformer
from panoseg.app.stages import MAP, cube_of, read_options_of
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.figures import ndvi_curve
from panoseg.maps.outlines import to_pixels
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE
from panoseg.maps.rasters import NO_DATA_CLASS
from panoseg.maps.refine import area_shares

_MIN_SHARE = 0.0005


@dataclass(frozen=True)
class ParcelView:
    """A parcel."""

    id: str
    """A number; of a corrected parcel, c and a number."""
    crop: str
    """Name of the crop."""
    colour: str
    """Colour of the crop, #rrggbb."""
    area_ha: float
    """Area in hectares."""
    confidence: float | None
    """Confidence of the map, 0 to 1; None for a corrected parcel."""
    corrected: bool
    """Whether a person has corrected the parcel."""
    shares: tuple[tuple[str, float], ...]
    """Crops and their shares, 0 to 1, largest first."""
    shares_of: Literal["probability", "area"]
    """Whether ``shares`` are probabilities of the network, or shares of the area inside the outline
    by the pixels of the map. The latter is used for corrected parcels and for maps without
    probabilities.
    """
    outline: dict[str, Any]
    """GeoJSON in degrees."""


@dataclass(frozen=True)
class NdviCurve:
    """NDVI of a parcel over the season, one value per date, None if there are no data."""

    dates: tuple[str, ...]
    """Dates such as 2019-05-01."""
    mean: tuple[float | None, ...]
    """Mean over the parcel, -1 to 1."""
    low: tuple[float | None, ...]
    """Lower quartile."""
    high: tuple[float | None, ...]
    """Upper quartile."""
    cloudy: tuple[bool, ...]
    """Whether the parcel is in cloud or shadow."""


@dataclass(frozen=True)
class CropArea:
    """The parcels of a crop."""

    crop: str
    """Name of the crop."""
    colour: str
    """Colour of the crop, #rrggbb."""
    parcels: int
    """Number of parcels."""
    area_ha: float
    """Their area in hectares."""
    confidence: float | None
    """Their mean confidence, 0 to 1, without corrected parcels; None if all are corrected."""


def parcel_at(result: ResultMap, longitude: float, latitude: float) -> ParcelView | None:
    """Return the parcel at a place in degrees, with corrections; None if there is none."""
    x, y = transformer(DEGREES, result.crs).transform(longitude, latitude)
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    corrections = read_corrections(result.folder)
    corrected = corrections.at(x, y)
    if corrected is not None:
        return _of_corrected(result, corrected)
    found = result.within((x, y, x, y))
    found = found[found.intersects(shapely.Point(x, y)) & ~found["id"].isin(corrections.replaced)]
    return _of_found(result, found.iloc[0]) if len(found) else None


def parcel_of(result: ResultMap, id_: str) -> ParcelView:
    """Return a parcel by its id, or raise ``NotFoundError``."""
    corrected = read_corrections(result.folder).parcels.get(id_)
    if corrected is not None:
        return _of_corrected(result, corrected)
    return _of_found(result, result.parcels([id_]).iloc[0])


def outline_of(result: ResultMap, id_: str) -> BaseGeometry:
    """Return the outline of a parcel in the map's own coordinate system.

    Raises:
        NotFoundError: The map has no such parcel.
    """
    corrected = read_corrections(result.folder).parcels.get(id_)
    return corrected.geometry if corrected is not None else result.parcels([id_]).geometry.iloc[0]


def curve_of(folder: Path, outline: BaseGeometry) -> NdviCurve:
    """Return the NDVI inside an outline on every date of a job's season."""
    path, read = cube_of(folder), read_options_of(folder)
    with reading(path):
        curve = ndvi_curve(check_cube(open_cube(path), PASTIS_BANDS, read), outline)
    mean, low, high = (
        tuple(_number(value) for value in row) for row in (curve.mean_T, curve.low_T, curve.high_T)
    )
    return NdviCurve(
        tuple(curve.dates), mean, low, high, tuple(bool(cloudy) for cloudy in curve.cloudy_T)
    )


def areas(result: ResultMap, corrections: Corrections | None = None) -> list[CropArea]:
    """Return the areas by crop, largest first, with corrections (by default those of the job)."""
    corrections = read_corrections(result.folder) if corrections is None else corrections
    class_I = result.class_I.copy()
    class_I[[int(id_) for id_ in corrections.replaced]] = NO_PARCEL
    drawn = list(corrections.parcels.values())
    rows = []
    for entry in result.classes.classes:
        own_I = class_I == entry.id
        own = [parcel.area_ha for parcel in drawn if parcel.crop == entry.name]
        count = int(own_I.sum()) + len(own)
        if count:
            confidence = float(result.confidence_I[own_I].mean()) if own_I.any() else None
            area = float(result.area_ha_I[own_I].sum()) + sum(own)
            rows.append(CropArea(entry.name, entry.colour, count, area, confidence))
    return sorted(rows, key=lambda row: -row.area_ha)


def shares_of(result: ResultMap, outline: BaseGeometry) -> tuple[tuple[str, float], ...]:
    """Return the share of each class inside an outline by the raster of classes, largest first."""
    with rasterio.open(result.folder / MAP / "classes.tif") as source:
        window = _whole_pixels(outline.bounds, source.transform)
        classes_HW = source.read(1, window=window, boundless=True, fill_value=NO_DATA_CLASS)
        pixels = to_pixels(np.array([outline], dtype=object), source.window_transform(window))
    data_HW = classes_HW != NO_DATA_CLASS
    [shares_K] = area_shares(
        pixels, np.where(data_HW, classes_HW, 0), data_HW, result.classes.count
    )
    return _ordered({entry.name: float(shares_K[entry.id]) for entry in result.classes.classes})


def _ordered(shares: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return the shares without negligible ones, largest first."""
    return tuple(
        sorted(
            ((name, share) for name, share in shares.items() if share > _MIN_SHARE),
            key=lambda pair: -pair[1],
        )
    )


def in_degrees(result: ResultMap, outline: BaseGeometry) -> dict[str, Any]:
    """Return an outline of the map's own coordinate system as GeoJSON in degrees.

    The coordinates are rounded to 1e-7 degrees, a centimetre.
    """
    fine = reproject(outline, result.crs, DEGREES)
    return dict(shapely.geometry.mapping(shapely.transform(fine, lambda xy: np.round(xy, 7))))


def _whole_pixels(bounds: tuple[float, float, float, float], transform: Affine) -> Window:
    """Return the window of all pixels that a box meets."""
    left, top = ~transform * (bounds[0], bounds[3])
    right, bottom = ~transform * (bounds[2], bounds[1])
    first_row, first_column = math.floor(top), math.floor(left)
    return Window(
        first_column,
        first_row,
        max(1, math.ceil(right) - first_column),
        max(1, math.ceil(bottom) - first_row),
    )


def _of_found(result: ResultMap, row: pd.Series) -> ParcelView:
    id_ = int(row["id"])
    likely = _ordered(result.probabilities(row["id"]))
    return _view(
        result, row["id"], row["class"], row.geometry, float(result.confidence_I[id_]), likely
    )


def _of_corrected(result: ResultMap, parcel: CorrectedParcel) -> ParcelView:
    return _view(result, parcel.id, parcel.crop, parcel.geometry, None)


def _view(
    result: ResultMap,
    id_: str,
    crop: str,
    outline: BaseGeometry,
    confidence: float | None,
    likely: tuple[tuple[str, float], ...] = (),
) -> ParcelView:
    colour = result.classes[result.class_id(crop)].colour
    area_ha = outline.area / SQUARE_METRES_PER_HECTARE
    shares = likely or shares_of(result, outline)
    by: Literal["probability", "area"] = "probability" if likely else "area"
    return ParcelView(
        id_,
        crop,
        colour,
        area_ha,
        confidence,
        confidence is None,
        shares,
        by,
        in_degrees(result, outline),
    )


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
