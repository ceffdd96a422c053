"""Scenes of Sentinel-2: their radiometry, STAC items, and folders with STAC items.

Radiometry turns the numbers in a file into reflectance. From processing baseline 04.00 on (25
January 2022, and older scenes that were processed again since) a product holds reflectance x 10 000
+ 1000, so that noise below zero survives. Copies of the products differ in whether the 1000 is
still in the numbers, and their metadata are not always right; docs/radiometry.md has the rule as a
table.

Sources: ESA, Sentinel-2 products upgrade of baseline 04.00; microsoft/PlanetaryComputer issue 134;
Element84/earth-search issues 9, 66 and 71; MTD_MSIL2A.xml of the products; STAC 1.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import FIRST_YEAR, LAST_YEAR, SCENE_CLASSIFICATION, band_name
from panoseg.text_files import read_json

FIRST_BASELINE_WITH_OFFSET = 4.0
_MOST_BASELINES = 100  # they have two digits
OFFSET = -0.1
DARKEST = 1.0
"""Reflectance x 10 000 of a pixel with data that would be 0, which means no data in a cube."""
_DEFAULT_SCALE = 1e-4
_BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_APPLIED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_PRODUCT_NAME = re.compile(r"_N(\d{2})(\d{2})_")
# Reflectance is hardly ever negative: a larger share means that the 1000 was subtracted before.
_MOST_NEGATIVE = 0.02
_INDEX = "panoseg:index"  # of a band in an asset of several, from 1; never written
_PICTURES = {"visual", "overview", "thumbnail", "preview", "rendered_preview", "tci", "tilejson"}
_UNSEEN_FOLDER = "__MACOSX"
# Describes all files of a batch result of openEO, whatever their dates, as one item or collection.
_OPENEO_RESULT = "job-results.json"
_LARGEST_ITEM_BYTES = 64 * 1024**2
# What a malformed STAC item may raise while it is read.
ITEM_ERRORS = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    shapely.errors.ShapelyError,
)


@dataclass(frozen=True)
class Radiometry:
    """What a number in a file means: reflectance = number x ``scale`` + ``offset``.

    The name and the fields of this class are part of the fingerprint of a cube's scenes
    (``cube.build``): with others, finished cubes would no longer be recognised.
    """

    scale: float
    """Reflectance of a step of 1."""
    offset: float
    """Reflectance of the number 0."""
    nodata: float
    """The number that means no data."""
    doubtful: bool = False
    """Whether the metadata say that the offset is still in the numbers, in a catalogue that is
    known to say so wrongly; ``offset_is_removed`` then checks the numbers.
    """


def radiometry_of_asset(
    asset: dict[str, Any], properties: dict[str, Any], band: str, name: str = ""
) -> Radiometry:
    """Return the radiometry of a STAC asset.

    The offset is, by the first rule that applies: 0 if the catalogue says that it has subtracted
    it; 0 before baseline 04.00, even if one is stated; what the asset states; -0.1 if a baseline is
    known; 0.

    Args:
        asset: The STAC asset.
        properties: Properties of its item.
        band: The band that the asset holds.
        name: Id of its item, which may contain the processing baseline.

    Raises:
        ValueError: A stated number is not finite, or not a number.
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
    """Return the processing baseline of a product, such as 4.0 for 04.00; None if it is unknown.

    It is read from the properties of the product's item, else from its name. Raises ``ValueError``
    for an impossible one.

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


def offset_is_removed(numbers: np.ndarray, radiometry: Radiometry) -> bool:
    """Return whether the offset was subtracted from numbers whose metadata say otherwise.

    Then too many would be negative reflectance.

    Args:
        numbers: Values of a visible band, any shape; no data does not count.
        radiometry: What the metadata say.
    """
    valid = numbers[np.isfinite(numbers) & (numbers != radiometry.nodata)]
    negative = valid * radiometry.scale + radiometry.offset < 0
    return bool(valid.size and np.mean(negative) > _MOST_NEGATIVE)


@dataclass(frozen=True)
class SceneAsset:
    """The file of one band of one scene."""

    href: str
    """A path or a URL that GDAL opens."""
    radiometry: Radiometry
    """What the numbers in the file mean."""
    resolution_m: float
    """Size of a pixel as the item states it, infinite where it does not."""
    index: int = 1
    """Which of the file's bands it is, from 1."""
    gap_at_zero: bool = False
    """Whether the number 0 means no data, too, which files without an item often do not state."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One acquisition. Raises ``ValueError`` for a time without satellite images."""

    id: str
    """Name of the scene."""
    time: datetime
    """Acquisition in UTC, without zone."""
    assets: dict[str, SceneAsset]
    """Files by band (``B02``, .., ``SCL``)."""
    outline: BaseGeometry | None = None
    """Where the scene lies, in degrees; None if the item does not say."""
    baseline: float = 0.0
    """Processing baseline, 0 if unknown."""
    epsg: int = 0
    """EPSG code of the coordinate system of the files, 0 if unknown."""

    def __post_init__(self) -> None:
        if not FIRST_YEAR <= self.time.year <= LAST_YEAR:
            raise ValueError(f"time {self.time}")

    def day(self, solar_offset: timedelta) -> date:
        """Return the day in local solar time, which is ``solar_offset`` ahead of UTC."""
        return (self.time + solar_offset).date()


def parse_utc(text: str) -> datetime:
    """Return a time in ISO 8601 as UTC without zone; a time without zone is UTC.

    Raises ``ValueError``.

    >>> parse_utc("2020-03-01T11:09:01+02:00"), parse_utc("2020-03-01T09:09:01")
    (datetime.datetime(2020, 3, 1, 9, 9, 1), datetime.datetime(2020, 3, 1, 9, 9, 1))
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def scene_of_item(
    item: dict[str, Any],
    locate: Callable[[str], str],
    describe: Callable[[str], Iterable[tuple[str, int]]] | None = None,
) -> Scene:
    """Return the scene of a STAC item.

    Args:
        item: The item.
        locate: Turns the href of an asset into a path or URL.
        describe: Gives the bands that a file itself names, with their places from 1, for an item
            that names none; None if files cannot be opened.

    Raises:
        ITEM_ERRORS: The item is malformed.
    """
    properties = item["properties"]
    time = parse_utc(properties.get("datetime") or properties["start_datetime"])
    name = str(item["id"])
    found = best_assets(item["assets"])
    if not found and describe is not None:
        found = {
            band: _one_band(asset, index - 1)
            for key, asset in item["assets"].items()
            if _is_image(key, asset) and _is_tiff(asset)
            for band, index in describe(locate(asset["href"]))
        }
    assets = {
        band: SceneAsset(
            locate(asset["href"]),
            radiometry_of_asset(asset, properties, band, name),
            resolution(asset),
            asset[_INDEX],
        )
        for band, asset in found.items()
    }
    outline = shape(item["geometry"]) if item.get("geometry") else None
    return Scene(
        name, time, assets, outline, processing_baseline(properties, name) or 0.0, _epsg(item)
    )


def _epsg(item: dict[str, Any]) -> int:
    """Return the EPSG code that an item or one of its assets states; 0 if none does."""
    for stated in (item["properties"], *item["assets"].values()):
        number = stated.get("proj:epsg") or str(stated.get("proj:code") or "").removeprefix("EPSG:")
        if str(number).isdecimal():
            return int(number)
    return 0


def best_assets(assets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the best asset of each band.

    An asset of one band is better than a band of several, GeoTIFF is better than JPEG 2000, then
    finer pixels are better, then the first key.
    """
    candidates: dict[str, list[tuple[bool, bool, float, str, int]]] = {}
    for key, asset in assets.items():
        bands = _bands_of(key, asset)
        for place, band in enumerate(bands):
            if band is not None:
                order = (len(bands) > 1, not _is_tiff(asset), resolution(asset), key, place)
                candidates.setdefault(band, []).append(order)
    best = {band: min(found) for band, found in sorted(candidates.items())}
    return {
        band: _one_band(assets[key], place) if several else {**assets[key], _INDEX: 1}
        for band, (several, _, _, key, place) in best.items()
    }


def _is_tiff(asset: dict[str, Any]) -> bool:
    return "tiff" in str(asset.get("type", "")) or asset["href"].lower().endswith((".tif", ".tiff"))


def _is_image(key: str, asset: dict[str, Any]) -> bool:
    """Return whether an asset is more than a picture to look at."""
    return key.lower() not in _PICTURES and not _PICTURES & set(asset.get("roles") or ())


def _bands_of(key: str, asset: dict[str, Any]) -> list[str | None]:
    """Return the band of each band of an asset; None for previews, metadata and other products."""
    lists = [asset[key] for key in ("bands", "eo:bands", "raster:bands") if asset.get(key)]
    named = (found for found in lists if any(_name_of(band) for band in found))
    described = next(named, None) or asset.get("bands") or asset.get("eo:bands") or [{}]
    if len(described) == 1:
        band = described[0]
        names = (band.get("name"), key, band.get("eo:common_name") or band.get("common_name"))
        return [next((found for name in names if name and (found := band_name(name))), None)]
    if not _is_image(key, asset):
        return []
    return [_name_of(band) for band in described]


def _name_of(described: dict[str, Any]) -> str | None:
    """Return the band that the description of one band names."""
    words = ("name", "eo:common_name", "common_name", "description")
    return next(
        (band for word in words if (text := described.get(word)) and (band := band_name(text))),
        None,
    )


def _one_band(asset: dict[str, Any], place: int) -> dict[str, Any]:
    """Return an asset of several bands as if it had the one at ``place`` alone."""
    described = {
        key: [asset[key][place]]
        for key in ("bands", "eo:bands", "raster:bands")
        if isinstance(asset.get(key), list) and place < len(asset[key])
    }
    return {**asset, **described, _INDEX: place + 1}


def resolution(asset: dict[str, Any]) -> float:
    """Return the size of a pixel in metres as an asset states it; infinite if it does not."""
    described = (asset.get("raster:bands") or [{}])[0]
    return float(asset.get("gsd") or described.get("spatial_resolution") or "inf")


def is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a file is one that systems put next to the user's.

    >>> is_hidden(("season", "._B02.tif")), is_hidden(("__MACOSX", "a.tif")), is_hidden(("a.tif",))
    (True, True, False)
    """
    return any(part.startswith(".") or part == _UNSEEN_FOLDER for part in parts)


def has_items(folder: Path) -> bool:
    """Return whether a JSON file in ``folder`` or below is a STAC item."""
    return next(_items(folder), None) is not None


def read_scenes(
    folder: Path | str, describe: Callable[[Path], Iterable[tuple[str, int]]] | None = None
) -> list[Scene]:
    """Return the scenes of a folder with STAC items, by time.

    Files are located but not opened, except by ``describe``. Scenes may differ in their
    bands, and have none.

    Args:
        folder: The folder.
        describe: Gives the bands that a file itself names, with their places from 1.

    Raises:
        CubeError: An item cannot be read, or a file is missing, remote or outside of the folder.
    """
    folder = Path(folder).resolve()
    scenes = [_scene(item, path, folder, describe) for path, item in _items(folder)]
    if not scenes:
        raise CubeError(
            f"{folder} holds no STAC item (a JSON file of type Feature next to its GeoTIFFs):"
            " choose another folder."
        )
    return sorted(scenes, key=lambda scene: (scene.time, scene.id))


def _json_objects(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.geojson")]):
        if is_hidden(path.relative_to(folder).parts) or path.name == _OPENEO_RESULT:
            continue
        try:
            if path.stat().st_size > _LARGEST_ITEM_BYTES:
                continue
            value = read_json(path, _LARGEST_ITEM_BYTES)
        except (OSError, ValueError) as error:
            raise CubeError(
                f"{path} is not readable as JSON ({error}): copy the file again."
            ) from error
        if isinstance(value, dict):
            yield path, value


def _is_item(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") == "Feature" and "stac_version" in value


def _items(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, value in _json_objects(folder):
        features = value.get("features") if value.get("type") == "FeatureCollection" else [value]
        for item in features if isinstance(features, list) else []:
            if _is_item(item):
                yield path, item


def _scene(
    item: dict[str, Any],
    path: Path,
    folder: Path,
    describe: Callable[[Path], Iterable[tuple[str, int]]] | None,
) -> Scene:
    """Return the scene of an item in the file ``path``."""
    try:
        return scene_of_item(
            item,
            lambda href: str(_local_path(href, path, folder)),
            None if describe is None else lambda href: describe(Path(href)),
        )
    except ITEM_ERRORS as error:
        raise CubeError(
            f"{path} is not a complete STAC item ({type(error).__name__}: {error}): it needs an id,"
            " a datetime and assets with href. Correct it, or take it out of the folder."
        ) from error


def _local_path(href: str, item_path: Path, folder: Path) -> Path:
    """Return the existing file that ``href`` names, inside ``folder``."""
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        raise CubeError(
            f"{item_path.name} points to {parts.scheme}://{parts.netloc}/…: download the assets"
            " into the folder and make the hrefs relative."
        )
    path = (item_path.parent / unquote(parts.path)).resolve()
    if not path.is_relative_to(folder):
        raise CubeError(
            f"{item_path.name} points to {href}, outside of {folder}: move the files into it."
        )
    if not path.is_file():
        raise CubeError(
            f"{item_path.name} points to {href}, which is missing: copy the file again."
        )
    return path
