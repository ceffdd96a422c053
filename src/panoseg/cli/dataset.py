"""``panoseg dataset``: training data from a register of parcels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.register.options import DatasetOptions


def run(
    *,
    parcels: Path,
    class_column: str,
    classes: Path,
    cube: Annotated[list[Path], tyro.conf.UseAppendAction],
    out: Path,
    layout: Literal["pastis", "s2tsczcrop"] = "pastis",
    workers: int = 1,
    options: Annotated[DatasetOptions, tyro.conf.arg(name="")] = DatasetOptions(),  # noqa: B008
) -> None:
    """Make a dataset to train on from a register of parcels and cubes of its land, in PASTIS's or S2TSCzCrop's layout.

    The land is cut into patches; folds (or sets) are blocks of land, and no parcel is in two of them. What is wrong with the
    register is counted, printed, and written to report.json. The same command continues one that was stopped.

    example: panoseg dataset --parcels register.gpkg --class-column crop --classes table.csv --cube season.zarr --out DIR

    Args:
        parcels: The register: GeoParquet, GeoPackage, GeoJSON or Shapefile, in any coordinate system.
        class_column: Its column of crop codes.
        classes: A CSV with columns code and class: the number or name of a class of the layout. Other codes become void.
        cube: A season as NetCDF, Zarr or a folder with STAC items; several by repeating the option.
        out: New, empty, or a dataset of an earlier run with the same options, which is completed.
        layout: Folds of PASTIS with parcels and 18 crops, or sets of S2TSCzCrop with 13 crops.
        workers: Processes that read images; each takes up to a gigabyte.
        options: How patches are made.
    """
    from panoseg.register.dataset import Sources, write_dataset

    report = write_dataset(Sources(parcels, class_column, classes, tuple(cube)), out, layout, options, workers)
    print("\n".join(report.lines()))
    print(f"{report.patches} patches of {options.size} x {options.size} pixels in {out}; look at them: panoseg describe {out}")
