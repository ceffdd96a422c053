"""The curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from panoseg.pictures.figures import COLOURS, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POSITION = ("epoch", "step", "split", "learning_rate")
"""Columns of the log that are no curves."""


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write the losses and validation scores of a training over its steps.

    Args:
        rows: Rows of its log, cells by column; the column split is "train" or "validation".
        path: File of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    losses, scores = figure.subplots(1, 2, sharex=True)
    # Epochs that learn centres alone have no other losses: a loss of 0 is none.
    _draw_columns(losses, [row for row in rows if row["split"] == "train"], zero_is_none=True)
    _draw_columns(scores, [row for row in rows if row["split"] == "validation"])
    losses.set_title("training losses")
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    losses.yaxis.set_minor_formatter(NullFormatter())
    scores.set_title("validation, percent")
    scores.set_ylim(bottom=0)
    save_figure(figure, path)


def _draw_columns(
    axes: Axes, rows: Sequence[Mapping[str, str]], zero_is_none: bool = False
) -> None:
    """A line a column of the log over the steps."""
    from matplotlib.ticker import MaxNLocator

    names = (
        [name for name, value in rows[0].items() if value and name not in _POSITION] if rows else []
    )
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        points = [
            (int(row["step"]), float(row[name]))
            for row in rows
            if row[name] and (float(row[name]) or not zero_is_none)
        ]
        marker = "o" if len(points) < 20 else None
        label = name.replace("_", " ")
        axes.plot(
            *zip(*points, strict=True),
            label=label,
            color=colour,
            linewidth=1.5,
            marker=marker,
            markersize=3,
        )
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if names:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
            ncols=min(len(names), 4),
            frameon=False,
            fontsize=10,
        )
    axes.spines[["top", "right"]].set_visible(False)
