"""The finished map of a job, and the coordinate systems in which the pages show it.

Shape suffixes: I identifiers of segments, N parcels.
"""

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
from shapely.geometry.base import BaseGeometry

from panoseg.app.stages import MAP
from panoseg.classes import ClassTable
from panoseg.errors import NotFoundError
from panoseg.maps.parcels import PROBABILITY

DEGREES = "EPSG:4326"
MERCATOR = "EPSG:3857"
_Geometries = TypeVar("_Geometries", BaseGeometry, np.ndarray)


@lru_cache(64)
def transformer(source: str, target: str) -> Transformer:
    """Return a transformer of x and y; cached, as making one takes longer than drawing a tile."""
    return Transformer.from_crs(source, target, always_xy=True)


def reproject(outlines: _Geometries, source: str, target: str) -> _Geometries:
    """Transform an outline, or an array of outlines, from one coordinate system to another."""
    to_target = transformer(source, target)

    def move(xy_N2: np.ndarray) -> np.ndarray:
        return np.column_stack(to_target.transform(*xy_N2.T))

    return shapely.transform(outlines, move)


NO_PARCEL = -1
"""Class of identifiers that have no parcel."""
_COLUMNS = ("id", "crop:code", "confidence", "area_ha")
_MAX_OPEN = 16


@dataclass(frozen=True, eq=False)
class ResultMap:
    """A finished map."""

    folder: Path
    """Folder of the job."""
    classes: ClassTable
    """Classes of the map."""
    crs: str
    """Coordinate system of the rasters and outlines, WKT."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    class_I: np.ndarray
    """int16, class of the parcel with each identifier, ``NO_PARCEL`` if there is none."""
    confidence_I: np.ndarray
    """float32, confidence of each parcel, 0 to 1."""
    area_ha_I: np.ndarray
    """float32, area of each parcel in hectares."""

    @property
    def segments(self) -> Path:
        """The raster of identifiers."""
        return self.folder / MAP / "segments.tif"

    @property
    def outlines(self) -> Path:
        """The GeoPackage of parcels."""
        return self.folder / MAP / "parcels.gpkg"

    @property
    def count(self) -> int:
        """Number of parcels."""
        return int((self.class_I != NO_PARCEL).sum())

    def probabilities(self, id_: str) -> dict[str, float]:
        """Return the probability of each crop for a parcel, 0 to 1, by the name of the crop.

        Empty if the map has no probabilities, as older maps do not.

        Raises:
            NotFoundError: The map has no such parcel.
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
        """Return the parcels whose bounds meet a box in the map's own coordinate system.

        Columns: id, class, confidence, area_ha, geometry.
        """
        return pyogrio.read_dataframe(
            self.outlines, bbox=box, columns=["id", "class", "confidence", "area_ha"]
        )

    def parcels(self, ids: list[str]) -> gpd.GeoDataFrame:
        """Return parcels by their ids, with the columns of ``within``.

        Raises:
            NotFoundError: The map does not have all of them.
        """
        return self._rows(ids, ["id", "class", "confidence", "area_ha"])

    def _rows(self, ids: list[str], columns: list[str], **options: bool) -> gpd.GeoDataFrame:
        """Return columns of parcels; columns that the file lacks are left out."""
        if not all(id_.isascii() and id_.isdecimal() and len(id_) < 12 for id_ in ids):
            raise NotFoundError("The map has no such parcel; choose another.")
        known = ", ".join(f"'{id_}'" for id_ in ids)
        found = pyogrio.read_dataframe(
            self.outlines, where=f"id IN ({known})", columns=columns, **options
        )
        if len(found) < len(set(ids)):
            raise NotFoundError("The map has no such parcel; choose another.")
        return found

    def class_id(self, name: str) -> int:
        """Return the id of a class by its name, or raise ``NotFoundError``."""
        for entry in self.classes.classes:
            if entry.name == name:
                return entry.id
        raise NotFoundError(
            f"The map has no class {name!r}; choose one of {', '.join(crops(self.classes))}."
        )


def trained_on(folder: Path) -> str:
    """Return what the weights of a map were trained on by their card; may be empty."""
    record = json.loads((folder / MAP / "map.json").read_text(encoding="utf-8"))
    return str(record["card"].get("trained_on") or "")


def crops(table: ClassTable) -> list[str]:
    """Return the names of the classes that parcels can have."""
    return [table[class_id].name for class_id in table.ids("thing")]


def open_result(folder: Path) -> ResultMap:
    """Return the finished map in the folder of a job; cached until its files change.

    Raises:
        NotFoundError: The map is not done.
    """
    try:
        mtime_ns = (folder / MAP / "map.json").stat().st_mtime_ns
    except OSError as error:
        raise NotFoundError("This job has no map yet; wait until it is done.") from error
    return _open(folder, mtime_ns)


@lru_cache(_MAX_OPEN)
def _open(folder: Path, mtime_ns: int) -> ResultMap:
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
