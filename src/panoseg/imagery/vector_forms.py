"""What a file of outlines is: the file meant in an archive or folder, its form, its encoding.

Archives are unpacked within bounds. Names in an archive never become paths here, and what Finder
and Explorer add is passed over. The form is told by the first bytes, so a file of another kind is
named as what it is, and never called damaged. The table of a Shapefile (.dbf) often does not state
its encoding, which is then found from its contents.
"""

from __future__ import annotations

import codecs
import gzip
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from panoseg.errors import ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.outlines import WKT_COLUMNS, WKT_START
from panoseg.text_files import decode, listed, reason_of, shortened

_GIB = 1024**3
SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_FILES = (
    *(".shp", ".gpkg", ".gdb", ".fgb", ".parquet", ".geoparquet", ".kml", ".gml", ".wkt"),
    *(".geojson", ".geojsonl", ".geojsons", ".ndjson", ".jsonl", ".topojson"),
)
_LESS_LIKELY = (".json", ".csv", ".xml")
"""Files of metadata end so, too: they count where there is no other."""
_MOST_ENTRIES = 200_000
_CHUNK = 1024**2


def find(names: Iterable[str], layer: str | None, path: Path) -> tuple[str, bool]:
    """Return the name of the file that is meant among those of an archive or folder.

    Args:
        names: Relative names with slashes.
        layer: What the user wants of several.
        path: The archive or folder, for messages.

    Returns:
        The name, for a FileGDB that of its folder; and whether ``layer`` chose it.

    Raises:
        ParcelsError: There is none, or several.
    """
    shown = [name for name in names if not _hidden(name)]
    found = sorted({_whole(name) for name in shown})
    likely = [name for name in found if PurePosixPath(name).suffix.lower() in _FILES]
    if not likely:
        _check_kind(shown, path)
    likely = likely or [name for name in found if name.lower().endswith(_LESS_LIKELY)]
    if len(likely) > 1 and path.suffix.lower() == ".kmz":
        likely = [name for name in likely if name.lower() == "doc.kml"] or likely
    if len(likely) == 1:
        return likely[0], False
    if not likely:
        inside = f" ({listed(shown)})" if shown else ""
        if any(name.lower().endswith((".zip", ".kmz", ".7z", ".rar")) for name in shown):
            raise ParcelsError(
                f"{path} holds an archive in an archive{inside}. Unpack it, and pass the inner one."
            )
        raise ParcelsError(
            f"{path} cannot be read: it holds no file of outlines{inside}. Pass another file."
        )
    stems = [PurePosixPath(name).stem for name in likely]
    wanted = [name for name, stem in zip(likely, stems, strict=True) if layer in (stem, name)]
    if len(wanted) == 1:
        return wanted[0], True
    short = likely if len(set(stems)) < len(stems) else stems
    raise ParcelsError(
        f"{path} holds {len(likely)} files of outlines ({listed(short, 5)}). Choose one with"
        f" --layer, e.g. --layer {shortened(short[0])!r}, or pass it in a separate file."
    )


def _check_kind(names: Sequence[str], path: Path) -> None:
    """Refuse files of other programs that are archives inside."""
    if "[Content_Types].xml" in names or {"mimetype", "content.xml"} <= set(names):
        raise ParcelsError(
            f"{path} cannot be read: it is a workbook or another office document. Save the table"
            " as CSV with a column of WKT."
        )
    if any(name.lower().endswith(".qgs") for name in names):
        raise ParcelsError(
            f"{path} cannot be read: it is a project of QGIS, which only refers to its layers."
            " Export the layer of the outlines, e.g. as GeoPackage."
        )


def _hidden(name: str) -> bool:
    """Return whether a file is none of the user's, such as Finder's ``__MACOSX/._farm.shp``."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or not parts


def _whole(name: str) -> str:
    """Return the folder of a file inside of a FileGDB, else the name itself."""
    parts = PurePosixPath(name).parts
    for depth, part in enumerate(parts, 1):
        if part.lower().endswith(".gdb"):
            return "/".join(parts[:depth])
    return name


def find_in_folder(folder: Path, layer: str | None) -> tuple[Path, bool]:
    """Return the file that is meant in a folder, see ``find``."""
    names = []
    for count, path in enumerate(folder.rglob("*")):
        if count > _MOST_ENTRIES:
            raise ParcelsError(f"{folder} has too many files to look for outlines. Pass a file.")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    name, chosen = find(names, layer, folder)
    return folder / name, chosen


def unpack(path: Path, layer: str | None, target: Path, most_bytes: int) -> tuple[Path, bool]:
    """Unpack the file that is meant in a zip archive, with what belongs to it.

    Args:
        path: The archive.
        layer: What the user wants of several files.
        target: Folder to unpack to, under fixed names.
        most_bytes: Largest unpacked size.

    Returns:
        The unpacked file, and whether ``layer`` chose it.

    Raises:
        ParcelsError: The archive is damaged, encrypted, too large, or has no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > _MOST_ENTRIES:
                raise ParcelsError(f"{path} has {len(entries):,} files. Pass the one with parcels.")
            by_name = {entry.filename.replace("\\", "/"): entry for entry in entries}
            _check_names(path, by_name)
            name, chosen = find(by_name, layer, path)
            parts = _parts(name, list(by_name))
            _check_size(path, [by_name[part] for part in parts], target, most_bytes)
            for part, new in parts.items():
                (target / new).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(by_name[part]) as source, (target / new).open("wb") as file:
                    # The reader ends each entry at its stated size.
                    shutil.copyfileobj(source, file, _CHUNK)
            return target / f"outline{PurePosixPath(name).suffix.lower()}", chosen
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if "password" in str(error) or "encrypted" in str(error):
            raise ParcelsError(f"{path} is encrypted. Unpack it first.") from error
        raise ParcelsError(
            f"{path} cannot be read: the archive is damaged ({reason_of(error)}). Copy it again."
        ) from error


def _parts(name: str, names: list[str]) -> dict[str, str]:
    """Return the entries that belong to a file or FileGDB, and their new names."""
    suffix = PurePosixPath(name).suffix.lower()
    if name not in names:  # a FileGDB
        inside = [entry for entry in names if _whole(entry) == name]
        return {entry: f"outline.gdb/{PurePosixPath(entry).name}" for entry in inside}
    if suffix != ".shp":
        return {name: f"outline{suffix}"}
    stem = name[: -len(suffix)].casefold()
    return {
        entry: f"outline{entry[-4:].lower()}"
        for entry in names
        if entry[:-4].casefold() == stem and entry[-4:].lower() in SHAPEFILE
    }


def _check_names(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ParcelsError(
                f"{path} holds {shortened(name)!r}, a path out of its folder. Zip the files again"
                " under plain names."
            )


def _check_size(path: Path, entries: list[zipfile.ZipInfo], target: Path, most: int) -> None:
    size = sum(entry.file_size for entry in entries)
    if size > most:
        raise ParcelsError(
            f"{path} unpacks to more than {most >> 20:,} MiB. Simplify the outlines, or cut the"
            " file."
        )
    if size > shutil.disk_usage(target).free:
        raise ParcelsError(
            f"{path} unpacks to {size / _GIB:.1f} GiB, more than is free in {target.parent}. Free"
            " some space, or unpack it yourself."
        )


def unzip(path: Path, target: Path, most_bytes: int) -> Path:
    """Unpack a file that gzip packed, such as farm.geojson.gz; raises as ``unpack``."""
    new = target / f"outline{PurePosixPath(path.stem).suffix.lower()}"
    left = min(most_bytes, shutil.disk_usage(target).free)
    try:
        with gzip.open(path) as source, new.open("wb") as file:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ParcelsError(
                        f"{path} unpacks to more than {most_bytes >> 20:,} MiB, or than is free."
                        " Unpack it yourself, or cut it."
                    )
                file.write(chunk)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ParcelsError(
            f"{path} cannot be read: the archive is damaged ({reason_of(error)}). Copy it again."
        ) from error
    return new


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


_HEADER_BYTES = 32
_LANGUAGE = 29
_UNKNOWN = (0x00, 0x57)
"""Language drivers that say nothing: none, and "the computer's own"."""
_RECORDS_AT_ONCE = 100_000
_MOST_VALUES = 20_000


def dbf_encoding(
    shapefile: Path, named: Path, encoding: str | None
) -> tuple[str | None, list[str]]:
    """Return the encoding with which to read a Shapefile, and notes for the user.

    Without a statement, text that can be UTF-8 is UTF-8; other text is read as CP1252, and a note
    shows how it reads then.

    Args:
        shapefile: The .shp.
        named: What the user passed, for the note.
        encoding: What the user says.

    Returns:
        The encoding, or None for the one that the file states.
    """
    if encoding is not None:
        return encoding, []
    beside = {path.suffix.lower(): path for path in _siblings(shapefile)}
    if ".dbf" not in beside or (".cpg" in beside and _is_known(beside[".cpg"])):
        return None, []
    try:
        language, values = _values(beside[".dbf"])
    except (OSError, ValueError, IndexError):  # damaged: GDAL says how
        return None, []
    if not values or (language not in _UNKNOWN and not _all_utf8(values)):
        return None, []
    if _all_utf8(values):
        return "utf-8", []
    try:
        text, name = values[0].decode("cp1252"), "cp1252"
        for value in values:
            value.decode("cp1252")
    except UnicodeDecodeError:
        text, name = values[0].decode("latin-1"), "latin-1"
    return name, [
        f"{named} does not state the encoding of its text, which was read as {name}, e.g."
        f" {shortened(text.strip(), 40)!r}. If that is wrong, pass --encoding, e.g. --encoding"
        " cp1251 (Cyrillic) or cp1250 (Czech, Slovak, Polish, Hungarian)."
    ]


def _is_known(cpg: Path) -> bool:
    """Return whether the file that states the encoding names one, such as UTF-8 or ANSI 1251."""
    try:
        name = cpg.read_bytes()[:100].decode("ascii").strip().casefold()
        number = name.removeprefix("ansi").removeprefix("oem").strip()
        codecs.lookup(f"cp{number}" if number.isdecimal() else name)
    except (OSError, ValueError, LookupError):
        return False
    return True


def _siblings(shapefile: Path) -> list[Path]:
    return [
        path
        for path in shapefile.parent.iterdir()
        if path.stem.casefold() == shapefile.stem.casefold() and path.is_file()
    ]


def _all_utf8(values: list[bytes]) -> bool:
    """Return whether all values are UTF-8; the last letter may be cut off by the field's width."""
    for value in values:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return False
    return True


def _values(path: Path) -> tuple[int, list[bytes]]:
    """Return the language driver of a table and its different values that are not ASCII."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        header_bytes = int.from_bytes(head[8:10], "little")
        record_bytes = int.from_bytes(head[10:12], "little")
        fields = file.read(max(header_bytes - _HEADER_BYTES, 0))
    if record_bytes < 2 or path.stat().st_size <= header_bytes:
        return head[_LANGUAGE], []
    columns, start = [], 1  # the first byte of a record says whether it is deleted
    found: set[bytes] = set()
    for place in range(0, len(fields) - 31, 32):
        if fields[place] == 0x0D:
            break
        width = fields[place + 16]
        if fields[place + 11 : place + 12] == b"C":
            columns.append(slice(start, start + width))
        start += width
        name = fields[place : place + 11].split(b"\0")[0]
        found |= {name} if not name.isascii() else set()
    data = np.memmap(path, np.uint8, "r", offset=header_bytes)
    records = data[: len(data) // record_bytes * record_bytes].reshape(-1, record_bytes)
    for first in range(0, len(records), _RECORDS_AT_ONCE):
        for column in columns:
            texts = np.ascontiguousarray(records[first : first + _RECORDS_AT_ONCE, column])
            foreign = texts[(texts >= 0x80).any(axis=1)]
            if len(foreign) and len(found) < _MOST_VALUES:
                found |= set(foreign.view(f"S{foreign.shape[1]}").ravel().tolist())
    return head[_LANGUAGE], [value.rstrip(b" \0") for value in sorted(found)]
