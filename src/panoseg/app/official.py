"""Official parcels beside a map, for the pages: what is declared, what was found inside of each,
and where the two differ.

They are read from what ``panoseg.app.official_files`` has written.
"""

from __future__ import annotations

import json
from collections import Counter
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
    """An official parcel for people. declared: its crop by the register, None where it says none.
    found: by the map, with the share 0..1 of the parcel. difference: one of ``DIFFERENCES``.
    outline: GeoJSON in degrees.
    """

    id: str
    declared: str | None
    found: str | None
    confidence: float | None
    difference: str
    area_ha: float
    outline: dict[str, Any]


@dataclass(frozen=True)
class Differences:
    """How official parcels and those of a map differ. counts: official parcels by ``DIFFERENCES``.
    hectares: their areas.
    invented: ids of parcels of the map that match none.
    """

    counts: dict[str, int]
    hectares: dict[str, float]
    invented: tuple[str, ...]


def has_official(folder: Path) -> bool:
    """Whether official parcels were given to a job, and could be compared."""
    return (folder / REFINED / OUTLINES).is_file()


def outlines_of(result: ResultMap) -> Path:
    """The official parcels with what differs, as a GeoPackage with an index of places. Raises
    ``NotFoundError``.
    """
    if not has_official(result.folder):
        raise NotFoundError(
            "no official parcels of this map", "a map that has some", "give it a register"
        )
    return result.folder / REFINED / OUTLINES


def _read(result: ResultMap, **options: Any) -> Any:
    try:
        return pyogrio.read_dataframe(outlines_of(result), **options)
    except DataSourceError as error:
        raise NotFoundError(
            "official parcels that are just being replaced", "new ones", "look again soon"
        ) from error


def official_at(result: ResultMap, longitude: float, latitude: float) -> OfficialView | None:
    """The official parcel at a place in degrees, or None. Raises ``NotFoundError``."""
    x, y = transformer(DEGREES, result.crs).transform(longitude, latitude)
    if not np.isfinite([x, y]).all():
        return None
    found = _read(result, bbox=(x, y, x, y))
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
    """The differences in numbers. Raises ``NotFoundError``."""
    table = _read(result, read_geometry=False, columns=["difference", "area_ha"])
    counts = Counter(table["difference"])
    hectares = table.groupby("difference")["area_ha"].sum()
    invented = json.loads((result.folder / REFINED / INVENTED).read_text(encoding="utf-8"))
    return Differences(
        {name: counts[name] for name in DIFFERENCES},
        {name: float(hectares.get(name, 0)) for name in DIFFERENCES},
        tuple(invented),
    )
