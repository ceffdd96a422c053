"""``panoseg simulate``: write simulated seasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.errors import ConfigError
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.photograph_options import PhotographOptions


def run(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="dir")],
    patches: int = 100,
    size: int = 128,
    seed: int = 0,
    layout: Literal["pastis", "s2tsczcrop", "coco"] = "pastis",
    cube: bool = False,
    parcel_maps: Path | None = None,
    centres: bool = False,
    workers: int | None = None,
    options: Annotated[SimulationOptions, tyro.conf.arg(name="")] = SimulationOptions(),  # noqa: B008
    photographs: PhotographOptions = PhotographOptions(),  # noqa: B008
) -> None:
    """Write simulated seasons in the layout of PASTIS or S2TSCzCrop or as one cube, or simulated
    photographs in COCO's layout.

    example: panoseg simulate DIR --patches 100 --size 128 --seed 0

    example: panoseg simulate DIR --layout coco --patches 1000

    example: panoseg simulate DIR --cube --size 512 --region bocage

    Args:
        folder: New, empty, or a dataset of an earlier run with the same options, which is completed
            or enlarged.
        patches: Number of patches or photographs, in the folds, sets or splits of the layout; a
            cube is one.
        size: Pixels on a side; in seasons they are of 10 m.
        seed: The same seed gives the same data.
        layout: Folds of PASTIS (parcels, 18 crops), sets of S2TSCzCrop (13 crops), or photographs
            of ten classes (train, val).
        cube: Write cube.nc and parcels.gpkg instead of a dataset.
        parcel_maps: A folder with ParcelIDs_*.npy whose parcels are used instead of drawn ones.
        centres: Write INSTANCE_ANNOTATIONS too; readers compute them where they are absent.
        workers: Processes; one a core by default.
    """
    _check_layout(layout, options, photographs, cube or centres or parcel_maps is not None)
    if cube:
        _check_cube(layout, parcel_maps is not None or centres or workers is not None)
        _write_cube(folder, size, seed, options)
    elif layout == "coco":
        _write_photographs(folder, patches, size, seed, workers, photographs)
    else:
        _write_dataset(folder, patches, size, seed, layout, parcel_maps, centres, workers, options)


def _check_layout(
    layout: str, options: SimulationOptions, photographs: PhotographOptions, of_parcels: bool
) -> None:
    """Refuse options that a layout does not know, rather than ignore them."""
    if layout == "coco" and (of_parcels or options != SimulationOptions()):
        raise ConfigError(
            "--layout coco with options of seasons",
            "--photographs options alone",
            "leave the others out",
        )
    if layout != "coco" and photographs != PhotographOptions():
        raise ConfigError(
            f"--layout {layout} with --photographs options",
            "options of seasons",
            "pass --layout coco",
        )


def _check_cube(layout: str, of_datasets: bool) -> None:
    if layout != "pastis" or of_datasets:
        found = f"--cube with --layout {layout}, --parcel-maps, --centres or --workers"
        raise ConfigError(found, "a cube alone", "leave one of them out")


def _write_photographs(
    folder: Path,
    photographs: int,
    size: int,
    seed: int,
    workers: int | None,
    options: PhotographOptions,
) -> None:
    from panoseg.simulation.write_photographs import write_photographs

    write_photographs(folder, photographs, (size, size), seed, options, workers)
    print(f"{photographs} photographs of {size} x {size} pixels in {folder}")


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
        raise ConfigError(
            "--layout s2tsczcrop with --centres",
            "a dataset without parcels",
            "leave one of them out",
        )
    if layout == "s2tsczcrop":
        from panoseg.simulation.write import write_s2tsczcrop

        write_s2tsczcrop(
            folder, patches, (size, size), seed, options, workers, parcel_maps=parcel_maps
        )
    else:
        from panoseg.simulation.write import write_pastis

        write_pastis(
            folder,
            patches,
            (size, size),
            seed,
            options,
            workers,
            parcel_maps=parcel_maps,
            centres=centres,
        )
    print(f"{patches} patches of {size} x {size} pixels in {folder}")


def _write_cube(folder: Path, size: int, seed: int, options: SimulationOptions) -> None:
    from panoseg.simulation.cube import write_cube

    write_cube(folder, (size, size), seed, options)
    print(
        f"cube.nc and parcels.gpkg in {folder}; map it with: panoseg map {folder / 'cube.nc'}"
        " --out MAP"
    )
