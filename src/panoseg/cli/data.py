"""The commands that make or describe data: cube, dataset, simulate, describe."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cli.output import Output
from panoseg.cli.terminal import hand_over, say
from panoseg.cube import DEFAULT_CATALOGUE, CubeOptions, ReadOptions, ValueOptions
from panoseg.errors import ConfigError
from panoseg.imagery import VectorOptions
from panoseg.register import DatasetOptions, FetchOptions, RegisterOptions
from panoseg.simulation.options import PhotographOptions, SimulationOptions

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from panoseg.cube.metadata import CubeReport
    from panoseg.simulation import Layout


def cube(
    area: Path | None = None,
    out: Annotated[Path | None, Output.HELD] = None,
    season: int | None = None,
    first: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    last: Annotated[str | None, tyro.conf.arg(name="to")] = None,
    catalog: str = DEFAULT_CATALOGUE,
    collection: str | None = None,
    safe: Path | None = None,
    items: bool = False,
    yes: bool = False,
    options: Annotated[CubeOptions, tyro.conf.arg(name="")] = CubeOptions(),  # noqa: B008
    reading: Annotated[VectorOptions, tyro.conf.arg(name="")] = VectorOptions(),  # noqa: B008
    values: Annotated[ValueOptions, tyro.conf.arg(name="")] = ValueOptions(),  # noqa: B008
) -> None:
    """Make the cube of an area and a season, or of a season on disk, a Zarr store for panoseg map.

    Scenes come from a catalogue, or from downloaded SAFE archives. To continue an interrupted run,
    run the same command again; the result has the same bytes. A scene that cannot be read is named
    and left out. The list of scenes (season.scenes.json) is used again if it exists, so that a run
    can be repeated exactly.

    example: panoseg cube --area farm.geojson --season 2024 --out season.zarr

    example: panoseg cube --area farm.geojson --safe downloads --out season.zarr

    example: panoseg cube --from FOLDER --out season.zarr

    Args:
        area: File with the outline (GeoJSON, GeoPackage, zipped Shapefile, KML, ...), in any
            coordinate system. Without it --from names a season on disk.
        out: The Zarr store to make.
        season: Harvest year: from 1 September of the year before to 31 October; south of the
            equator from 1 March to 30 April. Alternatively pass --from and --to.
        first: First day, e.g. 2023-09-01. Without --area: a season on disk that is written as a
            Zarr store, such as a folder of GeoTIFFs, NetCDF, a zipped Zarr store or EOPF products.
        last: Last day, e.g. 2024-10-31.
        catalog: earth-search, planetary-computer, copernicus, or the URL of a STAC API.
        collection: Collection of the catalogue; by default its collection of Sentinel-2 L2A.
        safe: Folder of SAFE archives of Sentinel-2 L2A, as folders or .zip files; without --season,
            --from and --to all their days are used.
        items: With --from FOLDER: write STAC items of its GeoTIFFs into the folder (items.json);
            --out is not needed then.
        yes: Fetch without a limit on the amount of data.
        options: How the cube is made.
        reading: How the file with the outline is read. With --from FOLDER, --crs is that of the
            season.
        values: With --from FOLDER: what the season does not say.
    """
    from panoseg.cube.fetch import CubeRequest, cube_from_archives, fetch_cube, scene_list_path

    if area is None:
        others = (season, last, safe, collection, catalog != DEFAULT_CATALOGUE, yes)
        if any(others) or options != CubeOptions() or replace(reading, crs=None) != VectorOptions():
            raise ConfigError(
                "A cube of a catalogue or of SAFE archives needs an outline; add --area FILE, or"
                " pass --from FOLDER and --out alone."
            )
        _convert(first, out, items, ReadOptions(**asdict(values), crs=reading.crs))
        return
    if values != ValueOptions():
        raise ConfigError(
            "--bands, --nodata, --scale and --offset are of a season on disk; pass it with --from"
            " FOLDER, without --area."
        )
    if out is None:
        raise ConfigError("Name the Zarr store to make, e.g. --out season.zarr.")
    if items:
        raise ConfigError("--items needs --from FOLDER without --area; leave one of them out.")
    if safe is None:
        request = CubeRequest(
            area, *_days(area, reading, season, first, last), catalog, collection, yes, reading
        )
        report = fetch_cube(request, out, scene_list_path(out), options)[0]
    else:
        if catalog != DEFAULT_CATALOGUE or collection is not None or yes:
            raise ConfigError(
                "--safe cannot be combined with --catalog, --collection or --yes; leave one of"
                " them out."
            )
        any_day = season is None and first is None and last is None
        days = None if any_day else _days(area, reading, season, first, last)
        report = cube_from_archives(safe, area, days, out, options, reading=reading)
    _print_cube(report)


def _print_cube(report: CubeReport) -> None:
    print("\n".join(report.lines()))
    hand_over(out=str(report.path))
    print(f"{report.path} is ready: panoseg map {report.path} --out map")


def _convert(source: str | None, out: Path | None, items: bool, read: ReadOptions) -> None:
    """Write a season on disk as a Zarr store, or its STAC items, or both."""
    from panoseg.cube.convert import convert_cube, write_items

    if source is None:
        raise ConfigError(
            "Pass --area FILE with the outline, or --from FOLDER with a season on disk."
        )
    if out is None and not items:
        raise ConfigError("Name the Zarr store to make, e.g. --out season.zarr.")
    if out is not None:
        report = convert_cube(Path(source), out, options=read)
        _print_cube(report)
    if items:
        path, number, notes = write_items(Path(source))
        print("\n".join([*(f"note: {note}" for note in notes), f"{number} items in {path}"]))


def _days(
    area: Path, reading: VectorOptions, season: int | None, first: str | None, last: str | None
) -> tuple[date, date]:
    """Return the first and the last day that the options name, of an area."""
    from panoseg.imagery.area import read_area

    if (season is None) == (first is None and last is None) or (first is None) != (last is None):
        raise ConfigError(
            "Pass either --season or both --from and --to, e.g. --season 2024, or --from 2023-09-01"
            " --to 2024-10-31."
        )
    if season is not None:
        return read_area(area, reading).season(season)
    return _day("from", first), _day("to", last)


def _day(option: str, text: str | None) -> date:
    try:
        return date.fromisoformat(str(text))
    except ValueError as error:
        raise ConfigError(
            f"--{option} {text!r} is not a date; write it as in 2023-09-01."
        ) from error


def dataset(
    *,
    parcels: Path,
    class_column: str,
    classes: Path,
    out: Annotated[Path, Output.FOLDER],
    cube: Annotated[list[Path], tyro.conf.UseAppendAction] = [],  # noqa: B006
    layout: Literal["pastis", "s2tsczcrop"] = "pastis",
    workers: int = 1,
    options: Annotated[DatasetOptions, tyro.conf.arg(name="")] = DatasetOptions(),  # noqa: B008
    source: Annotated[FetchOptions, tyro.conf.arg(name="")] = FetchOptions(),  # noqa: B008
    reading: Annotated[RegisterOptions, tyro.conf.arg(name="")] = RegisterOptions(),  # noqa: B008
) -> None:
    """Make training data from a register of parcels and the seasons of its land.

    The dataset has the layout of PASTIS or S2TSCzCrop. The land is cut into patches; folds (or
    sets) are blocks of land, and no parcel and no ground is in two of them. Faults of the register
    are counted, printed, and written to report.json. To continue an interrupted run, run the same
    command again.

    example: panoseg dataset --parcels register.gpkg --class-column crop --classes table.csv --cube
    season.zarr --out DIR

    example: panoseg dataset --parcels r.gpkg --class-column crop --classes c.csv --season 2024
    --catalog earth-search --out DIR

    Args:
        parcels: The register (GeoPackage, GeoParquet, GeoJSON, zipped Shapefile, FileGDB, ...), in
            any coordinate system.
        class_column: Column of the register with the crop codes.
        classes: CSV file with the columns code and class: the number or name of a class of the
            layout. Codes that it does not list become void.
        out: Folder for the dataset; must be new, empty, or hold a dataset made with the same
            options, which is completed.
        cube: Season as NetCDF, Zarr or a folder of GeoTIFFs; repeat the option for several.
        layout: PASTIS (five folds, parcels, 18 crops) or S2TSCzCrop (three sets, 13 crops).
        workers: Processes that read images; each takes up to a gigabyte.
        options: How patches are made.
        source: Where to fetch a season that is not on disk.
        reading: How the file of the register is read.
    """
    from panoseg.register.dataset import Sources, fetch_season, write_dataset

    if bool(cube) == (source.catalog is not None):
        raise ConfigError("Pass either --cube or --catalog with --season, not both.")
    if source.catalog is not None:
        if options.season is None:
            raise ConfigError("--catalog needs a harvest year; add e.g. --season 2024.")
        path = out.with_name(f"{out.name}.zarr")
        say("\n".join(fetch_season(parcels, options.season, path, source, reading).lines()))
        cube = [path]
    report = write_dataset(
        Sources(parcels, class_column, classes, tuple(cube), reading),
        out,
        layout,
        options,
        workers,
        say=lambda note: say(f"note: {note}"),
    )
    print("\n".join(report.lines()))
    print(
        f"{report.patches} patches of {options.size} x {options.size} pixels in {out}; look at"
        f" them: panoseg describe {out}"
    )


def simulate(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="dir"), Output.FOLDER],
    patches: int = 100,
    size: int = 128,
    seed: int = 0,
    layout: Literal["pastis", "s2tsczcrop", "coco"] = "pastis",
    cube: bool = False,
    parcel_maps: Path | None = None,
    parcels: Path | None = None,
    centres: bool = False,
    workers: int | None = None,
    options: Annotated[SimulationOptions, tyro.conf.arg(name="")] = SimulationOptions(),  # noqa: B008
    photographs: PhotographOptions = PhotographOptions(),  # noqa: B008
    reading: Annotated[VectorOptions, tyro.conf.arg(name="")] = VectorOptions(),  # noqa: B008
) -> None:
    """Write simulated seasons as a dataset or as one cube, or simulated photographs.

    Seasons have the layout of PASTIS or S2TSCzCrop, photographs that of COCO.

    example: panoseg simulate DIR --patches 100 --size 128 --seed 0

    example: panoseg simulate DIR --layout coco --patches 1000

    example: panoseg simulate DIR --cube --size 512 --region bocage

    example: panoseg simulate DIR --style real --parcels FIELDS.gpkg --patches 1000

    Args:
        folder: Folder to write; must be new, empty, or hold a dataset made with the same options,
            which is completed or enlarged.
        patches: Number of patches or photographs over all folds, sets or splits; not used with
            --cube.
        size: Side in pixels; pixels of seasons have 10 m.
        seed: The same seed gives the same data.
        layout: PASTIS (five folds, parcels, 18 crops), S2TSCzCrop (three sets, 13 crops), or COCO
            (photographs of ten classes; train and val).
        cube: Write cube.nc and parcels.gpkg instead of a dataset.
        parcel_maps: Folder with ParcelIDs_*.npy; their parcels are used instead of simulated ones.
        parcels: File of polygons (GeoPackage, GeoParquet, GeoJSON or Shapefile) whose fields are
            used instead of simulated ones: each patch has a window of them, turned at random, and
            what lies between them is drawn.
        centres: Write INSTANCE_ANNOTATIONS too; readers compute them where they are absent.
        workers: Processes; by default one for each core.
        options: How seasons are simulated.
        photographs: How photographs are simulated.
        reading: How the file of --parcels is read.
    """
    given = parcel_maps is not None or parcels is not None or reading != VectorOptions()
    _check_layout(layout, options, photographs, cube or centres or given)
    if cube:
        if layout != "pastis" or parcel_maps is not None or centres or workers is not None:
            raise ConfigError(
                "--cube cannot be combined with --layout, --parcel-maps, --centres or --workers;"
                " leave them out."
            )
        from panoseg.simulation.cube import write_cube

        register = _register(parcels, reading)
        window = None if register is None else _window(register, (size, size), seed, options)
        write_cube(folder, (size, size), seed, options, window)
        print(
            f"cube.nc and parcels.gpkg in {folder}; map it with: panoseg map {folder / 'cube.nc'}"
            " --out MAP"
        )
    elif layout == "coco":
        from panoseg.simulation.write_photographs import write_photographs

        write_photographs(folder, patches, (size, size), seed, photographs, workers)
        print(f"{patches} photographs of {size} x {size} pixels in {folder}")
    else:
        layouts = parcel_maps, _register(parcels, reading)
        _write_dataset(folder, patches, size, seed, layout, layouts, centres, workers, options)


def _register(path: Path | None, reading: VectorOptions) -> GeoDataFrame | None:
    """Read the file of --parcels, where there is one."""
    if path is None:
        if reading != VectorOptions():
            raise ConfigError("--layer, --encoding, --crs and --allow-virtual need --parcels.")
        return None
    from panoseg.maps.read_parcels import read_parcels

    return read_parcels(path, options=reading)


def _window(
    register: GeoDataFrame, size: tuple[int, int], seed: int, options: SimulationOptions
) -> Layout:
    """Return a window of real parcels."""
    import numpy as np

    from panoseg.simulation.layout import ParcelFile

    rng = np.random.default_rng((seed, 1))
    return ParcelFile.of(register).window(size, rng, options.field_size)


def _check_layout(
    layout: str,
    options: SimulationOptions,
    photographs: PhotographOptions,
    has_season_options: bool,
) -> None:
    """Raise ``ConfigError`` for options that the layout does not have, instead of ignoring them."""
    if layout == "coco" and (has_season_options or options != SimulationOptions()):
        raise ConfigError(
            "--layout coco has no options of seasons; use only --photographs options with it."
        )
    if layout != "coco" and photographs != PhotographOptions():
        raise ConfigError("--photographs options need --layout coco.")


def _write_dataset(
    folder: Path,
    patches: int,
    size: int,
    seed: int,
    layout: str,
    layouts: tuple[Path | None, GeoDataFrame | None],
    centres: bool,
    workers: int | None,
    options: SimulationOptions,
) -> None:
    from panoseg.simulation.write import write_pastis, write_s2tsczcrop

    parcel_maps, parcels = layouts
    side = (size, size)
    if layout == "pastis":
        write_pastis(
            folder,
            patches,
            side,
            seed,
            options,
            workers,
            parcel_maps=parcel_maps,
            parcels=parcels,
            centres=centres,
        )
    elif centres:
        raise ConfigError(
            "--layout s2tsczcrop has no parcels, so it cannot have --centres; leave one of them"
            " out."
        )
    else:
        write_s2tsczcrop(
            folder, patches, side, seed, options, workers, parcel_maps=parcel_maps, parcels=parcels
        )
    print(f"{patches} patches of {size} x {size} pixels in {folder}")


def describe(
    dataset: Annotated[Path, tyro.conf.Positional],
    *,
    out: Annotated[Path | None, Output.FOLDER] = None,
    patches: int | None = None,
    seed: int = 0,
    normalisation: bool = False,
    classes: Path | None = None,
) -> None:
    """Print what a dataset holds: patches, folds, dates, parcels and their areas, and each class.

    With --out it also reads the images and draws figures: the distribution of classes, NDVI over
    the season by class (without cloudy pixels), the calendar of acquisitions, and a few patches in
    true colour next to their truth.

    example: panoseg describe PASTIS

    example: panoseg describe PASTIS --patches 200 --out described

    Args:
        dataset: Folder of the dataset, in the layout of PASTIS or S2TSCzCrop.
        out: New or empty folder for dataset.md and figures; by default nothing is written.
        patches: Number of randomly drawn patches to read; by default all.
        seed: The same seed draws the same patches.
        normalisation: First compute NORM_S2_patch.json, the mean and deviation of each band, which
            training needs, where the dataset lacks it.
        classes: CSV file of the classes of an own dataset in PASTIS's layout: columns id and name,
            and kind (thing, stuff, void) and colour if wanted.
    """
    from panoseg.data.describe import write_normalisation
    from panoseg.data.pastis_files import read_class_table
    from panoseg.pictures.dataset import describe as describe_dataset

    table = None if classes is None else read_class_table(classes)
    if normalisation:
        say(f"{write_normalisation(dataset, table)} is written")
    print(describe_dataset(dataset, out, patches, seed, table))
