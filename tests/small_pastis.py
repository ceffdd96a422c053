"""A tiny dataset in PASTIS's layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DATES = {
    10: (20181001, 20190105, 20190420),
    11: (20180915, 20190801),
    12: (20181001, 20190105, 20190420, 20190710),
}


def parcels(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Identifiers and classes: a parcel of maize, one of meadow, one of void; the rest is
    background.
    """
    ids_HW = np.zeros((size, size), np.int32)
    classes_HW = np.zeros((size, size), np.uint8)
    for number, (rows, columns, class_id) in enumerate(
        [
            (slice(1, 6), slice(2, 9), 3),
            (slice(8, 15), slice(0, 4), 1),
            (slice(7, 12), slice(10, 16), 19),
        ]
    ):
        ids_HW[rows, columns] = 7 + 3 * number
        classes_HW[rows, columns] = class_id
    return ids_HW, classes_HW


def write_small_pastis(
    folder: Path, dates: dict[int, tuple[int, ...]] = DATES, size: int = 16
) -> Path:
    """Patches with a value of their own in each pixel and date; fold 1, 2, .. in the order of
    ``dates``.
    """
    for name in ("DATA_S2", "ANNOTATIONS"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    ids_HW, classes_HW = parcels(size)
    features, norm = [], {}
    for position, (patch, days) in enumerate(dates.items()):
        np.save(
            folder / "DATA_S2" / f"S2_{patch}.npy",
            generator.integers(0, 9999, (len(days), 10, size, size), dtype=np.int16),
        )
        np.save(folder / "ANNOTATIONS" / f"ParcelIDs_{patch}.npy", ids_HW)
        np.save(
            folder / "ANNOTATIONS" / f"TARGET_{patch}.npy",
            np.stack([classes_HW, classes_HW + 1, classes_HW + 2]),
        )
        fold = position % 5 + 1
        norm[f"Fold_{fold}"] = {"mean": [1000.0 * fold] * 10, "std": [100.0 * fold] * 10}
        properties = {
            "ID_PATCH": patch,
            "Fold": fold,
            "dates-S2": {str(t): day for t, day in enumerate(days)},
        }
        features.append(
            {
                "type": "Feature",
                "properties": properties,
                "geometry": {"type": "Point", "coordinates": [patch, 0]},
            }
        )
    (folder / "metadata.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features[::-1]})
    )
    (folder / "NORM_S2_patch.json").write_text(json.dumps(norm))
    return folder
