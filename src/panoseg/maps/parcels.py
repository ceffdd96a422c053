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
from affine import Affine

import panoseg
from panoseg.classes import ClassTable
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
