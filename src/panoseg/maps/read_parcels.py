"""Files of parcels that anybody made, read with suspicion: what comes out are polygons on known
land.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import GeometryType, Polygon
from shapely.geometry.base import BaseGeometry

from panoseg.errors import ParcelsError

_FORMATS = "GeoParquet, GeoPackage, GeoJSON or Shapefile"
# GDAL's small XML files that stand for other files, also on other machines.
_REFERENCE = re.compile(rb"<(OGR|GDAL|VRT)\w+")
_HEAD_BYTES = 65_536
_LEFT_OUT = "rows without area"
_COUNT_LEFT_OUT = "number of rows without area"
_EDGE_PIECES = 256
_FARTHEST = 1e9  # in any unit that maps are made in
_AREAL = re.compile("Polygon|Surface|Unknown|Collection")


def read_parcels(path: Path | str, area: gpd.GeoSeries | None = None) -> gpd.GeoDataFrame:
    """Parcels of any origin: GeoParquet, GeoPackage, GeoJSON, Shapefile. Rows without area are left
    out.

    area: only rows that meet its bounding box are kept; where the format allows, the others are not
    even read. The result may have no rows where the file has none. Raises ``ParcelsError`` for what
    cannot be read, has several layers of polygons, rows but no polygons, coordinates that are no
    numbers, and no coordinate system or one that they do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise ParcelsError(f"{path} does not exist", "a file of parcels", "check the path")
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters of them is said below
            parcels = _read(path, area)
    except ParcelsError:
        raise
    except (
        Exception
    ) as error:  # the readers of four formats raise what they like, also their own kinds of nothing
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].split(";")[0]
        raise ParcelsError(f"{path} cannot be read ({text})", _FORMATS, "write it again") from error
    if not isinstance(parcels, gpd.GeoDataFrame) or parcels.active_geometry_name is None:
        raise ParcelsError(
            f"{path} has no geometries", "polygons", "write it with its geometry column"
        )
    if parcels.crs is None:
        raise ParcelsError(
            f"{path} has no coordinate system",
            "one, in the file",
            "assign it: parcels.set_crs(...) in geopandas",
        )
    return _with_area(_on_earth(parcels, path), path)


def read_truth(path: Path | str) -> gpd.GeoDataFrame:
    """``read_parcels`` of true parcels, of which there must be one at least."""
    parcels = read_parcels(path)
    if not len(parcels):
        raise ParcelsError(f"{path} holds no parcel", "at least one", "choose another file")
    return parcels


def rows_without_area(parcels: gpd.GeoDataFrame) -> int:
    """How many rows of its file a table of ``read_parcels`` lacks because they have no area."""
    return int(parcels.attrs.get(_COUNT_LEFT_OUT, 0))


def _read(path: Path, area: gpd.GeoSeries | None) -> gpd.GeoDataFrame:
    head = b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    if head.startswith(b"PAR1") or any(
        path.glob("*.parquet")
    ):  # a large map's parcels are a folder of files
        return _near(gpd.read_parquet(path), area)
    if _REFERENCE.search(head):
        raise ParcelsError(
            f"{path} stands for other files", _FORMATS, "give the file that holds the parcels"
        )
    layers = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(path)]
    areal = [name for name, kind in layers if _AREAL.search(kind)]
    if len(areal) > 1:
        raise ParcelsError(
            f"{path} has {len(areal)} layers ({', '.join(areal)})",
            "one",
            "write the parcels into their own file",
        )
    # A layer of lines or a mere table is read too, so that the message can say what it holds.
    layer = (areal or [name for name, _ in layers])[0]
    crs = None if area is None else pyogrio.read_info(path, layer=layer)["crs"]
    box = None if area is None or crs is None else _box_around(area, crs)
    return pyogrio.read_dataframe(path, layer=layer, bbox=box)


def _box_around(area: gpd.GeoSeries, crs: CRS | str) -> tuple[float, ...]:
    """Left, bottom, right and top of an area in another coordinate system, in which its straight
    edges are bent.
    """
    return tuple(
        area.segmentize(max(area.length.max() / _EDGE_PIECES, 1e-9)).to_crs(crs).total_bounds
    )


def _near(parcels: gpd.GeoDataFrame, area: gpd.GeoSeries | None) -> gpd.GeoDataFrame:
    if area is None or not isinstance(parcels, gpd.GeoDataFrame) or parcels.crs is None:
        return parcels
    left, bottom, right, top = _box_around(area, parcels.crs)
    return parcels.cx[left:right, bottom:top]


def _on_earth(parcels: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """The same, unless outlines lie nowhere: no numbers, metres that are called degrees, a plane
    without a place.
    """
    outlines = np.asarray(parcels.geometry.values, dtype=object)
    coordinates, row = shapely.get_coordinates(outlines, return_index=True)
    wrong = np.unique(row[~np.isfinite(coordinates).all(axis=1)])
    if len(wrong):
        raise ParcelsError(
            f"{path}: {len(wrong)} of {len(parcels)} outlines, first in row {wrong[0]}, have"
            " coordinates that are not finite",
            "numbers",
            "mend them or take them out",
        )
    boxes_N4 = shapely.bounds(
        outlines[~(shapely.is_missing(outlines) | shapely.is_empty(outlines))]
    )
    nowhere = np.flatnonzero(~_have_a_place(boxes_N4, parcels.crs))
    if len(nowhere):
        west, south, east, north = boxes_N4[nowhere[0]]
        raise ParcelsError(
            f"{path}: coordinates from ({west:g}, {south:g}) to ({east:g}, {north:g}) are no place"
            f" in {parcels.crs.name}",
            "the coordinate system that they were made in",
            "assign it: parcels.set_crs(..., allow_override=True) in geopandas",
        )
    return parcels


def _have_a_place(boxes_N4: np.ndarray, crs: CRS) -> np.ndarray:
    """Whether both corners of each box are places on Earth."""
    try:
        to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        longitudes, latitudes = to_degrees.transform(boxes_N4[:, [0, 2]], boxes_N4[:, [1, 3]])
    except ProjError:
        return np.zeros(len(boxes_N4), bool)
    # Some projections wrap around for ever.
    placed_N2 = np.isfinite(longitudes) & (np.abs(latitudes) <= 90)
    return placed_N2.all(axis=1) & (np.abs(boxes_N4) < _FARTHEST).all(axis=1)


def _with_area(parcels: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """The rows with an area."""
    # Measured once mended: the two halves of an outline that crosses itself may cancel each other.
    usable = shapely.area(valid_outlines(parcels)) > 0
    if len(parcels) and not usable.any():
        kinds = ", ".join(sorted(set(parcels.geometry.geom_type.dropna()))) or "nothing"
        raise ParcelsError(
            f"{path} has no polygon with an area (rows: {len(parcels)}, of {kinds})",
            "polygons",
            "choose another file",
        )
    kept = parcels[usable].reset_index(drop=True)
    if len(kept) < len(parcels):  # worth a word: GDAL reads a damaged outline as none
        kept.attrs[_COUNT_LEFT_OUT] = len(parcels) - len(kept)
        kept.attrs[_LEFT_OUT] = (
            f"{len(parcels) - len(kept)} of {len(parcels)} rows of {path} have no area and were"
            " left out."
        )
    return kept


def left_out_notes(*tables: gpd.GeoDataFrame | None) -> tuple[str, ...]:
    """A sentence for each table of ``read_parcels`` whose file has rows that it lacks."""
    return tuple(
        table.attrs[_LEFT_OUT] for table in tables if table is not None and _LEFT_OUT in table.attrs
    )


def check_place(
    parcels: gpd.GeoDataFrame, path: Path | str, area: gpd.GeoSeries, of: Path | str
) -> None:
    """Raise ``ParcelsError`` unless the box around the parcels of the file ``path`` meets the one
    around the area of ``of``.
    """
    corners = (
        gpd.GeoSeries([shapely.box(*area.total_bounds)], crs=area.crs)
        .to_crs(parcels.crs)
        .total_bounds
    )
    bounds = parcels.total_bounds
    if not (np.all(corners[:2] < bounds[2:]) and np.all(bounds[:2] < corners[2:])):
        raise ParcelsError(
            f"{path} and {of} lie apart",
            "the same land",
            "check the files and their coordinate systems",
        )


def valid_outlines(parcels: gpd.GeoDataFrame) -> np.ndarray:
    """The parcels' outlines, each a valid Polygon or MultiPolygon.

    Outlines that cross themselves are mended. No outline, one without area, and what a coordinate
    system cannot hold become an empty one.
    """
    outlines = np.array(parcels.geometry.values, dtype=object)
    outlines[~np.isfinite(shapely.bounds(outlines)).all(axis=1)] = Polygon()
    invalid = ~shapely.is_valid(outlines)
    outlines[invalid] = shapely.make_valid(outlines[invalid])
    areal = np.isin(
        shapely.get_type_id(outlines), (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
    )
    outlines[~areal] = [_polygons_of(outline) for outline in outlines[~areal]]
    return outlines


def _polygons_of(outline: BaseGeometry) -> BaseGeometry:
    """Only the polygons of a collection: mending leaves lines where a ring had run back on
    itself.
    """
    parts = shapely.get_parts(shapely.get_parts(outline))
    return shapely.union_all(parts[shapely.get_type_id(parts) == GeometryType.POLYGON])
