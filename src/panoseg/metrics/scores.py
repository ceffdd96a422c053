"""Scores of seasons: pixels by class and region, and panoptic quality.

Each kind of scores gives a summary, JSON and a Markdown table (``Scores``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from panoseg.classes import ClassTable
from panoseg.metrics.confusion import ConfusionScores, Region, RegionScores
from panoseg.metrics.panoptic_quality import PanopticQuality
from panoseg.metrics.tables import confusion_table, panoptic_table, percent, render_table


class Scores(Protocol):
    """The scores of an evaluation."""

    def summary(self) -> dict[str, float]:
        """Return the main numbers in percent."""

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as a JSON-ready dictionary of fractions."""

    def table(self) -> str:
        """Render a Markdown table."""


@dataclass(frozen=True, eq=False)
class SemanticScores:
    """Overall accuracy, mean IoU, and the scores of each class, by region."""

    regions: Mapping[Region, RegionScores]
    """Scores of all pixels, of those at boundaries of classes, and of those inside."""
    classes: ClassTable
    """The classes."""
    region: Region = "all"
    """The region of ``scores``, the summary and the table."""
    edge: ConfusionScores | None = None
    """Scores of the network's boundary head, None without one."""

    @property
    def scores(self) -> ConfusionScores:
        """The scores of the chosen region."""
        return self.regions[self.region].scores

    def summary(self) -> dict[str, float]:
        """Return overall accuracy and mean IoU of the chosen region in percent."""
        return {"OA": 100 * self.scores.accuracy, "mIoU": 100 * self.scores.mean_iou}

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the chosen region, with those of the others under "regions".

        The scores of a boundary head are under "boundary_head".
        """
        regions = {name: self._region_json(region) for name, region in self.regions.items()}
        edge = {} if self.edge is None else {"boundary_head": _means(self.edge)}
        return {"region": self.region, **regions.pop(self.region), **edge, "regions": regions}

    def _region_json(self, region: RegionScores) -> dict[str, Any]:
        """Return means, the scores of each class (null where undefined) and the matrix."""
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
        """Render a row per class of the chosen region, and below it the means of all regions."""
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
        of_classes = confusion_table(self.scores, self.classes, self.classes.ids("void"))
        return f"{of_classes}\n\n{regions}"


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality by the definition of PASTIS."""

    quality: PanopticQuality
    """Quality of each class."""
    agnostic: PanopticQuality
    """Quality as if all crops were one class."""
    pixels: ConfusionScores
    """Scores of the classes of pixels, used in the figure only.

    Void is left out, and pixels of no predicted segment are background.
    """

    def summary(self) -> dict[str, float]:
        """Return SQ, RQ and PQ over classes, and PQ regardless of class, in percent."""
        mean = self.quality.all
        return {
            "SQ": 100 * mean.sq,
            "RQ": 100 * mean.rq,
            "PQ": 100 * mean.pq,
            "PQ_any_class": 100 * self.agnostic.all.pq,
        }

    def to_json(self) -> dict[str, Any]:
        """Return both qualities; see ``PanopticQuality``."""
        return {"by_class": self.quality.to_json(), "any_class": self.agnostic.to_json()}

    def table(self) -> str:
        """Render a row per class, and below it the quality regardless of class."""
        any_class = self.agnostic.all
        numbers = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in vars(any_class).items() if name != "n"
        )
        return f"{panoptic_table(self.quality)}\n\nwhatever the class: {numbers.upper()}"


def _means(scores: ConfusionScores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "mean_iou": scores.mean_iou, "mean_f1": scores.mean_f1}


def or_null(value: float) -> float | None:
    """Return a JSON-ready number: None for NaN."""
    return None if np.isnan(value) else float(value)
