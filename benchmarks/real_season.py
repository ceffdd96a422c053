"""A map of a real season compared with a classical one.

Usage: ``python benchmarks/real_season.py CUBE TRUTH --weights W``.

The classical map is multi-date segmentation: the principal components of the clear dates, segmented
by the graph method of Felzenszwalb and Huttenlocher (2004). Its parameters are tuned on the truth
itself, so it shows the best that the method can do; the network is tuned on nothing here. Both are
scored like ``panoseg compare --declared-only``.

``--class-map`` takes a JSON object from the truth's classes to PASTIS's, for the share of matches
with the right class.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
from skimage.segmentation import felzenszwalb

from panoseg.classes import PASTIS
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Window, choose_season, read_window
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.compare import Comparison, compare_files, compare_parcels
from panoseg.maps.mapping import map_cube
from panoseg.maps.parcels import parcels_of
from panoseg.maps.read_parcels import read_parcels
from panoseg.panoptic import Panoptic

_CLEAR = 0.95
_COMPONENTS, _SCALES, _SIGMAS, _SIZES = (
    (3, 6, 10),
    (25, 50, 100, 200, 400, 800),
    (0.0, 0.5, 0.8),
    (10, 20, 40, 80),
)


def components_of(cube_path: Path, count: int) -> tuple[np.ndarray, object]:
    """The first principal components of all bands of the clear dates (H x W x count, 0 to 1 or so),
    and the grid.
    """
    with reading(cube_path):
        cube = check_cube(open_cube(cube_path), PASTIS_BANDS)
        season = choose_season(cube, min_clear=_CLEAR)
        cube = cube.isel(time=season.index_T)
        images_TCHW, _ = read_window(
            cube, PASTIS_BANDS, Window(0, 0, cube.sizes["y"], cube.sizes["x"])
        )
    values_PF = images_TCHW.reshape(-1, images_TCHW[0, 0].size).T
    values_PF = (values_PF - values_PF.mean(axis=0)) / values_PF.std(axis=0)
    directions = np.linalg.svd(values_PF, full_matrices=False)[2][:count]
    scores_PC = values_PF @ directions.T
    low, high = np.percentile(scores_PC[:, 0], (1, 99))
    return ((scores_PC - low) / (high - low)).reshape(
        *images_TCHW.shape[-2:], count
    ), cube.odc.geobox


def classical(cube_path: Path, truth: gpd.GeoDataFrame) -> tuple[Comparison, dict[str, float]]:
    """The best comparison over a grid of parameters, and the parameters."""
    components_HWC, grid = components_of(cube_path, max(_COMPONENTS))
    best: tuple[Comparison, dict[str, float]] | None = None
    # The function takes more than three channels for a mistake, and says so each time.
    warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
    for count, scale, sigma, smallest in itertools.product(_COMPONENTS, _SCALES, _SIGMAS, _SIZES):
        segment_HW = 1 + felzenszwalb(
            components_HWC[..., :count].astype(np.float64), scale, sigma, smallest, channel_axis=-1
        )
        segmentation = Panoptic.from_maps(
            segment_HW, {int(i): 1 for i in np.unique(segment_HW)}, PASTIS
        )
        parcels = parcels_of(
            segmentation, grid.affine, grid.crs.to_wkt(), PASTIS, tolerance_pixels=0
        )
        found = compare_parcels(parcels, truth, declared_only=True)
        if best is None or found.quality.pq > best[0].quality.pq:
            best = (
                found,
                {"components": count, "scale": scale, "sigma": sigma, "smallest": smallest},
            )
    assert best is not None
    return best


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cube", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument(
        "--weights", type=Path, help="folder of weights; those in the package without"
    )
    parser.add_argument("--class-map", type=Path)
    arguments = parser.parse_args()
    baseline, parameters = classical(arguments.cube, read_parcels(arguments.truth))
    with tempfile.TemporaryDirectory() as folder:
        result = map_cube(arguments.cube, arguments.weights, Path(folder) / "map")
        ours = compare_files(
            result.out / "parcels.parquet",
            arguments.truth,
            class_map=arguments.class_map,
            declared_only=True,
        )
    print("| map | PQ | SQ | RQ | found | missed | invented | right class |")
    print("|---|---|---|---|---|---|---|---|")
    tuned = ", ".join(f"{name} {value}" for name, value in parameters.items())
    for name, own in (("panoseg", ours), (f"Felzenszwalb, tuned on the truth ({tuned})", baseline)):
        quality = own.quality
        percents = " | ".join(
            f"{100 * value:.1f}" for value in (quality.pq, quality.sq, quality.rq)
        )
        agreement = "-" if own.class_agreement is None else f"{own.class_agreement:.0%}"
        print(
            f"| {name} | {percents} | {quality.found} | {quality.missed} | {quality.invented} |"
            f" {agreement} |"
        )


if __name__ == "__main__":
    main()
