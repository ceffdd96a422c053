"""Masks in COCO's files: run lengths, polygons, and PNG files whose colours are segment ids.

Run lengths go down the columns, compressed or not. They are decoded here, because pycocotools
2.0.11 reads beyond the end of truncated ones and leaves pixels that they do not reach
uninitialised. pycocotools draws polygons, after their coordinates have been checked, and compresses
run lengths.

Sources: the format of masks as ppwwyyxx/cocoapi's common/maskApi.c defines it; of PNG files as
cocodataset/panopticapi @ 7bb4655: id = R + 256 G + 65536 B, and 0 is void.

Shape suffixes: H W pixels, R runs.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from panoseg.coco.json import about, shown
from panoseg.errors import PanopticFormatError
from panoseg.files import atomic

if TYPE_CHECKING:
    from PIL import Image


MOST_PIXELS = 2**26
"""Largest number of pixels of an image, 8192 x 8192."""

# A character holds five bits of a number and, from "P" on, says that more follow; seven characters
# hold a number of 32 bits.
_COMPRESSED = re.compile(rb"(?:[P-o]{0,6}[0-O])*")
_LONGEST_OUTLINE = 2**22


def check_size(height: object, width: object) -> tuple[int, int]:
    """Return the size of an image.

    Raises:
        PanopticFormatError: A side is not a positive integer, or there are over 67 million pixels.
    """
    if (
        type(height) is not int
        or type(width) is not int
        or height < 1
        or width < 1
        or height * width > MOST_PIXELS
    ):
        raise PanopticFormatError(
            f"an image of {shown(height)} x {shown(width)} pixels is not possible; an image has"
            f" whole numbers of rows and columns and 1 to {MOST_PIXELS} pixels."
        )
    return height, width


def decode_mask(segmentation: object, height: int, width: int) -> np.ndarray:
    """Decode the mask of an annotation: bool, H x W.

    Args:
        segmentation: {"size": [height, width], "counts": compressed text or list of run lengths},
            or polygons as lists of alternating x and y.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        PanopticFormatError: The segmentation has another form or another size.

    >>> decode_mask({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3)
    array([[False,  True, False],
           [ True,  True, False]])
    """
    if isinstance(segmentation, Mapping):
        counts_R = run_lengths(segmentation, height, width)
        flat = np.repeat(np.arange(len(counts_R)) % 2 == 1, counts_R)
        return flat.reshape(width, height).T
    if isinstance(segmentation, list):
        return _draw_polygons(segmentation, height, width)
    raise PanopticFormatError(
        f"segmentation {shown(segmentation)} is neither run lengths nor polygons."
    )


def run_lengths(segmentation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decode the lengths of the runs down the columns, the first outside the mask: int64, R.

    Raises ``PanopticFormatError``.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise PanopticFormatError(
            f"run lengths of size {shown(size)} do not fit the image, which has the size "
            f"[{height}, {width}]."
        )
    if isinstance(counts, str):
        counts_R = _decompress(counts.encode("utf-8", "surrogatepass"))
    elif isinstance(counts, list) and all(
        type(count) is int and 0 <= count <= MOST_PIXELS for count in counts
    ):
        counts_R = np.array(counts, np.int64)
    else:
        raise PanopticFormatError("counts are not run lengths: neither text nor whole numbers.")
    if (counts_R < 0).any() or counts_R.sum() != height * width:
        raise PanopticFormatError(
            f"run lengths of {counts_R[counts_R > 0].sum()} pixels do not fit the image, which has "
            f"{height * width}."
        )
    return counts_R


def encode_mask(mask_HW: np.ndarray) -> dict[str, Any]:
    """Encode a mask as compressed run lengths.

    >>> encode_mask(np.array([[False, True, False], [True, True, False]]))
    {'size': [2, 3], 'counts': '132'}
    """
    from pycocotools import mask as library

    encoded = library.encode(np.asfortranarray(mask_HW, np.uint8))
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": encoded["counts"].decode("ascii"),
    }


def mask_box(mask_HW: np.ndarray) -> list[int]:
    """Return the bounding box: left, top, width, height; zeros for an empty mask.

    >>> mask_box(np.array([[False, True, True], [False, True, False]]))
    [1, 0, 2, 2]
    """
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]


def detection_row(class_id: int, mask_HW: np.ndarray, is_crowd: bool) -> dict[str, Any]:
    """Return a row in COCO's form of detections for a mask."""
    return {
        "category_id": int(class_id),
        "segmentation": encode_mask(mask_HW),
        "bbox": mask_box(mask_HW),
        "area": int(mask_HW.sum()),
        "iscrowd": int(is_crowd),
    }


def _decompress(text: bytes) -> np.ndarray:
    """Decompress run lengths; from the third on they are stored as differences to the last but one.

    Shape suffix: S characters.
    """
    if not _COMPRESSED.fullmatch(text):
        raise PanopticFormatError("counts are not compressed run lengths.")
    value_S = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last_S = value_S < 32
    first_R = np.flatnonzero(np.concatenate([[True], last_S[:-1]]))[: last_S.sum()]
    place_S = np.arange(len(value_S)) - np.repeat(
        first_R, np.diff(np.append(first_R, len(value_S)))
    )
    counts_R = (
        np.add.reduceat((value_S & 31) << 5 * place_S, first_R)
        if len(first_R)
        else np.zeros(0, np.int64)
    )
    is_negative_R = value_S[last_S] & 16 > 0
    counts_R -= is_negative_R * (32 << 5 * place_S[last_S])
    for parity in (1, 2):
        counts_R[parity::2] = counts_R[parity::2].cumsum()
    return counts_R


def _draw_polygons(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Draw the union of polygons: bool, H x W."""
    from pycocotools import mask as library

    for polygon in polygons:
        _check_polygon(polygon, height, width)
    if not polygons:
        return np.zeros((height, width), bool)
    mask = library.decode(library.merge(library.frPyObjects(polygons, height, width)))
    return np.asarray(mask.astype(bool))


def _check_polygon(polygon: object, height: int, width: int) -> None:
    """Refuse a polygon that pycocotools cannot draw safely. Raises ``PanopticFormatError``."""
    if (
        not isinstance(polygon, list)
        or len(polygon) < 6
        or len(polygon) % 2
        or any(type(value) not in (int, float) for value in polygon)
    ):
        raise PanopticFormatError(
            f"a polygon is not a list of x and y of three or more points, but {shown(polygon)}."
        )
    points = np.array(polygon, np.float64).reshape(-1, 2)
    # The library follows the outline in steps of a fifth of a pixel and keeps them all.
    inside = np.isfinite(points).all() and (np.abs(points) <= 2 * max(height, width)).all()
    if (
        not inside
        or np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum() > _LONGEST_OUTLINE
    ):
        raise PanopticFormatError(
            f"a polygon leaves its image of {width} x {height} pixels, or is too long."
        )


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
