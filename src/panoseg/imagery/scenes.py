"""From the numbers in a file to reflectance: scale, offset and no data, as each catalogue really
delivers them.

From processing baseline 04.00 on (25 January 2022, and older scenes that were processed again
since) a product holds reflectance x 10 000 + 1000, so that noise below zero survives. Copies of the
products differ in whether the 1000 is still in the numbers, and their metadata do not always tell
the truth; docs/radiometry.md has the rule as a table.

Sources: ESA, Sentinel-2 products upgrade of baseline 04.00; microsoft/PlanetaryComputer issue 134;
Element84/earth-search issues 9, 66 and 71; MTD_MSIL2A.xml of the products.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from panoseg.errors import CubeError
from panoseg.imagery.bands import SCENE_CLASSIFICATION, band_name
from panoseg.imagery.calendar import FIRST_YEAR, LAST_YEAR
from panoseg.imagery.remote import DRIVERS

FIRST_BASELINE_WITH_OFFSET = 4.0
_MOST_BASELINES = 100  # they have two digits
OFFSET = -0.1
# Reflectance x 10 000 of a pixel that is seen and would have 0, which means no data in a cube.
DARKEST = 1.0
_DEFAULT_SCALE = 1e-4
_BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_APPLIED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_PRODUCT_NAME = re.compile(r"_N(\d{2})(\d{2})_")
# Land is hardly ever darker than nothing: a larger share of negative reflectance says that the 1000
# was taken off before.
_MOST_NEGATIVE = 0.02


@dataclass(frozen=True)
class Radiometry:
    """What a number in a file means: reflectance = number x ``scale`` + ``offset``.

    nodata: the number that means none. doubtful: the metadata say that the offset is still in the
    numbers, in a catalogue that is known to say so wrongly; ``without_offset`` looks at the
    numbers.
    """

    scale: float
    offset: float
    nodata: float
    doubtful: bool = False


def radiometry(
    asset: dict[str, Any], properties: dict[str, Any], band: str, name: str = ""
) -> Radiometry:
    """The radiometry of a STAC asset of ``band``, in an item with these ``properties`` and this
    ``name``.

    The offset is, by the first line that fits: 0 where the catalogue says that it has subtracted
    it; 0 before baseline 04.00, whatever is stated; what the asset states; by the baseline; 0.
    Raises ``ValueError`` for numbers that are none.
    """
    described = {**asset, **(asset.get("raster:bands") or asset.get("bands") or [{}])[0]}
    nodata = float(described.get("nodata") or 0)
    if band == SCENE_CLASSIFICATION:
        return Radiometry(1.0, 0.0, nodata)
    scale = float(described.get("scale", described.get("raster:scale", _DEFAULT_SCALE)))
    stated = described.get("offset", described.get("raster:offset"))
    baseline = processing_baseline(properties, name)
    applied = next((properties[key] for key in _APPLIED_KEYS if key in properties), None)
    if applied is True or (baseline is not None and baseline < FIRST_BASELINE_WITH_OFFSET):
        offset = 0.0
    elif stated is not None:
        offset = float(stated)
    else:
        offset = OFFSET if baseline is not None else 0.0
    if not (math.isfinite(scale) and math.isfinite(offset)):
        raise ValueError(f"scale {scale} and offset {offset}")
    return Radiometry(scale, offset, nodata, doubtful=applied is False and offset != 0)


def processing_baseline(properties: dict[str, Any], name: str = "") -> float | None:
    """The processing baseline of a product, 4.0 for 04.00; from its properties, else from its name;
    None where neither tells.

    Raises ``ValueError`` for one that is none.

    >>> processing_baseline({}, "S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU_20230630T033416")
    5.0
    """
    for key in _BASELINE_KEYS:
        if properties.get(key):
            baseline = float(properties[key])
            if not 0 <= baseline < _MOST_BASELINES:  # NaN is neither before nor after 04.00
                raise ValueError(f"{key} {properties[key]!r}")
            return baseline
    match = _PRODUCT_NAME.search(f"{properties.get('s2:product_uri', '')} {name}")
    return float(f"{match[1]}.{match[2]}") if match else None


def without_offset(numbers: np.ndarray, meaning: Radiometry) -> bool:
    """Whether numbers of which the offset is said to be part do not hold it: too many would be
    negative reflectance.

    numbers: of a visible band, any shape; those that mean no data count for nothing.
    """
    valid = numbers[np.isfinite(numbers) & (numbers != meaning.nodata)]
    return bool(valid.size and np.mean(valid * meaning.scale + meaning.offset < 0) > _MOST_NEGATIVE)


# What a STAC item that anybody made may raise while it is read.
BROKEN_ITEM = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    shapely.errors.ShapelyError,
)


@dataclass(frozen=True)
class SceneAsset:
    """The file of one band of one scene.

    href: a path or a URL that GDAL opens. meaning: of the numbers in it. resolution_m: size of a
    pixel as the item states it, infinite where it does not.
    """

    href: str
    meaning: Radiometry
    resolution_m: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One acquisition: ``time`` in UTC without zone, and its assets by band (``B02``, .., ``SCL``).

    outline: where it lies, in degrees; None where the item does not say. baseline: its processing
    baseline, 0 where unknown.
    epsg: number of the coordinate system of its files, 0 where unknown. Raises ``ValueError`` for a
    time when nothing was seen.
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
    """A time in ISO 8601 as UTC without zone, which is also what one that states no zone is in.
    Raises ``ValueError``.

    >>> utc("2020-03-01T11:09:01+02:00"), utc("2020-03-01T09:09:01")
    (datetime.datetime(2020, 3, 1, 9, 9, 1), datetime.datetime(2020, 3, 1, 9, 9, 1))
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def scene_of_item(item: dict[str, Any], locate: Callable[[str], str]) -> Scene:
    """The scene of a STAC item. locate: href of an asset -> path or URL. Raises one of
    ``BROKEN_ITEM`` for a broken item.
    """
    properties = item["properties"]
    time = utc(properties.get("datetime") or properties["start_datetime"])
    name = str(item["id"])
    assets = {
        band: SceneAsset(
            locate(asset["href"]), radiometry(asset, properties, band, name), resolution(asset)
        )
        for band, asset in one_asset_a_band(item["assets"]).items()
    }
    outline = shape(item["geometry"]) if item.get("geometry") else None
    return Scene(
        name, time, assets, outline, processing_baseline(properties, name) or 0.0, _epsg(item)
    )


def _epsg(item: dict[str, Any]) -> int:
    """The coordinate system that an item or one of its assets states by number; 0 where none
    does.
    """
    for stated in (item["properties"], *item["assets"].values()):
        number = stated.get("proj:epsg") or str(stated.get("proj:code") or "").removeprefix("EPSG:")
        if str(number).isdecimal():
            return int(number)
    return 0


def one_asset_a_band(assets: dict[str, dict]) -> dict[str, dict]:
    """The best asset of each band: a GeoTIFF rather than JPEG 2000, then the finest pixels, then
    the first key.
    """
    candidates: dict[str, list[tuple[bool, float, str]]] = {}
    for key, asset in assets.items():
        band = _band_of(key, asset)
        if band is not None:
            is_tiff = "tiff" in str(asset.get("type", "")) or asset["href"].lower().endswith(
                (".tif", ".tiff")
            )
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


_LARGEST_ITEM_BYTES = 64 * 1024**2


def is_stac_folder(folder: Path) -> bool:
    """Whether any JSON file in ``folder`` or below looks like a STAC item or collection."""
    return any(
        _is_item(value) or value.get("type") == "Collection" for _, value in _json_objects(folder)
    )


def read_scenes(folder: Path | str) -> list[Scene]:
    """The scenes of a folder, in the order of their times; files are found but not opened.

    Every scene must have the same bands. Raises ``CubeError`` for items that cannot be read, for
    files that are missing, remote or outside of the folder, and for scenes that differ in their
    bands.
    """
    folder = Path(folder).resolve()
    scenes = [_scene(item, path, folder) for path, item in _items(folder)]
    if not scenes:
        raise CubeError(
            f"{folder} holds no STAC item",
            "JSON files of type Feature beside GeoTIFFs",
            "choose another folder",
        )
    scenes.sort(key=lambda scene: (scene.time, scene.id))
    every_band = set().union(*(scene.assets for scene in scenes))
    for scene in scenes:
        lacking = sorted(every_band - set(scene.assets))
        if lacking:
            raise CubeError(
                f"scene {scene.id} has no asset for {', '.join(lacking)}",
                "the same bands in every scene",
                "add the file to the item, or take the item out of the folder",
            )
    return scenes


def damaged_raster(folder: Path | str) -> Path | None:
    """The first file of a folder's scenes whose pixels cannot all be read; None where all can.
    Reads everything before it.
    """
    for scene in read_scenes(folder):
        for asset in scene.assets.values():
            try:
                with (
                    rasterio.Env(),
                    DatasetReader(asset.href, driver=DRIVERS, sharing=False) as source,
                ):
                    for _, window in source.block_windows():
                        source.read(window=window)
            except RasterioError:
                return Path(asset.href)
    return None


def _json_objects(folder: Path) -> Iterator[tuple[Path, dict]]:
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.geojson")]):
        try:
            if path.stat().st_size > _LARGEST_ITEM_BYTES:
                continue
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CubeError(
                f"{path} is not readable as JSON ({error})", "a STAC item", "copy the file again"
            ) from error
        if isinstance(value, dict):
            yield path, value


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "Feature" and "stac_version" in value


def _items(folder: Path) -> Iterator[tuple[Path, dict]]:
    for path, value in _json_objects(folder):
        features = value.get("features") if value.get("type") == "FeatureCollection" else [value]
        for item in features if isinstance(features, list) else []:
            if _is_item(item):
                yield path, item


def _scene(item: dict, path: Path, folder: Path) -> Scene:
    """The scene of an item in the file ``path``."""
    try:
        return scene_of_item(item, lambda href: str(_local_path(href, path, folder)))
    except BROKEN_ITEM as error:
        raise CubeError(
            f"{path} is not a complete STAC item ({type(error).__name__}: {error})",
            "an id, a datetime and assets with href",
            "correct the item, or take it out of the folder",
        ) from error


def _local_path(href: str, item_path: Path, folder: Path) -> Path:
    """The existing file that ``href`` names, inside ``folder``."""
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        raise CubeError(
            f"{item_path.name} points to {parts.scheme}://{parts.netloc}/…",
            "files in the folder",
            "download the assets and make the hrefs relative",
        )
    path = (item_path.parent / unquote(parts.path)).resolve()
    if not path.is_relative_to(folder):
        raise CubeError(
            f"{item_path.name} points to {href}, outside of {folder}",
            "files in the folder",
            "move them into it",
        )
    if not path.is_file():
        raise CubeError(
            f"{item_path.name} points to {href}, which is missing",
            "the file beside its item",
            "copy the file again",
        )
    return path
