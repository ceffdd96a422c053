"""Pictures as cameras and programs write them, and pictures that are none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

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
