"""Simulated seasons on disk in PASTIS's own layout, which ``panoseg.data.pastis_files`` describes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.data.pastis_files import PatchRow, save_images, save_labels, save_metadata, save_normalisation
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.patches import FIRST_ID, write_patches
from panoseg.data.simulation.season import Season
from panoseg.imagery.bands import PASTIS_BANDS

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
        save_images(folder, FIRST_ID + number, season.images_TCHW)
        save_labels(folder, FIRST_ID + number, season.classes_HW, season.parcels_HW, centres=self.centres)
        return _record(number, season)

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        save_normalisation(folder, _normalisation(records))
        save_metadata(folder, [_row(record) for record in records])


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


def _normalisation(records: list[dict]) -> dict[int, np.ndarray]:
    """Mean and standard deviation of each band in each fold that has patches."""
    folds = {}
    for fold in sorted({record["fold"] for record in records}):
        members = [record for record in records if record["fold"] == fold]
        count = sum(record["count"] for record in members)
        mean_C = np.sum([record["sum"] for record in members], axis=0) / count
        variance_C = np.sum([record["squares"] for record in members], axis=0) / count - mean_C**2
        folds[fold] = np.stack([mean_C, np.sqrt(variance_C)])
    return folds


def _row(record: dict[str, Any]) -> PatchRow:
    return PatchRow(
        record["patch"],
        record["fold"],
        tuple(datetime.strptime(str(day), "%Y%m%d").date() for day in record["dates"]),
        record["parcels"],
        record["cover"],
        record["region"],
        record["epsg"],
        record["outline"],
    )
