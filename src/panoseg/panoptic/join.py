"""Joining the pictures of overlapping tiles into the picture of the whole map, a piece of land at a
time.

Two tiles see the strip that they share twice. Segments that cover the same pixels of it are one
parcel; touching is no reason. A pixel's owner is the tile that sees it farthest from its margin. If
owners alone decided, a parcel on which tiles disagree would be cut along the straight line between
their land. So parcels are judged whole. Claims are the pixels that a tile gives to a parcel against
their owner: a parcel that is claims to half or more is dropped, and of several parcels that want a
pixel the one with the smallest share of claims gets it.

A map may be far larger than memory: tiles are loaded when a piece of land needs them, and what is
kept of the whole map are tables of segments and parcels. The result is a function of the set of
tiles: neither their order nor the pieces matter.

Shape suffixes: H W pixels of the land that is looked at, h w pixels of a tile, S segments of all
tiles, G parcels (groups of segments, 0 = none), R groups that have pixels, K classes, C claims of a
tile to a pixel, P pairs of segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from panoseg.cube.window import Window
from panoseg.panoptic.panoptic import Panoptic, Segments, overlap

_FAR = 2**30
_MIN_IOU = 1 / 3


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile in its place. position_hw: row of each pixel's segment in ``segments``, from 1, 0 =
    none, in few bytes.
    """

    window: Window
    position_hw: np.ndarray
    segments: Segments

    @classmethod
    def of(cls, row: int, column: int, picture: Panoptic) -> Tile:
        """The picture of a tile whose first pixel lies at ``row``, ``column`` of the map."""
        smallest = np.min_scalar_type(len(picture.segments))
        window = Window(row, column, *picture.segment_HW.shape)
        return cls(window, picture.position_HW.astype(smallest), picture.segments)

    def part(self, window: Window) -> np.ndarray:
        """Its positions in a window of the map that lies inside of it."""
        top, left = window.top - self.window.top, window.left - self.window.left
        return self.position_hw[top : top + window.height, left : left + window.width]


class TileJoiner:
    """Collects the pictures of tiles, in any order, and joins them in memory.

    Until the end a tile takes one or two bytes a pixel, so that a whole map takes about as much
    memory as its raster.

    min_iou: segments of two tiles are one parcel where each is the other's best in the shared
    pixels and their intersection over union there is at least this.

    >>> joiner = TileJoiner(height=2, width=4)
    >>> joiner.add(0, 0, Panoptic.from_maps(np.array([[1, 1, 1], [0, 2, 2]]), {1: 3, 2: 4}, PASTIS))
    >>> joiner.add(0, 2, Panoptic.from_maps(np.array([[8, 8], [9, 0]]), {8: 3, 9: 4}, PASTIS))
    >>> joiner.finish().segment_HW
    array([[1, 1, 1, 1],
           [0, 2, 2, 0]], dtype=int32)
    """

    def __init__(self, height: int, width: int, min_iou: float = _MIN_IOU) -> None:
        self.height, self.width, self.min_iou = height, width, min_iou
        self._tiles: dict[tuple[int, int], Tile] = {}

    def add(self, row: int, column: int, picture: Panoptic) -> None:
        """Take the picture of a tile whose first pixel lies at ``row``, ``column`` of the map."""
        height, width = picture.segment_HW.shape
        if row < 0 or column < 0 or row + height > self.height or column + width > self.width:
            raise ValueError(
                f"tile of {height} x {width} at ({row}, {column}) leaves the map of {self.height} x"
                f" {self.width}"
            )
        if (row, column) in self._tiles:
            raise ValueError(f"a second tile at ({row}, {column})")
        self._tiles[row, column] = Tile.of(row, column, picture)

    def finish(self) -> Panoptic:
        """The picture of the map, ids from 1; pixels that no tile covers belong to no segment."""
        tiles, land = (
            [self._tiles[place] for place in sorted(self._tiles)],
            Window(0, 0, self.height, self.width),
        )
        joined = join_tiles(
            self.height,
            self.width,
            [tile.window for tile in tiles],
            tiles.__getitem__,
            [land],
            self.min_iou,
        )
        group_HW = joined.draw(land)
        number_G, segments = joined.table(np.bincount(group_HW.ravel(), minlength=joined.count + 1))
        return Panoptic(number_G[group_HW], segments)


def join_tiles(
    height: int,
    width: int,
    windows: Sequence[Window],
    load: Callable[[int], Tile],
    lands: Sequence[Window],
    min_iou: float = _MIN_IOU,
) -> Joined:
    """Find the parcels of a map of ``height`` x ``width`` pixels that lies in tiles.

    windows: where each tile lies, by row, then column; no two start at the same pixel. load: gives
    a tile by its number among them, and is called again and again, for neighbours at about the same
    time. lands: pieces that cover the map, each pixel
    once: one is looked at at a time. min_iou: as in ``TileJoiner``.
    """
    cover = _Cover(height, width, windows, load)
    table_S, start_of_tile = _tables(cover, lands)
    tile_S = np.repeat(np.arange(len(windows)), np.diff(start_of_tile))
    parcels = _Parcels(
        cover, start_of_tile, _groups(*_match(cover, lands, start_of_tile, min_iou), tile_S)
    )
    owned_G, claimed_G = (
        np.zeros(parcels.count + 1, np.int64),
        np.zeros(parcels.count + 1, np.int64),
    )
    for land in lands if parcels.count else ():
        owned_HW, _, group_C = parcels.wanted(land)
        for total_G, groups in ((owned_G, owned_HW), (claimed_G, group_C)):
            present, pixels = np.unique(groups, return_counts=True)
            total_G[present] += pixels
    return Joined(parcels, table_S, *_ranks(owned_G, claimed_G))


@dataclass(frozen=True, eq=False)
class _Cover:
    """The tiles of a map, and which of them meet a piece of it."""

    height: int
    width: int
    windows: Sequence[Window]
    load: Callable[[int], Tile]

    def __post_init__(self) -> None:
        boxes = [
            (own.left, own.top, own.left + own.width, own.top + own.height) for own in self.windows
        ]
        outlines = np.atleast_1d(
            np.asarray(shapely.box(*np.array(boxes, np.float64).reshape(-1, 4).T))
        )
        object.__setattr__(self, "_tree", shapely.STRtree(outlines))

    def numbers(self, land: Window) -> list[int]:
        """The tiles that have pixels of a piece, ascending."""
        # Half a pixel less on each side: tiles that only touch have none.
        box = shapely.box(
            land.left + 0.5,
            land.top + 0.5,
            land.left + land.width - 0.5,
            land.top + land.height - 0.5,
        )
        return sorted(self._tree.query(box).tolist())  # type: ignore[attr-defined]

    def starting(self, land: Window) -> list[int]:
        """The tiles whose first pixel lies in a piece, ascending."""
        inside = (
            range(land.rows.start, land.rows.stop),
            range(land.columns.start, land.columns.stop),
        )
        return [
            n
            for n in self.numbers(land)
            if self.windows[n].top in inside[0] and self.windows[n].left in inside[1]
        ]

    def tiles(self, land: Window) -> Iterator[tuple[Tile, Window]]:
        """The tiles that meet a piece, ascending, and what they have of it."""
        for number in self.numbers(land):
            yield self.load(number), _meet(self.windows[number], land)


@dataclass(frozen=True, eq=False)
class _Parcels:
    """Which segments are which parcel. group_S: 1 .. count."""

    cover: _Cover
    start_of_tile: np.ndarray
    group_S: np.ndarray

    @property
    def count(self) -> int:
        return int(self.group_S.max(initial=0))

    def wanted(self, land: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parcel of each pixel by its owner (int64, H x W, 0 = none); pixels and the parcels that a
        tile claims there against the owner of the pixel.

        An owner that knows the parcel and leaves the pixel out of it, to no other parcel, has drawn
        its border: no claim.
        """
        if all(
            self.start_of_tile[number] == self.start_of_tile[number + 1]
            for number in self.cover.numbers(land)
        ):
            nothing = np.empty(
                0, np.int64
            )  # as on land that was not asked for, of which a map may have much
            return np.zeros((land.height, land.width), np.int64), nothing, nothing
        seen = [
            (groups, groups[tile.part(shared)], _inside(shared, land), tile.window)
            for number, (tile, shared) in zip(
                self.cover.numbers(land), self.cover.tiles(land), strict=True
            )
            for groups in [self._groups_of(number)]
        ]
        owner_HW = self._owners(land, [window for *_, window in seen])
        owned_HW = np.zeros((land.height, land.width), np.int64)
        for number, (_, group_hw, place, _) in enumerate(seen):
            mine = owner_HW[place] == number
            owned_HW[place][mine] = group_hw[mine]
        width = self.count + 1
        known = np.sort(
            np.concatenate(
                [[-1], *(number * width + groups[1:] for number, (groups, *_) in enumerate(seen))]
            )
        )
        claims = [np.empty(0, np.int64)]
        for _, group_hw, place, _ in seen:
            row_C, column_C = np.nonzero((group_hw > 0) & (group_hw != owned_HW[place]))
            group_C = group_hw[row_C, column_C]
            code_C = owner_HW[place][row_C, column_C].astype(np.int64) * width + group_C
            knows_C = known[np.searchsorted(known, code_C).clip(max=len(known) - 1)] == code_C
            leaves_out_C = knows_C & (owned_HW[place][row_C, column_C] == 0)
            pixel_C = (row_C + place[0].start) * land.width + column_C + place[1].start
            claims.append((pixel_C * width + group_C)[~leaves_out_C])
        claimed = np.unique(np.concatenate(claims))
        return owned_HW, claimed // width, claimed % width

    def _groups_of(self, number: int) -> np.ndarray:
        """Parcel of each position of a tile; 0 stays "none"."""
        return np.concatenate(
            [[0], self.group_S[self.start_of_tile[number] : self.start_of_tile[number + 1]]]
        )

    def _owners(self, land: Window, windows: Sequence[Window]) -> np.ndarray:
        """Place in ``windows`` of the tile that sees each pixel best, -1 without one; int32."""
        owner_HW = np.full((land.height, land.width), -1, np.int32)
        depth_HW = np.full((land.height, land.width), -1, np.int32)
        for number, window in enumerate(windows):
            shared = _meet(window, land)
            place = _inside(shared, land)
            down = _depth(window.rows, shared.rows, self.cover.height)
            across = _depth(window.columns, shared.columns, self.cover.width)
            depth_hw = np.minimum(down[:, None], across[None, :])
            deeper = depth_hw > depth_HW[place]
            depth_HW[place][deeper] = depth_hw[deeper]
            owner_HW[place][deeper] = number
        return owner_HW


@dataclass(frozen=True, eq=False)
class Joined:
    """The parcels of a map that lies in tiles: ``draw`` gives a piece of it, ``table`` their names.

    table_S: the segments of all tiles, without probabilities, which are most of the bytes. rank_G:
    the highest gets a pixel; dropped parcels and "none" have 0.
    """

    parcels: _Parcels
    table_S: Segments
    rank_G: np.ndarray
    group_of_rank: np.ndarray

    @property
    def count(self) -> int:
        """How many groups of segments there are, those that are dropped included."""
        return self.parcels.count

    def draw(self, land: Window) -> np.ndarray:
        """Group of each pixel of a piece of the map, 1 to ``count``, 0 = none; int32, H x W."""
        if not self.count:
            return np.zeros((land.height, land.width), np.int32)
        owned_HW, pixel_C, group_C = self.parcels.wanted(land)
        rank_HW = self.rank_G[owned_HW]
        np.maximum.at(rank_HW.reshape(-1), pixel_C, self.rank_G[group_C])
        return self.group_of_rank[rank_HW]

    def table(self, area_G: np.ndarray) -> tuple[np.ndarray, Segments]:
        """Id of each group that has pixels (from 1; 0 for the others), and the table of these.

        area_G: pixels of each group in the whole map, by ``draw``. Class by vote, weighted with
        score and area; score and probabilities by mean over the area, so that the likeliest class
        is not always the one with most votes.
        """
        table_S, group_S, count = self.table_S, self.parcels.group_S, self.count
        # A vote of score 0 is still better than none.
        weight_S = table_S.areas * np.maximum(table_S.scores, 1e-6)
        own_area_G = np.bincount(group_S, table_S.areas, minlength=count + 1)
        score_G = np.bincount(
            group_S, table_S.areas * table_S.scores, minlength=count + 1
        ) / np.maximum(own_area_G, 1)
        class_ids, class_S = np.unique(table_S.class_ids, return_inverse=True)
        kind_of_class = np.zeros(len(class_ids), np.uint8)
        kind_of_class[class_S] = table_S.kinds
        votes = np.bincount(
            group_S * len(class_ids) + class_S, weight_S, minlength=(count + 1) * len(class_ids)
        )
        class_G = (
            votes.reshape(count + 1, len(class_ids)).argmax(axis=1)
            if len(class_ids)
            else np.zeros(1, np.int64)
        )
        present = np.flatnonzero(area_G[1:]) + 1
        number_G = np.zeros(count + 1, np.int32)
        number_G[present] = np.arange(1, len(present) + 1)
        return number_G, Segments(
            np.arange(1, len(present) + 1, dtype=np.int32),
            class_ids[class_G[present]].astype(np.int32),
            score_G[present].astype(np.float32),
            area_G[present].astype(np.int64),
            kind_of_class[class_G[present]],
            self._probabilities(number_G, len(present)),
        )

    def _probabilities(self, number_G: np.ndarray, count: int) -> np.ndarray:
        """Mean over the area of what the segments of each parcel say that they are; float32,
        parcels x K. Segments that say nothing do not count.

        number_G: parcel of each group, from 1, 0 for those that are none. Tiles are loaded once
        more, one after the other.
        """
        cover, start_of_tile, group_S = (
            self.parcels.cover,
            self.parcels.start_of_tile,
            self.parcels.group_S,
        )
        sum_RK, said_R = np.zeros((count + 1, 0)), np.zeros(count + 1)
        for number in np.flatnonzero(np.diff(start_of_tile)).tolist():
            table = cover.load(number).segments
            probability_SK, classes = (
                table.probabilities.astype(np.float64),
                table.probabilities.shape[1],
            )
            if classes > sum_RK.shape[1]:
                sum_RK = np.pad(sum_RK, ((0, 0), (0, classes - sum_RK.shape[1])))
            number_S = number_G[group_S[start_of_tile[number] : start_of_tile[number + 1]]]
            # No two segments of a tile are of one parcel, and what is added to row 0 is of no
            # interest.
            sum_RK[number_S, :classes] += table.areas[:, None] * probability_SK
            said_R[number_S] += table.areas * probability_SK.sum(axis=1)
        sum_RK /= np.where(said_R > 0, said_R, 1)[:, None]
        return sum_RK[1:].astype(np.float32)


def _meet(first: Window, second: Window) -> Window:
    """What two windows that meet share."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom, right = (
        min(first.rows.stop, second.rows.stop),
        min(first.columns.stop, second.columns.stop),
    )
    return Window(top, left, bottom - top, right - left)


def _inside(window: Window, land: Window) -> tuple[slice, slice]:
    """A window of the map as an index into a piece of it."""
    top, left = window.top - land.top, window.left - land.left
    return slice(top, top + window.height), slice(left, left + window.width)


def _depth(extent: slice, shown: slice, size: int) -> np.ndarray:
    """Distance of the shown lines of a tile to its nearer end; an end of the map is no end."""
    along = np.arange(shown.start, shown.stop)
    before = along - extent.start if extent.start > 0 else np.full(len(along), _FAR)
    after = extent.stop - 1 - along if extent.stop < size else np.full(len(along), _FAR)
    return np.minimum(before, after).astype(np.int32)


def _ranks(owned_G: np.ndarray, claimed_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each group, the one with the smallest share of claims highest, and the group of each
    rank.
    """
    count = len(owned_G) - 1
    owned_share_G = owned_G / np.maximum(owned_G + claimed_G, 1)
    order = np.lexsort((-np.arange(count + 1), owned_share_G))
    rank_G = np.empty(count + 1, np.int32)
    rank_G[order] = np.arange(1, count + 2)
    rank_G[(owned_share_G <= 0.5) | (np.arange(count + 1) == 0)] = 0
    return rank_G, np.concatenate([[0], order]).astype(np.int32)


def _tables(cover: _Cover, lands: Sequence[Window]) -> tuple[Segments, np.ndarray]:
    """The segments of all tiles, tile by tile, without probabilities, and at which row each starts,
    with the end behind.
    """
    numbers: list[int] = []
    counts: list[int] = []
    tables, none = [], np.zeros((0, 0), np.float32)
    for land in lands:
        starting = cover.starting(land)
        own = [replace(cover.load(number).segments, probabilities=none) for number in starting]
        tables.append(Segments.concatenate(own))
        numbers += starting
        counts += map(len, own)
    count_of_tile = np.zeros(len(cover.windows), np.int64)
    count_of_tile[numbers] = counts
    order = np.argsort(np.repeat(numbers, counts), kind="stable")
    return Segments.concatenate(tables).take(order), np.concatenate([[0], np.cumsum(count_of_tile)])


def _match(
    cover: _Cover, lands: Sequence[Window], start_of_tile: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of segments of two tiles that are each other's best in what these share, int32, P x 2,
    and the pixels that both cover. They are collected land by land: many small arrays, kept among
    large ones that go, would leave holes in memory.
    """
    pairs, pixels = [np.empty((0, 2), np.int32)], [np.empty(0, np.int32)]
    for land in lands:
        found = [
            matches
            for number in cover.starting(land)
            for matches in _matches_of(cover, number, start_of_tile, min_iou)
        ]
        if found:
            pairs.append(np.concatenate([pair for pair, _ in found]))
            pixels.append(np.concatenate([both for _, both in found]))
    return np.concatenate(pairs), np.concatenate(pixels)


def _matches_of(
    cover: _Cover, number: int, start_of_tile: np.ndarray, min_iou: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What ``_match`` collects, of a tile and each later one that it meets."""
    tile = cover.load(number)
    for later in cover.numbers(tile.window) if len(tile.segments) else ():
        if later > number:
            other = cover.load(later)
            first_P, second_P, pixels_P = _best_pairs(
                tile, other, _meet(tile.window, other.window), min_iou
            )
            pairs = np.stack(
                [start_of_tile[number] + first_P, start_of_tile[later] + second_P], axis=1
            )
            yield pairs.astype(np.int32), pixels_P.astype(np.int32)


def _best_pairs(
    first: Tile, second: Tile, window: Window, min_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _groups(pairs: np.ndarray, pixels_P: np.ndarray, tile_S: np.ndarray) -> np.ndarray:
    """Parcel of each segment, from 1 in the order of their first segments, so that no parcel has
    two segments of one tile.
    """
    size = len(tile_S)
    graph = coo_matrix(
        (np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(size, size)
    )
    component_S = connected_components(graph, directed=False)[1] if size else np.empty(0, np.int32)
    component_P = component_S[pairs[:, 0]]
    # Component by component; inside, the strongest evidence first; the numbers of the segments make
    # the order one.
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
    """The first segment of the parcel of each segment that occurs in pairs, which are joined one
    after the other.
    """
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
