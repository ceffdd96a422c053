"""Pictures of ids as PNG files, and the names of files inside a folder.

Source: cocodataset/panopticapi @ 7bb4655: id = R + 256 G + 65536 B, 0 is void.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from panoseg.errors import PanopticFormatError
from panoseg.files import atomic
from panoseg.panoptic.coco_masks import check_size

if TYPE_CHECKING:
    from PIL import Image

HIGHEST_ID = 2**24 - 1

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_COLOUR_MODES = ("RGB", "RGBA", "P", "L", "LA", "1")  # grey ones are those of an optimiser, where all colours are grey


def ids_to_colours(segment_HW: np.ndarray) -> np.ndarray:
    """The colours that say the ids: uint8, H x W x 3. Ids above 2^24 - 1 raise ``PanopticFormatError``.

    >>> ids_to_colours(np.array([[1, 256, 65536 + 2, 0]])).tolist()
    [[[1, 0, 0], [0, 1, 0], [2, 0, 1], [0, 0, 0]]]
    """
    highest = int(segment_HW.max(initial=0))
    if highest > HIGHEST_ID:
        raise PanopticFormatError(
            f"segment id {highest}", f"at most {HIGHEST_ID}, what three bytes hold", "relabel the picture"
        )
    return np.stack([segment_HW & 255, segment_HW >> 8 & 255, segment_HW >> 16], axis=-1).astype(np.uint8)


def colours_to_ids(colour_HW3: np.ndarray) -> np.ndarray:
    """The inverse of ``ids_to_colours``: int32, H x W."""
    red_HW, green_HW, blue_HW = np.moveaxis(colour_HW3.astype(np.int32), -1, 0)
    return red_HW + 256 * green_HW + 65536 * blue_HW


def read_ids(path: Path) -> np.ndarray:
    """The ids of a PNG of colours: int32, H x W. Raises ``PanopticFormatError``."""
    image = open_png(path)
    if image.mode not in _COLOUR_MODES:
        raise PanopticFormatError(f"{path} of mode {image.mode}", "a PNG of 8 bits a colour", "write the ids as R, G, B")
    colours = image if image.mode == "RGB" else image.convert("RGB")
    # Pixels lie in memory as four bytes, which are an id but for the fourth: several times faster than channel by channel.
    words = np.frombuffer(colours.tobytes("raw", "RGBX"), "<u4") & HIGHEST_ID
    return words.astype(np.int32, copy=False).reshape(image.height, image.width)


def write_ids(path: Path, segment_HW: np.ndarray) -> None:
    """Write a picture of ids; folders above it are made."""
    save_png(path, ids_to_colours(segment_HW))


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 pixels, H x W or H x W x 3; folders above it are made."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def open_png(path: Path) -> Image.Image:
    """The image in a PNG file, whole. Raises ``PanopticFormatError`` where it is none, cut, or above 67 million pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                check_size(image.height, image.width)
                image.load()
                return image
    except PanopticFormatError as error:
        raise PanopticFormatError(f"{path}: {error.found}", error.expected, "give a smaller picture") from error
    except FileNotFoundError as error:
        raise PanopticFormatError(f"{path}: no such file", "a PNG", "restore the file, or name the right folder") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        reason = str(error).replace(repr(str(path)), "it")
        raise PanopticFormatError(f"{path}: {reason}", "a PNG of segment ids", "restore the file") from error


def png_name(name: Any) -> str:
    """The name of an image's PNG, which keeps folders and dots. Raises ``PanopticFormatError`` for one that leaves its folder.

    >>> png_name("000000142238.jpg"), png_name("val/field.one.jpg"), png_name("v1.2")
    ('000000142238.png', 'val/field.one.png', 'v1.2.png')
    """
    text = name.replace("\\", "/") if isinstance(name, str) else ""
    path = PurePosixPath(text)
    if not path.name or path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive or "\0" in text:
        raise PanopticFormatError(f"file name {str(name)[:60]!r}", "the name of a file inside its folder", "correct it")
    is_image = path.suffix.lower() in _IMAGE_SUFFIXES
    return str(path.with_suffix(".png") if is_image else path.with_name(f"{path.name}.png"))
