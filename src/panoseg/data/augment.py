"""Random augmentation of a season and, with it, of its labels.

Images may lie on disk, mapped into memory: dates and window are chosen first, and only what they
leave is read, once.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from panoseg.data import AugmentationConfig
from panoseg.data.samples import Sample, centre_targets
from panoseg.errors import ConfigError


@dataclass(frozen=True)
class Movement:
    """A change of geometry: a window is cut out, mirrored, then turned."""

    rows: slice
    """Rows of the window."""
    columns: slice
    """Columns of the window."""
    mirror: tuple[bool, bool]
    """Whether the order of rows, and that of columns, is reversed."""
    quarter_turns: int
    """Number of anticlockwise turns by 90 degrees, 0..3."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return a view of ``pixels`` (the last two axes) after the movement."""
        window = pixels[..., self.rows, self.columns]
        mirrored = window[..., :: -1 if self.mirror[0] else 1, :: -1 if self.mirror[1] else 1]
        return np.rot90(mirrored, self.quarter_turns, axes=(-2, -1))


def augment(sample: Sample, config: AugmentationConfig, generator: np.random.Generator) -> Sample:
    """Return an augmented copy of a sample.

    Images keep their type (int16 values are rounded), days stay ascending, labels follow their
    pixels, parcels keep their numbers, and centre targets are computed again where pixels may have
    moved.

    Args:
        sample: Images may be mapped from disk.
        config: What may change.
        generator: Decides what does.

    Raises:
        ConfigError: The crop is larger than the patch.
    """
    images_TCHW, days_T = sample.images_TCHW.numpy(), sample.days_T.numpy()
    if config.changes_dates:
        chosen, days_T = _choose_dates(days_T, config, generator)
        sample = replace(sample, days_T=torch.from_numpy(days_T))
    else:
        chosen = np.arange(len(days_T))
    if config.changes_geometry:
        movement = draw_movement(images_TCHW.shape[2:], config, generator)
        images_TCHW = movement.apply(images_TCHW)
        sample = _move_labels(sample, movement)
    if config.changes_geometry or config.changes_dates:
        images_TCHW = _gather(images_TCHW, chosen)
    if config.changes_values:
        images_TCHW = _change_values(images_TCHW, config, generator)
    return replace(sample, images_TCHW=torch.from_numpy(images_TCHW))


def draw_movement(
    size: tuple[int, ...], config: AugmentationConfig, generator: np.random.Generator
) -> Movement:
    """Draw a movement that ``config`` allows in a patch of ``size`` (height, width)."""
    height, width = size
    crop = config.crop
    if crop > min(size):
        raise ConfigError(
            f"A crop of {crop} pixels exceeds the patch, which has {height} x {width}; choose a"
            " smaller one."
        )
    top, left = generator.integers(0, (height - crop + 1, width - crop + 1)) if crop else (0, 0)
    rows, columns = slice(top, top + (crop or height)), slice(left, left + (crop or width))
    flip_rows, flip_columns = (
        generator.integers(0, 2, 2, dtype=bool) if config.flips else (False, False)
    )
    step = 1 if crop or height == width else 2
    turns = step * int(generator.integers(0, 4 // step)) if config.turns else 0
    return Movement(rows, columns, (bool(flip_rows), bool(flip_columns)), turns)


def _choose_dates(
    days_T: np.ndarray, config: AugmentationConfig, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the positions of the dates to keep, in their new order, and their new days."""
    dates = len(days_T)
    most = min(config.max_dates or dates, dates)
    least = min(config.min_dates or dates, most)
    count = int(generator.integers(least, most + 1))
    chosen = np.sort(generator.permutation(dates)[:count])
    if config.date_dropout:
        chosen = chosen[kept_dates(generator.random(count), config.date_dropout)]
    jitter = generator.integers(-config.day_jitter, config.day_jitter + 1, len(chosen))
    shift = generator.integers(-config.season_shift, config.season_shift + 1)
    moved_T = days_T[chosen] + jitter + shift
    order = np.argsort(moved_T, kind="stable")
    return chosen[order], moved_T[order]


def kept_dates(chance_T: np.ndarray, probability: float) -> np.ndarray:
    """Return the positions of the dates that temporal dropout keeps, ascending.

    Crop2Seg @ aee7827, src/datasets/s2_ts_cz_crop.py; where it would keep none, the date of the
    greatest number stays.

    Args:
        chance_T: A uniform random number, 0..1, for each date; those above ``probability`` stay.
        probability: Probability that a date is left out.

    >>> kept_dates(np.array([0.9, 0.1, 0.7]), 0.4), kept_dates(np.array([0.1, 0.3, 0.2]), 0.4)
    (array([0, 2]), array([1]))
    """
    kept = np.flatnonzero(chance_T > probability)
    return kept if len(kept) else np.array([chance_T.argmax()])


def _gather(images_TCHW: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Copy the chosen images, which reads each value from disk once."""
    gathered = np.empty((len(chosen), *images_TCHW.shape[1:]), images_TCHW.dtype)
    for position, source in enumerate(chosen):
        gathered[position] = images_TCHW[source]
    return gathered


def _move_labels(sample: Sample, movement: Movement) -> Sample:
    """Move classes and parcels, and compute centre targets of them."""

    def move(labels_HW: Tensor | None) -> Tensor | None:
        if labels_HW is None:
            return None
        return torch.from_numpy(movement.apply(labels_HW.numpy()).copy())

    classes_HW, instances_HW = move(sample.classes_HW), move(sample.instances_HW)
    centres = None
    if classes_HW is not None and instances_HW is not None:
        centres = centre_targets(instances_HW, classes_HW)
    return replace(sample, classes_HW=classes_HW, instances_HW=instances_HW, centres=centres)


def _change_values(
    images_TCHW: np.ndarray, config: AugmentationConfig, generator: np.random.Generator
) -> np.ndarray:
    """Apply gains, offsets and noise; the images keep their type."""
    dates, bands = images_TCHW.shape[:2]

    def normal(deviation: float, *shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    gain_TC11 = np.exp(
        normal(config.date_gain, dates, 1, 1, 1) + normal(config.band_gain, bands, 1, 1)
    )
    changed_TCHW: np.ndarray = images_TCHW * gain_TC11
    changed_TCHW += normal(config.band_offset, bands, 1, 1)
    if config.noise:
        # torch draws normal numbers four times as fast as NumPy; the numbers depend on the given
        # generator alone.
        torch_generator = torch.Generator().manual_seed(int(generator.integers(2**63)))
        changed_TCHW += (
            config.noise * torch.randn(images_TCHW.shape, generator=torch_generator).numpy()
        )
    if images_TCHW.dtype.kind != "f":
        limits = np.iinfo(images_TCHW.dtype)
        np.rint(changed_TCHW, out=changed_TCHW)
        np.clip(changed_TCHW, limits.min, limits.max, out=changed_TCHW)
    return changed_TCHW.astype(images_TCHW.dtype)
