"""A picture of segments -> a table of parcels, and the files that a mapper opens.

Columns are named as fiboa names them (Field Boundaries for Agriculture, core 0.2.0 and crop extension 0.1.0): ``id``,
``geometry``, ``area`` (ha), ``determination_*``, ``crop:*``; beside them stand ``class``, ``confidence`` and ``area_ha``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from affine import Affine
from shapely import GeometryType, Polygon
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.classes import ClassTable
from panoseg.errors import ParcelsError
from panoseg.files import atomic
from panoseg.maps.polygons import polygonise
from panoseg.panoptic.panoptic import Panoptic

SQUARE_METRES_PER_HECTARE = 10_000
FIBOA = {
    "fiboa_version": "0.2.0",
    "fiboa_extensions": ["https://fiboa.github.io/crop-extension/v0.1.0/schema.yaml"],
}
_CODE_LISTS = {"PASTIS": "https://github.com/VSainteuf/pastis-benchmark"}


def parcels_of(
    picture: Panoptic,
    transform: Affine,
    crs: object,
    table: ClassTable,
    *,
    tolerance_pixels: float = 1.0,
    observed: np.datetime64 | str | None = None,
    details: str = "",
) -> gpd.GeoDataFrame:
    """The things of a picture as parcels, one row each, in ascending order of their ids: a valid coverage.

    tolerance_pixels: how far borders are simplified, see ``polygonise``. observed: the last image's date. details: how the
    parcels were found, for people. Columns: id (text), class (name), confidence (0..1), area_ha and area (of the polygon),
    pixels (of the segment), crop:code, crop:name, crop:name_en, crop:code_list, determination_method, determination_datetime,
    determination_details, geometry.
    """
    things = picture.keep(picture.segments.is_thing)
    _, outlines = polygonise(things.segment_HW, transform, tolerance_pixels)
    rows = things.segments
    parcels = gpd.GeoDataFrame(
        {
            "id": [str(id_) for id_ in rows.ids.tolist()],
            "class": [table[class_id].name for class_id in rows.class_ids.tolist()],
            "confidence": rows.scores.astype(np.float32),
            "area_ha": 0.0,
            "area": np.float32(0),
            "pixels": rows.areas,
            **crop_columns(rows.class_ids, table),
            "determination_method": "auto-imagery",
            "determination_datetime": pd.Series([pd.NaT if observed is None else pd.Timestamp(observed, tz="UTC")] * len(rows)),
            "determination_details": details or f"panoseg {panoseg.__version__}",
        },
        geometry=gpd.GeoSeries(outlines, crs=crs),
    )
    parcels["area_ha"] = parcels.area / SQUARE_METRES_PER_HECTARE
    parcels["area"] = parcels["area_ha"].astype(np.float32)
    return parcels


def crop_columns(class_ids: np.ndarray, table: ClassTable) -> dict[str, object]:
    """fiboa's columns of the crop extension, for rows of these classes; a class below 0 is none."""
    names = [table[class_id].name if class_id >= 0 else None for class_id in class_ids.tolist()]
    return {
        "crop:code": [str(class_id) if class_id >= 0 else None for class_id in class_ids.tolist()],
        "crop:name": names,
        "crop:name_en": names,
        "crop:code_list": _CODE_LISTS.get(table.name, table.name),
    }


def write_geoparquet(parcels: gpd.GeoDataFrame, path: Path | str) -> None:
    """Write GeoParquet 1.1 with fiboa's metadata of the collection, atomically."""
    with atomic(path) as temporary:
        parcels.to_parquet(temporary, schema_version="1.1.0", write_covering_bbox=False, index=False)
        written = pq.read_table(temporary)
        metadata = {**(written.schema.metadata or {}), b"fiboa": json.dumps({**FIBOA, "id": Path(path).stem}).encode()}
        pq.write_table(written.replace_schema_metadata(metadata), temporary, compression="zstd")


def write_geopackage(parcels: gpd.GeoDataFrame, path: Path | str) -> None:
    """Write a GeoPackage with one layer, ``parcels``, atomically."""
    # Through memory, because SQLite does not say when a disk is full.
    file = io.BytesIO()
    parcels.to_file(file, layer="parcels", driver="GPKG", engine="pyogrio")
    with atomic(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def read_parcels(path: Path | str) -> gpd.GeoDataFrame:
    """Parcels of any origin: GeoParquet, GeoPackage, GeoJSON, Shapefile. Rows without area are left out.

    Raises ``ParcelsError`` for what cannot be read, has no polygons, or no coordinate system.
    """
    path = Path(path)
    if not path.exists():
        raise ParcelsError(f"{path} does not exist", "a file of parcels", "check the path")
    try:
        read = gpd.read_parquet if path.suffix in (".parquet", ".geoparquet") else gpd.read_file
        parcels = read(path)
    except Exception as error:  # the readers of four formats raise what they like, also their own kinds of nothing
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ParcelsError(f"{path} cannot be read ({text})", "GeoParquet, GeoPackage or GeoJSON", "write it again") from error
    if not isinstance(parcels, gpd.GeoDataFrame):
        raise ParcelsError(f"{path} has no geometries", "polygons", "write it with its geometry column")
    if parcels.crs is None:
        raise ParcelsError(
            f"{path} has no coordinate system", "one, in the file", "assign it: parcels.set_crs(...) in geopandas"
        )
    # Measured once mended: the two halves of an outline that crosses itself may cancel each other.
    return parcels[shapely.area(valid_outlines(parcels)) > 0].reset_index(drop=True)


def valid_outlines(parcels: gpd.GeoDataFrame) -> np.ndarray:
    """The parcels' outlines, each a valid Polygon or MultiPolygon.

    Outlines that cross themselves are mended. No outline, one without area, and what a coordinate system cannot hold become an
    empty one.
    """
    outlines = np.array(parcels.geometry.values, dtype=object)
    outlines[~np.isfinite(shapely.bounds(outlines)).all(axis=1)] = Polygon()
    invalid = ~shapely.is_valid(outlines)
    outlines[invalid] = shapely.make_valid(outlines[invalid])
    areal = np.isin(shapely.get_type_id(outlines), (GeometryType.POLYGON, GeometryType.MULTIPOLYGON))
    outlines[~areal] = [_polygons_of(outline) for outline in outlines[~areal]]
    return outlines


def _polygons_of(outline: BaseGeometry) -> BaseGeometry:
    """Only the polygons of a collection: mending leaves lines where a ring had run back on itself."""
    parts = shapely.get_parts(shapely.get_parts(outline))
    return shapely.union_all(parts[shapely.get_type_id(parts) == GeometryType.POLYGON])
