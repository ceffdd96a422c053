"""A picture of segments -> a table of parcels, and the files that a mapper opens.

Columns are named as fiboa names them (Field Boundaries for Agriculture, core 0.2.0 and crop
extension 0.1.0): ``id``, ``geometry``, ``area`` (ha), ``determination_*``, ``crop:*``; beside them
stand ``class``, ``confidence``, ``area_ha``, and how likely each class is.

Shape suffixes: N parcels, K classes.
"""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyogrio.errors
from affine import Affine

import panoseg
from panoseg.classes import ClassTable
from panoseg.files import atomic
from panoseg.maps.outlines import polygonise
from panoseg.panoptic.panoptic import Panoptic, Segments

SQUARE_METRES_PER_HECTARE = 10_000
FIBOA = {
    "fiboa_version": "0.2.0",
    "fiboa_extensions": ["https://fiboa.github.io/crop-extension/v0.1.0/schema.yaml"],
}
_VECTOR_FAILURES = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    sqlite3.DatabaseError,
    RuntimeError,
)
PROBABILITY = "probability:"
"""With the name of a class behind it: the column that says how likely parcels are of it."""
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
    """The things of a picture as parcels, one row each, in ascending order of their ids: a valid
    coverage.

    tolerance_pixels: how far borders are simplified, see ``polygonise``. observed: the last image's
    date. details: how the parcels were found, for people. Columns: id (text), class (name),
    confidence (0..1), second_class and second_probability (the likeliest other class), area_ha and
    area (of the polygon), pixels (of the segment), crop:code, crop:name, crop:name_en,
    crop:code_list, determination_method, determination_datetime, determination_details,
    probability:NAME of every class of things (0..1, together 1), geometry. Where nobody has said
    how likely classes are, the columns of that are empty.
    """
    things = picture.keep(picture.segments.is_thing)
    _, outlines = polygonise(things.segment_HW, transform, tolerance_pixels)
    return parcel_table(things.segments, outlines, crs, table, observed=observed, details=details)


def parcel_table(
    rows: Segments,
    outlines: np.ndarray,
    crs: object,
    table: ClassTable,
    *,
    observed: np.datetime64 | str | None = None,
    details: str = "",
) -> gpd.GeoDataFrame:
    """The table of ``parcels_of`` for segments whose outlines are known."""
    parcels = gpd.GeoDataFrame(
        {
            "id": [str(id_) for id_ in rows.ids.tolist()],
            "class": [table[class_id].name for class_id in rows.class_ids.tolist()],
            "confidence": rows.scores.astype(np.float32),
            **_second_columns(rows, table),
            "area_ha": 0.0,
            "area": np.float32(0),
            "pixels": rows.areas,
            **crop_columns(rows.class_ids, table),
            "determination_method": "auto-imagery",
            "determination_datetime": pd.Series(
                [pd.NaT if observed is None else pd.Timestamp(observed, tz="UTC")] * len(rows)
            ),
            "determination_details": details or f"panoseg {panoseg.__version__}",
            **_probability_columns(rows, table),
        },
        geometry=gpd.GeoSeries(outlines, crs=crs),
    )
    parcels["area_ha"] = parcels.area / SQUARE_METRES_PER_HECTARE
    parcels["area"] = parcels["area_ha"].astype(np.float32)
    return parcels


def _probabilities(rows: Segments, table: ClassTable) -> np.ndarray:
    """How likely segments are of each class of a table, float32, N x K; rows of which nobody has
    said are 0.
    """
    missing = table.count - rows.probabilities.shape[1]
    return np.pad(rows.probabilities, ((0, 0), (0, missing)))


def _second_columns(rows: Segments, table: ClassTable) -> dict[str, object]:
    """The likeliest class but the segment's own, and how likely it is; empty where nobody has
    said.
    """
    other_NK = _probabilities(rows, table)
    other_NK[np.arange(len(rows)), rows.class_ids] = 0
    class_N, probability_N = other_NK.argmax(axis=1), other_NK.max(axis=1)
    likely_N = probability_N > 0
    names = [
        table[class_id].name if likely else None
        for class_id, likely in zip(class_N.tolist(), likely_N, strict=True)
    ]
    return {
        # A type that does not depend on the rows: every file of a folder has the same.
        "second_class": pd.Series(names, dtype="string"),
        "second_probability": np.where(likely_N, probability_N, np.float32(np.nan)),
    }


def _probability_columns(rows: Segments, table: ClassTable) -> dict[str, np.ndarray]:
    """How likely each class of things is; NaN where nobody has said."""
    probability_NK = _probabilities(rows, table)
    probability_NK[~probability_NK.any(axis=1)] = np.nan
    return {
        f"{PROBABILITY}{table[class_id].name}": probability_NK[:, class_id]
        for class_id in table.ids("thing")
    }


def crop_columns(class_ids: np.ndarray, table: ClassTable) -> dict[str, object]:
    """fiboa's columns of the crop extension, for rows of these classes; a class below 0 is none."""
    names = [table[class_id].name if class_id >= 0 else None for class_id in class_ids.tolist()]
    return {
        "crop:code": [str(class_id) if class_id >= 0 else None for class_id in class_ids.tolist()],
        "crop:name": names,
        "crop:name_en": names,
        "crop:code_list": _CODE_LISTS.get(table.name, table.name),
    }


def write_geoparquet(
    pieces: Iterable[gpd.GeoDataFrame], path: Path | str, collection: str | None = None
) -> None:
    """Write pieces of a table, one or more, as GeoParquet 1.1 with fiboa's metadata, atomically;
    each is a row group.

    collection: its id; without one the file's name.
    """
    fiboa = {**FIBOA, "id": collection or Path(path).stem}
    tables = map(
        _arrow_table, pieces
    )  # a loop over the pieces would hold one while the next is made
    with atomic(path) as temporary:
        table, geo = next(tables)
        schema, known = table.schema, [geo]
        with pq.ParquetWriter(temporary, schema, compression="zstd", store_schema=False) as writer:
            writer.write_table(table)
            del table
            for table, geo in tables:
                writer.write_table(table)
                known.append(geo)
                del table  # before the next one is made
            told = {"geo": json.dumps(_together(known)), "fiboa": json.dumps(fiboa)}
            writer.add_key_value_metadata(_with_schema(schema, told))


def _with_schema(schema: pa.Schema, told: dict[str, str]) -> dict[str, str]:
    """What a file of Parquet says of itself: what it is told, what pandas needs, and Arrow's
    schema, which holds both: where it is stored Arrow's readers look nowhere else. The writer could
    store it, but only before all is known.
    """
    told = {key.decode(): value.decode() for key, value in schema.metadata.items()} | told
    serialized = schema.with_metadata(told).serialize().to_pybytes()
    return told | {"ARROW:schema": base64.b64encode(serialized).decode()}


def _arrow_table(parcels: gpd.GeoDataFrame) -> tuple[pa.Table, dict[str, Any]]:
    """A table as geopandas writes it, and what GeoParquet says of it."""
    stream = io.BytesIO()
    parcels.to_parquet(
        stream, schema_version="1.1.0", write_covering_bbox=False, index=False, compression=None
    )
    table = pq.read_table(stream)
    metadata = dict(table.schema.metadata)
    geo = json.loads(metadata.pop(b"geo"))
    return table.replace_schema_metadata(metadata), geo


def _together(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What GeoParquet says of several pieces of a table: box and types of geometries are those of
    all.
    """
    if len(known) == 1:
        return known[0]  # which may be empty, without a box
    name = known[0]["primary_column"]
    columns = [piece["columns"][name] for piece in known]
    boxes = np.array(
        [column["bbox"] for column in columns if "bbox" in column]
    )  # nothing but empty outlines has none
    box = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    types = sorted({kind for column in columns for kind in column["geometry_types"]})
    return {**known[0], "columns": {name: {**columns[0], "bbox": box, "geometry_types": types}}}


def write_partitions(parts: Iterable[Iterable[gpd.GeoDataFrame]], path: Path | str) -> None:
    """Write a folder of GeoParquet files, ``part-00000.parquet`` and so on, each of some pieces,
    atomically; readers of Parquet take it for one.
    """
    path = Path(path)
    with atomic(path) as temporary:
        temporary.mkdir()
        for number, pieces in enumerate(parts):
            write_geoparquet(pieces, temporary / f"part-{number:05d}.parquet", path.stem)


def read_geoparquet(path: Path | str) -> Iterator[gpd.GeoDataFrame]:
    """The parcels of a map in the pieces in which they were written, one after the other: of its
    one file, or of each file of its folder.
    """
    path = Path(path)
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        with pq.ParquetFile(part) as source:
            for group in range(source.num_row_groups):
                yield _parcels_of(source.read_row_group(group))


def _parcels_of(table: pa.Table) -> gpd.GeoDataFrame:
    """The parcels of a piece of a file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="none")
    return gpd.read_parquet(stream)


def write_geopackage(parts: Iterable[gpd.GeoDataFrame], path: Path | str) -> None:
    """Write a GeoPackage with one layer, ``parcels``, atomically; all parts are as many rows of
    it.
    """
    with atomic(path, _VECTOR_FAILURES) as temporary:
        count = 0
        for part in parts:
            # Later parts may have what this one has not: a parcel of several polygons.
            options = {
                "geometry_type": "Unknown",
                "append": temporary.exists(),
                "layer": "parcels",
                "driver": "GPKG",
            }
            pyogrio.write_dataframe(part, temporary, **options)
            count += len(part)
            del part  # before the next one is read
        _check_geopackage(temporary, count)


def _check_geopackage(path: Path, count: int) -> None:
    """SQLite does not say through GDAL when a disk is full."""
    with closing(sqlite3.connect(path)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not sound or database.execute("SELECT count(*) FROM parcels").fetchone() != (count,):
            raise sqlite3.DatabaseError("the file was cut off")


def write_pmtiles(parts: Iterable[gpd.GeoDataFrame], path: Path | str, crs: str) -> None:
    """Write vector tiles of Web Mercator in one file (PMTiles 3), zoom levels 8 to 13, for maps on
    web pages; atomically.

    A parcel has its ``id``, ``class``, ``confidence``, ``second_class``, ``second_probability`` and
    ``area_ha``; outlines are as fine as the zoom level needs.
    """
    columns = {"id": pa.string(), "class": pa.string(), "confidence": pa.float32()}
    columns |= {
        "second_class": pa.string(),
        "second_probability": pa.float32(),
        "area_ha": pa.float64(),
    }
    schema = pa.schema({**columns, "geometry": pa.binary()})
    batches = (
        pa.record_batch(
            [*(part[name] for name in schema.names[:-1]), part.geometry.to_wkb()], schema=schema
        )
        for part in parts
    )
    with atomic(path, _VECTOR_FAILURES) as temporary:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches),
            temporary,
            driver="PMTiles",
            layer="parcels",
            geometry_name="geometry",
            geometry_type="Unknown",
            crs=crs,
            dataset_options={"MINZOOM": 8, "MAXZOOM": 13, "NAME": "parcels"},
        )
        if not temporary.exists() or pyogrio.read_info(temporary)["driver"] != "PMTiles":
            raise pyogrio.errors.DataSourceError("the file was cut off")
