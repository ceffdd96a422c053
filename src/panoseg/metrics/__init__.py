"""Panoptic quality and confusion-matrix metrics, each published definition under its name.

What an evaluation found is in this file, as numbers, JSON and tables for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from panoseg.classes import ClassTable
from panoseg.metrics.confusion import ConfusionScores, Region, RegionScores
from panoseg.metrics.panoptic_quality import PanopticQuality


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table; the first column is aligned left, the others right.

    >>> print(render_table(["class", "PQ"], [["meadow", "43.8"], ["corn", "7.0"]]))
    | class  |   PQ |
    |:-------|-----:|
    | meadow | 43.8 |
    | corn   |  7.0 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join([cells[0].ljust(widths[0]), *aligned[1:]])} |"

    rule = "|".join(
        [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
    )
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def percent(value: float) -> str:
    """Format a fraction as percent with one decimal, and NaN as a dash."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def panoptic_table(quality: PanopticQuality) -> str:
    """Render SQ, RQ and PQ in percent and the counts of each class, with the means."""
    counts = quality.counts
    rows = [
        [
            name,
            *(percent(values[row]) for values in (quality.sq_K, quality.rq_K, quality.pq_K)),
            *(str(int(value)) for value in counts.to_array()[row, :3]),
        ]
        for row, name in enumerate(counts.classes.names)
    ]
    means = [("all", quality.all), ("things", quality.things), ("stuff", quality.stuff)]
    shown = [(name, mean) for name, mean in means if name == "all" or 0 < mean.n < quality.all.n]
    total = [str(int(value)) for value in counts.to_array()[:, :3].sum(axis=0)]
    rows += [
        [f"mean of {mean.n} classes" if name == "all" else f"mean of {name} ({mean.n})"]
        + [percent(value) for value in (mean.sq, mean.rq, mean.pq)]
        + (total if name == "all" else [""] * 3)
        for name, mean in shown
    ]
    return render_table(["class", "SQ", "RQ", "PQ", "matched", "invented", "missed"], rows)


def confusion_table(scores: ConfusionScores, table: ClassTable, ignored: Sequence[int] = ()) -> str:
    """Render IoU, precision, recall and F1 of each class in percent, means and accuracy.

    Classes in ``ignored`` are left out.
    """
    columns = (scores.iou_K, scores.precision_K, scores.recall_K, scores.f1_K)
    rows = [
        [
            entry.name,
            *(percent(values[entry.id]) for values in columns),
            f"{scores.pixels_K[entry.id]:,}",
        ]
        for entry in table.classes
        if entry.id not in ignored
    ]
    rows.append(
        [
            "mean",
            percent(scores.mean_iou),
            "",
            "",
            percent(scores.mean_f1),
            f"{int(scores.pixels_K.sum()):,}",
        ]
    )
    rows.append(["overall accuracy", percent(scores.accuracy), "", "", "", ""])
    return render_table(["class", "IoU", "precision", "recall", "F1", "pixels"], rows)


def numbers_text(numbers: Mapping[str, float]) -> str:
    """Return named numbers on one line.

    >>> numbers_text({"SQ": 81.47, "PQ": 43.8})
    'SQ 81.5, PQ 43.8'
    """
    return ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())


class Scores(Protocol):
    """The scores of an evaluation."""

    def summary(self) -> dict[str, float]:
        """Return the main numbers in percent."""

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as a JSON-ready dictionary of fractions."""

    def table(self) -> str:
        """Render a Markdown table."""


def nothing_true(scores: Scores, words: str) -> tuple[str, ...]:
    """Return a note if no class occurs in the truth, so that the scores have no meaning.

    Args:
        scores: The scores.
        words: What was scored, such as "fold 5".
    """
    quality: PanopticQuality | None = getattr(scores, "quality", None)
    if quality is not None:
        counts = quality.counts
        occurs = int(counts.true_positives.sum() + counts.false_negatives.sum())
    else:
        pixels: ConfusionScores | None = getattr(scores, "scores", getattr(scores, "pixels", None))
        occurs = 1 if pixels is None else int(pixels.pixels_K.sum())
    if occurs:
        return ()
    return (
        f"no class of the table occurs in the truth of {words} (all of it is void or crowds), so"
        " the scores have no meaning",
    )


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
        return f"{panoptic_table(self.quality)}\n\nany class: {numbers.upper()}"


def _means(scores: ConfusionScores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "mean_iou": scores.mean_iou, "mean_f1": scores.mean_f1}


def or_null(value: float) -> float | None:
    """Return a JSON-ready number: None for NaN."""
    return None if np.isnan(value) else float(value)
