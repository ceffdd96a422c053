"""Average precision of detected boxes and masks as COCO defines it, one image at a time and over
processes.

Matching and accumulation are pycocotools' own (``COCOeval``); what is matched of one image depends
on no other, so images are matched where they are predicted, and only the matches travel.

Shape suffixes of pycocotools' tables: T thresholds of intersection over union, R recalls, K
classes, A sizes, M numbers of detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DetectionKind = Literal["box", "mask"]
Row = Mapping[str, Any]
"""An object in COCO's form: category_id, bbox (left, top, width, height) and segmentation
(compressed run lengths); of the truth area and iscrowd besides, of a prediction score.
"""

SIZES = ("all", "small", "medium", "large")
"""Sizes of objects that are scored apart: any, below 32 x 32 pixels, from there to 96 x 96,
above.
"""
_LIBRARY_KIND = {"box": "bbox", "mask": "segm"}
_HALF, _THREE_QUARTERS = 0, 5  # among the thresholds 0.5, 0.55, .. 0.95


@dataclass(frozen=True)
class DetectionMatches:
    """Which detections of some images met which true objects. images: by the image's number,
    pycocotools' record of each class and size that has any.
    """

    kind: DetectionKind
    images: Mapping[int, Mapping[tuple[int, int], Mapping[str, Any]]]

    def __add__(self, other: DetectionMatches) -> DetectionMatches:
        if self.kind != other.kind:
            raise ValueError(f"matches of {self.kind} and of {other.kind} cannot be added")
        return DetectionMatches(self.kind, {**self.images, **other.images})


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Average precision, 0..1, NaN where there is no true object.

    ap: mean over the thresholds 0.5, 0.55, .. 0.95 and over the classes that occur. ap50, ap75: at
    one threshold. by_size: ``ap`` of objects of each of ``SIZES``. by_class: ``ap`` of each class
    id.
    """

    ap: float
    ap50: float
    ap75: float
    by_size: Mapping[str, float]
    by_class: Mapping[int, float]


def match_image(
    image: int, true: Iterable[Row], predicted: Iterable[Row], kind: DetectionKind
) -> DetectionMatches:
    """Match the detections of one image, at most 100 a class and the best first, with its true
    objects.

    image: any number that no other image has. Crowds excuse detections, and are never missed.
    """
    evaluation = _evaluation(kind)
    keys = set()
    for number, row in enumerate(true, 1):  # the library takes an object of id 0 for no object
        key = (image, row["category_id"])
        crowd = int(row.get("iscrowd", 0))
        evaluation._gts[key].append({**row, "id": number, "iscrowd": crowd, "ignore": crowd})
        keys.add(key)
    for number, row in enumerate(predicted, 1):
        key = (image, row["category_id"])
        evaluation._dts[key].append({**row, "id": number, "area": _area(row, kind)})
        keys.add(key)
    evaluation.ious = {key: evaluation.computeIoU(*key) for key in keys}
    most = evaluation.params.maxDets[-1]
    return DetectionMatches(
        kind,
        {
            image: {
                (class_id, size): _slim(evaluation.evaluateImg(image, class_id, limits, most))
                for _, class_id in sorted(keys)
                for size, limits in enumerate(evaluation.params.areaRng)
            }
        },
    )


def average_precision(matches: DetectionMatches, class_ids: Sequence[int]) -> AveragePrecision:
    """Average precision over images; it does not depend on the order in which they were matched.

    >>> mask = {"size": [4, 4], "counts": "04<"}
    >>> truth = {"category_id": 3, "bbox": [0, 0, 1, 4], "area": 4, "segmentation": mask}
    >>> found = {"category_id": 3, "bbox": [0, 0, 1, 4], "segmentation": mask, "score": 0.9}
    >>> round(average_precision(match_image(7, [truth], [found], "mask"), [3, 5]).ap, 3)
    1.0
    """
    evaluation = _evaluation(matches.kind)
    images, parameters = sorted(matches.images), evaluation.params
    parameters.imgIds, parameters.catIds = images, list(class_ids)
    evaluation._paramsEval = parameters
    evaluation.evalImgs = [
        matches.images[image].get((class_id, size))
        for class_id in class_ids
        for size in range(len(SIZES))
        for image in images
    ]
    if not images:
        nothing = float("nan")
        return AveragePrecision(
            nothing,
            nothing,
            nothing,
            dict.fromkeys(SIZES, nothing),
            dict.fromkeys(class_ids, nothing),
        )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision_TRKA = evaluation.eval["precision"][..., -1]
    of_all_TRK = precision_TRKA[..., 0]
    return AveragePrecision(
        _mean(of_all_TRK),
        _mean(of_all_TRK[_HALF]),
        _mean(of_all_TRK[_THREE_QUARTERS]),
        {name: _mean(precision_TRKA[..., size]) for size, name in enumerate(SIZES)},
        {class_id: _mean(of_all_TRK[..., row]) for row, class_id in enumerate(class_ids)},
    )


def _evaluation(kind: DetectionKind) -> Any:
    from pycocotools.cocoeval import COCOeval

    return COCOeval(iouType=_LIBRARY_KIND[kind])


def _area(row: Row, kind: DetectionKind) -> float:
    """Area of a detection, by which it belongs to a size."""
    if kind == "box":
        return float(row["bbox"][2] * row["bbox"][3])
    from pycocotools import mask

    return float(mask.area(row["segmentation"]))


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    """What accumulation reads of a record, in small types: it travels between processes."""
    return {
        "dtScores": record["dtScores"],
        "dtMatches": record["dtMatches"] > 0,
        "dtIgnore": record["dtIgnore"].astype(bool),
        "gtIgnore": np.asarray(record["gtIgnore"], bool),
    }


def _mean(values: np.ndarray) -> float:
    """The mean of the defined values; the library marks the others with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
