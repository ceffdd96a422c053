"""Read scenes from SAFE archives of Sentinel-2, folders or .zip, without unpacking them.

What a scene is follows from the product's own metadata. Archives are not trusted: paths out of the
archive, links, sizes that no product has, and XML with entities are refused. A refused archive is
left out; the others are used.

Sources: ESA, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), issue 14:
MTD_MSIL2A.xml, MTD_TL.xml.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from shapely.geometry.base import BaseGeometry

from panoseg.errors import CubeError
from panoseg.imagery.remote import open_raster
from panoseg.imagery.scenes import (
    ITEM_ERRORS,
    Scene,
    SceneAsset,
    parse_utc,
    processing_baseline,
    radiometry_of_asset,
)
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION, band_name

PRODUCT_FILE = "MTD_MSIL2A.xml"
_L1C_FILE = "MTD_MSIL1C.xml"
_BAND_OF_ID = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B09",
    "B10",
    "B11",
    "B12",
)
_IMAGE = re.compile(r"_(B\d[\dA]|SCL)_([126]0)m", re.ASCII)
_SUFFIXES = (".jp2", ".tif")  # GeoTIFF in the products of some processing centres
MAX_XML_BYTES = 32 * 1024**2
"""Of one of the metadata files of a product."""
_LARGEST_IMAGE_BYTES = 2 * 1024**3
MAX_ENTRIES = 100_000
"""Files in an archive."""
_MOST_GRANULES = 100
_LARGEST_SIDE = 20_000  # pixels; a tile has 10,980
# JPEG 2000 can hardly be compressed; what shrinks by so much is made to fill a disk.
_LARGEST_RATIO, _RATIO_FROM_BYTES = 200, 1024**2


class _RefusedError(Exception):
    """An archive is not used; the message says why in a few words."""


# What an archive may raise while it is read.
_DAMAGE = (
    _RefusedError,
    RasterioError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    *ITEM_ERRORS,
)


def safe_scenes(folder: Path | str) -> tuple[list[Scene], dict[str, str]]:
    """Return the scenes of all archives in ``folder`` or below, by time, and the unused archives.

    There is one scene for each granule; of two with one name the first is taken. Pixels are not
    read.

    Args:
        folder: A folder of archives, or one archive.

    Returns:
        The scenes, and of each archive that cannot be used name and reason.

    Raises:
        CubeError: No archive can be used.
    """
    folder = Path(folder)
    scenes: dict[str, Scene] = {}
    broken: dict[str, str] = {}
    archives = list(_archives(folder))
    for path in archives:
        try:
            zipped = path.suffix.lower() == ".zip"
            archive: _Archive = _ZipArchive(path) if zipped else _FolderArchive(path)
            for scene in _scenes(archive):
                scenes.setdefault(scene.id, scene)
        except _DAMAGE as error:
            broken[path.name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if not scenes:
        name, reason = next(iter(broken.items()), ("", ""))
        found = (
            f"None of {len(archives)} archives in {folder} can be used (the first, {name}:"
            f" {reason})"
            if archives
            else f"{folder} holds no SAFE archive"
        )
        raise CubeError(
            f"{found}: give products of Sentinel-2 L2A, as .SAFE folders or .zip files of them."
        )
    return sorted(scenes.values(), key=lambda scene: (scene.time, scene.id)), broken


def _archives(folder: Path) -> Iterator[Path]:
    if not folder.exists():
        raise CubeError(f"{folder} does not exist: give a folder of SAFE archives.")
    if folder.is_file() or (folder / PRODUCT_FILE).is_file() or (folder / _L1C_FILE).is_file():
        yield folder
        return
    for path in sorted([*folder.rglob("*.SAFE"), *folder.rglob("*.zip"), *folder.rglob("*.ZIP")]):
        if path.is_file() == (path.suffix.lower() == ".zip"):
            yield path


class _Archive(ABC):
    """The files of one product, by their path inside of it."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if there is none."""

    @abstractmethod
    def locate(self, name: str) -> str | None:
        """Return what GDAL opens for an image; None if there is none. ``name`` has no suffix."""


class _FolderArchive(_Archive):
    """A product as a folder."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()

    def read(self, name: str) -> bytes | None:
        path = self._inside(name)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return _bounded(file.read(MAX_XML_BYTES + 1), name)

    def locate(self, name: str) -> str | None:
        paths = [self._inside(name + suffix) for suffix in _SUFFIXES]
        return next((str(path) for path in paths if path.is_file()), None)

    def _inside(self, name: str) -> Path:
        """Return the path of a file, links followed, if it lies in the product."""
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise _RefusedError(f"points to {name}, outside of the product")
        return path


class _ZipArchive(_Archive):
    """A product in a .zip file, read in place."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        with zipfile.ZipFile(self._path) as archive:
            entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise _RefusedError(f"holds {len(entries)} files, more than any product")
        for entry in entries:
            _check_entry(entry)
        self._entries = {entry.filename: entry for entry in entries}
        tops = {PurePosixPath(name).parts[0] for name in self._entries if name.strip("/")}
        self._top = next((top for top in sorted(tops) if top.endswith(".SAFE")), None)
        if self._top is None:
            raise _RefusedError("holds no .SAFE folder")

    def read(self, name: str) -> bytes | None:
        entry = self._entries.get(f"{self._top}/{name}")
        if entry is None:
            return None
        with zipfile.ZipFile(self._path) as archive, archive.open(entry) as file:
            return _bounded(file.read(MAX_XML_BYTES + 1), name)

    def locate(self, name: str) -> str | None:
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise _RefusedError(f"points to {name}, outside of the product")
        names = [f"{self._top}/{name}{suffix}" for suffix in _SUFFIXES]
        return next(
            (f"/vsizip/{{{self._path}}}/{found}" for found in names if found in self._entries), None
        )


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that no product has."""
    name = entry.filename
    if (
        name.startswith(("/", "\\"))
        or ".." in re.split(r"[/\\]", name)
        or ":" in name.split("/")[0]
    ):
        raise _RefusedError(f"holds {name!r}, a path out of the archive")
    # The upper half of the attributes holds the Unix mode.
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise _RefusedError(f"holds the link {name!r}")
    if entry.flag_bits & 0x1:
        raise _RefusedError("is encrypted")
    expands = entry.file_size > _RATIO_FROM_BYTES and entry.file_size > _LARGEST_RATIO * max(
        entry.compress_size, 1
    )
    if entry.file_size > _LARGEST_IMAGE_BYTES or expands:
        raise _RefusedError(
            f"holds {name!r} of {entry.file_size} bytes in {entry.compress_size}, as no product"
            " does"
        )


def _bounded(content: bytes, name: str) -> bytes:
    if len(content) > MAX_XML_BYTES:
        raise _RefusedError(f"{name} is longer than {MAX_XML_BYTES} bytes")
    return content


def _parsed(content: bytes, name: str) -> Element:
    """Return the root of an XML document.

    A document type is refused, so that entities can neither expand nor fetch.
    """
    # expat itself, because ElementTree's parser offers no handler for document types.
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise _RefusedError(f"{name} declares a document type")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise _RefusedError(f"{name} is not XML ({error})") from error


def _scenes(archive: _Archive) -> Iterator[Scene]:
    content = archive.read(PRODUCT_FILE)
    if content is None:
        if archive.read(_L1C_FILE) is not None:
            raise _RefusedError(
                "is L1C, top of the atmosphere; L2A is needed: download it, or make it with Sen2Cor"
            )
        raise _RefusedError(f"has no {PRODUCT_FILE}")
    product = _parsed(content, PRODUCT_FILE)
    if _text(product, "PROCESSING_LEVEL").replace("-", " ") not in ("Level 2A", "Level 2Ap"):
        raise _RefusedError(f"is {_text(product, 'PROCESSING_LEVEL')}; Level-2A is needed")
    granules = [entry for entry in product.iter("Granule") if entry.find("IMAGE_FILE") is not None]
    if not 0 < len(granules) <= _MOST_GRANULES:
        raise _RefusedError(f"lists {len(granules)} granules with images")
    for granule in granules:
        yield _scene(archive, product, granule, alone=len(granules) == 1)


def _scene(archive: _Archive, product: Element, granule: Element, *, alone: bool) -> Scene:
    """Return the scene of one granule.

    Args:
        archive: The product.
        product: Root of its MTD_MSIL2A.xml.
        granule: The element ``Granule`` in it.
        alone: Whether it is the only granule; its scene then has the name of the product.
    """
    images = [(entry.text or "").strip() for entry in granule.iter("IMAGE_FILE")]
    folder = "/".join(images[0].split("/")[:2])
    content = archive.read(f"{folder}/MTD_TL.xml")
    if content is None:
        raise _RefusedError(f"has no {folder}/MTD_TL.xml")
    tile = _parsed(content, "MTD_TL.xml")
    uri = _text(product, "PRODUCT_URI").removesuffix(".SAFE")
    time = parse_utc(_text(tile, "SENSING_TIME"))
    assets = _assets(archive, product, images, uri)
    if not assets:
        raise _RefusedError(f"lacks the images of {folder}")
    for asset in assets.values():
        _check_image(asset.href)
    baseline = processing_baseline(_properties(product)) or 0.0
    number = _text(tile, "HORIZONTAL_CS_CODE").removeprefix("EPSG:")
    epsg = int(number) if number.isdecimal() else 0
    return Scene(
        uri if alone else f"{uri}/{folder.split('/')[-1]}",
        time,
        assets,
        _outline(tile),
        baseline,
        epsg,
    )


def _assets(
    archive: _Archive, product: Element, images: list[str], name: str
) -> dict[str, SceneAsset]:
    """Return the finest existing file of each band."""
    scale = 1 / float(_text(product, "BOA_QUANTIFICATION_VALUE"))
    offsets = {
        _BAND_OF_ID[int(entry.attrib["band_id"])]: float(entry.text or 0) * scale
        for entry in product.iter("BOA_ADD_OFFSET")
    }
    nodata = next(
        (
            float(_text(entry, "SPECIAL_VALUE_INDEX"))
            for entry in product.iter("Special_Values")
            if _text(entry, "SPECIAL_VALUE_TEXT") == "NODATA"
        ),
        0.0,
    )
    properties = _properties(product)
    found: dict[str, SceneAsset] = {}
    for image in images:
        match = _IMAGE.search(image)
        band = band_name(match[1]) if match else None
        if (
            match is None
            or band is None
            or (band in found and found[band].resolution_m <= float(match[2]))
        ):
            continue
        href = archive.locate(image)
        if href is not None:
            stated = (
                {"offset": offsets[band]}
                if band in offsets and band != SCENE_CLASSIFICATION
                else {}
            )
            described = {"raster:bands": [{"scale": scale, "nodata": nodata, **stated}]}
            found[band] = SceneAsset(
                href, radiometry_of_asset(described, properties, band, name), float(match[2])
            )
    return found


def _properties(product: Element) -> dict[str, str]:
    """Return the properties that a STAC item of the product would have."""
    return {"s2:processing_baseline": _text(product, "PROCESSING_BASELINE")}


def _check_image(href: str) -> None:
    """Refuse an image that would fill memory, by its header."""
    with open_raster(href) as source:
        if max(source.shape) > _LARGEST_SIDE:
            raise _RefusedError(
                f"has an image of {source.height} x {source.width} pixels, as no product does"
            )


def _outline(tile: Element) -> BaseGeometry:
    """Return the square of a tile, in degrees."""
    size = next(entry for entry in tile.iter("Size") if entry.attrib["resolution"] == "10")
    place = next(entry for entry in tile.iter("Geoposition") if entry.attrib["resolution"] == "10")
    height, width = (int(_text(size, name)) for name in ("NROWS", "NCOLS"))
    if not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
        raise _RefusedError(f"states a tile of {height} x {width} pixels")
    left, top = (float(_text(place, name)) for name in ("ULX", "ULY"))
    box = (left, top - 10 * height, left + 10 * width, top)
    grid = GeoBox.from_bbox(box, crs=_text(tile, "HORIZONTAL_CS_CODE"), resolution=10)
    outline = grid.extent.to_crs("EPSG:4326").geom
    if not np.isfinite(shapely.get_coordinates(outline)).all():
        raise _RefusedError("states a tile at an impossible position")
    return outline


def _text(parent: Element, name: str) -> str:
    """Return the text of the first element of that name below ``parent``."""
    entry = next(parent.iter(name), None)
    if entry is None or not (entry.text or "").strip():
        raise _RefusedError(f"its metadata lack {name}")
    return (entry.text or "").strip()
