"""What an evaluation found: as a summary, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from panoseg.classes import ClassTable
from panoseg.metrics.confusion import ConfusionScores, Region, RegionScores
from panoseg.metrics.panoptic_quality import PanopticQuality
from panoseg.metrics.tables import confusion_table, panoptic_table, percent, render_table


class Scores(Protocol):
    """What an evaluation found."""

    def summary(self) -> dict[str, float]:
        """The main numbers, in percent."""

    def to_json(self) -> dict:
        """All numbers, JSON-ready, 0..1."""

    def table(self) -> str:
        """A Markdown table for people."""


@dataclass(frozen=True, eq=False)
class SemanticScores:
    """Overall accuracy, mean IoU, and the scores of each class, by region.

    regions: the same pixels, and those at boundaries of classes and inside apart. region: the one
    that ``scores``, the summary and the table are of. edge: scores of a network's boundary head,
    None without one.
    """

    regions: Mapping[Region, RegionScores]
    classes: ClassTable
    region: Region = "all"
    edge: ConfusionScores | None = None

    @property
    def scores(self) -> ConfusionScores:
        """The scores of the chosen region."""
        return self.regions[self.region].scores

    def summary(self) -> dict[str, float]:
        """OA and mIoU of the chosen region in percent."""
        return {"OA": 100 * self.scores.accuracy, "mIoU": 100 * self.scores.mean_iou}

    def to_json(self) -> dict:
        """All numbers of the chosen region; those of the others below "regions"; and the boundary
        head's where there is one.
        """
        regions = {name: self._region_json(region) for name, region in self.regions.items()}
        edge = {} if self.edge is None else {"boundary_head": _means(self.edge)}
        return {"region": self.region, **regions.pop(self.region), **edge, "regions": regions}

    def _region_json(self, region: RegionScores) -> dict:
        """Means; IoU, precision, recall and F1 of each class, null where undefined; pixels by true
        and predicted class.
        """
        scores = region.scores
        columns = {
            "iou": scores.iou_K,
            "precision": scores.precision_K,
            "recall": scores.recall_K,
            "f1": scores.f1_K,
        }
        return {
            **_means(scores),
            "best_two": _means(region.best_two),
            "published_meter": _means(region.published),
            "classes": {
                entry.name: {name: or_null(values[entry.id]) for name, values in columns.items()}
                for entry in self.classes.classes
                if entry.kind != "void"
            },
            "confusion": {
                "ignored": list(self.classes.ids("void")),
                "matrix": scores.matrix_KK.tolist(),
            },
        }

    def table(self) -> str:
        """A row a class of the chosen region, and below it the means of all regions."""
        means: dict[str, ConfusionScores] = {
            name: region.scores for name, region in self.regions.items()
        }
        if self.edge is not None:
            means["boundary head"] = self.edge
        rows = [
            [name, percent(scores.accuracy), percent(scores.mean_iou), percent(scores.mean_f1)]
            for name, scores in means.items()
        ]
        regions = render_table(["region", "OA", "mIoU", "mean F1"], rows)
        return f"{confusion_table(self.scores, self.classes, ignored=self.classes.ids('void'))}\n\n{regions}"


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality by PASTIS's definition: ``quality`` of each class, ``agnostic`` as if all
    crops were one class.

    pixels: of the classes of pixels, without void; what lies in no predicted segment is background.
    For the picture alone.
    """

    quality: PanopticQuality
    agnostic: PanopticQuality
    pixels: ConfusionScores

    def summary(self) -> dict[str, float]:
        """SQ, RQ and PQ over classes, and PQ whatever the class, in percent."""
        mean = self.quality.all
        return {
            "SQ": 100 * mean.sq,
            "RQ": 100 * mean.rq,
            "PQ": 100 * mean.pq,
            "PQ_any_class": 100 * self.agnostic.all.pq,
        }

    def to_json(self) -> dict:
        """Both qualities; see ``PanopticQuality``."""
        return {"by_class": self.quality.to_json(), "any_class": self.agnostic.to_json()}

    def table(self) -> str:
        """A row a class, and below it the quality whatever the class."""
        any_class = self.agnostic.all
        numbers = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in vars(any_class).items() if name != "n"
        )
        return f"{panoptic_table(self.quality)}\n\nwhatever the class: {numbers.upper()}"


def _means(scores: ConfusionScores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "mean_iou": scores.mean_iou, "mean_f1": scores.mean_f1}


def or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
