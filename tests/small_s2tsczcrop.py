"""A tiny dataset in S2TSCzCrop's layout, for tests."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import torch

from panoseg.data.s2tsczcrop import write_samples
from panoseg.data.s2tsczcrop_files import CzechPatch
from panoseg.data.samples import Sample

PATCHES = {
    20: ("train", (date(2018, 10, 1), date(2019, 1, 5), date(2019, 4, 20))),
    21: ("val", (date(2018, 9, 15), date(2019, 8, 1))),
    22: ("test", (date(2018, 12, 31), date(2019, 4, 20))),
    23: ("train", (date(2018, 9, 15), date(2019, 8, 1))),
}
GRID = (10.0, 0.0, 500000.0, 0.0, -10.0, 5500000.0)


def fields(size: int = 16) -> np.ndarray:
    """Classes: maize, hops, a part that is not classified; the rest is background."""
    classes_HW = np.zeros((size, size), np.int64)
    classes_HW[1:6, 2:9], classes_HW[8:15, 0:4], classes_HW[7:12, 10:16] = 6, 11, 14
    return classes_HW


def write_small_s2tsczcrop(folder: Path, patches: dict = PATCHES, size: int = 16) -> Path:
    """Patches in which each class has its own reflectance in each band, so that a network can learn
    them.
    """
    generator = np.random.default_rng(0)
    colours_K10 = generator.integers(0, 4000, (15, 10))
    entries = []
    for patch, (name, dates) in patches.items():
        noise = generator.integers(0, 100, (len(dates), 10, size, size))
        images_TCHW = (colours_K10[fields(size)].transpose(2, 0, 1) + noise).astype(np.int16)
        days_T = torch.tensor([(day - date(2018, 9, 1)).days for day in dates])
        sample = Sample(
            torch.from_numpy(images_TCHW), days_T, str(patch), torch.from_numpy(fields(size))
        )
        entries.append((sample, CzechPatch(patch, name, dates, 32633, GRID)))
    return write_samples(folder, entries)
