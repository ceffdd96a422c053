"""Rasters of any size: plain numbers on disk, window by window, then cloud-optimised GeoTIFFs,
atomically.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from panoseg.classes import ClassTable
from panoseg.cube.window import Window
from panoseg.errors import OutputError
from panoseg.files import atomic, output_error

NO_DATA_CLASS = 255
NO_CONFIDENCE = 255
TABLE_TAG = "CLASS_TABLE"
"""Tag of a band that names its class table; beside it stands a tag for each class, its id with its
name.
"""
_GDAL_TYPES = {"uint8": "Byte", "int32": "Int32"}
_BLOCK_ROWS = 512
"""Of GDAL's cloud-optimised GeoTIFFs, which are checked a line of blocks at a time."""
_CACHE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class RasterKind:
    """What the numbers of a raster are: ``dtype`` (uint8 or int32), the value of no data, colours
    (red, green, blue, alpha) and tags of the band.
    """

    dtype: str
    nodata: int
    colours: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


SEGMENTS = RasterKind("int32", 0)
"""The segment of each pixel: identifiers as in ``parcels.parquet``, 0 for none."""
CONFIDENCE = RasterKind("uint8", NO_CONFIDENCE, tags={"UNIT": "percent"})
"""The confidence of each pixel's parcel in percent, 255 where there is no parcel."""


def class_kind(table: ClassTable) -> RasterKind:
    """The class of each pixel, with the table's colours and names, 255 for no data."""
    colours = {entry.id: _rgb(entry.colour) for entry in table.classes} | {
        NO_DATA_CLASS: (0, 0, 0, 0)
    }
    return RasterKind(
        "uint8",
        NO_DATA_CLASS,
        colours,
        {str(entry.id): entry.name for entry in table.classes} | {TABLE_TAG: table.name},
    )


class PlainRaster:
    """A raster of H x W numbers in a file without a header, written and read a window at a time.

    Every window must be written before the file is read.
    """

    def __init__(self, path: Path, shape_HW: tuple[int, int], kind: RasterKind) -> None:
        self.path, self.shape_HW, self.kind = path, shape_HW, kind
        self.dtype = np.dtype(kind.dtype)

    def write(self, window: Window, values_HW: np.ndarray) -> None:
        """Write a window; raises ``OutputError`` for a full disk."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                for row, values_W in zip(
                    range(window.top, window.rows.stop),
                    values_HW.astype(self.dtype, copy=False),
                    strict=True,
                ):
                    _write_all(
                        descriptor,
                        values_W.tobytes(),
                        (row * self.shape_HW[1] + window.left) * self.dtype.itemsize,
                    )
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(self.path, error) from error

    def read(self, window: Window) -> np.ndarray:
        """A window, in memory."""
        return np.array(
            np.memmap(self.path, self.dtype, "r", shape=self.shape_HW)[window.rows, window.columns]
        )

    def remove(self) -> None:
        """Take the file away."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _write_all(descriptor: int, content: bytes, start: int) -> None:
    """A write may end early without an error where a disk is nearly full."""
    while content:
        written = os.pwrite(descriptor, content, start)
        content, start = content[written:], start + written


def write_cog(path: Path | str, plain: PlainRaster, grid: GeoBox) -> None:
    """Write a plain raster as a cloud-optimised GeoTIFF with overviews; memory grows with its width
    alone, and little.
    """
    header = plain.path.with_name(f"{plain.path.name}.vrt")
    with atomic(path, (RasterioError,)) as temporary:
        try:
            header.write_text(_header(plain, grid), encoding="utf-8")
            # Identifiers and classes have no mean.
            options = {
                "COMPRESS": "DEFLATE",
                "OVERVIEW_RESAMPLING": "NEAREST",
                "BIGTIFF": "IF_SAFER",
            }
            with rasterio.Env(
                GDAL_CACHEMAX=_CACHE_BYTES
            ):  # bytes here; GDAL's own setting of that name is in MB
                rasterio.shutil.copy(str(header), str(temporary), driver="COG", **options)
                _check_written(temporary, plain, Path(path))
        finally:
            with suppress(OSError):
                header.unlink(missing_ok=True)


def _check_written(written: Path, plain: PlainRaster, path: Path) -> None:
    """Raise ``OutputError`` where a file does not hold what was to be written: GDAL closes one that
    a full disk has cut off without a word.
    """
    height, width = plain.shape_HW
    with rasterio.open(written) as source:
        for top in range(0, height, _BLOCK_ROWS):
            strip = Window(top, 0, min(_BLOCK_ROWS, height - top), width)
            found_HW = source.read(1, window=rasterio.windows.Window(0, top, width, strip.height))
            if not np.array_equal(found_HW, plain.read(strip)):
                raise OutputError(
                    f"{path}: the file was cut off",
                    "a whole file",
                    "free some space, then run again",
                )


def _header(plain: PlainRaster, grid: GeoBox) -> str:
    """What tells GDAL how to read a plain raster."""
    height, width = plain.shape_HW
    size, kind = plain.dtype.itemsize, plain.kind
    system = f"<SRS>{escape(grid.crs.to_wkt())}</SRS>" if grid.crs else ""
    transform = ", ".join(repr(float(value)) for value in grid.affine.to_gdal())
    entries = (
        (kind.colours.get(number, (0, 0, 0, 255)) for number in range(256)) if kind.colours else ()
    )
    colours = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*colour) for colour in entries
    )
    table = (
        f"<ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable>" if colours else ""
    )
    tags = "".join(
        f"<MDI key={quoteattr(name)}>{escape(value)}</MDI>" for name, value in kind.tags.items()
    )
    return (
        f'<VRTDataset rasterXSize="{width}"'
        f' rasterYSize="{height}">{system}<GeoTransform>{transform}</GeoTransform>'
        f'<VRTRasterBand dataType="{_GDAL_TYPES[kind.dtype]}" band="1" subClass="VRTRawRasterBand">'
        f"<Metadata>{tags}</Metadata><NoDataValue>{kind.nodata}</NoDataValue>{table}"
        "<SourceFilename"
        f' relativeToVRT="1">{escape(plain.path.name)}</SourceFilename><ImageOffset>0</ImageOffset>'
        f"<PixelOffset>{size}</PixelOffset><LineOffset>{size * width}</LineOffset><ByteOrder>LSB</ByteOrder>"
        "</VRTRasterBand></VRTDataset>"
    )


def write_class_raster(
    path: Path | str, classes_HW: np.ndarray, grid: GeoBox, table: ClassTable
) -> None:
    """The class of each pixel, uint8, 255 for no data, with the table's colours and names."""
    path = Path(path).absolute()
    height, width = classes_HW.shape
    plain = PlainRaster(
        path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part.raw"),
        (height, width),
        class_kind(table),
    )
    try:
        plain.write(Window(0, 0, height, width), classes_HW)
        write_cog(path, plain, grid)
    finally:
        plain.remove()


def background_class(table: ClassTable) -> int:
    """The class of pixels outside of all segments; that of no data where the table has none."""
    return table.background if table.background is not None else NO_DATA_CLASS


def _rgb(colour: str) -> tuple[int, int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255
