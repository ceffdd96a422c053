"""``panoseg simulate``: write simulated seasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.data.simulation.options import SimulationOptions
from panoseg.errors import ConfigError


def run(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="dir")],
    patches: int = 100,
    size: int = 128,
    seed: int = 0,
    layout: Literal["pastis", "s2tsczcrop"] = "pastis",
    cube: bool = False,
    parcel_maps: Path | None = None,
    centres: bool = False,
    workers: int | None = None,
    options: Annotated[SimulationOptions, tyro.conf.arg(name="")] = SimulationOptions(),  # noqa: B008
) -> None:
    """Write simulated Sentinel-2 seasons as a dataset in PASTIS's or S2TSCzCrop's own layout, or one season as a cube.

    example: panoseg simulate DIR --patches 100 --size 128 --seed 0

    example: panoseg simulate DIR --layout s2tsczcrop --patches 100

    example: panoseg simulate DIR --cube --size 512 --region bocage

    Run again with the same options to complete an interrupted dataset, or with more patches to enlarge it.

    Args:
        folder: Where to write; new, empty, or a dataset of an earlier run with the same options.
        patches: Number of patches, in the folds or sets of the layout; a cube is one.
        size: Pixels of 10 m on a side.
        seed: The same seed gives the same data.
        layout: pastis: parcels and 18 crops, five folds. s2tsczcrop: 13 crop classes without parcels, train, val and test.
        cube: Write cube.nc and parcels.gpkg instead of a dataset.
        parcel_maps: A folder with ParcelIDs_*.npy whose parcels are used instead of drawn ones.
        centres: Write INSTANCE_ANNOTATIONS too; readers compute them where they are absent.
        workers: Processes; one a core by default.
    """
    if cube and (layout == "s2tsczcrop" or parcel_maps is not None or centres or workers is not None):
        found = "--cube with --layout s2tsczcrop, --parcel-maps, --centres or --workers"
        raise ConfigError(found, "a cube alone", "leave one of them out")
    if cube:
        _write_cube(folder, size, seed, options)
    else:
        _write_dataset(folder, patches, size, seed, layout, parcel_maps, centres, workers, options)


def _write_dataset(
    folder: Path,
    patches: int,
    size: int,
    seed: int,
    layout: str,
    parcel_maps: Path | None,
    centres: bool,
    workers: int | None,
    options: SimulationOptions,
) -> None:
    if layout == "s2tsczcrop" and centres:
        raise ConfigError("--layout s2tsczcrop with --centres", "a dataset without parcels", "leave one of them out")
    if layout == "s2tsczcrop":
        from panoseg.data.simulation.write_czech import write_s2tsczcrop

        write_s2tsczcrop(folder, patches, (size, size), seed, options, workers, parcel_maps=parcel_maps)
    else:
        from panoseg.data.simulation.write import write_pastis

        write_pastis(folder, patches, (size, size), seed, options, workers, parcel_maps=parcel_maps, centres=centres)
    print(f"{patches} patches of {size} x {size} pixels in {folder}")


def _write_cube(folder: Path, size: int, seed: int, options: SimulationOptions) -> None:
    from panoseg.data.simulation.cube import write_cube

    write_cube(folder, (size, size), seed, options)
    print(f"cube.nc and parcels.gpkg in {folder}; map it with: panoseg map {folder / 'cube.nc'} --out MAP")
