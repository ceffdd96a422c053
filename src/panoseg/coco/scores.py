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
from panoseg.metrics.scores import or_null
from panoseg.metrics.tables import panoptic_table, percent, render_table
from panoseg.panoptic.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class PixelClasses:
    """The classes of pixels that are scored, numbered from 0 without gaps, and behind them void.

    table: their names, by number. number_of_class: int64, by class id plus one, so that no class,
    -1, is first.
    """

    table: ClassTable
    number_of_class: np.ndarray

    @classmethod
    def of(cls, table: ClassTable, *, things_together: bool = False) -> PixelClasses:
        """Every class of a table; things_together: all things are the first class, before those of
        stuff.
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
        """The number of void, which is not scored."""
        return len(self.table.classes) - 1

    def numbers(self, picture: Panoptic) -> np.ndarray:
        """The number of the class of each pixel of a picture: int64, H x W."""
        return self.number_of_class[picture.classes_HW(-1) + 1]

    def matrix(self, true: Panoptic, predicted_HW: np.ndarray) -> Tensor:
        """Pixels by true and predicted number, those without a true class left out: int64, K x
        K.
        """
        return confusion_matrix(
            self.numbers(true), predicted_HW, len(self.table.classes), [self.void]
        )


@dataclass(frozen=True, eq=False)
class PhotographCounts:
    """What has been counted of some photographs; ``+`` adds those of others. A part that a network
    does not have is None.

    panoptic: matches by COCO's definition. boxes, masks: matches of detections. matrix_KK: pixels
    by true and predicted class.
    """

    panoptic: PanopticCounts | None = None
    boxes: DetectionMatches | None = None
    masks: DetectionMatches | None = None
    matrix_KK: Tensor | None = None

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
    """The segments of a picture that match the truth."""
    return PhotographCounts(panoptic=coco_patch_counts(true, predicted, table, crowd_ids=crowd_ids))


def count_detections(index: int, true: Iterable[Row], predicted: Iterable[Row]) -> PhotographCounts:
    """The detections of a photograph that match true objects, both rows of COCO's form; index:
    which photograph it is.
    """
    true, predicted = list(true), list(predicted)
    return PhotographCounts(
        boxes=match_image(index, true, predicted, "box"),
        masks=match_image(index, true, predicted, "mask"),
    )


def count_pixels(
    true: Panoptic, crowd_ids: tuple[int, ...], predicted_HW: np.ndarray, classes: PixelClasses
) -> PhotographCounts:
    """The pixels of a photograph by true and predicted class; those of crowds are left out."""
    plain = true.keep(~np.isin(true.segments.ids, crowd_ids)) if crowd_ids else true
    return PhotographCounts(matrix_KK=classes.matrix(plain, predicted_HW))


@dataclass(frozen=True, eq=False)
class PhotographScores:
    """Scores of photographs; a part that a network does not have is None.

    quality: panoptic quality by COCO's definition. boxes, masks: average precision of candidates,
    before they are merged.
    pixels: of the classes of pixels, ``pixel_classes``; a pixel without a predicted class is
    missed.
    """

    classes: ClassTable
    pixel_classes: PixelClasses
    quality: PanopticQuality | None = None
    boxes: AveragePrecision | None = None
    masks: AveragePrecision | None = None
    pixels: ConfusionScores | None = None

    @classmethod
    def of(
        cls, counts: PhotographCounts, table: ClassTable, pixel_classes: PixelClasses
    ) -> PhotographScores:
        """Scores of what has been counted."""
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
        """PQ, SQ and RQ, PQ of things and of stuff, average precision and mean IoU in percent, as
        far as there are any; 0 where the truth has nothing to find.
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

    def to_json(self) -> dict:
        """All numbers, 0..1; null where undefined."""
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
        """Panoptic quality by class where there is any; below it the rest by class, and all summed
        up in a line.
        """
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
        """What is not panoptic: of each number its values by name of the class, and their mean."""
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
