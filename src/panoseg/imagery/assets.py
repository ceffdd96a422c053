"""STAC items -> scenes: which asset holds which band, by what the item itself says.

Assets are found in this order: the name of their one band, their key, its common name. Items of the public Sentinel-2
catalogues differ in all three (``eo:bands`` in STAC 1.0, ``bands`` in 1.1; keys ``B02``, ``blue`` or ``B02_10m``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from panoseg.imagery.bands import band_name
from panoseg.imagery.radiometry import Radiometry, processing_baseline, radiometry

# Of Earth seen from space; years beyond them are mistakes, and end the calendars of Python (9999) and NumPy (2262).
FIRST_YEAR, LAST_YEAR = 1985, 2200
# What a STAC item that anybody made may raise while it is read.
BROKEN_ITEM = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, shapely.errors.ShapelyError)


@dataclass(frozen=True)
class SceneAsset:
    """The file of one band of one scene.

    href: a path or a URL that GDAL opens. meaning: of the numbers in it. resolution_m: size of a pixel as the item states it,
    infinite where it does not.
    """

    href: str
    meaning: Radiometry
    resolution_m: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One acquisition: ``time`` in UTC without zone, and its assets by band (``B02``, .., ``SCL``).

    outline: where it lies, in degrees; None where the item does not say. baseline: its processing baseline, 0 where unknown.
    epsg: number of the coordinate system of its files, 0 where unknown. Raises ``ValueError`` for a time when nothing was seen.
    """

    id: str
    time: datetime
    assets: dict[str, SceneAsset]
    outline: BaseGeometry | None = None
    baseline: float = 0.0
    epsg: int = 0

    def __post_init__(self) -> None:
        if not FIRST_YEAR <= self.time.year <= LAST_YEAR:
            raise ValueError(f"time {self.time}")

    def day(self, ahead: timedelta) -> date:
        """The day where the sun's time is so far ahead of UTC."""
        return (self.time + ahead).date()


def utc(text: str) -> datetime:
    """A time in ISO 8601 as UTC without zone, which is also what one that states no zone is in. Raises ``ValueError``.

    >>> utc("2020-03-01T11:09:01+02:00"), utc("2020-03-01T09:09:01")
    (datetime.datetime(2020, 3, 1, 9, 9, 1), datetime.datetime(2020, 3, 1, 9, 9, 1))
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def scene_of_item(item: dict[str, Any], locate: Callable[[str], str]) -> Scene:
    """The scene of a STAC item. locate: href of an asset -> path or URL. Raises one of ``BROKEN_ITEM`` for a broken item."""
    properties = item["properties"]
    time = utc(properties.get("datetime") or properties["start_datetime"])
    name = str(item["id"])
    assets = {
        band: SceneAsset(locate(asset["href"]), radiometry(asset, properties, band, name), resolution(asset))
        for band, asset in one_asset_a_band(item["assets"]).items()
    }
    outline = shape(item["geometry"]) if item.get("geometry") else None
    return Scene(name, time, assets, outline, processing_baseline(properties, name) or 0.0, _epsg(item))


def _epsg(item: dict[str, Any]) -> int:
    """The coordinate system that an item or one of its assets states by number; 0 where none does."""
    for stated in (item["properties"], *item["assets"].values()):
        number = stated.get("proj:epsg") or str(stated.get("proj:code") or "").removeprefix("EPSG:")
        if str(number).isdecimal():
            return int(number)
    return 0


def one_asset_a_band(assets: dict[str, dict]) -> dict[str, dict]:
    """The best asset of each band: a GeoTIFF rather than JPEG 2000, then the finest pixels, then the first key."""
    candidates: dict[str, list[tuple[bool, float, str]]] = {}
    for key, asset in assets.items():
        band = _band_of(key, asset)
        if band is not None:
            is_tiff = "tiff" in str(asset.get("type", "")) or asset["href"].lower().endswith((".tif", ".tiff"))
            candidates.setdefault(band, []).append((not is_tiff, resolution(asset), key))
    return {band: assets[min(found)[2]] for band, found in sorted(candidates.items())}


def _band_of(key: str, asset: dict) -> str | None:
    """The band of an asset; None for previews, metadata and other products."""
    described = asset.get("bands") or asset.get("eo:bands") or [{}]
    if len(described) != 1:
        return None
    band = described[0]
    names = (band.get("name"), key, band.get("eo:common_name") or band.get("common_name"))
    return next((found for name in names if name and (found := band_name(name))), None)


def resolution(asset: dict) -> float:
    """Size of a pixel in metres as an asset states it; infinite where it does not."""
    described = (asset.get("raster:bands") or [{}])[0]
    return float(asset.get("gsd") or described.get("spatial_resolution") or "inf")
