"""A folder of GeoTIFFs with STAC items -> its scenes, by ``panoseg.imagery.assets``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from panoseg.errors import CubeError
from panoseg.imagery.assets import BROKEN_ITEM, Scene, scene_of_item
from panoseg.imagery.remote import DRIVERS

_LARGEST_ITEM_BYTES = 64 * 1024**2


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
                with rasterio.Env(), DatasetReader(asset.href, driver=DRIVERS, sharing=False) as source:
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
        raise CubeError(f"{item_path.name} points to {href}, outside of {folder}", "files in the folder", "move them into it")
    if not path.is_file():
        raise CubeError(
            f"{item_path.name} points to {href}, which is missing", "the file beside its item", "copy the file again"
        )
    return path
