"""Scores of photographs: panoptic quality, average precision, and the classes of pixels.

Average precision of detected boxes and masks is COCO's. The matches of one image depend on no other
image. Images are therefore matched where they are predicted, and only the matches travel between
processes.

Source of average precision: pycocotools 2.0.11, cocoeval.py (``COCOeval.evaluateImg`` and
``accumulate``); equal to it, as tests/test_average_precision.py compares. IoU is computed by
``pycocotools.mask``.

Shape suffixes: T thresholds of intersection over union, R recalls, K classes, A sizes, D
detections, G true objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from panoseg.classes import ClassTable, SegmentClass
from panoseg.metrics import or_null, panoptic_table, percent, render_table
from panoseg.metrics.confusion import ConfusionScores, confusion_matrix, confusion_scores
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    PanopticQuality,
    coco_patch_counts,
    quality_of_counts,
)
from panoseg.panoptic import Panoptic

DetectionKind = Literal["box", "mask"]
Row = Mapping[str, Any]
"""An object in COCO's form.

Keys: category_id, bbox (left, top, width, height) and segmentation (compressed run lengths); for
the truth also area and iscrowd, for a prediction score.
"""

_LIMITS = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""Smallest and largest area of each size, in pixels."""
SIZES = tuple(_LIMITS)
"""Sizes of objects that are scored separately."""
_IOU_T = np.linspace(0.5, 0.95, 10)
_HALF, _THREE_QUARTERS = 0, 5  # positions of 0.5 and 0.75 in _IOU_T
_RECALL_R = np.linspace(0.0, 1.0, 101)
_MOST_DETECTIONS = 100


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """Matches of the detections of one image, of one class and one size."""

    score_D: np.ndarray
    """float64, D: scores of the detections, descending."""
    matched_TD: np.ndarray
    """Bool, T x D: whether a detection matches a true object."""
    ignored_TD: np.ndarray
    """Bool, T x D: detections that count neither as right nor as wrong."""
    ignored_G: np.ndarray
    """Bool, G: true objects that need not be found: crowds, and objects of other sizes."""


@dataclass(frozen=True)
class DetectionMatches:
    """Matches of the detections of some images; ``+`` adds those of other images."""

    kind: DetectionKind
    """Whether boxes or masks are compared."""
    images: Mapping[int, Mapping[tuple[int, int], ClassMatches]]
    """Of each image, the matches by class id and position in ``SIZES``."""

    def __add__(self, other: DetectionMatches) -> DetectionMatches:
        if self.kind != other.kind:
            raise ValueError(f"matches of {self.kind} and of {other.kind} cannot be added")
        return DetectionMatches(self.kind, {**self.images, **other.images})


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Average precision, 0..1; NaN where there is no true object."""

    ap: float
    """Mean over the thresholds 0.5, 0.55, .. 0.95 and over the classes that occur."""
    ap50: float
    """Mean over the classes at the threshold 0.5."""
    ap75: float
    """Mean over the classes at the threshold 0.75."""
    by_size: Mapping[str, float]
    """``ap`` of the objects of each size in ``SIZES``."""
    by_class: Mapping[int, float]
    """``ap`` of each class id."""


def match_image(
    image: int, true: Iterable[Row], predicted: Iterable[Row], kind: DetectionKind
) -> DetectionMatches:
    """Match the detections of one image with its true objects.

    Of each class the 100 best detections count. Detections on crowds are ignored, and crowds are
    never missed.

    Args:
        image: Any number that no other image has.
        true: The true objects.
        predicted: The detections.
        kind: Whether to compare boxes or masks.
    """
    of_class: dict[int, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((true, predicted)):
        for row in rows:
            of_class[row["category_id"]][side].append(row)
    matches = {}
    for class_id, (objects, detections) in sorted(of_class.items()):
        # A stable sort: of equal scores the earlier detection comes first.
        best = sorted(detections, key=lambda row: -row["score"])[:_MOST_DETECTIONS]
        for size, limits in enumerate(_LIMITS.values()):
            matches[class_id, size] = _match_class(objects, best, kind, limits)
    return DetectionMatches(kind, {image: matches})


def average_precision(matches: DetectionMatches, class_ids: Sequence[int]) -> AveragePrecision:
    """Compute average precision over images; the order in which they were matched is irrelevant.

    >>> mask = {"size": [4, 4], "counts": "04<"}
    >>> truth = {"category_id": 3, "bbox": [0, 0, 1, 4], "area": 4, "segmentation": mask}
    >>> found = {"category_id": 3, "bbox": [0, 0, 1, 4], "segmentation": mask, "score": 0.9}
    >>> round(average_precision(match_image(7, [truth], [found], "mask"), [3, 5]).ap, 3)
    1.0
    """
    images = [matches.images[image] for image in sorted(matches.images)]
    precision_TRKA = np.full((len(_IOU_T), len(_RECALL_R), len(class_ids), len(SIZES)), np.nan)
    for row, class_id in enumerate(class_ids):
        for size in range(len(SIZES)):
            found = [image[class_id, size] for image in images if (class_id, size) in image]
            if found:
                precision_TRKA[:, :, row, size] = _precision(found)
    of_all_TRK = precision_TRKA[..., 0]
    return AveragePrecision(
        _mean(of_all_TRK),
        _mean(of_all_TRK[_HALF]),
        _mean(of_all_TRK[_THREE_QUARTERS]),
        {name: _mean(precision_TRKA[..., size]) for size, name in enumerate(SIZES)},
        {class_id: _mean(of_all_TRK[..., row]) for row, class_id in enumerate(class_ids)},
    )


def _match_class(
    true: Sequence[Row], predicted: Sequence[Row], kind: DetectionKind, limits: tuple[float, float]
) -> ClassMatches:
    """Match detections, by falling score, with the true objects of the same class."""

    def outside(area: float) -> bool:
        return area < limits[0] or area > limits[1]

    # Objects that need not be found come last: a detection takes one only if no other fits.
    ignored = [bool(row.get("iscrowd", 0)) or outside(row["area"]) for row in true]
    order = sorted(range(len(true)), key=ignored.__getitem__)
    objects, ignored_G = [true[g] for g in order], np.array([ignored[g] for g in order], bool)
    crowd_G = [bool(row.get("iscrowd", 0)) for row in objects]
    iou_DG = _iou(predicted, objects, crowd_G, kind)
    matched_TD = np.zeros((len(_IOU_T), len(predicted)), bool)
    ignored_TD = np.zeros_like(matched_TD)
    for t, threshold in enumerate(_IOU_T.tolist()):
        free_G = [True] * len(objects)
        for d, iou_G in enumerate(iou_DG.tolist()):
            best, best_iou = -1, min(threshold, 1 - 1e-10)
            for g, iou in enumerate(iou_G):
                if best >= 0 and ignored_G[g] and not ignored_G[best]:
                    break
                # Of equal IoU the later object is taken, as published.
                if iou >= best_iou and (free_G[g] or crowd_G[g]):
                    best, best_iou = g, iou
            if best >= 0:
                free_G[best] = False
                matched_TD[t, d], ignored_TD[t, d] = True, ignored_G[best]
    other_size_D = np.array([outside(_area(row, kind)) for row in predicted], bool)
    score_D = np.array([row["score"] for row in predicted], np.float64)
    return ClassMatches(score_D, matched_TD, ignored_TD | (~matched_TD & other_size_D), ignored_G)


def _iou(
    predicted: Sequence[Row], true: Sequence[Row], crowd_G: Sequence[bool], kind: DetectionKind
) -> np.ndarray:
    """Return the IoU of each pair, float64, D x G; with a crowd the share of the detection."""
    from pycocotools import mask

    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    key = "bbox" if kind == "box" else "segmentation"
    one, other = ([row[key] for row in rows] for rows in (predicted, true))
    return np.asarray(mask.iou(one, other, [int(crowd) for crowd in crowd_G]))


def _area(row: Row, kind: DetectionKind) -> float:
    """Return the area of a detection, which decides its size."""
    if kind == "box":
        return float(row["bbox"][2] * row["bbox"][3])
    from pycocotools import mask

    return float(mask.area(row["segmentation"]))


def _precision(found: Sequence[ClassMatches]) -> np.ndarray:
    """Return the precision at each recall: float64, T x R; NaN without true objects."""
    objects = sum(int((~image.ignored_G).sum()) for image in found)
    precision_TR = np.full((len(_IOU_T), len(_RECALL_R)), np.nan)
    if not objects:
        return precision_TR
    order_D = np.argsort(-np.concatenate([image.score_D for image in found]), kind="stable")
    matched_TD = np.concatenate([image.matched_TD for image in found], axis=1)[:, order_D]
    counts_TD = ~np.concatenate([image.ignored_TD for image in found], axis=1)[:, order_D]
    right_TD = (matched_TD & counts_TD).cumsum(axis=1).astype(np.float64)
    wrong_TD = (~matched_TD & counts_TD).cumsum(axis=1).astype(np.float64)
    exact_TD = right_TD / (right_TD + wrong_TD + np.spacing(1))
    # Precision must not rise with recall: each value is the highest of those behind it.
    exact_TD = np.maximum.accumulate(exact_TD[:, ::-1], axis=1)[:, ::-1]
    for t, recall_D in enumerate(right_TD / objects):
        at_R = np.searchsorted(recall_D, _RECALL_R, side="left")
        reached_R = at_R < len(recall_D)
        precision_TR[t] = 0
        precision_TR[t, reached_R] = exact_TD[t, at_R[reached_R]]
    return precision_TR


def _mean(values: np.ndarray) -> float:
    """Return the mean of the defined values, NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


@dataclass(frozen=True, eq=False)
class PixelClasses:
    """The classes of pixels that are scored, numbered from 0 without gaps; void is the last."""

    table: ClassTable
    """The numbered classes."""
    number_of_class: np.ndarray
    """int64: number of each class id plus one; the first entry is for -1, "no class"."""

    @classmethod
    def of(cls, table: ClassTable, *, things_together: bool = False) -> PixelClasses:
        """Number the classes of a table.

        Args:
            table: The classes.
            things_together: Make all things one class, the first.
        """
        scored = [entry for entry in table.classes if entry.kind == "stuff" or not things_together]
        scored = [entry for entry in scored if entry.kind != "void"]
        shared = [SegmentClass(0, "things", "#888888", "thing")] if things_together else []
        rows = [*shared, *scored, SegmentClass(0, "void", "#000000", "void")]
        number_of_class = np.full(table.count + 1, len(rows) - 1)
        if things_together:
            number_of_class[np.array(table.ids("thing"), int) + 1] = 0
        for number, entry in enumerate(scored, start=len(shared)):
            number_of_class[entry.id + 1] = number
        numbered = tuple(replace(entry, id=number) for number, entry in enumerate(rows))
        return cls(ClassTable(table.name, numbered), number_of_class)

    @property
    def void(self) -> int:
        """Number of void, which is not scored."""
        return len(self.table.classes) - 1

    def numbers(self, segmentation: Panoptic) -> np.ndarray:
        """Return the number of each pixel's class: int64, H x W."""
        return np.asarray(self.number_of_class[segmentation.classes_HW(-1) + 1])

    def matrix(self, true: Panoptic, predicted_HW: np.ndarray) -> Tensor:
        """Count pixels by true and predicted number, except those without a true class.

        Returns:
            int64, K x K.
        """
        return confusion_matrix(
            self.numbers(true), predicted_HW, len(self.table.classes), [self.void]
        )


@dataclass(frozen=True, eq=False)
class PhotographCounts:
    """Counts of some photographs; ``+`` adds those of others.

    Parts that a network does not have are None.
    """

    panoptic: PanopticCounts | None = None
    """Matches of segments by COCO's definition."""
    boxes: DetectionMatches | None = None
    """Matches of detected boxes."""
    masks: DetectionMatches | None = None
    """Matches of detected masks."""
    matrix_KK: Tensor | None = None
    """int64, K x K: pixels by true and predicted class."""

    def __add__(self, other: PhotographCounts) -> PhotographCounts:
        parts = (
            (getattr(self, name), getattr(other, name))
            for name in ("panoptic", "boxes", "masks", "matrix_KK")
        )
        return PhotographCounts(
            *(two if one is None else one if two is None else one + two for one, two in parts)
        )


def count_panoptic(
    true: Panoptic, crowd_ids: tuple[int, ...], predicted: Panoptic, table: ClassTable
) -> PhotographCounts:
    """Count the segments of a photograph that match the truth."""
    return PhotographCounts(panoptic=coco_patch_counts(true, predicted, table, crowd_ids=crowd_ids))


def count_detections(index: int, true: Iterable[Row], predicted: Iterable[Row]) -> PhotographCounts:
    """Match the detections of a photograph with the true objects.

    Args:
        index: Number of the photograph.
        true: True objects in COCO's form.
        predicted: Detections in COCO's form.
    """
    true, predicted = list(true), list(predicted)
    return PhotographCounts(
        boxes=match_image(index, true, predicted, "box"),
        masks=match_image(index, true, predicted, "mask"),
    )


def count_pixels(
    true: Panoptic, crowd_ids: tuple[int, ...], predicted_HW: np.ndarray, classes: PixelClasses
) -> PhotographCounts:
    """Count the pixels of a photograph by true and predicted class, except those of crowds."""
    plain = true.keep(~np.isin(true.segments.ids, crowd_ids)) if crowd_ids else true
    return PhotographCounts(matrix_KK=classes.matrix(plain, predicted_HW))


@dataclass(frozen=True, eq=False)
class PhotographScores:
    """Scores of photographs; parts that a network does not have are None."""

    classes: ClassTable
    """The classes of segments and detections."""
    pixel_classes: PixelClasses
    """The classes of pixels."""
    quality: PanopticQuality | None = None
    """Panoptic quality by COCO's definition."""
    boxes: AveragePrecision | None = None
    """Average precision of the boxes of candidates, before they are merged."""
    masks: AveragePrecision | None = None
    """Average precision of the masks of candidates, before they are merged."""
    pixels: ConfusionScores | None = None
    """Scores of the classes of pixels; a pixel without a predicted class is missed."""

    @classmethod
    def of(
        cls, counts: PhotographCounts, table: ClassTable, pixel_classes: PixelClasses
    ) -> PhotographScores:
        """Compute the scores of counts."""
        quality = None if counts.panoptic is None else quality_of_counts(counts.panoptic)
        pixels = (
            None
            if counts.matrix_KK is None
            else confusion_scores(counts.matrix_KK, [pixel_classes.void])
        )
        things = table.ids("thing")
        boxes, masks = (
            None if part is None else average_precision(part, things)
            for part in (counts.boxes, counts.masks)
        )
        return cls(table, pixel_classes, quality, boxes, masks, pixels)

    def summary(self) -> dict[str, float]:
        """Return panoptic quality, average precision and mean IoU in percent.

        Parts that the network does not have are left out; a number is 0 if the truth has nothing to
        find.
        """
        numbers: dict[str, float] = {}
        if self.quality is not None:
            mean = self.quality.all
            numbers |= {"PQ": mean.pq, "SQ": mean.sq, "RQ": mean.rq}
            numbers |= {"PQ_things": self.quality.things.pq, "PQ_stuff": self.quality.stuff.pq}
        for name, part in (("box_AP", self.boxes), ("mask_AP", self.masks)):
            if part is not None:
                numbers[name] = part.ap
        if self.pixels is not None:
            numbers |= {"mIoU": self.pixels.mean_iou, "OA": self.pixels.accuracy}
        return {name: 0.0 if np.isnan(value) else 100 * value for name, value in numbers.items()}

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as fractions, null where undefined."""
        found: dict[str, Any] = {}
        if self.quality is not None:
            found["panoptic"] = self.quality.to_json()
        for name, part in (("boxes", self.boxes), ("masks", self.masks)):
            if part is not None:
                sizes = {
                    f"ap_{size}": or_null(value)
                    for size, value in part.by_size.items()
                    if size != "all"
                }
                classes = {
                    self.classes[class_id].name: or_null(value)
                    for class_id, value in part.by_class.items()
                }
                whole = {
                    "ap": or_null(part.ap),
                    "ap50": or_null(part.ap50),
                    "ap75": or_null(part.ap75),
                }
                found[name] = {**whole, **sizes, "classes": classes}
        if self.pixels is not None:
            iou = {entry.name: or_null(self.pixels.iou_K[entry.id]) for entry in self._pixel_rows()}
            found["pixels"] = {
                "accuracy": self.pixels.accuracy,
                "mean_iou": self.pixels.mean_iou,
                "iou": iou,
            }
        return found

    def table(self) -> str:
        """Render panoptic quality by class, then the other scores by class and a summary line."""
        parts = [] if self.quality is None else [panoptic_table(self.quality)]
        columns = self._columns()
        names = dict.fromkeys(name for values, _ in columns.values() for name in values)
        rows = [
            [name, *(percent(values.get(name, np.nan)) for values, _ in columns.values())]
            for name in names
        ]
        rows.append(["mean", *(percent(mean) for _, mean in columns.values())])
        parts.append(render_table(["class", *columns], rows))
        parts.append(
            ", ".join(
                f"{name.replace('_', ' ')} {value:.1f}" for name, value in self.summary().items()
            )
        )
        return "\n\n".join(parts)

    def _columns(self) -> dict[str, tuple[dict[str, float], float]]:
        """Return the scores besides panoptic quality: values by class name, and their mean."""
        columns = {}
        for name, part in (("box AP", self.boxes), ("mask AP", self.masks)):
            if part is not None:
                columns[name] = (
                    {
                        self.classes[class_id].name: value
                        for class_id, value in part.by_class.items()
                    },
                    part.ap,
                )
        if self.pixels is not None:
            iou = {entry.name: float(self.pixels.iou_K[entry.id]) for entry in self._pixel_rows()}
            columns["IoU"] = (iou, self.pixels.mean_iou)
        return columns

    def _pixel_rows(self) -> tuple[SegmentClass, ...]:
        return self.pixel_classes.table.classes[: self.pixel_classes.void]
