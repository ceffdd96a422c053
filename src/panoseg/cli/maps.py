"""The commands on maps: demo, map, refine, compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cube.options import AreaOptions, CubeOptions
from panoseg.errors import ConfigError
from panoseg.maps.options import MapOptions, RefineOptions, RunOptions
from panoseg.progress import json_lines, listening

if TYPE_CHECKING:
    from panoseg.maps.compare import Comparison
    from panoseg.maps.mapping import MapResult


def demo(
    out: Path = Path("panoseg-demo"), size: int = 256, seed: int = 0, weights: Path | None = None
) -> None:
    """Simulate a season of an unseen landscape, map it, compare with the truth, write report.html.

    example: panoseg demo

    Args:
        out: Folder for the season and its map; new or empty.
        size: Pixels of 10 m on a side.
        seed: Which landscape.
        weights: Folder of weights; without it the ones in the package are used.
    """
    from panoseg.demo import run_demo

    result = run_demo(out, size, seed, weights)
    for note in result.notes:
        print(f"note: {note}")
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
        print(
            f"PQ {100 * result.comparison.quality.pq:.1f} whatever the class, on {size} x {size}"
            " pixels never seen before"
        )
    print(f"open {result.report}")


def map_season(
    cube: tyro.conf.Positional[Path | None] = None,
    *,
    out: Path,
    weights: Path | None = None,
    truth: Path | None = None,
    declared_only: bool = False,
    progress: Literal["people", "json"] = "people",
    area: Annotated[AreaOptions, tyro.conf.arg(name="")] = AreaOptions(),  # noqa: B008
    fetch: CubeOptions = CubeOptions(),  # noqa: B008
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(),  # noqa: B008
    options: Annotated[MapOptions, tyro.conf.arg(name="")] = MapOptions(),  # noqa: B008
) -> None:
    """Map a season: parcels with classes (parcels.parquet), rasters (classes, segments, confidence)
    and report.html.

    CUBE is a NetCDF file, a Zarr store, or a folder of cloud-optimised GeoTIFFs with STAC items:
    bands B02 .. B12 under any of their names, dims time, y and x, reflectance x 10 000, 10 m
    pixels. A stopped map goes on when the same command runs again.

    example: panoseg map season.nc --weights weights --out map --gpkg

    example: panoseg map --area farm.geojson --season 2024 --out map

    Args:
        cube: The season.
        out: Folder for the map; new, empty, or of the same map unfinished.
        weights: Folder of weights; without it the ones in the package are used.
        truth: True parcels to compare with in the report.
        declared_only: The truth covers part of the land; score inside it, as panoseg compare
            --declared-only does.
        progress: For people, or as lines of JSON on standard output, the last of which says what
            was made.
        area: Land and season instead of a cube.
        fetch: How the cube of the land is made.
        running: Where the work is done: here, by --workers processes, or on a --dask cluster; the
            map is the same.
        options: How the map is made.
    """
    with listening(json_lines(sys.stdout)) if progress == "json" else nullcontext():
        result = _mapped(cube, area, fetch)(
            weights, out, options, truth, declared_only, running=running
        )
    if progress == "json":
        print(json.dumps(_told(result)), flush=True)
    else:
        _show(result)


def _mapped(cube: Path | None, area: AreaOptions, fetch: CubeOptions) -> Callable[..., MapResult]:
    """What maps a cube, or an area."""
    if (cube is None) == (area.area is None):
        raise ConfigError("no season, or two", "a cube, or --area with --season", "say one of them")
    if cube is None:
        from panoseg.maps.mapping import map_area

        return partial(map_area, area, fetch)
    if area != AreaOptions() or fetch != CubeOptions():
        raise ConfigError("options of a fetch with a cube", "them with --area", "leave them out")
    from panoseg.maps.mapping import map_cube

    return partial(map_cube, cube)


def _told(result: MapResult) -> dict[str, object]:
    """What was made, JSON-ready."""
    return {
        "step": "map",
        "parcels": result.summary.count,
        "hectares": round(result.summary.area_ha, 1),
        "seconds": round(result.seconds, 1),
        "notes": list(result.notes),
        "comparison": None if result.comparison is None else result.comparison.to_json(),
        "report": str(result.report),
    }


def _show(result: MapResult) -> None:
    for note in result.notes:
        print(f"note: {note}")
    print(
        f"{result.summary.count} parcels, {result.summary.area_ha:.1f} ha, in"
        f" {result.seconds:.0f} s"
    )
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
    print(f"open {result.report}")


def refine(
    raster: tyro.conf.Positional[Path],
    out: Path,
    parcels: Path | None = None,
    options: Annotated[RefineOptions, tyro.conf.arg(name="")] = RefineOptions(),  # noqa: B008
) -> None:
    """Give each parcel of a register one class, from a map: parcels.parquet and a homogeneous
    classes.tif.

    RASTER is the folder of a map, a raster of classes, or a raster with the probability of each
    class, a band each, that of class 0 first. The soft rule needs probabilities: of a map it takes
    the confidence, the rest for the background.

    example: panoseg refine map --parcels register.gpkg --out refined

    example: panoseg refine map --parcels register.gpkg --out parcels.parquet

    Args:
        raster: The map.
        out: Folder for the result, new or empty; or a new file ending in .parquet, for the table
            alone.
        parcels: The parcels (GeoParquet, GeoPackage, GeoJSON), in any coordinate system; without
            them the connected regions of RASTER itself.
        options: How parcels get their class.
    """
    from panoseg.maps.refine import refine_file

    refined = refine_file(raster, parcels, out, options)
    table = refined.parcels
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
    table_path = out if out.suffix == ".parquet" else out / "parcels.parquet"
    print(f"{len(table)} parcels, {table['area_ha'].sum():.1f} ha, in {table_path}")


def compare(
    parcels: tyro.conf.Positional[Path],
    truth: tyro.conf.Positional[Path],
    class_column: str | None = None,
    truth_class_column: str | None = None,
    class_map: Path | None = None,
    declared_only: bool = False,
    min_area_ha: float | None = None,
    json: Path | None = None,
) -> None:
    """Score parcels against true parcels: matched, missed, invented, IoU, agreement of classes, PQ.

    Two parcels match where their intersection over union is above 0.5. Files may differ in format
    and coordinate system.

    example: panoseg compare map/parcels.parquet truth.gpkg --declared-only

    Args:
        parcels: The parcels (GeoParquet, GeoPackage, GeoJSON).
        truth: The true parcels.
        class_column: Column of the classes in PARCELS; class, crop:name, crop:code or crop_code
            where it is not named.
        truth_class_column: Column of the classes in TRUTH; likewise.
        class_map: JSON object from classes of the truth to classes of the parcels.
        declared_only: The truth covers part of the land: count parcels only with what lies inside
            it, take those for invented that lie mostly there, and leave out true parcels below 0.1
            ha (ten pixels).
        min_area_ha: True parcels below this area do not count; 0, or 0.1 with --declared-only.
        json: Write all numbers here as well.
    """
    from panoseg.maps.compare import compare_files

    _check_place(json)
    comparison = compare_files(
        parcels,
        truth,
        class_column=class_column,
        truth_class_column=truth_class_column,
        class_map=class_map,
        declared_only=declared_only,
        min_area_ha=min_area_ha,
    )
    _report(comparison, json)


def _check_place(json: Path | None) -> None:
    from panoseg.files import check_writable

    if json is not None:
        check_writable(json)


def _report(comparison: Comparison, json: Path | None) -> None:
    from panoseg.files import write_json

    print(comparison.table())
    if json is not None:
        write_json(json, comparison.to_json())
        print(f"\nwritten to {json}")
