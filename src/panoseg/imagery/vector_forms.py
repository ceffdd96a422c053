"""Tell the form of a file of outlines by its first bytes.

A file of another kind is therefore named as what it is, and never called damaged.
"""

from __future__ import annotations

import re
from pathlib import Path

from panoseg.errors import ParcelsError
from panoseg.imagery.options import VectorOptions
from panoseg.imagery.text_outlines import WKT_COLUMNS, WKT_START
from panoseg.imagery.vector_archives import SHAPEFILE
from panoseg.text_files import decode

FORMATS = (
    "GeoPackage, GeoParquet, GeoJSON, a Shapefile, FlatGeobuf, FileGDB, GML, KML, WKT, or a zip"
    " archive of one"
)
VIRTUAL = re.compile(rb"<(OGR|GDAL|VRT)\w+|gdal_streamed_alg")
"""GDAL's small files that refer to other files, even on other machines."""
_HEAD_BYTES = 65_536
_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"SQLite format 3\0", "GeoPackage"),
    (b"\0\0\x27\x0a", "Shapefile"),
    (b"PAR1", "GeoParquet"),
    (b"fgb\x03", "FlatGeobuf"),
)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it"),
    (b"Rar!", "a RAR archive. Unpack it"),
    (b"PK\x05\x06", "an empty archive. Pack the files again"),
    (b"II*\0", "a raster (TIFF). Pass a file of outlines"),
    (b"MM\0*", "a raster (TIFF). Pass a file of outlines"),
    (b"\x89HDF", "a cube or raster (HDF5). Pass a file of outlines"),
    (b"CDF", "a cube or raster (NetCDF). Pass a file of outlines"),
    (b"%PDF", "a PDF. Pass the data themselves"),
    (b"\x89PNG", "a picture. Pass a file of outlines"),
    (b"\xff\xd8\xff", "a picture. Pass a file of outlines"),
    (b"\xd0\xcf\x11\xe0", "an old office document. Save the table as CSV with a column of WKT"),
    (b"version https://git-lfs", "a pointer of Git LFS. Fetch the file itself with git lfs pull"),
    (b"\0\x05\x16\x07", "a hidden file of macOS. Pass the file without ._ before its name"),
)


def form_of(file: Path, path: Path, options: VectorOptions) -> str:
    """Return the form of a file by its first bytes.

    Args:
        file: The file, unpacked.
        path: What the user passed, for messages.
        options: How it is read.

    Raises:
        ParcelsError: It has none of ``FORMATS``, or refers to other files.
    """
    if file.suffix.lower() in SHAPEFILE[1:]:
        raise ParcelsError(
            f"{path} cannot be read: it is a part of a Shapefile. Pass {path.stem}.shp."
        )
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    if VIRTUAL.search(head):
        if not options.allow_virtual:
            raise ParcelsError(
                f"{path} only refers to other files. Pass the file that holds the parcels, or"
                " --allow-virtual if you trust it."
            )
        return "a virtual file"
    for mark, known in _MARKS:
        if head.startswith(mark):
            if known == "Shapefile":
                _check_companions(file, path)
            return known
    for mark, said in _OTHERS:
        if head.startswith(mark):
            raise ParcelsError(f"{path} cannot be read: it is {said}.")
    if not head.strip():
        raise ParcelsError(f"{path} cannot be read: it is empty. Copy it again.")
    form = _form_of_text(head, path, options)
    if form is None:
        raise ParcelsError(
            f"{path} cannot be read: it is of no known format. Write it as {FORMATS}."
        )
    return form


def _check_companions(file: Path, path: Path) -> None:
    """Check that a Shapefile has its index and its table."""
    beside = {entry.name.lower() for entry in file.parent.iterdir()}
    missing = [
        f"{path.stem}{suffix}"
        for suffix in (".shx", ".dbf")
        if f"{file.stem}{suffix}".lower() not in beside
    ]
    if missing:
        raise ParcelsError(
            f"{path} cannot be read without {' and '.join(missing)}. Copy all files of the"
            " Shapefile together."
        )


def _form_of_text(head: bytes, path: Path, options: VectorOptions) -> str | None:
    """Return the form of a text file by its beginning; None if it is none that is known."""
    if len(head) == _HEAD_BYTES and b"\0" not in head:  # cut at a line, not in a letter
        head = head[: head.rfind(b"\n") + 1] or head
    try:
        text = decode(head, options.encoding).text.lstrip("\x1e \t\r\n\ufeff")
    except ValueError:
        return None
    if text.startswith(("{", "[")):
        if re.search(r'"type"\s*:\s*"Topology"', text):
            return "TopoJSON"
        return "GeoJSON"
    if text.startswith("<"):
        if re.search(r"<!doctype\s+html|<html[\s>]", text[:4096], re.IGNORECASE):
            raise ParcelsError(
                f"{path} cannot be read: it is a web page (XML of the kind 'html'), perhaps one"
                " that asks to sign in. Download the file itself."
            )
        root = re.search(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)[\s>/]", text)
        name = root[1] if root else ""
        if name == "kml":
            return "KML"
        if name != "schema" and ("opengis.net/gml" in text or name == "FeatureCollection"):
            return "GML"
        if name == "qgis" or re.match(r"<!DOCTYPE\s+qgis\b", text):
            raise ParcelsError(
                f"{path} cannot be read: it is a project of QGIS, which only refers to its layers."
                " Export the layer of the outlines, e.g. as GeoPackage."
            )
        if "<!ENTITY" in text or "<!DOCTYPE" in text:
            raise ParcelsError(f"{path} declares XML entities. Write it without a document type.")
        raise ParcelsError(
            f"{path} cannot be read: it is XML of the kind {name[:20]!r}. Write it as {FORMATS}."
        )
    if WKT_START.match(text):
        return "WKT"
    first = text.split("\n", 1)[0]
    printable = sum(letter.isprintable() or letter in "\t\r\n" for letter in text)
    columns = first.strip().casefold() in WKT_COLUMNS or any(mark in first for mark in ",;\t|")
    if printable == len(text) and columns:
        return "table"
    return None
