"""Find the file that is meant in an archive or a folder, and unpack it within bounds.

Names in an archive never become paths here. What Finder and Explorer add is passed over.
"""

from __future__ import annotations

import gzip
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from panoseg.errors import ParcelsError
from panoseg.text_files import listed, reason_of, shortened

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
