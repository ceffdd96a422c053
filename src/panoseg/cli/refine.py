"""``panoseg refine``: one class for each parcel of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from panoseg.maps.options import RefineOptions


def run(
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
