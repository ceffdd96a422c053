"""A figure of the attention of a network over the dates of a season.

Shape suffixes: G heads, T dates, D days, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.data.profiles import Profiles, parcel_profiles
from panoseg.data.samples import Sample
from panoseg.pictures.comparison import land_of
from panoseg.pictures.figures import BLUE, GREY, month_axis, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN_DAYS = 6
_SHORTEST_AXIS = 120  # days, so that an axis has names of months even for a single date
_WIDEST_DATE = 4.0  # days that a date covers in the figure; less where the next one is nearer


@dataclass(frozen=True, eq=False)
class Place:
    """Pixels of a patch whose attention is drawn."""

    inside_HW: np.ndarray
    """True at its pixels; bool, H x W."""
    words: str
    """Its name for the reader."""


def add_up_days(days_T: np.ndarray, attention_GT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the days without repeats, ascending, and the attention to each of them, G x D.

    The attention to images of one day is added up.

    >>> days, attention = add_up_days(np.array([3, 8, 8]), np.array([[0.5, 0.2, 0.3]]))
    >>> days.tolist(), attention.tolist()
    ([3, 8], [[0.5, 0.5]])
    """
    day_D, day_of_T = np.unique(days_T, return_inverse=True)
    return day_D, attention_GT @ (day_of_T[:, None] == np.arange(len(day_D)))


def draw_attention(
    sample: Sample,
    place: Place,
    attention_GT: np.ndarray,
    prediction: str,
    reference_date: str,
    path: Path,
) -> None:
    """Draw the place, its NDVI over the season, and the attention to each date.

    The attention is drawn as its mean and for each head.

    Args:
        sample: The patch, images as on disk.
        place: The pixels, and their name.
        attention_GT: Attention of each head to each date, from ``attention_in``.
        prediction: The prediction of the network for the place, in words.
        reference_date: Day 0 of the sample, YYYY-MM-DD.
        path: File to write.
    """
    figure = new_figure(12, 6.4)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 2.3))).tolist()
    land_HW3, day = land_of(sample, reference_date)
    land = left.subplots()
    land.imshow(land_HW3, interpolation="nearest")
    land.set_title(f"patch {sample.name} on {day}", fontsize=11)
    land.set_axis_off()
    _outline(land, place.inside_HW)
    words = "\n".join(line for line in (place.words, prediction) if line)
    land.text(0, -0.03, words, transform=land.transAxes, va="top", fontsize=10)
    curve, mean, heads = right.subplots(3, 1, sharex=True, height_ratios=(2, 1.5, 2))
    profile = parcel_profiles(
        sample.images_TCHW.numpy(), sample.days_T.numpy(), place.inside_HW.astype(np.int32)
    )
    start = np.datetime64(date.fromisoformat(reference_date))
    _draw_curve(curve, profile, start)
    day_D, attention_GD = add_up_days(profile.days_T, attention_GT)
    cloudy_D = np.isin(day_D, profile.days_T[profile.cloudy_TP[:, 0]])
    _draw_mean(mean, day_D, attention_GD.mean(axis=0), cloudy_D, start)
    _draw_heads(heads, day_D, attention_GD, start)
    margin = max(_MARGIN_DAYS, int(_SHORTEST_AXIS - (day_D[-1] - day_D[0])) // 2)
    heads.set_xlim(start + day_D[0] - margin, start + day_D[-1] + margin)
    for axes in (curve, mean, heads):
        month_axis(axes)
    save_figure(figure, path)


def _outline(axes: Axes, inside_HW: np.ndarray) -> None:
    """The border of some pixels, between pixels; none where it is the picture's own."""
    padded_HW = np.pad(inside_HW, 1).repeat(8, axis=0).repeat(8, axis=1)
    rows, columns = ((np.arange(length) + 0.5) / 8 - 1.5 for length in padded_HW.shape)
    for colour, width in (("white", 3.5), ("black", 1.5)):
        axes.contour(columns, rows, padded_HW, levels=[0.5], colors=colour, linewidths=width)
    axes.set_xlim(-0.5, inside_HW.shape[1] - 0.5)
    axes.set_ylim(inside_HW.shape[0] - 0.5, -0.5)


def _draw_curve(axes: Axes, profile: Profiles, start: np.datetime64) -> None:
    day_T, ndvi_T, cloudy_T = start + profile.days_T, profile.ndvi_TP[:, 0], profile.cloudy_TP[:, 0]
    axes.plot(
        day_T[~cloudy_T],
        ndvi_T[~cloudy_T],
        "o-",
        color="#333333",
        linewidth=1,
        markersize=4,
        label="clear",
    )
    axes.plot(
        day_T[cloudy_T],
        ndvi_T[cloudy_T],
        "o",
        color=GREY,
        markerfacecolor="white",
        markersize=4,
        label="in cloud",
    )
    axes.set_ylim(min(0, np.nanmin(ndvi_T, initial=0) - 0.05), 1)
    axes.set_ylabel("NDVI")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.97))


def _draw_mean(
    axes: Axes,
    day_D: np.ndarray,
    attention_D: np.ndarray,
    cloudy_D: np.ndarray,
    start: np.datetime64,
) -> None:
    from matplotlib.patches import Patch

    left_D, width_D = _widths(day_D)
    left_D = start.astype("datetime64[h]") + (24 * left_D).astype(int)
    axes.bar(left_D, 100 * attention_D, width_D, align="edge", color=np.where(cloudy_D, GREY, BLUE))
    label = "if all dates had the same weight"
    alike = axes.axhline(
        100 / len(day_D), color="#333333", linewidth=1, linestyle=(0, (4, 2)), label=label
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("attention, percent\nmean of the heads")
    handles = [alike, Patch(color=BLUE, label="clear"), Patch(color=GREY, label="in cloud")]
    axes.legend(
        handles=handles,
        frameon=False,
        fontsize=9,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 0.97),
    )


def _draw_heads(
    axes: Axes, day_D: np.ndarray, attention_GD: np.ndarray, start: np.datetime64
) -> None:
    left_D, width_D = _widths(day_D)
    edges = np.stack([left_D, left_D + width_D], axis=1).ravel()
    heads = len(attention_GD)
    cells = np.full(
        (heads, len(edges) - 1), np.nan
    )  # every second cell lies between two dates and stays empty
    cells[:, ::2] = 100 * attention_GD
    edges = start.astype("datetime64[h]") + (24 * edges).round().astype(int)
    mesh = axes.pcolormesh(edges, np.arange(heads + 1) + 0.5, cells, cmap="Blues", vmin=0)
    axes.set_ylabel("attention head")
    axes.set_yticks(np.unique(np.linspace(1, heads, min(heads, 4)).round()))
    axes.invert_yaxis()
    axes.figure.colorbar(
        mesh, ax=axes, location="bottom", aspect=50, pad=0.02, label="attention of a head, percent"
    )


def _widths(day_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mark of each day starts, and how wide it is, so that no two overlap."""
    gap_D = np.diff(day_D, prepend=-np.inf, append=np.inf)
    width_D = np.minimum(np.minimum(gap_D[:-1], gap_D[1:]), _WIDEST_DATE)
    return day_D - width_D / 2, width_D
