"""Pictures of any camera or program as eight-bit red, green and blue, upright.

Shape suffixes: H W pixels.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.coco.masks import MOST_PIXELS, check_size
from panoseg.errors import DatasetError, PanopticFormatError

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_LARGEST_FILE = 2**29
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    KeyError,
    TypeError,
    IndexError,
)
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # grey of sixteen bits


def read_photograph(path: Path | str) -> np.ndarray:
    """The pixels of a picture: uint8, H x W x 3, upright. Raises ``DatasetError``, which names the
    file.
    """
    return np.asarray(decode_photograph(read_bytes(Path(path)), path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture's file, of bearable size. Raises ``DatasetError``."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _no_picture(path, "no ordinary file")  # a device may have no end
        if status.st_size > _LARGEST_FILE:
            raise _no_picture(path, f"more than {_LARGEST_FILE} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: no such file", "a picture", "restore the file, or correct its name"
        ) from error
    except OSError as error:
        raise _no_picture(path, error.strerror or str(error)) from error


def decode_photograph(data: bytes, name: Path | str) -> Image.Image:
    """The picture in a file's bytes: RGB, turned upright as its EXIF says, opacity left out.

    Grey of sixteen bits keeps its range; of several frames the first is taken. name: what failures
    call it. Raises ``DatasetError`` where the file is no picture, cut, or has more than 67 million
    pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged EXIF
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            check_size(image.height, image.width)  # before a pixel is unpacked
            image.load()
            return _upright(_red_green_blue(image))
    except (PanopticFormatError, Image.DecompressionBombError) as error:
        raise _no_picture(
            name, getattr(error, "found", f"more than {MOST_PIXELS} pixels")
        ) from error
    except _DAMAGE as error:
        reason = (
            "it is no picture"
            if isinstance(error, Image.UnidentifiedImageError)
            else str(error) or type(error).__name__
        )
        raise _no_picture(name, reason) from error


def _red_green_blue(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in _DEEP or (image.mode == "I" and image.format == "PNG"):
        deep_HW = np.asarray(image).astype(np.uint32).clip(max=65535)
        converted = Image.fromarray(((deep_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose range is not known")
    else:
        # Pillow wants transparent palettes to become colours first.
        whole = (
            image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
        )
        converted = whole.convert("RGB")
    with suppress(*_DAMAGE):  # EXIF that nobody can read says nothing
        converted.getexif().update(image.getexif())
    return converted


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image


def _no_picture(name: Path | str, reason: str) -> DatasetError:
    return DatasetError(
        f"{name}: {reason}",
        "a whole picture, JPEG or PNG say, of up to 67 million pixels",
        "restore the file",
    )


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as eight-bit RGB, turned upright as its EXIF says."""
    return _upright(_red_green_blue(image))
