"""The demonstration: simulate a landscape that no weights have seen, map its season, compare with
the truth.
"""

from __future__ import annotations

from pathlib import Path

from panoseg.files import new_folder
from panoseg.maps.mapping import MapResult, map_cube
from panoseg.maps.options import MapOptions
from panoseg.models.weights import Weights, default_weights, load_weights
from panoseg.simulation.cube import write_cube

# Seeds of training count up from 0 and stay far below.
_FIRST_SEED = 1_000_000


def run_demo(
    out: Path | str, size: int = 256, seed: int = 0, weights: Weights | Path | str | None = None
) -> MapResult:
    """Simulate ``size`` x ``size`` pixels, map them, and compare with the true parcels in the
    report.

    out: a new or empty folder; gets ``season`` (cube.nc, and parcels.gpkg, the truth) and ``map``.
    seed: which landscape.
    weights: None for those in the package. Raises ``PanosegError`` of all kinds, for missing
    weights before anything else.
    """
    if weights is None:
        default_weights()
    elif not isinstance(weights, Weights):
        weights = load_weights(weights)
    out = new_folder(out)
    season = write_cube(out / "season", (size, size), _FIRST_SEED + seed)
    return map_cube(
        season / "cube.nc",
        weights,
        out / "map",
        MapOptions(year=2019, views=2),
        truth=season / "parcels.gpkg",
    )
