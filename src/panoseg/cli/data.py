"""The commands that make or describe data: cube, dataset, simulate, describe."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cube.options import CubeOptions
from panoseg.errors import ConfigError
from panoseg.register.options import DatasetOptions, FetchOptions
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.photograph_options import PhotographOptions

if TYPE_CHECKING:
    from panoseg.cube.build import CubeReport


Days = tuple[date, date]


def cube(
    area: Path,
    out: Path,
    season: int | None = None,
    first: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    last: Annotated[str | None, tyro.conf.arg(name="to")] = None,
    catalog: str = "earth-search",
    collection: str | None = None,
    safe: Path | None = None,
    yes: bool = False,
    options: Annotated[CubeOptions, tyro.conf.arg(name="")] = CubeOptions(),  # noqa: B008
) -> None:
    """Make the cube of an area and a season, a Zarr store for panoseg map: from a catalogue, or
    from downloaded SAFE archives.

    A stopped run goes on when the same command runs again, to the same bytes. A scene that cannot
    be read is left out, and named. The list of scenes (season.scenes.json) is used again if it is
    there, so that a run repeats exactly.

    example: panoseg cube --area farm.geojson --season 2024 --out season.zarr

    example: panoseg cube --area farm.geojson --safe downloads --out season.zarr

    Args:
        area: File with the outline: GeoJSON, GeoPackage, zipped Shapefile or KML, in any coordinate
            system.
        out: The Zarr store to make.
        season: Harvest year: from 1 September of the year before to 31 October. Or say --from and
            --to.
        first: First day, as 2023-09-01.
        last: Last day, as 2024-10-31.
        catalog: earth-search, planetary-computer, copernicus, or the URL of a STAC API.
        collection: Of the catalogue, if not its usual one with Sentinel-2 L2A.
        safe: Folder of SAFE archives of Sentinel-2 L2A, folders or .zip; the days are then all, if
            none are said.
        yes: Fetch, however much it is.
        options: How the cube is made.
    """
    days = (
        None if safe is not None and season is first is last is None else _days(season, first, last)
    )
    if safe is not None and (catalog != "earth-search" or collection is not None or yes):
        raise ConfigError(
            "--safe with --catalog, --collection or --yes",
            "one source of scenes",
            "leave one of them out",
        )
    given = area, days, out, options
    report = (
        _from_archives(safe, *given) if safe else _from_catalogue(catalog, collection, yes, *given)
    )
    print("\n".join(report.lines()))
    print(f"{report.path} is ready: panoseg map {report.path} --out map")


def _from_catalogue(
    catalog: str,
    collection: str | None,
    yes: bool,
    area: Path,
    days: Days | None,
    out: Path,
    options: CubeOptions,
) -> CubeReport:
    from panoseg.cube.fetch import Request, fetch_cube, scenes_beside

    assert days is not None, "a catalogue is asked for days"
    request = Request(area, *days, catalog, collection, yes)
    return fetch_cube(request, out, scenes_beside(out), options)[0]


def _from_archives(
    safe: Path, area: Path, days: Days | None, out: Path, options: CubeOptions
) -> CubeReport:
    from panoseg.cube.fetch import cube_of_archives

    return cube_of_archives(safe, area, days, out, options)


def _days(season: int | None, first: str | None, last: str | None) -> Days:
    """The first and the last day that the options name."""
    from panoseg.cube.season import season_span

    if (season is None) == (first is None and last is None) or (first is None) != (last is None):
        raise ConfigError(
            "no season, or two",
            "--season 2024, or --from 2023-09-01 --to 2024-10-31",
            "say one of them",
        )
    if season is not None:
        return season_span(season)
    days = []
    for option, text in (("from", first), ("to", last)):
        try:
            days.append(date.fromisoformat(str(text)))
        except ValueError as error:
            raise ConfigError(
                f"{text!r} as a day", "one as 2023-09-01", f"change --{option}"
            ) from error
    return days[0], days[1]


def dataset(
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


def simulate(
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


def describe(
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
