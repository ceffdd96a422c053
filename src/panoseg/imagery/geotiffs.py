"""Read scenes from GeoTIFFs without STAC items: dates and bands from names, descriptions and tags.

Files are found in a folder and below, or one file holds several dates. Each band of each file is a
layer; layers of one date that show the same land are a scene.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds

from panoseg.errors import CubeError
from panoseg.imagery.remote import DRIVERS
from panoseg.imagery.safe import PRODUCT_FILE, safe_scenes
from panoseg.imagery.scenes import (
    FIRST_BASELINE_WITH_OFFSET,
    Radiometry,
    Scene,
    SceneAsset,
    has_items,
    is_hidden,
    processing_baseline,
    radiometry_of_asset,
    read_scenes,
)
from panoseg.imagery.sentinel2 import (
    SCENE_CLASSIFICATION,
    bands_of_names,
    dates_in,
    is_force,
    is_other_satellite,
    without_band,
    without_dates,
)

SUFFIXES = (".tif", ".tiff", ".jp2")
"""Of files that may be layers of a season."""
_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_DATE_TAGS = (
    "ACQUISITION_DATE",
    "acquisition_date",
    "datetime",
    "date",
    "Date",
    "TIFFTAG_DATETIME",
)
_DESCRIPTION_TAGS = ("long_name", "BandName", "band_name", "name", "DESCRIPTION")
_INVERSE_SCALE = 1e4  # stated by some writers for reflectance x 10 000
# Images in products of ESA, which keep the offset of baseline 04.00 since that day.
_ESA_NAME = re.compile(r"T\d\d[A-Z]{3}_\d{8}T\d{6}_B\d[\dA](_[126]0m)?")
_MOST_BASELINE = 10.0
_FIRST_DAY_WITH_OFFSET = date(2022, 1, 25)
_SAME_LAND = 0.5  # of the smaller of two layers
_ADVICE = {
    "date": "names no date",
    "band": "names no band",
    "place": "has no coordinate system",
    "satellite": "is of another satellite",
}


@dataclass(frozen=True)
class _File:
    """A raster as its header describes it."""

    path: Path
    """Where it lies."""
    name: str
    """Its path in the folder, without suffix."""
    descriptions: tuple[str, ...]
    """What each band is called; empty strings where nothing is said."""
    tags: dict[str, str]
    """Tags of the file."""
    dtype: str
    """Type of the numbers."""
    nodata: tuple[float | None, ...]
    """Number that means no data, for each band."""
    scales: tuple[float, ...]
    """Reflectance of a step of 1, for each band; 1 where nothing is said."""
    offsets: tuple[float, ...]
    """Reflectance of the number 0, for each band."""
    pixel: float
    """Size of a pixel in units of the coordinate system."""
    epsg: int
    """EPSG code, 0 if unknown."""
    outline: shapely.Polygon | None
    """Where it lies in degrees; None without a coordinate system."""


@dataclass(frozen=True)
class _Layer:
    """One band of one date in one file."""

    band: str
    """The band."""
    time: datetime
    """When it was taken."""
    scene: str
    """Name of what belongs to the same scene."""
    asset: SceneAsset
    """The file and the place in it."""
    file: _File
    """The file."""


def raster_paths(folder: Path) -> list[Path]:
    """Return the GeoTIFFs and JPEG 2000 files of a folder and below, hidden ones left out.

    Raises:
        CubeError: One is a link out of the folder.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.suffix.lower() not in SUFFIXES or is_hidden(inside) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CubeError(f"{path} is a link to a file outside of {folder}: copy the file there.")
        found.append(path)
    return found


def is_raster(path: Path) -> bool:
    """Return whether a file begins as a GeoTIFF or as JPEG 2000."""
    with path.open("rb") as file:
        return file.read(12).startswith(_MARKS)


def season_scenes(place: Path | str) -> tuple[list[Scene], list[str]]:
    """Return the scenes of a folder by its STAC items, SAFE archives, or names of files.

    Args:
        place: The folder, or a GeoTIFF with all dates.

    Returns:
        The scenes, which may differ in their bands, and sentences on what was left out.

    Raises:
        CubeError: The folder holds no season, or a damaged file.
    """
    place = Path(place)
    if place.is_file():
        return geotiff_scenes(place)
    if has_items(place):
        return read_scenes(place, described_bands), []
    if next(place.rglob(PRODUCT_FILE), None) is not None:
        scenes, broken = safe_scenes(place)
        return scenes, [f"{name} was left out: it {reason}." for name, reason in broken.items()]
    return geotiff_scenes(place)


def geotiff_scenes(place: Path | str) -> tuple[list[Scene], list[str]]:
    """Return the scenes of a folder of GeoTIFFs, or of one file, by time, and notes.

    Only headers are read.

    Args:
        place: The folder, or a file with all dates.

    Returns:
        The scenes, which may differ in their bands, and a sentence on what was passed over.

    Raises:
        CubeError: No file names both a date and a band, or a file is damaged.
    """
    place = Path(place)
    paths = [place] if place.is_file() else raster_paths(place)
    if not paths:
        if next(place.rglob("*.zip"), None) is not None:
            raise CubeError(
                f"{place} holds zip archives: unpack them, or make a cube of SAFE archives with"
                " panoseg cube --safe."
            )
        raise CubeError(
            f"{place} holds neither a Zarr store nor GeoTIFFs: give a NetCDF file, a Zarr store or"
            " a folder of GeoTIFFs."
        )
    root = place.parent if place.is_file() else place
    passed: dict[str, str] = {}
    files = []
    for path in paths:
        name = path.relative_to(root).with_suffix("").as_posix()
        if path.stat().st_size and not is_raster(path):
            passed[path.name] = "is not a GeoTIFF"
        elif is_other_satellite(path.stem):
            passed[path.name] = _ADVICE["satellite"]
        else:
            files.append(_header(path, name))
    layers: list[_Layer] = []
    position = _date_position([file.name.split("/")[-1] for file in files])
    for file in files:
        found = _layers(file, position)
        if isinstance(found, str):
            passed[file.path.name] = found
        else:
            layers += found
    if not layers:
        raise CubeError(_nothing_found(place, len(paths), passed))
    return _scenes(layers), _notes(passed) + _note_pictures(layers)


def _notes(passed: dict[str, str]) -> list[str]:
    """Return a sentence on the files that were passed over."""
    if not passed:
        return []
    name, reason = next(iter(passed.items()))
    if len(passed) == 1:
        return [f"{name} was passed over: it {reason}."]
    return [f"{len(passed)} rasters were passed over (the first, {name}, {reason})."]


def _note_pictures(layers: Sequence[_Layer]) -> list[str]:
    """Return a note on numbers of 8 bits without a scale, which are mostly those of pictures."""
    names = [
        layer.file.path.name
        for layer in layers
        if layer.band != SCENE_CLASSIFICATION
        and np.dtype(layer.file.dtype).itemsize == 1
        and layer.file.scales[0] == 1.0
    ]
    if not names:
        return []
    return [
        f"{names[0]} holds numbers of 8 bits, as pictures do, and states no scale: read as"
        " reflectance x 10 000 they are far too dark. Export reflectance in 16 or 32 bits, or state"
        " --scale."
    ]


def _nothing_found(place: Path, number: int, passed: dict[str, str]) -> str:
    """Return what is missing in files none of which can be used, and what to do."""
    name, reason = next(
        ((n, r) for n, r in passed.items() if r != _ADVICE["satellite"]), next(iter(passed.items()))
    )
    what = (
        f"{place} {reason}"
        if place.is_file()
        else (f"None of the {number} GeoTIFFs in {place} can be used (the first, {name}, {reason})")
    )
    if _ADVICE["place"] in reason:
        return f"{what}: write one with gdal_edit.py -a_srs."
    return (
        f"{what}: put date and band into the names of files, as in S2_2019-04-01_B02.tif, or into"
        " the descriptions of their bands, as in 2019-04-01_B02."
    )


def _header(path: Path, name: str) -> _File:
    """Read the header of a raster. Raises ``CubeError``."""
    try:
        with (
            rasterio.Env(),
            DatasetReader(str(path), driver=DRIVERS, sharing=False) as source,
        ):
            band_tags = [source.tags(index) for index in source.indexes]
            tags = {**source.tags(ns="FORCE"), **source.tags()}
            descriptions = tuple(
                text or next((own[key] for key in _DESCRIPTION_TAGS if own.get(key)), "")
                for text, own in zip(source.descriptions, band_tags, strict=True)
            )
            placed = source.crs is not None and not source.transform.is_identity
            scales, offsets = _scales(source, tags, band_tags)
            return _File(
                path,
                name,
                descriptions,
                tags,
                source.dtypes[0],
                tuple(source.nodatavals),
                scales,
                offsets,
                abs(source.transform.a),
                (source.crs.to_epsg() or 0) if placed else 0,
                _outline(source) if placed else None,
            )
    except (RasterioError, OSError) as error:
        raise CubeError(f"{path} is not readable as a GeoTIFF: copy the file again.") from error


def _scales(
    source: DatasetReader, tags: dict[str, str], band_tags: Sequence[dict[str, str]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and offset of each band, as GDAL knows them or as tags of the CF conventions."""
    scales, offsets = list(source.scales), list(source.offsets)
    for place, own in enumerate(band_tags):
        both = {**tags, **own}
        if (scales[place], offsets[place]) == (1.0, 0.0):
            scales[place] = _number(both.get("scale_factor"), 1.0)
            offsets[place] = _number(both.get("add_offset"), 0.0)
    return tuple(scales), tuple(offsets)


def _number(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


def _outline(source: DatasetReader) -> shapely.Polygon | None:
    """Return the rectangle of a raster in degrees."""
    left, bottom, right, top = source.bounds
    try:
        box = transform_bounds(
            source.crs, "EPSG:4326", left, min(bottom, top), right, max(bottom, top)
        )
    except (RasterioError, ValueError):
        return None
    return shapely.box(*box) if all(map(math.isfinite, box)) else None


def _date_position(names: Sequence[str]) -> int:
    """Return which of the dates in a name tells files apart.

    The first that is not the same in all of them: a name may begin with the season, or end with
    the day of processing.
    """
    found = [dates for name in names if (dates := dates_in(name))]
    most = max(map(len, found), default=1)
    for position in range(most):
        if len({dates[position].date() for dates in found if len(dates) > position}) > 1:
            return position
    return 0


def _layers(file: _File, position: int) -> list[_Layer] | str:
    """Return the layers of a file, or why it has none."""
    bands = bands_of_names(file.descriptions, file.name)
    if not any(bands):
        number = len(file.descriptions)
        return _ADVICE["band"] if number == 1 else f"has {number} bands without names"
    if file.outline is None:
        return _ADVICE["place"]
    own = _time_of_file(file, position)
    times = [dates[0] if (dates := dates_in(text)) else own for text in file.descriptions]
    if not any(times):
        counted = len([band for band in bands if band]) > len({band for band in bands if band})
        return "numbers its dates instead of naming them" if counted else _ADVICE["date"]
    force = is_force([*file.descriptions, file.name])
    scene = "/".join(
        part for part in (without_band(part, force=force) for part in file.name.split("/")) if part
    )
    layers, seen = [], set()
    for place, (band, time) in enumerate(zip(bands, times, strict=True)):
        if band is None or time is None or (band, time) in seen:
            continue
        seen.add((band, time))
        asset = SceneAsset(
            str(file.path),
            _radiometry(file, place, band, time.date()),
            file.pixel,
            place + 1,
            gap_at_zero=True,
        )
        layers.append(_Layer(band, time, scene, asset, file))
    return layers or _ADVICE["date"]


def _time_of_file(file: _File, position: int) -> datetime | None:
    """Return the date of a file: in its name, else in that of a folder, else in its tags."""
    *folders, name = file.name.split("/")
    dates = dates_in(name)
    if dates:
        return dates[position] if position < len(dates) else dates[0]
    for folder in reversed(folders):
        if dates := dates_in(folder):
            return dates[0]
    for key in _DATE_TAGS:
        text = file.tags.get(key, "")
        if dates := dates_in(text.replace(":", "-", 2) if key == "TIFFTAG_DATETIME" else text):
            return dates[0]
    return None


def _radiometry(file: _File, place: int, band: str, day: date) -> Radiometry:
    """Return what the numbers of a band mean: what the file states, else reflectance x 10 000.

    Reflectance 0..1 without a stated scale stays as it is; ``check_cube`` recognises it.

    Raises:
        CubeError: A stated number is none.
    """
    nodata, scale, offset = file.nodata[place], file.scales[place], file.offsets[place]
    whole = np.issubdtype(np.dtype(file.dtype), np.integer)
    if nodata is None or (whole and not _holds(file.dtype, nodata)):
        nodata = 0.0
    if band == SCENE_CLASSIFICATION:
        return Radiometry(1.0, 0.0, float(nodata))
    stated: dict[str, Any] = {"nodata": nodata}
    if scale in (1.0, _INVERSE_SCALE):
        stated["scale"] = 1 / _INVERSE_SCALE
        if offset:
            stated["offset"] = offset / _INVERSE_SCALE
    else:
        stated |= {"scale": scale, "offset": offset}
    if not whole:
        stated.setdefault("offset", 0.0)
    known: dict[str, Any] = {}
    if day >= _FIRST_DAY_WITH_OFFSET and _ESA_NAME.fullmatch(file.path.stem):
        known["s2:processing_baseline"] = FIRST_BASELINE_WITH_OFFSET
    try:
        baseline = processing_baseline(known, file.name) or 0.0
        name = file.name if baseline < _MOST_BASELINE else ""  # N9999 of BigEarthNet is none
        found = radiometry_of_asset({"raster:bands": [stated]}, known, band, name)
    except ValueError as error:
        raise CubeError(
            f"{file.path} states {error}: correct it with gdal_edit.py -scale -offset."
        ) from error
    # A name tells the processing baseline of a product, not whether the offset was taken off.
    return replace(
        found, nodata=float(nodata), doubtful="offset" not in stated and bool(found.offset)
    )


def _holds(dtype: str, number: float) -> bool:
    limits = np.iinfo(dtype)
    return math.isfinite(number) and limits.min <= number <= limits.max


def _scenes(layers: Sequence[_Layer]) -> list[Scene]:
    """Return the scenes of layers: those with one name and date, then what shows the same land."""
    named: dict[tuple[str, date], dict[str, _Layer]] = {}
    for layer in sorted(layers, key=_better_first):
        named.setdefault((layer.scene, layer.time.date()), {}).setdefault(layer.band, layer)
    days: dict[date, list[dict[str, _Layer]]] = {}
    for (_, day), group in named.items():
        groups = days.setdefault(day, [])
        # Files of one scene may be numbered or lie in folders, so that their names differ.
        match = next((known for known in groups if _belong_together(known, group)), None)
        if match is None:
            groups.append(group)
        else:
            match.update(group)
    found = [_scene(group) for groups in days.values() for group in groups]
    return sorted(found, key=lambda scene: (scene.time, scene.id))


def _better_first(layer: _Layer) -> tuple[float, bool, str, int]:
    """Return the order of layers: fine pixels, then GeoTIFF before JPEG 2000, then the name."""
    path = layer.file.path
    return layer.file.pixel, path.suffix.lower() == ".jp2", str(path), layer.asset.index


def _belong_together(known: dict[str, _Layer], other: dict[str, _Layer]) -> bool:
    """Return whether two groups of layers of a day have different bands of the same land."""
    if known.keys() & other.keys():
        return False
    first, second = (next(iter(group.values())).file.outline for group in (known, other))
    if first is None or second is None:
        return False
    smaller = min(first.area, second.area)
    return bool(first.intersection(second).area > _SAME_LAND * smaller)


def _scene(group: dict[str, _Layer]) -> Scene:
    first = next(iter(group.values()))
    time = min(layer.time for layer in group.values())
    name = without_dates(first.scene.replace("/", "_")).strip("_- ")
    return Scene(
        "_".join(part for part in (f"{time:%Y%m%d}", name) if part),
        time,
        {band: group[band].asset for band in sorted(group)},
        first.file.outline,
        epsg=first.file.epsg,
    )


def described_bands(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the bands that a file names in its descriptions, with their places from 1.

    Raises:
        CubeError: It is not a raster.
    """
    file = _header(path, path.stem)
    for place, band in enumerate(bands_of_names(file.descriptions, file.name)):
        if band is not None:
            yield band, place + 1
