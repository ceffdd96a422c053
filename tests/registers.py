"""A small register with a parcel on each square of a tiny cube, for tests."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr

from cubes import LEFT, TOP, make_cube

CODES = "code,class\n0110,soft winter wheat\n200,corn\nMEA,meadow\n300,4\n"
CZECH_CODES = "code,class\n0110,winter cereals\n200,maize\nMEA,permanent grassland\n300,rapeseed\n"
DATES = tuple(str(day) for day in np.datetime64("2018-10-01") + np.arange(0, 360, 30))


def pixels(top: float, left: float, height: float, width: float) -> shapely.Polygon:
    """A rectangle of pixels of the cube of ``cubes.make_cube``, on the map."""
    return shapely.box(
        LEFT + 10 * left, TOP - 10 * (top + height), LEFT + 10 * (left + width), TOP - 10 * top
    )


def field_register(size: int = 64, square: int = 16) -> gpd.GeoDataFrame:
    """A field in each square of ``square`` pixels, two pixels from its border; three crops in
    turn.
    """
    corners = [(row, column) for row in range(0, size, square) for column in range(0, size, square)]
    outlines = [pixels(row + 2, column + 2, square - 4, square - 4) for row, column in corners]
    codes = [("110", "200", "MEA")[number % 3] for number in range(len(corners))]
    return gpd.GeoDataFrame({"crop": codes}, geometry=outlines, crs="EPSG:32631")


def write_inputs(
    folder: Path,
    register: gpd.GeoDataFrame | None = None,
    cube: xr.Dataset | None = None,
    codes: str = CODES,
) -> tuple[Path, Path, Path]:
    """register.gpkg, table.csv and cube.nc in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    register = field_register() if register is None else register
    register.to_file(folder / "register.gpkg", driver="GPKG")
    (folder / "table.csv").write_text(codes)
    (make_cube(64, DATES, scl=True) if cube is None else cube).to_netcdf(folder / "cube.nc")
    return folder / "register.gpkg", folder / "table.csv", folder / "cube.nc"
