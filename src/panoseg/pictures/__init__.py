"""Figures, drawn from plain arrays, segmentations and scores; all uses of matplotlib.

What all figures share is in this file: colours, legends, axes of dates, files, and drawing a
segmentation.

Shape suffixes: H W pixels, C bands, 3 red, green, blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable
from panoseg.errors import OutputError, PanopticFormatError
from panoseg.files import atomic, check_writable
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ZOOM = 4
"""Drawn pixels a pixel, so that borders, one drawn pixel wide, leave small parcels visible."""
OPACITY = 0.75
"""Of parcels over the land: colours stay those of the legend."""
BLUE, GREY = "#0072b2", "#b8b8b8"
"""What counts, and what does not."""
COLOURS = ("#000000", BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Told apart by the colour-blind too: Okabe and Ito, Color Universal Design, 2008."""


def paled(land_HW3: np.ndarray) -> np.ndarray:
    """An image half way to white, for drawing over it; uint8."""
    return 255 - (255 - land_HW3) // 2


def darker(colour: str) -> str:
    """A colour, "#rrggbb", dark enough for a line on white: its luminance is at most a third.

    >>> darker("#ffffff"), darker("#1f1f1f")
    ('#555555', '#1f1f1f')
    """
    rgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    shrunk = (
        (rgb * min(1, 255 / 3 / max(float(rgb @ (0.299, 0.587, 0.114)), 1))).round().astype(int)
    )
    return "#" + "".join(f"{value:02x}" for value in shrunk)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, whose parts make room for one another."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=100, layout=ConstrainedLayoutEngine(h_pad=0.1))


def class_legend(figure: Figure, table: ClassTable, class_ids: Iterable[int], columns: int) -> None:
    """Draw a legend of some classes below a figure; nothing for none.

    The line between segments is part of it where the table names it.
    """
    from matplotlib.patches import Patch

    present = [table[class_id] for class_id in sorted(set(class_ids))]
    if present and table.boundary is not None:
        present.append(table.boundary)
    handles = [
        Patch(facecolor=entry.colour, edgecolor="#888888", label=entry.name) for entry in present
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), columns),
            fontsize=10,
            frameon=False,
        )


def month_axis(axes: Axes) -> None:
    """Name months on an axis of dates, and draw a pale grid."""
    from matplotlib.dates import ConciseDateFormatter, MonthLocator

    locator = MonthLocator(bymonth=range(1, 13, 2))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_minor_locator(MonthLocator())
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def check_picture(path: Path) -> None:
    """Check the name and the place of a figure, for commands that predict before they draw.

    Raises:
        OutputError: The name has no known format, or the place cannot be written to.
    """
    check_picture_name(path)
    check_writable(path)


def check_picture_name(path: Path) -> None:
    """Raise ``OutputError`` for a name without an image format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise OutputError(
            f"{path} is not a name of a picture: end it with one of .{', .'.join(kinds)}, e.g."
            " figure.png."
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the name's ending.

    Raises:
        OutputError: The file cannot be written.
    """
    check_picture_name(path)
    with atomic(path) as temporary:
        figure.savefig(temporary)


_RED_GREEN_BLUE = (2, 1, 0)
"""B04, B03 and B02 in PASTIS's order of bands."""
_STRETCH = (2, 98)
"""Percentiles of reflectance that are drawn black and white."""
_SMALLEST_SIDE = 512
"""Small segmentations are enlarged to at least this many drawn pixels, so that borders are thin."""


def plot_segmentation(
    result: Panoptic, table: ClassTable, image: np.ndarray | None, axes: Axes | None, alpha: float
) -> Axes:
    """Draw a segmentation on matplotlib axes, for the user to show or save; see ``Panoptic.plot``.

    Without axes pyplot makes a new figure, which a notebook shows and a script can close.
    """
    from matplotlib.patches import Patch

    height, width = result.segment_HW.shape
    background_HW3 = None if image is None else _displayed(np.asarray(image), height, width)
    scale = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    drawn = draw(result, table, background_HW3, alpha, scale=scale)
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(8, 6), layout="compressed")
    axes.imshow(drawn, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    axes.set_axis_off()
    present = np.unique(result.segments.class_ids).tolist()
    if present:
        axes.legend(
            handles=[
                Patch(facecolor=table[each].colour, edgecolor="grey", label=table[each].name)
                for each in present
            ],
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            fontsize="small",
        )
    return axes


def _displayed(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn a photograph or Sentinel-2 reflectance into uint8, H x W x 3."""
    if image.dtype == np.uint8 and image.shape == (height, width, 3):
        return image
    if image.ndim != 3 or image.shape[0] < 4 or image.shape[1:] != (height, width):
        raise PanopticFormatError(
            f"The image has shape {image.shape} and type {image.dtype}; pass uint8 of "
            f"{height} x {width} x 3, or reflectance of C x {height} x {width} with the bands B02, "
            "B03, B04 first and at least four in all."
        )
    colours_HW3 = np.moveaxis(image[list(_RED_GREEN_BLUE)], 0, -1).astype(np.float32)
    valid_HW3 = np.isfinite(colours_HW3)
    if not valid_HW3.any():
        return np.zeros((height, width, 3), np.uint8)
    # One stretch for all three bands: separate ones would change the colours.
    low, high = np.percentile(colours_HW3[valid_HW3], _STRETCH)
    stretched_HW3 = (np.where(valid_HW3, colours_HW3, low) - low) / max(high - low, 1e-6)
    return np.asarray((255 * stretched_HW3.clip(0, 1)).round().astype(np.uint8))


_POSITION = ("epoch", "step", "split", "learning_rate")
"""Columns of the log that are not curves."""


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
    # Epochs that learn only centres have no other losses; a loss of 0 is not drawn.
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
        if not points:  # a loss that is 0 throughout
            continue
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
    if axes.lines:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
            ncols=min(len(axes.lines), 4),
            frameon=False,
            fontsize=10,
        )
    axes.spines[["top", "right"]].set_visible(False)
