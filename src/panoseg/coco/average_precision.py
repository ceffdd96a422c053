"""Average precision of detected boxes and masks as COCO defines it, image by image.

The matches of one image depend on no other image. Images are therefore matched where they are
predicted, and only the matches travel between processes.

Source: pycocotools 2.0.11, cocoeval.py (``COCOeval.evaluateImg`` and ``accumulate``); equal to it,
as tests/test_average_precision.py compares. IoU is computed by ``pycocotools.mask``.

Shape suffixes: T thresholds of intersection over union, R recalls, K classes, A sizes, D
detections, G true objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

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
