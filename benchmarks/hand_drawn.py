"""Scores maps of a real season against fields that two readers drew by hand.

    python benchmarks/hand_drawn.py CUBE TRUTH PLACE [--weights WEIGHTS ..]

TRUTH holds one/PLACE.npy and two/PLACE.npy, label images of the fields on the grid of the cube (0:
none), each with a PLACE.json, a list of the fields with their "kind". What a reader is "unsure" of
counts for nothing. Prints panoptic quality of fields of any class, the mean over both readers, for
the whole season and for seasons as other people have them: fewer bands, fewer dates, composites.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr

from panoseg.cube.season import CLEAR_CLASSES
from panoseg.errors import PanosegError
from panoseg.imagery.sentinel2 import PASTIS_BANDS, SCENE_CLASSIFICATION
from panoseg.maps.mapping import map_cube

FOUR = ("B02", "B03", "B04", "B08")
FEWEST_PIXELS = 10
"""Smaller fields do not count, neither drawn nor found."""
Truth = tuple[np.ndarray, np.ndarray]


def read_truth(folder: Path, place: str) -> list[Truth]:
    """The label image of each reader, and which of its pixels are unsure."""
    truths = []
    for reader in ("one", "two"):
        label_HW = np.load(folder / reader / f"{place}.npy")
        kinds = [
            entry.get("kind")
            for entry in json.loads((folder / reader / f"{place}.json").read_text())
        ]
        unsure = [number for number, kind in enumerate(kinds, 1) if kind == "unsure"]
        unsure_HW = np.isin(label_HW, unsure)
        truths.append((np.where(unsure_HW, 0, label_HW), unsure_HW))
    return truths


def quality(found_HW: np.ndarray, truth: Truth) -> tuple[float, int, int, int]:
    """PQ in percent, and how many fields are found, missed and invented."""
    true_HW, unsure_HW = truth
    numbers, areas = np.unique(found_HW[found_HW > 0], return_counts=True)
    for number, area in zip(numbers, areas, strict=True):
        if (unsure_HW & (found_HW == number)).sum() > 0.5 * area:
            found_HW = np.where(found_HW == number, 0, found_HW)
    found_HW = np.where(unsure_HW, 0, found_HW)
    drawn, found = (
        {
            n: a
            for n, a in zip(*np.unique(x[x > 0], return_counts=True), strict=True)
            if a >= FEWEST_PIXELS
        }
        for x in (true_HW, found_HW)
    )
    iou, matched = 0.0, set()
    for number, area in drawn.items():
        others, shared = np.unique(
            found_HW[(true_HW == number) & (found_HW > 0)], return_counts=True
        )
        for other, both in zip(others, shared, strict=True):
            ratio = both / (area + (found_HW == other).sum() - both)
            if ratio > 0.5:
                iou += ratio
                matched.add(other)
    missed, invented = len(drawn) - len(matched), len(found.keys() - matched)
    total = len(matched) + 0.5 * (missed + invented)
    return 100 * iou / total if total else 0.0, len(matched), missed, invented


def clear_share(cube: xr.Dataset) -> np.ndarray:
    """Share of each date that shows the ground."""
    if SCENE_CLASSIFICATION in cube:
        seen = cube[SCENE_CLASSIFICATION].isin(CLEAR_CLASSES)
    else:
        seen = cube["B02"] > 0
    return seen.mean(("y", "x")).values


def clearest(cube: xr.Dataset, months: list[tuple[int, ...]]) -> xr.Dataset:
    """The clearest date of each group of months of the season's last year."""
    share, dates = clear_share(cube), cube["time"].dt
    year = int(dates.year.max())
    chosen = []
    for group in months:
        inside = np.flatnonzero((dates.month.isin(group) & (dates.year == year)).values)
        chosen += [inside[share[inside].argmax()]] if len(inside) else []
    return cube.isel(time=sorted(chosen))


def monthly(cube: xr.Dataset) -> xr.Dataset:
    """Monthly medians of the pixels that show the ground."""
    bands = cube[list(PASTIS_BANDS)]
    if SCENE_CLASSIFICATION in cube:
        bands = bands.where(cube[SCENE_CLASSIFICATION].isin(CLEAR_CLASSES))
    return bands.resample(time="MS").median().dropna("time", how="all")


SEASONS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "all dates, ten bands": lambda cube: cube,
    "B02 B03 B04 B08 alone": lambda cube: cube.drop_vars(set(PASTIS_BANDS) - set(FOUR)),
    "without B8A": lambda cube: cube.drop_vars("B8A"),
    "monthly composites": monthly,
    "six clear dates": lambda cube: clearest(cube, [(3,), (4,), (5, 6), (7,), (8,), (9,)]),
    "two clear dates, four bands": lambda cube: clearest(
        cube.drop_vars(set(PASTIS_BANDS) - set(FOUR)), [(4, 5), (8, 9)]
    ),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cube", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("place")
    parser.add_argument("--weights", nargs="+", help="by default those in the package")
    arguments = parser.parse_args()
    truths = read_truth(arguments.truth, arguments.place)
    weights = arguments.weights or [None]
    print(
        "| season | " + " | ".join(str(name or "weights in the package") for name in weights) + " |"
    )
    print("|---" * (1 + len(weights)) + "|")
    with (
        xr.open_dataset(arguments.cube, decode_coords="all") as cube,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        for number, (season, make) in enumerate(SEASONS.items()):
            path = folder / f"{number}.nc"
            make(cube.load()).to_netcdf(path)
            cells = []
            for column, own in enumerate(weights):
                try:
                    result = map_cube(path, own, folder / f"map-{number}-{column}")
                except PanosegError as error:
                    cells.append(f"refused: {str(error)[:40]}")
                    continue
                with rasterio.open(result.out / "segments.tif") as raster:
                    found_HW = raster.read(1)
                pq, *counts = np.mean([quality(found_HW, truth) for truth in truths], axis=0)
                words = zip(counts, ("found", "missed", "invented"), strict=True)
                cells.append(f"{pq:.1f} ({', '.join(f'{n:.0f} {word}' for n, word in words)})")
            print(f"| {season} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
