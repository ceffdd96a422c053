"""``panoseg describe``: what a dataset holds, in words and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def run(
    dataset: Annotated[Path, tyro.conf.Positional],
    *,
    out: Path | None = None,
    patches: int | None = None,
    seed: int = 0,
) -> None:
    """Print what a dataset holds: patches, folds, dates, parcels and their areas, pixels and
    parcels of each class.

    With --out it also reads the images, and draws the distribution of classes, NDVI over the season
    by class (clouds left out), the calendar of acquisitions, and a few patches in true colour
    beside their truth.

    example: panoseg describe PASTIS

    example: panoseg describe PASTIS --patches 200 --out described

    Args:
        dataset: Folder of the dataset, in PASTIS's or S2TSCzCrop's layout.
        out: New or empty folder for dataset.md and pictures; without it nothing is written.
        patches: Look at so many patches, drawn by chance, instead of all.
        seed: The same seed draws the same patches.
    """
    from panoseg.training.dataset_pictures import describe

    print(describe(dataset, out, patches, seed))
