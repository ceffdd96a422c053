"""The table of PASTIS's patches, metadata.geojson: identifier, fold, dates and outline of each.

Read as JSON: nothing but plain values is needed, and geopandas takes seconds to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from panoseg.errors import DatasetError

FILE_NAME = "metadata.geojson"


@dataclass(frozen=True)
class Patch:
    """One patch as metadata.geojson describes it.

    id: as in the names of its files. fold: 1..5. dates: one an image, in the order of the images on disk. geometry: GeoJSON
    geometry in the collection's CRS, or None. properties: everything else that the file says of it.
    """

    id: int
    fold: int
    dates: tuple[date, ...]
    geometry: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_date(text: str | int) -> date:
    """A date written as 20190801, 2019-08-01, or month-day-year 08-01-2019 (the form in PASTIS's readme).

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
            f"{path} does not exist", f"a dataset with {path.name}", "complete the dataset or correct its path"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}", "a readable file", "check the disk and permissions") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error})", "a JSON file", "copy the file again") from error


def read_metadata(folder: Path) -> list[Patch]:
    """The patches of a dataset by ascending identifier. Raises ``DatasetError``."""
    path = folder / FILE_NAME
    collection = read_json(path)
    features = collection.get("features") if isinstance(collection, dict) else None
    if not isinstance(features, list):
        raise DatasetError(f"{path} has no list of features", "a GeoJSON feature collection", "copy the file again")
    patches = sorted((_patch(path, number, feature) for number, feature in enumerate(features)), key=lambda patch: patch.id)
    for one, other in pairwise(patches):
        if one.id == other.id:
            raise DatasetError(f"{path} lists patch {one.id} twice", "one feature a patch", "remove one of them")
    return patches


def _patch(path: Path, number: int, feature: Any) -> Patch:
    try:
        properties = feature["properties"]
        patch_id, fold, dates = properties["ID_PATCH"], properties["Fold"], properties["dates-S2"]
        if isinstance(dates, dict):
            dates = [dates[str(position)] for position in range(len(dates))]
        if not isinstance(dates, list) or type(patch_id) is not int or type(fold) is not int or not 1 <= fold <= 5:
            raise ValueError("a value of another type or range")
        return Patch(patch_id, fold, tuple(map(parse_date, dates)), feature.get("geometry"), properties)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"feature {number} of {path} is damaged ({error})",
            "ID_PATCH, Fold 1..5 and dates-S2 numbered from 0, each 20180917",
            "write the file in PASTIS's form",
        ) from error
