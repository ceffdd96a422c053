"""SAFE archives for tests: real metadata, and small JPEG 2000 images of our own."""

from __future__ import annotations

import re
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

PRODUCT = "MTD_MSIL2A.xml"


def copy_metadata(product: Path, folder: Path) -> Path:
    """A product's metadata, writable, without images."""
    target = folder / product.name
    for path in product.rglob("*.*"):
        if path.is_file():
            place = target / path.relative_to(product)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


def write_images(
    safe: Path, size: int = 64, seed: int = 0, ending: str = ".jp2"
) -> dict[str, np.ndarray]:
    """An image for each band that the product lists, ``size`` pixels of 10 m from the tile's
    corner; numbers by band, finest.

    Numbers of a band are 1100 to 5000; SCL is vegetation with a cloud in its upper left quarter.
    """
    tile = next(safe.glob("GRANULE/*/MTD_TL.xml")).read_text()
    left, top = (float(re.search(rf"<{name}>(-?\d+)", tile)[1]) for name in ("ULX", "ULY"))
    crs = re.search(r"EPSG:\d+", tile)[0]
    random = np.random.default_rng(seed)
    numbers: dict[str, tuple[int, np.ndarray]] = {}
    for name in re.findall(r"<IMAGE_FILE>(.*?)</IMAGE_FILE>", (safe / PRODUCT).read_text()):
        match = re.search(r"_(B\w\w|SCL)_(\d\d)m$", name)
        if match is None or match[2] == "60":
            continue
        band, pixel = match[1], int(match[2])
        side = size * 10 // pixel
        values_HW = random.integers(1100, 5000, (side, side)).astype(np.uint16)
        if band == "SCL":
            values_HW = np.full((side, side), 4, np.uint8)
            values_HW[: side // 2, : side // 2] = 9
        write_image(
            safe / f"{name}{ending}", values_HW, Affine(pixel, 0, left, 0, -pixel, top), crs
        )
        if band not in numbers or pixel < numbers[band][0]:
            numbers[band] = pixel, values_HW
    return {band: values_HW for band, (_, values_HW) in numbers.items()}


def write_image(path: Path, values_HW: np.ndarray, transform: Affine, crs: str) -> None:
    """A lossless JPEG 2000 or GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values_HW.shape
    profile = {
        "height": height,
        "width": width,
        "count": 1,
        "dtype": values_HW.dtype,
        "crs": crs,
        "transform": transform,
    }
    lossless = (
        {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
        if path.suffix == ".jp2"
        else {"driver": "GTiff"}
    )
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.open(path, "w", **profile, **lossless) as target,
    ):
        target.write(values_HW, 1)


def zip_product(safe: Path, target: Path) -> Path:
    """A product as a .zip file, as the catalogues give it."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(safe.rglob("*")):
            archive.write(path, Path(safe.name) / path.relative_to(safe))
    return target


def another_granule(safe: Path) -> None:
    """Give a product a second granule, a copy of the first one tile to the east, as products had
    them until 2016.
    """
    product = (safe / PRODUCT).read_text()
    first = next(safe.glob("GRANULE/*"))
    other = first.with_name(first.name + "_2")
    shutil.copytree(first, other)
    granule = re.search(r"<Granule_List>.*?</Granule_List>", product, re.DOTALL)[0]
    (safe / PRODUCT).write_text(
        product.replace(granule, granule + granule.replace(first.name, other.name))
    )
    tile = (other / "MTD_TL.xml").read_text()
    (other / "MTD_TL.xml").write_text(
        re.sub(r"<ULX>(\d+)", lambda m: f"<ULX>{int(m[1]) + 109_800}", tile)
    )
