"""When in the season a network looked: its attention over the dates at a pixel, in a parcel or in a
patch, and a picture of it.

Shape suffixes: G heads, B batch, T dates, D days, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from panoseg.classes import ClassTable
from panoseg.data.describe import open_labelled, parcels_of
from panoseg.data.profiles import Profiles, parcel_profiles
from panoseg.data.samples import Batch, Sample, collate
from panoseg.errors import ConfigError
from panoseg.models.paps import PaPs
from panoseg.training.config import TrainConfig
from panoseg.training.evaluate import find_weights, normalisation_words, scored_split
from panoseg.training.loop import make_fabric
from panoseg.training.pictures import (
    BLUE,
    GREY,
    check_picture,
    land_of,
    month_axis,
    new_figure,
    save_figure,
)
from panoseg.training.tasks import task_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN_DAYS = 6
_SHORTEST_AXIS = 120  # days, so that an axis has names of months even for a single date
_WIDEST_DATE = 4.0  # days that a date covers in the picture; less where the next one is nearer


def show_attention(
    folder: Path,
    data: Path,
    patch: str,
    out: Path,
    fold: int | None = None,
    pixel: tuple[int, int] | None = None,
    parcel: int | None = None,
) -> None:
    """Draw when in the season the network of a run, or of weights, looked at a patch of any fold,
    or at a place in it.

    Arguments as of ``panoseg.training.evaluate.show``; the place as in ``find_place``.
    """
    check_picture(out)
    labelled = open_labelled(data)
    labels = labelled.samples[labelled.position(patch)]
    assert labels.classes_HW is not None
    parcels_HW = parcels_of(labels, labelled.classes)
    place = find_place(labels.classes_HW.numpy(), parcels_HW, labelled.classes, pixel, parcel)
    found = next(find_weights(folder, data, fold, every_patch=True))
    split = scored_split(found, data, None, TrainConfig(batch_size=1, workers=0))
    fabric = make_fabric(TrainConfig(accelerator="cpu"))
    task = task_of(found.weights.model(), found.weights.card.classes)
    sample = split.dataset[labelled.position(patch)]
    batch = split.prepare(collate([sample]), fabric)
    attention_GT = attention_in(network_attention(task.model, batch)[:, 0], place.inside_HW)
    predicted_HW = task.predict(batch)[0].classes_HW(none=task.table.background or 0)
    words = (
        predicted_class(predicted_HW[place.inside_HW], task.table)
        if pixel is not None or parcel is not None
        else ""
    )
    draw_attention(sample, place, attention_GT, words, found.weights.card.reference_date, out)
    print(f"{out}: patch {patch}, {normalisation_words(found, data)}")


@dataclass(frozen=True, eq=False)
class Place:
    """Pixels of a patch that are looked at: ``inside_HW``, bool, and what they are called."""

    inside_HW: NDArray
    words: str


def find_place(
    classes_HW: NDArray,
    parcels_HW: NDArray,
    table: ClassTable,
    pixel: tuple[int, int] | None,
    parcel: int | None,
) -> Place:
    """A pixel (row and column from 0), a parcel by its number in the patch, or, with neither, the
    whole patch.

    Raises ``ConfigError`` for what lies outside of the patch, or is not there.
    """
    if pixel is not None and parcel is not None:
        raise ConfigError("--pixel and --parcel", "one of them", "leave one out")
    if pixel is not None:
        return _pixel(classes_HW, parcels_HW, table, *pixel)
    if parcel is None:
        return Place(np.ones(classes_HW.shape, bool), "the whole patch")
    inside_HW = parcels_HW == parcel
    numbers = np.unique(parcels_HW[parcels_HW > 0]).tolist()
    if parcel < 1 or not inside_HW.any():
        known = f"one of {', '.join(map(str, numbers))}" if numbers else "a patch with parcels"
        raise ConfigError(
            f"no parcel {parcel} in the patch", known, "or name a pixel: --pixel ROW COLUMN"
        )
    return Place(
        inside_HW,
        f"parcel {parcel}: {table[int(classes_HW[inside_HW][0])].name},"
        f" {inside_HW.sum() / 100:.2f} ha",
    )


def _pixel(
    classes_HW: NDArray, parcels_HW: NDArray, table: ClassTable, row: int, column: int
) -> Place:
    height, width = classes_HW.shape
    if not (0 <= row < height and 0 <= column < width):
        raise ConfigError(
            f"--pixel {row} {column}",
            f"a row from 0 to {height - 1} and a column from 0 to {width - 1}",
            "choose another pixel",
        )
    inside_HW = np.zeros((height, width), bool)
    inside_HW[row, column] = True
    number = parcels_HW[row, column]
    of = f", parcel {number}" if number > 0 else ""
    return Place(
        inside_HW, f"row {row}, column {column}: {table[int(classes_HW[row, column])].name}{of}"
    )


@torch.no_grad()
def network_attention(model: nn.Module, batch: Batch) -> Tensor:
    """The attention of a network, G x B x T x h x w, at the size at which it attends; it sums to 1
    over valid dates.

    batch: standardised images. A panoptic network attends in its backbone. Raises ``ConfigError``
    for one without attention.
    """
    model.eval()
    inputs = batch.images_BTCHW, batch.days_BT, batch.valid_BT
    attention = (
        model.encoder.features(*inputs).attention_GBTHW
        if isinstance(model, PaPs)
        else model(*inputs).attention_GBTHW
    )
    if attention is None:
        title = getattr(model.config, "title", type(model).__name__)
        raise ConfigError(
            f"{title}, which has no attention over dates",
            "a network with attention",
            "leave --attention out",
        )
    return attention


def predicted_class(classes_X: NDArray, table: ClassTable) -> str:
    """The most frequent class of some pixels, in words.

    >>> predicted_class(np.array([1, 3, 3, 3]), PASTIS)
    'predicted: corn (75 % of the pixels)'
    """
    class_ids, counts = np.unique(classes_X, return_counts=True)
    share = (
        f" ({100 * counts.max() / len(classes_X):.0f} % of the pixels)"
        if len(classes_X) > 1
        else ""
    )
    return f"predicted: {table[int(class_ids[counts.argmax()])].name}{share}"


def attention_in(attention_GThw: Tensor, inside_HW: NDArray) -> NDArray:
    """The mean attention of each head over some pixels, float32 G x T, which sums to 1 over dates.

    attention_GThw: of one sample, at any size; resampled bilinearly to that of ``inside_HW``, as
    U-TAE does.
    """
    attention_GTHW = F.interpolate(
        attention_GThw.float(), size=inside_HW.shape, mode="bilinear", align_corners=False
    )
    return (
        attention_GTHW[:, :, torch.from_numpy(inside_HW).to(attention_GTHW.device)]
        .mean(-1)
        .cpu()
        .numpy()
    )


def add_up_days(days_T: NDArray, attention_GT: NDArray) -> tuple[NDArray, NDArray]:
    """Days without repeats, ascending, and the attention to each of them, G x D: images of one day
    add up.

    >>> days, attention = add_up_days(np.array([3, 8, 8]), np.array([[0.5, 0.2, 0.3]]))
    >>> days.tolist(), attention.tolist()
    ([3, 8], [[0.5, 0.5]])
    """
    day_D, day_of_T = np.unique(days_T, return_inverse=True)
    return day_D, attention_GT @ (day_of_T[:, None] == np.arange(len(day_D)))


def draw_attention(
    sample: Sample,
    place: Place,
    attention_GT: NDArray,
    prediction: str,
    reference_date: str,
    path: Path,
) -> None:
    """Write where a place lies, its NDVI over the season, and below it how much each date counted:
    on average and a head.

    sample: images as on disk. attention_GT: of ``attention_in``. prediction: what the network says
    of the place, in words.
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


def _outline(axes: Axes, inside_HW: NDArray) -> None:
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
    axes: Axes, day_D: NDArray, attention_D: NDArray, cloudy_D: NDArray, start: np.datetime64
) -> None:
    from matplotlib.patches import Patch

    left_D, width_D = _widths(day_D)
    left_D = start.astype("datetime64[h]") + (24 * left_D).astype(int)
    axes.bar(left_D, 100 * attention_D, width_D, align="edge", color=np.where(cloudy_D, GREY, BLUE))
    label = "if all dates counted alike"
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


def _draw_heads(axes: Axes, day_D: NDArray, attention_GD: NDArray, start: np.datetime64) -> None:
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


def _widths(day_D: NDArray) -> tuple[NDArray, NDArray]:
    """Where the mark of each day starts, and how wide it is, so that no two overlap."""
    gap_D = np.diff(day_D, prepend=-np.inf, append=np.inf)
    width_D = np.minimum(np.minimum(gap_D[:-1], gap_D[1:]), _WIDEST_DATE)
    return day_D - width_D / 2, width_D
