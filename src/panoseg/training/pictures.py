"""Pictures of a training: its curves, and image, truth and prediction of a patch side by side.

Shape suffixes: T dates, C bands, H W pixels, 3 red, green, blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
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
from panoseg.training.log import read_log
from panoseg.training.splits import Split
from panoseg.training.tasks import Task, true_panoptics

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from matplotlib.figure import Figure

_TRUE_COLOUR = [PASTIS_BANDS.index(band) for band in ("B04", "B03", "B02")]
_BLUE = PASTIS_BANDS.index("B02")
_TRAIN, _VALIDATION = "#4269d0", "#ff725c"
_ZOOM = 4  # so that borders, one pixel of the drawing wide, leave small parcels visible


@dataclass(frozen=True, eq=False)
class Comparison:
    """A patch as it is drawn: its name, the true colour of its clearest date, that day, truth and prediction."""

    name: str
    colours_HW3: np.ndarray
    day: int
    truth: Panoptic
    prediction: Panoptic


def clearest(images_TCHW: np.ndarray) -> int:
    """Position of the date with the least bright blue, which haze, clouds and snow raise; dates without data do not count."""
    brightness_T = np.array([np.percentile(image[_BLUE], 80) for image in images_TCHW])
    has_data_T = np.array([bool(image[_BLUE].any()) for image in images_TCHW])
    return int(np.where(has_data_T, brightness_T, np.inf).argmin())


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
    images_TCHW = sample.images_TCHW.numpy()
    position = clearest(images_TCHW)
    return Comparison(sample.name, true_colour(images_TCHW[position]), int(sample.days_T[position]), truth, prediction)


def draw_comparison(comparison: Comparison, table: ClassTable, reference_date: str, path: Path) -> None:
    """Write image, truth and prediction side by side with a legend of the classes in them."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 4.9), dpi=120, layout="constrained")
    day = date.fromisoformat(reference_date) + timedelta(days=comparison.day)
    panels = (
        (f"patch {comparison.name}, {day.isoformat()}", comparison.colours_HW3),
        (_title("truth", comparison.truth), draw(comparison.truth, table, scale=_ZOOM)),
        (_title("prediction", comparison.prediction), draw(comparison.prediction, table, scale=_ZOOM)),
    )
    for axes, (title, colours_HW3) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(colours_HW3, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    present = sorted({*comparison.truth.segments.class_ids.tolist(), *comparison.prediction.segments.class_ids.tolist()})
    handles = [Patch(facecolor=table[class_id].colour, edgecolor="#888888", label=table[class_id].name) for class_id in present]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=8, frameon=False)
    _save(figure, path)


def draw_predictions(task: Task, split: Split, fabric: Fabric, reference_date: str, folder: Path, count: int = 3) -> None:
    """Write a comparison of some patches of a set, spread over it, as ``folder``/patch-<name>.png."""
    positions = sorted({round(position) for position in np.linspace(0, len(split) - 1, count)})
    for position in positions:
        comparison = compare(task, split, split.dataset[position], fabric)
        draw_comparison(comparison, task.table, reference_date, folder / f"patch-{comparison.name}.png")


def draw_curves(log: Path, path: Path) -> None:
    """Write a run's losses and validation scores over its steps."""
    from matplotlib.figure import Figure

    rows = read_log(log)
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for split, axes, colour_of_first in (("train", losses, _TRAIN), ("validation", scores, _VALIDATION)):
        of_split = [row for row in rows if row["split"] == split]
        names = [
            name for name, value in of_split[0].items() if value and name not in ("epoch", "step", "split", "learning_rate")
        ]
        for place, name in enumerate(names):
            # Epochs that learn centres alone have no other losses.
            points = [
                (int(row["step"]), float(row[name]))
                for row in of_split
                if row[name] and (split == "validation" or float(row[name]))
            ]
            style = {"color": colour_of_first, "linewidth": 2} if place == 0 else {"linewidth": 1}
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None, markersize=3, **style)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_title("training losses")
    losses.set_yscale("log")
    scores.set_title("validation, percent")
    _save(figure, path)


def _title(kind: str, picture: Panoptic) -> str:
    parcels = int(picture.segments.is_thing.sum())
    return f"{kind}: {parcels} parcel{'' if parcels == 1 else 's'}"


def _save(figure: Figure, path: Path) -> None:
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise OutputError(f"{path} as a picture", f"a name that ends with one of .{', .'.join(kinds)}", "name it figure.png")
    with atomic(path) as temporary:
        figure.savefig(temporary)
