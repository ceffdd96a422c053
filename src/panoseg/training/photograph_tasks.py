"""What networks for photographs learn and how they are scored: pixels and objects, pixels alone,
objects alone.

Shape suffixes: B images, N candidates, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.coco.average_precision import DetectionMatches, Row
from panoseg.coco.masks import encode_mask
from panoseg.data.photographs import PhotographBatch
from panoseg.metrics.panoptic_quality import PanopticCounts
from panoseg.models.configs.photograph import PanopticFpnConfig
from panoseg.models.outputs import DetectedObjects, PhotographOutput
from panoseg.models.photograph_network import AnyPhotographNetwork, Labels, panoptics
from panoseg.panoptic.merge import MergeThresholds
from panoseg.panoptic.panoptic import Panoptic
from panoseg.training.scores import (
    PhotographCounts,
    PhotographScores,
    PixelClasses,
    count_detections,
    count_panoptic,
    count_pixels,
)
from panoseg.training.splits import ScoredBatch, ScoredPhotograph, Split
from panoseg.training.task import Task, Work, evaluation_batches, sum_over_processes

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class PhotographTask(Task):
    """A network for photographs with what it learns; ``count`` says what of its output is
    scored.
    """

    model: AnyPhotographNetwork

    def __init__(self, model: AnyPhotographNetwork, table: ClassTable) -> None:
        super().__init__(model, table)
        self.labels = Labels.of(table)
        self.loss_names = model.loss_names
        self.pixel_classes = PixelClasses.of(table)
        self.thresholds = thresholds_of(model)

    def forward(self, work: Work) -> dict[str, Tensor]:
        """The losses of the network, each the mean over the photographs."""
        photographs = work.batch.photographs
        labels = [
            self.labels.of_photograph(photograph, self.model.scope) for photograph in photographs
        ]
        return self.model.losses([photograph.image_CHW for photograph in photographs], labels)

    @torch.no_grad()
    def predict(self, batch: PhotographBatch | ScoredBatch) -> list[Panoptic]:
        """One picture a photograph, of its size on disk."""
        return [self.picture(output) for output in self.outputs(batch)]

    def outputs(self, batch: PhotographBatch | ScoredBatch) -> list[PhotographOutput]:
        """What the network says of each photograph, at its size on disk."""
        images = [photograph.image_CHW for photograph in batch.photographs]
        return self.model.predict(images, [photograph.size_HW for photograph in batch.photographs])

    def picture(self, output: PhotographOutput) -> Panoptic:
        """The picture that an output becomes."""
        [picture] = panoptics(output, self.labels, self.model.scope, self.thresholds, self.table)
        return picture

    def evaluate(self, split: Split, fabric: Fabric) -> PhotographScores:
        """Scores of all photographs of a set."""
        counts = self.no_counts()
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                outputs = self.outputs(batch)
            for entry, output in zip(batch.entries, outputs, strict=True):
                counts += self.count(entry, output)
        return PhotographScores.of(over_processes(counts, fabric), self.table, self.pixel_classes)

    def no_counts(self) -> PhotographCounts:
        """The counts of no photograph."""
        raise NotImplementedError

    def count(self, entry: ScoredPhotograph, output: PhotographOutput) -> PhotographCounts:
        """The counts of one photograph."""
        raise NotImplementedError


class PanopticPhotographTask(PhotographTask):
    """Things and stuff as one picture, by Panoptic FPN."""

    metric_names = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "box_AP", "mask_AP", "mIoU", "OA")
    score_name = "PQ"

    def no_counts(self) -> PhotographCounts:
        """No segment, no detection, no pixel."""
        panoptic = PanopticCounts.zero(self.table, "coco")
        return PhotographCounts(panoptic, *_no_matches(), _no_pixels(self.pixel_classes))

    def count(self, entry: ScoredPhotograph, output: PhotographOutput) -> PhotographCounts:
        """Segments by COCO's definition, candidates before they are merged, and the classes of the
        picture's pixels.
        """
        picture = self.picture(output)
        counts = count_panoptic(entry.truth, entry.crowd_ids, picture, self.table)
        counts += count_detections(entry.index, entry.things, detection_rows(output, self.labels))
        return counts + count_pixels(
            entry.truth, entry.crowd_ids, self.pixel_classes.numbers(picture), self.pixel_classes
        )


class SemanticPhotographTask(PhotographTask):
    """The class of each pixel, by PSPNet."""

    metric_names = ("mIoU", "OA")
    score_name = "mIoU"

    def __init__(self, model: AnyPhotographNetwork, table: ClassTable) -> None:
        super().__init__(model, table)
        # The numbers of the classes are the network's labels.
        self.pixel_classes = PixelClasses.of(table, things_together=model.scope == "stuff")

    def picture(self, output: PhotographOutput) -> Panoptic:
        """All pixels of a class are one segment; things that the network does not tell apart are
        none.
        """
        classes_HW = (
            self.labels.semantic_classes(_present(output.label_BHW), _present(self.model.scope))[0]
            .cpu()
            .numpy()
        )
        ids = {entry.id + 1: entry.id for entry in self.table.classes}
        return Panoptic.from_maps(classes_HW + 1, ids, self.table)

    def no_counts(self) -> PhotographCounts:
        """No pixel."""
        return PhotographCounts(matrix_KK=_no_pixels(self.pixel_classes))

    def count(self, entry: ScoredPhotograph, output: PhotographOutput) -> PhotographCounts:
        """The classes of the pixels."""
        label_HW = _present(output.label_BHW)[0].cpu().numpy()
        return count_pixels(entry.truth, entry.crowd_ids, label_HW, self.pixel_classes)


class InstancesPhotographTask(PhotographTask):
    """Objects alone, by Mask R-CNN."""

    metric_names = ("box_AP", "mask_AP")
    score_name = "mask_AP"

    def no_counts(self) -> PhotographCounts:
        """No detection."""
        return PhotographCounts(None, *_no_matches())

    def count(self, entry: ScoredPhotograph, output: PhotographOutput) -> PhotographCounts:
        """The candidates that match true objects."""
        return count_detections(entry.index, entry.things, detection_rows(output, self.labels))


TASKS: dict[str, type[PhotographTask]] = {
    "panoptic": PanopticPhotographTask,
    "semantic": SemanticPhotographTask,
    "instances": InstancesPhotographTask,
}
"""The task of each kind of network (``panoseg.training.config.task_of_model``)."""


def thresholds_of(model: AnyPhotographNetwork) -> MergeThresholds:
    """How candidates and stuff are merged: as the options of the network say, or the published
    values where it has none.
    """
    config = model.config
    if isinstance(config, PanopticFpnConfig):
        return MergeThresholds(config.merge_score, config.merge_overlap, config.stuff_area)
    return MergeThresholds()


def detection_rows(output: PhotographOutput, labels: Labels) -> Iterator[Row]:
    """The candidates of one photograph as rows of COCO's detection form; those without a score are
    padding.
    """
    objects: DetectedObjects = _present(output.objects)
    classes_N = labels.thing_classes(objects.label_BN)[0].tolist()
    for number in objects.score_BN[0].nonzero()[:, 0].tolist():
        mask_HW = (
            objects.mask_BHW(torch.tensor([number], device=objects.score_BN.device))[0]
            .cpu()
            .numpy()
        )
        left, top, right, bottom = objects.box_BN4[0, number].tolist()
        yield {
            "category_id": classes_N[number],
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": encode_mask(mask_HW),
            "score": float(objects.score_BN[0, number]),
        }


def over_processes(counts: PhotographCounts, fabric: Fabric) -> PhotographCounts:
    """The counts of all processes together."""
    panoptic, matrix_KK = counts.panoptic, counts.matrix_KK
    if panoptic is not None:
        panoptic = panoptic.from_array(sum_over_processes(panoptic.to_array(), fabric))
    if matrix_KK is not None:
        matrix_KK = sum_over_processes(matrix_KK, fabric)
    boxes, masks = (part and _gathered(part, fabric) for part in (counts.boxes, counts.masks))
    return PhotographCounts(panoptic, boxes, masks, matrix_KK)


def _gathered(matches: DetectionMatches, fabric: Fabric) -> DetectionMatches:
    """The matches of all processes, whose photographs are different ones."""
    if fabric.world_size == 1:
        return matches
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, matches.images)
    return DetectionMatches(
        matches.kind, {index: record for part in parts for index, record in part.items()}
    )


def _no_matches() -> tuple[DetectionMatches, DetectionMatches]:
    return DetectionMatches("box", {}), DetectionMatches("mask", {})


def _no_pixels(classes: PixelClasses) -> Tensor:
    return torch.from_numpy(np.zeros((classes.void + 1, classes.void + 1), np.int64))


def _present(part: Any) -> Any:
    if part is None:
        raise ValueError("the network does not have this part of an output")
    return part
