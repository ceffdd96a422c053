"""Compares the confidence of parcels with how often they are right, on patches in PASTIS's layout.

    python benchmarks/calibration.py PATCHES [--folds 5] [--weights WEIGHTS ..] [--patches 40]

A parcel is right where a true one matches it with an IoU above one half; what lies mostly on void
does not count. Prints the expected calibration error (Guo et al. 2017, equation 3, ten bins of
equal width) and the bins. PATCHES should be of another seed than the training's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from panoseg.data.pastis import PastisDataset
from panoseg.models.model import Model
from panoseg.progress import track

BINS = 10


def right_or_wrong(
    found_HW: np.ndarray, true_HW: np.ndarray, void_HW: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """1 for each segment that matches a true parcel, 0 for others, NaN on void: float64."""
    answers = []
    for number in ids:
        own_HW = found_HW == number
        true, shared = np.unique(true_HW[own_HW & ~void_HW], return_counts=True)
        own = (own_HW & ~void_HW).sum()
        iou = [
            both / (own + (true_HW == parcel).sum() - both)
            for parcel, both in zip(true, shared, strict=True)
            if parcel > 0
        ]
        matched = max(iou, default=0) > 0.5
        ignored = own < 0.5 * own_HW.sum()
        answers.append(1.0 if matched else np.nan if ignored else 0.0)
    return np.array(answers)


def main() -> None:
    """Print a table of bins for each of the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--patches", type=int, default=40)
    parser.add_argument("--weights", nargs="+", default=["fast"])
    arguments = parser.parse_args()
    data = PastisDataset(arguments.data, tuple(arguments.folds), target="panoptic")
    for name in arguments.weights:
        model = Model.load(name)
        void = model.table.void
        sure, right = [np.zeros(0)], [np.zeros(0)]
        for index in track(range(min(arguments.patches, len(data))), name):
            sample = data[index].in_order()
            assert sample.classes_HW is not None
            assert sample.instances_HW is not None
            batch = model.batch(
                sample.images_TCHW.numpy()[None].astype(np.float32), sample.days_T.numpy()
            )
            with model.computing():
                [found] = model.network.predict(batch, model.options)
            things = found.segments.is_thing
            sure.append(found.segments.scores[things].astype(np.float64))
            right.append(
                right_or_wrong(
                    found.segment_HW,
                    sample.instances_HW.numpy(),
                    sample.classes_HW.numpy() == void,
                    found.segments.ids[things],
                )
            )
        confidence, matched = np.concatenate(sure), np.concatenate(right)
        counted = ~np.isnan(matched)
        confidence, matched = confidence[counted], matched[counted]
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        error, rows = 0.0, []
        for number in range(BINS):
            own = bins == number
            if own.any():
                said, was = confidence[own].mean(), matched[own].mean()
                error += own.mean() * abs(said - was)
                rows.append(f"| {number / BINS:.1f} | {own.sum()} | {said:.2f} | {was:.2f} |")
        print(f"{name}: {len(matched)} parcels, expected calibration error {error:.3f}\n")
        print("| confidence from | parcels | mean confidence | share right |\n|---|---|---|---|")
        print("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
