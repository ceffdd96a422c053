"""Official parcels beside a map: what is declared, what was found inside of each, and where the two differ.

The files are made when they are first asked for, beside the refinement: official.gpkg, whose ``difference`` is ``same``,
``other crop``, ``unknown`` (no crop is declared, or none that the map knows) or ``not found`` (no parcel of the map has this
shape, by ``panoseg compare``), and invented.json, the ids of parcels that match no official one.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyproj import Transformer

from panoseg.app.parcels import in_degrees
from panoseg.app.result_map import DEGREES, ResultMap
from panoseg.app.stages import MAP, REFINED
from panoseg.errors import NotFoundError
from panoseg.files import atomic, write_json
from panoseg.maps.compare import compare_parcels
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, read_geoparquet

SAME, OTHER, UNKNOWN, MISSED = "same", "other crop", "unknown", "not found"
DIFFERENCES = (SAME, OTHER, UNKNOWN, MISSED)
_OUTLINES, _INVENTED = "official.gpkg", "invented.json"
_DECLARED = ("given_class", "given_crop:name", "crop:name", "given_crop:code", "crop_code")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class OfficialView:
    """An official parcel for people. declared: its crop by the register, None where it says none. found: by the map, with the
    share 0..1 of the parcel. difference: one of ``DIFFERENCES``. outline: GeoJSON in degrees."""

    id: str
    declared: str | None
    found: str | None
    confidence: float | None
    difference: str
    area_ha: float
    outline: dict[str, Any]


@dataclass(frozen=True)
class Differences:
    """How official parcels and those of a map differ. counts: official parcels by ``DIFFERENCES``. hectares: their areas.
    invented: ids of parcels of the map that match none."""

    counts: dict[str, int]
    hectares: dict[str, float]
    invented: tuple[str, ...]


def has_official(folder: Path) -> bool:
    """Whether official parcels were given to a job."""
    return (folder / REFINED / "parcels.parquet").exists()


def outlines_of(result: ResultMap) -> Path:
    """The official parcels with what differs, as a GeoPackage with an index of places. Raises ``NotFoundError``."""
    path = result.folder / REFINED / _OUTLINES
    if not has_official(result.folder):
        raise NotFoundError("no official parcels of this map", "a map that has some", "give it a register")
    with _LOCK:
        if not path.is_file():
            _compare(result)
    return path


def official_at(result: ResultMap, longitude: float, latitude: float) -> OfficialView | None:
    """The official parcel at a place in degrees, or None. Raises ``NotFoundError``."""
    x, y = Transformer.from_crs(DEGREES, result.crs, always_xy=True).transform(longitude, latitude)
    if not np.isfinite([x, y]).all():
        return None
    found = pyogrio.read_dataframe(outlines_of(result), bbox=(x, y, x, y))
    found = found[found.intersects(shapely.Point(x, y))]
    if not len(found):
        return None
    row = found.iloc[0]
    share = None if row["found"] is None else float(row["confidence"])
    area_ha = row.geometry.area / SQUARE_METRES_PER_HECTARE
    outline = in_degrees(result, row.geometry)
    return OfficialView(row["id"], row["declared"], row["found"], share, row["difference"], area_ha, outline)


def differences(result: ResultMap) -> Differences:
    """The differences in numbers. Raises ``NotFoundError``."""
    table = pyogrio.read_dataframe(outlines_of(result), read_geometry=False, columns=["difference", "area_ha"])
    counts = Counter(table["difference"])
    hectares = table.groupby("difference")["area_ha"].sum()
    invented = json.loads((result.folder / REFINED / _INVENTED).read_text(encoding="utf-8"))
    return Differences(
        {name: counts[name] for name in DIFFERENCES},
        {name: float(hectares.get(name, 0)) for name in DIFFERENCES},
        tuple(invented),
    )


def _compare(result: ResultMap) -> None:
    """Write both files, the GeoPackage last."""
    folder = result.folder / REFINED
    refined = gpd.read_parquet(folder / "parcels.parquet").to_crs(result.crs)
    found = pd.concat(list(read_geoparquet(result.folder / MAP / "parcels.parquet")), ignore_index=True)
    compared = compare_parcels(found, refined, classes=None, truth_classes=None, declared_only=True)
    declared = _declared(refined)
    table = gpd.GeoDataFrame(
        {
            "id": refined["id"],
            "declared": declared,
            "found": refined["class"],
            "confidence": refined["confidence"],
            "difference": _differences(result, declared, refined["class"], compared.missed),
            "area_ha": refined.area / SQUARE_METRES_PER_HECTARE,
        },
        geometry=refined.geometry,
        crs=refined.crs,
    )
    write_json(folder / _INVENTED, found["id"].iloc[list(compared.invented)].tolist())
    with atomic(folder / _OUTLINES) as temporary:
        pyogrio.write_dataframe(table, temporary, driver="GPKG", layer="official", geometry_type="Unknown")


def _declared(refined: gpd.GeoDataFrame) -> pd.Series:
    """The crop that the register gives each parcel, as text; None where it gives none."""
    column = next((name for name in _DECLARED if name in refined.columns and name.startswith("given_")), None)
    column = column or next((name for name in ("crop_code",) if name in refined.columns), None)
    if column is None:
        return pd.Series([None] * len(refined), dtype=object)
    return pd.Series([None if pd.isna(value) else str(value) for value in refined[column]], dtype=object)


def _differences(result: ResultMap, declared: pd.Series, found: pd.Series, missed: tuple[int, ...]) -> list[str]:
    known = {entry.name.casefold() for entry in result.classes.classes}
    unmatched = set(missed)
    rows = []
    for row, (name, crop) in enumerate(zip(declared, found, strict=True)):
        if row in unmatched:
            rows.append(MISSED)
        elif name is None or name.casefold() not in known or crop is None:
            rows.append(UNKNOWN)
        else:
            rows.append(SAME if name.casefold() == crop.casefold() else OTHER)
    return rows
