"""How much of each parcel every class has: exactly by area, or as its mean probability.

Outlines are in pixels (column, row) and may overlap; each is looked at by itself.

Shape suffixes: N parcels, K classes, H W pixels, X pairs of a parcel and a pixel or piece.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely

from panoseg.maps.polygons import shared_areas, trace

_TILE = 64


def area_shares(outlines_N: np.ndarray, classes_HW: np.ndarray, data_HW: np.ndarray, class_count: int) -> np.ndarray:
    """The share of each parcel's area that every class has, 0..1, N x K.

    Areas are those of the polygons, not of pixels by their centres. There is no class outside of the raster and where there are
    no data, so that a row may add up to less than 1.

    >>> half = shapely.box(0, 0, 2, 1)
    >>> area_shares(np.array([half]), np.array([[1, 2, 0]]), np.ones((1, 3), bool), 3)
    array([[0. , 0.5, 0.5]])
    """
    # Regions are cut into tiles: the land between parcels would otherwise be one polygon that meets them all.
    row_H, column_W = (np.arange(length, dtype=np.int32) // _TILE for length in classes_HW.shape)
    tile_HW = row_H[:, None] * (column_W[-1] + 1) + column_W
    value_P, piece_P = trace(tile_HW * class_count + classes_HW, data_HW)
    parcel_X, piece_X, area_X = shared_areas(outlines_N, piece_P)
    cells = parcel_X * class_count + value_P[piece_X] % class_count
    areas_NK = np.bincount(cells, area_X, minlength=len(outlines_N) * class_count).reshape(-1, class_count)
    return areas_NK / shapely.area(outlines_N)[:, None]


def mean_probabilities(outlines_N: np.ndarray, bands: Iterable[np.ndarray], data_HW: np.ndarray) -> np.ndarray:
    """The mean of every class's probability over the pixels whose centre each parcel covers, borders included; N x K.

    bands: K times H x W. Pixels without data do not count; a parcel that covers no other has zeros.

    >>> mean_probabilities(np.array([shapely.box(0, 0, 2, 1)]), np.array([[[0.5, 1.0, 0]]]), np.ones((1, 3), bool))
    array([[0.75]])
    """
    parcel_X, pixel_X = covered_pixels(outlines_N, data_HW.shape)
    counts = data_HW.ravel()[pixel_X]
    parcel_X, pixel_X = parcel_X[counts], pixel_X[counts]
    sums = [np.bincount(parcel_X, band_HW.ravel()[pixel_X], minlength=len(outlines_N)) for band_HW in bands]
    pixels_N = np.bincount(parcel_X, minlength=len(outlines_N))
    return np.stack(sums, axis=1) / np.maximum(pixels_N, 1)[:, None]


def covered_pixels(outlines_N: np.ndarray, shape_HW: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a parcel and a pixel (row x W + column) whose centre it covers, borders included; by parcel."""
    height, width = shape_HW
    shapely.prepare(outlines_N)
    parcels, pixels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for parcel, outline in enumerate(outlines_N):
        if outline.is_empty:
            continue
        left, top, right, bottom = outline.bounds
        rows = np.arange(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom))))
        columns = np.arange(max(0, int(np.floor(left))), min(width, int(np.ceil(right))))
        inside = shapely.intersects_xy(outline, columns + 0.5, rows[:, None] + 0.5)
        found = (rows[:, None] * width + columns)[inside]
        parcels.append(np.full(found.size, parcel))
        pixels.append(found)
    return np.concatenate(parcels), np.concatenate(pixels)
