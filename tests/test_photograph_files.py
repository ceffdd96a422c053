"""Pictures as cameras and programs write them, and pictures that are none."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image, features
from rasterio.enums import ColorInterp

from panoseg.data.photograph_files import decode_photograph, read_photograph
from panoseg.errors import DatasetError

COLOURS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def encoded(pixels: np.ndarray, form: str, mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG that says it is 60,000 x 60,000 pixels, with the right checksum."""
    data = bytearray(encoded(COLOURS, "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_colours_are_kept(form):
    np.testing.assert_array_equal(
        np.asarray(decode_photograph(encoded(COLOURS, form), "a")), COLOURS
    )


def test_opacity_is_left_out():
    np.testing.assert_array_equal(
        np.asarray(decode_photograph(encoded(COLOURS, "PNG", "RGBA"), "a")), COLOURS
    )


@pytest.mark.parametrize("pixels", [GREY, GREY.astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_grey_has_three_equal_colours_and_keeps_its_range(pixels):
    picture = np.asarray(decode_photograph(encoded(pixels, "PNG"), "a"))
    np.testing.assert_array_equal(picture, np.repeat(GREY[..., None], 3, axis=2))


def test_colours_of_print_are_those_of_a_screen():
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    picture = np.asarray(decode_photograph(encoded(flat, "JPEG", "CMYK", quality=100), "a")).astype(
        int
    )
    assert abs(picture - flat).max() <= 3


def test_a_camera_that_was_turned_gives_an_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # the first row of the file is the right side of the picture
    path = tmp_path / "a.png"
    path.write_bytes(encoded(COLOURS, "PNG", exif=exif))
    np.testing.assert_array_equal(read_photograph(path), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_that_nobody_can_read_says_nothing(form):
    data = encoded(COLOURS, form, exif=b"Exif\0\0no table at all")
    assert decode_photograph(data, "a").size == COLOURS.shape[1::-1]


def test_a_file_without_an_end_is_refused(tmp_path):
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    with pytest.raises(
        DatasetError, match=r"endless\.jpg is not a readable image .*it is not an ordinary file"
    ):
        read_photograph(tmp_path / "endless.jpg")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(COLOURS, "JPEG")[:400], "runcated"),
        (encoded(COLOURS, "PNG")[:900], ""),
        (bomb(), "more than 67108864 pixels"),
        (b"hello", "not an image"),
        (b"", "not an image"),
        (encoded(GREY.astype(np.float32), "TIFF"), "mode F"),
    ],
    ids=["cut JPEG", "cut PNG", "bomb", "text", "empty", "numbers without a range"],
)
def test_what_is_no_whole_picture_is_named_in_one_line(data, said):
    with pytest.raises(DatasetError, match=r"^holiday\.jpg is not a readable image ") as caught:
        decode_photograph(data, "holiday.jpg")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def heic(pixels: np.ndarray, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=-1, **options)
    return buffer.getvalue()


def close(found: Image.Image, pixels: np.ndarray, most: int = 12) -> bool:
    difference = np.abs(np.asarray(found).astype(int) - pixels.astype(int))
    return found.size == pixels.shape[1::-1] and difference.mean() < most


def test_photographs_of_telephones_are_read_whatever_their_names(monkeypatch):
    flat = np.zeros((64, 48, 3), np.uint8)
    flat[:32] = (200, 30, 60)
    data = heic(flat)
    assert close(decode_photograph(data, "iphone.heic"), flat)
    assert close(decode_photograph(data, "iphone.jpg"), flat)
    with pytest.raises(DatasetError, match=r"cut\.heic is not a readable image"):
        decode_photograph(data[: len(data) // 2], "cut.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DatasetError) as error:
        decode_photograph(data, "iphone.heic")
    assert str(error.value) == (
        "iphone.heic, a HEIC photograph, needs the extra 'heif': pip install 'panoseg[heif]'."
    )


@pytest.mark.parametrize(("form", "check"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000")])
def test_newer_forms_are_read(form, check):
    if not features.check(check):
        pytest.skip(f"Pillow was built without {form}")
    flat = np.zeros((64, 48, 3), np.uint8)
    flat[:32] = (200, 30, 60)
    assert close(decode_photograph(encoded(flat, form), "photo"), flat)


def tiff(bands_CHW: np.ndarray, **options) -> bytes:
    profile = {"driver": "GTiff", "count": len(bands_CHW), "dtype": bands_CHW.dtype.name}
    with warnings.catch_warnings(), rasterio.MemoryFile() as memory:
        warnings.simplefilter("ignore")
        height, width = bands_CHW.shape[1:]
        with memory.open(**profile, height=height, width=width, **options) as image:
            image.write(bands_CHW)
        return memory.read()


@pytest.mark.parametrize("bands", [3, 4, 5, 8])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_the_visible_bands_of_more_are_taken(bands, depth, interleave):
    bands_CHW = np.random.default_rng(0).integers(0, 255, (bands, 9, 14)).astype(np.uint8)
    stored = bands_CHW.astype(np.uint16) * 257 if depth == "uint16" else bands_CHW
    data = tiff(stored, interleave=interleave, photometric="RGB")
    found = np.asarray(decode_photograph(data, "field.tif"))
    np.testing.assert_array_equal(found, bands_CHW[:3].transpose(1, 2, 0))


def test_bands_in_another_order_are_found_by_what_they_are():
    bands_CHW = np.random.default_rng(0).integers(0, 255, (5, 9, 14)).astype(np.uint8)
    with warnings.catch_warnings(), rasterio.MemoryFile() as memory:
        warnings.simplefilter("ignore")
        with memory.open(
            driver="GTiff", count=5, dtype="uint8", height=9, width=14, photometric="MINISBLACK"
        ) as image:
            image.write(bands_CHW)
            kinds = ("undefined", "blue", "green", "red", "undefined")
            image.colorinterp = [ColorInterp[kind] for kind in kinds]
        data = memory.read()
    found = np.asarray(decode_photograph(data, "field.tif"))
    np.testing.assert_array_equal(found, bands_CHW[[3, 2, 1]].transpose(1, 2, 0))


def test_bands_whose_range_is_not_known_are_refused():
    with pytest.raises(DatasetError, match="5 bands of float32, whose range is not known"):
        decode_photograph(tiff(np.zeros((5, 4, 4), np.float32)), "field.tif")
