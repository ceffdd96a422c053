"""Patches a second that a loader delivers from a warm page cache: `python benchmarks/loader.py`.

Writes patches of 43 x 10 x 128 x 128 with labels in PASTIS's layout into a temporary folder, reads
them once, then times epochs. The main process reads one value of each memory page of a batch, as a
copy to a device would.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from panoseg.data import AugmentationConfig
from panoseg.data.loading import make_loader
from panoseg.data.pastis import PastisDataset

DATES, BANDS, SIZE, PARCELS_A_SIDE = 43, 10, 128, 8
CASES = {
    "as on disk": AugmentationConfig(),
    "flips and turns": AugmentationConfig(flips=True, turns=True),
    "crop 64, 20 to 30 dates": AugmentationConfig(crop=64, min_dates=20, max_dates=30),
    "crop 64, all radiometry": AugmentationConfig(
        crop=64, band_gain=0.05, band_offset=30, date_gain=0.05, noise=20
    ),
}


def write_dataset(folder: Path, patches: int) -> None:
    """Patches of noise with a chequerboard of parcels."""
    generator = np.random.default_rng(0)
    for name in ("DATA_S2", "ANNOTATIONS"):
        (folder / name).mkdir()
    block = np.arange(SIZE) * PARCELS_A_SIDE // SIZE
    parcels_HW = (block[:, None] * PARCELS_A_SIDE + block).astype(np.int32)
    days = {
        str(t): (date(2018, 9, 15) + timedelta(days=8 * t)).strftime("%Y%m%d") for t in range(DATES)
    }
    features = []
    for patch in range(10000, 10000 + patches):
        images_TCHW = generator.integers(0, 10000, (DATES, BANDS, SIZE, SIZE), dtype=np.int16)
        np.save(folder / "DATA_S2" / f"S2_{patch}.npy", images_TCHW)
        np.save(folder / "ANNOTATIONS" / f"ParcelIDs_{patch}.npy", parcels_HW)
        np.save(
            folder / "ANNOTATIONS" / f"TARGET_{patch}.npy", (parcels_HW % 19).astype(np.uint8)[None]
        )
        features.append(
            {"properties": {"ID_PATCH": patch, "Fold": patch % 5 + 1, "dates-S2": days}}
        )
    (folder / "metadata.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )


def rate(
    folder: Path, config: AugmentationConfig, workers: int, batch_size: int, epochs: int
) -> float:
    """Patches a second, best of the epochs; workers are started before."""
    dataset = PastisDataset(folder, target="panoptic", augmentation=config)
    loader = make_loader(dataset, batch_size, shuffle=True, workers=workers)
    rates = []
    for epoch in range(epochs + 1):
        loader.enter(epoch)
        start = time.perf_counter()
        for batch in loader:
            batch.images_BTCHW.view(-1)[::2048].sum()
        rates.append(len(dataset) / (time.perf_counter() - start))
    return max(rates[1:])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{options.patches} patches of {DATES} x {BANDS} x {SIZE} x {SIZE} int16, batches of"
        f" {options.batch_size}"
    )
    print(
        f"{'samples':<26}"
        + "".join(f"{workers:>4} workers" for workers in options.workers)
        + "   (patches/s)"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), options.patches)
        for name, config in CASES.items():
            rates = [
                rate(Path(folder), config, workers, options.batch_size, options.epochs)
                for workers in options.workers
            ]
            print(f"{name:<26}" + "".join(f"{value:>12.0f}" for value in rates), flush=True)


if __name__ == "__main__":
    main()
