"""Write rasters as cloud-optimised GeoTIFFs, atomically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.io import MemoryFile

from panoseg.classes import ClassTable
from panoseg.files import atomic
from panoseg.panoptic.panoptic import Panoptic

NO_DATA_CLASS = 255
TABLE_TAG = "CLASS_TABLE"
"""Tag of a band that names its class table; beside it stands a tag for each class, its id with its name."""


def write_classes(path: Path | str, picture: Panoptic, data_HW: np.ndarray, grid: GeoBox, table: ClassTable) -> None:
    """The class of each pixel: uint8 with the table's colours and names, 255 where the cube has no data.

    Pixels outside of all segments have the background class.
    """
    background = table.background if table.background is not None else NO_DATA_CLASS
    classes_HW = np.where(data_HW, picture.classes_HW(none=background), NO_DATA_CLASS).astype(np.uint8)
    write_class_raster(path, classes_HW, grid, table)


def write_class_raster(path: Path | str, classes_HW: np.ndarray, grid: GeoBox, table: ClassTable) -> None:
    """The class of each pixel, uint8, 255 for no data, with the table's colours and names."""
    colours = {entry.id: _rgb(entry.colour) for entry in table.classes} | {NO_DATA_CLASS: (0, 0, 0, 0)}
    names = {str(entry.id): entry.name for entry in table.classes}
    _write(path, classes_HW, grid, NO_DATA_CLASS, colours, names | {TABLE_TAG: table.name})


def write_segments(path: Path | str, picture: Panoptic, grid: GeoBox) -> None:
    """The segment of each pixel: int32 identifiers as in ``parcels.parquet``, 0 for none."""
    _write(path, picture.segment_HW, grid, 0, None, {})


def _rgb(colour: str) -> tuple[int, int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255


def _write(
    path: Path | str,
    values_HW: np.ndarray,
    grid: GeoBox,
    nodata: int,
    colours: dict[int, tuple[int, int, int, int]] | None,
    tags: dict[str, str],
) -> None:
    profile = {
        "driver": "COG",
        "height": values_HW.shape[0],
        "width": values_HW.shape[1],
        "count": 1,
        "dtype": values_HW.dtype,
        "crs": grid.crs.to_wkt() if grid.crs else None,
        "transform": grid.affine,
        "nodata": nodata,
        "compress": "deflate",
        # Identifiers and classes have no mean.
        "overview_resampling": "nearest",
    }
    # Through memory, because GDAL closes a file that a full disk has cut off without a word.
    with MemoryFile() as file:
        with file.open(**profile) as target:
            target.write(values_HW, 1)
            if colours:
                target.write_colormap(1, colours)
            target.update_tags(1, **tags)
        with atomic(path) as temporary:
            temporary.write_bytes(file.getbuffer())
