"""Pictures of a training: its curves, and image, truth and prediction of a patch side by side.

Shape suffixes: T dates, C bands, H W pixels, X all pixels in a row, 3 red, green, blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.samples import Sample, collate
from panoseg.errors import OutputError
from panoseg.files import atomic, check_writable
from panoseg.imagery.bands import PASTIS_BANDS
from panoseg.panoptic.draw import boundary_colour, draw, overlay
from panoseg.panoptic.panoptic import Panoptic
from panoseg.training.log import LEADING, read_log
from panoseg.training.splits import ScoredPhotograph, Split, collate_scored
from panoseg.training.task import Task
from panoseg.training.tasks import true_panoptics

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRUE_COLOUR = [PASTIS_BANDS.index(band) for band in ("B04", "B03", "B02")]
_BLUE = PASTIS_BANDS.index("B02")
_MIDSUMMER = (6, 15)
ZOOM = 4
"""Drawn pixels a pixel, so that borders, one drawn pixel wide, leave small parcels visible."""
OPACITY = 0.75
"""Of parcels over the land: colours stay those of the legend."""
_LONGEST_PHOTOGRAPH = 1000
"""Pixels of the longer side of a drawn photograph, about."""
_TITLES = ("truth", "prediction")
BLUE, GREY = "#0072b2", "#b8b8b8"
"""What counts, and what does not."""

# Told apart by the colour-blind too: Okabe and Ito, Color Universal Design, 2008.
_COLOURS = ("#000000", BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


@dataclass(frozen=True, eq=False)
class Comparison:
    """A patch as it is drawn: its images, its truth, and what a network says of it."""

    sample: Sample
    truth: Panoptic
    prediction: Panoptic


def clear_near_midsummer(images_TCHW: np.ndarray, days_T: np.ndarray, reference_date: str) -> int:
    """Position of the date for a picture: of the clear ones, the one nearest to mid June.

    Haze, clouds and snow raise blue: a date is clear where its bright pixels are at most twice as
    blue as those of the clearest date. Dates with gaps count only where there are no others.
    days_T: days since ``reference_date``, YYYY-MM-DD; mid June is the first one after it.
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
    """Red, green and blue of an image, stretched between its 2nd and 98th percentile; uint8 H x W x
    3.
    """
    colours_HW3 = image_CHW[_TRUE_COLOUR].transpose(1, 2, 0).astype(np.float32)
    low, high = np.percentile(colours_HW3, [2, 98])
    return (255 * ((colours_HW3 - low) / max(high - low, 1)).clip(0, 1)).round().astype(np.uint8)


@torch.no_grad()
def compare(task: Task, split: Split, sample: Sample, fabric: Fabric) -> Comparison:
    """A sample beside what the task says of it."""
    task.eval()
    batch = split.prepare(collate([sample]), fabric)
    with fabric.autocast():
        [prediction] = task.predict(batch)
    [truth] = true_panoptics(batch, task.table)
    return Comparison(sample, truth, prediction)


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
    """Share of the pixels whose class is right, 0..1, void left out; 1 where there is nothing else.

    >>> truth = Panoptic.from_maps(np.array([[1, 2, 2, 9]]), {1: 3, 2: 4, 9: 19}, PASTIS)
    >>> right_share(truth, Panoptic.from_maps(np.array([[1, 1, 2, 2]]), {1: 3, 2: 4}, PASTIS), PASTIS)
    0.6666666666666666
    """
    background = table.background or 0
    true_HW, predicted_HW = truth.classes_HW(background), prediction.classes_HW(background)
    scored_HW = ~np.isin(true_HW, table.ids("void"))
    return float((true_HW == predicted_HW)[scored_HW].mean()) if scored_HW.any() else 1.0


def draw_predictions(
    task: Task, split: Split, fabric: Fabric, reference_date: str, folder: Path, count: int = 3
) -> None:
    """Write a comparison of some samples of a set, spread over it, as ``folder``/patch-<name>.png
    or photograph-<name>.png.
    """
    positions = sorted({round(position) for position in np.linspace(0, len(split) - 1, count)})
    for position in positions:
        sample = split.dataset[position]
        if isinstance(sample, ScoredPhotograph):
            name = sample.photograph.name.replace("/", "-")
            draw_photograph(task, split, sample, fabric, folder / f"photograph-{name}.png")
            continue
        comparison = compare(task, split, sample, fabric)
        draw_comparison(
            comparison, task.table, reference_date, folder / f"patch-{comparison.sample.name}.png"
        )


@torch.no_grad()
def draw_photograph(
    task: Task, split: Split, sample: ScoredPhotograph, fabric: Fabric, path: Path
) -> None:
    """Write a photograph, its truth and its prediction side by side, with the names of the segments
    on them.
    """
    task.eval()
    with fabric.autocast():
        [prediction] = task.predict(split.prepare(collate_scored([sample]), fabric))
    drawn = [sample.truth, prediction]
    image_HW3 = _of_size(sample.photograph.image_CHW, sample.photograph.size_HW)
    step = -(-max(sample.photograph.size_HW) // _LONGEST_PHOTOGRAPH)
    image_HW3 = np.ascontiguousarray(image_HW3[::step, ::step])
    panels = [overlay(image_HW3, picture.subsample(step), task.table) for picture in drawn]
    height, width = panels[0].shape[:2]
    figure = new_figure(3 * width / 100, height / 100 + 0.5)
    titles = (
        sample.photograph.name,
        *(f"{title}: {_things(picture)}" for title, picture in zip(_TITLES, drawn, strict=True)),
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


def draw_curves(log: Path, path: Path) -> None:
    """Write a run's losses and validation scores over its steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = read_log(log)
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
        [name for name, value in rows[0].items() if value and name not in LEADING] if rows else []
    )
    for name, colour in zip(names, cycle(_COLOURS), strict=False):
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


def _parcels(picture: Panoptic) -> str:
    parcels = int(picture.segments.is_thing.sum())
    return f"{parcels} parcel{'' if parcels == 1 else 's'}"


def land_of(sample: Sample, reference_date: str) -> tuple[np.ndarray, date]:
    """A patch in true colour, uint8 H x W x 3, on a clear date near mid June, and that date.
    reference_date: YYYY-MM-DD.
    """
    images_TCHW, days_T = sample.images_TCHW.numpy(), sample.days_T.numpy()
    position = clear_near_midsummer(images_TCHW, days_T, reference_date)
    return true_colour(images_TCHW[position]), date.fromisoformat(reference_date) + timedelta(
        days=int(days_T[position])
    )


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
    """An empty figure of so many inches, whose parts make room for one another."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=100, layout=ConstrainedLayoutEngine(h_pad=0.1))


def class_legend(figure: Figure, table: ClassTable, class_ids: Iterable[int], columns: int) -> None:
    """A legend of some classes below a figure, and of the line between them where the table names
    it; nothing for none.
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
    """Raise ``OutputError`` for a name that says no format of pictures, or a place that cannot be
    written to.

    For a command that predicts before it draws.
    """
    check_picture_name(path)
    check_writable(path)


def check_picture_name(path: Path) -> None:
    """Raise ``OutputError`` for a name that says no format of pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise OutputError(
            f"{path} as a picture",
            f"a name that ends with one of .{', .'.join(kinds)}",
            "name it figure.png",
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format that the name says. Raises ``OutputError``."""
    check_picture_name(path)
    with atomic(path) as temporary:
        figure.savefig(temporary)
