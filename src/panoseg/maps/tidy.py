"""Remove what is no parcel from a picture of segments: crumbs beside a parcel's body, and segments of a few pixels.

Shape suffixes: H W pixels, R regions (connected, of one segment).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from panoseg.panoptic.panoptic import Panoptic, present_segments


def tidy(picture: Panoptic, min_pixels: int) -> Panoptic:
    """The picture in which every part of a segment has at least ``min_pixels``.

    A smaller part goes to the segment, or to the land between segments, with which it shares the longest border. Segments whose
    largest part is smaller are taken out. Parts are connected through the sides of pixels, so that a polygon never hangs
    on a corner. Other pixels do not change; ids stay.

    >>> from panoseg.classes import PASTIS
    >>> segments = np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 2], [1, 1, 1, 2, 1], [0, 0, 0, 3, 3]])
    >>> tidy(Panoptic.from_maps(segments, {1: 1, 2: 2, 3: 3}, PASTIS), 3).segment_HW
    array([[1, 1, 1, 2, 2],
           [1, 1, 2, 2, 2],
           [1, 1, 1, 2, 2],
           [0, 0, 0, 0, 0]], dtype=int32)
    """
    region_HW, count = regions(picture.segment_HW)
    value_R, area_R = np.zeros(count, np.int32), np.bincount(region_HW.ravel(), minlength=count)
    value_R[region_HW.ravel()] = picture.segment_HW.ravel()
    small_R = area_R < min_pixels
    stays_R = np.isin(value_R, value_R[~small_R])
    value_R[~stays_R] = 0
    crumb_R = small_R & (value_R != 0)
    return redrawn(picture, _give_away(value_R, crumb_R, _borders(region_HW))[region_HW])


def redrawn(picture: Panoptic, segment_HW: np.ndarray) -> Panoptic:
    """The picture with another raster of the same ids, some of which may have gone; areas follow the raster."""
    ids, areas = present_segments(segment_HW)
    kept = picture.segments.take(np.searchsorted(picture.segments.ids, ids))
    return Panoptic(segment_HW, replace(kept, areas=areas))


def regions(value_HW: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of each pixel's region (equal values connected through sides), int32 from 0, and how many there are.

    >>> regions(np.array([[1, 1, 2], [2, 1, 2]]))[0]
    array([[0, 0, 1],
           [2, 0, 1]], dtype=int32)
    """
    index_HW = np.arange(value_HW.size).reshape(value_HW.shape)
    across, down = value_HW[:, 1:] == value_HW[:, :-1], value_HW[1:] == value_HW[:-1]
    start = np.concatenate([index_HW[:, :-1][across], index_HW[:-1][down]])
    end = np.concatenate([index_HW[:, 1:][across], index_HW[1:][down]])
    graph = coo_matrix((np.ones(start.size, np.bool_), (start, end)), shape=(value_HW.size, value_HW.size))
    count, region = connected_components(graph, directed=False)
    return region.reshape(value_HW.shape).astype(np.int32), count


def _borders(region_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordered pairs of regions that touch, and on how many sides of pixels."""
    across, down = region_HW[:, 1:] != region_HW[:, :-1], region_HW[1:] != region_HW[:-1]
    one = np.concatenate([region_HW[:, 1:][across], region_HW[1:][down]]).astype(np.int64)
    other = np.concatenate([region_HW[:, :-1][across], region_HW[:-1][down]]).astype(np.int64)
    width = int(region_HW.max(initial=0)) + 1
    pairs, sides = np.unique(np.concatenate([one * width + other, other * width + one]), return_counts=True)
    return pairs // width, pairs % width, sides


def _give_away(value_R: np.ndarray, crumb_R: np.ndarray, borders: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Value of each region once the crumbs have gone to their neighbours; those enclosed by crumbs follow their neighbours."""
    value_R, crumb_R = value_R.copy(), crumb_R.copy()
    from_R, to_R, sides = borders
    while crumb_R.any():
        settled = crumb_R[from_R] & ~crumb_R[to_R]
        if not settled.any():
            value_R[crumb_R] = 0
            break
        # Sides with different regions of one segment count together.
        width = int(value_R.max()) + 1
        pairs, group = np.unique(from_R[settled].astype(np.int64) * width + value_R[to_R[settled]], return_inverse=True)
        shared = np.bincount(group, weights=sides[settled])
        order = np.argsort(shared, kind="stable")
        crumbs = pairs[order] // width
        value_R[crumbs] = pairs[order] % width
        crumb_R[crumbs] = False
    return value_R
