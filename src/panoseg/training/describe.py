"""A dataset in words and pictures.

Shape suffixes: N parcels.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panoseg.data.describe import DatasetSummary, choose_patches, open_labelled, summarise
from panoseg.errors import PanosegError
from panoseg.files import new_folder, write_text
from panoseg.metrics.tables import percent, render_table
from panoseg.training.dataset_pictures import draw_dataset

TEXT = "dataset.md"
_PIXEL_HECTARES = 0.01  # of 10 m x 10 m


def describe(folder: Path, out: Path | None = None, patches: int | None = None, seed: int = 0) -> str:
    """The summary of a dataset; with ``out``, a new or empty folder, also written there as ``dataset.md`` beside pictures.

    patches: count only so many, drawn by ``seed``. Raises ``DatasetError``, ``ConfigError`` and ``OutputError``.
    """
    dataset = open_labelled(folder)
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
    """Facts of a dataset, one a line, and a table of its classes."""
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
    of = f" of {len(summary.dataset.names):,}, drawn by chance" if counted < len(summary.dataset.names) else ""
    sizes = Counter(patch.size for patch in summary.patches).most_common()
    written = ", ".join(f"{rows} x {columns}" + (f" ({count:,})" if sizes[1:] else "") for (rows, columns), count in sizes)
    square_km = summary.pixels_K().sum() * _PIXEL_HECTARES / 100
    return f"{counted:,}{of}; {written} pixels of 10 m, {square_km:,.2f} km² in all"


def _dates(summary: DatasetSummary) -> str:
    counts = [len(patch.days_T) for patch in summary.patches]
    days = [patch.days_T[place] for patch in summary.patches for place in (0, -1)]
    first, last = (summary.dataset.reference_date + timedelta(days=int(day)) for day in (min(days), max(days)))
    return f"{min(counts)} to {max(counts)} a patch, median {np.median(counts):g}; {first} to {last}"


def _clouds(summary: DatasetSummary) -> str:
    shares = [patch.cloudy_T.mean() for patch in summary.patches if patch.cloudy_T is not None]
    return f"hide a parcel on {percent(float(np.median(shares)))} % of its dates, median over patches" if shares else ""


def _parcels(summary: DatasetSummary) -> str:
    things = {class_id: summary.parcel_pixels(class_id) for class_id in summary.dataset.classes.ids("thing")}
    pixels_N = np.concatenate([*things.values()])
    if not len(pixels_N):
        return "none"
    lowest, median, highest = (_hectares(value) for value in (pixels_N.min(), np.median(pixels_N), pixels_N.max()))
    present = sum(len(of_class) > 0 for of_class in things.values())
    note = "" if summary.numbered else " (connected areas of one class: the dataset does not number its parcels)"
    return f"{len(pixels_N):,} of {present} classes{note}; {lowest} to {highest} ha, median {median} ha"


def _class_table(summary: DatasetSummary) -> str:
    pixels_K = summary.pixels_K()
    rows = []
    for entry in summary.dataset.classes.classes:
        pixels = int(pixels_K[entry.id])
        rows.append(
            [entry.name, f"{pixels:,}", percent(pixels / pixels_K.sum()), *_parcel_cells(summary.parcel_pixels(entry.id))]
        )
    return render_table(["class", "pixels", "share, %", "parcels", "median ha", "largest ha"], rows)


def _parcel_cells(pixels_N: NDArray) -> list[str]:
    if not len(pixels_N):
        return ["–", "–", "–"]
    return [f"{len(pixels_N):,}", _hectares(np.median(pixels_N)), _hectares(pixels_N.max())]


def _hectares(pixels: float) -> str:
    return f"{pixels * _PIXEL_HECTARES:.2f}"
