"""Official parcels of a job: imported, compared with the map, and written for the pages.

Files in the folder of the job:

    register.parquet        the official parcels that meet the map
    refined/                the output of ``panoseg refine`` with these
    refined/official.gpkg   the parcels for the pages; ``difference`` is ``same``, ``other crop``,
                            ``unknown`` (no crop is declared, or none that the map has) or ``not
                            found`` (no parcel of the map matches it, as in ``panoseg compare``)
    refined/invented.json   ids of parcels of the map that match no official parcel
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio

from panoseg.classes import ClassTable, plain_code
from panoseg.cube import ReadOptions
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube
from panoseg.errors import ParcelsError
from panoseg.files import atomic, write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.compare import compare_parcels
from panoseg.maps.parcels import (
    GEOPACKAGE_OPTIONS,
    SQUARE_METRES_PER_HECTARE,
    read_geoparquet,
)
from panoseg.maps.read_parcels import check_place, read_parcels
from panoseg.maps.refine import refine_file
from panoseg.register.parcels import CropCodes, read_crop_codes

SAME, OTHER, UNKNOWN, MISSED = "same", "other crop", "unknown", "not found"
DIFFERENCES = (SAME, OTHER, UNKNOWN, MISSED)
OUTLINES, INVENTED = "official.gpkg", "invented.json"
# Columns of the refinement with the crop that a register declares. Columns whose names the
# refinement needs itself are renamed to given_*.
_DECLARED = ("given_class", "given_crop:name", "given_crop:code", "crop_code")


@dataclass(frozen=True)
class Register:
    """A file of official parcels."""

    file: Path
    """File of the parcels, possibly a zip archive."""
    codes: Path | None = None
    """Table of the class of each crop code, see ``panoseg.register.parcels``."""
    column: str | None = None
    """Column of the crop codes; by default the one with the most codes of the table."""


def import_and_compare(
    register: Register,
    season: Path,
    map_: Path,
    out: Path,
    refined: Path,
    read: ReadOptions | None = None,
) -> tuple[int, int]:
    """Call ``import_register``, then ``compare_with_register``."""
    import_register(register, season, map_, out, read)
    return compare_with_register(out, map_, refined)


def import_register(
    register: Register, season: Path, map_: Path, out: Path, read: ReadOptions | None = None
) -> None:
    """Write the official parcels that meet a map to a new file.

    Args:
        register: The official parcels. If they have a table of codes, a column ``class`` is added.
        season: The season of the map.
        map_: The folder of the map.
        out: The file to write, GeoParquet.
        read: What the season does not say about itself.

    Raises:
        ParcelsError: The parcels cannot be read, or none meets the map.
        AppError: Their archive is not acceptable.
    """
    extent = check_cube(open_cube(season), PASTIS_BANDS, read).odc.geobox.extent
    area = gpd.GeoSeries([extent.geom], crs=extent.crs.to_wkt())
    # Beside the register: if this process is ended, the server tidies that folder.
    parcels = read_parcels(register.file, area, scratch=register.file.parent)
    check_place(parcels, "the official parcels", area, "the map")
    if register.codes is not None:
        table = _classes(map_)
        codes = read_crop_codes(register.codes, table)
        column = register.column or _column_of_codes(parcels, codes)
        if column not in parcels.columns:
            names = ", ".join(str(name)[:40] for name in parcels.columns[:30])
            raise ParcelsError(
                f"The official parcels have no column {column!r}. Name the column of the crop"
                f" codes, one of: {names}."
            )
        parcels["class"] = _class_names(parcels[column], codes, table)
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
            "No column of the official parcels has a code of the table; check the table of codes."
        )
    return str(best)


def _class_names(values: Iterable[object], codes: CropCodes, table: ClassTable) -> list[str | None]:
    """Return the class of each code; a code that the table lacks stays as it is."""
    values = list(values)
    named = zip(values, codes.classes_of(values), strict=True)
    return [
        (str(value) if plain_code(value) else None) if found is None else table[found].name
        for value, found in named
    ]


def compare_with_register(register: Path, map_: Path, refined: Path) -> tuple[int, int]:
    """Refine a map by official parcels and write the differences.

    Args:
        register: The official parcels, GeoParquet.
        map_: The folder of the map.
        refined: The new folder to write.

    Returns:
        The number of parcels that got a class, and the number outside the map.

    Raises:
        ParcelsError: The parcels cannot be used.
        OutputError: The folder cannot be written.
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
            table,
            temporary,
            driver="GPKG",
            layer="official",
            geometry_type="Unknown",
            dataset_options=GEOPACKAGE_OPTIONS,
        )
    return len(made.parcels), made.left_out


def _classes(map_: Path) -> ClassTable:
    record = json.loads((map_ / "map.json").read_text(encoding="utf-8"))
    return ClassTable.from_json(record["card"]["classes"])


def _declared(official: gpd.GeoDataFrame) -> pd.Series:
    """Return the crop that the register declares for each parcel, None if it declares none."""
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
