"""Tables of scores in Markdown, aligned so that they can be read as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from panoseg.classes import ClassTable
from panoseg.metrics.confusion import ConfusionScores
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
