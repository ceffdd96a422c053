"""Panoptic quality under two published definitions.

``panoptic_quality`` compares segmentations in one call. ``patch_counts`` counts the matches of one
patch, so that counts of many patches and processes can be added before ``quality_of_counts``.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1. "pastis":
VSainteuf/utae-paps @ 987874e, src/panoptic/metrics.py. "coco": cocodataset/panopticapi @ 7bb4655,
panopticapi/evaluation.py. docs/panoptic-quality.md explains how they differ, with an example.

Shape suffixes: K scored classes, N true segments, M predicted segments, P pairs of a true and a
predicted segment that share pixels; position 0 of N and M is "no segment".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from panoseg.classes import PASTIS, ClassTable
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import Overlap, overlap

Definition = Literal["pastis", "coco"]

_MATCH = 0.5
_NO_CROWD = -2


@dataclass(frozen=True)
class ScoredClasses:
    """The classes that a definition scores."""

    names: tuple[str, ...]
    """Name of each scored class."""
    is_thing: tuple[bool, ...]
    """Whether each scored class is a thing; otherwise it is stuff."""
    row_of_class: np.ndarray
    """int64: position of each class id among the scored classes, -1 if it is not scored."""


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """Matches of each scored class; ``+`` adds those of other patches or processes."""

    classes: ScoredClasses
    """The scored classes."""
    true_positives: np.ndarray
    """int64, K: matched pairs."""
    false_positives: np.ndarray
    """int64, K: predictions that match nothing."""
    false_negatives: np.ndarray
    """int64, K: true segments that are not found."""
    iou_sum: np.ndarray
    """float64, K: sum of the IoU of the matched pairs."""

    @classmethod
    def zero(
        cls, table: ClassTable, definition: Definition = "pastis", *, class_agnostic: bool = False
    ) -> PanopticCounts:
        """Return the counts of no patch."""
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
        """Return true positives, false positives, false negatives and IoU sums: float64, K x 4.

        Sums of such arrays are sums of counts, so one all-reduce merges processes.
        """
        return np.stack(
            [self.true_positives, self.false_positives, self.false_negatives, self.iou_sum], axis=1
        )

    def from_array(self, array_K4: np.ndarray) -> PanopticCounts:
        """Return counts of the same classes with the numbers of ``to_array``."""
        tp_K, fp_K, fn_K = array_K4[:, :3].round().astype(np.int64).T
        return PanopticCounts(self.classes, tp_K, fp_K, fn_K, array_K4[:, 3].astype(np.float64))


@dataclass(frozen=True)
class QualityMean:
    """Means over the classes that occur; 0 if none does."""

    sq: float
    """Segmentation quality, 0..1."""
    rq: float
    """Recognition quality, 0..1."""
    pq: float
    """Panoptic quality, 0..1."""
    n: int
    """Number of classes that occur."""


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """Panoptic quality as fractions, of each class and averaged.

    Classes that occur neither in the truth nor in the prediction are left out of the means.
    """

    counts: PanopticCounts
    """The matches."""
    sq_K: np.ndarray
    """float64, K, 0..1: segmentation quality; NaN if a class does not occur."""
    rq_K: np.ndarray
    """float64, K, 0..1: recognition quality; NaN if a class does not occur."""
    pq_K: np.ndarray
    """float64, K, 0..1: panoptic quality, the product of both; NaN if a class does not occur."""
    all: QualityMean
    """Means over all classes."""
    things: QualityMean
    """Means over the classes of things."""
    stuff: QualityMean
    """Means over the classes of stuff."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; values of classes that do not occur are null."""

        def row(index: int) -> dict[str, Any]:
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


Maps: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Instances (id of each pixel, 0 = none) and classes (class of each pixel): integers, H x W each,
or B x H x W for a batch.
"""


@dataclass(frozen=True)
class Quality:
    """Panoptic quality in percent."""

    pq: float
    """Panoptic quality, 0..100: the mean of SQ x RQ over the classes that occur."""
    sq: float
    """Segmentation quality, 0..100: mean IoU of the matched segments."""
    rq: float
    """Recognition quality, 0..100: F1 score of the matching."""


@dataclass(frozen=True)
class OverallQuality(Quality):
    """Panoptic quality in percent, over all classes and of each class."""

    by_class: Mapping[str, Quality]
    """Quality of each class that occurs in the truth or the prediction, by name."""


def panoptic_quality(
    truth: Panoptic | Maps | Sequence[Panoptic | Maps],
    prediction: Panoptic | Maps | Sequence[Panoptic | Maps],
    table: ClassTable | None = None,
    definition: Definition = "pastis",
    *,
    class_agnostic: bool = False,
) -> OverallQuality:
    """Compare predictions with the truth by panoptic quality.

    Args:
        truth: One or several images, each a ``Panoptic`` or a tuple of instances and classes.
        prediction: As many images, in the same order.
        table: The classes; by default those of the first ``Panoptic`` that has some, else PASTIS.
        definition: "pastis" scores things only; "coco" also scores stuff, and ignores predictions
            where nothing is annotated. See docs/panoptic-quality.md.
        class_agnostic: Treat all things as one class.

    Returns:
        The quality in percent, 0..100. Several images are scored as one.

    Raises:
        ValueError: There are not as many predictions as true images, or sizes differ.

    >>> instances = np.array([[1, 1, 0, 2]] * 3)
    >>> classes = np.array([[3, 3, 0, 4]] * 3)
    >>> scores = panoptic_quality((instances, classes), (np.array([[7, 7, 7, 0]] * 3), classes))
    >>> round(scores.pq, 1), round(scores.by_class["corn"].sq, 1), scores.by_class["corn"].rq
    (33.3, 66.7, 100.0)
    """
    table = table or _table_of(truth) or _table_of(prediction) or PASTIS
    true, predicted = list(_images(truth, table)), list(_images(prediction, table))
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} true images cannot be compared with {len(predicted)}")
    counts = PanopticCounts.zero(table, definition, class_agnostic=class_agnostic)
    for one, other in zip(true, predicted, strict=True):
        counts += patch_counts(one, other, table, definition, class_agnostic=class_agnostic)
    quality = quality_of_counts(counts)
    by_class = {
        name: Quality(100 * float(pq), 100 * float(sq), 100 * float(rq))
        for name, pq, sq, rq in zip(
            counts.classes.names, quality.pq_K, quality.sq_K, quality.rq_K, strict=True
        )
        if not np.isnan(pq)
    }
    mean = quality.all
    return OverallQuality(100 * mean.pq, 100 * mean.sq, 100 * mean.rq, by_class)


def _table_of(given: Panoptic | Maps | Sequence[Panoptic | Maps]) -> ClassTable | None:
    """Return the class table of the first ``Panoptic`` that has one."""
    images = [given] if isinstance(given, Panoptic) else given
    return next((each.table for each in images if isinstance(each, Panoptic) and each.table), None)


def _images(
    given: Panoptic | Maps | Sequence[Panoptic | Maps], table: ClassTable
) -> Iterator[Panoptic]:
    """Yield the images in an argument of ``panoptic_quality``."""
    if isinstance(given, Panoptic):
        yield given
    elif (
        isinstance(given, tuple) and len(given) == 2 and not isinstance(given[0], Panoptic | tuple)
    ):
        instances, classes = (np.asarray(each) for each in given)
        if instances.ndim == 3:
            for one, other in zip(instances, classes, strict=True):
                yield Panoptic.from_maps(one, other, table)
        else:
            yield Panoptic.from_maps(instances, classes, table)
    else:
        for each in cast("Sequence[Panoptic | Maps]", given):
            yield from _images(each, table)


def quality_of_counts(counts: PanopticCounts) -> PanopticQuality:
    """Compute SQ = sum of IoU / TP, RQ = TP / (TP + FP/2 + FN/2) and PQ = SQ x RQ."""
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
    """Return the classes that a definition scores.

    These are all classes but void under "coco", and only things under "pastis", where background is
    no parcel.

    Args:
        table: The class table.
        definition: "pastis" or "coco".
        class_agnostic: Treat all things as one class, to score only where parcels are.
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
    """Count the matches of one patch.

    A match is a true and a predicted segment of the same class with an IoU above one half.

    Args:
        true: The truth.
        predicted: The prediction, of the same size.
        table: The class table of both.
        definition: "pastis" or "coco".
        class_agnostic: Treat all things as one class.

    >>> true = Panoptic.from_maps(np.array([[1, 1, 0, 2]] * 3), {1: 3, 2: 4}, PASTIS)
    >>> predicted = Panoptic.from_maps(np.array([[7, 7, 7, 0]] * 3), {7: 3}, PASTIS)
    >>> quality = quality_of_counts(patch_counts(true, predicted, PASTIS))
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
    """Count the matches of one patch under COCO's definition.

    Predictions that lie mostly on void or crowds are ignored, and void pixels do not count in the
    union of a pair.

    Args:
        true: The truth.
        predicted: The prediction, of the same size.
        table: The class table of both.
        class_agnostic: Treat all things as one class.
        crowd_ids: Ids of true segments that stand for many objects, in the order of the file. They
            never match. As published, predictions are ignored only on the last crowd of a class.
        true_areas: Areas of the true segments that the file states, to be used instead of those of
            the raster, as published.
        strict: Ignore predictions on all crowds.
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
    """Count matches as ``coco_patch_counts`` does, from the tables of two segmentations.

    ``pair`` holds the pixels that their segments share, by position.
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
    """Count the matches of one patch under the definition of PASTIS.

    Void pixels are cut out of predictions, and a prediction that matches a void parcel is dropped.
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
    """Count the pixels that true and predicted segments share, by position."""
    if true.segment_HW.shape != predicted.segment_HW.shape:
        raise ValueError(
            f"truth of {true.segment_HW.shape} pixels and prediction of"
            f" {predicted.segment_HW.shape}"
        )
    return overlap(
        true.position_HW, predicted.position_HW, len(true.segments), len(predicted.segments)
    )


def _predicted_sums(pair: Overlap, chosen_P: np.ndarray, count: int) -> np.ndarray:
    """Return the pixels that each predicted segment shares in the chosen pairs: float64, M."""
    return np.bincount(pair.second_P[chosen_P], pair.pixels_P[chosen_P], minlength=count)


def _rows(segments: Segments, classes: ScoredClasses) -> np.ndarray:
    """Return the row of each segment's class; -1 for "no segment" and for unscored classes."""
    return np.concatenate([[-1], classes.row_of_class[segments.class_ids]])


def _areas(areas: np.ndarray) -> np.ndarray:
    """Prepend the area of "no segment"."""
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
    """Match pairs and count; ``excused_M`` predictions do not count if they match nothing."""
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
