"""What a dataset holds: patches, dates, classes, parcels, and how their NDVI changes; counted in
one pass, patch by patch.

Shape suffixes: T dates, H W pixels, K classes, N parcels of a patch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.data.layouts import PASTIS_LAYOUT, find_layout
from panoseg.data.profiles import NdviCounts, parcel_profiles
from panoseg.data.samples import Sample
from panoseg.data.seasons import position_of
from panoseg.errors import ConfigError, DatasetError
from panoseg.progress import track


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """A dataset of any layout, as this module sees it.

    samples: with classes, and with parcels where the dataset numbers them. names, part_of: the
    identifier, and the fold or set, of each sample. parts: all folds or sets, in order.
    reference_date: day 0 of the samples.
    """

    samples: Dataset[Sample]
    classes: ClassTable
    names: tuple[str, ...]
    part_of: tuple[str, ...]
    parts: tuple[str, ...]
    reference_date: date

    def position(self, name: str) -> int:
        """The position of a patch. Raises ``ConfigError`` for a name that the dataset does not
        have.
        """
        return position_of(name, self.names)


@dataclass(frozen=True, eq=False)
class PatchFacts:
    """What one patch holds.

    part: its fold or set. size: height and width in pixels. days_T: int64, ascending. pixels_K:
    int64, pixels of each class.
    parcel_class_N, parcel_pixels_N: of each parcel. cloudy_T: share of the parcels in cloud, 0..1;
    None where nobody looked.
    """

    name: str
    part: str
    size: tuple[int, int]
    days_T: NDArray
    pixels_K: NDArray
    parcel_class_N: NDArray
    parcel_pixels_N: NDArray
    cloudy_T: NDArray | None


@dataclass(frozen=True, eq=False)
class DatasetSummary:
    """What the patches of a dataset hold.

    dataset: what was counted. chosen: positions of the counted patches. patches: one a counted
    patch. numbered: whether the dataset numbers its parcels; otherwise connected areas of one class
    count as such. ndvi: None where nobody looked at images. A parcel cut by the border of patches
    counts in each.
    """

    dataset: LabelledDataset
    chosen: tuple[int, ...]
    patches: tuple[PatchFacts, ...]
    numbered: bool
    ndvi: NdviCounts | None

    @property
    def parts(self) -> dict[str, int]:
        """Number of counted patches by fold or set, in the dataset's order; without those that have
        none.
        """
        counts = Counter(patch.part for patch in self.patches)
        return {part: counts[part] for part in self.dataset.parts if counts[part]}

    def pixels_K(self, part: str | None = None) -> NDArray:
        """Pixels of each class, int64; of one fold or set, or of all."""
        return np.sum(
            [patch.pixels_K for patch in self.patches if part in (None, patch.part)], axis=0
        )

    def parcel_pixels(self, class_id: int) -> NDArray:
        """Pixels of each parcel of a class, int64."""
        return np.concatenate(
            [patch.parcel_pixels_N[patch.parcel_class_N == class_id] for patch in self.patches]
        )


def open_labelled(folder: Path) -> LabelledDataset:
    """All patches of a dataset of any layout, with their labels. Raises ``DatasetError``."""
    layout = find_layout(folder)
    if layout.inputs != "season":
        raise DatasetError(
            f"{folder} holds photographs, in {layout.name}'s layout",
            "satellite image time series, which have dates and parcels",
            "look at photographs by panoseg show --patch NAME",
        )
    dataset = layout.open(folder, target="panoptic" if layout is PASTIS_LAYOUT else "semantic")
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
    """Positions of ``wanted`` of ``count`` patches, ascending, drawn by ``seed``; all of them for
    None or too many.

    Raises ``ConfigError``.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(
            f"--patches {wanted}", "a number from 1", "leave it out to take all patches"
        )
    if seed < 0:
        raise ConfigError(f"--seed {seed}", "a number from 0", "pass e.g. --seed 0")
    if wanted is None or wanted >= count:
        return tuple(range(count))
    return tuple(sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist()))


def summarise(dataset: LabelledDataset, chosen: Sequence[int], *, look: bool) -> DatasetSummary:
    """Count some patches of a dataset, one in memory at a time, with a progress bar.

    look: read images too, for NDVI and clouds; otherwise labels and dates alone, which is many
    times quicker.
    """
    ndvi, patches, numbered = NdviCounts() if look else None, [], True
    for position in track(chosen, "read patches"):
        sample = dataset.samples[position]
        numbered &= sample.instances_HW is not None
        patches.append(_facts(sample, dataset.part_of[position], dataset.classes, ndvi))
    return DatasetSummary(dataset, tuple(chosen), tuple(patches), numbered, ndvi)


def _facts(sample: Sample, part: str, classes: ClassTable, ndvi: NdviCounts | None) -> PatchFacts:
    """Count one patch; its NDVI is added to ``ndvi``."""
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


def parcels_of(sample: Sample, classes: ClassTable) -> NDArray:
    """The parcel of each pixel, 0 none: as the dataset numbers them, or else the connected areas of
    each countable class.
    """
    assert sample.classes_HW is not None
    if sample.instances_HW is not None:
        return sample.instances_HW.numpy()
    return connected_areas(sample.classes_HW.numpy(), classes.ids("thing"))


def connected_areas(classes_HW: NDArray, wanted: Sequence[int]) -> NDArray:
    """Numbers 1.. of the areas of one class whose pixels touch by a side; int32, 0 for classes that
    are not wanted.

    >>> connected_areas(np.array([[1, 1, 0, 2], [0, 0, 1, 2]]), [1, 2]).tolist()
    [[1, 1, 0, 3], [0, 0, 2, 3]]
    """
    areas_HW, found = np.zeros(classes_HW.shape, np.int32), 0
    for class_id in sorted(set(np.unique(classes_HW).tolist()) & set(wanted)):
        labelled_HW, count = ndimage.label(classes_HW == class_id)
        areas_HW[labelled_HW > 0] = labelled_HW[labelled_HW > 0] + found
        found += count
    return areas_HW
