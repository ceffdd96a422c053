"""Panoptic quality under two published definitions, from one table of shared pixels a patch.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1. "pastis": VSainteuf/utae-paps @ 987874e,
src/panoptic/metrics.py. "coco": cocodataset/panopticapi @ 7bb4655, panopticapi/evaluation.py. How they differ, and a
worked example, is in docs/panoptic-quality.md.

Shape suffixes: K scored classes, N true segments, M predicted segments, P pairs of a true and a predicted segment that share
pixels; position 0 of N and M is "no segment".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from panoseg.classes import ClassTable
from panoseg.panoptic.panoptic import Panoptic

Definition = Literal["pastis", "coco"]

_MATCH = 0.5
_NO_CROWD = -2


@dataclass(frozen=True)
class ScoredClasses:
    """The classes that a definition scores: ``names`` and ``is_thing`` of each, and ``row_of_class``, -1 where not scored."""

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    row_of_class: np.ndarray


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """Matches of each scored class; ``+`` adds those of other patches or processes.

    true_positives, false_positives, false_negatives: int64, K. iou_sum: float64, K, over the true positives.
    """

    classes: ScoredClasses
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    iou_sum: np.ndarray

    @classmethod
    def zero(cls, table: ClassTable, definition: Definition = "pastis", *, class_agnostic: bool = False) -> PanopticCounts:
        """No patch yet."""
        classes = scored_classes(table, definition, class_agnostic)
        none_K = np.zeros(len(classes.names), np.int64)
        return cls(classes, none_K, none_K, none_K, none_K.astype(np.float64))

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        if self.classes.names != other.classes.names:
            raise ValueError(f"counts of {self.classes.names} and of {other.classes.names} cannot be added")
        columns = (field.name for field in fields(self) if field.name != "classes")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in columns})

    def to_array(self) -> np.ndarray:
        """float64, K x 4: true positives, false positives, false negatives, sum of IoU. Sums of such arrays are sums of counts,
        so one all-reduce merges processes."""
        return np.stack([self.true_positives, self.false_positives, self.false_negatives, self.iou_sum], axis=1)

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
    """Segmentation quality, recognition quality and their product, 0..1, of each class and averaged.

    sq_K, rq_K, pq_K: float64, NaN where a class occurs neither in the truth nor in the prediction. Such classes are left out
    of the means ``all``, ``things`` and ``stuff``.
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
                **{name: None if np.isnan(value) else float(value) for name, value in qualities.items()},
                "true_positives": int(counts.true_positives[index]),
                "false_positives": int(counts.false_positives[index]),
                "false_negatives": int(counts.false_negatives[index]),
                "iou_sum": float(counts.iou_sum[index]),
            }

        means = {name: vars(getattr(self, name)) for name in ("all", "things", "stuff")}
        return {**means, "classes": {name: row(index) for index, name in enumerate(self.counts.classes.names)}}


def panoptic_quality(counts: PanopticCounts) -> PanopticQuality:
    """Qualities of counted matches: SQ = sum of IoU / TP, RQ = TP / (TP + FP/2 + FN/2), PQ = SQ x RQ."""
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

    return PanopticQuality(counts, sq_K, rq_K, pq_K, mean(np.ones_like(occurs)), mean(is_thing), mean(~is_thing))


@functools.lru_cache
def scored_classes(table: ClassTable, definition: Definition, class_agnostic: bool = False) -> ScoredClasses:
    """The classes that are scored: all but void, and under "pastis" things alone, since background is no parcel.

    class_agnostic: all things are one class, so that only where parcels lie is scored.
    """
    if definition not in ("pastis", "coco"):
        raise ValueError(f"no definition of panoptic quality {definition!r}; there are 'pastis' and 'coco'")
    kinds = ("thing",) if definition == "pastis" else ("thing", "stuff")
    rows: dict[str, bool] = {}
    row_of_class = np.full(table.count, -1)
    for entry in table.classes:
        if entry.kind in kinds:
            name = "thing" if class_agnostic and entry.kind == "thing" else entry.name
            rows[name] = entry.kind == "thing"
            row_of_class[entry.id] = list(rows).index(name)
    return ScoredClasses(tuple(rows), tuple(rows.values()), row_of_class)


def patch_counts(
    true: Panoptic,
    predicted: Panoptic,
    table: ClassTable,
    definition: Definition = "pastis",
    *,
    class_agnostic: bool = False,
    crowd_ids: Sequence[int] = (),
    true_areas: np.ndarray | None = None,
    strict: bool = False,
) -> PanopticCounts:
    """Matches of one patch: pairs of a true and a predicted segment of one class with IoU above one half.

    crowd_ids ("coco"): ids of true segments that stand for many objects, as listed in the file; they are never matched, and a
    prediction mostly on void and on a crowd of its class is no mistake. As published, only the last crowd listed of a class
    counts; ``strict`` lets all count. true_areas ("coco"): areas of the true segments that the file states, where they are to
    be believed over the raster, as published.
    """
    if true.segment_HW.shape != predicted.segment_HW.shape:
        raise ValueError(f"truth of {true.segment_HW.shape} pixels and prediction of {predicted.segment_HW.shape}")
    classes = scored_classes(table, definition, class_agnostic)
    pair = _shared_pixels(true, predicted)
    if definition == "pastis":
        return _pastis_counts(true, predicted, classes, pair)
    crowds = np.array(crowd_ids, np.int64)
    return _coco_counts(true, predicted, classes, pair, crowds, true_areas, strict)


@dataclass(frozen=True, eq=False)
class _SharedPixels:
    """Positions of the true and the predicted segment of each pair (0 none), and the pixels that they share; shape P."""

    true_P: np.ndarray
    predicted_P: np.ndarray
    pixels_P: np.ndarray

    def with_predicted(self, chosen_P: np.ndarray, count: int) -> np.ndarray:
        """Pixels that each predicted segment shares in the chosen pairs; float64, M."""
        return np.bincount(self.predicted_P[chosen_P], self.pixels_P[chosen_P], minlength=count)


def _shared_pixels(true: Panoptic, predicted: Panoptic) -> _SharedPixels:
    width = len(predicted.segments) + 1
    code_HW = true.position_HW * np.int64(width)
    code_HW += predicted.position_HW
    codes = (len(true.segments) + 1) * width
    if codes <= 4 * code_HW.size:
        count = np.bincount(code_HW.ravel(), minlength=codes)
        present = np.flatnonzero(count)
        pixels_P = count[present]
    else:
        present, pixels_P = np.unique(code_HW, return_counts=True)
    return _SharedPixels(present // width, present % width, pixels_P)


def _rows(picture: Panoptic, classes: ScoredClasses) -> np.ndarray:
    """Scored class of each segment, with -1 for "no segment" in front and for classes that are not scored."""
    return np.concatenate([[-1], classes.row_of_class[picture.segments.class_ids]])


def _areas(areas: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], areas])


def _pastis_counts(true: Panoptic, predicted: Panoptic, classes: ScoredClasses, pair: _SharedPixels) -> PanopticCounts:
    """Void pixels are cut out of predictions; a prediction that matches a void parcel is dropped."""
    true_row, predicted_row = _rows(true, classes), _rows(predicted, classes)
    area_N, area_M = _areas(true.segments.areas), _areas(predicted.segments.areas)
    void_P = np.concatenate([[False], true.segments.is_void])[pair.true_P]
    on_void_M = pair.with_predicted(void_P, len(area_M))
    union_P = area_N[pair.true_P] + area_M[pair.predicted_P] - pair.pixels_P
    covers_void_M = np.zeros(len(area_M), bool)
    covers_void_M[pair.predicted_P[void_P & (pair.pixels_P > _MATCH * union_P)]] = True
    area_M = area_M - on_void_M
    predicted_row = np.where(covers_void_M | (area_M == 0), -1, predicted_row)
    return _count(classes, pair, true_row, predicted_row, area_N, area_M, np.zeros(len(area_M), bool))


def _coco_counts(
    true: Panoptic,
    predicted: Panoptic,
    classes: ScoredClasses,
    pair: _SharedPixels,
    crowd_ids: np.ndarray,
    true_areas: np.ndarray | None,
    strict: bool,
) -> PanopticCounts:
    """Void and crowds excuse predictions that lie mostly on them; void pixels do not count in the union of a pair."""
    true_row, predicted_row = _rows(true, classes), _rows(predicted, classes)
    area_M = _areas(predicted.segments.areas)
    void_N = np.concatenate([[True], true.segments.is_void])
    on_void_M = pair.with_predicted(void_N[pair.true_P], len(area_M))

    crowds = np.searchsorted(true.segments.ids, crowd_ids) + 1
    last_of_class = dict(zip(true_row[crowds].tolist(), crowds.tolist(), strict=True))
    excusing = crowds if strict else np.array(list(last_of_class.values()), np.int64)
    crowd_row_N = np.full(len(true_row), _NO_CROWD)
    crowd_row_N[excusing] = true_row[excusing]
    true_row[crowds] = -1
    on_crowd_M = pair.with_predicted(crowd_row_N[pair.true_P] == predicted_row[pair.predicted_P], len(area_M))
    excused_M = on_void_M + on_crowd_M > _MATCH * area_M
    area_N = _areas(true.segments.areas if true_areas is None else true_areas)
    return _count(classes, pair, true_row, predicted_row, area_N, area_M - on_void_M, excused_M)


def _count(
    classes: ScoredClasses,
    pair: _SharedPixels,
    true_row_N: np.ndarray,
    predicted_row_M: np.ndarray,
    true_area_N: np.ndarray,
    predicted_area_M: np.ndarray,
    excused_M: np.ndarray,
) -> PanopticCounts:
    """Match pairs and count; ``excused_M`` predictions are no mistake where they match nothing."""
    row_P = true_row_N[pair.true_P]
    union_P = true_area_N[pair.true_P] + predicted_area_M[pair.predicted_P] - pair.pixels_P
    same_P = (row_P >= 0) & (row_P == predicted_row_M[pair.predicted_P])
    iou_P = np.divide(pair.pixels_P, union_P, out=np.zeros(len(row_P)), where=same_P)
    match_P = iou_P > _MATCH
    matched_M = np.zeros(len(predicted_row_M), bool)
    matched_M[pair.predicted_P[match_P]] = True

    def per_class(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(rows, weights, minlength=len(classes.names))

    positives = per_class(row_P[match_P])
    mistaken = predicted_row_M[~matched_M & ~excused_M & (predicted_row_M >= 0)]
    missed = per_class(true_row_N[true_row_N >= 0]) - positives
    return PanopticCounts(classes, positives, per_class(mistaken), missed, per_class(row_P[match_P], iou_P[match_P]))
