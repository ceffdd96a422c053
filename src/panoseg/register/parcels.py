"""A register of parcels, and the table that maps its crop codes to the classes of a dataset.

The table is a CSV with at least the columns code and class; a class is the number or the name of
one in ``panoseg.classes``:

    code,class
    1110,soft winter wheat
    1200,3

Shape suffixes: N parcels, X pairs of parcels.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from panoseg.classes import ClassTable, plain_code
from panoseg.errors import PanosegError, ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.sentinel2 import PIXEL_M
from panoseg.maps.outlines import shared_areas
from panoseg.maps.read_parcels import (
    left_out_notes,
    read_parcels,
    rows_without_area,
    valid_outlines,
)
from panoseg.text_files import TextTable, listed, read_text, shortened, table_of

_LARGEST_BYTES = 16 * 1024**2
SQUARE_METRES_PER_HECTARE = 10_000
_SAME_PLACE_M = 0.01
_SMALLEST_OVERLAP_M2 = 1.0
_CHUNK = 20_000
_MOST_CODES = 50


@dataclass(frozen=True)
class CropCodes:
    """Classes by crop code."""

    classes: Mapping[str, int]
    """Id of the class by code; codes are text."""
    source: str = "the table of crop codes"
    """Where the codes come from, for messages."""
    notes: tuple[str, ...] = ()
    """Sentences about the table for the user."""

    def classes_of(self, column: Iterable[Any]) -> list[int | None]:
        """Return the class of each value of a register's column; None if it is unknown or missing.

        Codes are the same as ``plain_code`` has it: 110, 110.0 and "0110" are.

        >>> CropCodes({"0110": 2, "WTR": 3}).classes_of([110.0, "0110", "wtr", " WTR ", None])
        [2, 2, None, 3, None]
        """
        numbers = {plain_code(code): class_id for code, class_id in self.classes.items()}
        return [numbers.get(plain_code(value)) for value in column]


def read_crop_codes(path: Path | str, table: ClassTable, encoding: str | None = None) -> CropCodes:
    """Read a table of crop codes for the classes of ``table``.

    Args:
        path: A CSV in any usual encoding, with any usual separator.
        table: The classes.
        encoding: The encoding of a table that is neither UTF-8 nor UTF-16.

    Raises:
        ParcelsError: The file cannot be read, or a line is wrong.
    """
    path = Path(path)
    rows, notes = read_rows(path, encoding)
    found: dict[str, int] = {}
    first: dict[str, int] = {}
    for number, row in zip(rows.lines, rows.rows, strict=True):
        code, name = row["code"], row["class"]
        if not code and not name:
            continue
        class_id = _class_id(name, table, f"Line {number} of {path}")
        if first.setdefault(plain_code(code), class_id) != class_id:
            raise ParcelsError(
                f"Line {number} of {path}: code {shortened(code)} is {table[class_id].name} here"
                f" and {table[first[plain_code(code)]].name} above; take one of the lines out."
            )
        found[code] = class_id
    if not found:
        raise ParcelsError(f"{path} has no line with a code and a class: write them.")
    return CropCodes(found, str(path), notes)


def read_rows(path: Path, encoding: str | None = None) -> tuple[TextTable, tuple[str, ...]]:
    """Return a table of crop codes, classes unchecked, and sentences about it for the user.

    Raises:
        ParcelsError: The file cannot be read, or lacks a column.
    """
    try:
        text = read_text(path, _LARGEST_BYTES, encoding)
        table = table_of(text.text)
    except (PanosegError, ValueError) as error:
        said = str(error) if isinstance(error, PanosegError) else f"{path} cannot be read: {error}."
        raise ParcelsError(f"{said} It is a table (CSV) with the columns code and class.") from (
            error
        )
    names = {name.strip(" '\"").casefold(): name for name in table.columns}
    if not {"code", "class"} <= set(names):
        raise ParcelsError(
            f"{path} has the columns {listed(list(table.columns), 20)}, and needs code and class:"
            " write code,class in the first line."
        )
    rows = tuple(
        row | {"code": row[names["code"]], "class": row[names["class"]]} for row in table.rows
    )
    notes = (
        (
            f"{path} is not in UTF-8, and was read as {text.encoding}. If letters are wrong, save"
            " it as CSV UTF-8, or pass --encoding.",
        )
        if text.guessed
        else ()
    )
    return TextTable(table.columns, rows, table.lines), notes


def _class_id(text: str, table: ClassTable, where: str) -> int:
    """Return the id of the class with this number or name; ``where`` is for the message."""
    names = {plain_code(entry.name).casefold(): entry.id for entry in table.classes}
    ids = {str(entry.id): entry.id for entry in table.classes}
    plain = plain_code(text).casefold()
    if plain in names or plain in ids:
        return names[plain] if plain in names else ids[plain]
    text = shortened(text)
    close = difflib.get_close_matches(text.casefold(), names, n=1)
    question = f" Did you mean {close[0]}?" if close else ""
    raise ParcelsError(
        f"{where}: {text!r} is not a class of {table.name}. Give the number or name of one:"
        f" {', '.join(f'{entry.id} {entry.name}' for entry in table.classes)}.{question}"
    )


@dataclass(frozen=True)
class Findings:
    """What was found about the rows of a register. Counts are of rows unless stated otherwise."""

    rows: int
    """Rows near the cubes."""
    without_area: int
    """Without area, left out."""
    elsewhere: int
    """In the box around all cubes but on none of them, left out."""
    mended: int
    """Outlines that crossed themselves, repaired."""
    duplicates: int
    """Same outline as another row, left out."""
    contradictions: int
    """Outlines to which several rows give different classes, void."""
    unknown_codes: dict[str, int]
    """Rows by code, for codes that the table lacks; void."""
    without_code: int
    """Without a code, void."""
    thin: int
    """Narrower than a pixel everywhere, void."""
    overlaps: int
    """Pairs of parcels that share more than 1 m2."""
    overlap_ha: float
    """Land that such pairs share, in hectares."""


@dataclass(frozen=True, eq=False)
class Register:
    """Parcels on the land of some cubes."""

    outlines_N: np.ndarray
    """Valid Polygon or MultiPolygon, in ``crs``."""
    numbers_N: np.ndarray
    """int32: place among the rows that were read, from 1."""
    classes_N: np.ndarray
    """uint8: id in the table that the codes were read for; void where no crop can be learnt from
    the parcel.
    """
    crs: str
    """Coordinate system as WKT."""
    findings: Findings
    """Counts for the report."""
    notes: tuple[str, ...] = ()
    """Sentences about the register for the user."""


def read_register(
    path: Path | str,
    column: str,
    codes: CropCodes,
    table: ClassTable,
    grids: Sequence[GeoBox],
    options: VectorOptions | None = None,
) -> Register:
    """Read the parcels of a file that lie on the grids, in the coordinate system of the first.

    Args:
        path: File of the register.
        column: Its column of crop codes.
        codes: Classes by crop code.
        table: The classes of ``codes``; it has a void class.
        grids: Grids of the cubes.
        options: What the file does not say itself.

    Raises:
        ParcelsError: The file cannot be read, lacks the column, has no parcel on the grids, or no
            code that the table has.
    """
    crs = crs_of(grids[0]).to_wkt()
    land = gpd.GeoSeries([grid.extent.to_crs(crs).geom for grid in grids], crs=crs)
    with parcels_crs():
        parcels = read_parcels(path, land, options)
    if column not in parcels.columns or column == parcels.geometry.name:
        names = ", ".join(str(name) for name in parcels.columns if name != parcels.geometry.name)
        raise ParcelsError(f"{path} has no column {column} (but {names}): pass --class-column.")
    invalid = int((~shapely.is_valid(parcels.geometry.to_numpy())).sum())
    outlines_N = valid_outlines(parcels.to_crs(crs))
    on_land_N = shapely.intersects(outlines_N, shapely.union_all(land.to_numpy()))
    if not on_land_N.any():
        raise ParcelsError(
            f"No parcel of {path} lies on the cubes: check the area and the coordinate systems."
        )
    classes_N, words, said = _classes(
        parcels[column].to_numpy()[on_land_N], codes, table, f"{column} of {path}"
    )
    kept_N, classes_N, duplicates, contradictions = _without_duplicates(
        outlines_N[on_land_N], classes_N, table
    )
    outlines_N = outlines_N[on_land_N][kept_N]
    thin_N = _thin(outlines_N)
    classes_N = np.asarray(np.where(thin_N, void_of(table), classes_N[kept_N]), np.uint8)
    overlaps, overlap_ha = _overlaps(outlines_N)
    findings = Findings(
        rows=len(parcels) + rows_without_area(parcels),
        without_area=rows_without_area(parcels),
        elsewhere=int((~on_land_N).sum()),
        mended=invalid,
        duplicates=duplicates,
        contradictions=contradictions,
        thin=int(thin_N.sum()),
        overlaps=overlaps,
        overlap_ha=round(overlap_ha, 4),
        **words,
    )
    return Register(
        outlines_N,
        np.flatnonzero(on_land_N)[kept_N].astype(np.int32) + 1,
        classes_N,
        crs,
        findings,
        (*left_out_notes(parcels), *said),
    )


@contextmanager
def parcels_crs() -> Iterator[None]:
    """Name the option of ``panoseg dataset`` in errors, where --crs is that of the cube."""
    try:
        yield
    except PanosegError as error:
        raise error.with_text("--crs", "--parcels-crs") from error


def crs_of(grid: GeoBox) -> CRS:
    """Return the coordinate system of a checked cube's grid."""
    assert grid.crs is not None, "a checked cube has a coordinate system"
    return grid.crs


def void_of(table: ClassTable) -> int:
    """Return the void class of a layout's table."""
    assert table.void is not None, f"{table.name} has no void class"
    return table.void


def _classes(
    column_N: np.ndarray, codes: CropCodes, table: ClassTable, where: str
) -> tuple[np.ndarray, dict[str, Any], tuple[str, ...]]:
    """Return the class of each row, void if its code is not in the table; and what is unknown.

    Raises:
        ParcelsError: No code is in the table.
    """
    found = codes.classes_of(column_N)
    unknown = Counter(
        plain_code(value)
        for value, class_id in zip(column_N, found, strict=True)
        if class_id is None
    )
    without_code = unknown.pop("", 0)
    said = _about_unknown(unknown, len(found) - without_code, codes, where)
    if said and unknown.total() == len(found) - without_code:
        raise ParcelsError(
            f"{said} Choose another --class-column, correct the table, or pass --encoding if"
            " letters are wrong."
        )
    listed_codes = dict(unknown.most_common(_MOST_CODES))
    if len(unknown) > _MOST_CODES:
        listed_codes["others"] = unknown.total() - sum(listed_codes.values())
    classes_N = np.array(
        [void_of(table) if class_id is None else class_id for class_id in found], np.uint8
    )
    counts = {"unknown_codes": listed_codes, "without_code": without_code}
    return classes_N, counts, (said,) if said else ()


def _about_unknown(unknown: Counter[str], rows: int, codes: CropCodes, where: str) -> str:
    """Return a sentence about the codes that the table lacks; empty if it lacks none."""
    if not unknown:
        return ""
    few = listed([code for code, _ in unknown.most_common(5)], 4)
    known = {plain_code(code).casefold() for code in codes.classes}
    case = (
        " They differ in capital letters." if {code.casefold() for code in unknown} <= known else ""
    )
    return (
        f"{unknown.total():,} of {rows:,} parcels have a code in {where} that {codes.source} lacks:"
        f" the register has {few}; the table has {listed(list(codes.classes), 4)}.{case}"
    )


def _without_duplicates(
    outlines_N: np.ndarray, classes_N: np.ndarray, table: ClassTable
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Find rows that repeat an outline.

    Outlines are the same if they agree to the centimetre, no matter where they begin.

    Returns:
        Positions of the first row of each outline, the classes, the number of rows that repeat an
        outline, and of outlines with several classes.
    """
    # normalize makes rings begin at the same corner and run in the same direction.
    rounded_N = shapely.transform(outlines_N, lambda xy: np.round(xy / _SAME_PLACE_M))
    group_N, _ = pd.factorize(pd.Series(shapely.to_wkb(shapely.normalize(rounded_N))))
    first = np.unique(group_N, return_index=True)[1]
    differing = np.unique(group_N[classes_N != classes_N[first][group_N]])
    classes_N = np.where(np.isin(group_N, differing), void_of(table), classes_N)
    return np.sort(first), classes_N, len(outlines_N) - len(first), len(differing)


def _thin(outlines_N: np.ndarray) -> np.ndarray:
    """Return whether no circle of a pixel's width fits into a parcel: bool, N.

    All pixels of such a parcel also show its neighbours.
    """
    pieces = [
        shapely.buffer(outlines_N[start : start + _CHUNK], -PIXEL_M / 2)
        for start in range(0, len(outlines_N), _CHUNK)
    ]
    return np.concatenate([shapely.is_empty(piece) for piece in pieces])


def _overlaps(outlines_N: np.ndarray) -> tuple[int, float]:
    """Return how many pairs share land, and how much of it, in hectares."""
    pairs, shared_m2 = 0, 0.0
    for start in range(0, len(outlines_N), _CHUNK):
        # In pieces, because most parcels touch neighbours, so that there are many pairs.
        first_X, second_X, area_X = shared_areas(outlines_N[start : start + _CHUNK], outlines_N)
        counted_X = (first_X + start < second_X) & (area_X > _SMALLEST_OVERLAP_M2)
        pairs += int(counted_X.sum())
        shared_m2 += float(area_X[counted_X].sum())
    return pairs, shared_m2 / SQUARE_METRES_PER_HECTARE
