"""``panoseg simulate``: write simulated seasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from panoseg.data.simulation.options import SimulationOptions


def run(
    folder: Annotated[Path, tyro.conf.Positional],
    patches: int = 100,
    size: int = 128,
    seed: int = 0,
    parcel_maps: Path | None = None,
    workers: int | None = None,
    options: Annotated[SimulationOptions, tyro.conf.arg(name="")] = SimulationOptions(),  # noqa: B008
) -> None:
    """Write simulated Sentinel-2 seasons as a dataset in PASTIS's own layout.

    Example: panoseg simulate DIR --patches 100 --size 128 --seed 0

    Run again with the same options to complete an interrupted dataset, or with more patches to enlarge it.

    Args:
        folder: where to write; new, empty, or of an earlier run with the same options.
        patches: number of patches, in five folds.
        size: pixels of 10 m on a side.
        seed: the same seed gives the same data.
        parcel_maps: a folder with ParcelIDs_*.npy whose parcels are used instead of drawn ones.
        workers: processes; one a core by default.
        options: how seasons are simulated.
    """
    from panoseg.data.simulation.write import write_pastis

    write_pastis(folder, patches, (size, size), seed, options, workers, parcel_maps)
    print(f"{patches} patches of {size} x {size} pixels in {folder}")
