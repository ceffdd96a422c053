"""The demonstration: simulate a landscape, map its season, and compare the map with the truth."""

from __future__ import annotations

from pathlib import Path

from panoseg.files import new_folder
from panoseg.maps import MapOptions
from panoseg.maps.mapping import MapResult, map_cube
from panoseg.models.model import find_weights
from panoseg.models.weights import Weights, default_weights, load_weights
from panoseg.simulation.cube import write_cube

# Training uses seeds from 0 up, far below this one: no network has seen the landscape.
_FIRST_SEED = 1_000_000


def run_demo(
    out: Path | str, size: int = 256, seed: int = 0, weights: Weights | Path | str | None = None
) -> MapResult:
    """Simulate a season, map it, and compare the map with the true parcels in the report.

    Args:
        out: A new or empty folder; gets ``season`` (cube.nc and parcels.gpkg, the truth) and
            ``map``.
        size: Side of the simulated square in pixels of 10 m.
        seed: Number of the landscape.
        weights: Weights, a folder or a name of weights; by default those in the package.

    Returns:
        The map and its comparison with the truth.

    Raises:
        PanosegError: The weights or the folder cannot be used; weights are checked first.
    """
    if weights is None:
        default_weights()
    elif not isinstance(weights, Weights):
        weights = load_weights(find_weights(weights))  # type: ignore[arg-type]
    out = new_folder(out)
    season = write_cube(out / "season", (size, size), _FIRST_SEED + seed)
    return map_cube(
        season / "cube.nc",
        weights,
        out / "map",
        MapOptions(year=2019, tta=2),
        truth=season / "parcels.gpkg",
    )
