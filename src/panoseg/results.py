"""What users do with a ``Panoptic``: plot it, write it in COCO's format, turn it into polygons.

These functions are the methods ``plot``, ``to_coco`` and ``to_geodataframe`` of ``Panoptic``. They
live here because they use packages that build on the result type.

Shape suffixes: H W pixels, C bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.errors import PanopticFormatError
from panoseg.panoptic.draw import draw
from panoseg.panoptic.panoptic import Panoptic

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame, GeoSeries
    from matplotlib.axes import Axes

_RED_GREEN_BLUE = (2, 1, 0)
"""B04, B03 and B02 in PASTIS's order of bands."""
_STRETCH = (2, 98)
"""Percentiles of reflectance that are drawn black and white."""
_SMALLEST_SIDE = 512
"""Small segmentations are enlarged to at least this many drawn pixels, so that borders are thin."""
_SQUARE_METRES_PER_HECTARE = 10_000


def plot(
    result: Panoptic,
    image: np.ndarray | None = None,
    ax: Axes | None = None,
    *,
    table: ClassTable | None = None,
    alpha: float = 0.6,
) -> Axes:
    """Draw a segmentation in the colours of its classes; see ``Panoptic.plot``."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    table = _table_of(result, table)
    height, width = result.segment_HW.shape
    background_HW3 = None if image is None else _displayed(np.asarray(image), height, width)
    scale = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    drawn = draw(result, table, background_HW3, alpha, scale=scale)
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 6), layout="compressed")
    ax.imshow(drawn, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    ax.set_axis_off()
    present = np.unique(result.segments.class_ids).tolist()
    if present:
        ax.legend(
            handles=[
                Patch(facecolor=table[each].colour, edgecolor="grey", label=table[each].name)
                for each in present
            ],
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            fontsize="small",
        )
    return ax


def to_coco(result: Panoptic, folder: Path | str, *, table: ClassTable | None = None) -> Path:
    """Write a segmentation in COCO's panoptic format; see ``Panoptic.to_coco``."""
    from panoseg.coco.format import write_coco
    from panoseg.files import new_folder

    table = _table_of(result, table)
    path = Path(folder) / "panoptic.json"
    new_folder(path.parent)
    write_coco(path, [("image.png", result)], table)
    return path


def to_geodataframe(
    result: Panoptic,
    transform: Affine,
    crs: object,
    *,
    table: ClassTable | None = None,
    tolerance_pixels: float = 1.0,
) -> GeoDataFrame:
    """Turn the things into polygons; see ``Panoptic.to_geodataframe``."""
    import geopandas as gpd

    from panoseg.maps.outlines import polygonise

    table = _table_of(result, table)
    things = result.keep(result.segments.is_thing)
    _, outlines = polygonise(things.segment_HW, transform, tolerance_pixels)
    rows = things.segments
    parcels = gpd.GeoDataFrame(
        {
            "id": rows.ids,
            "class": rows.class_ids,
            "name": [table[class_id].name for class_id in rows.class_ids.tolist()],
            "score": rows.scores,
        },
        geometry=gpd.GeoSeries(outlines, crs=crs),
    )
    parcels.insert(4, "area_ha", _square_metres(parcels.geometry) / _SQUARE_METRES_PER_HECTARE)
    return parcels


def _table_of(result: Panoptic, table: ClassTable | None) -> ClassTable:
    """Return the class table given, or that of the segmentation."""
    found = table or result.table
    if found is None:
        raise PanopticFormatError(
            "This segmentation does not know the names of its classes; pass table=, e.g. "
            "table=panoseg.classes.PASTIS."
        )
    return found


def _displayed(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn a photograph or Sentinel-2 reflectance into uint8, H x W x 3."""
    if image.dtype == np.uint8 and image.shape == (height, width, 3):
        return image
    if image.ndim != 3 or image.shape[0] < 4 or image.shape[1:] != (height, width):
        raise PanopticFormatError(
            f"The image has shape {image.shape} and type {image.dtype}; pass uint8 of "
            f"{height} x {width} x 3, or reflectance of C x {height} x {width} with the bands B02, "
            "B03, B04 first and at least four in all."
        )
    colours_HW3 = np.moveaxis(image[list(_RED_GREEN_BLUE)], 0, -1).astype(np.float32)
    valid_HW3 = np.isfinite(colours_HW3)
    if not valid_HW3.any():
        return np.zeros((height, width, 3), np.uint8)
    # One stretch for all three bands: separate ones would change the colours.
    low, high = np.percentile(colours_HW3[valid_HW3], _STRETCH)
    stretched_HW3 = (np.where(valid_HW3, colours_HW3, low) - low) / max(high - low, 1e-6)
    return np.asarray((255 * stretched_HW3.clip(0, 1)).round().astype(np.uint8))


def _square_metres(outlines: GeoSeries) -> np.ndarray:
    """Return areas, on the ellipsoid where the coordinates are degrees."""
    crs = outlines.crs
    if crs is None or not crs.is_geographic:
        metres = 1.0 if crs is None else crs.axis_info[0].unit_conversion_factor
        return np.asarray(outlines.area) * metres**2
    geod = crs.get_geod()
    return np.array([abs(geod.geometry_area_perimeter(outline)[0]) for outline in outlines])
