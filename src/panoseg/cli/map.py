"""``panoseg map``: a season on disk becomes a map of parcels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from panoseg.maps.options import MapOptions


def run(
    cube: tyro.conf.Positional[Path],
    out: Path,
    weights: Path | None = None,
    truth: Path | None = None,
    declared_only: bool = False,
    options: Annotated[MapOptions, tyro.conf.arg(name="")] = MapOptions(),  # noqa: B008
) -> None:
    """Map a season: parcels with classes (parcels.parquet), rasters (classes.tif, segments.tif) and report.html.

    CUBE is a NetCDF file, a Zarr store, or a folder of cloud-optimised GeoTIFFs with STAC items: bands B02 .. B12 under any of
    their names, dims time, y and x, reflectance x 10 000, 10 m pixels. A stopped map goes on when the same command runs again.

    example: panoseg map season.nc --weights weights --out map --gpkg

    Args:
        cube: The season.
        out: Folder for the map; new, empty, or of the same map unfinished.
        weights: Folder of weights; without it the ones in the package are used.
        truth: True parcels to compare with in the report.
        declared_only: The truth covers part of the land; score inside it, as panoseg compare --declared-only does.
        options: How the map is made.
    """
    from panoseg.maps.mapping import map_cube

    result = map_cube(cube, weights, out, options, truth, declared_only)
    for note in result.notes:
        print(f"note: {note}")
    print(f"{len(result.parcels)} parcels, {result.parcels['area_ha'].sum():.1f} ha, in {result.seconds:.0f} s")
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
    print(f"open {result.report}")
