"""What is learned: a task turns batches into losses and pictures, and a set of patches into scores.

Shape suffixes: B batch, H W pixels, K classes, N centres.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.samples import Batch
from panoseg.metrics.confusion import ConfusionScores, confusion_matrix, confusion_scores
from panoseg.metrics.panoptic_quality import PanopticCounts, PanopticQuality, panoptic_quality, patch_counts
from panoseg.metrics.tables import confusion_table, panoptic_table
from panoseg.models.build import build_model
from panoseg.models.config import ModelConfig
from panoseg.models.paps import PaPs
from panoseg.models.utae import UTAE
from panoseg.panoptic.merge import merge_masks, to_panoptics
from panoseg.panoptic.panoptic import Panoptic
from panoseg.progress import track
from panoseg.training.config import TrainConfig
from panoseg.training.loss_config import PapsLossConfig
from panoseg.training.losses import PapsLoss, semantic_loss
from panoseg.training.splits import Split

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Work:
    """A batch, and whether only its centres are learned.

    No dataclass: Fabric takes those apart to cast their tensors, and cannot rebuild frozen ones.
    """

    def __init__(self, batch: Batch, heatmap_only: bool = False) -> None:
        self.batch, self.heatmap_only = batch, heatmap_only


class Scores(Protocol):
    """What an evaluation found."""

    def summary(self) -> dict[str, float]:
        """The main numbers, in percent."""

    def to_json(self) -> dict:
        """All numbers, JSON-ready, 0..1."""

    def table(self) -> str:
        """A Markdown table for people."""


class Task(nn.Module):
    """A model with what it learns.

    Called with ``Work`` it gives named scalar losses, of which "loss" is descended. Images of a batch are standardised.
    loss_names, metric_names: what training and validation write to the log. score_name: the metric by which the best is kept.
    """

    loss_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    score_name: str

    def __init__(self, model: UTAE | PaPs, table: ClassTable = PASTIS) -> None:
        super().__init__()
        self.model = model
        self.table = table

    def predict(self, batch: Batch) -> list[Panoptic]:
        """One picture a patch."""
        raise NotImplementedError

    def evaluate(self, split: Split, fabric: Fabric) -> Scores:
        """Scores on all patches of a set, each counted once, whatever the number of processes."""
        raise NotImplementedError

    def tune(self, split: Split, fabric: Fabric) -> None:
        """Tune on a set what training does not learn; nothing in most tasks."""

    def tuned_config(self) -> ModelConfig:
        """The model's configuration with what ``tune`` found."""
        return self.model.config


@dataclass(frozen=True, eq=False)
class SemanticScores:
    """Overall accuracy, mean IoU, and the scores of each class; see ``ConfusionScores``."""

    scores: ConfusionScores
    classes: ClassTable

    def summary(self) -> dict[str, float]:
        """OA and mIoU in percent."""
        return {"OA": 100 * self.scores.accuracy, "mIoU": 100 * self.scores.mean_iou}

    def to_json(self) -> dict:
        """OA, mIoU, and IoU, precision, recall and F1 of each class; null where undefined."""
        scores = self.scores
        columns = {"iou": scores.iou_K, "precision": scores.precision_K, "recall": scores.recall_K, "f1": scores.f1_K}
        return {
            "accuracy": scores.accuracy,
            "mean_iou": scores.mean_iou,
            "mean_f1": scores.mean_f1,
            "classes": {
                entry.name: {name: _or_null(values[entry.id]) for name, values in columns.items()}
                for entry in self.classes.classes
                if entry.kind != "void"
            },
        }

    def table(self) -> str:
        """A row a class."""
        return confusion_table(self.scores, self.classes, ignored=self.classes.ids("void"))


class SemanticTask(Task):
    """The class of each pixel."""

    loss_names = ("loss",)
    metric_names = ("OA", "mIoU")
    score_name = "mIoU"

    def forward(self, work: Work) -> dict[str, Tensor]:
        """Cross-entropy of the pixels that are not void."""
        batch = work.batch
        logits_BKHW = self.model(batch.images_BTCHW, batch.days_BT, batch.valid_BT).logits_BKHW
        return {"loss": semantic_loss(logits_BKHW, _present(batch.classes_BHW), self.table.void)}

    def predict(self, batch: Batch) -> list[Panoptic]:
        """All pixels of a class are one segment."""
        # Segment ids start at 1, classes at 0.
        ids = {entry.id + 1: entry.id for entry in self.table.classes}
        return [Panoptic.from_maps(classes_HW + 1, ids, self.table) for classes_HW in self._classes(batch).cpu().numpy()]

    def evaluate(self, split: Split, fabric: Fabric) -> SemanticScores:
        """Accuracy and IoU; void pixels are left out, also by pixels predicted as void (strict)."""
        void = self.table.ids("void")
        matrix = torch.zeros((self.table.count, self.table.count), dtype=torch.int64, device=fabric.device)
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                predicted_BHW = self._classes(batch)
            matrix += confusion_matrix(_present(batch.classes_BHW), predicted_BHW, self.table.count, void)
        return SemanticScores(confusion_scores(_sum_over_processes(matrix, fabric), void), self.table)

    @torch.no_grad()
    def _classes(self, batch: Batch) -> Tensor:
        return self.model(batch.images_BTCHW, batch.days_BT, batch.valid_BT).logits_BKHW.argmax(1)


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality by PASTIS's definition: ``quality`` of each class, ``agnostic`` as if all crops were one class."""

    quality: PanopticQuality
    agnostic: PanopticQuality

    def summary(self) -> dict[str, float]:
        """SQ, RQ and PQ over classes, and PQ whatever the class, in percent."""
        mean = self.quality.all
        return {"SQ": 100 * mean.sq, "RQ": 100 * mean.rq, "PQ": 100 * mean.pq, "PQ_any_class": 100 * self.agnostic.all.pq}

    def to_json(self) -> dict:
        """Both qualities; see ``PanopticQuality``."""
        return {"by_class": self.quality.to_json(), "any_class": self.agnostic.to_json()}

    def table(self) -> str:
        """A row a class, and below it the quality whatever the class."""
        any_class = self.agnostic.all
        numbers = ", ".join(f"{name} {100 * value:.1f}" for name, value in vars(any_class).items() if name != "n")
        return f"{panoptic_table(self.quality)}\n\nwhatever the class: {numbers.upper()}"


class PanopticTask(Task):
    """Each parcel with its class, by PaPs."""

    model: PaPs

    loss_names = ("loss", "centre", "size", "shape", "class", "pixel")
    metric_names = ("SQ", "RQ", "PQ", "PQ_any_class")
    score_name = "PQ"

    def __init__(self, model: PaPs, table: ClassTable = PASTIS, loss: PapsLossConfig | None = None) -> None:
        super().__init__(model, table)
        self.criterion = PapsLoss(loss, void=table.void)

    def forward(self, work: Work) -> dict[str, Tensor]:
        """The panoptic loss and its parts; each parcel teaches the best centre of its zone."""
        batch, targets = work.batch, _present(work.batch.centres)
        output = self.model(
            batch.images_BTCHW,
            batch.days_BT,
            batch.valid_BT,
            targets.zone_HW,
            work.heatmap_only,
            pixel_scores=self.criterion.config.pixel_weight > 0,
        )
        losses = self.criterion(output, targets, batch.classes_BHW)
        parts = {"centre": losses.centre, "size": losses.size, "shape": losses.shape, "class": losses.classification}
        return {"loss": losses.total, **parts, "pixel": losses.pixel}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Panoptic]:
        """Candidates by descending confidence, each with the pixels that no better one has."""
        output = self.model(batch.images_BTCHW, batch.days_BT, batch.valid_BT)
        masks = self.model.scored_masks(output)
        segment_BHW, _ = merge_masks(masks, len(batch.names), self.model.config.min_remain)
        return to_panoptics(segment_BHW, masks, self.table)

    def evaluate(self, split: Split, fabric: Fabric) -> PanopticScores:
        """Panoptic quality by PASTIS's definition."""
        by_class = PanopticCounts.zero(self.table)
        any_class = PanopticCounts.zero(self.table, class_agnostic=True)
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                predictions = self.predict(batch)
            for true, predicted in zip(true_panoptics(batch, self.table), predictions, strict=True):
                by_class += patch_counts(true, predicted, self.table)
                any_class += patch_counts(true, predicted, self.table, class_agnostic=True)
        summed = (counts.from_array(_sum_over_processes(counts.to_array(), fabric)) for counts in (by_class, any_class))
        return PanopticScores(*map(panoptic_quality, summed))

    @torch.no_grad()
    def tune(self, split: Split, fabric: Fabric) -> None:
        """Set the confidence threshold to the best on a set: utae-paps @ 987874e, train_panoptic.py, ``tune_threshold``.

        There only the last batch of the validation counts; here all of it does.
        """
        counts = np.zeros((len(THRESHOLDS), 3))
        for batch in evaluation_batches(self, split, fabric):
            with fabric.autocast():
                output = self.model(batch.images_BTCHW, batch.days_BT, batch.valid_BT, min_confidence=0.0)
            losses = self.criterion(output, _present(batch.centres))
            counts += threshold_counts(losses.confidence_N.cpu().numpy(), losses.iou_N.cpu().numpy() > 0.5)
        self.model.min_confidence.fill_(best_threshold(_sum_over_processes(counts, fabric)))

    def tuned_config(self) -> ModelConfig:
        """The model's configuration with the tuned confidence threshold."""
        return replace(self.model.config, min_confidence=round(self.model.min_confidence.item(), 6))


THRESHOLDS = np.arange(100) / 100


def threshold_counts(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """True positives, false positives and false negatives at each of ``THRESHOLDS``; counts of several batches add up.

    confidence_N: 0..1. right_N: bool, whether the centre's mask has an IoU above 0.5 with its parcel.
    """
    kept_RN = confidence_N[None] > THRESHOLDS[:, None]
    return np.stack([(kept_RN & right_N).sum(1), (kept_RN & ~right_N).sum(1), (~kept_RN & right_N).sum(1)], axis=1)


def best_threshold(counts: np.ndarray) -> float:
    """The threshold with the best F-score, the lowest of equally good ones; 0 where nothing is right."""
    positives, invented, missed = counts.T
    score = positives / np.maximum(positives + 0.5 * (invented + missed), 1)
    return float(THRESHOLDS[score.argmax()])


def make_task(config: TrainConfig, table: ClassTable = PASTIS) -> Task:
    """The task of a training, with a network of torch's own initial weights."""
    return task_of(build_model(config.model), table, config.loss)


def task_of(model: nn.Module, table: ClassTable = PASTIS, loss: PapsLossConfig | None = None) -> Task:
    """The task that a network is made for."""
    if isinstance(model, PaPs):
        return PanopticTask(model, table, loss)
    if isinstance(model, UTAE):
        return SemanticTask(model, table)
    raise TypeError(f"no task for a {type(model).__name__}")


def evaluation_batches(task: Task, split: Split, fabric: Fabric) -> Iterator[Batch]:
    """The batches of this process' part of a set, with the task in evaluation mode."""
    task.eval()
    loader = split.loader(fabric)
    return track(split.batches(fabric, loader), "evaluate", total=len(loader))


def true_panoptics(batch: Batch, table: ClassTable) -> list[Panoptic]:
    """The truth of a batch: one picture a patch; without parcels (semantic), all pixels of a class are one segment."""
    classes_BHW = _present(batch.classes_BHW).cpu().numpy()
    if batch.instances_BHW is None:
        ids = {entry.id + 1: entry.id for entry in table.classes}
        return [Panoptic.from_maps(classes_HW + 1, ids, table) for classes_HW in classes_BHW]
    pairs = zip(batch.instances_BHW.cpu().numpy(), classes_BHW, strict=True)
    return [Panoptic.from_maps(instances_HW, classes_HW, table) for instances_HW, classes_HW in pairs]


def _present(value: Any) -> Any:
    if value is None:
        raise ValueError("the batch has no labels; open the dataset with the task's target")
    return value


def _sum_over_processes(counts: Any, fabric: Fabric) -> Any:
    """The sum of a tensor or array over all processes."""
    if fabric.world_size == 1:
        return counts
    total: Any = fabric.all_reduce(torch.as_tensor(counts, device=fabric.device), reduce_op="sum")
    return total.cpu().numpy() if isinstance(counts, np.ndarray) else total


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def numbers_text(numbers: Mapping[str, float]) -> str:
    """Named numbers on one line.

    >>> numbers_text({"SQ": 81.47, "PQ": 43.8})
    'SQ 81.5, PQ 43.8'
    """
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())
