"""How much memory and time a large map takes: ``python benchmarks/mapping.py [--size 2048] [--dates
30]``.

A simulated landscape is repeated over the area, so that making the cube takes little time compared
with mapping it. The network has its published size; without weights its numbers are random, which
changes what is drawn but not the time. The map is made by a separate process, whose largest memory
is reported by the system.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np
import torch

from panoseg.data.samples import Normalisation
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.network import build_network, initialise
from panoseg.models.weights import Weights, WeightsCard, save_weights
from panoseg.simulation.cube import simulate_cube
from panoseg.simulation.options import SimulationOptions

_PIECE = 256
_GIB = 1024**2  # ru_maxrss counts kibibytes


def write_large_cube(path: Path, size: int, dates: int) -> None:
    """Write a NetCDF of ``size`` x ``size`` pixels in which a piece of 256 x 256 repeats."""
    side = min(size, _PIECE)
    piece, _ = simulate_cube(
        (side, side), 2_000_000, SimulationOptions(dates=(dates, dates), cloudy=(0.05, 0.1))
    )
    times = -(-size // side)
    left, top = float(piece.x[0]), float(piece.y[0])
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", dates), ("y", size), ("x", size)):
            file.createDimension(name, length)
        days = (piece.time.values.astype("datetime64[D]") - np.datetime64("1970-01-01")).astype(int)
        for name, values in (
            ("time", days),
            ("y", top - 10 * np.arange(size)),
            ("x", left + 10 * np.arange(size)),
        ):
            file.createVariable(name, "f8", (name,))[:] = values
        file["time"].units = "days since 1970-01-01"
        file.createVariable("spatial_ref", "i4").crs_wkt = piece.odc.crs.to_wkt()
        for band in (*PASTIS_BANDS, "SCL"):
            kind = piece[band].dtype
            variable = file.createVariable(
                band,
                kind,
                ("time", "y", "x"),
                zlib=True,
                complevel=1,
                chunksizes=(1, min(size, 512), min(size, 512)),
            )
            variable.grid_mapping = "spatial_ref"
            for date in range(dates):
                variable[date] = np.tile(piece[band].values[date], (times, times))[:size, :size]


def random_weights() -> Weights:
    """The published network with initial numbers."""
    torch.manual_seed(0)
    model = initialise(build_network(PapsConfig()))
    card = WeightsCard(
        model.config,
        Normalisation((1500.0,) * 10, (1000.0,) * 10),
        trained_on="nothing: random numbers",
    )
    return Weights(card, model.state_dict())


def main() -> None:
    """Make the cube, map it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--dates", type=int, default=30)
    parser.add_argument("--weights", type=Path, help="folder of weights; random numbers without")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_large_cube(folder / "season.nc", arguments.size, arguments.dates)
        weights = arguments.weights or folder / "weights"
        if arguments.weights is None:
            save_weights(weights, random_weights())
        start = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "panoseg",
            "map",
            str(folder / "season.nc"),
            "--weights",
            str(weights),
        ]
        subprocess.run(
            [*command, "--out", str(folder / "map"), "--precision", arguments.precision], check=True
        )
        seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _GIB
    print("| season | weights | largest memory | time | pixels a second |")
    print("|---|---|---|---|---|")
    kind = "given" if arguments.weights else "random"
    season = f"{arguments.size} x {arguments.size}, {arguments.dates} dates"
    print(
        f"| {season} | {kind} | {peak:.2f} GiB | {seconds:.0f} s |"
        f" {arguments.size**2 / seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
