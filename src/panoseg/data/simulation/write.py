"""Simulated seasons on disk in PASTIS's own layout.

    DATA_S2/S2_<id>.npy                int16 T x 10 x H x W, reflectance x 10 000
    ANNOTATIONS/TARGET_<id>.npy        uint8 3 x H x W, classes in the first layer
    ANNOTATIONS/ParcelIDs_<id>.npy     int32 H x W, 0 outside parcels
    INSTANCE_ANNOTATIONS/{HEATMAP,INSTANCES,ZONES}_<id>.npy   on request
    metadata.geojson, NORM_S2_patch.json

Layout after VSainteuf/pastis-benchmark @ 43a0ece.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.data.bands import PASTIS_BANDS
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.patches import FIRST_ID, write_patches
from panoseg.data.simulation.season import Season
from panoseg.files import atomic, write_json

FOLD_COUNT = 5


def write_pastis(
    folder: Path | str,
    patches: int,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    options: SimulationOptions | None = None,
    workers: int | None = None,
    *,
    parcel_maps: Path | None = None,
    centres: bool = False,
) -> Path:
    """Write ``patches`` seasons in PASTIS's layout, in five folds; returns the folder.

    parcel_maps: a folder with ``ParcelIDs_*.npy`` whose parcels are used in turn, turned and mirrored. centres: write the
    targets of the panoptic head too, which readers otherwise compute. workers: processes; None takes one a core. A folder
    of an earlier run with the same seed, size and options is completed. Raises ``OutputError``, ``ConfigError``,
    ``DatasetError``.
    """
    return write_patches(folder, patches, size, seed, options, workers, parcel_maps, _PastisForm(centres))


@dataclass(frozen=True)
class _PastisForm:
    """Seasons as PASTIS has them. centres: with the targets of the panoptic head."""

    centres: bool

    def mark(self) -> dict[str, Any]:
        return {"centres": self.centres}

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
        target_3HW = np.zeros((3, *season.classes_HW.shape), np.uint8)
        target_3HW[0] = season.classes_HW
        arrays = {
            "DATA_S2/S2": season.images_TCHW,
            "ANNOTATIONS/TARGET": target_3HW,
            "ANNOTATIONS/ParcelIDs": season.parcels_HW,
        }
        if self.centres:
            arrays |= _centre_maps(season)
        for name, array in arrays.items():
            with atomic(folder / f"{name}_{FIRST_ID + number}.npy") as temporary:
                np.save(temporary, array)
        return _record(number, season)

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        write_json(folder / "NORM_S2_patch.json", _normalisation(records))
        write_json(folder / "metadata.geojson", _metadata(records))


def _centre_maps(season: Season) -> dict[str, np.ndarray]:
    from panoseg.data.centres import centre_targets, number_parcels  # torch, which workers do without

    instances_HW = number_parcels(season.parcels_HW, season.classes_HW)
    targets = centre_targets(instances_HW, season.classes_HW)
    return {
        "INSTANCE_ANNOTATIONS/HEATMAP": targets.heatmap_HW.numpy().astype(np.float64),
        "INSTANCE_ANNOTATIONS/INSTANCES": instances_HW,
        "INSTANCE_ANNOTATIONS/ZONES": targets.zone_HW.numpy(),
    }


def _record(number: int, season: Season) -> dict[str, Any]:
    """What the dataset's metadata and normalisation need to know of one patch."""
    # The sums are exact integers; float64 holds them.
    flat_CN = season.images_TCHW.transpose(1, 0, 2, 3).reshape(len(PASTIS_BANDS), -1).astype(np.float64)
    return {
        "patch": FIRST_ID + number,
        "fold": number % FOLD_COUNT + 1,
        "dates": [int(date.strftime("%Y%m%d")) for date in season.dates],
        "parcels": int(np.unique(season.parcels_HW[season.parcels_HW > 0]).size),
        "cover": float((season.parcels_HW > 0).mean()),
        "region": season.region,
        "epsg": season.epsg,
        "outline": season.outline(),
        "count": flat_CN.shape[1],
        "sum": flat_CN.sum(1).tolist(),
        "squares": np.einsum("cn,cn->c", flat_CN, flat_CN).tolist(),
    }


def _normalisation(records: list[dict]) -> dict:
    """Mean and standard deviation of each band in each fold that has patches."""
    folds = {}
    for fold in sorted({record["fold"] for record in records}):
        members = [record for record in records if record["fold"] == fold]
        count = sum(record["count"] for record in members)
        mean_C = np.sum([record["sum"] for record in members], axis=0) / count
        variance_C = np.sum([record["squares"] for record in members], axis=0) / count - mean_C**2
        folds[f"Fold_{fold}"] = {"mean": mean_C.tolist(), "std": np.sqrt(variance_C).tolist()}
    return folds


def _metadata(records: list[dict]) -> dict:
    """The GeoJSON collection of patches in Lambert-93, one feature each, as the genuine dataset has it."""
    from pyproj import Transformer

    features = []
    for index, record in enumerate(records):
        to_lambert = Transformer.from_crs(record["epsg"], 2154, always_xy=True)
        ring = [list(to_lambert.transform(*corner)) for corner in record["outline"]]
        properties = {
            "Fold": record["fold"],
            "ID_PATCH": record["patch"],
            "N_Parcel": record["parcels"],
            "Parcel_Cover": record["cover"],
            "TILE": record["region"],
            "dates-S2": {str(position): date for position, date in enumerate(record["dates"])},
            "id": str(record["patch"]),
        }
        geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
        features.append({"id": str(index), "type": "Feature", "properties": properties, "geometry": geometry})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    return {"type": "FeatureCollection", "features": features, "crs": crs}
