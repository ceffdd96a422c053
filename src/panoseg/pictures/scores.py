"""Figures of scores: which classes are confused, and how well each is found.

Shape suffixes: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.scores import PhotographScores
from panoseg.metrics import PanopticScores, Scores, SemanticScores
from panoseg.metrics.confusion import ConfusionScores
from panoseg.metrics.panoptic_quality import PanopticQuality
from panoseg.pictures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFUSION, CLASSES = "confusion.png", "classes.png"
_FAINTEST = 0.005  # shares below it would read 0
_MOST_CLASSES = 40  # of a confusion matrix that can be read


def draw_scores(scores: Scores, table: ClassTable, folder: Path) -> None:
    """Write classes.png, the score of each class, and confusion.png, by class of the pixels."""
    _DRAW[type(scores)](scores, table, folder)


def _draw_semantic_scores(scores: SemanticScores, table: ClassTable, folder: Path) -> None:
    draw_confusion(scores.scores, table, folder / CONFUSION)
    draw_semantic_classes(scores.scores, table, folder / CLASSES)


def _draw_panoptic_scores(scores: PanopticScores, table: ClassTable, folder: Path) -> None:
    draw_confusion(scores.pixels, table, folder / CONFUSION)
    draw_panoptic_classes(scores.quality, table, folder / CLASSES)


def _draw_photograph_scores(scores: PhotographScores, table: ClassTable, folder: Path) -> None:
    """Classes by panoptic quality, or else by IoU; the confusion matrix where it can be read."""
    if scores.quality is not None:
        draw_panoptic_classes(scores.quality, scores.classes, folder / CLASSES, "segments")
    elif scores.pixels is not None:
        draw_semantic_classes(scores.pixels, scores.pixel_classes.table, folder / CLASSES)
    if scores.pixels is not None and len(scores.pixel_classes.table.classes) <= _MOST_CLASSES:
        draw_confusion(scores.pixels, scores.pixel_classes.table, folder / CONFUSION)


def row_shares(matrix_KK: np.ndarray) -> np.ndarray:
    """Divide the rows of a confusion matrix by their sums; NaN in a row without pixels.

    A row says where the pixels of a true class went.

    >>> row_shares(np.array([[6, 2], [0, 0]])).tolist()
    [[0.75, 0.25], [nan, nan]]
    """
    total_K1 = matrix_KK.sum(axis=1, keepdims=True)
    share_KK = np.full(matrix_KK.shape, np.nan)
    np.divide(matrix_KK, total_K1, out=share_KK, where=total_K1 > 0)
    return share_KK


def draw_confusion(scores: ConfusionScores, table: ClassTable, path: Path) -> None:
    """Draw the confusion matrix.

    A row is a true class; its cells are the shares of its pixels by predicted class, in percent.
    """
    rows = [entry for entry in table.classes if entry.kind != "void"]
    columns = [
        entry
        for entry in table.classes
        if entry.kind != "void" or scores.matrix_KK[:, entry.id].any()
    ]
    shares = row_shares(scores.matrix_KK)[
        np.ix_([entry.id for entry in rows], [entry.id for entry in columns])
    ]
    figure = new_figure(3.6 + 0.43 * len(columns), 2.6 + 0.36 * len(rows))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= _FAINTEST:
            colour = "white" if share > 0.55 else "black"
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color=colour,
            )
    axes.set_xticks(
        range(len(columns)),
        [entry.name for entry in columns],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(
        range(len(rows)), [f"{entry.name}  ({_short(scores.pixels_K[entry.id])})" for entry in rows]
    )
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (its pixels)")
    axes.set_title(
        f"Where the pixels of each class went, percent: OA {100 * scores.accuracy:.1f}, mIoU"
        f" {100 * scores.mean_iou:.1f}",
        fontsize=11,
    )
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, ticks=np.linspace(0, 1, 6))
    bar.ax.set_yticklabels([f"{share} %" for share in range(0, 101, 20)])
    save_figure(figure, path)


def _short(count: int) -> str:
    """A number in few characters.

    >>> _short(950), _short(12_410), _short(3_400_000)
    ('950', '12 k', '3.4 M')
    """
    if count < 1000:
        return str(count)
    return f"{count / 1000:.0f} k" if count < 999_500 else f"{count / 1e6:.1f} M"


def draw_semantic_classes(scores: ConfusionScores, table: ClassTable, path: Path) -> None:
    """IoU, precision and recall of each class that occurs, the best first."""
    columns = {"IoU": scores.iou_K, "precision": scores.precision_K, "recall": scores.recall_K}
    _draw_classes(table, columns, scores.mean_iou, "pixels", scores.pixels_K, path)


def draw_panoptic_classes(
    quality: PanopticQuality, table: ClassTable, path: Path, counted: str = "parcels"
) -> None:
    """PQ, SQ and RQ of each class that occurs, the best first."""
    of_name = {entry.name: entry for entry in table.classes}
    columns = {name: np.full(table.count, np.nan) for name in ("PQ", "SQ", "RQ")}
    true_K = np.zeros(table.count, np.int64)
    for row, name in enumerate(quality.counts.classes.names):
        class_id = of_name[name].id
        for column, values in zip(
            columns.values(), (quality.pq_K, quality.sq_K, quality.rq_K), strict=True
        ):
            column[class_id] = values[row]
        true_K[class_id] = quality.counts.true_positives[row] + quality.counts.false_negatives[row]
    _draw_classes(table, columns, quality.all.pq, counted, true_K, path)


def _draw_classes(
    table: ClassTable,
    columns: Mapping[str, np.ndarray],
    mean: float,
    counted: str,
    count_K: np.ndarray,
    path: Path,
) -> None:
    """Draw the scores of each class, and how much truth it has.

    The first of ``columns`` (0..1 by class id) is a bar for each class, the others are marks.
    """
    (title, main_K), *others = columns.items()
    rows = sorted(
        (entry for entry in table.classes if not np.isnan(main_K[entry.id])),
        key=lambda entry: main_K[entry.id],
    )
    names, colours, ids = (
        [getattr(entry, name) for entry in rows] for name in ("name", "colour", "id")
    )
    figure = new_figure(9, 1.9 + 0.27 * len(rows))
    axes = figure.subplots()
    axes.barh(
        names, 100 * main_K[ids], color=colours, edgecolor="#888888", linewidth=0.6, height=0.75
    )
    for (name, values_K), marker, face, edge in zip(
        others, "oD", ("white", "black"), ("black", "white"), strict=True
    ):
        style: dict[str, Any] = {
            "markerfacecolor": face,
            "markeredgecolor": edge,
            "markersize": 5,
            "markeredgewidth": 0.8,
        }
        axes.plot(100 * values_K[ids], range(len(ids)), marker, label=name, clip_on=False, **style)
    axes.axvline(
        100 * mean,
        color="#333333",
        linewidth=1,
        linestyle=(0, (4, 2)),
        label=f"mean {title} {100 * mean:.1f}",
    )
    _write_columns(
        axes,
        {
            title: [f"{100 * main_K[class_id]:.1f}" for class_id in ids],
            counted: map(_short, count_K[ids]),
        },
    )
    axes.set_xlim(0, 100)
    axes.margins(y=0.01)
    axes.set_xlabel(f"bars: {title}, percent")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _write_columns(axes: Axes, columns: Mapping[str, Iterable[str]]) -> None:
    """Numbers to the right of horizontal bars, one per bar, under their heading."""
    where: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "fontsize": 9}
    for place, (heading, texts) in zip((1.08, 1.19), columns.items(), strict=True):
        row = -1
        for row, text in enumerate(texts):
            axes.text(place, row, text, va="center", **where)
        axes.text(place, row + 0.8, heading, va="bottom", weight="bold", **where)


_DRAW: dict[type, Callable[[Any, ClassTable, Path], None]] = {
    SemanticScores: _draw_semantic_scores,
    PanopticScores: _draw_panoptic_scores,
    PhotographScores: _draw_photograph_scores,
}
