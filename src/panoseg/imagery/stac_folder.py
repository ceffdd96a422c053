"""A folder of GeoTIFFs with STAC items: which file holds which band of which scene.

Assets are found by what an item says of them, in this order: the name of their one band, their key, its common name. Items
of the public Sentinel-2 catalogues differ in all three (``eo:bands`` in STAC 1.0, ``bands`` in 1.1; keys ``B02``, ``blue`` or
``B02_10m``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import rasterio
from rasterio.errors import RasterioError

from panoseg.errors import CubeError
from panoseg.imagery.bands import SCENE_CLASSIFICATION, band_name

_LARGEST_ITEM_BYTES = 64 * 1024**2
_DEFAULT_SCALE = 1e-4
# From this processing baseline on (January 2022) products carry an offset, so that noise below zero survives.
_FIRST_BASELINE_WITH_OFFSET = 4.0
_OFFSET = -0.1


@dataclass(frozen=True)
class SceneAsset:
    """The file of one band of one scene.

    path: an existing file inside the folder. reflectance = number x ``scale`` + ``offset``. nodata: the number that means none.
    resolution_m: size of a pixel as the item states it, infinite where it does not.
    """

    path: Path
    scale: float
    offset: float
    nodata: float
    resolution_m: float


@dataclass(frozen=True)
class Scene:
    """One acquisition: ``time`` in UTC without zone, and its assets by band (``B02``, .., ``SCL``)."""

    id: str
    time: datetime
    assets: dict[str, SceneAsset]


def is_stac_folder(folder: Path) -> bool:
    """Whether any JSON file in ``folder`` or below looks like a STAC item or collection."""
    return any(_is_item(value) or value.get("type") == "Collection" for _, value in _json_objects(folder))


def read_scenes(folder: Path | str) -> list[Scene]:
    """The scenes of a folder, in the order of their times; files are found but not opened.

    Every scene must have the same bands. Raises ``CubeError`` for items that cannot be read, for files that are missing, remote
    or outside of the folder, and for scenes that differ in their bands.
    """
    folder = Path(folder).resolve()
    scenes = [_scene(item, path, folder) for path, item in _items(folder)]
    if not scenes:
        raise CubeError(f"{folder} holds no STAC item", "JSON files of type Feature beside GeoTIFFs", "choose another folder")
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
    """The first file of a folder's scenes whose pixels cannot all be read; None where all can. Reads everything before it."""
    for scene in read_scenes(folder):
        for asset in scene.assets.values():
            try:
                with rasterio.open(asset.path) as source:
                    for _, window in source.block_windows():
                        source.read(window=window)
            except RasterioError:
                return asset.path
    return None


def _json_objects(folder: Path) -> Iterator[tuple[Path, dict]]:
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.geojson")]):
        try:
            if path.stat().st_size > _LARGEST_ITEM_BYTES:
                continue
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CubeError(f"{path} is not readable as JSON ({error})", "a STAC item", "copy the file again") from error
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
        properties = item["properties"]
        time = datetime.fromisoformat(properties.get("datetime") or properties["start_datetime"])
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
        chosen = _one_asset_a_band(item["assets"])
        assets = {
            band: SceneAsset(
                _local_path(asset["href"], path, folder), *_radiometry(asset, properties, band), _resolution(asset)
            )
            for band, asset in chosen.items()
        }
        return Scene(str(item["id"]), time, assets)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CubeError(
            f"{path} is not a complete STAC item ({type(error).__name__}: {error})",
            "an id, a datetime and assets with href",
            "correct the item, or take it out of the folder",
        ) from error


def _one_asset_a_band(assets: dict[str, dict]) -> dict[str, dict]:
    """The best asset of each band: a GeoTIFF rather than JPEG 2000, then the finest pixels, then the first key."""
    candidates: dict[str, list[tuple[bool, float, str]]] = {}
    for key, asset in assets.items():
        band = _band_of(key, asset)
        if band is not None:
            is_tiff = "tiff" in str(asset.get("type", "")) or asset["href"].lower().endswith((".tif", ".tiff"))
            candidates.setdefault(band, []).append((not is_tiff, _resolution(asset), key))
    return {band: assets[min(found)[2]] for band, found in sorted(candidates.items())}


def _band_of(key: str, asset: dict) -> str | None:
    """The band of an asset; None for previews, metadata and other products."""
    described = asset.get("bands") or asset.get("eo:bands") or [{}]
    if len(described) != 1:
        return None
    band = described[0]
    names = (band.get("name"), key, band.get("eo:common_name") or band.get("common_name"))
    return next((found for name in names if name and (found := band_name(name))), None)


def _resolution(asset: dict) -> float:
    described = (asset.get("raster:bands") or [{}])[0]
    return float(asset.get("gsd") or described.get("spatial_resolution") or "inf")


def _radiometry(asset: dict, properties: dict, band: str) -> tuple[float, float, float]:
    """Scale, offset and the number for no data.

    An offset that is stated is wrong where the catalogue has already subtracted it (``earthsearch:boa_offset_applied``); where
    none is stated, the processing baseline decides.
    """
    described = {**asset, **(asset.get("raster:bands") or asset.get("bands") or [{}])[0]}
    nodata = float(described.get("nodata") or 0)
    if band == SCENE_CLASSIFICATION:
        return 1.0, 0.0, nodata
    scale = described.get("scale", described.get("raster:scale", _DEFAULT_SCALE))
    offset = described.get("offset", described.get("raster:offset"))
    if properties.get("earthsearch:boa_offset_applied") is True:
        offset = 0.0
    elif offset is None:
        baseline = properties.get("s2:processing_baseline") or properties.get("processing:version") or 0
        offset = _OFFSET if float(baseline) >= _FIRST_BASELINE_WITH_OFFSET else 0.0
    if not (math.isfinite(float(scale)) and math.isfinite(float(offset))):
        raise ValueError(f"scale {scale} and offset {offset}")
    return float(scale), float(offset), nodata


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
        raise CubeError(f"{item_path.name} points to {href}, outside of {folder}", "files in the folder", "move them into it")
    if not path.is_file():
        raise CubeError(
            f"{item_path.name} points to {href}, which is missing", "the file beside its item", "copy the file again"
        )
    return path
