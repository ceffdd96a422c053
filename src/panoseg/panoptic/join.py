"""Joining the pictures of overlapping tiles into the picture of the whole map.

Two tiles see the strip that they share twice. Segments that cover the same pixels of it are one parcel; touching is no reason.
A pixel's owner is the tile that sees it farthest from its margin. If owners alone decided, a parcel on which tiles disagree
would be cut along the straight line between their land. So parcels are judged whole. Claims are the pixels that a tile gives to
a parcel against their owner: a parcel that is claims to half or more is dropped, and of several parcels that want a pixel the
one with the smallest share of claims gets it.

Shape suffixes: H W pixels of the map, h w pixels of a tile, S segments of all tiles, G parcels (groups of segments, 0 = none),
C claims of a tile to a pixel, P pairs of segments.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

import numpy as np

from panoseg.panoptic.overlap import overlap
from panoseg.panoptic.panoptic import Panoptic, Segments

_FAR = 2**30


@dataclass(frozen=True, eq=False)
class _Tile:
    """A tile in its place. position_hw: row of each pixel's segment in ``segments``, from 1, 0 = none, in few bytes."""

    row: int
    column: int
    position_hw: np.ndarray
    segments: Segments

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.position_hw.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)

    def part(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return self.position_hw[top - self.row : bottom - self.row, left - self.column : right - self.column]

    def depth_hw(self, height: int, width: int) -> np.ndarray:
        """Distance of each pixel to the nearest margin that is not the map's own; int32."""
        rows, columns = self.window
        return np.minimum(_depth(rows, height)[:, None], _depth(columns, width)[None, :])


class TileJoiner:
    """Collects the pictures of tiles, in any order, and joins them.

    Order does not matter: the result is a function of the set of tiles. Until the end a tile takes one or two bytes a pixel, so
    that a whole map takes about as much memory as its raster.

    min_iou: segments of two tiles are one parcel where each is the other's best in the shared pixels and their intersection
    over union there is at least this.

    >>> joiner = TileJoiner(height=2, width=4)
    >>> joiner.add(0, 0, Panoptic.from_maps(np.array([[1, 1, 1], [0, 2, 2]]), {1: 3, 2: 4}, PASTIS))
    >>> joiner.add(0, 2, Panoptic.from_maps(np.array([[8, 8], [9, 0]]), {8: 3, 9: 4}, PASTIS))
    >>> joiner.finish().segment_HW
    array([[1, 1, 1, 1],
           [0, 2, 2, 0]], dtype=int32)
    """

    def __init__(self, height: int, width: int, min_iou: float = 1 / 3) -> None:
        self.height, self.width, self.min_iou = height, width, min_iou
        self._tiles: dict[tuple[int, int], _Tile] = {}

    def add(self, row: int, column: int, picture: Panoptic) -> None:
        """Take the picture of a tile whose first pixel lies at ``row``, ``column`` of the map."""
        height, width = picture.segment_HW.shape
        if row < 0 or column < 0 or row + height > self.height or column + width > self.width:
            raise ValueError(f"tile of {height} x {width} at ({row}, {column}) leaves the map of {self.height} x {self.width}")
        if (row, column) in self._tiles:
            raise ValueError(f"a second tile at ({row}, {column})")
        smallest = np.min_scalar_type(len(picture.segments))
        self._tiles[row, column] = _Tile(row, column, picture.position_HW.astype(smallest), picture.segments)

    def finish(self) -> Panoptic:
        """The picture of the map, ids from 1; pixels that no tile covers belong to no segment."""
        tiles = [self._tiles[place] for place in sorted(self._tiles)]
        start_of_tile = np.cumsum([0, *(len(tile.segments) for tile in tiles)])
        if start_of_tile[-1] == 0:
            return Panoptic.empty(self.height, self.width)
        tile_S = np.repeat(np.arange(len(tiles)), np.diff(start_of_tile))
        group_S = _groups(_matches(tiles, start_of_tile, self.min_iou), tile_S)
        # Group of each position of a tile; 0 stays "none".
        groups_of_tile = [np.concatenate([[0], group_S[start:stop]]) for start, stop in itertools.pairwise(start_of_tile)]
        group_HW = self._decide(tiles, groups_of_tile, int(group_S.max()))
        return _with_table(group_HW, group_S, _concatenate([tile.segments for tile in tiles]))

    def _decide(self, tiles: list[_Tile], groups_of_tile: list[np.ndarray], count: int) -> np.ndarray:
        """Group of each pixel of the map; int32, 0 = none."""
        owner_HW = self._owners(tiles)
        owned_HW = np.zeros((self.height, self.width), np.int32)
        for number, tile in enumerate(tiles):
            mine = owner_HW[tile.window] == number
            owned_HW[tile.window][mine] = groups_of_tile[number][tile.position_hw[mine]]
        pixel_C, group_C = self._claims(tiles, groups_of_tile, owner_HW, owned_HW, count)

        owned_G = np.bincount(owned_HW.ravel(), minlength=count + 1)
        owned_share_G = owned_G / np.maximum(owned_G + np.bincount(group_C, minlength=count + 1), 1)
        # The highest rank gets a pixel; dropped parcels and "none" have rank 0.
        order = np.lexsort((-np.arange(count + 1), owned_share_G))
        rank_G = np.empty(count + 1, np.int32)
        rank_G[order] = np.arange(1, count + 2)
        rank_G[(owned_share_G <= 0.5) | (np.arange(count + 1) == 0)] = 0
        rank_HW = rank_G[owned_HW]
        np.maximum.at(rank_HW.reshape(-1), pixel_C, rank_G[group_C])
        return np.concatenate([[0], order]).astype(np.int32)[rank_HW]

    def _owners(self, tiles: list[_Tile]) -> np.ndarray:
        """Number of the tile that sees each pixel best, -1 without one; int32."""
        owner_HW = np.full((self.height, self.width), -1, np.int32)
        depth_HW = np.full((self.height, self.width), -1, np.int32)
        for number, tile in enumerate(tiles):
            depth_hw = tile.depth_hw(self.height, self.width)
            deeper = depth_hw > depth_HW[tile.window]
            depth_HW[tile.window][deeper] = depth_hw[deeper]
            owner_HW[tile.window][deeper] = number
        return owner_HW

    def _claims(
        self, tiles: list[_Tile], groups_of_tile: list[np.ndarray], owner_HW: np.ndarray, owned_HW: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and the parcels that a tile claims there against the owner of the pixel.

        An owner that knows the parcel and leaves the pixel out of it, to no other parcel, has drawn its border: no claim.
        """
        known = np.sort(np.concatenate([number * (count + 1) + groups[1:] for number, groups in enumerate(groups_of_tile)]))
        claims = [np.empty(0, np.int64)]
        for number, tile in enumerate(tiles):
            group_hw = groups_of_tile[number][tile.position_hw]
            row_C, column_C = np.nonzero((group_hw > 0) & (group_hw != owned_HW[tile.window]))
            group_C = group_hw[row_C, column_C]
            code_C = owner_HW[tile.window][row_C, column_C].astype(np.int64) * (count + 1) + group_C
            knows_C = known[np.searchsorted(known, code_C).clip(max=len(known) - 1)] == code_C
            leaves_out_C = knows_C & (owned_HW[tile.window][row_C, column_C] == 0)
            pixel_C = (row_C + tile.row) * self.width + column_C + tile.column
            claims.append((pixel_C * (count + 1) + group_C)[~leaves_out_C])
        claimed = np.unique(np.concatenate(claims))
        return claimed // (count + 1), claimed % (count + 1)


def _depth(extent: slice, size: int) -> np.ndarray:
    """Distance of each line of a tile to its nearer end; an end of the map is no end."""
    along = np.arange(extent.start, extent.stop)
    before = along - extent.start if extent.start > 0 else np.full(len(along), _FAR)
    after = extent.stop - 1 - along if extent.stop < size else np.full(len(along), _FAR)
    return np.minimum(before, after).astype(np.int32)


def _matches(tiles: list[_Tile], start_of_tile: np.ndarray, min_iou: float) -> np.ndarray:
    """Pairs of segments (numbered through all tiles) that are each other's best in what their tiles share: int64, pairs x 3,
    the third column the number of pixels that they share."""
    found = [np.empty((0, 3), np.int64)]
    corners = np.array([(tile.window[0].start, tile.window[1].start) for tile in tiles])
    ends = np.array([(tile.window[0].stop, tile.window[1].stop) for tile in tiles])
    for first in range(len(tiles)):
        starts = np.maximum(corners[first], corners[first + 1 :])
        stops = np.minimum(ends[first], ends[first + 1 :])
        for later in np.flatnonzero((starts < stops).all(axis=1)):
            second = first + 1 + later
            window = (*starts[later], *stops[later])
            pairs = _best_pairs(tiles[first], tiles[second], window, min_iou)
            found.append(pairs + np.array([start_of_tile[first], start_of_tile[second], 0]))
    return np.concatenate(found)


def _best_pairs(first: _Tile, second: _Tile, window: tuple[int, int, int, int], min_iou: float) -> np.ndarray:
    counts = len(first.segments), len(second.segments)
    pair = overlap(first.part(*window), second.part(*window), *counts)
    first_area = np.bincount(pair.first_P, pair.pixels_P, minlength=counts[0] + 1)
    second_area = np.bincount(pair.second_P, pair.pixels_P, minlength=counts[1] + 1)
    iou_P = pair.pixels_P / (first_area[pair.first_P] + second_area[pair.second_P] - pair.pixels_P)
    iou_P[(pair.first_P == 0) | (pair.second_P == 0)] = 0
    best_P = (iou_P >= min_iou) & (iou_P > 0)
    for segment_P, count in ((pair.first_P, counts[0]), (pair.second_P, counts[1])):
        highest = np.zeros(count + 1)
        np.maximum.at(highest, segment_P, iou_P)
        best_P &= iou_P == highest[segment_P]
    return np.stack([pair.first_P - 1, pair.second_P - 1, pair.pixels_P], axis=1)[best_P]


def _groups(matches: np.ndarray, tile_S: np.ndarray) -> np.ndarray:
    """Parcel of each segment, from 1 in the order of their first segments, so that no parcel has two segments of one tile."""
    leader = np.arange(len(tile_S)).tolist()
    tiles = [{tile} for tile in tile_S.tolist()]

    def find(segment: int) -> int:
        while leader[segment] != segment:
            leader[segment] = leader[leader[segment]]
            segment = leader[segment]
        return segment

    # The strongest evidence first; the numbers of the segments make the order one.
    for first, second, _ in matches[np.lexsort((matches[:, 1], matches[:, 0], -matches[:, 2]))].tolist():
        low, high = sorted((find(first), find(second)))
        if low != high and tiles[low].isdisjoint(tiles[high]):
            leader[high] = low
            tiles[low] |= tiles[high]
    return np.unique([find(segment) for segment in range(len(leader))], return_inverse=True)[1].astype(np.int64) + 1


def _concatenate(tables: list[Segments]) -> Segments:
    columns = [field.name for field in fields(Segments)]
    return Segments(*(np.concatenate([getattr(table, name) for table in tables]) for name in columns))


def _with_table(group_HW: np.ndarray, group_S: np.ndarray, table_S: Segments) -> Panoptic:
    """The picture of the groups that have pixels: class by vote, weighted with score and area; score by mean over the area."""
    count = int(group_S.max())
    # A vote of score 0 is still better than none.
    weight_S = table_S.areas * np.maximum(table_S.scores, 1e-6)
    area_G = np.bincount(group_S, table_S.areas, minlength=count + 1)
    score_G = np.bincount(group_S, table_S.areas * table_S.scores, minlength=count + 1) / np.maximum(area_G, 1)
    class_ids, class_S = np.unique(table_S.class_ids, return_inverse=True)
    kind_of_class = np.empty(len(class_ids), np.uint8)
    kind_of_class[class_S] = table_S.kinds
    votes = np.bincount(group_S * len(class_ids) + class_S, weight_S, minlength=(count + 1) * len(class_ids))
    class_G = votes.reshape(count + 1, len(class_ids)).argmax(axis=1)

    area_in_map = np.bincount(group_HW.ravel(), minlength=count + 1)
    present = np.flatnonzero(area_in_map[1:]) + 1
    number_G = np.zeros(count + 1, np.int32)
    number_G[present] = np.arange(1, len(present) + 1)
    segments = Segments(
        np.arange(1, len(present) + 1, dtype=np.int32),
        class_ids[class_G[present]],
        score_G[present].astype(np.float32),
        area_in_map[present],
        kind_of_class[class_G[present]],
    )
    return Panoptic(number_G[group_HW], segments)
