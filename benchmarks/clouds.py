"""How well clouds over parcels are found without a mask: ``python benchmarks/clouds.py [CUBE
PARCELS]``.

Simulated seasons are compared with the same seasons under a clear sky: a date of a parcel is right
where its NDVI differs by less than 0.05 from the clear one, and wrong where by more than 0.1. A
real cube is compared with its scene classification: a date is clear where less than a tenth of the
parcel's pixels is in cloud, shadow or snow, and cloudy where more than half is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rasterio.features import rasterize

from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.data.arrays import parcel_profiles
from panoseg.imagery.sentinel2 import PASTIS_BANDS, SCENE_CLASSIFICATION
from panoseg.maps.read_parcels import read_parcels
from panoseg.simulation import SimulationOptions, simulate_season

_SMALLEST = 12  # pixels
_CLEAR_GROUND = (4, 5, 6, 7)  # vegetation, bare, water, unclassified
_REFERENCE = np.datetime64("2018-09-01")


def large_parcels(parcels_HW: np.ndarray) -> np.ndarray:
    """The same parcels without those of a few pixels."""
    number_N, pixels_N = np.unique(parcels_HW, return_counts=True)
    return np.where(np.isin(parcels_HW, number_N[pixels_N >= _SMALLEST]), parcels_HW, 0)


def simulated(seasons: int) -> str:
    """Shares over parcels and dates of simulated seasons."""
    counts = np.zeros((2, 2), int)
    errors = []
    for seed in range(seasons):
        weather = {"void": False}, {"void": False, "cloudy": (0.0, 0.0), "snow": 0.0}
        sky, clear = (
            simulate_season((48, 48), (77, seed), SimulationOptions(**options))
            for options in weather
        )
        parcels_HW = large_parcels(sky.parcels_HW)
        days_T = np.array([(day - sky.dates[0]).days for day in sky.dates])
        seen, truth = (
            parcel_profiles(season.images_TCHW, days_T, parcels_HW) for season in (sky, clear)
        )
        error_TP = np.abs(seen.ndvi_TP - truth.ndvi_TP)
        for row, chosen_TP in enumerate((error_TP < 0.05, error_TP > 0.1)):
            counts[row] += seen.cloudy_TP[chosen_TP].sum(), chosen_TP.sum()
        errors.append(error_TP[~seen.cloudy_TP])
    (right_lost, right), (wrong_found, wrong) = counts
    rmse = np.sqrt(np.mean(np.concatenate(errors) ** 2))
    return (
        f"simulated: left out {100 * wrong_found / wrong:.1f} % of {wrong:,} wrong dates of parcels"
        f" and {100 * right_lost / right:.1f} % of {right:,} right ones; NDVI of the others is off"
        f" by {rmse:.3f} (root mean square)"
    )


def real(cube_path: Path, parcels_path: Path) -> str:
    """Shares over parcels and dates of a real cube with a scene classification."""
    with reading(cube_path):
        cube = check_cube(open_cube(cube_path), PASTIS_BANDS).sortby("time").load()
    grid = cube.odc.geobox
    outlines = read_parcels(parcels_path).to_crs(grid.crs).geometry
    burnt_HW = rasterize(
        [(outline, row) for row, outline in enumerate(outlines, 1)],
        grid.shape,
        transform=grid.affine,
    )
    parcels_HW = large_parcels(burnt_HW.astype(int))
    images_TCHW = np.stack([np.nan_to_num(cube[band].values) for band in PASTIS_BANDS], axis=1)
    days_T = (cube["time"].values.astype("datetime64[D]") - _REFERENCE).astype(int)
    found = parcel_profiles(images_TCHW, days_T, parcels_HW)
    ground_THW = np.isin(cube[SCENE_CLASSIFICATION].values, _CLEAR_GROUND)
    hidden_TP = np.stack(
        [1 - ground_THW[:, parcels_HW == parcel].mean(axis=1) for parcel in found.parcel_P], axis=1
    )
    clear, cloudy = found.cloudy_TP[hidden_TP < 0.1], found.cloudy_TP[hidden_TP > 0.5]
    return (
        f"{cube_path.name}: left out {100 * cloudy.mean():.1f} % of {cloudy.size:,} cloudy dates of"
        f" {len(found.parcel_P)} parcels and {100 * clear.mean():.1f} % of {clear.size:,} clear"
        " ones"
    )


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", nargs="?", type=Path)
    parser.add_argument("parcels", nargs="?", type=Path)
    parser.add_argument("--seasons", type=int, default=40)
    arguments = parser.parse_args()
    print(simulated(arguments.seasons))
    if arguments.cube:
        print(real(arguments.cube, arguments.parcels))


if __name__ == "__main__":
    main()
