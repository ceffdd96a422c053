"""Write a season that people have in another form as panoseg's own Zarr cube, or as STAC items."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
import xarray as xr
import zarr
from shapely.geometry import mapping

import panoseg
from panoseg.cube import ReadOptions
from panoseg.cube.check import read_dataset
from panoseg.cube.folder import complete_scenes, correct_offsets, notes_of, scenes_of
from panoseg.cube.metadata import CubeReport, report_of
from panoseg.cube.open import open_cube, reading
from panoseg.cube.scenes import NO_DATA
from panoseg.cube.season import clear_shares
from panoseg.cube.store import discard, new_array, windows_of, work_folder, write_coordinates
from panoseg.errors import CubeError, OutputError
from panoseg.files import check_held, check_writable, hold_folder, output_error, write_json
from panoseg.imagery.geotiffs import geotiff_scenes
from panoseg.imagery.scenes import DARKEST, Scene, SceneAsset, has_items
from panoseg.imagery.sentinel2 import PASTIS_BANDS, SCENE_CLASSIFICATION
from panoseg.platforms import move
from panoseg.progress import track

_WINDOW = 512  # pixels a side, a chunk of the store
_LARGEST = 32767
_PLAN = "plan.json"  # of a cube that is being fetched into the same folder
ITEMS = "items.json"
"""Name of the file with the STAC items of a folder."""
_EXTENSIONS = (
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
)


def convert_cube(
    source: Path | str,
    out: Path,
    bands: Sequence[str] = PASTIS_BANDS,
    title: str = "",
    options: ReadOptions | None = None,
) -> CubeReport:
    """Write any season that can be opened as the Zarr store ``out``.

    ``out`` appears when it is complete. Reflectance is rounded to x 10 000.

    Args:
        source: The season, in a form that ``open_cube`` reads.
        out: The Zarr store to make.
        bands: Bands of the cube.
        title: Title in its attributes; the name of ``source`` by default.
        options: What the file does not say.

    Raises:
        CubeError: The season cannot be read.
        OutputError: ``out`` exists or cannot be written.
    """
    source = Path(source)
    if out.exists():
        raise OutputError(f"{out} exists: choose another --out, or remove it.")
    cube = open_cube(source)
    notes, scenes = notes_of(cube), scenes_of(cube)
    with reading(source):
        found = read_dataset(cube, bands, options)
        cube = found.cube
        clear = [round(float(share), 6) for share in clear_shares(cube)]
    days = cube["time"].values.astype("datetime64[D]").astype(str).tolist()
    earlier = report_of(cube)
    record: dict[str, Any] = {
        "title": title or source.name,
        "plan": {"panoseg": panoseg.__version__, "converted": str(source.resolve())},
        "scenes": {
            day: list((earlier.scenes if earlier else scenes).get(day, [source.name]))
            for day in days
        },
        "clear": dict(zip(days, clear, strict=True)),
        "left_out_dates": dict(earlier.left_out_dates) if earlier else {},
        "left_out_scenes": dict(earlier.left_out_scenes) if earlier else {},
        "notes": [*(earlier.notes if earlier else ()), *notes, *found.notes],
    }
    work = work_folder(out)
    try:
        with hold_folder(work, output=out):
            _empty(work, out)
            try:
                _write(source, cube, bands, work / out.name, days, clear, record)
                check_held(work, out)
                move(work / out.name, out)
            finally:
                discard(work)
    except OSError as error:
        raise output_error(out, error) from error
    with xr.open_dataset(out, engine="zarr", consolidated=False, chunks={}) as written:
        report = report_of(written, out)
    if report is None:
        raise OutputError(f"{out} was written and cannot be read: check the disk.")
    return report


def _empty(work: Path, out: Path) -> None:
    """Remove what a killed conversion left. Raises ``OutputError`` for an unfinished download."""
    if (work / _PLAN).exists():
        raise OutputError(
            f"{work} holds an unfinished cube of a catalogue: choose another --out, or remove"
            f" {work}."
        )
    check_writable(out.parent / f"{out.name}.probe")
    for entry in work.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _write(
    source: Path,
    cube: xr.Dataset,
    bands: Sequence[str],
    path: Path,
    days: Sequence[str],
    clear: Sequence[float],
    record: dict[str, Any],
) -> None:
    """Write a checked cube as a Zarr store, a window at a time. Raises ``OSError``."""
    grid = cube.odc.geobox
    write_coordinates(path, days, grid, clear, record)
    written = [*bands, *([SCENE_CLASSIFICATION] if SCENE_CLASSIFICATION in cube else [])]
    for band in written:
        new_array(path / band, band, len(days), grid)
    arrays = {band: zarr.open_array(path / band, mode="r+") for band in written}
    windows = windows_of(grid, _WINDOW)
    for window in track(windows, "windows written", len(windows)):
        part = cube.isel(y=window.rows, x=window.columns)
        for band in written:
            with reading(source):  # writing has its own errors
                values_TYX = part[band].compute(scheduler="threads").values
            numbers_TYX = (
                _classes(values_TYX) if band == SCENE_CLASSIFICATION else _int16(values_TYX)
            )
            arrays[band][:, window.rows, window.columns] = numbers_TYX


def _int16(values: np.ndarray) -> np.ndarray:
    """Return reflectance as a cube holds it; ``NO_DATA`` for NaN and 0."""
    missing = ~np.isfinite(values) | (values == 0)
    rounded = np.rint(np.where(missing, 1, values))
    rounded[rounded == 0] = DARKEST
    rounded = np.clip(rounded, -_LARGEST, _LARGEST).astype(np.int16)
    rounded[missing] = NO_DATA
    return rounded


def _classes(values: np.ndarray) -> np.ndarray:
    numbers = np.nan_to_num(np.asarray(values, np.float32), nan=0, posinf=0, neginf=0)
    return np.clip(numbers, 0, 255).astype(np.uint8)


def write_items(folder: Path | str) -> tuple[Path, int, tuple[str, ...]]:
    """Write STAC items of the scenes of a folder of GeoTIFFs into it, as one item collection.

    Items name bands, scales and no data, so that other programs read the folder, too.

    Returns:
        The file, the number of items, and sentences on scenes and rasters that were left out.

    Raises:
        CubeError: The folder has items, or its files name no dates or bands.
        OutputError: The items cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CubeError(f"{folder} is not a folder: --items needs a folder of GeoTIFFs.")
    if has_items(folder):
        raise CubeError(f"{folder} has STAC items already: leave --items out.")
    path = folder / ITEMS
    if path.exists():
        raise OutputError(f"{path} exists: move it, or leave --items out.")
    scenes, notes = geotiff_scenes(folder.resolve())
    kept, _, left_out = complete_scenes(scenes)
    features = [
        _item(scene, f"{scene.id}_{place}", folder.resolve())
        for place, scene in enumerate(correct_offsets(kept))
    ]
    write_json(path, {"type": "FeatureCollection", "features": features})
    return path, len(features), (*notes, *left_out)


def _item(scene: Scene, name: str, folder: Path) -> dict[str, object]:
    """Return the STAC item of a scene, its files relative to ``folder``."""
    outline = scene.outline or shapely.Polygon()
    item = pystac.Item(name, mapping(outline), list(outline.bounds), scene.time, {})
    item.stac_extensions = list(_EXTENSIONS)
    if scene.epsg:
        item.properties["proj:code"] = f"EPSG:{scene.epsg}"
    for href in dict.fromkeys(asset.href for asset in scene.assets.values()):
        own = {asset.index: band for band, asset in scene.assets.items() if asset.href == href}
        bands = [
            _described(own[index], scene.assets[own[index]])
            if index in own
            else {"name": f"other-{index}"}
            for index in range(1, max(own) + 1)
        ]
        place = Path(href).relative_to(folder)
        key = own[1] if list(own) == [1] else place.stem
        item.add_asset(
            key,
            pystac.Asset(f"./{place.as_posix()}", roles=["data"], extra_fields={"bands": bands}),
        )
    return item.to_dict(include_self_link=False)


def _described(band: str, asset: SceneAsset) -> dict[str, object]:
    meaning = asset.radiometry
    nodata = "nan" if math.isnan(meaning.nodata) else meaning.nodata
    described: dict[str, object] = {"name": band, "nodata": nodata}
    # Without a stated scale, numbers may be reflectance 0..1, too.
    if band != SCENE_CLASSIFICATION and (meaning.scale, meaning.offset) != (1e-4, 0.0):
        described |= {"raster:scale": meaning.scale, "raster:offset": meaning.offset}
    return described
