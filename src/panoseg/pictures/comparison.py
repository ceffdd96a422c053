"""Figures of predictions: next to input and truth, and by the attention over the dates of a season.

Shape suffixes: T dates, C bands, H W pixels, X all pixels in a row, 3 red, green, blue, G heads, D
days.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.arrays import Profiles, parcel_profiles
from panoseg.data.samples import Sample
from panoseg.data.scored_photographs import ScoredPhotograph
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import boundary_colour, draw, overlay
from panoseg.pictures import (
    BLUE,
    GREY,
    OPACITY,
    ZOOM,
    class_legend,
    month_axis,
    new_figure,
    paled,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_TRUE_COLOUR = [PASTIS_BANDS.index(band) for band in ("B04", "B03", "B02")]
_BLUE = PASTIS_BANDS.index("B02")
_MIDSUMMER = (6, 15)
_LONGEST_PHOTOGRAPH = 1000
"""Pixels of the longer side of a drawn photograph, about."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A sample with its truth and a prediction."""

    sample: Any
    """A ``Sample`` of a season, or a ``ScoredPhotograph``."""
    truth: Panoptic
    """The truth."""
    prediction: Panoptic
    """What a network predicts."""


def clear_near_midsummer(images_TCHW: np.ndarray, days_T: np.ndarray, reference_date: str) -> int:
    """Return the position of a clear date: of all clear ones, the one nearest to mid June.

    Haze, clouds and snow raise blue: a date is clear where its bright pixels are at most twice as
    blue as those of the clearest date. Dates with gaps count only where there are no others.

    Args:
        images_TCHW: Images of the season.
        days_T: Days since ``reference_date``.
        reference_date: YYYY-MM-DD; mid June is the first one after it.
    """
    blue_TX = images_TCHW[:, _BLUE].reshape(len(images_TCHW), -1)
    gaps_T = (blue_TX == 0).mean(axis=1) > 0.1
    brightness_T = np.percentile(blue_TX, 90, axis=1)
    if not gaps_T.all():
        brightness_T[gaps_T] = np.inf
    clear = np.flatnonzero(brightness_T <= 2 * max(brightness_T.min(), 1))
    start = date.fromisoformat(reference_date)
    june = date(start.year + ((start.month, start.day) > _MIDSUMMER), *_MIDSUMMER)
    return int(clear[np.abs(days_T[clear] - (june - start).days).argmin()])


def true_colour(image_CHW: np.ndarray) -> np.ndarray:
    """Return red, green and blue of an image, uint8, H x W x 3.

    Values are stretched between the 2nd and the 98th percentile.
    """
    visible = _TRUE_COLOUR if len(image_CHW) > max(_TRUE_COLOUR) else [0, 0, 0]
    colours_HW3 = image_CHW[visible].transpose(1, 2, 0).astype(np.float32)
    low, high = np.percentile(colours_HW3, [2, 98])
    stretched_HW3: np.ndarray = (colours_HW3 - low) / max(high - low, 1)
    return (255 * stretched_HW3.clip(0, 1)).round().astype(np.uint8)


def land_of(sample: Sample, reference_date: str) -> tuple[np.ndarray, date]:
    """Return a patch in true colour on a clear date near mid June, and that date.

    Args:
        sample: The patch.
        reference_date: Day 0 of the sample, YYYY-MM-DD.

    Returns:
        Image, uint8, H x W x 3, and the date.
    """
    images_TCHW, days_T = sample.images_TCHW.numpy(), sample.days_T.numpy()
    position = clear_near_midsummer(images_TCHW, days_T, reference_date)
    return true_colour(images_TCHW[position]), date.fromisoformat(reference_date) + timedelta(
        days=int(days_T[position])
    )


def draw_comparison(
    comparison: Comparison, table: ClassTable, reference_date: str, path: Path
) -> None:
    """Write image, truth and prediction side by side, with a legend of the classes in them.

    Parcels are drawn over the paled image with their borders; without parcels (semantic), pixels
    have their class' colour, and classes a line between them where the table has a colour for it.
    """
    figure = new_figure(12, 5.3)
    land_HW3, day = land_of(comparison.sample, reference_date)
    truth, prediction = comparison.truth, comparison.prediction
    if comparison.sample.instances_HW is None:
        titles = (
            "truth",
            f"prediction: {100 * right_share(truth, prediction, table):.0f} % of the pixels right",
        )
        line = boundary_colour(table)
        drawn = [
            draw(picture, table, line=line, scale=ZOOM if line else 1)
            for picture in (truth, prediction)
        ]
    else:
        titles = f"truth: {_parcels(truth)}", f"prediction: {_parcels(prediction)}"
        drawn = [
            draw(picture, table, paled(land_HW3), OPACITY, scale=ZOOM)
            for picture in (truth, prediction)
        ]
    panels = zip(
        (f"patch {comparison.sample.name} on {day}", *titles), (land_HW3, *drawn), strict=True
    )
    for axes, (title, colours_HW3) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(colours_HW3, interpolation="nearest")
        axes.set_title(title, fontsize=12)
        axes.set_axis_off()
    class_legend(
        figure,
        table,
        {*truth.segments.class_ids.tolist(), *prediction.segments.class_ids.tolist()},
        columns=5,
    )
    save_figure(figure, path)


def right_share(truth: Panoptic, prediction: Panoptic, table: ClassTable) -> float:
    """Share of the pixels whose class is right, 0..1, void left out; 1 where all is void.

    >>> truth = Panoptic.from_maps(np.array([[1, 2, 2, 9]]), {1: 3, 2: 4, 9: 19}, PASTIS)
    >>> prediction = Panoptic.from_maps(np.array([[1, 1, 2, 2]]), {1: 3, 2: 4}, PASTIS)
    >>> right_share(truth, prediction, PASTIS)
    0.6666666666666666
    """
    background = table.background or 0
    true_HW, predicted_HW = truth.classes_HW(background), prediction.classes_HW(background)
    scored_HW = ~np.isin(true_HW, table.ids("void"))
    return float((true_HW == predicted_HW)[scored_HW].mean()) if scored_HW.any() else 1.0


def _parcels(picture: Panoptic) -> str:
    parcels = int(picture.segments.is_thing.sum())
    return f"{parcels} parcel{'' if parcels == 1 else 's'}"


def draw_photograph(
    comparison: Comparison, table: ClassTable, reference_date: str, path: Path
) -> None:
    """Draw a photograph, its truth and its prediction side by side.

    The names of the segments are written on them.
    """
    sample: ScoredPhotograph = comparison.sample
    drawn = [comparison.truth, comparison.prediction]
    image_HW3 = _of_size(sample.photograph.image_CHW, sample.photograph.size_HW)
    step = -(-max(sample.photograph.size_HW) // _LONGEST_PHOTOGRAPH)
    image_HW3 = np.ascontiguousarray(image_HW3[::step, ::step])
    panels = [overlay(image_HW3, picture.subsample(step), table) for picture in drawn]
    height, width = panels[0].shape[:2]
    figure = new_figure(3 * width / 100, height / 100 + 0.5)
    titles = (
        sample.photograph.name,
        f"truth: {_things(comparison.truth)}",
        f"prediction: {_things(comparison.prediction)}",
    )
    for axes, title, panel in zip(figure.subplots(1, 3), titles, (image_HW3, *panels), strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set_title(title, fontsize=12)
        axes.set_axis_off()
    save_figure(figure, path)


def _of_size(image_CHW: Tensor, size_HW: tuple[int, int]) -> np.ndarray:
    """An image of another size: uint8, H x W x 3."""
    from PIL import Image

    return np.asarray(
        Image.fromarray(image_CHW.permute(1, 2, 0).cpu().numpy()).resize(size_HW[::-1])
    )


def _things(picture: Panoptic) -> str:
    things = int(picture.segments.is_thing.sum())
    return f"{things} thing{'' if things == 1 else 's'}"


DRAW: dict[str, Callable[[Comparison, ClassTable, str, Path], None]] = {
    "season": draw_comparison,
    "photograph": draw_photograph,
}
"""How a comparison is drawn, by what the network reads."""


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
