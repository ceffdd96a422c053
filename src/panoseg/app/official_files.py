"""Official parcels of a job become files: those on the map's land, with what the map found in each
and where the two differ.

register.parquet       the parcels, as they were given
refined/               as ``panoseg refine`` writes it
refined/official.gpkg  the parcels for the pages; ``difference`` is ``same``, ``other crop``,
                       ``unknown`` (no crop is declared, or none that the map knows) or ``not
                       found`` (no parcel of the map has this shape, by ``panoseg compare``)
refined/invented.json  ids of parcels of the map that match no official one
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio

from panoseg.app.archives import unpacked_parcels
from panoseg.classes import ClassTable
from panoseg.cube.open import open_cube
from panoseg.errors import ParcelsError
from panoseg.files import atomic, write_json
from panoseg.maps.compare import compare_parcels
from panoseg.maps.parcels import SQUARE_METRES_PER_HECTARE, read_geoparquet
from panoseg.maps.read_parcels import check_place, read_parcels
from panoseg.maps.refine import refine_file
from panoseg.register.parcels import CropCodes, plain_code, read_crop_codes

SAME, OTHER, UNKNOWN, MISSED = "same", "other crop", "unknown", "not found"
DIFFERENCES = (SAME, OTHER, UNKNOWN, MISSED)
OUTLINES, INVENTED = "official.gpkg", "invented.json"
# Columns of the refinement that hold what a register declares: ours of the same name made way for
# it.
_DECLARED = ("given_class", "given_crop:name", "given_crop:code", "crop_code")


@dataclass(frozen=True)
class Register:
    """Official parcels that somebody gave. codes: a table of the class of each code, see
    ``panoseg.register.parcels``, or None. column: that holds the codes; None: the one in which most
    are found.
    """

    file: Path
    codes: Path | None = None
    column: str | None = None


def use_register(
    register: Register, season: Path, map_: Path, out: Path, refined: Path
) -> tuple[int, int]:
    """``take_register``, then ``compare_with_register``."""
    take_register(register, season, map_, out)
    return compare_with_register(out, map_, refined)


def take_register(register: Register, season: Path, map_: Path, out: Path) -> None:
    """Write the given parcels that meet the map to the new file ``out``; those with a table of
    codes with their ``class``.

    Raises ``ParcelsError``, ``AppError``.
    """
    extent = open_cube(season).odc.geobox.extent
    area = gpd.GeoSeries([extent.geom], crs=extent.crs.to_wkt())
    with unpacked_parcels(register.file) as file:
        parcels = read_parcels(file, area)
    check_place(parcels, "the official parcels", area, "the map")
    if register.codes is not None:
        table = _classes(map_)
        codes = read_crop_codes(register.codes, table)
        column = register.column or _column_of_codes(parcels, codes)
        if column not in parcels.columns:
            raise ParcelsError(
                f"official parcels without the column {column!r}",
                _listed(parcels),
                "name the column of the codes",
            )
        parcels["class"] = _names(parcels[column], codes, table)
    with atomic(out) as temporary:
        parcels.to_parquet(temporary)


def _column_of_codes(parcels: gpd.GeoDataFrame, codes: CropCodes) -> str:
    columns = [name for name in parcels.columns if name != parcels.active_geometry_name]
    known = {
        name: sum(found is not None for found in codes.classes_of(parcels[name]))
        for name in columns
    }
    best = max(columns, key=known.__getitem__, default=None)
    if best is None or not known[best]:
        raise ParcelsError(
            "no code of the table in the official parcels",
            "some in a column",
            "check the table of codes",
        )
    return str(best)


def _names(values: Iterable[object], codes: CropCodes, table: ClassTable) -> list[str | None]:
    """The class of each code; a code that the table lacks stays as it is."""
    values = list(values)
    named = zip(values, codes.classes_of(values), strict=True)
    return [
        (str(value) if plain_code(value) else None) if found is None else table[found].name
        for value, found in named
    ]


def _listed(parcels: gpd.GeoDataFrame) -> str:
    return f"one of {', '.join(str(name)[:40] for name in parcels.columns[:30])}"


def compare_with_register(register: Path, map_: Path, refined: Path) -> tuple[int, int]:
    """Write the new folder ``refined``; returns how many parcels got a class, and how many lie
    outside of the map.

    Raises ``ParcelsError``, ``OutputError``.
    """
    made = refine_file(map_, register, refined)
    found = pd.concat(list(read_geoparquet(map_ / "parcels.parquet")), ignore_index=True)
    official = made.parcels.to_crs(found.crs)
    compared = compare_parcels(
        found, official, classes=None, truth_classes=None, declared_only=True
    )
    declared = _declared(official)
    table = gpd.GeoDataFrame(
        {
            "id": official["id"],
            "declared": declared,
            "found": official["class"],
            "confidence": official["confidence"],
            "difference": _differences(
                _classes(map_), declared, official["class"], compared.missed
            ),
            "area_ha": official.area / SQUARE_METRES_PER_HECTARE,
        },
        geometry=official.geometry,
        crs=official.crs,
    )
    write_json(refined / INVENTED, found["id"].iloc[list(compared.invented)].tolist())
    with atomic(refined / OUTLINES) as temporary:
        pyogrio.write_dataframe(
            table, temporary, driver="GPKG", layer="official", geometry_type="Unknown"
        )
    return len(made.parcels), made.left_out


def _classes(map_: Path) -> ClassTable:
    record = json.loads((map_ / "map.json").read_text(encoding="utf-8"))
    return ClassTable.from_json(record["card"]["classes"])


def _declared(official: gpd.GeoDataFrame) -> pd.Series:
    """The crop that the register gives each parcel, as text; None where it gives none."""
    column = next((name for name in _DECLARED if name in official.columns), None)
    if column is None:
        return pd.Series([None] * len(official), dtype=object)
    return pd.Series(
        [None if pd.isna(value) else str(value) for value in official[column]], dtype=object
    )


def _differences(
    table: ClassTable, declared: pd.Series, found: pd.Series, missed: tuple[int, ...]
) -> list[str]:
    known = {entry.name.casefold() for entry in table.classes}
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
