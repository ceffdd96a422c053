"""Describe a dataset: count patches, dates, classes, parcels and their NDVI in one pass.

Shape suffixes: T dates, H W pixels, K classes, N parcels of a patch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.data import pastis, s2tsczcrop
from panoseg.data.arrays import NdviCounts, parcel_profiles
from panoseg.data.layouts import PASTIS_LAYOUT, find_layout
from panoseg.data.pastis_files import NORMALISATION_FILE, own_bands
from panoseg.data.samples import Sample
from panoseg.data.seasons import position_of
from panoseg.errors import ConfigError, DatasetError, OutputError
from panoseg.files import write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """A dataset of seasons in any layout, with labels."""

    samples: Dataset[Sample]
    """Samples with classes, and with parcels where the dataset numbers them."""
    classes: ClassTable
    """The classes."""
    names: tuple[str, ...]
    """Identifier of each sample."""
    part_of: tuple[str, ...]
    """Fold or set of each sample, such as "fold 1"."""
    parts: tuple[str, ...]
    """All folds or sets, in order."""
    reference_date: date
    """Day 0 of the samples."""

    def position(self, name: str) -> int:
        """Return the position of a patch; raise ``ConfigError`` for an unknown name."""
        return position_of(name, self.names)


@dataclass(frozen=True, eq=False)
class PatchFacts:
    """Counts of one patch."""

    name: str
    """Identifier of the patch."""
    part: str
    """Its fold or set."""
    size: tuple[int, int]
    """Height and width in pixels."""
    days_T: np.ndarray
    """int64, days since the reference date, ascending."""
    pixels_K: np.ndarray
    """int64, number of pixels of each class."""
    parcel_class_N: np.ndarray
    """int64, class of each parcel."""
    parcel_pixels_N: np.ndarray
    """int64, number of pixels of each parcel."""
    cloudy_T: np.ndarray | None
    """Share of the parcels in cloud on each date, 0..1; None where images were not read."""


@dataclass(frozen=True, eq=False)
class DatasetSummary:
    """Counts of the patches of a dataset; a parcel cut by a border of patches counts in each."""

    dataset: LabelledDataset
    """The dataset."""
    chosen: tuple[int, ...]
    """Positions of the counted patches."""
    patches: tuple[PatchFacts, ...]
    """Counts of each of them."""
    numbered: bool
    """Whether the dataset numbers its parcels; otherwise connected areas of a class count as such.
    """
    ndvi: NdviCounts | None
    """NDVI of the parcels; None where images were not read."""

    @property
    def parts(self) -> dict[str, int]:
        """Number of counted patches by fold or set, without those that have none."""
        counts = Counter(patch.part for patch in self.patches)
        return {part: counts[part] for part in self.dataset.parts if counts[part]}

    def pixels_K(self, part: str | None = None) -> np.ndarray:
        """Count the pixels of each class, int64, in one fold or set or in all."""
        counts_NK = [patch.pixels_K for patch in self.patches if part in (None, patch.part)]
        total_K: np.ndarray = np.sum(counts_NK, axis=0)
        return total_K

    def parcel_pixels(self, class_id: int) -> np.ndarray:
        """Return the number of pixels of each parcel of a class, int64."""
        return np.concatenate(
            [patch.parcel_pixels_N[patch.parcel_class_N == class_id] for patch in self.patches]
        )


def write_normalisation(folder: Path | str, classes: ClassTable | None = None) -> Path:
    """Compute NORM_S2_patch.json of a dataset of seasons, write it and return its path.

    Args:
        folder: The dataset.
        classes: As in ``find_layout``.

    Raises:
        DatasetError: The dataset is missing or damaged, or has no patch to train on.
        ConfigError: Its layout has no such file.
        OutputError: The file is there already, or cannot be written.
    """
    layout = find_layout(folder, classes)
    if not layout.standardised:
        raise ConfigError(
            f"A dataset in {layout.name}'s layout has no {NORMALISATION_FILE};"
            " leave out --normalisation."
        )
    path = Path(folder) / NORMALISATION_FILE
    if path.exists():
        raise OutputError(f"{path} exists; remove it first, or leave out --normalisation.")
    if layout.table == PASTIS_LAYOUT.table:
        bands = PASTIS_BANDS if classes is None else own_bands(folder)
        table = pastis.compute_normalisation(folder, bands)
    else:
        table = s2tsczcrop.compute_normalisation(folder)
    if not table:
        raise DatasetError(f"{folder} has no patch, so no statistics can be computed.")
    write_json(path, table)
    return path


def open_labelled(folder: Path, classes: ClassTable | None = None) -> LabelledDataset:
    """Open all patches of a dataset with their labels.

    Args:
        folder: The dataset.
        classes: As in ``find_layout``.

    Raises:
        DatasetError: The folder holds no dataset, or one of photographs.
    """
    layout = find_layout(folder, classes)
    if layout.inputs != "season":
        raise DatasetError(
            f"{folder} holds photographs, in {layout.name}'s layout, but satellite image time"
            " series are needed; look at photographs by panoseg show --patch NAME."
        )
    dataset = layout.open(
        folder, target="panoptic" if layout.table == PASTIS_LAYOUT.table else "semantic"
    )
    parts = tuple(f"{layout.part} {part}" for part in layout.parts)
    part_of = tuple(f"{layout.part} {getattr(patch, layout.part)}" for patch in dataset.metadata)
    return LabelledDataset(
        dataset,
        layout.classes,
        tuple(map(str, dataset.ids)),
        part_of,
        parts,
        dataset.reference_date,
    )


def choose_patches(count: int, wanted: int | None, seed: int) -> tuple[int, ...]:
    """Draw positions of patches.

    Args:
        count: Number of patches.
        wanted: How many to draw; all for None or too many.
        seed: Of the drawing, from 0.

    Returns:
        Positions, ascending.

    Raises:
        ConfigError: A number is impossible.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(
            f"--patches must be at least 1, not {wanted}; leave it out to take all patches."
        )
    if seed < 0:
        raise ConfigError(f"--seed must be at least 0, not {seed}.")
    if wanted is None or wanted >= count:
        return tuple(range(count))
    return tuple(sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist()))


def summarise(dataset: LabelledDataset, chosen: Sequence[int], *, look: bool) -> DatasetSummary:
    """Count some patches of a dataset, one in memory at a time, with a progress bar.

    Args:
        dataset: The dataset.
        chosen: Positions of the patches.
        look: Read images too, for NDVI and clouds; labels and dates alone are many times quicker.
    """
    ndvi, patches, numbered = NdviCounts() if look else None, [], True
    for position in track(chosen, "read patches"):
        sample = dataset.samples[position]
        numbered &= sample.instances_HW is not None
        patches.append(_facts(sample, dataset.part_of[position], dataset.classes, ndvi))
    return DatasetSummary(dataset, tuple(chosen), tuple(patches), numbered, ndvi)


def _facts(sample: Sample, part: str, classes: ClassTable, ndvi: NdviCounts | None) -> PatchFacts:
    """Count one patch, and add its NDVI to ``ndvi``."""
    assert sample.classes_HW is not None
    classes_HW, days_T, cloudy_T = sample.classes_HW.numpy(), sample.days_T.numpy(), None
    parcels_HW = parcels_of(sample, classes)
    number_N, first_N, pixels_N = np.unique(parcels_HW, return_index=True, return_counts=True)
    class_N, pixels_N = classes_HW.ravel()[first_N][number_N != 0], pixels_N[number_N != 0]
    if ndvi is not None and len(class_N):
        profiles = parcel_profiles(sample.images_TCHW.numpy(), days_T, parcels_HW)
        ndvi.add(profiles, class_N)
        cloudy_T = profiles.cloudy_TP.mean(axis=1)
    pixels_K = np.bincount(classes_HW.ravel(), minlength=classes.count)
    size = (classes_HW.shape[0], classes_HW.shape[1])
    return PatchFacts(sample.name, part, size, days_T, pixels_K, class_N, pixels_N, cloudy_T)


def parcels_of(sample: Sample, classes: ClassTable) -> np.ndarray:
    """Return the number of the parcel at each pixel, 0 for none.

    Parcels are those of the dataset, or else the connected areas of each countable class.
    """
    assert sample.classes_HW is not None
    if sample.instances_HW is not None:
        return sample.instances_HW.numpy()
    return connected_areas(sample.classes_HW.numpy(), classes.ids("thing"))


def connected_areas(classes_HW: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """Number the areas of one class whose pixels touch by a side.

    Args:
        classes_HW: Integers, class of each pixel.
        wanted: Classes whose areas are numbered.

    Returns:
        int32 H x W, 1.. for areas, 0 for other classes.

    >>> connected_areas(np.array([[1, 1, 0, 2], [0, 0, 1, 2]]), [1, 2]).tolist()
    [[1, 1, 0, 3], [0, 0, 2, 3]]
    """
    areas_HW, found = np.zeros(classes_HW.shape, np.int32), 0
    for class_id in sorted(set(np.unique(classes_HW).tolist()) & set(wanted)):
        labelled_HW, count = ndimage.label(classes_HW == class_id)
        areas_HW[labelled_HW > 0] = labelled_HW[labelled_HW > 0] + found
        found += count
    return areas_HW
