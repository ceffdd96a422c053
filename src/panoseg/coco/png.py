"""PNG files whose colours are segment ids, and the names of such files.

Source: cocodataset/panopticapi @ 7bb4655: id = R + 256 G + 65536 B, and 0 is void.

Shape suffixes: H W pixels.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from panoseg.coco.json import about
from panoseg.coco.masks import check_size
from panoseg.errors import PanopticFormatError
from panoseg.files import atomic

if TYPE_CHECKING:
    from PIL import Image

HIGHEST_ID = 2**24 - 1
"""The largest id that three bytes of colour can hold."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx"),
)
"""Suffixes of the image files that a folder of photographs is searched for."""

_LARGEST_FILE = 2**29
_LONGEST_NAME, _LONGEST_PATH = 250, 2048  # bytes, with room for a suffix and for parent folders
_SIGNATURE, _FIRST_CHUNK = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", 8
_CHUNK, _CHECKSUM, _SIZE = struct.Struct(">I4s"), struct.Struct(">I"), struct.Struct(">II")
_SIZE_AT, _DEPTH, _COLOUR_TYPE = 16, 24, 25
_BITS, _COLOURS = 8, (2, 6)  # red, green and blue, without and with opacity


def ids_to_colours(segment_HW: np.ndarray) -> np.ndarray:
    """Encode ids as colours: uint8, H x W x 3.

    Raises:
        PanopticFormatError: An id is above 2^24 - 1.

    >>> ids_to_colours(np.array([[1, 256, 65536 + 2, 0]])).tolist()
    [[[1, 0, 0], [0, 1, 0], [2, 0, 1], [0, 0, 0]]]
    """
    highest = int(segment_HW.max(initial=0))
    if highest > HIGHEST_ID:
        raise PanopticFormatError(
            f"Segment id {highest} is too large for a PNG, which holds ids up to {HIGHEST_ID}; "
            "relabel the segmentation."
        )
    planes = [segment_HW & 255, segment_HW >> 8 & 255, segment_HW >> 16]
    return np.stack(planes, axis=-1).astype(np.uint8)


def colours_to_ids(colour_3HW: np.ndarray) -> np.ndarray:
    """Decode the ids of colours (uint8, 3 x H x W): int32, H x W.

    >>> colours_to_ids(np.array([[[1, 0]], [[0, 1]], [[0, 0]]], np.uint8))
    array([[  1, 256]], dtype=int32)
    """
    red_HW, green_HW, blue_HW = colour_3HW
    ids_HW = blue_HW.astype(np.int32)
    for channel_HW in (green_HW, red_HW):
        ids_HW <<= 8
        ids_HW |= channel_HW
    return np.asarray(ids_HW)


def read_ids(path: Path) -> np.ndarray:
    """Read the ids of a PNG file: int32, H x W. Raises ``PanopticFormatError``."""
    return colours_to_ids(read_colours(path))


def decode_ids(data: bytes, path: Path) -> np.ndarray:
    """Decode the ids of a PNG: int32, H x W.

    Args:
        data: The bytes of the file.
        path: Name of the file in messages.

    Raises:
        PanopticFormatError: The bytes are not a complete PNG of ids.
    """
    _check_png(data, path)
    return colours_to_ids(_decode_colours(data, path))


def read_colours(path: Path) -> np.ndarray:
    """Read a PNG file of 8 bits per channel: uint8, 3 x H x W. Raises ``PanopticFormatError``."""
    return _decode_colours(_read_whole(path), path)


def decoding() -> AbstractContextManager[object]:
    """Share GDAL's settings between the files read in the block; setting up costs a tenth each."""
    import rasterio

    return rasterio.Env()  # type: ignore[no-any-return]


def write_ids(path: Path, segment_HW: np.ndarray) -> None:
    """Write ids as a PNG file, creating its parent folders."""
    save_png(path, ids_to_colours(segment_HW))


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 pixels, H x W or H x W x 3, creating the parent folders."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def open_png(path: Path) -> Image.Image:
    """Open and decode a PNG file of any kind.

    Raises:
        PanopticFormatError: The file is not a PNG, is cut off, or has more than 67 million pixels.
    """
    return _decode(path, _read_whole(path))


def png_name(name: object) -> str:
    """Return the name of an image's PNG file, which keeps folders and dots.

    Raises:
        PanopticFormatError: The name is not text, leaves its folder, or is invalid in file systems.

    >>> png_name("000000142238.jpg"), png_name("val/field.one.jpg"), png_name("v1.2")
    ('000000142238.png', 'val/field.one.png', 'v1.2.png')
    """
    text = name.replace("\\", "/") if isinstance(name, str) else ""
    path = PurePosixPath(text)
    parts = [part.encode("utf-8", "surrogatepass") for part in path.parts]
    is_long = (
        max(map(len, parts), default=0) > _LONGEST_NAME
        or sum(map(len, parts)) + len(parts) > _LONGEST_PATH
    )
    is_odd = is_long or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
    if (
        is_odd
        or not path.name
        or path.is_absolute()
        or ".." in path.parts
        or PureWindowsPath(text).drive
    ):
        raise PanopticFormatError(
            f"file name {str(name)[:60]!r} is not the name of a file inside its folder."
        )
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    return str(path.with_suffix(".png") if is_image else path.with_name(f"{path.name}.png"))


def _decode_colours(data: bytes, path: Path) -> np.ndarray:
    """Decode a checked PNG: uint8, 3 x H x W."""
    depth, colour_type = data[_DEPTH], data[_COLOUR_TYPE]
    if depth == _BITS and colour_type in _COLOURS:
        return _decode_with_gdal(data, path)
    if depth > _BITS:
        raise PanopticFormatError(
            f"{path} is a PNG of {depth} bits a colour; write the ids as R, G and B of 8 bits."
        )
    # Palettes and grey are what an optimiser makes of few colours; they mean the same.
    return np.moveaxis(np.asarray(_decode(path, data).convert("RGB")), -1, 0)


def _decode_with_gdal(data: bytes, path: Path) -> np.ndarray:
    """Decode red, green and blue: GDAL's decoder is several times as fast as Pillow's."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(), rasterio.MemoryFile(data) as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(driver="PNG") as image:
                return np.asarray(image.read((1, 2, 3)))
    except RasterioError as error:
        raise _not_readable(path, str(error.__cause__ or error)) from error


def _decode(path: Path, data: bytes) -> Image.Image:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # The size is checked already.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            image.load()
            return image
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        raise _not_readable(path, str(error)) from error


def _read_whole(path: Path) -> bytes:
    """Read a PNG file and check that it is whole, undamaged and of a reasonable size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")  # a device may have no end
        if status.st_size > _LARGEST_FILE:
            raise ValueError(f"more than {_LARGEST_FILE} bytes")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PanopticFormatError(
            f"{path}: no such file; restore it, or pass the folder of the PNG files."
        ) from error
    except OSError as error:
        raise _not_readable(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _not_readable(path, str(error)) from error
    _check_png(data, path)
    return data


def _check_png(data: bytes, path: Path) -> None:
    """Refuse a PNG that is cut or damaged, or has too many pixels."""
    try:
        _check_chunks(data)
    except struct.error as error:
        raise _not_readable(path, "it is cut") from error
    except ValueError as error:
        raise _not_readable(path, str(error)) from error
    with about(str(path)):
        width, height = _SIZE.unpack_from(data, _SIZE_AT)
        check_size(height, width)


def _check_chunks(data: bytes) -> None:
    """Check the length and checksum of every chunk, because decoders may fill gaps with anything.

    Raises:
        ValueError: A chunk is damaged.
        struct.error: The data end before the last chunk.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("it is not a PNG")
    at, kind = _FIRST_CHUNK, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length
        (stated,) = _CHECKSUM.unpack_from(data, end)
        if zlib.crc32(data[at + 4 : end]) != stated:
            raise ValueError(f"chunk {kind.decode('latin-1')!r} is damaged")
        at = end + _CHECKSUM.size


def _not_readable(path: Path, reason: str) -> PanopticFormatError:
    return PanopticFormatError(f"{path}: {reason}; it cannot be read as a PNG of segment ids.")
