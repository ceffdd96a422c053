"""Panoptic quality under two published definitions, from one table of shared pixels a patch.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1. "pastis":
VSainteuf/utae-paps @ 987874e, src/panoptic/metrics.py. "coco": cocodataset/panopticapi @ 7bb4655,
panopticapi/evaluation.py. How they differ, and a worked example, is in docs/panoptic-quality.md.

Shape suffixes: K scored classes, N true segments, M predicted segments, P pairs of a true and a
predicted segment that share pixels; position 0 of N and M is "no segment".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic.overlap import Overlap, overlap
from panoseg.panoptic.panoptic import Panoptic, Segments

Definition = Literal["pastis", "coco"]

_MATCH = 0.5
_NO_CROWD = -2


@dataclass(frozen=True)
class ScoredClasses:
    """The classes that a definition scores: ``names`` and ``is_thing`` of each, and
    ``row_of_class``, -1 where not scored.
    """

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    row_of_class: np.ndarray


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """Matches of each scored class; ``+`` adds those of other patches or processes.

    true_positives, false_positives, false_negatives: int64, K. iou_sum: float64, K, over the true
    positives.
    """

    classes: ScoredClasses
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    iou_sum: np.ndarray

    @classmethod
    def zero(
        cls, table: ClassTable, definition: Definition = "pastis", *, class_agnostic: bool = False
    ) -> PanopticCounts:
        """No patch yet."""
        classes = scored_classes(table, definition, class_agnostic)
        none_K = np.zeros(len(classes.names), np.int64)
        return cls(classes, none_K, none_K, none_K, none_K.astype(np.float64))

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        if self.classes.names != other.classes.names:
            raise ValueError(
                f"counts of {self.classes.names} and of {other.classes.names} cannot be added"
            )
        columns = (field.name for field in fields(self) if field.name != "classes")
        return replace(
            self, **{name: getattr(self, name) + getattr(other, name) for name in columns}
        )

    def to_array(self) -> np.ndarray:
        """float64, K x 4: true positives, false positives, false negatives, sum of IoU. Sums of
        such arrays are sums of counts, so one all-reduce merges processes.
        """
        return np.stack(
            [self.true_positives, self.false_positives, self.false_negatives, self.iou_sum], axis=1
        )

    def from_array(self, array_K4: np.ndarray) -> PanopticCounts:
        """Counts of the same classes with the numbers of ``to_array``."""
        tp_K, fp_K, fn_K = array_K4[:, :3].round().astype(np.int64).T
        return PanopticCounts(self.classes, tp_K, fp_K, fn_K, array_K4[:, 3].astype(np.float64))


@dataclass(frozen=True)
class QualityMean:
    """Means over the ``n`` classes that occur, 0..1; zero where none does."""

    sq: float
    rq: float
    pq: float
    n: int


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """Segmentation quality, recognition quality and their product, 0..1, of each class and
    averaged.

    sq_K, rq_K, pq_K: float64, NaN where a class occurs neither in the truth nor in the prediction.
    Such classes are left out of the means ``all``, ``things`` and ``stuff``.
    """

    counts: PanopticCounts
    sq_K: np.ndarray
    rq_K: np.ndarray
    pq_K: np.ndarray
    all: QualityMean
    things: QualityMean
    stuff: QualityMean

    def to_json(self) -> dict:
        """A JSON-ready dictionary; classes that do not occur have null."""

        def row(index: int) -> dict:
            counts = self.counts
            qualities = {"sq": self.sq_K[index], "rq": self.rq_K[index], "pq": self.pq_K[index]}
            return {
                **{
                    name: None if np.isnan(value) else float(value)
                    for name, value in qualities.items()
                },
                "true_positives": int(counts.true_positives[index]),
                "false_positives": int(counts.false_positives[index]),
                "false_negatives": int(counts.false_negatives[index]),
                "iou_sum": float(counts.iou_sum[index]),
            }

        means = {name: vars(getattr(self, name)) for name in ("all", "things", "stuff")}
        return {
            **means,
            "classes": {name: row(index) for index, name in enumerate(self.counts.classes.names)},
        }


def panoptic_quality(counts: PanopticCounts) -> PanopticQuality:
    """Qualities of counted matches: SQ = sum of IoU / TP, RQ = TP / (TP + FP/2 + FN/2), PQ = SQ x
    RQ.
    """
    positives = counts.true_positives
    mistakes = counts.false_positives + counts.false_negatives
    occurs = positives + mistakes > 0
    rq_K = np.where(occurs, positives / np.where(occurs, positives + mistakes / 2, 1), np.nan)
    sq_K = np.where(occurs, counts.iou_sum / np.maximum(positives, 1), np.nan)
    pq_K = sq_K * rq_K
    is_thing = np.array(counts.classes.is_thing, bool)

    def mean(chosen: np.ndarray) -> QualityMean:
        chosen = chosen & occurs
        if not chosen.any():
            return QualityMean(0.0, 0.0, 0.0, 0)
        sq, rq, pq = (float(values[chosen].mean()) for values in (sq_K, rq_K, pq_K))
        return QualityMean(sq, rq, pq, int(chosen.sum()))

    return PanopticQuality(
        counts, sq_K, rq_K, pq_K, mean(np.ones_like(occurs)), mean(is_thing), mean(~is_thing)
    )


@functools.lru_cache
def scored_classes(
    table: ClassTable, definition: Definition, class_agnostic: bool = False
) -> ScoredClasses:
    """The classes that are scored: all but void, and under "pastis" things alone, since background
    is no parcel.

    class_agnostic: all things are one class, so that only where parcels lie is scored.
    """
    if definition not in ("pastis", "coco"):
        raise ValueError(
            f"no definition of panoptic quality {definition!r}; there are 'pastis' and 'coco'"
        )
    kinds = ("thing",) if definition == "pastis" else ("thing", "stuff")
    rows: dict[int | str, tuple[str, bool]] = {}
    row_of_class = np.full(table.count, -1)
    for entry in table.classes:
        if entry.kind in kinds:
            merged = class_agnostic and entry.kind == "thing"
            key, name = ("thing", "thing") if merged else (entry.id, entry.name)
            rows[key] = (name, entry.kind == "thing")
            row_of_class[entry.id] = list(rows).index(key)
    return ScoredClasses(
        tuple(name for name, _ in rows.values()),
        tuple(thing for _, thing in rows.values()),
        row_of_class,
    )


def patch_counts(
    true: Panoptic,
    predicted: Panoptic,
    table: ClassTable,
    definition: Definition = "pastis",
    *,
    class_agnostic: bool = False,
) -> PanopticCounts:
    """Matches of one patch: pairs of a true and a predicted segment of one class with IoU above one
    half.

    class_agnostic: all things are one class.

    >>> true = Panoptic.from_maps(np.array([[1, 1, 0, 2]] * 3), {1: 3, 2: 4}, PASTIS)
    >>> predicted = Panoptic.from_maps(np.array([[7, 7, 7, 0]] * 3), {7: 3}, PASTIS)
    >>> quality = panoptic_quality(patch_counts(true, predicted, PASTIS))
    >>> quality.all
    QualityMean(sq=0.3333333333333333, rq=0.5, pq=0.3333333333333333, n=2)
    """
    if definition == "coco":
        return coco_patch_counts(true, predicted, table, class_agnostic=class_agnostic)
    return _pastis_counts(true, predicted, scored_classes(table, definition, class_agnostic))


def coco_patch_counts(
    true: Panoptic,
    predicted: Panoptic,
    table: ClassTable,
    *,
    class_agnostic: bool = False,
    crowd_ids: Sequence[int] = (),
    true_areas: np.ndarray | None = None,
    strict: bool = False,
) -> PanopticCounts:
    """``patch_counts`` under COCO's definition, with what only COCO's files say.

    Void and crowds excuse predictions that lie mostly on them; void pixels do not count in the
    union of a pair.

    crowd_ids: true segments that stand for many objects, as listed in the file; they are never
    matched. As published, only the last crowd listed of a class excuses predictions; ``strict``
    lets all do. true_areas: areas of the true segments that the file states, where they are to be
    believed over the raster, as published.
    """
    return coco_table_counts(
        _shared(true, predicted),
        true.segments,
        predicted.segments,
        scored_classes(table, "coco", class_agnostic),
        crowd_ids=crowd_ids,
        true_areas=true_areas,
        strict=strict,
    )


def coco_table_counts(
    pair: Overlap,
    true: Segments,
    predicted: Segments,
    classes: ScoredClasses,
    *,
    crowd_ids: Sequence[int] = (),
    true_areas: np.ndarray | None = None,
    strict: bool = False,
) -> PanopticCounts:
    """``coco_patch_counts`` of the tables of two pictures and the pixels that their segments
    share.
    """
    true_row, predicted_row = _rows(true, classes), _rows(predicted, classes)
    area_M = _areas(predicted.areas)
    void_N = np.concatenate([[True], true.is_void])
    on_void_M = _predicted_sums(pair, void_N[pair.first_P], len(area_M))

    crowds = np.searchsorted(true.ids, np.array(crowd_ids, np.int64)) + 1
    last_of_class = dict(zip(true_row[crowds].tolist(), crowds.tolist(), strict=True))
    excusing = crowds if strict else np.array(list(last_of_class.values()), np.int64)
    crowd_row_N = np.full(len(true_row), _NO_CROWD)
    crowd_row_N[excusing] = true_row[excusing]
    true_row[crowds] = -1
    on_crowd_M = _predicted_sums(
        pair, crowd_row_N[pair.first_P] == predicted_row[pair.second_P], len(area_M)
    )
    excused_M = on_void_M + on_crowd_M > _MATCH * area_M
    area_N = _areas(true.areas if true_areas is None else true_areas)
    return _count(classes, pair, true_row, predicted_row, area_N, area_M - on_void_M, excused_M)


def _pastis_counts(true: Panoptic, predicted: Panoptic, classes: ScoredClasses) -> PanopticCounts:
    """Void pixels are cut out of predictions; a prediction that matches a void parcel is
    dropped.
    """
    pair = _shared(true, predicted)
    true_row, predicted_row = _rows(true.segments, classes), _rows(predicted.segments, classes)
    area_N, area_M = _areas(true.segments.areas), _areas(predicted.segments.areas)
    void_P = np.concatenate([[False], true.segments.is_void])[pair.first_P]
    on_void_M = _predicted_sums(pair, void_P, len(area_M))
    union_P = area_N[pair.first_P] + area_M[pair.second_P] - pair.pixels_P
    covers_void_M = np.zeros(len(area_M), bool)
    covers_void_M[pair.second_P[void_P & (pair.pixels_P > _MATCH * union_P)]] = True
    area_M = area_M - on_void_M
    predicted_row = np.where(covers_void_M | (area_M == 0), -1, predicted_row)
    return _count(
        classes, pair, true_row, predicted_row, area_N, area_M, np.zeros(len(area_M), bool)
    )


def _shared(true: Panoptic, predicted: Panoptic) -> Overlap:
    if true.segment_HW.shape != predicted.segment_HW.shape:
        raise ValueError(
            f"truth of {true.segment_HW.shape} pixels and prediction of"
            f" {predicted.segment_HW.shape}"
        )
    return overlap(
        true.position_HW, predicted.position_HW, len(true.segments), len(predicted.segments)
    )


def _predicted_sums(pair: Overlap, chosen_P: np.ndarray, count: int) -> np.ndarray:
    """Pixels that each predicted segment shares in the chosen pairs; float64, M."""
    return np.bincount(pair.second_P[chosen_P], pair.pixels_P[chosen_P], minlength=count)


def _rows(segments: Segments, classes: ScoredClasses) -> np.ndarray:
    """Scored class of each segment, with -1 for "no segment" in front and for classes that are not
    scored.
    """
    return np.concatenate([[-1], classes.row_of_class[segments.class_ids]])


def _areas(areas: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], areas])


def _count(
    classes: ScoredClasses,
    pair: Overlap,
    true_row_N: np.ndarray,
    predicted_row_M: np.ndarray,
    true_area_N: np.ndarray,
    predicted_area_M: np.ndarray,
    excused_M: np.ndarray,
) -> PanopticCounts:
    """Match pairs and count; ``excused_M`` predictions are no mistake where they match nothing."""
    row_P = true_row_N[pair.first_P]
    union_P = true_area_N[pair.first_P] + predicted_area_M[pair.second_P] - pair.pixels_P
    same_P = (row_P >= 0) & (row_P == predicted_row_M[pair.second_P])
    iou_P = np.divide(pair.pixels_P, union_P, out=np.zeros(len(row_P)), where=same_P)
    match_P = iou_P > _MATCH
    matched_M = np.zeros(len(predicted_row_M), bool)
    matched_M[pair.second_P[match_P]] = True

    def per_class(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(rows, weights, minlength=len(classes.names))

    positives = per_class(row_P[match_P])
    mistaken = predicted_row_M[~matched_M & ~excused_M & (predicted_row_M >= 0)]
    missed = per_class(true_row_N[true_row_N >= 0]) - positives
    return PanopticCounts(
        classes, positives, per_class(mistaken), missed, per_class(row_P[match_P], iou_P[match_P])
    )
