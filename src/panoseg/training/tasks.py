"""What is learned of seasons: tasks turn batches into losses and pictures, and a set of patches
into scores.

Shape suffixes: B batch, H W pixels, K classes, N centres.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.samples import Batch
from panoseg.errors import ConfigError
from panoseg.metrics.confusion import (
    REGIONS,
    PixelCounts,
    confusion_matrix,
    confusion_scores,
    pixel_counts,
)
from panoseg.metrics.panoptic_quality import PanopticCounts, panoptic_quality, patch_counts
from panoseg.models.build import build_model
from panoseg.models.config import ModelConfig, looks_at_photographs
from panoseg.models.outputs import SemanticOutput
from panoseg.models.paps import PaPs
from panoseg.panoptic.merge import merge_masks, to_panoptics
from panoseg.panoptic.panoptic import Panoptic
from panoseg.training.config import PapsLossConfig, SemanticLossConfig, TrainConfig, task_of_model
from panoseg.training.losses import PapsLoss, SemanticLoss
from panoseg.training.scores import PanopticScores, SemanticScores
from panoseg.training.splits import Split
from panoseg.training.task import Task, Work, evaluation_batches, sum_over_processes
from panoseg.training.threshold import THRESHOLDS, best_threshold, threshold_counts

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class SemanticTask(Task):
    """The class of each pixel."""

    metric_names = ("OA", "mIoU")
    score_name = "mIoU"

    def __init__(
        self, model: nn.Module, table: ClassTable = PASTIS, loss: SemanticLossConfig | None = None
    ) -> None:
        super().__init__(model, table)
        self.criterion = SemanticLoss(loss, table)
        self.scores_boundary = getattr(model.config, "boundary", False)
        self.loss_names = ("loss", "pixel", "boundary") if self.scores_boundary else ("loss",)

    def forward(self, work: Work) -> dict[str, Tensor]:
        """The loss of the pixels, and of the boundaries where the network scores them."""
        losses = self.criterion(self._output(work.batch), _present(work.batch.classes_BHW))
        if not self.scores_boundary:
            return {"loss": losses.total}
        return {"loss": losses.total, "pixel": losses.pixel, "boundary": losses.boundary}

    def predict(self, batch: Batch) -> list[Panoptic]:
        """All pixels of a class are one segment."""
        return _classes_as_segments(self._classes(batch), self.table)

    def evaluate(self, split: Split, fabric: Fabric) -> SemanticScores:
        """Accuracy and IoU, by region; void pixels are left out, and pixels predicted as void are
        missed (strict).
        """
        counts = PixelCounts.zero(self.table.count, fabric.device)
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast(), torch.no_grad():
                output = self._output(batch)
            counts += pixel_counts(
                output.logits_BKHW, output.boundary_B2HW, _present(batch.classes_BHW)
            )
        counts = PixelCounts(
            *(sum_over_processes(part, fabric) for part in (counts.matrix_RCKK, counts.edge_22))
        )
        void = self.table.ids("void")
        return SemanticScores(
            {region: counts.scores(region, void) for region in REGIONS},
            self.table,
            edge=counts.edge_scores(),
        )

    @torch.no_grad()
    def _classes(self, batch: Batch) -> Tensor:
        return self._output(batch).logits_BKHW.argmax(1)

    def _output(self, batch: Batch) -> SemanticOutput:
        return self.model(batch.images_BTCHW, batch.days_BT, batch.valid_BT)


class PanopticTask(Task):
    """Each parcel with its class, by PaPs.

    views: as how many turned and mirrored images patches are seen when they are predicted, 1 to 8.
    """

    model: PaPs

    loss_names = ("loss", "centre", "size", "shape", "class", "pixel")
    metric_names = ("SQ", "RQ", "PQ", "PQ_any_class")
    score_name = "PQ"

    def __init__(
        self,
        model: PaPs,
        table: ClassTable = PASTIS,
        loss: PapsLossConfig | None = None,
        views: int = 1,
    ) -> None:
        super().__init__(model, table)
        self.views = views
        self.criterion = PapsLoss(loss, void=table.void)

    def forward(self, work: Work) -> dict[str, Tensor]:
        """The panoptic loss and its parts; each parcel teaches the best centre of its zone, or
        every one.
        """
        batch, targets = work.batch, _present(work.batch.centres)
        output = self.model(
            batch.images_BTCHW,
            batch.days_BT,
            batch.valid_BT,
            None if self.criterion.config.every_centre else targets.zone_HW,
            work.heatmap_only,
            pixel_scores=self.criterion.config.pixel_weight > 0,
        )
        losses = self.criterion(output, targets, batch.classes_BHW)
        parts = {
            "centre": losses.centre,
            "size": losses.size,
            "shape": losses.shape,
            "class": losses.classification,
        }
        return {"loss": losses.total, **parts, "pixel": losses.pixel}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Panoptic]:
        """Candidates by descending confidence, each with the pixels that no better one has."""
        masks = self.model.masks(batch.images_BTCHW, batch.days_BT, batch.valid_BT, self.views)
        segment_BHW, _ = merge_masks(masks, len(batch.names), self.model.config.min_remain)
        return to_panoptics(segment_BHW, masks, self.table)

    def evaluate(self, split: Split, fabric: Fabric) -> PanopticScores:
        """Panoptic quality by PASTIS's definition, and the classes of the pixels, background where
        there is no segment.
        """
        by_class = PanopticCounts.zero(self.table)
        any_class = PanopticCounts.zero(self.table, class_agnostic=True)
        matrix_KK = torch.zeros((self.table.count, self.table.count), dtype=torch.int64)
        background, void = self.table.background or 0, self.table.ids("void")
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                predictions = self.predict(batch)
            for true, predicted in zip(true_panoptics(batch, self.table), predictions, strict=True):
                by_class += patch_counts(true, predicted, self.table)
                any_class += patch_counts(true, predicted, self.table, class_agnostic=True)
            predicted_BHW = np.stack(
                [predicted.classes_HW(background) for predicted in predictions]
            )
            matrix_KK += confusion_matrix(
                _present(batch.classes_BHW).cpu(), predicted_BHW, self.table.count, void
            )
        quality, agnostic = (
            panoptic_quality(counts.from_array(sum_over_processes(counts.to_array(), fabric)))
            for counts in (by_class, any_class)
        )
        return PanopticScores(
            quality, agnostic, confusion_scores(sum_over_processes(matrix_KK, fabric), void)
        )

    @torch.no_grad()
    def tune(self, split: Split, fabric: Fabric) -> None:
        """Set the confidence threshold to the best on a set: utae-paps @ 987874e,
        train_panoptic.py, ``tune_threshold``.

        There only the last batch of the validation counts; here all of it does.
        """
        counts = np.zeros((len(THRESHOLDS), 3))
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                output = self.model(
                    batch.images_BTCHW, batch.days_BT, batch.valid_BT, min_confidence=0.0
                )
            losses = self.criterion(output, _present(batch.centres))
            counts += threshold_counts(
                losses.confidence_N.cpu().numpy(), losses.iou_N.cpu().numpy() > 0.5
            )
        self.model.min_confidence.fill_(best_threshold(sum_over_processes(counts, fabric)))

    def tuned_config(self) -> ModelConfig:
        """The model's configuration with the tuned confidence threshold."""
        return replace(self.model.config, min_confidence=round(self.model.min_confidence.item(), 6))


def make_task(config: TrainConfig, table: ClassTable = PASTIS) -> Task:
    """The task of a training, with a network of torch's own initial weights. Raises
    ``ConfigError``.
    """
    if looks_at_photographs(config.model):
        return task_of(build_model(config.model), table)
    if config.model.classes != table.count:
        raise ConfigError(
            f"a network of {config.model.classes} classes with the {table.count} classes of"
            f" {table.name}",
            "the same number",
            "train a new network on this dataset",
        )
    model = build_model(config.model)
    return (
        PanopticTask(model, table, config.loss)
        if isinstance(model, PaPs)
        else SemanticTask(model, table, config.semantic_loss)
    )


def task_of(model: nn.Module, table: ClassTable = PASTIS, views: int = 1) -> Task:
    """The task that a network is made for, to predict and to score. views: as in ``PanopticTask``;
    no other task has them.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    if looks_at_photographs(config):
        from panoseg.training.photograph_tasks import (
            TASKS,
        )  # with torchvision, which seasons do without

        return TASKS[task_of_model(config)](model, table)  # type: ignore[arg-type]
    return (
        PanopticTask(model, table, views=views)
        if isinstance(model, PaPs)
        else SemanticTask(model, table)
    )


def true_panoptics(batch: Batch, table: ClassTable) -> list[Panoptic]:
    """The truth of a batch: one picture a patch; without parcels (semantic), all pixels of a class
    are one segment.
    """
    classes_BHW = _present(batch.classes_BHW)
    if batch.instances_BHW is None:
        return _classes_as_segments(classes_BHW, table)
    pairs = zip(batch.instances_BHW.cpu().numpy(), classes_BHW.cpu().numpy(), strict=True)
    return [
        Panoptic.from_maps(instances_HW, classes_HW, table) for instances_HW, classes_HW in pairs
    ]


def _classes_as_segments(classes_BHW: Tensor, table: ClassTable) -> list[Panoptic]:
    """Pictures in which all pixels of a class are one segment."""
    # Segment ids start at 1, classes at 0.
    ids = {entry.id + 1: entry.id for entry in table.classes}
    return [
        Panoptic.from_maps(classes_HW + 1, ids, table) for classes_HW in classes_BHW.cpu().numpy()
    ]


def _present(value: Any) -> Any:
    if value is None:
        raise ValueError("the batch has no labels; open the dataset with the task's target")
    return value
