"""Official parcels compared with a map, as the pages show them.

They are read from the files that ``panoseg.app.official_files`` has written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataSourceError

from panoseg.app.official_files import DIFFERENCES, INVENTED, MISSED, OTHER, OUTLINES, SAME, UNKNOWN
from panoseg.app.parcels import in_degrees
from panoseg.app.result_map import DEGREES, ResultMap, transformer
from panoseg.app.stages import REFINED
from panoseg.errors import NotFoundError
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE

__all__ = [
    "DIFFERENCES",
    "MISSED",
    "OTHER",
    "SAME",
    "UNKNOWN",
    "Differences",
    "OfficialView",
    "differences",
    "official_at",
]


@dataclass(frozen=True)
class OfficialView:
    """An official parcel."""

    id: str
    """Its id in the register."""
    declared: str | None
    """Crop that the register declares, None if it declares none."""
    found: str | None
    """Crop that the map has inside the parcel, None if it has none."""
    confidence: float | None
    """Share of the parcel's area with that crop, 0 to 1."""
    difference: str
    """One of ``DIFFERENCES``."""
    area_ha: float
    """Area in hectares."""
    outline: dict[str, Any]
    """GeoJSON in degrees."""


@dataclass(frozen=True)
class Differences:
    """How official parcels and the parcels of a map differ."""

    counts: dict[str, int]
    """Number of official parcels by ``DIFFERENCES``."""
    hectares: dict[str, float]
    """Their areas in hectares by ``DIFFERENCES``."""
    invented: tuple[str, ...]
    """Ids of parcels of the map that match no official parcel."""


def has_official(folder: Path) -> bool:
    """Return whether a job has official parcels that were compared with its map."""
    return (folder / REFINED / OUTLINES).is_file()


def outlines_of(result: ResultMap) -> Path:
    """Return the GeoPackage of the official parcels and their differences.

    Raises:
        NotFoundError: The job has no official parcels.
    """
    if not has_official(result.folder):
        raise NotFoundError("This map has no official parcels; add a register to it first.")
    return result.folder / REFINED / OUTLINES


def official_at(result: ResultMap, longitude: float, latitude: float) -> OfficialView | None:
    """Return the official parcel at a place in degrees, None if there is none.

    Raises:
        NotFoundError: The job has no official parcels.
    """
    x, y = transformer(DEGREES, result.crs).transform(longitude, latitude)
    if not np.isfinite([x, y]).all():
        return None
    with _being_replaced():
        found = pyogrio.read_dataframe(outlines_of(result), bbox=(x, y, x, y))
    found = found[found.intersects(shapely.Point(x, y))]
    if not len(found):
        return None
    row = found.iloc[0]
    share = None if row["found"] is None else float(row["confidence"])
    area_ha = row.geometry.area / SQUARE_METRES_PER_HECTARE
    outline = in_degrees(result, row.geometry)
    return OfficialView(
        row["id"], row["declared"], row["found"], share, row["difference"], area_ha, outline
    )


def differences(result: ResultMap) -> Differences:
    """Return the differences in numbers.

    Raises:
        NotFoundError: The job has no official parcels.
    """
    with _being_replaced():
        table = pyogrio.read_dataframe(
            outlines_of(result), read_geometry=False, columns=["difference", "area_ha"]
        )
    counts = Counter(table["difference"])
    hectares = table.groupby("difference")["area_ha"].sum()
    invented = json.loads((result.folder / REFINED / INVENTED).read_text(encoding="utf-8"))
    return Differences(
        {name: counts[name] for name in DIFFERENCES},
        {name: float(hectares.get(name, 0)) for name in DIFFERENCES},
        tuple(invented),
    )


@contextmanager
def _being_replaced() -> Iterator[None]:
    """Raise ``NotFoundError`` if the file disappears because new parcels are being compared."""
    try:
        yield
    except DataSourceError as error:
        raise NotFoundError(
            "The official parcels are just being replaced; try again soon."
        ) from error
