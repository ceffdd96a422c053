"""Memory and time of a dataset from a register: ``python benchmarks/dataset.py [--size 10980]
[--dates 2] [--parcels 200000]``.

The land has the size of a whole tile of Sentinel-2. One simulated piece of 512 x 512 pixels repeats
all over it: its chunks are one file with many names, so that the cube takes no room, while every
one of them is read and decoded. The dataset itself takes
room: 330 kB a patch and date. It is made by a process of its own, whose largest memory the system
tells.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.cube import simulate_cube
from panoseg.simulation.options import SimulationOptions

_PIECE = 512
_LEFT, _TOP = 600_000, 5_600_040
_GIB = 1024**2  # ru_maxrss counts kibibytes


def write_cube(path: Path, size: int, dates: int) -> None:
    """A Zarr store of ``size`` x ``size`` pixels in which one piece repeats."""
    options, side = SimulationOptions(dates=(dates, dates), cloudy=(0.05, 0.1)), min(size, _PIECE)
    piece, _ = simulate_cube((side, side), 2_000_000, options)
    grid = GeoBox.from_bbox(
        (_LEFT, _TOP - 10 * size, _LEFT + 10 * size, _TOP), crs="EPSG:32631", resolution=10
    )
    coords = xr_coords(grid, always_yx=True)
    coords["time"] = piece["time"]
    names = (*PASTIS_BANDS, "SCL")
    empty = {
        name: (
            ("time", "y", "x"),
            da.zeros((dates, size, size), dtype=piece[name].dtype, chunks=(1, _PIECE, _PIECE)),
        )
        for name in names
    }
    cube = xr.Dataset(empty, coords)
    for name in names:
        cube[name].attrs["grid_mapping"] = "spatial_ref"
    cube.to_zarr(path, compute=False, consolidated=False, zarr_format=3)
    store = zarr.open_group(path, mode="r+")
    pieces = range(-(-size // _PIECE))
    for name in names:
        for day in range(dates):
            store[name][day, :side, :side] = piece[name].values[day]
            first = path / name / "c" / str(day) / "0" / "0"
            for row in pieces:
                (first.parents[1] / str(row)).mkdir(exist_ok=True)
                for column in pieces:
                    if row or column:
                        os.link(first, first.parents[1] / str(row) / str(column))


def write_register(folder: Path, size: int, parcels: int) -> None:
    """This number of turned rectangles over the land, of six crops, and their table of codes."""
    side = max(round(parcels**0.5), 1)
    step = 10 * size / side
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side)))
    left, top = _LEFT + step * column, _TOP - step * row
    boxes = shapely.box(
        left + 0.05 * step, top - 0.95 * step, left + 0.95 * step, top - 0.05 * step
    )
    outlines = shapely.transform(
        shapely.segmentize(boxes, step / 5), lambda xy: xy + 0.1 * xy[:, ::-1] % (step / 20)
    )
    table = gpd.GeoDataFrame(
        {"crop": (column * 7 + row) % 6 + 1}, geometry=outlines, crs="EPSG:32631"
    )
    table.to_file(folder / "register.gpkg", driver="GPKG")
    (folder / "table.csv").write_text(
        "code,class\n" + "\n".join(f"{code},{code}" for code in range(1, 7))
    )


def main() -> None:
    """Make cube and register, then the dataset; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_980)
    parser.add_argument("--dates", type=int, default=2)
    parser.add_argument("--parcels", type=int, default=200_000)
    parser.add_argument("--patch", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cube(folder / "season.zarr", arguments.size, arguments.dates)
        write_register(folder, arguments.size, arguments.parcels)
        words = [
            "--parcels",
            str(folder / "register.gpkg"),
            "--class-column",
            "crop",
            "--classes",
            str(folder / "table.csv"),
        ]
        words += [
            "--cube",
            str(folder / "season.zarr"),
            "--min-dates",
            "1",
            "--size",
            str(arguments.patch),
            "--min-clear",
            "0",
        ]
        start = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "panoseg",
            "dataset",
            *words,
            "--out",
            str(folder / "dataset"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        patches = len(list((folder / "dataset" / "DATA_S2").iterdir()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, processor = used.ru_maxrss / _GIB, used.ru_utime + used.ru_stime
    print("| land | dates | parcels | patches | largest memory | time | of the processor |")
    print("|---|---|---|---|---|---|---|")
    land = f"{arguments.size} x {arguments.size}"
    print(
        f"| {land} | {arguments.dates} | {arguments.parcels} | {patches} | {peak:.2f} GiB |"
        f" {seconds:.0f} s | {processor:.0f} s |"
    )


if __name__ == "__main__":
    main()
