"""Pixels that the segments of two rasters share: what matching, joining and scoring all start from.

Shape suffixes: H W pixels, P pairs of segments that share pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from panoseg.classes import ClassTable, Kind
from panoseg.errors import PanopticFormatError


@dataclass(frozen=True, eq=False)
class Overlap:
    """Every pair of positions that meet, and how often. All int64, P; position 0 is "no
    segment".
    """

    first_P: np.ndarray
    second_P: np.ndarray
    pixels_P: np.ndarray


def overlap(
    first_HW: np.ndarray, second_HW: np.ndarray, first_count: int, second_count: int
) -> Overlap:
    """The table of shared pixels of two rasters of positions 0 .. count.

    >>> table = overlap(np.array([[1, 1, 0, 0], [1, 1, 2, 2]]), np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), 2, 1)
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
    if codes <= 4 * code_HW.size:
        count = np.bincount(code_HW.ravel(), minlength=codes)
        present = np.flatnonzero(count)
        pixels_P = count[present]
    else:
        present, pixels_P = np.unique(code_HW, return_counts=True)
    return Overlap(present // width, present % width, pixels_P)


def overlap_of_colours(first_3HW: np.ndarray, second_3HW: np.ndarray) -> Overlap:
    """The table of shared pixels of two rasters of ids as colours, uint8, with the ids in place of
    positions, ascending.

    An id is red + 256 green + 65536 blue. Runs of equal pairs are counted instead of pixels, which
    costs no more for large ids than for small ones, and a tenth of the time of sorting pixels.

    >>> first = np.array([[[7, 7, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> second = np.array([[[0, 0, 0, 0]], [[2, 2, 2, 0]], [[0, 0, 0, 0]]], np.uint8)
    >>> table = overlap_of_colours(first, second)
    >>> table.first_P, table.second_P, table.pixels_P
    (array([0, 0, 7]), array([  0, 512, 512]), array([1, 1, 2]))
    """
    planes = [plane_HW.ravel() for plane_HW in (*second_3HW, *first_3HW)]
    size = planes[0].size
    changes = np.ones(size, bool)
    changes[1:] = False
    for plane in planes:
        changes[1:] |= plane[1:] != plane[:-1]
    starts = np.flatnonzero(changes)
    code = sum(plane[starts].astype(np.int64) << 8 * place for place, plane in enumerate(planes))
    codes, pair = np.unique(code, return_inverse=True)
    pixels_P = np.bincount(pair, np.diff(starts, append=size), minlength=len(codes)).astype(
        np.int64
    )
    return Overlap(codes >> 24, codes & 2**24 - 1, pixels_P)


KINDS: tuple[Kind, ...] = ("stuff", "thing", "void")


@dataclass(frozen=True)
class Segment:
    """One row of the table: ``id`` in the raster, class, ``score`` 0..1, ``area`` in pixels, thing,
    stuff or void.
    """

    id: int
    class_id: int
    score: float
    area: int
    kind: Kind


@dataclass(frozen=True, eq=False)
class Segments:
    """The table of segments, by column, ascending by id; iterating gives a ``Segment`` a row.

    ids: int32, from 1, without repeats. class_ids: int32. scores: float32, 0..1, 1 for truth.
    areas: int64, pixels.
    kinds: uint8, position in ``KINDS``. All of shape N.

    probabilities: float32, N x K, how likely each segment is of each class, by class id, given that
    it is a thing: a row adds up to 1 over the classes of things and is 0 for others, or is 0
    throughout where nobody has said; K is 0 where nobody has said of any. The class is decided
    apart (``merge.to_panoptics``, ``join.Joined``), and is not always the likeliest.
    """

    ids: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    kinds: np.ndarray
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        if not self.probabilities.size:
            object.__setattr__(self, "probabilities", np.zeros((len(self.ids), 0), np.float32))

    @classmethod
    def of(cls, rows: Iterable[Segment]) -> Segments:
        """The table of some rows, in any order."""
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
        """The rows of several tables, one table after the other, as they are: ids may repeat."""
        tables = [cls.of([]), *tables]
        names = [column.name for column in fields(cls) if column.name != "probabilities"]
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables]) for name in names
        }
        classes = max(table.probabilities.shape[1] for table in tables)
        probabilities = np.zeros((len(columns["ids"]), classes), np.float32)
        for table, end in zip(
            tables, np.cumsum([len(table) for table in tables]).tolist(), strict=True
        ):
            probabilities[end - len(table) : end, : table.probabilities.shape[1]] = (
                table.probabilities
            )
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
        return self.kinds == KINDS.index("thing")

    @property
    def is_void(self) -> np.ndarray:
        """Bool, N: neither trained nor scored."""
        return self.kinds == KINDS.index("void")

    def take(self, rows: np.ndarray) -> Segments:
        """The table of some rows, by position or by mask."""
        return Segments(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A picture in which every pixel belongs to one segment or to none.

    segment_HW: int32, id of each pixel's segment, 0 = none. segments: exactly the ids of the raster
    with their true areas; a contradiction raises ``PanopticFormatError``.

    >>> picture = Panoptic.from_maps(np.array([[1, 1, 0, 0], [1, 1, 7, 7], [0, 0, 7, 7]]), {1: 3, 7: 2}, PASTIS)
    >>> for segment in picture.segments:
    ...     print(segment)
    Segment(id=1, class_id=3, score=1.0, area=4, kind='thing')
    Segment(id=7, class_id=2, score=1.0, area=4, kind='thing')
    """

    segment_HW: np.ndarray
    segments: Segments

    def __post_init__(self) -> None:
        if self.segment_HW.ndim != 2:
            raise PanopticFormatError(
                f"a raster of segments of shape {self.segment_HW.shape}",
                "two dimensions, height and width",
                "give one image",
            )
        object.__setattr__(self, "segment_HW", np.ascontiguousarray(self.segment_HW, np.int32))
        ids, areas = present_segments(self.segment_HW)
        if not np.array_equal(ids, self.segments.ids):
            raise contradiction(ids, self.segments.ids)
        if not np.array_equal(areas, self.segments.areas):
            wrong = int(np.flatnonzero(areas != self.segments.areas)[0])
            raise PanopticFormatError(
                f"area {self.segments.areas[wrong]} of segment {ids[wrong]}",
                f"its {areas[wrong]} pixels in the raster",
                "count the areas anew",
            )

    @classmethod
    def from_maps(
        cls,
        segment_HW: np.ndarray,
        classes: np.ndarray | Mapping[int, int],
        table: ClassTable,
        scores: Mapping[int, float] | None = None,
    ) -> Panoptic:
        """The picture of a raster of segments and their classes.

        classes: class of each pixel (H x W), of which a segment takes the most frequent, or class
        of each id. Pixels of a void class outside all segments become one void segment more.
        scores: score of each id, 1 where left out.

        >>> instances = np.array([[1, 1, 0, 0], [1, 1, 2, 2], [0, 0, 2, 2]])
        >>> classes = np.array([[3, 3, 0, 19], [3, 3, 8, 8], [0, 0, 8, 8]])
        >>> [(row.id, row.class_id, row.kind) for row in Panoptic.from_maps(instances, classes, PASTIS).segments]
        [(1, 3, 'thing'), (2, 8, 'thing'), (3, 19, 'void')]
        """
        segment_HW = np.array(segment_HW, np.int32)
        if not isinstance(classes, Mapping):
            _fill_void(segment_HW, np.asarray(classes), table)
        ids, areas = present_segments(segment_HW)
        if isinstance(classes, Mapping):
            class_ids = np.array([classes[int(id_)] for id_ in ids], np.int32)
        else:
            class_ids = _majority(positions(segment_HW, ids), classes, len(ids))
        scores = scores or {}
        scores_N = np.array([scores.get(int(id_), 1.0) for id_ in ids], np.float32)
        return cls(
            segment_HW, Segments(ids, class_ids, scores_N, areas, kinds_of(class_ids, table))
        )

    @classmethod
    def empty(cls, height: int, width: int) -> Panoptic:
        """A picture without segments."""
        return cls(np.zeros((height, width), np.int32), Segments.of([]))

    @property
    def position_HW(self) -> np.ndarray:
        """Row of each pixel's segment in the table, from 1; 0 = none. int32, H x W."""
        return positions(self.segment_HW, self.segments.ids)

    def relabel(self) -> Panoptic:
        """The same picture with the ids 1..N.

        >>> Panoptic.from_maps(np.array([[0, 5, 5, 5], [9, 9, 9, 5], [9, 9, 0, 0]]), {5: 1, 9: 1}, PASTIS).relabel().segment_HW
        array([[0, 1, 1, 1],
               [2, 2, 2, 1],
               [2, 2, 0, 0]], dtype=int32)
        """
        ids = np.arange(1, len(self.segments) + 1, dtype=np.int32)
        return Panoptic(self.position_HW, replace(self.segments, ids=ids))

    def keep(self, mask_N: np.ndarray) -> Panoptic:
        """The picture of some of the segments; the pixels of the others belong to none.

        >>> picture = Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS)
        >>> picture.keep(picture.segments.class_ids == 4).segment_HW[0]
        array([0, 0, 2, 2], dtype=int32)
        """
        kept = self.segments.take(mask_N)
        ids = np.zeros(len(self.segments) + 1, np.int32)
        ids[1:][mask_N] = kept.ids
        return Panoptic(ids[self.position_HW], kept)

    def crop(self, rows: slice, columns: slice) -> Panoptic:
        """A window of the picture, with the segments that reach into it; ids stay.

        >>> Panoptic.from_maps(np.array([[1, 1, 2, 2]] * 3), {1: 3, 2: 4}, PASTIS).crop(slice(0, 2), slice(1, 4)).segments.areas
        array([2, 4])
        """
        segment_HW = self.segment_HW[rows, columns]
        ids, areas = present_segments(segment_HW)
        kept = self.segments.take(np.searchsorted(self.segments.ids, ids))
        return Panoptic(segment_HW, replace(kept, areas=areas))

    def with_background(self, table: ClassTable) -> Panoptic:
        """The picture in which pixels without a segment are one segment of the table's background
        class.

        COCO's definition of quality takes pixels without a true segment for void: this turns them
        into stuff.

        >>> Panoptic.from_maps(np.array([[1, 1, 0, 0]] * 3), {1: 3}, PASTIS).with_background(PASTIS).segments.class_ids
        array([3, 0], dtype=int32)
        """
        none_HW = self.segment_HW == 0
        if table.background is None or not none_HW.any():
            return self
        id_ = int(self.segments.ids.max(initial=0)) + 1
        background = Segment(id_, table.background, 1.0, int(none_HW.sum()), "stuff")
        segments = Segments.concatenate([self.segments, Segments.of([background])])
        return Panoptic(np.where(none_HW, id_, self.segment_HW), segments)

    def classes_HW(self, none: int = 0) -> np.ndarray:
        """Class of each pixel, ``none`` where it belongs to no segment. int32, H x W.

        >>> Panoptic.from_maps(np.array([[4, 4, 0, 6]] * 3), {4: 3, 6: 1}, PASTIS).classes_HW()[0]
        array([3, 3, 0, 1], dtype=int32)
        """
        return np.concatenate([[none], self.segments.class_ids]).astype(np.int32)[self.position_HW]

    def boxes_N4(self) -> np.ndarray:
        """Bounding boxes: top, left, bottom, right in pixels, the last two exclusive. int64, N x 4.

        >>> Panoptic.from_maps(np.array([[1, 1, 0, 0], [0, 1, 2, 2], [0, 0, 0, 2]]), {1: 3, 2: 4}, PASTIS).boxes_N4()
        array([[0, 0, 2, 2],
               [1, 2, 3, 4]])
        """
        boxes = np.empty((len(self.segments), 4), np.int64)
        position_HW = self.position_HW
        for axis, raster in enumerate((position_HW, np.ascontiguousarray(position_HW.T))):
            lines, across = np.nonzero(raster)
            segments = raster[lines, across] - 1
            # Lines ascend, and of several values assigned to one place the last stays.
            boxes[segments[::-1], axis] = lines[::-1]
            boxes[segments, axis + 2] = lines + 1
        return boxes

    def centroids_N2(self) -> np.ndarray:
        """Mean row and column of each segment's pixel centres. float64, N x 2.

        >>> Panoptic.from_maps(np.array([[1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]), {1: 3, 2: 4}, PASTIS).centroids_N2()
        array([[0. , 0.5],
               [1.5, 2.5]])
        """
        rows, columns = np.nonzero(self.segment_HW)
        segments = self.position_HW[rows, columns] - 1
        sums = [
            np.bincount(segments, axis, minlength=len(self.segments)) for axis in (rows, columns)
        ]
        return np.stack(sums, axis=1) / self.segments.areas[:, None]

    def same_up_to_names(self, other: Panoptic) -> bool:
        """Whether both have the same regions with the same classes, whatever their ids and scores.

        >>> first = Panoptic.from_maps(np.array([[1, 1, 0, 2]] * 3), {1: 3, 2: 4}, PASTIS)
        >>> second = Panoptic.from_maps(np.array([[9, 9, 0, 5]] * 3), {9: 3, 5: 4}, PASTIS)
        >>> first.same_up_to_names(second), first.same_up_to_names(second.crop(slice(3), slice(3)))
        (True, False)
        """
        if self.segment_HW.shape != other.segment_HW.shape or len(self.segments) != len(
            other.segments
        ):
            return False
        mine, theirs = self.position_HW.ravel(), other.position_HW.ravel()
        partner = np.zeros(len(self.segments) + 1, np.int64)
        partner[mine] = theirs
        # As many segments here as there: the map is one to one where it meets all of them and
        # agrees on every pixel.
        if (
            partner[0] != 0
            or not np.array_equal(partner[mine], theirs)
            or len(np.unique(partner)) != len(partner)
        ):
            return False
        return bool(
            np.array_equal(self.segments.class_ids, other.segments.class_ids[partner[1:] - 1])
        )


def present_segments(segment_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids in a raster, ascending and without 0 (int32), and their pixel counts (int64).

    >>> present_segments(np.array([[0, 4, 4, 4], [0, 2, 2, 2], [2, 2, 2, 4]]))
    (array([2, 4], dtype=int32), array([6, 4]))
    """
    lowest, highest = int(segment_HW.min(initial=0)), int(segment_HW.max(initial=0))
    if lowest < 0:
        raise PanopticFormatError(
            f"segment id {lowest}", "ids from 1 and 0 for none", "renumber the segments"
        )
    if highest <= 4 * segment_HW.size:
        count = np.bincount(segment_HW.ravel(), minlength=1)
        ids = np.flatnonzero(count)
        areas = count[ids]
    else:
        ids, areas = np.unique(segment_HW, return_counts=True)
    start = 1 if ids.size and ids[0] == 0 else 0
    return ids[start:].astype(np.int32), areas[start:].astype(np.int64)


def positions(segment_HW: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position in ``ids`` (ascending) of each pixel's segment, from 1, and 0 for none. int32, H x
    W.

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
    return position[segment_HW]


def kinds_of(class_ids: np.ndarray, table: ClassTable) -> np.ndarray:
    """Kind of each class as a position in ``KINDS``; a class that the table lacks raises
    ``PanopticFormatError``.
    """
    kinds = np.full(table.count, len(KINDS), np.uint8)
    for entry in table.classes:
        kinds[entry.id] = KINDS.index(entry.kind)
    known = (class_ids >= 0) & (class_ids < table.count)
    known[known] = kinds[class_ids[known]] < len(KINDS)
    if not known.all():
        raise PanopticFormatError(
            f"class {class_ids[~known][0]} of a segment",
            f"one of {[entry.id for entry in table.classes]} of {table.name}",
            "correct the class or use the table of this dataset",
        )
    return kinds[class_ids]


def _majority(position_HW: np.ndarray, classes_HW: np.ndarray, count: int) -> np.ndarray:
    width = int(np.max(classes_HW, initial=0)) + 1
    codes = position_HW.astype(np.int64) * width + classes_HW
    votes = np.bincount(codes.ravel(), minlength=(count + 1) * width).reshape(count + 1, width)
    return votes[1:].argmax(axis=1).astype(np.int32)


def _fill_void(segment_HW: np.ndarray, classes_HW: np.ndarray, table: ClassTable) -> None:
    if segment_HW.shape != classes_HW.shape:
        raise PanopticFormatError(
            f"classes of shape {classes_HW.shape} beside segments of shape {segment_HW.shape}",
            "equal shapes",
            "crop both alike",
        )
    for class_id in table.ids("void"):
        outside_HW = (classes_HW == class_id) & (segment_HW == 0)
        if outside_HW.any():
            segment_HW[outside_HW] = segment_HW.max() + 1


def contradiction(raster_ids: np.ndarray, table_ids: np.ndarray) -> PanopticFormatError:
    """The failure that the ids of a raster are not those of its table, both ascending."""
    for found, missing_in in (
        (np.setdiff1d(raster_ids, table_ids), "table"),
        (np.setdiff1d(table_ids, raster_ids), "raster"),
    ):
        if found.size:
            return PanopticFormatError(
                f"segment {found[0]}{f' and {found.size - 1} more' if found.size > 1 else ''}"
                f" missing in the {missing_in}",
                "the same ids in raster and table",
                "complete the table or remove the segment from it",
            )
    return PanopticFormatError(
        f"ids {table_ids[:5].tolist()} in the table",
        "ascending ids without repeats",
        "sort the table",
    )
