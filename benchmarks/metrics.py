"""Times of merging, scoring and joining, and throughput of scoring COCO's files.

Times are the best and the median of many runs, in milliseconds.

python benchmarks/metrics.py --coco-pairs 1000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from panoseg.classes import PASTIS
from panoseg.metrics import render_table
from panoseg.metrics.confusion import confusion_matrix
from panoseg.metrics.panoptic_quality import patch_counts
from panoseg.panoptic import Panoptic
from panoseg.panoptic.join import TileJoiner
from panoseg.panoptic.merge import ScoredMasks, merge_masks, to_panoptics

SIZE = 128


def landscape(size: int, parcels: int, seed: int) -> Panoptic:
    """Simulate about ``parcels`` parcels: cells of random points, a tenth of them background."""
    random = np.random.default_rng(seed)
    points = random.random((parcels, 2)) * size
    rows, columns = np.mgrid[:size, :size]
    nearest = np.zeros((size, size), np.int64)
    distance = np.full((size, size), np.inf)
    for number, (row, column) in enumerate(points, 1):
        squared = (rows - row) ** 2 + (columns - column) ** 2
        nearest[squared < distance] = number
        distance = np.minimum(distance, squared)
    nearest[random.random(parcels + 1)[nearest] < 0.1] = 0
    return Panoptic.from_maps(
        nearest, {number: int(random.integers(1, 19)) for number in range(1, parcels + 1)}, PASTIS
    )


def candidates(count: int, device: torch.device) -> ScoredMasks:
    """Draw masks of one image: rectangles of the size of parcels."""
    random = np.random.default_rng(0)
    masks = np.zeros((count, SIZE, SIZE), bool)
    for mask in masks:
        top, left = random.integers(0, SIZE - 18, 2)
        height, width = random.integers(8, 30, 2)
        mask[top : top + height, left : left + width] = True
    values = (masks, random.random(count), random.random((count, 20)), np.zeros(count, np.int64))
    return ScoredMasks(*(torch.from_numpy(value).to(device) for value in values))


def timed(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the best and median time in milliseconds, including work on a GPU."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[2:]), statistics.median(times[2:])


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco-pairs", type=int, default=60)
    parser.add_argument("--map-size", type=int, default=1024, help="side of the map of tiles")
    parser.add_argument("--repeats", type=int, default=200, help="most runs of each function")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    true, predicted = landscape(SIZE, 55, 0), landscape(SIZE, 55, 0)
    predicted = Panoptic.from_maps(np.roll(predicted.segment_HW, 2), predicted.classes_HW(), PASTIS)
    classes = true.classes_HW()
    side = arguments.map_size
    large = landscape(side, 1000 * side**2 // 1024**2, 1)
    starts = [*range(0, side - SIZE, 96), side - SIZE]
    windows = [
        (slice(row, row + SIZE), slice(column, column + SIZE))
        for row in starts
        for column in starts
    ]
    tiles = [(rows.start, columns.start, large.crop(rows, columns)) for rows, columns in windows]

    def join() -> None:
        joiner = TileJoiner(side, side)
        for tile in tiles:
            joiner.add(*tile)
        joiner.finish()

    benchmarks: list[tuple[str, Callable[[], object], int]] = [
        (
            f"panoptic quality, pastis, {len(true.segments)} parcels",
            lambda: patch_counts(true, predicted, PASTIS),
            200,
        ),
        (
            f"panoptic quality, coco, {len(true.segments)} parcels",
            lambda: patch_counts(true, predicted, PASTIS, "coco"),
            200,
        ),
        (
            "segmentation from instances and classes",
            lambda: Panoptic.from_maps(true.segment_HW, classes, PASTIS),
            200,
        ),
        (
            "confusion matrix, 4 patches",
            lambda: confusion_matrix(np.stack([classes] * 4), np.stack([classes] * 4), 20),
            100,
        ),
        (f"join {len(tiles)} tiles, {side} x {side}, {len(large.segments)} parcels", join, 5),
    ]
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        masks = candidates(100, torch.device(device))
        segment_BHW, _ = merge_masks(masks, 1)
        benchmarks.append(
            (f"merge 100 masks on {device}", lambda masks=masks: merge_masks(masks, 1), 100)
        )
        benchmarks.append(
            (
                f"table of merged masks on {device}",
                lambda m=masks, s=segment_BHW: to_panoptics(s, m, PASTIS),
                100,
            )
        )
    rows = [
        [name, *(f"{value:.3f}" for value in timed(function, min(repeats, arguments.repeats)))]
        for name, function, repeats in benchmarks
    ]
    print(render_table([f"{SIZE} x {SIZE}, milliseconds", "best", "median"], rows))
    print(flush=True)
    # In a process of its own: the workers import the main module, and this one imports torch.
    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("coco_pairs.py")),
            "--pairs",
            str(arguments.coco_pairs),
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
