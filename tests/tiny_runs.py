"""Trainings of seconds, for tests: a dataset of ten patches whose colours tell their classes, and small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from panoseg.models.configs.paps import PapsConfig
from panoseg.models.configs.utae import UtaeConfig
from small_pastis import write_small_pastis

UTAE = UtaeConfig(encoder_widths=(16, 16), decoder_widths=(8, 16), head_widths=(8,), heads=4, d_model=16, key_width=2)
PAPS = PapsConfig(backbone=UTAE, shape_size=4)

_WIDTHS = {
    "encoder-widths": "16 16",
    "decoder-widths": "8 16",
    "head-widths": "8",
    "heads": "4",
    "d-model": "16",
    "key-width": "2",
}
_COMMON = ["--workers", "0", "--accelerator", "cpu", "--batch-size", "2", "--log-every", "1"]


def write_tiny_dataset(folder: Path, patches: int = 10) -> Path:
    """Patches of 16 x 16 with three or four dates, fold 1, 2, .. in turn; each class has its own reflectance in each band."""
    calendar = (20181001, 20190105, 20190420, 20190710)
    write_small_pastis(folder, {10 + number: calendar[: 3 + number % 2] for number in range(patches)})
    generator = np.random.default_rng(1)
    colours_K10 = generator.integers(0, 2000, (20, 10))
    for path in sorted((folder / "DATA_S2").iterdir()):
        classes_HW = np.load(folder / "ANNOTATIONS" / path.name.replace("S2", "TARGET"))[0]
        images = np.load(path)
        images[:] = colours_K10[classes_HW].transpose(2, 0, 1) + generator.integers(0, 100, images.shape)
        np.save(path, images)
    return folder


def tiny_options(experiment: str) -> list[str]:
    """Options that make an experiment small."""
    prefix = "model.backbone." if "paps" in experiment else "model."
    options = [word for name, value in _WIDTHS.items() for word in (f"--{prefix}{name}", *value.split())] + _COMMON
    if experiment.startswith("simulated"):
        options += ["--data.augmentation.crop", "16"]
    return options
