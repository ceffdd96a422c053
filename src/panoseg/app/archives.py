"""Archives that strangers packed, unpacked with suspicion: nothing leaves its folder, and nothing
grows beyond its bounds.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from panoseg.errors import AppError, TooLargeError

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
LARGEST_UNPACKED = 16 * 1024**3
MOST_ENTRIES = 200_000
LARGEST_RATIO = 200
_FORGIVEN_BYTES = 16 * 1024**2  # tiny files of zeros pack better than any ratio
_ZARR_METADATA = ("zarr.json", ".zarray", ".zmetadata", ".zgroup")
_LARGEST_METADATA = 16 * 1024**2
# Grids of chunks and how their files are called are named in the same way as codecs.
_PACKING = (
    "blosc",
    "bz2",
    "crc32c",
    "delta",
    "fixedscaleoffset",
    "gzip",
    "lz4",
    "shuffle",
    "sharding_indexed",
    "zlib",
    "zstd",
)
_FORMS = (
    "bytes",
    "default",
    "fixed_length_utf32",
    "rectilinear",
    "regular",
    "transpose",
    "v2",
    "vlen-bytes",
    "vlen-utf8",
)
_CODECS = frozenset((*_PACKING, *_FORMS, "numpy.datetime64", "numpy.timedelta64"))
_TABLES = (".shp", ".gpkg", ".geojson", ".json", ".parquet")
_SIDECARS = (".shx", ".dbf", ".prj", ".cpg")
_LARGEST_TABLE = 4 * 1024**3
_LONGEST_PATH, _LONGEST_PART = 1000, 255


def check_archive(path: Path, largest: int = LARGEST_UNPACKED) -> list[zipfile.ZipInfo]:
    """The files of an archive.

    Raises ``AppError`` for one that is damaged or encrypted, climbs out of its folder, or holds
    links, ``TooLargeError`` for one that unpacks to more than ``largest`` bytes, to 200 times its
    size, or to more than 200,000 files. Python's reader ends each entry at its stated size, so that
    stated sizes bound what is written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise AppError(
            f"an archive that cannot be read ({error})", "a whole zip file", "pack it again"
        ) from error
    if len(entries) > MOST_ENTRIES:
        raise TooLargeError(
            f"an archive of {len(entries)} files", f"at most {MOST_ENTRIES}", "use larger chunks"
        )
    for entry in entries:
        _check_entry(entry)
    size = sum(entry.file_size for entry in entries)
    if size > largest:
        raise TooLargeError(
            f"an archive that unpacks to {size >> 20} MiB",
            f"at most {largest >> 20} MiB",
            "make it smaller",
        )
    if size > _FORGIVEN_BYTES and size > LARGEST_RATIO * max(path.stat().st_size, 1):
        raise TooLargeError(
            f"an archive that unpacks to {size // max(path.stat().st_size, 1)} times its size",
            f"at most {LARGEST_RATIO} times",
            "pack it without such compression",
        )
    return [entry for entry in entries if not entry.is_dir()]


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in entry.filename or "\0" in entry.filename:
        raise AppError(
            f"an archive with {entry.filename!r}, a path out of its folder",
            "plain names",
            "pack it again",
        )
    if (
        len(entry.filename) > _LONGEST_PATH
        or max(map(len, map(str.encode, name.parts)), default=0) > _LONGEST_PART
    ):
        raise AppError(
            f"an archive with a name of {len(entry.filename)} letters",
            "shorter ones",
            "pack it again",
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise AppError(
            f"an archive with the link {entry.filename!r}", "files alone", "pack it again"
        )
    if entry.flag_bits & 1:
        raise AppError("an encrypted archive", "one without a password", "pack it again")


def zarr_root(entries: list[zipfile.ZipInfo]) -> PurePosixPath | None:
    """The folder in an archive that is the outermost Zarr store; None where there is none."""
    roots = [
        PurePosixPath(entry.filename).parent
        for entry in entries
        if PurePosixPath(entry.filename).name in ZARR_MARKS
    ]
    return min(roots, key=lambda root: len(root.parts), default=None)


def check_codecs(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise ``AppError`` for a Zarr store whose arrays are packed in another way than numbers
    usually are.

    One of Zarr's codecs unpickles what it reads, which runs whatever program the store holds.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            if PurePosixPath(entry.filename).name in _ZARR_METADATA:
                if entry.file_size > _LARGEST_METADATA:
                    raise TooLargeError(
                        f"{entry.filename!r} of {entry.file_size >> 20} MiB",
                        "metadata",
                        "write the store again",
                    )
                try:
                    _check_names(json.loads(archive.read(entry)), entry.filename)
                except (
                    ValueError,
                    RecursionError,
                    zipfile.BadZipFile,
                    EOFError,
                    NotImplementedError,
                ) as error:
                    raise AppError(
                        f"{entry.filename!r} cannot be read ({error})",
                        "JSON",
                        "write the store again",
                    ) from error


def _check_names(value: Any, place: str) -> None:
    """Look at every codec that metadata name, at any depth: {"id": ..} in version 2, {"name": ..,
    "configuration": ..} in 3.
    """
    if isinstance(value, list):
        for part in value:
            _check_names(part, place)
    elif isinstance(value, dict):
        codec = value.get("id", value.get("name") if "configuration" in value else None)
        if isinstance(codec, str) and codec.removeprefix("numcodecs.") not in _CODECS:
            raise AppError(
                f"{place!r} with the codec {codec[:40]!r}",
                f"one of {', '.join(sorted(_CODECS))}",
                "write it with zstd",
            )
        if value.get("dtype") == "|O":
            raise AppError(f"{place!r} with Python's objects", "numbers", "write it without them")
        for name, part in value.items():
            if name != "attributes":
                _check_names(part, place)


def unpack_zarr(path: Path, target: Path) -> None:
    """Write the Zarr store of an archive to the new folder ``target``. Raises as
    ``check_archive``.
    """
    entries = check_archive(path)
    root = zarr_root(entries)
    if root is None:
        raise AppError(
            "an archive without a Zarr store",
            "a zipped folder with zarr.json or .zgroup",
            "pack the store itself",
        )
    check_codecs(path, entries)
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if name.is_relative_to(root):
                _extract(archive, entry, target / name.relative_to(root))


@contextmanager
def unpacked_parcels(path: Path) -> Iterator[Path]:
    """A file of parcels as one that readers take: out of its archive where it is in one. Raises as
    ``check_archive``.
    """
    if path.suffix != ".zip":
        yield path
        return
    entries = check_archive(path, _LARGEST_TABLE)
    tables = [entry for entry in entries if PurePosixPath(entry.filename).suffix.lower() in _TABLES]
    if len(tables) != 1:
        raise AppError(
            f"an archive with {len(tables)} files of parcels", "one", "pack them one by one"
        )
    stem = PurePosixPath(tables[0].filename).with_suffix("")
    # Beside the archive, whose folder is tidied where a reader is ended in the middle.
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder,
        zipfile.ZipFile(path) as archive,
    ):
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if name.with_suffix("") == stem and name.suffix.lower() in (*_TABLES, *_SIDECARS):
                _extract(archive, entry, Path(folder) / f"parcels{name.suffix.lower()}")
        yield Path(folder) / f"parcels{PurePosixPath(tables[0].filename).suffix.lower()}"


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1024**2)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise AppError(
            f"an archive in which {entry.filename!r} is a file and a folder", "one", "pack it again"
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise AppError(
            f"an archive whose {entry.filename!r} is damaged ({error})",
            "a whole zip file",
            "pack it again",
        ) from error
