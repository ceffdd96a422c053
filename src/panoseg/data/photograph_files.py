"""Read photographs of any camera or program as eight-bit red, green and blue, upright.

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
from panoseg.errors import DatasetError, PanopticFormatError, is_installed, missing

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PLANES, _DEPTHS = 284, 258  # tags of TIFF: how samples lie, and their bits
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGEST_FILE = 2**29  # bytes
# What Pillow raises for damaged files.
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
_GREY_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def read_photograph(path: Path | str) -> np.ndarray:
    """Read the pixels of an image file.

    Returns:
        uint8, H x W x 3, upright.

    Raises:
        DatasetError: The file is not an image, or too large.
    """
    return np.asarray(decode_photograph(read_bytes(Path(path)), path))


def read_bytes(path: Path) -> bytes:
    """Read an image file; raise ``DatasetError`` where it has more than 512 MiB."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(path, "it is not an ordinary file")  # a device may have no end
        if status.st_size > _LARGEST_FILE:
            raise _unreadable(path, f"it has more than {_LARGEST_FILE} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} does not exist; restore the file, or correct its name."
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def decode_photograph(data: bytes, name: Path | str) -> Image.Image:
    """Decode an image: RGB, turned upright as its EXIF says, without opacity.

    Sixteen bits keep their range; of several frames the first is taken, and of a TIFF of more
    bands, such as red, green, blue and near infrared, those that are visible.

    Args:
        data: The bytes of a file.
        name: Name of the file, for messages.

    Raises:
        DatasetError: The bytes are no complete image, or have more than 67 million pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, checked here, and damaged EXIF
            try:
                image = Image.open(io.BytesIO(data), formats=_formats(data, name))
            except UnidentifiedImageError:
                if not data.startswith(_TIFF_MARKS):
                    raise
                return _decode_bands(data)
            check_size(image.height, image.width)  # before a pixel is decoded
            tags = getattr(image, "tag_v2", {})
            if tags.get(_PLANES) == 2 and 16 in tags.get(_DEPTHS, ()):
                return _decode_bands(data)  # which Pillow decodes wrongly or not at all
            image.load()
            return _upright(_to_rgb(image))
    except (PanopticFormatError, Image.DecompressionBombError) as error:
        found = getattr(error, "message", f"it has more than {MOST_PIXELS} pixels")
        raise _unreadable(name, found) from error
    except _DAMAGE as error:
        no_image = isinstance(error, UnidentifiedImageError)
        reason = "it is not an image" if no_image else str(error) or type(error).__name__
        raise _unreadable(name, reason) from error


def _formats(data: bytes, name: Path | str) -> list[str]:
    """Return the formats that Pillow may open the bytes as; HEIC needs a package of its own."""
    from PIL import Image

    Image.init()
    formats = [form for form in _FORMATS if form in Image.OPEN]
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]:
        if not is_installed("heif"):
            raise DatasetError(missing("heif", f"{name}, a HEIC photograph,"))
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    return formats


def _decode_bands(data: bytes) -> Image.Image:
    """Decode a TIFF of a form that Pillow does not know: of other bands or other depths."""
    import rasterio
    from PIL import Image
    from rasterio.enums import ColorInterp
    from rasterio.errors import RasterioError

    try:
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as image:
            check_size(image.height, image.width)
            kinds = list(image.colorinterp)
            visible = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            bands = [1, 2, 3] if image.count >= 3 else [1, 1, 1]
            if all(kind in kinds for kind in visible):
                bands = [kinds.index(kind) + 1 for kind in visible]
            if image.dtypes[0] not in ("uint8", "uint16"):
                raise ValueError(
                    f"it has {image.count} bands of {image.dtypes[0]}, whose range is not known"
                )
            pixels_3HW = image.read(bands)
    except RasterioError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    if pixels_3HW.dtype != np.uint8:
        pixels_3HW = (pixels_3HW.astype(np.uint32) + 128) // 257
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels_3HW, 0, -1), np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to eight-bit RGB, with the EXIF of the original."""
    from PIL import Image

    if image.mode in _GREY_16_BITS or (image.mode == "I" and image.format == "PNG"):
        deep_HW = np.asarray(image).astype(np.uint32).clip(max=65535)
        converted = Image.fromarray(((deep_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels have mode {image.mode}, whose range is not known")
    else:
        # Pillow wants transparent palettes to become colours first.
        whole = (
            image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
        )
        converted = whole.convert("RGB")
    with suppress(*_DAMAGE):  # damaged EXIF is left out
        converted.getexif().update(image.getexif())
    return converted


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        turned: Image.Image = ImageOps.exif_transpose(image)
        return turned
    except _DAMAGE:
        return image


def _unreadable(name: Path | str, reason: str) -> DatasetError:
    return DatasetError(
        f"{name} is not a readable image of up to 67 million pixels: {reason}; restore the file."
    )


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as eight-bit RGB, turned upright as its EXIF says."""
    return _upright(_to_rgb(image))
