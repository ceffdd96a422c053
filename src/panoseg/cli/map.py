"""``panoseg map``: a season on disk becomes a map of parcels."""

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
from panoseg.maps.options import MapOptions, RunOptions
from panoseg.progress import json_lines, listening

if TYPE_CHECKING:
    from panoseg.maps.mapping import MapResult


def run(
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
