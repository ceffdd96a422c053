"""Input, truth and prediction side by side: of a patch of a season, or of a photograph.

Shape suffixes: T dates, C bands, H W pixels, X all pixels in a row, 3 red, green, blue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.samples import Sample
from panoseg.data.scored_photographs import ScoredPhotograph
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.panoptic.draw import boundary_colour, draw, overlay
from panoseg.panoptic.panoptic import Panoptic
from panoseg.pictures.figures import (
    OPACITY,
    ZOOM,
    class_legend,
    new_figure,
    paled,
    save_figure,
)

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
