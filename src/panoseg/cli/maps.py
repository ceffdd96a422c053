"""The commands for maps: demo, inspect, map, adapt, refine, compare."""

from __future__ import annotations

import json as json_module
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cli.output import Output
from panoseg.cli.terminal import hand_over
from panoseg.cube import AreaOptions, CubeOptions, ReadOptions
from panoseg.errors import ConfigError, CubeError, PanosegError, require
from panoseg.imagery import VectorOptions
from panoseg.maps import MapOptions, RefineOptions, RunOptions
from panoseg.progress import json_lines, listening
from panoseg.register import AdaptOptions, RegisterOptions
from panoseg.text_files import read_json

if TYPE_CHECKING:
    from panoseg.maps.mapping import MapResult
    from panoseg.maps.refine import Refinement


def demo(
    out: Annotated[Path, Output.FOLDER] = Path("panoseg-demo"),
    size: int = 256,
    seed: int = 0,
    weights: str | None = None,
) -> None:
    """Simulate a season, map it, compare the map with the truth, and write report.html.

    example: panoseg demo

    Args:
        out: Folder for the season and its map; must be new or empty.
        size: Side of the simulated square in pixels of 10 m.
        seed: Seed of the landscape.
        weights: Folder or name of weights; by default the weights in the package.
    """
    from panoseg.api import run_demo

    result = run_demo(out, size, seed, weights)
    for note in result.notes:
        print(f"note: {note}")
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
        print(
            f"PQ {100 * result.comparison.quality.pq:.1f} for any class, on {size} x {size}"
            " pixels never seen before"
        )
    print(f"open {result.report}")


def inspect(
    cube: tyro.conf.Positional[Path],
    json: bool = False,
    out: Annotated[Path | None, Output.FILE] = None,
    options: Annotated[ReadOptions, tyro.conf.arg(name="")] = ReadOptions(),  # noqa: B008
) -> None:
    """Say how a season is understood, before it is mapped.

    Prints its format, bands, scale, no data, coordinate system, grid and dates (used, too cloudy,
    outside of the season), and a warning for everything odd. The options put right what is
    understood wrongly; pass the same ones to panoseg map.

    example: panoseg inspect season.nc --out season.html

    Args:
        cube: The season, in any form that panoseg map reads.
        json: Print JSON instead of text.
        out: Also write a page with pictures in true colour and of NDVI.
        options: What the file does not say.
    """
    from panoseg.maps.inspect import describe_unusable, inspect_cube
    from panoseg.models.configs.parcels import FEWEST_BANDS

    try:
        found = inspect_cube(cube, options, FEWEST_BANDS)
    except CubeError:
        if not json:
            print("\n".join(describe_unusable(cube)))
        raise
    if out is not None:
        found.write_report(out)
    hand_over(season=found.inspection.to_json(), page=None if out is None else str(out))
    if json:
        print(json_module.dumps(found.inspection.to_json(), indent=1))
    else:
        print("\n".join(found.inspection.lines()))
        if out is not None:
            print(f"open {out}")


def map_season(
    cube: tyro.conf.Positional[Path | None] = None,
    *,
    out: Annotated[Path, Output.FOLDER],
    weights: str | None = None,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
    truth: Path | None = None,
    declared_only: bool = False,
    parcels: Path | None = None,
    progress: Literal["people", "json"] = "people",
    area: Annotated[AreaOptions, tyro.conf.arg(name="")] = AreaOptions(),  # noqa: B008
    fetch: CubeOptions = CubeOptions(),  # noqa: B008
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(),  # noqa: B008
    options: Annotated[MapOptions, tyro.conf.arg(name="")] = MapOptions(),  # noqa: B008
) -> None:
    """Map the parcels of a season: parcels.parquet, rasters and report.html.

    CUBE is a NetCDF file, a Zarr store (also zipped), or a folder of GeoTIFFs: bands B02 to B12
    under any of their names, dimensions time, y and x, reflectance x 10 000, 10 m pixels. The
    rasters are classes, segments and confidence. To continue an interrupted map, run the same
    command again.

    example: panoseg map season.nc --weights weights --out map --gpkg

    example: panoseg map --area farm.geojson --season 2024 --out map

    example: panoseg map season.nc --parcels register.gpkg --out map

    example: panoseg map season.nc --weights pastis-utae-paps --fold 1 --out map

    Args:
        cube: The season to map.
        out: Folder for the map; must be new, empty, or hold the same map unfinished.
        weights: Folder of weights or a run; a name of panoseg weights list, zenodo:RECORD,
            hf:OWNER/NAME or an https address, which are fetched once; by default the weights in the
            package.
        fold: Which weights to take of published ones of several folds; by default the first.
        truth: File of true parcels; the report compares the map with them.
        declared_only: The truth covers only part of the land: score inside it, as panoseg compare
            --declared-only does.
        parcels: File of fields that are given: what grows on each is written to the folder
            fields of the map, as by panoseg refine MAP --parcels FILE.
        progress: How progress is printed: for people, or as JSON lines on standard output, the
            last of which describes the result.
        area: Area and season to fetch and map, instead of a cube.
        fetch: How the cube of the area is made.
        running: Where the map is computed: in this process, in --workers processes, or on a --dask
            cluster. The result is the same.
        options: How the map is made.
    """
    if (cube is None) == (area.area is None):
        raise ConfigError("Pass either CUBE or --area with --season, not both.")
    if cube is not None and (area != AreaOptions() or fetch != CubeOptions()):
        raise ConfigError(
            "Options that choose or fetch a season need --area. Leave them out, or pass --area"
            " instead of CUBE."
        )
    if not running.local:
        require("cluster", "--workers" if running.dask is None else "--dask")
    if cube is not None:
        _refuse_early(cube, weights, options.read)
    from panoseg.maps.mapping import map_area, map_cube
    from panoseg.maps.read_parcels import read_truth
    from panoseg.maps.refine import refine_file

    if parcels is not None:
        read_truth(parcels)  # a file that cannot be read costs no map
    with listening(json_lines(sys.stdout)) if progress == "json" else nullcontext():
        if cube is None:
            result = map_area(
                area, fetch, weights, out, options, truth, declared_only, running=running, fold=fold
            )
        else:
            result = map_cube(
                cube, weights, out, options, truth, declared_only, running=running, fold=fold
            )
    refined = None
    if parcels is not None:
        try:
            refined = refine_file(out, parcels, out / "fields")
        except PanosegError as error:
            raise type(error)(
                f"The map is finished in {out}, but not the given fields: {error} Then run panoseg"
                f" refine {out} --parcels FILE --out {out / 'fields'}."
            ) from error
    hand_over(**_map_to_json(result), out=str(out))
    if progress == "json":
        print(json_module.dumps({"step": "map", **_map_to_json(result)}), flush=True)
    else:
        _print_map(result)
    if refined is not None and progress == "people":
        _print_refined(refined, out / "fields" / "parcels.parquet", RefineOptions())


def _refuse_early(cube: Path, weights: str | None, read: ReadOptions) -> None:
    """Refuse a cube that cannot be read before torch is imported, which takes seconds.

    Raises:
        CubeError: The cube cannot be read.
    """
    from panoseg.cube.check import read_dataset
    from panoseg.cube.open import open_cube, reading
    from panoseg.models.configs import config_from_json
    from panoseg.models.weights_list import FOR_FEWER_BANDS, PACKAGE_FOLDER

    folder = PACKAGE_FOLDER / FOR_FEWER_BANDS if weights is None else Path(weights)
    try:
        card = read_json(folder / "card.json")
        bands = tuple(map(str, card["normalisation"]["bands"]))
        fewest = config_from_json(card["model"]).fewest_bands
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return  # what is wrong with weights is said by their own reader
    opened = open_cube(cube)
    with reading(cube):
        read_dataset(opened, bands, read, fewest)


def _map_to_json(result: MapResult) -> dict[str, object]:
    """Return what programs are told of a finished map."""
    return {
        "parcels": result.summary.count,
        "hectares": round(result.summary.area_ha, 1),
        "seconds": round(result.seconds, 1),
        "notes": list(result.notes),
        "comparison": None if result.comparison is None else result.comparison.to_json(),
        "report": str(result.report),
    }


def _print_map(result: MapResult) -> None:
    for note in result.notes:
        print(f"note: {note}")
    print(
        f"{result.summary.count} parcels, {result.summary.area_ha:.1f} ha, in"
        f" {result.seconds:.0f} s"
    )
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
    print(f"open {result.report}")


def adapt(
    cube: tyro.conf.Positional[Path],
    *,
    fields: Path,
    out: Annotated[Path, Output.FOLDER],
    no_fields: Path | None = None,
    class_column: str | None = None,
    weights: str | None = None,
    options: Annotated[AdaptOptions, tyro.conf.arg(name="")] = AdaptOptions(),  # noqa: B008
    reading: Annotated[RegisterOptions, tyro.conf.arg(name="")] = RegisterOptions(),  # noqa: B008
) -> None:
    """Adapt weights to a season by fields that you drew or corrected: weights for panoseg map.

    Twenty fields are a good start. Draw each whole, and a few polygons where there is no field.
    First each half of the fields is held out once; the weights are written only if the fields are
    drawn better by weights that learned the other half.

    example: panoseg adapt season.nc --fields corrected.gpkg --out my-weights

    example: panoseg map season.nc --weights my-weights --out map

    Args:
        cube: The season, as for panoseg map.
        fields: File of polygons, the outlines of fields. Where their class is "no field", there is
            none.
        out: Folder for the weights; must be new or empty, or hold weights, which are replaced.
        no_fields: File of polygons without any field: gardens, yards, woods.
        class_column: Column with the class of each field, a name that the weights know; by default
            class, if there is one. Fields may have no class.
        weights: Folder or name of weights to begin with, of a network that draws fields; by
            default simulated-fields.
        options: How they are adapted.
        reading: How the files of polygons are read; a value is that of both files, or of each as in
            A=fields,B=gardens.
    """
    from panoseg.register.adapt import adapt_file

    adapted = adapt_file(out, cube, fields, weights, no_fields, class_column, options, reading)
    for note in adapted.notes:
        print(f"note: {note}")
    if adapted.after is not None:
        print(f"fields that were held out, before: {adapted.before}")
        print(f"fields that were held out, after:  {adapted.after}")
    hand_over(
        out=str(out),
        fields=adapted.fields,
        before=None if adapted.before is None else adapted.before.pq,
        after=None if adapted.after is None else adapted.after.pq,
        notes=list(adapted.notes),
    )
    print(f"learned {adapted.fields} fields; map with --weights {out}")


def refine(
    raster: tyro.conf.Positional[Path],
    out: Annotated[Path, Output.FOLDER],
    parcels: Path | None = None,
    options: Annotated[RefineOptions, tyro.conf.arg(name="")] = RefineOptions(),  # noqa: B008
    reading: Annotated[VectorOptions, tyro.conf.arg(name="")] = VectorOptions(),  # noqa: B008
) -> None:
    """Give each parcel of a register one class from a map: parcels.parquet and classes.tif.

    RASTER is the folder of a map, a raster of classes, or a raster with one band of probabilities
    for each class, class 0 first. The soft rule needs probabilities; for a map it takes the
    confidence as the probability of the mapped class, and the rest as background.

    example: panoseg refine map --parcels register.gpkg --out refined

    example: panoseg refine map --parcels register.gpkg --out parcels.parquet

    Args:
        raster: The map.
        out: Folder for the result, new or empty; or a new file ending in .parquet or .gpkg for the
            table alone.
        parcels: File of parcels (GeoPackage, GeoParquet, GeoJSON, zipped Shapefile, ...), in any
            coordinate system; by default the connected regions of RASTER.
        options: How parcels get their class.
        reading: How the file of parcels is read.
    """
    from panoseg.maps.refine import is_table, refine_file

    refined = refine_file(raster, parcels, out, options, reading)
    table_path = out if is_table(out) else out / "parcels.parquet"
    hand_over(parcels=len(refined.parcels), out=str(table_path))
    _print_refined(refined, table_path, options)


def _print_refined(refined: Refinement, table_path: Path, options: RefineOptions) -> None:
    table = refined.parcels
    for note in refined.notes:
        print(f"note: {note}")
    if refined.left_out:
        print(f"note: {refined.left_out} parcels lie outside of the raster and were left out.")
    if table["class"].isna().any():
        print(
            f"note: {table['class'].isna().sum()} parcels have no class: no data, no pixel, or too"
            " little background."
        )
    if table["tied"].any():
        number = "higher" if options.higher_wins else "lower"
        print(
            f"note: {table['tied'].sum()} parcels have two classes with equal shares; the {number}"
            " number was taken."
        )
    print(f"{len(table)} parcels, {table['area_ha'].sum():.1f} ha, in {table_path}")


def compare(
    parcels: tyro.conf.Positional[Path],
    truth: tyro.conf.Positional[Path],
    class_column: str | None = None,
    truth_class_column: str | None = None,
    class_map: Path | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
    ignore: Path | None = None,
    json: Path | None = None,
    reading: Annotated[VectorOptions, tyro.conf.arg(name="")] = VectorOptions(),  # noqa: B008
) -> None:
    """Score parcels against true parcels: matched, missed, invented, IoU, class agreement, PQ.

    Two parcels match if their intersection over union is above 0.5. The files may have different
    formats and coordinate systems.

    example: panoseg compare map/parcels.parquet truth.gpkg --declared-only

    example: panoseg compare map/parcels.parquet register.zip --class-column A=class,B=EC_hcat_n

    Args:
        parcels: The parcels (GeoPackage, GeoParquet, GeoJSON, zipped Shapefile, ...).
        truth: The true parcels.
        class_column: Class column of PARCELS, and of TRUTH if it has it; or both, as in
            A=crop,B=EC_hcat_n. By default the first of class, crop:name, crop:code and crop_code
            that exists.
        truth_class_column: Class column of TRUTH.
        class_map: JSON object that maps classes of the truth to classes of the parcels.
        declared_only: The truth covers only part of the land: score the part of each parcel inside
            it, count a parcel as invented if it lies mostly inside, and ignore true parcels below
            0.1 ha (ten pixels).
        min_area_ha: Ignore true parcels below this area; by default 0, or 0.1 with --declared-only.
        ignore: Polygons that count for nothing, for example where the truth is unsure: they are cut
            from all outlines, and what lies mostly on them is neither missed nor invented.
        json: Write all numbers to this file too.
        reading: How the files are read; a value is that of both, or of each as in A=crop,B=code.
    """
    from panoseg.files import check_writable, write_json
    from panoseg.maps.compare import compare_files

    if json is not None:
        check_writable(json)
    comparison = compare_files(
        parcels,
        truth,
        class_column=class_column,
        truth_class_column=truth_class_column,
        class_map=class_map,
        declared_only=declared_only,
        min_area_ha=min_area_ha,
        ignore=ignore,
        reading=reading,
    )
    print(comparison.table())
    hand_over(comparison=comparison.to_json())
    if json is not None:
        write_json(json, comparison.to_json())
        print(f"\nwritten to {json}")
