"""Uploaded zip archives, checked before they are unpacked.

No entry is written outside its folder, the unpacked size is bounded, and Zarr stores may use only
codecs that cannot run code.
"""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from panoseg.errors import AppError, TooLargeError

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
MAX_UNPACKED = 16 * 1024**3
MAX_ENTRIES = 200_000
MAX_RATIO = 200
_RATIO_FROM_BYTES = 16 * 1024**2  # small files of zeros compress better than any ratio
_ZARR_METADATA = ("zarr.json", ".zarray", ".zmetadata", ".zgroup")
_MAX_METADATA = 16 * 1024**2
# Chunk grids and chunk key encodings are named in the metadata in the same way as codecs.
_COMPRESSION = (
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
_ENCODINGS = (
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
_CODECS = frozenset((*_COMPRESSION, *_ENCODINGS, "numpy.datetime64", "numpy.timedelta64"))
_MAX_PATH_LENGTH, _MAX_NAME_BYTES = 1000, 255


def check_archive(path: Path, max_bytes: int = MAX_UNPACKED) -> list[zipfile.ZipInfo]:
    """Check an archive and return its files.

    The stated sizes bound what is written, as Python's reader ends each entry at its stated size.

    Args:
        path: A zip file.
        max_bytes: Largest unpacked size.

    Raises:
        AppError: The archive is damaged or encrypted, or an entry is a link or lies outside the
            archive's folder.
        TooLargeError: It unpacks to more than ``max_bytes``, to more than 200 times its size, or to
            more than 200,000 files.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise AppError(f"The archive cannot be read ({error}); zip it again.") from error
    if len(entries) > MAX_ENTRIES:
        raise TooLargeError(
            f"The archive has {len(entries)} files, of at most {MAX_ENTRIES}; use larger chunks."
        )
    for entry in entries:
        _check_entry(entry)
    size = sum(entry.file_size for entry in entries)
    if size > max_bytes:
        raise TooLargeError(
            f"The archive unpacks to {size >> 20} MiB, of at most {max_bytes >> 20} MiB; make it"
            " smaller."
        )
    if size > _RATIO_FROM_BYTES and size > MAX_RATIO * max(path.stat().st_size, 1):
        raise TooLargeError(
            f"The archive unpacks to {size // max(path.stat().st_size, 1)} times its size, of at"
            f" most {MAX_RATIO} times; zip it with less compression."
        )
    return [entry for entry in entries if not entry.is_dir()]


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in entry.filename or "\0" in entry.filename:
        raise AppError(
            f"The archive has an entry outside its folder, {entry.filename!r}; zip it again with"
            " relative paths."
        )
    longest = max((len(part.encode()) for part in name.parts), default=0)
    if len(entry.filename) > _MAX_PATH_LENGTH or longest > _MAX_NAME_BYTES:
        raise AppError(
            f"The archive has a file name of {len(entry.filename)} characters; use shorter names."
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise AppError(
            f"The archive has a symbolic link, {entry.filename!r}; zip the files themselves."
        )
    if entry.flag_bits & 1:
        raise AppError("The archive is encrypted; zip it without a password.")


def zarr_root(entries: list[zipfile.ZipInfo]) -> PurePosixPath | None:
    """Return the folder of the outermost Zarr store in an archive, None if there is no store."""
    roots = [
        PurePosixPath(entry.filename).parent
        for entry in entries
        if PurePosixPath(entry.filename).name in ZARR_MARKS
    ]
    return min(roots, key=lambda root: len(root.parts), default=None)


def check_codecs(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check that the arrays of a zipped Zarr store use only codecs for numbers.

    One of Zarr's codecs unpickles what it reads, which can run any code.

    Raises:
        AppError: Another codec is used, or the metadata are damaged.
        TooLargeError: The metadata are too large.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            name = entry.filename
            if PurePosixPath(name).name not in _ZARR_METADATA:
                continue
            if entry.file_size > _MAX_METADATA:
                raise TooLargeError(
                    f"{name!r} is too large for metadata, {entry.file_size >> 20} MiB; write the"
                    " store again."
                )
            try:
                _check_names(json.loads(archive.read(entry)), name)
            except (
                ValueError,
                RecursionError,
                zipfile.BadZipFile,
                EOFError,
                NotImplementedError,
            ) as error:
                raise AppError(
                    f"{name!r} is not valid JSON ({error}); write the store again."
                ) from error


def _check_names(value: object, place: str) -> None:
    """Check every codec in metadata, at any depth.

    A codec is {"id": ..} in version 2 of Zarr's format, {"name": .., "configuration": ..} in 3.
    """
    if isinstance(value, list):
        for part in value:
            _check_names(part, place)
    elif isinstance(value, dict):
        codec = value.get("id", value.get("name") if "configuration" in value else None)
        if isinstance(codec, str) and codec.removeprefix("numcodecs.") not in _CODECS:
            raise AppError(
                f"{place!r} uses the codec {codec[:40]!r}, which is not one of"
                f" {', '.join(sorted(_CODECS))}. Write the store with zstd."
            )
        if value.get("dtype") == "|O":
            raise AppError(f"{place!r} is an array of Python objects; write numbers only.")
        for name, part in value.items():
            if name != "attributes":
                _check_names(part, place)


def unpack_zarr(path: Path, target: Path) -> None:
    """Unpack the Zarr store in an archive to the new folder ``target``.

    Raises as ``check_archive`` and ``check_codecs``.
    """
    entries = check_archive(path)
    root = zarr_root(entries)
    if root is None:
        raise AppError(
            "The archive has no Zarr store; zip the folder that contains zarr.json or .zgroup."
        )
    check_codecs(path, entries)
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            name = PurePosixPath(entry.filename)
            if name.is_relative_to(root):
                _extract(archive, entry, target / name.relative_to(root))


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1024**2)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise AppError(
            f"In the archive {entry.filename!r} is both a file and a folder; zip it again."
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise AppError(
            f"In the archive {entry.filename!r} is damaged ({error}); zip it again."
        ) from error
