"""How the outlines of two tables of parcels overlap.

Shape suffixes: P parcels, T true parcels, X pairs that intersect, N outlines, U unsure polygons.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from panoseg.errors import ParcelsError
from panoseg.maps.outlines import shared_areas

_MOSTLY = 0.5


@dataclass(frozen=True)
class Overlap:
    """Areas of parcels, true parcels and their intersections. All areas: float64, square metres."""

    area_P: np.ndarray
    """Area of each parcel."""
    area_T: np.ndarray
    """Area of each true parcel."""
    parcel_X: np.ndarray
    """int64: row of the parcel of each pair."""
    true_X: np.ndarray
    """int64: row of the true parcel of each pair."""
    shared_X: np.ndarray
    """Area of the intersection of each pair."""
    inside_P: np.ndarray
    """Area of each parcel inside of declared land (the union of the true parcels)."""

    @classmethod
    def of(cls, outlines_P: np.ndarray, outlines_T: np.ndarray) -> Overlap:
        """Measure two lists of outlines, in metres."""
        parcel_X, true_X, shared_X = shared_areas(outlines_P, outlines_T)
        area_P = shapely.area(outlines_P)
        # True parcels may overlap slightly, which must not count twice.
        inside_P = np.minimum(np.bincount(parcel_X, shared_X, minlength=len(outlines_P)), area_P)
        return cls(area_P, shapely.area(outlines_T), parcel_X, true_X, shared_X, inside_P)


def without_unsure(outlines_N: np.ndarray, unsure_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut unsure land from outlines.

    Args:
        outlines_N: Valid polygons, in metres.
        unsure_U: Valid polygons of land that counts for nothing, in the same system.

    Returns:
        The outlines without that land, empty where more than half lay on it; and which of them are
        left (bool, N).
    """
    number_X, unsure_X = shapely.STRtree(unsure_U).query(outlines_N, predicate="intersects")
    cut_N, counts_N = outlines_N.copy(), np.ones(len(outlines_N), bool)
    numbers, starts = np.unique(number_X, return_index=True)
    for number, own_X in zip(numbers, np.split(unsure_X, starts[1:]), strict=True):
        unsure = shapely.union_all(unsure_U[own_X])
        left = shapely.difference(outlines_N[number], unsure)
        counts_N[number] = shapely.area(left) >= (1 - _MOSTLY) * shapely.area(outlines_N[number])
        cut_N[number] = left if counts_N[number] else shapely.Polygon()
    return cut_N, counts_N


def system_in_metres(parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> pyproj.CRS:
    """Return a coordinate system in metres for both tables.

    Raises:
        ParcelsError: Both are in degrees, and no UTM zone fits.
    """
    crs: pyproj.CRS = truth.crs if not truth.crs.is_geographic else parcels.crs
    if crs.is_geographic:
        try:
            crs = truth.estimate_utm_crs()
        except RuntimeError as error:
            raise ParcelsError(
                "Parcels and true parcels are in degrees, and there is no UTM zone where they lie."
                " Convert one of them to metres, e.g. with to_crs of geopandas."
            ) from error
    return crs
