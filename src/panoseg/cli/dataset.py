"""``panoseg dataset``: training data from a register of parcels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.errors import ConfigError
from panoseg.register.options import DatasetOptions, FetchOptions


def run(
    *,
    parcels: Path,
    class_column: str,
    classes: Path,
    out: Path,
    cube: Annotated[list[Path], tyro.conf.UseAppendAction] = [],  # noqa: B006
    layout: Literal["pastis", "s2tsczcrop"] = "pastis",
    workers: int = 1,
    options: Annotated[DatasetOptions, tyro.conf.arg(name="")] = DatasetOptions(),  # noqa: B008
    source: Annotated[FetchOptions, tyro.conf.arg(name="")] = FetchOptions(),  # noqa: B008
) -> None:
    """Make a dataset to train on from a register of parcels and seasons of its land, in PASTIS's or
    S2TSCzCrop's layout.

    The land is cut into patches; folds (or sets) are blocks of land, and no parcel and no ground is
    in two of them. What is wrong with the register is counted, printed, and written to report.json.
    The same command continues one that was stopped.

    example: panoseg dataset --parcels register.gpkg --class-column crop --classes table.csv --cube
    season.zarr --out DIR

    example: panoseg dataset --parcels r.gpkg --class-column crop --classes c.csv --season 2024
    --catalog earth-search --out DIR

    Args:
        parcels: The register: GeoParquet, GeoPackage, GeoJSON or Shapefile, in any coordinate
            system.
        class_column: Its column of crop codes.
        classes: A CSV with columns code and class: the number or name of a class of the layout.
            Other codes become void.
        out: New, empty, or a dataset of an earlier run with the same options, which is completed.
        cube: A season as NetCDF, Zarr or a folder with STAC items; several by repeating the option.
        layout: Folds of PASTIS with parcels and 18 crops, or sets of S2TSCzCrop with 13 crops.
        workers: Processes that read images; each takes up to a gigabyte.
        options: How patches are made.
        source: Where a season comes from that is not on disk yet.
    """
    from panoseg.files import making
    from panoseg.register.dataset import Sources, write_dataset

    cubes = _cubes(cube, parcels, out, options, source)
    with making(out):
        report = write_dataset(
            Sources(parcels, class_column, classes, cubes), out, layout, options, workers
        )
    print("\n".join(report.lines()))
    print(
        f"{report.patches} patches of {options.size} x {options.size} pixels in {out}; look at"
        f" them: panoseg describe {out}"
    )


def _cubes(
    cube: list[Path], parcels: Path, out: Path, options: DatasetOptions, source: FetchOptions
) -> tuple[Path, ...]:
    """The cubes that are given, or the one that is fetched, or there already."""
    from panoseg.register.dataset import fetch_season

    if bool(cube) == (source.catalog is not None):
        raise ConfigError(
            "no season, or two", "--cube, or --catalog with --season", "say one of them"
        )
    if source.catalog is None:
        return tuple(cube)
    if options.season is None:
        raise ConfigError(
            "--catalog without --season", "the year of a harvest", "add e.g. --season 2024"
        )
    path = out.with_name(f"{out.name}.zarr")
    print("\n".join(fetch_season(parcels, options.season, path, source).lines()))
    return (path,)
