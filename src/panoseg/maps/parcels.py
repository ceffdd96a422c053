"""The table of a map's parcels, and its files: GeoParquet, GeoPackage and PMTiles.

Columns follow fiboa (Field Boundaries for Agriculture, core 0.2.0 and crop extension 0.1.0):
``id``, ``geometry``, ``area`` (ha), ``determination_*``, ``crop:*``. Further columns are ``class``,
``confidence``, ``area_ha``, and the probabilities of the classes.

Tables of large maps are written and read piece by piece, so that memory holds one piece.

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
from xml.etree import ElementTree

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
from panoseg.panoptic import Panoptic, Segments

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
"""Prefix of the columns of class probabilities; the name of the class follows."""
GEOPACKAGE_OPTIONS = {"VERSION": "1.2"}
"""Options of GDAL: QGIS with a GDAL older than 3.7 warns of newer versions."""
_CODE_LISTS = {"PASTIS": "https://github.com/VSainteuf/pastis-benchmark"}


def parcels_of(
    segmentation: Panoptic,
    transform: Affine,
    crs: object,
    table: ClassTable,
    *,
    tolerance_pixels: float = 1.0,
    observed: np.datetime64 | str | None = None,
    details: str = "",
) -> gpd.GeoDataFrame:
    """Turn the things of a segmentation into a table of parcels, whose outlines are a coverage.

    Args:
        segmentation: Segments; those of stuff classes are not parcels.
        transform: From pixels (column, row) to map units, in metres.
        crs: Coordinate system, in any form that geopandas reads.
        table: The classes.
        tolerance_pixels: Tolerance by which outlines are simplified, see ``polygonise``.
        observed: Date of the last image.
        details: How the parcels were found, as text.

    Returns:
        One row for each parcel, in ascending order of ids: id (text), class (name), confidence
        (0-1), second_class and second_probability (the most probable other class), area_ha and area
        (of the polygon, ha), pixels (of the segment), crop:code, crop:name, crop:name_en,
        crop:code_list, determination_method, determination_datetime, determination_details,
        probability:NAME for every thing class (0-1, adding up to 1), geometry. Probabilities and
        second class are missing where the segments have no probabilities.
    """
    things = segmentation.keep(segmentation.segments.is_thing)
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
    """Return the table of ``parcels_of`` for segments with known outlines.

    Args:
        rows: The segments, things only.
        outlines: Outline of each segment in map units (metres), object, N.
        crs: As in ``parcels_of``; so are the other arguments.
        table: The classes.
        observed: Date of the last image.
        details: How the parcels were found, as text.
    """
    probability_NK = np.pad(
        rows.probabilities, ((0, 0), (0, table.count - rows.probabilities.shape[1]))
    )
    parcels = gpd.GeoDataFrame(
        {
            "id": [str(id_) for id_ in rows.ids.tolist()],
            "class": [table[class_id].name for class_id in rows.class_ids.tolist()],
            "confidence": rows.scores.astype(np.float32),
            **_second_columns(probability_NK, rows.class_ids, table),
            "area_ha": 0.0,
            "area": np.float32(0),
            "pixels": rows.areas,
            **crop_columns(rows.class_ids, table),
            "determination_method": "auto-imagery",
            "determination_datetime": pd.Series(
                [pd.NaT if observed is None else pd.Timestamp(observed, tz="UTC")] * len(rows)
            ),
            "determination_details": details or f"panoseg {panoseg.__version__}",
            **_probability_columns(probability_NK, table),
        },
        geometry=gpd.GeoSeries(outlines, crs=crs),
    )
    parcels["area_ha"] = parcels.area / SQUARE_METRES_PER_HECTARE
    parcels["area"] = parcels["area_ha"].astype(np.float32)
    return parcels


def _second_columns(
    probability_NK: np.ndarray, class_ids: np.ndarray, table: ClassTable
) -> dict[str, object]:
    """Return the most probable class other than the segment's own; missing if all are 0."""
    other_NK = probability_NK.copy()
    other_NK[np.arange(len(class_ids)), class_ids] = 0
    class_N, probability_N = other_NK.argmax(axis=1), other_NK.max(axis=1)
    likely_N = probability_N > 0
    names = [
        table[class_id].name if likely else None
        for class_id, likely in zip(class_N.tolist(), likely_N, strict=True)
    ]
    return {
        # A type that does not depend on the rows, so that all files of a folder have the same.
        "second_class": pd.Series(names, dtype="string"),
        "second_probability": np.where(likely_N, probability_N, np.float32(np.nan)),
    }


def _probability_columns(probability_NK: np.ndarray, table: ClassTable) -> dict[str, np.ndarray]:
    """Return the probability of each thing class; NaN in rows where all are 0."""
    known_NK = np.where(
        probability_NK.any(axis=1, keepdims=True), probability_NK, np.float32(np.nan)
    )
    return {
        f"{PROBABILITY}{table[class_id].name}": known_NK[:, class_id]
        for class_id in table.ids("thing")
    }


def crop_columns(class_ids: np.ndarray, table: ClassTable) -> dict[str, object]:
    """Return the columns of the crop extension of fiboa; class ids below 0 mean no class."""
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
    """Write a table as GeoParquet 1.1 with the metadata of fiboa, atomically.

    Args:
        pieces: The table in one or more pieces; each becomes a row group.
        path: The file.
        collection: Id of the collection in the metadata; by default the file's name.
    """
    fiboa = {**FIBOA, "id": collection or Path(path).stem}
    # map, because a loop over the pieces would hold one of them while the next is made.
    tables = map(_arrow_table, pieces)
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
            metadata = {"geo": json.dumps(_merge_geo(known)), "fiboa": json.dumps(fiboa)}
            writer.add_key_value_metadata(_with_arrow_schema(schema, metadata))


def _with_arrow_schema(schema: pa.Schema, metadata: dict[str, str]) -> dict[str, str]:
    """Add to a file's metadata what pandas needs and the serialised Arrow schema.

    Readers of Arrow look for metadata in the schema only. ``ParquetWriter`` could store it, but
    only before all pieces are known.
    """
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()} | metadata
    serialised = schema.with_metadata(metadata).serialize().to_pybytes()
    return metadata | {"ARROW:schema": base64.b64encode(serialised).decode()}


def _arrow_table(parcels: gpd.GeoDataFrame) -> tuple[pa.Table, dict[str, Any]]:
    """Return the Arrow table that geopandas writes, and its GeoParquet metadata ("geo")."""
    stream = io.BytesIO()
    parcels.to_parquet(
        stream, schema_version="1.1.0", write_covering_bbox=False, index=False, compression=None
    )
    table = pq.read_table(stream)
    metadata = dict(table.schema.metadata)
    geo = json.loads(metadata.pop(b"geo"))
    return table.replace_schema_metadata(metadata), geo


def _merge_geo(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the GeoParquet metadata of the pieces of a table: their boxes and geometry types."""
    if len(known) == 1:
        return known[0]  # may have no rows, and then no box
    name = known[0]["primary_column"]
    columns = [piece["columns"][name] for piece in known]
    # A piece with empty outlines only has no box.
    boxes = np.array([column["bbox"] for column in columns if "bbox" in column])
    box = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    types = sorted({kind for column in columns for kind in column["geometry_types"]})
    return {**known[0], "columns": {name: {**columns[0], "bbox": box, "geometry_types": types}}}


def write_partitions(parts: Iterable[Iterable[gpd.GeoDataFrame]], path: Path | str) -> None:
    """Write a table as a folder of GeoParquet files (``part-00000.parquet``, ...), atomically.

    Readers of Parquet take the folder for one table.

    Args:
        parts: The pieces of each file, see ``write_geoparquet``.
        path: The folder.
    """
    path = Path(path)
    with atomic(path) as temporary:
        temporary.mkdir()
        for number, pieces in enumerate(parts):
            write_geoparquet(pieces, temporary / f"part-{number:05d}.parquet", path.stem)


def read_geoparquet(path: Path | str) -> Iterator[gpd.GeoDataFrame]:
    """Yield the parcels of a GeoParquet file, or of a folder of files, in the pieces written."""
    path = Path(path)
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        with pq.ParquetFile(part) as source:
            for group in range(source.num_row_groups):
                # Through Parquet, because only its reader restores all column types.
                stream = io.BytesIO()
                pq.write_table(source.read_row_group(group), stream, compression="none")
                yield gpd.read_parquet(stream)


def write_geopackage(
    parts: Iterable[gpd.GeoDataFrame], path: Path | str, table: ClassTable | None = None
) -> None:
    """Write the parts of a table as a GeoPackage 1.2 with one layer, ``parcels``, atomically.

    Args:
        parts: The parts of the table.
        path: The file.
        table: The classes, for a style that QGIS applies when it opens the file (a second table,
            ``layer_styles``); without it no style is stored.
    """
    with atomic(path, _VECTOR_FAILURES) as temporary:
        count = 0
        for part in parts:
            options = {
                # Not the type of this part: later parts may have MultiPolygons.
                "geometry_type": "Unknown",
                "append": temporary.exists(),
                "layer": "parcels",
                "driver": "GPKG",
                "dataset_options": GEOPACKAGE_OPTIONS,
            }
            pyogrio.write_dataframe(part, temporary, **options)
            count += len(part)
            del part  # before the next one is read
        if table is not None:
            _store_style(temporary, table)
        _check_geopackage(temporary, count)


def _store_style(path: Path, table: ClassTable) -> None:
    """Add the style of the parcels to a GeoPackage, in the table that QGIS looks for."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,"
            " f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),"
            " f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,"
            " useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time"
            " DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        database.execute(
            "INSERT INTO layer_styles SELECT 1, '', '', g.table_name, g.column_name, 'panoseg', ?,"
            " '', 1, ?, '', NULL, c.last_change FROM gpkg_geometry_columns g JOIN gpkg_contents c"
            " ON c.table_name = g.table_name WHERE g.table_name = 'parcels'",
            (qgis_style(table), f"Classes of {table.name}; the stronger, the more certain"),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change, srs_id)"
            " SELECT 'layer_styles', 'attributes', 'layer_styles', last_change, 0 FROM"
            " gpkg_contents WHERE table_name = 'parcels'"
        )


_FILL = "set_color_part(@symbol_color, 'alpha', 60 + 180 * coalesce(\"confidence\", 1))"
_MAP_TIP = (
    '<b>[% coalesce("class", \'no class\') %]</b><br>[% round("area_ha", 2) %] ha, confidence'
    ' [% round(100 * "confidence") %] %'
)
_LABELS_BELOW_SCALE = 15_000


def qgis_style(table: ClassTable) -> str:
    """Return a style of QGIS (QML) for parcels with the columns class, confidence and area_ha.

    Parcels have the colour of their class, more opaque the higher their confidence is, and large
    scales show the names of the classes.
    """
    root = ElementTree.Element(
        "qgis", version="3.22", styleCategories="Symbology|Labeling|MapTips", labelsEnabled="1"
    )
    renderer = ElementTree.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class", forceraster="0"
    )
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    shown = [(table[number].name, table[number].colour) for number in table.ids("thing")]
    for number, (value, colour) in enumerate([*shown, ("", "#ffffff")]):
        ElementTree.SubElement(
            categories,
            "category",
            symbol=str(number),
            value=value,
            label=value or "no class",
            render="true",
        )
        _add_symbol(symbols, str(number), colour)
    labeling = ElementTree.SubElement(root, "labeling", type="simple")
    settings = ElementTree.SubElement(labeling, "settings")
    text = ElementTree.SubElement(
        settings,
        "text-style",
        fieldName="class",
        fontSize="8",
        fontSizeUnit="Point",
        textOpacity="1",
    )
    ElementTree.SubElement(
        text, "text-buffer", bufferDraw="1", bufferSize="0.7", bufferSizeUnits="MM"
    )
    ElementTree.SubElement(settings, "text-format", autoWrapLength="16", multilineAlign="1")
    ElementTree.SubElement(settings, "placement", placement="4")
    ElementTree.SubElement(
        settings, "rendering", scaleVisibility="1", scaleMin="1", scaleMax=str(_LABELS_BELOW_SCALE)
    )
    ElementTree.SubElement(root, "mapTip").text = _MAP_TIP
    return ElementTree.tostring(root, encoding="unicode")


def _add_symbol(symbols: ElementTree.Element, name: str, colour: str) -> None:
    """Add a fill whose opacity follows the confidence."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    symbol = ElementTree.SubElement(symbols, "symbol", name=name, type="fill", alpha="1")
    layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill"}, enabled="1")
    simple = {
        "color": f"{red},{green},{blue},255",
        "outline_color": "60,60,60,255",
        "outline_style": "solid",
        "outline_width": "0.15",
        "outline_width_unit": "MM",
        "style": "solid",
    }
    _add_option(layer, None, simple)
    fill = {"active": True, "expression": _FILL, "type": 3}
    defined = ElementTree.SubElement(layer, "data_defined_properties")
    _add_option(
        defined, None, {"name": "", "properties": {"fillColor": fill}, "type": "collection"}
    )


def _add_option(parent: ElementTree.Element, name: str | None, value: object) -> None:
    """Add a value in the form in which QGIS stores variants."""
    named = {} if name is None else {"name": name}
    if isinstance(value, dict):
        option = ElementTree.SubElement(parent, "Option", {**named, "type": "Map"})
        for key, entry in value.items():
            _add_option(option, key, entry)
        return
    kind = {bool: "bool", int: "int"}.get(type(value), "QString")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    ElementTree.SubElement(parent, "Option", named, type=kind, value=text)


def _check_geopackage(path: Path, count: int) -> None:
    """Raise if the file is damaged: GDAL does not report when SQLite meets a full disk."""
    with closing(sqlite3.connect(path)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not sound or database.execute("SELECT count(*) FROM parcels").fetchone() != (count,):
            raise sqlite3.DatabaseError("the file was cut off")


def write_pmtiles(parts: Iterable[gpd.GeoDataFrame], path: Path | str, crs: str) -> None:
    """Write vector tiles for web maps in one file (PMTiles 3), atomically.

    The tiles are in Web Mercator, zoom levels 8 to 13, with outlines simplified for each level.

    Args:
        parts: The parts of a table. Their columns ``id``, ``class``, ``confidence``,
            ``second_class``, ``second_probability`` and ``area_ha`` are written.
        path: The file.
        crs: Coordinate system of the parts, as WKT.
    """
    columns = {
        "id": pa.string(),
        "class": pa.string(),
        "confidence": pa.float32(),
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
