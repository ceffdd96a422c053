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
