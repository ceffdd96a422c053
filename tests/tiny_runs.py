"""Trainings of seconds, for tests: a dataset of ten patches whose colours tell their classes, and
small networks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from panoseg.data.pastis import PastisDataset
from panoseg.data.s2tsczcrop import write_samples
from panoseg.data.s2tsczcrop_files import CzechPatch
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import UtaeConfig
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.write import write_pastis
from panoseg.training.experiments import EXPERIMENTS
from small_pastis import write_small_pastis

UTAE = UtaeConfig(
    encoder_widths=(16, 16),
    decoder_widths=(8, 16),
    head_widths=(8,),
    heads=4,
    d_model=16,
    key_width=2,
)
PAPS = PapsConfig(backbone=UTAE, shape_size=4)

_WIDTHS = {
    "encoder_widths": "16 16",
    "decoder_widths": "8 16",
    "head_widths": "8",
    "heads": "4",
    "d_model": "16",
    "key_width": "2",
    "input_widths": "8 8",
    "pyramid_width": "8",
    "hidden": "8",
    "width": "4",
}
_COMMON = ["--workers", "0", "--accelerator", "cpu", "--batch-size", "2", "--log-every", "1"]


def write_tiny_dataset(folder: Path, patches: int = 10) -> Path:
    """Patches of 16 x 16 with three or four dates, fold 1, 2, .. in turn; each class has its own
    reflectance in each band.
    """
    calendar = (20181001, 20190105, 20190420, 20190710)
    write_small_pastis(
        folder, {10 + number: calendar[: 3 + number % 2] for number in range(patches)}
    )
    generator = np.random.default_rng(1)
    colours_K10 = generator.integers(0, 2000, (20, 10))
    for path in sorted((folder / "DATA_S2").iterdir()):
        classes_HW = np.load(folder / "ANNOTATIONS" / path.name.replace("S2", "TARGET"))[0]
        images = np.load(path)
        images[:] = colours_K10[classes_HW].transpose(2, 0, 1) + generator.integers(
            0, 100, images.shape
        )
        np.save(path, images)
    return folder


def simulate_tiny(folder: Path, size: int, layout: str = "PASTIS") -> Path:
    """Five simulated seasons of three to five dates: one in each of PASTIS's folds, or 3, 1 and 1
    in S2TSCzCrop's sets.
    """
    if layout == "S2TSCzCrop":
        return _in_czech_layout(folder, simulate_tiny(folder.with_name("simulated"), size))
    return write_pastis(
        folder, 5, (size, size), seed=1, options=SimulationOptions(dates=(3, 5)), workers=1
    )


def _in_czech_layout(folder: Path, simulated: Path) -> Path:
    dataset = PastisDataset(simulated, target="semantic")
    entries = []
    for number, patch in enumerate(dataset.ids):
        sample = dataset[number]
        sample = replace(sample, classes_HW=sample.classes_HW.clamp(max=14))
        entries.append(
            (
                sample,
                CzechPatch(
                    int(patch),
                    ("train", "train", "train", "val", "test")[number],
                    dataset.dates(number),
                ),
            )
        )
    return write_samples(folder, entries)


def tiny_options(experiment: str) -> list[str]:
    """Options that make an experiment small."""
    model = EXPERIMENTS[experiment].config.model
    prefix, network = (
        ("model.backbone.", model.backbone) if isinstance(model, PapsConfig) else ("model.", model)
    )
    widths = {name: value for name, value in _WIDTHS.items() if hasattr(network, name)}
    options = [
        word
        for name, value in widths.items()
        for word in (f"--{prefix}{name.replace('_', '-')}", *value.split())
    ]
    if experiment.startswith("simulated"):
        options += ["--data.augmentation.crop", "16"]
    return options + _COMMON
