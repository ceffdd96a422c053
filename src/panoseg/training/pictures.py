"""Pictures of a training: its curves, and image, truth and prediction of a patch side by side.

Shape suffixes: T dates, C bands, H W pixels, X all pixels in a row, 3 red, green, blue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from panoseg.classes import ClassTable
from panoseg.data.bands import PASTIS_BANDS
from panoseg.data.samples import Sample, collate
from panoseg.errors import OutputError
from panoseg.files import atomic
from panoseg.panoptic.draw import draw
from panoseg.panoptic.panoptic import Panoptic
from panoseg.training.log import LEADING, read_log
from panoseg.training.splits import Split
from panoseg.training.tasks import Task, true_panoptics

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRUE_COLOUR = [PASTIS_BANDS.index(band) for band in ("B04", "B03", "B02")]
_BLUE = PASTIS_BANDS.index("B02")
_MIDSUMMER = (6, 15)
_ZOOM = 4  # so that borders, one pixel of the drawing wide, leave small parcels visible
_OPACITY = 0.75  # of parcels over the land: colours stay those of the legend

# Told apart by the colour-blind too: Okabe and Ito, Color Universal Design, 2008.
_COLOURS = ("#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


@dataclass(frozen=True, eq=False)
class Comparison:
    """A patch as it is drawn: its images, its truth, and what a network says of it."""

    sample: Sample
    truth: Panoptic
    prediction: Panoptic


def clear_near_midsummer(images_TCHW: np.ndarray, days_T: np.ndarray, reference_date: str) -> int:
    """Position of the date for a picture: of the clear ones, the one nearest to mid June.

    Haze, clouds and snow raise blue: a date is clear where its bright pixels are at most twice as blue as those of the clearest
    date. Dates with gaps count only where there are no others.
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
    """Red, green and blue of an image, stretched between its 2nd and 98th percentile; uint8 H x W x 3."""
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


def draw_comparison(comparison: Comparison, table: ClassTable, reference_date: str, path: Path) -> None:
    """Write image, truth and prediction side by side, the latter over the paled image, with a legend of the classes in them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 5.3), dpi=100, layout=ConstrainedLayoutEngine(h_pad=0.1))
    sample = comparison.sample
    images_TCHW, days_T = sample.images_TCHW.numpy(), sample.days_T.numpy()
    position = clear_near_midsummer(images_TCHW, days_T, reference_date)
    day = date.fromisoformat(reference_date) + timedelta(days=int(days_T[position]))
    land_HW3 = true_colour(images_TCHW[position])
    paled_HW3 = 255 - (255 - land_HW3) // 2
    panels = (
        (f"patch {sample.name} on {day.isoformat()}", land_HW3),
        (_title("truth", comparison.truth), draw(comparison.truth, table, paled_HW3, _OPACITY, scale=_ZOOM)),
        (_title("prediction", comparison.prediction), draw(comparison.prediction, table, paled_HW3, _OPACITY, scale=_ZOOM)),
    )
    for axes, (title, colours_HW3) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(colours_HW3, interpolation="nearest")
        axes.set_title(title, fontsize=12)
        axes.set_axis_off()
    present = sorted({*comparison.truth.segments.class_ids.tolist(), *comparison.prediction.segments.class_ids.tolist()})
    handles = [Patch(facecolor=table[class_id].colour, edgecolor="#888888", label=table[class_id].name) for class_id in present]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=10, frameon=False)
    _save(figure, path)


def draw_predictions(task: Task, split: Split, fabric: Fabric, reference_date: str, folder: Path, count: int = 3) -> None:
    """Write a comparison of some patches of a set, spread over it, as ``folder``/patch-<name>.png."""
    positions = sorted({round(position) for position in np.linspace(0, len(split) - 1, count)})
    for position in positions:
        comparison = compare(task, split, split.dataset[position], fabric)
        draw_comparison(comparison, task.table, reference_date, folder / f"patch-{comparison.sample.name}.png")


def draw_curves(log: Path, path: Path) -> None:
    """Write a run's losses and validation scores over its steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = read_log(log)
    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    losses, scores = figure.subplots(1, 2)
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
    _save(figure, path)


def _draw_columns(axes: Axes, rows: Sequence[Mapping[str, str]], zero_is_none: bool = False) -> None:
    """A line a column of the log over the steps."""
    from matplotlib.ticker import MaxNLocator

    names = [name for name, value in rows[0].items() if value and name not in LEADING] if rows else []
    for name, colour in zip(names, cycle(_COLOURS), strict=False):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name] and (float(row[name]) or not zero_is_none)]
        marker = "o" if len(points) < 20 else None
        label = name.replace("_", " ")
        axes.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=1.5, marker=marker, markersize=3)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if names:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(len(names), 5), frameon=False, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _title(kind: str, picture: Panoptic) -> str:
    parcels = int(picture.segments.is_thing.sum())
    return f"{kind}: {parcels} parcel{'' if parcels == 1 else 's'}"


def _save(figure: Figure, path: Path) -> None:
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise OutputError(f"{path} as a picture", f"a name that ends with one of .{', .'.join(kinds)}", "name it figure.png")
    with atomic(path) as temporary:
        figure.savefig(temporary)
