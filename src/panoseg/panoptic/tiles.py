"""Overlapping tiles of a map: where they lie, and which of their segments are one parcel.

Segments of two tiles that cover the same pixels of the strip that both tiles see are one parcel;
touching is not enough.

Shape suffixes: h w pixels of a tile, S segments of all tiles, P pairs of segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from panoseg.cube.season import Window
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import overlap


@dataclass(frozen=True, eq=False)
class Tile:
    """The segmentation of a tile, and where it lies in the map."""

    window: Window
    """The pixels of the map that the tile covers."""
    position_hw: np.ndarray
    """Smallest unsigned integer type, h x w: row of each pixel's segment, from 1; 0 = none."""
    segments: Segments
    """The segments of the tile."""

    @classmethod
    def of(cls, row: int, column: int, segmentation: Panoptic) -> Tile:
        """Make a tile whose first pixel lies at ``row``, ``column`` of the map."""
        smallest = np.min_scalar_type(len(segmentation.segments))
        window = Window(row, column, *segmentation.segment_HW.shape)
        return cls(window, segmentation.position_HW.astype(smallest), segmentation.segments)

    def part(self, window: Window) -> np.ndarray:
        """Return the positions in a window of the map that lies inside the tile."""
        top, left = window.top - self.window.top, window.left - self.window.left
        return self.position_hw[top : top + window.height, left : left + window.width]


@dataclass(frozen=True, eq=False)
class Cover:
    """The tiles of a map, and which of them meet a piece of it."""

    height: int
    """Rows of the map."""
    width: int
    """Columns of the map."""
    windows: Sequence[Window]
    """Position of each tile."""
    load: Callable[[int], Tile]
    """Returns a tile by its index in ``windows``."""
    _tree: shapely.STRtree = field(init=False)
    """Index of the outlines of ``windows``."""

    def __post_init__(self) -> None:
        boxes = [
            (own.left, own.top, own.left + own.width, own.top + own.height) for own in self.windows
        ]
        corners = np.array(boxes, np.float64).reshape(-1, 4).T
        outlines = np.atleast_1d(np.asarray(shapely.box(*corners)))
        object.__setattr__(self, "_tree", shapely.STRtree(outlines))

    def numbers(self, piece: Window) -> list[int]:
        """Return the tiles that have pixels of a piece, ascending."""
        # Half a pixel less on each side excludes tiles that only touch the piece.
        box = shapely.box(
            piece.left + 0.5,
            piece.top + 0.5,
            piece.left + piece.width - 0.5,
            piece.top + piece.height - 0.5,
        )
        return sorted(self._tree.query(box).tolist())

    def starting(self, piece: Window) -> list[int]:
        """Return the tiles whose first pixel lies in a piece, ascending."""
        rows = range(piece.rows.start, piece.rows.stop)
        columns = range(piece.columns.start, piece.columns.stop)
        return [
            number
            for number in self.numbers(piece)
            if self.windows[number].top in rows and self.windows[number].left in columns
        ]

    def tiles(self, piece: Window) -> Iterator[tuple[Tile, Window]]:
        """Yield the tiles that meet a piece, ascending, and what they share with it."""
        for number in self.numbers(piece):
            yield self.load(number), intersect(self.windows[number], piece)


def intersect(first: Window, second: Window) -> Window:
    """Return what two windows that meet share."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = min(first.rows.stop, second.rows.stop)
    right = min(first.columns.stop, second.columns.stop)
    return Window(top, left, bottom - top, right - left)


def segment_table(cover: Cover, pieces: Sequence[Window]) -> tuple[Segments, np.ndarray]:
    """Concatenate the segments of all tiles, without probabilities.

    Returns:
        The table, tile by tile, and start_of_tile (int64, tiles + 1): the index of each tile's
        first segment, and the number of all segments.
    """
    numbers: list[int] = []
    counts: list[int] = []
    tables, none = [], np.zeros((0, 0), np.float32)
    for piece in pieces:
        starting = cover.starting(piece)
        own = [replace(cover.load(number).segments, probabilities=none) for number in starting]
        tables.append(Segments.concatenate(own))
        numbers += starting
        counts += map(len, own)
    count_of_tile = np.zeros(len(cover.windows), np.int64)
    count_of_tile[numbers] = counts
    order = np.argsort(np.repeat(numbers, counts), kind="stable")
    return Segments.concatenate(tables).take(order), np.concatenate([[0], np.cumsum(count_of_tile)])


def match_tiles(
    cover: Cover, pieces: Sequence[Window], start_of_tile: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of segments of two tiles that are each other's best match.

    Returns:
        The pairs, as indices into the table of all segments (int32, P x 2), and the number of
        pixels that both cover (int32, P).
    """
    # Concatenated per piece: many small arrays between large ones that are freed would fragment the
    # memory.
    pairs, pixels = [np.empty((0, 2), np.int32)], [np.empty(0, np.int32)]
    for piece in pieces:
        found = [
            matches
            for number in cover.starting(piece)
            for matches in _matches_of(cover, number, start_of_tile, min_iou)
        ]
        if found:
            pairs.append(np.concatenate([pair for pair, _ in found]))
            pixels.append(np.concatenate([both for _, both in found]))
    return np.concatenate(pairs), np.concatenate(pixels)


def _matches_of(
    cover: Cover, number: int, start_of_tile: np.ndarray, min_iou: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what ``match_tiles`` collects, for a tile and each later one that it meets."""
    tile = cover.load(number)
    for later in cover.numbers(tile.window) if len(tile.segments) else ():
        if later > number:
            other = cover.load(later)
            first_P, second_P, pixels_P = _best_pairs(
                tile, other, intersect(tile.window, other.window), min_iou
            )
            pairs = np.stack(
                [start_of_tile[number] + first_P, start_of_tile[later] + second_P], axis=1
            )
            yield pairs.astype(np.int32), pixels_P.astype(np.int32)


def _best_pairs(
    first: Tile, second: Tile, window: Window, min_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best pairs in a shared window as rows of both tables, and their shared pixels."""
    counts = len(first.segments), len(second.segments)
    pair = overlap(first.part(window), second.part(window), *counts)
    first_area = np.bincount(pair.first_P, pair.pixels_P, minlength=counts[0] + 1)
    second_area = np.bincount(pair.second_P, pair.pixels_P, minlength=counts[1] + 1)
    iou_P = pair.pixels_P / (first_area[pair.first_P] + second_area[pair.second_P] - pair.pixels_P)
    iou_P[(pair.first_P == 0) | (pair.second_P == 0)] = 0
    best_P = (iou_P >= min_iou) & (iou_P > 0)
    for segment_P, count in ((pair.first_P, counts[0]), (pair.second_P, counts[1])):
        highest = np.zeros(count + 1)
        np.maximum.at(highest, segment_P, iou_P)
        best_P &= iou_P == highest[segment_P]
    return (pair.first_P - 1)[best_P], (pair.second_P - 1)[best_P], pair.pixels_P[best_P]


def group_segments(pairs: np.ndarray, pixels_P: np.ndarray, tile_S: np.ndarray) -> np.ndarray:
    """Group matched segments into parcels, none of which has two segments of one tile.

    Args:
        pairs: int32, P x 2: matched segments.
        pixels_P: int32, P: pixels that both cover.
        tile_S: Integers: tile of each segment.

    Returns:
        int64, S: parcel of each segment, from 1 in the order of their first segments.
    """
    size = len(tile_S)
    graph = coo_matrix(
        (np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(size, size)
    )
    component_S = connected_components(graph, directed=False)[1] if size else np.empty(0, np.int32)
    component_P = component_S[pairs[:, 0]]
    # Component by component, and inside each the strongest evidence first. The numbers of the
    # segments break ties, so that the result does not depend on the order of the pairs.
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -pixels_P, component_P))
    leader_S = np.arange(size)
    ends = np.flatnonzero(np.diff(component_P[order], append=-1)) + 1
    start = 0
    for end in ends.tolist():
        for segment, leader in _leaders(pairs[order[start:end]].tolist(), tile_S).items():
            leader_S[segment] = leader
        start = end
    return np.unique(leader_S, return_inverse=True)[1].astype(np.int64) + 1


def _leaders(pairs: list[list[int]], tile_S: np.ndarray) -> dict[int, int]:
    """Join pairs one after the other; return the first segment of each segment's parcel."""
    leader = {segment: segment for pair in pairs for segment in pair}
    tiles = {segment: {int(tile_S[segment])} for segment in leader}

    def find(segment: int) -> int:
        while leader[segment] != segment:
            leader[segment] = leader[leader[segment]]
            segment = leader[segment]
        return segment

    for first, second in pairs:
        low, high = sorted((find(first), find(second)))
        if low != high and tiles[low].isdisjoint(tiles[high]):
            leader[high] = low
            tiles[low] |= tiles[high]
    return {segment: find(segment) for segment in leader}
