"""Maps of extent, boundaries and distances become regions.

A watershed cuts the extent into many small basins; then neighbouring basins are merged, the pair
with the weakest boundary between them first, until every boundary that is left is strong.

Shape suffixes: H W pixels, N regions.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

_SMOOTHING = 0.7
"""Standard deviation in pixels of the Gaussian that keeps noise from becoming basins."""


def draw_regions(
    extent_HW: np.ndarray,
    boundary_HW: np.ndarray,
    distance_HW: np.ndarray,
    edge_2HW: np.ndarray,
    extent_threshold: float,
    merge_threshold: float,
    min_pixels: int,
) -> np.ndarray:
    """Draw regions.

    Args:
        extent_HW: float32, 0..1, probability that a pixel belongs to a region.
        boundary_HW: float32, 0..1, probability that it lies on the inner boundary of one.
        distance_HW: float32, 0..1, its distance from the boundary, 1 in the middle of a region.
        edge_2HW: float32, 0..1, probability that a boundary lies between a pixel and the next one
            to the right, and the next one below.
        extent_threshold: Probability from which a pixel belongs to a region.
        merge_threshold: Mean probability below which a boundary is none.
        min_pixels: Smaller regions are left out.

    Returns:
        int32, H x W: numbers of regions from 1, 0 outside of them.
    """
    basin_HW = basins(extent_HW >= extent_threshold, boundary_HW, distance_HW)
    region_HW = merge_basins(basin_HW, edge_2HW, merge_threshold)
    return without_small(region_HW, min_pixels)


def basins(inside_HW: np.ndarray, boundary_HW: np.ndarray, distance_HW: np.ndarray) -> np.ndarray:
    """Cut an extent into the catchment basins of its boundaries: int32 H x W, 0 outside.

    Args:
        inside_HW: bool, the extent.
        boundary_HW: As in ``draw_regions``.
        distance_HW: As in ``draw_regions``.
    """
    height_HW = ndimage.gaussian_filter(boundary_HW - distance_HW, _SMOOTHING)
    lowest_HW = height_HW == ndimage.minimum_filter(height_HW, 3)
    seeds_HW, _ = ndimage.label(lowest_HW & inside_HW, np.ones((3, 3)))
    basin_HW = watershed(height_HW, seeds_HW, mask=inside_HW)  # type: ignore[no-untyped-call]
    # Parts of the extent without a lowest pixel of their own get a basin each.
    rest_HW, _ = ndimage.label(inside_HW & (basin_HW == 0))
    every_HW = np.where(rest_HW > 0, rest_HW + basin_HW.max(), basin_HW)
    return np.asarray(every_HW, np.int32)


def merge_basins(basin_HW: np.ndarray, edge_2HW: np.ndarray, threshold: float) -> np.ndarray:
    """Merge neighbouring basins whose boundary is weaker than a threshold, the weakest first.

    The strength of the boundary between two regions is the mean over all pairs of pixels across it.

    Args:
        basin_HW: int32, from 1; 0 belongs to none.
        edge_2HW: As in ``draw_regions``.
        threshold: 0..1.

    Returns:
        int32, H x W, numbers from 1 without gaps.
    """
    count = int(basin_HW.max()) + 1
    neighbours: list[dict[int, tuple[float, int]]] = [{} for _ in range(count)]
    for one, other, total, pairs in _boundaries(basin_HW, edge_2HW, count):
        neighbours[one][other] = neighbours[other][one] = (total, pairs)
    queue = [
        (total / pairs, one, other)
        for one, entries in enumerate(neighbours)
        for other, (total, pairs) in entries.items()
        if one < other and total / pairs < threshold
    ]
    heapq.heapify(queue)
    into = np.arange(count)
    while queue:
        strength, one, other = heapq.heappop(queue)
        total, pairs = neighbours[one].get(other, (2.0, 1))
        if total / pairs != strength:
            continue
        # ``other`` goes into ``one``, and all boundaries of it with it.
        into[other] = one
        del neighbours[one][other], neighbours[other][one]
        for third, (more, more_pairs) in neighbours[other].items():
            total, pairs = neighbours[one].get(third, (0.0, 0))
            entry = (total + more, pairs + more_pairs)
            neighbours[one][third] = neighbours[third][one] = entry
            del neighbours[third][other]
            if entry[0] / entry[1] < threshold:
                pair = (min(one, third), max(one, third))
                heapq.heappush(queue, (entry[0] / entry[1], *pair))
        neighbours[other] = {}
    for number in range(count):
        root = number
        while into[root] != root:
            root = into[root]
        into[number] = root
    numbers = np.unique(into[basin_HW], return_inverse=True)[1].reshape(basin_HW.shape)
    return (numbers + (0 if (basin_HW == 0).any() else 1)).astype(np.int32)


def without_small(region_HW: np.ndarray, min_pixels: int) -> np.ndarray:
    """Return regions of at least ``min_pixels``, numbered from 1 without gaps."""
    areas = np.bincount(region_HW.ravel())
    kept = areas >= min_pixels
    kept[0] = False
    numbers = np.where(kept, kept.cumsum(), 0).astype(np.int32)
    return np.asarray(numbers[region_HW])


def describe_regions(
    region_HW: np.ndarray, extent_HW: np.ndarray, edge_2HW: np.ndarray
) -> np.ndarray:
    """Return what tells good regions from bad ones: float64, N x 4.

    Mean extent inside, mean probability of a boundary along the outline and inside, and the
    logarithm of the number of pixels.

    Args:
        region_HW: int32, numbers from 1 to N without gaps, 0 for none.
        extent_HW: As in ``draw_regions``.
        edge_2HW: As in ``draw_regions``.
    """
    count = int(region_HW.max()) + 1
    area_N = np.bincount(region_HW.ravel(), minlength=count)
    extent_N = np.bincount(region_HW.ravel(), extent_HW.ravel(), count)
    sums = np.zeros((2, 2, count))  # of edges and of pairs, along the outline and inside
    for first_HW, second_HW, edge_HW in _pairs(region_HW, edge_2HW):
        across_HW = first_HW != second_HW
        for place, own_HW in ((0, across_HW), (1, ~across_HW)):
            sides = (first_HW[own_HW], second_HW[own_HW]) if place == 0 else (first_HW[own_HW],)
            for numbers in sides:
                sums[0, place] += np.bincount(numbers, edge_HW[own_HW], count)
                sums[1, place] += np.bincount(numbers, minlength=count)
    means = sums[0] / np.maximum(sums[1], 1)
    columns = [extent_N / np.maximum(area_N, 1), *means, np.log(np.maximum(area_N, 1))]
    return np.stack(columns, axis=1)[1:]


def _pairs(
    region_HW: np.ndarray, edge_2HW: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return neighbouring pixels' regions and the edge between: to the right, and below."""
    return [
        (region_HW[:, :-1], region_HW[:, 1:], edge_2HW[0, :, :-1]),
        (region_HW[:-1], region_HW[1:], edge_2HW[1, :-1]),
    ]


def _boundaries(
    basin_HW: np.ndarray, edge_2HW: np.ndarray, count: int
) -> list[tuple[int, int, float, int]]:
    """Return pairs of neighbouring basins, the sum over pairs of pixels across, their number."""
    ones, others, values = [], [], []
    for first_HW, second_HW, edge_HW in _pairs(basin_HW, edge_2HW):
        across_HW = (first_HW != second_HW) & (first_HW > 0) & (second_HW > 0)
        one, other = first_HW[across_HW], second_HW[across_HW]
        ones.append(np.minimum(one, other))
        others.append(np.maximum(one, other))
        values.append(edge_HW[across_HW])
    key = np.concatenate(ones).astype(np.int64) * count + np.concatenate(others)
    keys, place, pairs = np.unique(key, return_inverse=True, return_counts=True)
    totals = np.bincount(place, np.concatenate(values).astype(np.float64), len(keys))
    return list(
        zip(
            (keys // count).tolist(),
            (keys % count).tolist(),
            totals.tolist(),
            pairs.tolist(),
            strict=True,
        )
    )
