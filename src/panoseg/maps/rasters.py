"""Write rasters of any size as cloud-optimised GeoTIFFs.

A ``RawRaster`` is first filled window by window: raw numbers in a file without a header.
``write_cog`` then converts it with GDAL, which reads it through a small VRT header.
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
from panoseg.cube.season import Window
from panoseg.errors import OutputError
from panoseg.files import atomic, output_error

NO_DATA_CLASS = 255
NO_CONFIDENCE = 255
TABLE_TAG = "CLASS_TABLE"
"""Band tag with the name of the class table. Each class has a tag too: its id, with its name."""
_GDAL_TYPES = {"uint8": "Byte", "int32": "Int32"}
_BLOCK_ROWS = 512
"""Rows of a block of GDAL's cloud-optimised GeoTIFFs, which are verified one row of blocks at a
time.
"""
_CACHE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class RasterKind:
    """What the numbers of a single-band raster mean."""

    dtype: str
    """uint8 or int32."""
    nodata: int
    """The no-data value."""
    colours: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """Colour table: red, green, blue and alpha (0-255) by value; empty for none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the band."""


SEGMENTS = RasterKind("int32", 0)
"""The segment of each pixel: ids as in ``parcels.parquet``, 0 for none."""
CONFIDENCE = RasterKind("uint8", NO_CONFIDENCE, tags={"UNIT": "percent"})
"""The confidence of each pixel's parcel in percent; 255 outside of parcels."""


def class_kind(table: ClassTable) -> RasterKind:
    """Return the kind of a class raster: uint8, 255 for no data, with colours and class names."""
    colours = {}
    for entry in table.classes:
        red, green, blue = bytes.fromhex(entry.colour[1:])
        colours[entry.id] = (red, green, blue, 255)
    names = {str(entry.id): entry.name for entry in table.classes}
    return RasterKind(
        "uint8",
        NO_DATA_CLASS,
        colours | {NO_DATA_CLASS: (0, 0, 0, 0)},
        names | {TABLE_TAG: table.name},
    )


def background_class(table: ClassTable) -> int:
    """Return the class of pixels outside of all segments, ``NO_DATA_CLASS`` if there is none."""
    return table.background if table.background is not None else NO_DATA_CLASS


class RawRaster:
    """An H x W array in a file without a header, written and read window by window.

    Every window must be written before the file is read.

    Args:
        path: The file; created by the first write.
        shape_HW: Shape of the whole raster.
        kind: Type and meaning of its numbers.
    """

    def __init__(self, path: Path, shape_HW: tuple[int, int], kind: RasterKind) -> None:
        self.path, self.shape_HW, self.kind = path, shape_HW, kind
        self.dtype = np.dtype(kind.dtype)

    def write(self, window: Window, values_HW: np.ndarray) -> None:
        """Write a window; raises ``OutputError`` for a full disk."""
        rows = range(window.top, window.rows.stop)
        values_HW = values_HW.astype(self.dtype, copy=False)
        try:
            # Without O_BINARY, which is Windows' own, it would change the bytes of line ends.
            how = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self.path, how, 0o666)
            try:
                for row, values_W in zip(rows, values_HW, strict=True):
                    start = (row * self.shape_HW[1] + window.left) * self.dtype.itemsize
                    content = values_W.tobytes()
                    os.lseek(descriptor, start, os.SEEK_SET)
                    # On a nearly full disk a write may stop early without an error.
                    while content:
                        content = content[os.write(descriptor, content) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(self.path, error) from error

    def read(self, window: Window) -> np.ndarray:
        """Read a window into memory."""
        return np.array(
            np.memmap(self.path, self.dtype, "r", shape=self.shape_HW)[window.rows, window.columns]
        )

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def write_cog(path: Path | str, raw: RawRaster, grid: GeoBox) -> None:
    """Write a raw raster as a cloud-optimised GeoTIFF with overviews, atomically.

    Memory grows slowly, and only with the width of the raster.

    Raises:
        OutputError: If the file cannot be written, or was cut off by a full disk.
    """
    header = raw.path.with_name(f"{raw.path.name}.vrt")
    options = {
        "COMPRESS": "DEFLATE",
        "OVERVIEW_RESAMPLING": "NEAREST",  # ids and classes have no mean
        "BIGTIFF": "IF_SAFER",
    }
    with atomic(path, (RasterioError,)) as temporary:
        try:
            header.write_text(_vrt_header(raw, grid), encoding="utf-8")
            # rasterio.Env takes bytes here; GDAL's own setting of this name is in MB.
            with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
                rasterio.shutil.copy(str(header), str(temporary), driver="COG", **options)
                _check_written(temporary, raw, Path(path))
        finally:
            with suppress(OSError):
                header.unlink(missing_ok=True)


def _check_written(written: Path, raw: RawRaster, path: Path) -> None:
    """Raise ``OutputError`` if a file lacks pixels: GDAL ignores a full disk when it closes one."""
    height, width = raw.shape_HW
    with rasterio.open(written) as source:
        for top in range(0, height, _BLOCK_ROWS):
            strip = Window(top, 0, min(_BLOCK_ROWS, height - top), width)
            found_HW = source.read(1, window=rasterio.windows.Window(0, top, width, strip.height))
            if not np.array_equal(found_HW, raw.read(strip)):
                raise OutputError(f"{path} was cut off. Free some space, then run again.")


def _vrt_header(raw: RawRaster, grid: GeoBox) -> str:
    """Return the VRT document through which GDAL reads a raw raster."""
    height, width = raw.shape_HW
    size, kind = raw.dtype.itemsize, raw.kind
    crs = f"<SRS>{escape(grid.crs.to_wkt())}</SRS>" if grid.crs else ""
    transform = ", ".join(repr(float(value)) for value in grid.affine.to_gdal())
    colours = ""
    if kind.colours:
        entries = (kind.colours.get(number, (0, 0, 0, 255)) for number in range(256))
        rows = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*row) for row in entries)
        colours = f"<ColorInterp>Palette</ColorInterp><ColorTable>{rows}</ColorTable>"
    tags = "".join(
        f"<MDI key={quoteattr(name)}>{escape(value)}</MDI>" for name, value in kind.tags.items()
    )
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{crs}'
        f"<GeoTransform>{transform}</GeoTransform>"
        f'<VRTRasterBand dataType="{_GDAL_TYPES[kind.dtype]}" band="1" subClass="VRTRawRasterBand">'
        f"<Metadata>{tags}</Metadata><NoDataValue>{kind.nodata}</NoDataValue>{colours}"
        f'<SourceFilename relativeToVRT="1">{escape(raw.path.name)}</SourceFilename>'
        f"<ImageOffset>0</ImageOffset><PixelOffset>{size}</PixelOffset>"
        f"<LineOffset>{size * width}</LineOffset><ByteOrder>LSB</ByteOrder>"
        "</VRTRasterBand></VRTDataset>"
    )


def write_class_raster(
    path: Path | str, classes_HW: np.ndarray, grid: GeoBox, table: ClassTable
) -> None:
    """Write the class of each pixel (uint8, 255 for no data) with the table's colours and names."""
    path = Path(path).absolute()
    height, width = classes_HW.shape
    raw = RawRaster(
        path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part.raw"),
        (height, width),
        class_kind(table),
    )
    try:
        raw.write(Window(0, 0, height, width), classes_HW)
        write_cog(path, raw, grid)
    finally:
        raw.remove()
