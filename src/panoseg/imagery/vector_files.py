"""Read files of outlines and parcels, in all forms that people have.

GDAL reads GeoPackage, Shapefile, GeoJSON, FlatGeobuf, FileGDB and GML; KML, WKT and tables are read
here. Files that only refer to other files, even on other machines, are refused.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import stat
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import geopandas as gpd
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
from pyproj import CRS
from pyproj.exceptions import CRSError

from panoseg.errors import ConfigError, PanosegError, ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.outlines import (
    WGS84,
    OutlineError,
    check_wkb,
    check_xml,
    read_csv,
    read_kml,
    read_wkt,
)
from panoseg.imagery.vector_forms import (
    FORMATS,
    dbf_encoding,
    find_in_folder,
    form_of,
    unpack,
    unzip,
)
from panoseg.text_files import check_encoding, decode, json_of, listed, reason_of, shortened

NOTES = "panoseg notes"
"""Attribute of a table: a list of sentences for the user."""
Box = Callable[[CRS], tuple[float, ...]]
"""The box to read, in the coordinate system of the file."""
_AREAL = re.compile("Polygon|Surface|Unknown|Collection")
_VIRTUAL_TABLE = re.compile(r"create\s+virtual\s+table.*\busing\s+(?!rtree|fts[345])", re.I | re.S)
_HEAD_BYTES = 65_536
_MOST_TEXT = 2 * 1024**3
_DEGREES = (180, 90)
_TEXT = "panoseg text"
"""Attribute of a table in a form that states no coordinate system."""


@dataclass(frozen=True)
class _Source:
    """A file to read, unpacked."""

    path: Path
    """The file, or folder of a FileGDB or of GeoParquet."""
    form: str
    """Its form."""
    named: Path
    """What the user passed, for messages."""
    options: VectorOptions
    """How it is read."""
    scratch: Path
    """Folder for temporary files."""


def read_vector(
    path: Path | str,
    options: VectorOptions | None = None,
    *,
    box: Box | None = None,
    most_bytes: int = 64 * 1024**3,
    scratch: Path | None = None,
) -> gpd.GeoDataFrame:
    """Read all rows of a file with polygons, as they are written.

    Args:
        path: A file or folder of a form in ``FORMATS``.
        options: What the file does not say itself.
        box: Rows outside of it may be left out.
        most_bytes: Largest size, unpacked.
        scratch: Where to unpack; by default the system's folder for temporary files.

    Returns:
        The rows. Their coordinate system is None if neither the file nor the options state one;
        ``attrs[NOTES]`` are sentences for the user.

    Raises:
        ParcelsError: The file is missing, too large, damaged, of another form, dangerous, or has
            several layers.
        ConfigError: The options cannot be used.
    """
    options, path = options or VectorOptions(), Path(path)
    check_encoding(options.encoding)
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # what matters is checked by the callers
            tempfile.TemporaryDirectory(dir=scratch, prefix=".panoseg-") as folder,
        ):
            table = _read(path, options, Path(folder), box, most_bytes)
    except (ParcelsError, ConfigError):
        raise
    except PanosegError as error:
        raise ParcelsError(str(error)) from error
    except (Exception, RecursionError, MemoryError) as error:  # readers raise anything
        raise ParcelsError(f"{path} cannot be read ({reason_of(error)}).") from error
    if not isinstance(table, gpd.GeoDataFrame) or table.active_geometry_name is None:
        raise ParcelsError(f"{path} has no geometries. Write it with its geometry column.")
    return _with_crs(table, path, options)


def _read(
    path: Path, options: VectorOptions, scratch: Path, box: Box | None, most_bytes: int
) -> gpd.GeoDataFrame | pd.DataFrame:
    source = _open(path, options, scratch, most_bytes)
    readers: dict[str, Callable[[], gpd.GeoDataFrame | pd.DataFrame]] = {
        "GeoParquet": lambda: _parquet(source, box),
        "KML": lambda: _single(source, read_kml(source.path)),
        "WKT": lambda: _of_text(source, read_wkt(_text(source))),
        "table": lambda: _of_text(source, read_csv(_text(source))),
    }
    try:
        return readers.get(source.form, lambda: _gdal(source, box))()
    except (PanosegError, KeyboardInterrupt):
        raise
    except UnicodeDecodeError as error:
        raise ParcelsError(
            f"{path} cannot be read: its text is not in {error.encoding}. Name its encoding, e.g."
            " --encoding cp1251."
        ) from error
    except OutlineError as error:
        raise ParcelsError(f"{path} cannot be read as {source.form}: {error}.") from error
    except Exception as error:
        if isinstance(error, ValueError) and source.form in ("KML", "WKT", "table"):
            raise ParcelsError(
                f"{path} cannot be read as {source.form} ({reason_of(error)})."
            ) from error
        raise ParcelsError(
            f"{path} cannot be read as {source.form}: it is damaged or not complete"
            f" ({reason_of(error).replace(str(source.path), source.named.name)}). Copy it again."
        ) from error


def _open(path: Path, options: VectorOptions, scratch: Path, most_bytes: int) -> _Source:
    """Return the file that is meant, unpacked, and its form."""
    if options.allow_virtual and str(path).startswith("/vsi"):
        return _Source(path, "a virtual file", path, options, scratch)
    if "\0" in str(path) or not path.exists():
        raise ParcelsError(f"{path} does not exist.")
    file, folders = path, 0
    while True:
        if file.is_dir():
            if file.suffix.lower() == ".gdb" or any(file.glob("*.gdbtable")):
                return _Source(file, "FileGDB", path, options, scratch)
            if any(file.glob("*.parquet")):  # the parcels of a large map
                return _Source(file, "GeoParquet", path, options, scratch)
            file, chosen = find_in_folder(file, options.layer)
        else:
            _check_regular(file, path, most_bytes)
            form = form_of(file, path, options)
            if form not in ("zip", "gzip"):
                return _Source(file, form, path, options, scratch)
            if folders:
                raise ParcelsError(
                    f"{path} is an archive in an archive. Unpack it, and pass the inner one."
                )
            chosen = False
            if form == "gzip":
                file = unzip(file, scratch, most_bytes)
            else:
                file, chosen = unpack(file, options.layer, scratch, most_bytes)
            folders += 1
        options = replace(options, layer=None) if chosen else options


def _check_regular(file: Path, path: Path, most_bytes: int) -> None:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise ParcelsError(f"{path} cannot be read: it is no regular file. Pass a file.")
    if status.st_size > most_bytes:
        raise ParcelsError(
            f"{path} has {status.st_size / 1024**2:,.0f} MiB, of at most {most_bytes >> 20:,}."
            " Simplify the outlines, or cut the file."
        )


def _text(source: _Source) -> str:
    if source.path.stat().st_size > _MOST_TEXT:
        raise ParcelsError(f"{source.named} is too large for a text file. Write it as GeoPackage.")
    return decode(source.path.read_bytes(), source.options.encoding).text


def _of_text(source: _Source, table: gpd.GeoDataFrame | None) -> gpd.GeoDataFrame:
    if table is None:
        raise ParcelsError(
            f"{source.named} has no geometries: it is a table without a column of WKT. Pass the"
            " file with the outlines."
        )
    table.attrs[_TEXT] = True
    return _single(source, table)


def _single(source: _Source, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return the only layer of a file, which may be asked for by the name of the file."""
    if source.options.layer not in (None, source.named.stem):
        raise ParcelsError(
            f"{source.named} has no layer {source.options.layer!r}: a {source.form} has only one."
            " Leave out --layer."
        )
    return table


def _parquet(source: _Source, box: Box | None) -> gpd.GeoDataFrame:
    files = sorted(source.path.glob("*.parquet")) if source.path.is_dir() else [source.path]
    for file in files:
        with pq.ParquetFile(file) as opened:
            metadata = opened.schema_arrow.metadata or {}
            if b"geo" not in metadata:
                raise ParcelsError(
                    f"{source.named} has no geometries: it is a Parquet table, not GeoParquet. Pass"
                    " the file with the outlines."
                )
            columns = json_of(metadata.get(b"geo", b"{}")).get("columns", {})
            for batch in opened.iter_batches(
                columns=[name for name, of in columns.items() if of.get("encoding") == "WKB"]
            ):
                for column in batch.columns:
                    check_wkb(column.to_pylist())
    table = _single(source, gpd.read_parquet(source.path))
    if box is None or not isinstance(table, gpd.GeoDataFrame):
        return table
    crs = _crs(source.options) or table.crs
    if crs is None:
        return table
    left, bottom, right, top = box(crs)
    return cast(gpd.GeoDataFrame, table.cx[left:right, bottom:top])


def _gdal(source: _Source, box: Box | None) -> gpd.GeoDataFrame:
    source, notes, given = _prepared(source)
    layer = _layer(source)
    crs: Any = _crs(source.options)
    if box is not None and crs is None:
        crs = pyogrio.read_info(source.path, layer=layer, **given)["crs"]
    if box is not None and crs is not None:
        given["bbox"] = box(CRS.from_user_input(crs))
    table = pyogrio.read_dataframe(source.path, layer=layer, **given)
    if source.form == "TopoJSON" and table.crs is None:
        table = table.set_crs(WGS84)
    if notes:
        table.attrs[NOTES] = notes
    return table


def _prepared(source: _Source) -> tuple[_Source, list[str], dict[str, Any]]:
    """Return a file as GDAL may read it, notes about it, and arguments for the reader."""
    if source.form == "Shapefile":
        encoding, notes = dbf_encoding(source.path, source.named, source.options.encoding)
        return source, notes, {} if encoding is None else {"encoding": encoding}
    if source.form == "GeoPackage":
        _check_tables(source)
    elif source.form == "GML":
        check_xml(source.path)
        copy = source.scratch / "copy.gml"  # GDAL writes beside it, and follows its schema
        with source.path.open("rb") as file, copy.open("wb") as target:
            head = file.read(_HEAD_BYTES)
            target.write(re.sub(rb"(?i)schemaLocation(?=\s*=)", b"schemaIgnored", head))
            shutil.copyfileobj(file, target)
        return replace(source, path=copy), [], {}
    elif source.form in ("GeoJSON", "TopoJSON"):
        return _prepared_json(source), [], {}
    return source, [], {}


def _check_tables(source: _Source) -> None:
    """Refuse databases whose tables stand for other files, and those that are no GeoPackage."""
    with sqlite3.connect(
        f"{source.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True
    ) as file:
        tables = dict(file.execute("select name, sql from sqlite_master").fetchall())
    file.close()
    if any(_VIRTUAL_TABLE.search(str(sql)) for sql in tables.values() if sql):
        raise ParcelsError(f"{source.named} only refers to other files. Write it as {FORMATS}.")
    if "gpkg_contents" not in tables:
        raise ParcelsError(
            f"{source.named} cannot be read: it is an SQLite database, but no GeoPackage. Write it"
            f" as {FORMATS}."
        )


def _prepared_json(source: _Source) -> _Source:
    """Return JSON in UTF-8 whose type is near the beginning, where GDAL looks for it."""
    with source.path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" not in head:
        starts = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"\x1e"))
        if (
            source.options.encoding is None
            and starts
            and re.search(
                rb'"type"\s*:\s*"\w*(Feature|Polygon|Topology|Collection|Line|Point)', head[:4000]
            )
        ):
            return source
        if re.search(rb'"geometryType"\s*:\s*"esriGeometry', head):
            return source
    text = _text(source)
    try:
        value = json.loads(text)
    except ValueError:
        if source.options.encoding is None:
            raise
        value = None  # lines of JSON
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        features = [
            entry
            if entry.get("type") == "Feature"
            else {"type": "Feature", "properties": {}, "geometry": entry}
            for entry in value
        ]
        value = {"type": "FeatureCollection", "features": features}
    if value is not None and not (isinstance(value, dict) and "type" in value):
        raise ParcelsError(f"{source.named} cannot be read: it is JSON, but no GeoJSON.")
    copy = source.scratch / "copy.geojson"
    if value is not None:
        text = json.dumps({"type": value.pop("type"), **value}, ensure_ascii=False)
    copy.write_text(text, encoding="utf-8")
    return replace(source, path=copy)


def _layer(source: _Source) -> str:
    """Return the name of the layer that is meant."""
    layers = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(source.path)]
    names, wanted = [name for name, _ in layers], source.options.layer
    if wanted is not None:
        if wanted in names:
            return wanted
        if wanted == source.named.stem and len(names) == 1:
            return names[0]
        raise ParcelsError(
            f"{source.named} has no layer {shortened(wanted)!r}. Set --layer to one of"
            f" {listed(names, 20)}."
        )
    areal = [name for name, kind in layers if _AREAL.search(kind)]
    if len(areal) > 1:
        raise ParcelsError(
            f"{source.named} has {len(areal)} layers of polygons ({listed(areal, 10)}). Choose one"
            f" with --layer, e.g. --layer {areal[0]}, or pass it in a separate file."
        )
    if not names:
        raise ParcelsError(f"{source.named} has no layer. Pass a file with outlines.")
    # A layer of lines or a plain table is read too, so that the message can say what it holds.
    return (areal or names)[0]


def _crs(options: VectorOptions) -> CRS | None:
    try:
        return None if options.crs is None else CRS.from_user_input(options.crs)
    except CRSError as error:
        raise ConfigError(
            f"--crs {shortened(options.crs, 40)!r} is no coordinate system; write it as in"
            " EPSG:32631."
        ) from error


def _with_crs(table: gpd.GeoDataFrame, path: Path, options: VectorOptions) -> gpd.GeoDataFrame:
    """Give a table the coordinate system of the options, or note what was taken for granted."""
    crs, notes = _crs(options), list(table.attrs.pop(NOTES, []))
    if crs is None and table.crs is None and table.attrs.pop(_TEXT, False) and _in_degrees(table):
        crs = WGS84
        notes.append(
            f"{path} has no coordinate system; its coordinates were read as degrees, longitude"
            " first. If that is wrong, pass --crs."
        )
    if crs is not None:
        if table.crs is not None and table.crs != crs:
            notes.append(f"{path} states {table.crs.name}; --crs {crs.name} was used instead.")
        table = table.set_crs(crs, allow_override=True)
    table.attrs.clear()
    if notes:
        table.attrs[NOTES] = notes
    return table


def _in_degrees(table: gpd.GeoDataFrame) -> bool:
    west, south, east, north = table.total_bounds
    return bool(max(-west, east) <= _DEGREES[0] and max(-south, north) <= _DEGREES[1])


def no_crs(path: Path | str, table: gpd.GeoDataFrame) -> str:
    """Return the sentence for a file without a coordinate system."""
    example = "EPSG:4326, as they look like degrees" if _in_degrees(table) else "EPSG:32631"
    return (
        f"{path} has no coordinate system. Say in which one its coordinates are: --crs"
        f" {example}; or add it to the file (the .prj of a Shapefile)."
    )
