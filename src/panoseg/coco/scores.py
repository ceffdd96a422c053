"""Scores of photographs: panoptic quality, average precision, and the classes of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from panoseg.classes import ClassTable, SegmentClass
from panoseg.coco.average_precision import (
    AveragePrecision,
    DetectionMatches,
    Row,
    average_precision,
    match_image,
)
from panoseg.metrics.confusion import ConfusionScores, confusion_matrix, confusion_scores
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    PanopticQuality,
    coco_patch_counts,
    quality_of_counts,
)
from panoseg.metrics.scores import or_null, panoptic_table, percent, render_table
from panoseg.panoptic.panoptic import Panoptic


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
