"""Read and write the files of PASTIS's layout; torch is not needed.

metadata.geojson, the table of patches, is read as JSON: plain values suffice, and geopandas takes
seconds to import. The classes of an own dataset in this layout are a CSV file with a row a class
and the columns id (the value in TARGET files) and name; kind (thing, stuff or void) and colour
(#rrggbb) may be left out. Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from panoseg import text_files
from panoseg.classes import PASTIS, ClassTable, Kind, SegmentClass
from panoseg.coco.json import shown
from panoseg.data.arrays import map_array
from panoseg.errors import ConfigError, DatasetError, PanosegError
from panoseg.files import atomic, write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.text_files import read_text, shortened, table_of

if TYPE_CHECKING:
    from pyproj import Transformer


Json = Any
"""A value that a JSON file holds, of any type."""

FILE_NAME = "metadata.geojson"
NORMALISATION_FILE = "NORM_S2_patch.json"
_LARGEST_FILE = 256 * 1024**2
"""Bytes of a JSON file; the list of 2,433 patches has three million."""
LAMBERT_93 = 2154
"""EPSG code of the coordinate system in which the published dataset describes its patches."""


@dataclass(frozen=True)
class Patch:
    """One patch, as read from metadata.geojson."""

    id: int
    """Identifier, as in the names of its files."""
    fold: int
    """Number of its fold, 1..5."""
    dates: tuple[date, ...]
    """Date of each image, in the order of the images on disk."""
    geometry: Mapping[str, Any] | None = None
    """GeoJSON geometry in the collection's coordinate system."""
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All properties of its feature."""


def parse_date(text: str | int) -> date:
    """Parse a date: 20190801, 2019-08-01, or month-day-year 08-01-2019 as in PASTIS's readme.

    Raises:
        ValueError: The text is no such date.
    """
    patterns = (
        r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
        r"(?P<y>\d{4})-(?P<m>\d\d?)-(?P<d>\d\d?)(?:[T ].*)?",  # with a time of day
        r"(?P<m>\d\d?)-(?P<d>\d\d?)-(?P<y>\d{4})",
    )
    for pattern in patterns:
        if match := re.fullmatch(pattern, str(text), re.ASCII):
            return date(int(match["y"]), int(match["m"]), int(match["d"]))
    raise ValueError(f"{text!r} is not a date")


def read_json(path: Path) -> Json:
    """Read a JSON file; raise ``DatasetError`` where it is missing or is not JSON."""
    try:
        return text_files.read_json(path, _LARGEST_FILE)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; complete the dataset or correct its path."
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror or error}); check the disk and permissions."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON ({error}); copy the file again.") from error


def read_metadata(folder: Path) -> list[Patch]:
    """Read the patches of a dataset, by ascending identifier.

    Raises:
        DatasetError: The table is missing or damaged, or lists a patch twice.
    """
    path = folder / FILE_NAME
    collection = read_json(path)
    features = collection.get("features") if isinstance(collection, dict) else None
    if not isinstance(features, list):
        raise DatasetError(
            f"{path} has no list of features, so it is not GeoJSON; copy the file again."
        )
    patches = sorted(
        (_patch(path, number, feature) for number, feature in enumerate(features)),
        key=lambda patch: patch.id,
    )
    for one, other in pairwise(patches):
        if one.id == other.id:
            raise DatasetError(f"{path} lists patch {one.id} twice; remove one of its features.")
    return patches


def _patch(path: Path, number: int, feature: Json) -> Patch:
    """Parse the feature of a patch, which may be any JSON value."""
    try:
        properties = feature["properties"]
        if not isinstance(properties, dict):
            raise ValueError(f"its properties are {shown(properties)}")
        for key in ("ID_PATCH", "Fold", "dates-S2"):
            if key not in properties:
                raise ValueError(f"it has no {key}")
        fold = _whole(properties["Fold"])
        if fold is None or not 1 <= fold <= 5:
            raise ValueError(f"Fold is {shown(properties['Fold'])}, not a whole number 1 .. 5")
        dates = _dates(properties["dates-S2"])
        geometry = feature.get("geometry")
        return Patch(_patch_id(properties["ID_PATCH"]), fold, dates, geometry, properties)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"Feature {number} of {path} is damaged: {error}. It must have ID_PATCH, Fold 1 .. 5"
            " and dates-S2 numbered from 0, each such as 20180917."
        ) from error


def _whole(value: Json) -> int | None:
    """Return a whole number, also where a table has turned it into 1.0; None for other values."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _patch_id(value: Json) -> int:
    """Return the identifier of a patch, which may be text, as the published program reads it."""
    text = value.strip() if isinstance(value, str) else ""
    whole = int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else _whole(value)
    if whole is None:
        raise ValueError(f"ID_PATCH is {shown(value)}, not a whole number")
    return whole


def _dates(value: Json) -> tuple[date, ...]:
    """Return the dates of a patch: a list, an object numbered from 0, or either as JSON text.

    fiona and QGIS write objects as text; the published program reads it, too.
    """
    dates = value
    if isinstance(dates, str):
        try:
            dates = text_files.json_of(dates)
        except ValueError:
            raise ValueError(f"dates-S2 is {shown(value)}, which is no JSON") from None
    if isinstance(dates, dict):
        missing = [number for number in range(len(dates)) if str(number) not in dates]
        if missing:
            raise ValueError(f"dates-S2 has {len(dates)} dates but no number {missing[0]}")
        dates = [dates[str(number)] for number in range(len(dates))]
    if not isinstance(dates, list):
        raise ValueError(f"dates-S2 is {shown(value)}, not a list of dates")
    found = []
    for number, day in enumerate(dates):
        whole = _whole(day)
        try:
            found.append(parse_date(day if whole is None else whole))
        except ValueError:
            raise ValueError(
                f"date {number} of dates-S2 is {shown(day)}, which is no date"
            ) from None
    return tuple(found)


@dataclass(frozen=True)
class PatchRow:
    """One patch, as it is written to metadata.geojson."""

    id: int
    """Identifier, as in the names of its files."""
    fold: int
    """Number of its fold, 1..5."""
    dates: tuple[date, ...]
    """Date of each image, in the order of the images on disk."""
    parcels: int
    """Number of its parcels."""
    cover: float
    """Share of its pixels in parcels, 0..1."""
    tile: str
    """Tile or region that it comes from."""
    crs: int | str
    """Coordinate system of ``outline``, as pyproj takes it."""
    outline: Sequence[tuple[float, float]]
    """Corners, x and y, the first repeated at the end."""


def save_images(folder: Path, patch_id: int, images_TCHW: np.ndarray) -> None:
    """Write a patch's images atomically.

    Args:
        folder: The dataset.
        patch_id: Identifier of the patch.
        images_TCHW: Reflectance x 10 000, within int16, bands in PASTIS's order.
    """
    _save(folder, "DATA_S2/S2", patch_id, images_TCHW.astype(np.int16))


def save_labels(
    folder: Path,
    patch_id: int,
    classes_HW: np.ndarray,
    parcels_HW: np.ndarray,
    *,
    centres: bool = False,
) -> None:
    """Write a patch's labels, each file atomically.

    Args:
        folder: The dataset.
        patch_id: Identifier of the patch.
        classes_HW: Integers, 0..19.
        parcels_HW: Integers, number of the parcel at each pixel, 0 for none.
        centres: Write the centre targets too.
    """
    target_3HW = np.zeros((3, *classes_HW.shape), np.uint8)
    target_3HW[0] = classes_HW
    _save(folder, "ANNOTATIONS/TARGET", patch_id, target_3HW)
    _save(folder, "ANNOTATIONS/ParcelIDs", patch_id, parcels_HW.astype(np.int32))
    if centres:
        # They import torch, which workers otherwise do without.
        from panoseg.data.samples import centre_targets, number_parcels

        instances_HW = number_parcels(parcels_HW, classes_HW)
        targets = centre_targets(instances_HW, classes_HW)
        heatmap_HW = targets.heatmap_HW.numpy().astype(np.float64)
        _save(folder, "INSTANCE_ANNOTATIONS/HEATMAP", patch_id, heatmap_HW)
        _save(folder, "INSTANCE_ANNOTATIONS/INSTANCES", patch_id, instances_HW)
        _save(folder, "INSTANCE_ANNOTATIONS/ZONES", patch_id, targets.zone_HW.numpy())


def save_land_cover(folder: Path, patch_id: int, cover_HW: np.ndarray) -> None:
    """Write a patch's land cover, ANNOTATIONS/LANDCOVER_ID.npy, which PASTIS does not have.

    Args:
        folder: The dataset.
        patch_id: Identifier of the patch.
        cover_HW: uint8, ``simulation.landscape.LandCover`` of each pixel.
    """
    _save(folder, "ANNOTATIONS/LANDCOVER", patch_id, cover_HW.astype(np.uint8))


def _save(folder: Path, name: str, patch_id: int, array: np.ndarray) -> None:
    with atomic(folder / f"{name}_{patch_id}.npy") as temporary:
        np.save(temporary, array)


def save_normalisation(folder: Path, of_fold: Mapping[int, np.ndarray]) -> None:
    """Write NORM_S2_patch.json.

    Args:
        folder: The dataset.
        of_fold: For each fold with patches, mean and standard deviation of each band, 2 x C,
            reflectance x 10 000, bands in PASTIS's order.
    """
    table = {
        f"Fold_{fold}": {"mean": mean.tolist(), "std": std.tolist()}
        for fold, (mean, std) in sorted(of_fold.items())
    }
    write_json(folder / NORMALISATION_FILE, table)


def save_metadata(folder: Path, rows: Sequence[PatchRow], epsg: int = LAMBERT_93) -> None:
    """Write metadata.geojson: one feature a patch, outlines in the coordinate system ``epsg``."""
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    features = [_feature(index, row, epsg) for index, row in enumerate(rows)]
    write_json(folder / FILE_NAME, {"type": "FeatureCollection", "features": features, "crs": crs})


@lru_cache(maxsize=16)
def _transformer(crs: int | str, epsg: int) -> Transformer:
    """Return a transformer; cached, since thousands of patches have few coordinate systems."""
    from pyproj import Transformer

    return Transformer.from_crs(crs, epsg, always_xy=True)


def _feature(index: int, row: PatchRow, epsg: int) -> dict[str, Any]:
    transformer = _transformer(row.crs, epsg)
    properties = {
        "Fold": row.fold,
        "ID_PATCH": row.id,
        "N_Parcel": row.parcels,
        "Parcel_Cover": row.cover,
        "TILE": row.tile,
        "dates-S2": {
            str(position): int(day.strftime("%Y%m%d")) for position, day in enumerate(row.dates)
        },
        "id": str(row.id),
    }
    ring = [list(transformer.transform(x, y)) for x, y in row.outline]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(index), "type": "Feature", "properties": properties, "geometry": geometry}


_HIGHEST = 254  # TARGET files have a byte a pixel
_LARGEST_TABLE = 2**20
_NAMES = {
    "id": ("id", "code", "class_id", "value"),
    "name": ("name", "class", "label"),
    "kind": ("kind", "type"),
    "colour": ("colour", "color"),
}


def read_class_table(path: Path | str) -> ClassTable:
    """Read a table of classes.

    Without a kind, id 0 is stuff, a class named void is void, and all others are things. Without a
    colour, classes have those of PASTIS.

    Raises:
        ConfigError: The file cannot be read, or a row is wrong.
    """
    path = Path(path)
    try:
        text = read_text(path, _LARGEST_TABLE).text
    except PanosegError as error:
        raise ConfigError(str(error)) from error
    try:
        table = table_of(text)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    columns = {name.lower(): name for name in table.columns}
    found = {
        key: next((columns[name] for name in names if name in columns), None)
        for key, names in _NAMES.items()
    }
    if not table.rows or found["id"] is None or found["name"] is None:
        raise ConfigError(
            f"{path} has no columns id and name with a row for each class; its first line is"
            f" {shortened(text.split(chr(10), 1)[0], 60)!r}."
        )
    entries = [
        _entry(f"{path}, line {line}", {key: row[name] for key, name in found.items() if name})
        for line, row in zip(table.lines, table.rows, strict=True)
    ]
    for key in ("id", "name"):
        values = [getattr(entry, key) for entry in entries]
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ConfigError(f"{path} has several rows of the {key} {repeated}; give it one.")
    return ClassTable(path.stem, tuple(sorted(entries, key=lambda entry: entry.id)))


def _entry(where: str, row: dict[str, str]) -> SegmentClass:
    """Return the class of a row. Raises ``ConfigError``."""
    text = row["id"]
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST):
        raise ConfigError(f"{where}: the id is {text!r}, not a whole number 0 .. {_HIGHEST}.")
    number, name = int(text), row["name"] or text
    default = "stuff" if number == 0 else "void" if name.lower() == "void" else "thing"
    kind = row.get("kind", "").lower() or default
    if kind not in get_args(Kind):
        raise ConfigError(f"{where}: the kind is {kind!r}, not thing, stuff or void.")
    colour = row.get("colour", "").lower() or PASTIS[number % PASTIS.count].colour
    if len(colour) != 7 or colour[0] != "#" or set(colour[1:]) - set("0123456789abcdef"):
        raise ConfigError(f"{where}: the colour is {colour!r}, not such as #1f77b4.")
    return SegmentClass(number, name, colour, cast(Kind, kind))


def own_bands(folder: Path | str) -> tuple[str, ...]:
    """Return the names of the bands of a dataset: PASTIS's, if there are ten, or else numbers.

    Raises:
        DatasetError: The dataset is missing or damaged.
    """
    for patch in read_metadata(Path(folder)):
        path = Path(folder) / "DATA_S2" / f"S2_{patch.id}.npy"
        count = map_array(path, dimensions=4, dtype="int16").shape[1]
        if count != len(PASTIS_BANDS):
            return tuple(f"band {number}" for number in range(1, count + 1))
        break
    return PASTIS_BANDS
