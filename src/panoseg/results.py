"""What users do with a ``Panoptic``: plot it, write it in COCO's format, turn it into polygons.

These functions are the methods ``plot``, ``to_coco`` and ``to_geodataframe`` of ``Panoptic``. They
live here because they use packages that build on the result type.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.errors import PanopticFormatError
from panoseg.panoptic import Panoptic

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame, GeoSeries
    from matplotlib.axes import Axes

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
    from panoseg.pictures import plot_segmentation

    return plot_segmentation(result, _table_of(result, table), image, ax, alpha)


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


def _square_metres(outlines: GeoSeries) -> np.ndarray:
    """Return areas, on the ellipsoid where the coordinates are degrees."""
    crs = outlines.crs
    if crs is None or not crs.is_geographic:
        metres = 1.0 if crs is None else crs.axis_info[0].unit_conversion_factor
        return np.asarray(outlines.area) * metres**2
    geod = crs.get_geod()
    return np.array([abs(geod.geometry_area_perimeter(outline)[0]) for outline in outlines])
