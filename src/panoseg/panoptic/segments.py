"""The table of segments, and the rasters of ids that it belongs to.

Shape suffixes: H W pixels, N segments, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from panoseg.classes import ClassTable, Kind
from panoseg.errors import PanopticFormatError

KINDS: tuple[Kind, ...] = ("stuff", "thing", "void")


@dataclass(frozen=True)
class Segment:
    """One row of the table of segments."""

    id: int
    """The value of the segment's pixels in the raster, at least 1."""
    class_id: int
    """Id of the class in the class table."""
    score: float
    """Confidence, 0..1; 1 for ground truth."""
    area: int
    """Number of pixels."""
    kind: Kind
    """"thing", "stuff" or "void"."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The table of segments by column, ascending by id; iterating yields a ``Segment`` per row."""

    ids: np.ndarray
    """int32, N: ids from 1, without repeats."""
    class_ids: np.ndarray
    """int32, N: class of each segment."""
    scores: np.ndarray
    """float32, N: confidence, 0..1; 1 for ground truth."""
    areas: np.ndarray
    """int64, N: number of pixels."""
    kinds: np.ndarray
    """uint8, N: position in ``KINDS``."""
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32, N x K: class probabilities given that the segment is a thing, by class id.

    A row sums to 1 over the classes of things. It is 0 throughout for a segment without
    probabilities, and K is 0 if no segment has any. The class of a segment is decided separately
    (``merge.to_panoptics``, ``join.Joined``) and is not always the most probable one.
    """

    def __post_init__(self) -> None:
        if not self.probabilities.size:
            object.__setattr__(self, "probabilities", np.zeros((len(self.ids), 0), np.float32))

    @classmethod
    def of(cls, rows: Iterable[Segment]) -> Segments:
        """Build the table from rows in any order."""
        ordered = sorted(rows, key=lambda row: row.id)
        return cls(
            np.array([row.id for row in ordered], np.int32),
            np.array([row.class_id for row in ordered], np.int32),
            np.array([row.score for row in ordered], np.float32),
            np.array([row.area for row in ordered], np.int64),
            np.array([KINDS.index(row.kind) for row in ordered], np.uint8),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[Segments]) -> Segments:
        """Concatenate the rows of several tables unchanged; ids may repeat."""
        tables = [cls.of([]), *tables]
        names = [column.name for column in fields(cls) if column.name != "probabilities"]
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables]) for name in names
        }
        classes = max(table.probabilities.shape[1] for table in tables)
        probabilities = np.zeros((len(columns["ids"]), classes), np.float32)
        end = 0
        for table in tables:
            start, end = end, end + len(table)
            probabilities[start:end, : table.probabilities.shape[1]] = table.probabilities
        return cls(**columns, probabilities=probabilities)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Segment]:
        columns = (self.ids, self.class_ids, self.scores, self.areas, self.kinds)
        for id_, class_id, score, area, kind in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Segment(id_, class_id, score, area, KINDS[kind])

    @property
    def is_thing(self) -> np.ndarray:
        """Bool, N: countable objects."""
        return np.asarray(self.kinds == KINDS.index("thing"))

    @property
    def is_void(self) -> np.ndarray:
        """Bool, N: neither trained nor scored."""
        return np.asarray(self.kinds == KINDS.index("void"))

    def take(self, rows: np.ndarray) -> Segments:
        """Select rows by position or by mask."""
        return Segments(*(getattr(self, column.name)[rows] for column in fields(self)))


def present_segments(segment_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids in a raster and their numbers of pixels.

    Args:
        segment_HW: Integers, H x W; 0 = none.

    Returns:
        The ids (int32, N, ascending, without 0) and their areas (int64, N).

    Raises:
        PanopticFormatError: An id is negative.

    >>> present_segments(np.array([[0, 4, 4, 4], [0, 2, 2, 2], [2, 2, 2, 4]]))
    (array([2, 4], dtype=int32), array([6, 4]))
    """
    lowest, highest = int(segment_HW.min(initial=0)), int(segment_HW.max(initial=0))
    if lowest < 0:
        raise PanopticFormatError(
            f"The raster has the segment id {lowest}; ids start at 1, and 0 means no segment."
        )
    # A histogram over all ids is faster than sorting, unless it is much larger than the raster.
    if highest <= 4 * segment_HW.size:
        count = np.bincount(segment_HW.ravel(), minlength=1)
        ids = np.flatnonzero(count)
        areas = count[ids]
    else:
        ids, areas = np.unique(segment_HW, return_counts=True)
    start = 1 if ids.size and ids[0] == 0 else 0
    return ids[start:].astype(np.int32), areas[start:].astype(np.int64)


def positions(segment_HW: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the position in ``ids`` of each pixel's segment, from 1; 0 = none.

    Args:
        segment_HW: int32, H x W, with no other ids than 0 and ``ids``.
        ids: int32, N, ascending.

    Returns:
        int32, H x W; the raster itself where the ids are 1..N.

    >>> positions(np.array([[0, 4, 4, 4], [0, 2, 2, 2], [2, 2, 2, 4]]), np.array([2, 4]))[0]
    array([0, 2, 2, 2], dtype=int32)
    """
    if not ids.size:
        return np.zeros(segment_HW.shape, np.int32)
    if ids[-1] == len(ids):
        return segment_HW
    if ids[-1] > 4 * segment_HW.size:
        return np.searchsorted(np.concatenate([[0], ids]), segment_HW).astype(np.int32)
    position = np.zeros(int(ids[-1]) + 1, np.int32)
    position[ids] = np.arange(1, len(ids) + 1)
    return np.asarray(position[segment_HW])


def kinds_of(class_ids: np.ndarray, table: ClassTable) -> np.ndarray:
    """Return the kind of each class as a position in ``KINDS``: uint8, N.

    Raises:
        PanopticFormatError: The table lacks a class.
    """
    kinds = np.full(table.count, len(KINDS), np.uint8)
    for entry in table.classes:
        kinds[entry.id] = KINDS.index(entry.kind)
    known = (class_ids >= 0) & (class_ids < table.count)
    known[known] = kinds[class_ids[known]] < len(KINDS)
    if not known.all():
        raise PanopticFormatError(
            f"A segment has class {class_ids[~known][0]}, which the class table {table.name} "
            f"does not have; its classes are {[entry.id for entry in table.classes]}."
        )
    return np.asarray(kinds[class_ids])


def contradiction(raster_ids: np.ndarray, table_ids: np.ndarray) -> PanopticFormatError:
    """Return the error for ids (ascending) that differ between a raster and its table."""
    for found, has, lacks in (
        (np.setdiff1d(raster_ids, table_ids), "raster", "table"),
        (np.setdiff1d(table_ids, raster_ids), "table", "raster"),
    ):
        if found.size:
            more = f" (and {found.size - 1} more)" if found.size > 1 else ""
            return PanopticFormatError(
                f"Segment {found[0]}{more} is in the {has} but missing in the {lacks}."
            )
    return PanopticFormatError(
        f"The ids of the table must ascend without repeats; it starts with "
        f"{table_ids[:5].tolist()}."
    )


@dataclass(frozen=True, eq=False)
class Overlap:
    """Every pair of segments of two rasters that share pixels; 0 stands for "no segment"."""

    first_P: np.ndarray
    """int64, P: position (or id) of the segment in the first raster."""
    second_P: np.ndarray
    """int64, P: position (or id) of the segment in the second raster."""
    pixels_P: np.ndarray
    """int64, P: number of shared pixels, at least 1."""


def overlap(
    first_HW: np.ndarray, second_HW: np.ndarray, first_count: int, second_count: int
) -> Overlap:
    """Count the pixels that the segments of two rasters of positions share.

    Args:
        first_HW: Integers 0..``first_count``, H x W.
        second_HW: Integers 0..``second_count``, H x W.
        first_count: Number of segments of the first raster.
        second_count: Number of segments of the second raster.

    Returns:
        The pairs, ascending by first and then by second position.

    >>> first, second = np.array([[1, 1, 0, 0], [1, 1, 2, 2]]), np.array([[1, 1, 1, 0], [1] * 4])
    >>> table = overlap(first, second, 2, 1)
    >>> for row in zip(table.first_P, table.second_P, table.pixels_P):
    ...     print(*row)
    0 0 1
    0 1 1
    1 1 4
    2 1 2
    """
    width = second_count + 1
    code_HW = np.multiply(first_HW, width, dtype=np.int64)
    code_HW += second_HW
    codes = (first_count + 1) * width
    # A histogram over all codes is faster than sorting, unless it is much larger than the raster.
    if codes <= 4 * code_HW.size:
        count = np.bincount(code_HW.ravel(), minlength=codes)
        present = np.flatnonzero(count)
        pixels_P = count[present]
    else:
        present, pixels_P = np.unique(code_HW, return_counts=True)
    return Overlap(present // width, present % width, pixels_P)


def overlap_of_colours(first_3HW: np.ndarray, second_3HW: np.ndarray) -> Overlap:
    """Count the pixels that the segments of two rasters of colour-coded ids share.

    Runs of equal pixels are counted instead of single pixels. This costs no more for large ids than
    for small ones, and a tenth of the time of sorting pixels.

    Args:
        first_3HW: uint8 planes red, green and blue, 3 x H x W; id = R + 256 G + 65536 B.
        second_3HW: The same for the second raster.

    Returns:
        The pairs with ids instead of positions, ascending by first and then by second id.

    >>> first = np.array([[[7, 7, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> second = np.array([[[0, 0, 0, 0]], [[2, 2, 2, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> table = overlap_of_colours(first, second)
    >>> table.first_P, table.second_P, table.pixels_P
    (array([0, 0, 7]), array([  0, 512, 512]), array([1, 1, 2]))
    """
    planes = [plane_HW.ravel() for plane_HW in (*second_3HW, *first_3HW)]
    size = planes[0].size
    starts_run = np.ones(size, bool)
    after_first, differs = starts_run[1:], np.empty(max(size - 1, 0), bool)
    np.not_equal(planes[0][1:], planes[0][:-1], out=after_first)
    for plane in planes[1:]:
        np.not_equal(plane[1:], plane[:-1], out=differs)
        np.logical_or(after_first, differs, out=after_first)
    start_R = np.flatnonzero(starts_run)

    # Six colour bytes and two of padding are a number of 64 bits: the second id in the lower 24.
    bytes_R8 = np.zeros((len(start_R), 8), np.uint8)
    for place, plane in enumerate(planes):
        bytes_R8[:, place] = plane.take(start_R)
    code_R = bytes_R8.view("<i8")[:, 0].astype(np.int64, copy=False)
    order_R = np.argsort(code_R)
    sorted_R = code_R[order_R]
    first_of_P = np.flatnonzero(np.diff(sorted_R, prepend=-1))
    length_R = np.diff(start_R, append=size)
    pixels_P = np.add.reduceat(length_R[order_R], first_of_P).astype(np.int64, copy=False)
    code_P = sorted_R[first_of_P]
    return Overlap(code_P >> 24, code_P & 2**24 - 1, pixels_P)
