"""A program that uses every public name; mypy checks it, strictly, as one of a user."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
from torch.utils.data import DataLoader

import panoseg


def maps(folder: Path) -> gpd.GeoDataFrame:
    """Map a season that is simulated, on disk, or fetched."""
    cube, truth = panoseg.simulate(64, seed=1)
    print(len(truth), panoseg.open_cube(folder / "season.nc").sizes["time"])
    fetched = panoseg.fetch(folder / "farm.geojson", 2024)
    print(panoseg.map(fetched, year=2024).report)
    parcels: gpd.GeoDataFrame = panoseg.map(cube, folder / "map", tta=1).parcels
    return parcels


def segment(photograph: Path) -> panoseg.Panoptic:
    """Segment a photograph."""
    model: panoseg.Model = panoseg.load("coco-eomt-small", device="cpu")
    result = model.predict(photograph)
    quality = panoseg.panoptic_quality(result, result)
    print(quality.pq + quality.sq + quality.rq, sorted(quality.by_class))
    segment_HW: np.ndarray = result.segment_HW
    print(segment_HW.shape, [segment.kind for segment in result.segments])
    return result


def learn(folder: Path) -> float:
    """Train and score; a wrong folder is an error in one line."""
    data = panoseg.PASTIS(folder, fold=1, split="train")
    for batch in DataLoader(data, batch_size=2, collate_fn=panoseg.collate):
        print(batch.images.shape)
    try:
        run = panoseg.train("pastis-utae-paps", data=folder, out=folder / "run", epochs=1)
    except panoseg.PanosegError as error:
        print(error)
        return 0.0
    print(panoseg.test(folder / "run", folder, folder / "test").table())
    return run.scores.summary()["PQ"]


CROPS = panoseg.ClassTable(
    "crops",
    (
        panoseg.SegmentClass(0, "land", "#000000", "stuff"),
        panoseg.SegmentClass(1, "wheat", "#ff7f0e", "thing"),
    ),
)
print(panoseg.__version__)
