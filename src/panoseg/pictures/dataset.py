"""Describe a dataset in text and figures.

The figures show its classes, their NDVI over the season, the calendar of its dates, and some of its
patches; the text is the Markdown summary.

Shape suffixes: K classes, M months.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panoseg.classes import ClassTable, SegmentClass
from panoseg.data.arrays import PERIOD_DAYS
from panoseg.data.describe import (
    DatasetSummary,
    PatchFacts,
    choose_patches,
    open_labelled,
    parcels_of,
    summarise,
)
from panoseg.data.pastis_files import own_bands
from panoseg.errors import ConfigError, PanosegError
from panoseg.files import new_folder, write_text
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.metrics import percent, render_table
from panoseg.panoptic import Panoptic
from panoseg.panoptic.draw import draw
from panoseg.pictures import (
    BLUE,
    GREY,
    OPACITY,
    ZOOM,
    class_legend,
    darker,
    month_axis,
    new_figure,
    paled,
    save_figure,
)
from panoseg.pictures.comparison import land_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_SHOWN_PATCHES = 4
_CALENDAR_ROWS = 24
_QUARTILES = (0.25, 0.5, 0.75)


def draw_dataset(summary: DatasetSummary, folder: Path) -> None:
    """Write classes.png, ndvi.png, calendar.png and patches.png.

    The summary must have been made from images too.
    """
    draw_classes(summary, folder / "classes.png")
    draw_ndvi(summary, folder / "ndvi.png")
    draw_calendar(summary, folder / "calendar.png")
    draw_patches(summary, folder / "patches.png")


def draw_classes(summary: DatasetSummary, path: Path) -> None:
    """Draw the share of pixels and the number of parcels of each class, most frequent first.

    Ticks mark the shares in single folds or sets.
    """
    pixels_K = summary.pixels_K()
    present = [entry for entry in summary.dataset.classes.classes if pixels_K[entry.id]]
    present.sort(key=lambda entry: pixels_K[entry.id])
    figure = new_figure(11, 1.4 + 0.27 * len(present))
    pixels, parcels = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    shares = {entry: 100 * pixels_K[entry.id] / pixels_K.sum() for entry in present}
    _bars(pixels, shares, ".1f")
    _bars(parcels, {entry: len(summary.parcel_pixels(entry.id)) for entry in present}, ",")
    if len(summary.parts) > 1:
        _ticks(pixels, summary, [entry.id for entry in present])
    pixels.set_xlabel("share of the pixels, percent")
    parcels.set_xlabel("parcels" if summary.numbered else "connected areas")
    save_figure(figure, path)


def _bars(axes: Axes, values: Mapping[SegmentClass, float], form: str) -> None:
    """A bar a class, and its number at the right border, where no tick is in its way."""
    colours = [entry.colour for entry in values]
    axes.barh(
        [entry.name for entry in values],
        [*values.values()],
        color=colours,
        edgecolor="#888888",
        linewidth=0.6,
        height=0.75,
    )
    for row, value in enumerate(values.values()):
        text = format(value, form) if value else ""
        axes.text(
            1.1,
            row,
            text,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=9,
        )
    axes.margins(x=0.03, y=0.01)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(left=False)


def _ticks(axes: Axes, summary: DatasetSummary, class_ids: Sequence[int]) -> None:
    """The share of each fold or set on the bars."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.6, foreground="white")]  # seen on black and on pale bars
    for place, part in enumerate(summary.parts):
        part_K = summary.pixels_K(part)
        shares = [100 * part_K[class_id] / part_K.sum() for class_id in class_ids]
        label = None if place else f"share in one {part.split()[0]}"
        axes.plot(
            shares,
            range(len(shares)),
            "|",
            color="black",
            markersize=8,
            path_effects=outline,
            label=label,
        )
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def draw_ndvi(summary: DatasetSummary, path: Path) -> None:
    """Draw the NDVI of the parcels of each crop over the season.

    Lines are median and quartiles of each ten days, without cloudy dates.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    assert summary.ndvi is not None
    things = summary.dataset.classes.ids("thing")
    shown = [class_id for class_id in things if len(summary.parcel_pixels(class_id))]
    columns = min(len(shown), 4) or 1
    rows = -(-len(shown) // columns) or 1
    figure = new_figure(max(3 * columns, 6), 0.9 + 1.75 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    of_all = _line(summary, things)
    for axes, class_id in zip(panels.flat, shown, strict=False):
        days, (low, middle, high) = _line(summary, [class_id])
        colour = summary.dataset.classes[class_id].colour
        axes.plot(of_all[0], of_all[1][1], color="#777777", linewidth=0.9, linestyle=(0, (4, 2)))
        axes.fill_between(days, low, high, color=colour, alpha=0.55, linewidth=0)
        axes.plot(days, middle, color=darker(colour), linewidth=1.4, marker="o", markersize=2.2)
        parcels = len(summary.parcel_pixels(class_id))
        axes.set_title(
            f"{summary.dataset.classes[class_id].name} ({parcels:,})", fontsize=9, loc="left", pad=3
        )
        month_axis(axes)
        axes.set_ylim(0, 1)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(len(shown) - columns, 0) : len(shown)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle(
        "NDVI of parcels without cloudy dates, by class (number of parcels)", fontsize=11
    )
    figure.supylabel("NDVI", fontsize=10)
    handles = [
        Line2D(
            [],
            [],
            color="#333333",
            linewidth=1.4,
            marker="o",
            markersize=2.2,
            label=f"median of {PERIOD_DAYS} days",
        ),
        Patch(color="#bbbbbb", label="half of the parcels (quartiles)"),
        Line2D(
            [],
            [],
            color="#777777",
            linewidth=0.9,
            linestyle=(0, (4, 2)),
            label="median of all classes",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _line(summary: DatasetSummary, class_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    assert summary.ndvi is not None
    days, values = summary.ndvi.quantiles(class_ids, _QUARTILES)
    return np.datetime64(summary.dataset.reference_date) + days, values


def draw_calendar(summary: DatasetSummary, path: Path) -> None:
    """Draw the clear and cloudy dates of a patch in each month, and all dates of some patches."""
    figure = new_figure(11, 7)
    months, dates = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    start_M, clear_M, cloudy_M = dates_by_month(summary.patches, summary.dataset.reference_date)
    width_M = (start_M.astype("datetime64[M]") + 1).astype("datetime64[D]") - start_M
    bars = {"align": "edge", "width": 0.92 * width_M.astype(float)}
    months.bar(start_M, clear_M, color=BLUE, label="clear", **bars)
    months.bar(start_M, cloudy_M, bottom=clear_M, color=GREY, label="in cloud", **bars)
    months.set_ylabel("dates a patch and month")
    months.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    places = np.unique(
        np.linspace(0, len(summary.patches) - 1, min(_CALENDAR_ROWS, len(summary.patches)))
        .round()
        .astype(int)
    )
    rows = [summary.patches[place] for place in places]
    for row, patch in enumerate(rows):
        day_T = np.datetime64(summary.dataset.reference_date) + patch.days_T
        cloudy_T = _cloudy(patch) > 0.5
        dates.plot(
            day_T[~cloudy_T], np.full((~cloudy_T).sum(), row), "o", color=BLUE, markersize=3.5
        )
        dates.plot(day_T[cloudy_T], np.full(cloudy_T.sum(), row), "o", color=GREY, markersize=3.5)
    dates.set_yticks(
        range(len(rows)), [f"{patch.name} ({patch.part})" for patch in rows], fontsize=8
    )
    dates.invert_yaxis()
    dates.set_ylabel("patch")
    for axes in (months, dates):
        month_axis(axes)
    save_figure(figure, path)


def dates_by_month(
    patches: Sequence[PatchFacts], reference_date: date
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean number of clear and of cloudy dates of a patch in each month.

    A date counts as cloudy by the share of the patch's parcels that are in cloud.

    Returns:
        First day of each month, clear dates, cloudy dates; each of length M.
    """
    clear: defaultdict[np.datetime64, float] = defaultdict(float)
    cloudy: defaultdict[np.datetime64, float] = defaultdict(float)
    for patch in patches:
        month_T = (np.datetime64(reference_date) + patch.days_T).astype("datetime64[M]")
        for month, share in zip(month_T, _cloudy(patch), strict=True):
            cloudy[month] += share / len(patches)
            clear[month] += (1 - share) / len(patches)
    month_M = np.arange(min(clear), max(clear) + 1)
    clear_M, cloudy_M = (
        np.array([of_month[month] for month in month_M]) for of_month in (clear, cloudy)
    )
    return month_M.astype("datetime64[D]"), clear_M, cloudy_M


def _cloudy(patch: PatchFacts) -> np.ndarray:
    return np.zeros(len(patch.days_T)) if patch.cloudy_T is None else patch.cloudy_T


def draw_patches(summary: DatasetSummary, path: Path) -> None:
    """Draw some patches in true colour on a clear date near mid June, and the truth below.

    They are spread evenly over those that were counted.
    """
    places = np.unique(np.linspace(0, len(summary.chosen) - 1, _SHOWN_PATCHES).round().astype(int))
    figure = new_figure(3 * len(places), 7.3)
    panels = figure.subplots(2, len(places), squeeze=False)
    present: set[int] = set()
    for column, place in enumerate(places):
        sample, facts = summary.dataset.samples[summary.chosen[place]], summary.patches[place]
        land_HW3, day = land_of(sample, summary.dataset.reference_date.isoformat())
        assert sample.classes_HW is not None
        parcels_HW = parcels_of(sample, summary.dataset.classes)
        truth = Panoptic.from_maps(parcels_HW, sample.classes_HW.numpy(), summary.dataset.classes)
        present.update(truth.segments.class_ids.tolist())
        panels[0, column].set_title(f"{facts.name} ({facts.part})\n{day}", fontsize=10)
        panels[0, column].imshow(land_HW3, interpolation="nearest")
        panels[1, column].imshow(
            draw(truth, summary.dataset.classes, paled(land_HW3), OPACITY, scale=ZOOM),
            interpolation="nearest",
        )
    for axes in panels.flat:
        axes.set_axis_off()
    class_legend(figure, summary.dataset.classes, present, columns=max(2, len(places) + 1))
    save_figure(figure, path)


TEXT = "dataset.md"
_PIXEL_HECTARES = 0.01  # of 10 m x 10 m


def describe(
    folder: Path,
    out: Path | None = None,
    patches: int | None = None,
    seed: int = 0,
    classes: ClassTable | None = None,
) -> str:
    """Return the summary of a dataset, as Markdown.

    Args:
        folder: The dataset.
        out: A new or empty folder for the summary (``dataset.md``) and its figures; None writes
            nothing.
        patches: Number of patches to count, drawn by ``seed``; None counts all.
        seed: Seed of the draw.
        classes: Those of an own dataset in PASTIS's layout; None for PASTIS's.

    Raises:
        DatasetError: The dataset is missing or damaged.
        ConfigError: The options do not fit the dataset.
        OutputError: The folder cannot be written.
    """
    dataset = open_labelled(folder, classes)
    if out is not None and classes is not None and len(own_bands(folder)) != len(PASTIS_BANDS):
        raise ConfigError(
            f"Figures need the {len(PASTIS_BANDS)} bands of PASTIS, but {folder} has"
            f" {len(own_bands(folder))}; leave out --out."
        )
    chosen = choose_patches(len(dataset.part_of), patches, seed)
    if out is None:
        return summary_text(summarise(dataset, chosen, look=False))
    new_folder(out)
    try:
        summary = summarise(dataset, chosen, look=True)
        text = summary_text(summary)
        draw_dataset(summary, out)
    except PanosegError:
        if not any(out.iterdir()):
            out.rmdir()
        raise
    write_text(out / TEXT, text + "\n")
    return text


def summary_text(summary: DatasetSummary) -> str:
    """Facts of a dataset, one per line, and a table of its classes."""
    facts = {
        "patches": _patches(summary),
        "parts": ", ".join(f"{count:,} in {part}" for part, count in summary.parts.items()),
        "dates": _dates(summary),
        "clouds": _clouds(summary),
        "parcels": _parcels(summary),
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {fact}" for name, fact in facts.items() if fact]
    return "\n".join(lines) + "\n\n" + _class_table(summary)


def _patches(summary: DatasetSummary) -> str:
    counted = len(summary.patches)
    of = (
        f" of {len(summary.dataset.names):,}, drawn at random"
        if counted < len(summary.dataset.names)
        else ""
    )
    sizes = Counter(patch.size for patch in summary.patches).most_common()
    written = ", ".join(
        f"{rows} x {columns}" + (f" ({count:,})" if sizes[1:] else "")
        for (rows, columns), count in sizes
    )
    square_km = summary.pixels_K().sum() * _PIXEL_HECTARES / 100
    return f"{counted:,}{of}; {written} pixels of 10 m, {square_km:,.2f} km² in all"


def _dates(summary: DatasetSummary) -> str:
    counts = [len(patch.days_T) for patch in summary.patches]
    days = [patch.days_T[place] for patch in summary.patches for place in (0, -1)]
    first, last = (
        summary.dataset.reference_date + timedelta(days=int(day)) for day in (min(days), max(days))
    )
    return (
        f"{min(counts)} to {max(counts)} a patch, median {np.median(counts):g}; {first} to {last}"
    )


def _clouds(summary: DatasetSummary) -> str:
    shares = [patch.cloudy_T.mean() for patch in summary.patches if patch.cloudy_T is not None]
    return (
        f"hide a parcel on {percent(float(np.median(shares)))} % of its dates, median over patches"
        if shares
        else ""
    )


def _parcels(summary: DatasetSummary) -> str:
    things = {
        class_id: summary.parcel_pixels(class_id)
        for class_id in summary.dataset.classes.ids("thing")
    }
    pixels_N = np.concatenate([*things.values()])
    if not len(pixels_N):
        return "none"
    lowest, median, highest = (
        _hectares(value) for value in (pixels_N.min(), np.median(pixels_N), pixels_N.max())
    )
    present = sum(len(of_class) > 0 for of_class in things.values())
    note = (
        ""
        if summary.numbered
        else " (connected areas of one class: the dataset does not number its parcels)"
    )
    return (
        f"{len(pixels_N):,} of {present} classes{note}; {lowest} to {highest} ha, median"
        f" {median} ha"
    )


def _class_table(summary: DatasetSummary) -> str:
    pixels_K = summary.pixels_K()
    rows = []
    for entry in summary.dataset.classes.classes:
        pixels = int(pixels_K[entry.id])
        rows.append(
            [
                entry.name,
                f"{pixels:,}",
                percent(pixels / pixels_K.sum()),
                *_parcel_cells(summary.parcel_pixels(entry.id)),
            ]
        )
    return render_table(["class", "pixels", "share, %", "parcels", "median ha", "largest ha"], rows)


def _parcel_cells(pixels_N: np.ndarray) -> list[str]:
    if not len(pixels_N):
        return ["–", "–", "–"]
    return [f"{len(pixels_N):,}", _hectares(np.median(pixels_N)), _hectares(pixels_N.max())]


def _hectares(pixels: float) -> str:
    return f"{pixels * _PIXEL_HECTARES:.2f}"
