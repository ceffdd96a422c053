"""Coordinate systems of the pages: degrees, Web Mercator, and the way from one to another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import geopandas as gpd
import numpy as np
import pyarrow.dataset
import pyogrio
import rasterio
import shapely
from pyproj import Transformer
from rasterio.warp import transform_bounds

from panoseg.app.stages import MAP
from panoseg.classes import ClassTable
from panoseg.errors import NotFoundError
from panoseg.maps.parcels import PROBABILITY

DEGREES = "EPSG:4326"
MERCATOR = "EPSG:3857"
Outlines = TypeVar("Outlines")


@lru_cache(64)
def transformer(source: str, target: str) -> Transformer:
    """From one coordinate system to another, x before y; making one takes longer than a tile."""
    return Transformer.from_crs(source, target, always_xy=True)


def moved(outlines: Outlines, source: str, target: str) -> Outlines:
    """Outlines (one, or an array of them) from one coordinate system to another."""
    way = transformer(source, target)
    return shapely.transform(outlines, lambda xy_N2: np.column_stack(way.transform(*xy_N2.T)))  # type: ignore[call-overload]


NO_PARCEL = -1
_COLUMNS = ("id", "crop:code", "confidence", "area_ha")
_MOST_OPEN = 16


@dataclass(frozen=True, eq=False)
class ResultMap:
    """A finished map.

    folder: of its job. bounds: west, south, east, north in degrees. crs: of its rasters and
    outlines, WKT. class_I: int16, the class of each segment's parcel, ``NO_PARCEL`` where there is
    none. confidence_I: float32, 0..1. area_ha_I: float32.
    """

    folder: Path
    classes: ClassTable
    crs: str
    bounds: tuple[float, float, float, float]
    class_I: np.ndarray
    confidence_I: np.ndarray
    area_ha_I: np.ndarray

    @property
    def segments(self) -> Path:
        """The raster of identifiers."""
        return self.folder / MAP / "segments.tif"

    @property
    def outlines(self) -> Path:
        """The parcels with their outlines."""
        return self.folder / MAP / "parcels.gpkg"

    @property
    def count(self) -> int:
        """Number of parcels."""
        return int((self.class_I != NO_PARCEL).sum())

    def probabilities(self, id_: str) -> dict[str, float]:
        """How likely a parcel of the map is of each crop, 0..1, by its name; empty where the map
        does not say, as older maps do not. Raises ``NotFoundError``.
        """
        columns = [f"{PROBABILITY}{name}" for name in crops(self.classes)]
        row = (
            self._rows([id_], ["id", *columns], read_geometry=False)
            .drop(columns="id")
            .iloc[0]
            .dropna()
        )
        return {name.removeprefix(PROBABILITY): float(value) for name, value in row.items()}

    def within(self, box: tuple[float, float, float, float]) -> gpd.GeoDataFrame:
        """The parcels that may meet a box in the map's own coordinate system: id, class,
        confidence, area_ha, geometry.
        """
        return pyogrio.read_dataframe(
            self.outlines, bbox=box, columns=["id", "class", "confidence", "area_ha"]
        )

    def parcels(self, ids: list[str]) -> gpd.GeoDataFrame:
        """Parcels by their ids, columns as ``within``. Raises ``NotFoundError`` where one is not
        there.
        """
        return self._rows(ids, ["id", "class", "confidence", "area_ha"])

    def _rows(self, ids: list[str], columns: list[str], **options: bool) -> gpd.GeoDataFrame:
        """Columns of parcels, those that the file has."""
        if not all(id_.isascii() and id_.isdecimal() and len(id_) < 12 for id_ in ids):
            raise NotFoundError("this parcel", "one of the map", "choose another")
        known = ", ".join(f"'{id_}'" for id_ in ids)
        found = pyogrio.read_dataframe(
            self.outlines, where=f"id IN ({known})", columns=columns, **options
        )
        if len(found) < len(set(ids)):
            raise NotFoundError("this parcel", "one of the map", "choose another")
        return found

    def class_id(self, name: str) -> int:
        """The number of a class of the map. Raises ``NotFoundError``."""
        for entry in self.classes.classes:
            if entry.name == name:
                return entry.id
        raise NotFoundError(
            f"class {name!r}", f"one of {', '.join(crops(self.classes))}", "choose another"
        )


def crops(table: ClassTable) -> list[str]:
    """The names of the classes that parcels may have."""
    return [table[class_id].name for class_id in table.ids("thing")]


def open_result(folder: Path) -> ResultMap:
    """The finished map of a job's folder; opened once as long as its files stay the same. Raises
    ``NotFoundError``.
    """
    try:
        written = (folder / MAP / "map.json").stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError(
            "no map of this job", "one that is done", "wait until it is done"
        ) from error
    return _open(folder, written)


@lru_cache(_MOST_OPEN)
def _open(folder: Path, written: int) -> ResultMap:
    record = json.loads((folder / MAP / "map.json").read_text(encoding="utf-8"))
    with rasterio.open(folder / MAP / "segments.tif") as source:
        bounds = transform_bounds(source.crs, DEGREES, *source.bounds)
        crs = source.crs.to_wkt()
    table = pyarrow.dataset.dataset(folder / MAP / "parcels.parquet").to_table(
        columns=list(_COLUMNS)
    )
    ids_N = table["id"].to_numpy().astype(np.int64)
    size = int(ids_N.max(initial=0)) + 1
    class_I = np.full(size, NO_PARCEL, np.int16)
    confidence_I, area_I = np.zeros(size, np.float32), np.zeros(size, np.float32)
    class_I[ids_N] = table["crop:code"].to_numpy().astype(np.int16)
    confidence_I[ids_N] = table["confidence"].to_numpy()
    area_I[ids_N] = table["area_ha"].to_numpy()
    return ResultMap(
        folder,
        ClassTable.from_json(record["card"]["classes"]),
        crs,
        bounds,
        class_I,
        confidence_I,
        area_I,
    )
