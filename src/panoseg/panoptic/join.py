"""Joining the segmentations of overlapping tiles into that of the whole map, piece by piece.

Two tiles both see the strip that they share, and segments that cover the same pixels of it are one
parcel (``panoseg.panoptic.tiles``). A pixel is owned by the tile that sees it farthest from its
margin. If owners alone decided, a parcel on which tiles disagree would be cut along the straight
line between the areas that they own. Parcels are therefore judged as a whole. Claims are the pixels
that a tile gives to a parcel although another tile owns them: a parcel that consists of claims to
half or more is dropped, and of several parcels that want a pixel the one with the smallest share of
claims gets it.

A map may be far larger than memory: tiles are loaded when a piece of the map needs them, and only
tables of segments and parcels are kept for the whole map. The result is a function of the set of
tiles and depends neither on their order nor on the pieces.

Shape suffixes: H W pixels of a piece of the map, h w pixels of a tile, S segments of all tiles,
G groups of segments that are one parcel (0 = none), R groups that have pixels, K classes, C claims
of a tile to a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from panoseg.classes import ClassTable
from panoseg.cube.season import Window
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.tiles import (
    Cover,
    Tile,
    group_segments,
    intersect,
    match_tiles,
    segment_table,
)

__all__ = ["Joined", "Tile", "TileJoiner", "join_tiles"]

_FAR = 2**30
_MIN_IOU = 1 / 3


class TileJoiner:
    """Collects the segmentations of tiles, in any order, and joins them in memory.

    Until ``finish`` a tile takes one or two bytes per pixel, so a whole map takes about as much
    memory as its raster.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        min_iou: Segments of two tiles are one parcel if each is the other's best match in the
            shared pixels and their intersection over union there is at least this.

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
        self._table: ClassTable | None = None

    def add(self, row: int, column: int, segmentation: Panoptic) -> None:
        """Add a tile whose first pixel lies at ``row``, ``column`` of the map."""
        height, width = segmentation.segment_HW.shape
        if row < 0 or column < 0 or row + height > self.height or column + width > self.width:
            raise ValueError(
                f"tile of {height} x {width} at ({row}, {column}) leaves the map of {self.height} x"
                f" {self.width}"
            )
        if (row, column) in self._tiles:
            raise ValueError(f"a second tile at ({row}, {column})")
        self._tiles[row, column] = Tile.of(row, column, segmentation)
        self._table = self._table or segmentation.table

    def finish(self) -> Panoptic:
        """Return the segmentation of the map, ids from 1; uncovered pixels have no segment."""
        tiles = [self._tiles[place] for place in sorted(self._tiles)]
        windows, whole = [tile.window for tile in tiles], Window(0, 0, self.height, self.width)
        joined = join_tiles(
            self.height, self.width, windows, tiles.__getitem__, [whole], self.min_iou
        )
        group_HW = joined.draw(whole)
        number_G, segments = joined.table(np.bincount(group_HW.ravel(), minlength=joined.count + 1))
        return Panoptic(number_G[group_HW], segments, self._table)


def join_tiles(
    height: int,
    width: int,
    windows: Sequence[Window],
    load: Callable[[int], Tile],
    pieces: Sequence[Window],
    min_iou: float = _MIN_IOU,
) -> Joined:
    """Find the parcels of a map that consists of overlapping tiles.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        windows: Where each tile lies, sorted by row, then column; all start at different pixels.
        load: Returns a tile by its index in ``windows``. It is called several times per tile, for
            neighbours at about the same time.
        pieces: Windows that cover each pixel of the map once; one of them is processed at a time.
        min_iou: See ``TileJoiner``.
    """
    cover = Cover(height, width, windows, load)
    table_S, start_of_tile = segment_table(cover, pieces)
    tile_S = np.repeat(np.arange(len(windows)), np.diff(start_of_tile))
    pairs, pixels_P = match_tiles(cover, pieces, start_of_tile, min_iou)
    parcels = _Parcels(cover, start_of_tile, group_segments(pairs, pixels_P, tile_S))
    owned_G = np.zeros(parcels.count + 1, np.int64)
    claimed_G = np.zeros(parcels.count + 1, np.int64)
    for piece in pieces if parcels.count else ():
        owned_HW, _, group_C = parcels.wanted(piece)
        for total_G, groups in ((owned_G, owned_HW), (claimed_G, group_C)):
            present, pixels = np.unique(groups, return_counts=True)
            total_G[present] += pixels
    return Joined(parcels, table_S, *_ranks(owned_G, claimed_G))


@dataclass(frozen=True, eq=False)
class _Parcels:
    """Which segments are which parcel."""

    cover: Cover
    """The tiles of the map."""
    start_of_tile: np.ndarray
    """int64, tiles + 1: index of each tile's first segment, and the number of all segments."""
    group_S: np.ndarray
    """int64, S: parcel of each segment, 1..count."""

    @property
    def count(self) -> int:
        return int(self.group_S.max(initial=0))

    def wanted(self, piece: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the parcel of each pixel by its owner, and the claims of other tiles.

        If the owner of a pixel has the claimed parcel too, but gives the pixel to no parcel, it has
        drawn the border of the parcel there: this is not a claim.

        Returns:
            Parcel of each pixel (int64, H x W, 0 = none), and pixel and parcel of each claim
            (int64, C each; the pixel as an index into the flattened piece).
        """
        if all(
            self.start_of_tile[number] == self.start_of_tile[number + 1]
            for number in self.cover.numbers(piece)
        ):
            nothing = np.empty(0, np.int64)  # a shortcut for large parts without any parcel
            return np.zeros((piece.height, piece.width), np.int64), nothing, nothing
        seen = [
            (groups, groups[tile.part(shared)], _index_in(shared, piece), tile.window)
            for number, (tile, shared) in zip(
                self.cover.numbers(piece), self.cover.tiles(piece), strict=True
            )
            for groups in [self._groups_of(number)]
        ]
        owner_HW = self._owners(piece, [window for *_, window in seen])
        owned_HW = np.zeros((piece.height, piece.width), np.int64)
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
            pixel_C = (row_C + place[0].start) * piece.width + column_C + place[1].start
            claims.append((pixel_C * width + group_C)[~leaves_out_C])
        claimed = np.unique(np.concatenate(claims))
        return owned_HW, claimed // width, claimed % width

    def _groups_of(self, number: int) -> np.ndarray:
        """Return the parcel of each position of a tile; position 0 stays "none"."""
        start, end = self.start_of_tile[number : number + 2]
        return np.concatenate([[0], self.group_S[start:end]])

    def _owners(self, piece: Window, windows: Sequence[Window]) -> np.ndarray:
        """Return the index in ``windows`` of each pixel's owner, -1 without one: int32, H x W."""
        owner_HW = np.full((piece.height, piece.width), -1, np.int32)
        depth_HW = np.full((piece.height, piece.width), -1, np.int32)
        for number, window in enumerate(windows):
            shared = intersect(window, piece)
            place = _index_in(shared, piece)
            down = _depth(window.rows, shared.rows, self.cover.height)
            across = _depth(window.columns, shared.columns, self.cover.width)
            depth_hw = np.minimum(down[:, None], across[None, :])
            deeper = depth_hw > depth_HW[place]
            depth_HW[place][deeper] = depth_hw[deeper]
            owner_HW[place][deeper] = number
        return owner_HW


@dataclass(frozen=True, eq=False)
class Joined:
    """The parcels of a tiled map: ``draw`` gives the raster of a piece, ``table`` the segments."""

    parcels: _Parcels
    """Which segments are which parcel."""
    table_S: Segments
    """The segments of all tiles, without probabilities, which would take most of the memory."""
    rank_G: np.ndarray
    """int32, G: the parcel with the highest rank gets a pixel; 0 = dropped or "none"."""
    group_of_rank: np.ndarray
    """int32: the parcel of each rank."""

    @property
    def count(self) -> int:
        """Number of groups of segments, including the dropped ones."""
        return self.parcels.count

    def draw(self, piece: Window) -> np.ndarray:
        """Return the group of each pixel of a piece, 1..``count``, 0 = none: int32, H x W."""
        if not self.count:
            return np.zeros((piece.height, piece.width), np.int32)
        owned_HW, pixel_C, group_C = self.parcels.wanted(piece)
        rank_HW = self.rank_G[owned_HW]
        np.maximum.at(rank_HW.reshape(-1), pixel_C, self.rank_G[group_C])
        return np.asarray(self.group_of_rank[rank_HW])

    def table(self, area_G: np.ndarray) -> tuple[np.ndarray, Segments]:
        """Return the ids of the groups that have pixels, and the table of their segments.

        The class is a vote of a parcel's segments weighted by score and area; score and
        probabilities are means weighted by area. The most probable class is therefore not always
        the one with the most votes.

        Args:
            area_G: Integers: number of pixels of each group that ``draw`` gives in the whole map.

        Returns:
            int32, G: id of each group, from 1, 0 for groups without pixels; and the table.
        """
        table_S, group_S, count = self.table_S, self.parcels.group_S, self.count
        # Segments of score 0 still decide if there are no others.
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
        """Return the mean probabilities of each parcel, weighted by area: float32, R x K.

        Segments without probabilities are left out. Tiles are loaded once more, one by one.

        Args:
            number_G: Integers: id of each group, from 1, 0 for groups without pixels.
            count: Number R of groups with pixels.
        """
        parcels, start_of_tile = self.parcels, self.parcels.start_of_tile
        sum_RK, weight_R = np.zeros((count + 1, 0)), np.zeros(count + 1)
        for number in np.flatnonzero(np.diff(start_of_tile)).tolist():
            table = parcels.cover.load(number).segments
            probability_SK = table.probabilities.astype(np.float64)
            classes = probability_SK.shape[1]
            if classes > sum_RK.shape[1]:
                sum_RK = np.pad(sum_RK, ((0, 0), (0, classes - sum_RK.shape[1])))
            start, end = start_of_tile[number : number + 2]
            number_S = number_G[parcels.group_S[start:end]]
            # ``+=`` adds only once per index, which is enough: no two segments of a tile are of one
            # parcel, except for those of row 0, which is dropped below.
            sum_RK[number_S, :classes] += table.areas[:, None] * probability_SK
            weight_R[number_S] += table.areas * probability_SK.sum(axis=1)
        sum_RK /= np.where(weight_R > 0, weight_R, 1)[:, None]
        return sum_RK[1:].astype(np.float32)


def _index_in(window: Window, piece: Window) -> tuple[slice, slice]:
    """Return a window of the map as an index into a piece of it."""
    top, left = window.top - piece.top, window.left - piece.left
    return slice(top, top + window.height), slice(left, left + window.width)


def _depth(extent: slice, lines: slice, size: int) -> np.ndarray:
    """Return the distance of some lines of a tile to its nearer end, ignoring ends of the map."""
    along = np.arange(lines.start, lines.stop)
    before = along - extent.start if extent.start > 0 else np.full(len(along), _FAR)
    after = extent.stop - 1 - along if extent.stop < size else np.full(len(along), _FAR)
    return np.asarray(np.minimum(before, after), np.int32)


def _ranks(owned_G: np.ndarray, claimed_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank the groups: the one with the smallest share of claims is highest.

    Returns:
        Rank of each group and group of each rank, int32 each.
    """
    count = len(owned_G) - 1
    owned_share_G = owned_G / np.maximum(owned_G + claimed_G, 1)
    order = np.lexsort((-np.arange(count + 1), owned_share_G))
    rank_G = np.empty(count + 1, np.int32)
    rank_G[order] = np.arange(1, count + 2)
    rank_G[(owned_share_G <= 0.5) | (np.arange(count + 1) == 0)] = 0
    return rank_G, np.concatenate([[0], order]).astype(np.int32)
