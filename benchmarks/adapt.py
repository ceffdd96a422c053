"""Scores weights that are adapted to one half of a real season on the other half.

    python benchmarks/adapt.py CUBE TRUTH PLACE [--weights WEIGHTS] [--simulated PATCHES]

TRUTH and PLACE as in hand_drawn.py. The fields of which the first reader drew most in the west half
are given; scored are the fields of both readers in the east half, without the land of the given
ones. Then the halves are exchanged. With --simulated, the old and the new weights are also scored
on patches in PASTIS's layout, where they must not get much worse.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import xarray as xr

from hand_drawn import Truth, quality, read_truth
from panoseg.errors import ParcelsError
from panoseg.maps.mapping import map_cube
from panoseg.maps.outlines import polygonise
from panoseg.models.weights import save_weights
from panoseg.register import AdaptOptions
from panoseg.register.adapt import adapt

PANOSEG = [sys.executable, "-c", "from panoseg.cli import script; script()"]


def half_truth(
    cube: xr.Dataset, label_HW: np.ndarray, west: bool, folder: Path
) -> tuple[Path, np.ndarray]:
    """Write the fields of which most lies in one half, whole; return the file and their pixels."""
    columns_W = np.arange(label_HW.shape[1])
    middle = label_HW.shape[1] / 2
    numbers = [
        number
        for number in np.unique(label_HW[label_HW > 0])
        if ((np.broadcast_to(columns_W, label_HW.shape)[label_HW == number].mean()) < middle)
        == west
    ]
    kept_HW = np.where(np.isin(label_HW, numbers), label_HW, 0).astype(np.int32)
    grid = cube.odc.geobox
    values, outlines = polygonise(kept_HW, grid.affine)
    table = gpd.GeoDataFrame({"number": values}, geometry=outlines, crs=grid.crs.to_wkt())
    path = folder / f"{'west' if west else 'east'}.gpkg"
    table.to_file(path)
    return path, kept_HW > 0


def scores(
    cube: Path,
    weights: Path | str,
    folder: Path,
    truths: list[Truth],
    given_HW: np.ndarray,
    west: bool,
) -> float:
    """PQ in the half that was not given, mean over readers; given land counts for nothing."""
    map_cube(cube, weights, folder)
    with rasterio.open(folder / "segments.tif") as raster:
        found_HW = raster.read(1)
    middle = found_HW.shape[1] // 2
    half = np.s_[:, middle:] if west else np.s_[:, :middle]
    found_HW, given_HW = found_HW[half], given_HW[half]
    found = [
        quality(found_HW, (np.where(given_HW, 0, true_HW[half]), unsure_HW[half] | given_HW))[0]
        for true_HW, unsure_HW in truths
    ]
    return float(np.mean(found))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cube", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("place")
    parser.add_argument("--weights", help="by default those in the package that can be adapted")
    parser.add_argument("--simulated", type=Path, help="patches in PASTIS's layout")
    parser.add_argument("--simulated-seasons", type=int, default=AdaptOptions.simulated)
    parser.add_argument("--steps", type=int, default=AdaptOptions.steps)
    parser.add_argument("--learning-rate", type=float, default=AdaptOptions.learning_rate)
    parser.add_argument("--groups", type=int, default=AdaptOptions.groups)
    arguments = parser.parse_args()
    truths = read_truth(arguments.truth, arguments.place)
    options = AdaptOptions(
        steps=arguments.steps,
        simulated=arguments.simulated_seasons,
        learning_rate=arguments.learning_rate,
        groups=arguments.groups,
    )
    print(
        "| fields given | before | after | held-out fields before | after |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch, xr.open_dataset(arguments.cube) as cube:
        folder = Path(scratch)
        import odc.geo.xr  # noqa: F401

        for west in (True, False):
            fields, given_HW = half_truth(cube, truths[0][0], west, folder)
            name = "west" if west else "east"
            start = arguments.weights or "simulated-fields"
            place = (truths, given_HW, west)
            before = scores(arguments.cube, start, folder / f"before-{name}", *place)
            try:
                adapted = adapt(arguments.cube, fields, arguments.weights, options=options)
            except ParcelsError as error:
                print(f"| {name} | {before:.1f} | {error} | | |")
                continue
            own = folder / f"weights-{name}"
            save_weights(own, adapted.weights)
            after = scores(arguments.cube, own, folder / f"after-{name}", *place)
            print(
                f"| {name} | {before:.1f} | {after:.1f} |"
                f" {adapted.before or '-'} | {adapted.after or '-'} |",
                flush=True,
            )
            if arguments.simulated:
                for place, weights in enumerate((start, own)):
                    out = str(folder / f"test-{name}-{place}")
                    command = ["test", "--data", str(arguments.simulated), "--fold", "1"]
                    command += ["--weights", str(weights), "--out", out]
                    subprocess.run([*PANOSEG, *command], check=True)


if __name__ == "__main__":
    main()
