"""The table of PASTIS's patches, metadata.geojson: identifier, fold, dates and outline of each.

Read as JSON: nothing but plain values is needed, and geopandas takes seconds to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panoseg.errors import DatasetError
from panoseg.files import atomic, write_json

if TYPE_CHECKING:
    from pyproj import Transformer


FILE_NAME = "metadata.geojson"


@dataclass(frozen=True)
class Patch:
    """One patch as metadata.geojson describes it.

    id: as in the names of its files. fold: 1..5. dates: one an image, in the order of the images on
    disk. geometry: GeoJSON geometry in the collection's CRS, or None. properties: everything else
    that the file says of it.
    """

    id: int
    fold: int
    dates: tuple[date, ...]
    geometry: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_date(text: str | int) -> date:
    """A date written as 20190801, 2019-08-01, or month-day-year 08-01-2019 (the form in PASTIS's
    readme).

    Raises ``ValueError``.
    """
    patterns = (
        r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
        r"(?P<y>\d{4})-(?P<m>\d\d?)-(?P<d>\d\d?)",
        r"(?P<m>\d\d?)-(?P<d>\d\d?)-(?P<y>\d{4})",
    )
    for pattern in patterns:
        if match := re.fullmatch(pattern, str(text), re.ASCII):
            return date(int(match["y"]), int(match["m"]), int(match["d"]))
    raise ValueError(f"{text!r} is not a date")


def read_json(path: Path) -> Any:
    """The value of a JSON file; ``DatasetError`` where it is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist",
            f"a dataset with {path.name}",
            "complete the dataset or correct its path",
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror or error}",
            "a readable file",
            "check the disk and permissions",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not JSON ({error})", "a JSON file", "copy the file again"
        ) from error


def read_metadata(folder: Path) -> list[Patch]:
    """The patches of a dataset by ascending identifier. Raises ``DatasetError``."""
    path = folder / FILE_NAME
    collection = read_json(path)
    features = collection.get("features") if isinstance(collection, dict) else None
    if not isinstance(features, list):
        raise DatasetError(
            f"{path} has no list of features", "a GeoJSON feature collection", "copy the file again"
        )
    patches = sorted(
        (_patch(path, number, feature) for number, feature in enumerate(features)),
        key=lambda patch: patch.id,
    )
    for one, other in pairwise(patches):
        if one.id == other.id:
            raise DatasetError(
                f"{path} lists patch {one.id} twice", "one feature a patch", "remove one of them"
            )
    return patches


def _patch(path: Path, number: int, feature: Any) -> Patch:
    try:
        properties = feature["properties"]
        patch_id, fold, dates = properties["ID_PATCH"], properties["Fold"], properties["dates-S2"]
        if isinstance(dates, dict):
            dates = [dates[str(position)] for position in range(len(dates))]
        if (
            not isinstance(dates, list)
            or type(patch_id) is not int
            or type(fold) is not int
            or not 1 <= fold <= 5
        ):
            raise ValueError("a value of another type or range")
        return Patch(
            patch_id, fold, tuple(map(parse_date, dates)), feature.get("geometry"), properties
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"feature {number} of {path} is damaged ({error})",
            "ID_PATCH, Fold 1..5 and dates-S2 numbered from 0, each 20180917",
            "write the file in PASTIS's form",
        ) from error


NORMALISATION_FILE = "NORM_S2_patch.json"
LAMBERT_93 = 2154
"""Code of the coordinate system in which the genuine dataset describes its patches."""


@dataclass(frozen=True)
class PatchRow:
    """What metadata.geojson says of a patch.

    fold: 1..5. dates: one an image, as they lie on disk. parcels: how many it has. cover: share of
    its pixels in parcels. tile: where it comes from, in a word. crs: coordinate system of
    ``outline``, as pyproj takes it; outline: its corners, the first repeated at the end.
    """

    id: int
    fold: int
    dates: tuple[date, ...]
    parcels: int
    cover: float
    tile: str
    crs: int | str
    outline: Sequence[tuple[float, float]]


def save_images(folder: Path, patch_id: int, images_TCHW: NDArray) -> None:
    """Write a patch's images, whole or not at all. images_TCHW: int16, reflectance x 10 000, bands
    in PASTIS's order.
    """
    _save(folder, "DATA_S2/S2", patch_id, images_TCHW.astype(np.int16))


def save_labels(
    folder: Path, patch_id: int, classes_HW: NDArray, parcels_HW: NDArray, *, centres: bool = False
) -> None:
    """Write a patch's labels, each file whole or not at all.

    classes_HW: 0..19. parcels_HW: numbers of parcels, 0 outside. centres: the targets of the
    panoptic head too.
    """
    target_3HW = np.zeros((3, *classes_HW.shape), np.uint8)
    target_3HW[0] = classes_HW
    _save(folder, "ANNOTATIONS/TARGET", patch_id, target_3HW)
    _save(folder, "ANNOTATIONS/ParcelIDs", patch_id, parcels_HW.astype(np.int32))
    if centres:
        for name, array in _centre_maps(classes_HW, parcels_HW).items():
            _save(folder, f"INSTANCE_ANNOTATIONS/{name}", patch_id, array)


def _save(folder: Path, name: str, patch_id: int, array: NDArray) -> None:
    with atomic(folder / f"{name}_{patch_id}.npy") as temporary:
        np.save(temporary, array)


def _centre_maps(classes_HW: NDArray, parcels_HW: NDArray) -> dict[str, NDArray]:
    from panoseg.data.centres import (
        centre_targets,
        number_parcels,
    )  # torch, which workers do without

    instances_HW = number_parcels(parcels_HW, classes_HW)
    targets = centre_targets(instances_HW, classes_HW)
    return {
        "HEATMAP": targets.heatmap_HW.numpy().astype(np.float64),
        "INSTANCES": instances_HW,
        "ZONES": targets.zone_HW.numpy(),
    }


def save_normalisation(folder: Path, of_fold: Mapping[int, NDArray]) -> None:
    """Write NORM_S2_patch.json. of_fold: mean and deviation of each band, 2 x C in PASTIS's order,
    of folds with patches.
    """
    table = {
        f"Fold_{fold}": {"mean": mean.tolist(), "std": std.tolist()}
        for fold, (mean, std) in sorted(of_fold.items())
    }
    write_json(folder / NORMALISATION_FILE, table)


def save_metadata(folder: Path, rows: Sequence[PatchRow], epsg: int = LAMBERT_93) -> None:
    """Write metadata.geojson: a feature a patch, outlines in the coordinate system ``epsg``."""
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    features = [_feature(index, row, epsg) for index, row in enumerate(rows)]
    write_json(folder / FILE_NAME, {"type": "FeatureCollection", "features": features, "crs": crs})


@lru_cache(maxsize=16)
def _transformer(crs: int | str, epsg: int) -> Transformer:
    """Made once, since thousands of patches have few coordinate systems."""
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
