"""The demonstration: simulate a landscape that no weights have seen, map its season, compare with the truth."""

from __future__ import annotations

from pathlib import Path

from panoseg.data.simulation.cube import write_cube
from panoseg.files import new_folder
from panoseg.maps.mapping import MapResult, map_cube
from panoseg.maps.options import MapOptions
from panoseg.models.weights import Weights

# Far from the seeds of training, which count up from 0.
FIRST_SEED = 1_000_000


def run_demo(out: Path | str, size: int = 256, seed: int = 0, weights: Weights | Path | None = None) -> MapResult:
    """Simulate ``size`` x ``size`` pixels, map them, and compare with the true parcels in the report.

    out: a new or empty folder; gets ``season`` (cube.nc and parcels.gpkg, the truth) and ``map``. seed: which landscape.
    weights: None for those in the package. Raises ``PanosegError`` of all kinds.
    """
    from panoseg.models.weights import default_weights

    loaded = default_weights() if weights is None else weights
    del loaded
    out = new_folder(out)
    season = write_cube(out / "season", (size, size), FIRST_SEED + seed)
    return map_cube(season / "cube.nc", weights, out / "map", MapOptions(year=2019), truth=season / "parcels.gpkg")
