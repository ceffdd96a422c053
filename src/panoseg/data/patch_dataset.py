"""What the datasets of patches share, whatever their layout on disk.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Generic, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.data.augment import augment
from panoseg.data.augment_config import AugmentationConfig
from panoseg.data.samples import Sample
from panoseg.data.seasons import map_classes, parse_class_mapping, parse_single_date, sorted_season
from panoseg.errors import DatasetError


class DatedPatch(Protocol):
    """A row of a dataset's table of patches, as far as all layouts have it."""

    @property
    def id(self) -> int:
        """Its identifier."""

    @property
    def dates(self) -> tuple[date, ...]:
        """The date of each image, in the order of the images."""


_Patch = TypeVar("_Patch", bound=DatedPatch)


class SampleOptions(TypedDict, total=False):
    """How a patch becomes a sample; ``PatchDataset`` says what each option means."""

    reference_date: date
    class_mapping: Mapping[int, int] | Mapping[str, int] | None
    single_date: int | str | date | None
    augmentation: AugmentationConfig | None


class PatchDataset(Dataset[Sample], Generic[_Patch]):
    """The patches of some parts of a dataset; images are read when they are used, not before.

    metadata: the patches, by ascending identifier. parts: what they are of, in words. target: what is read beside images, None
    for nothing. classes: those that labels on disk may have. reference_date: day 0 of ``Sample.days_T``. class_mapping: new
    class of each class. single_date: only one image a patch, by position (negative from the end) or the one nearest to a date.
    augmentation: none by default; a loader draws it anew each epoch, ``dataset[index]`` always gives the same. Raises
    ``DatasetError`` for what is wrong on disk, ``ConfigError`` for impossible options.
    """

    def __init__(
        self,
        folder: Path | str,
        metadata: Sequence[_Patch],
        parts: str,
        target: str | None,
        classes: ClassTable,
        *,
        reference_date: date = date(2018, 9, 1),
        class_mapping: Mapping[int, int] | Mapping[str, int] | None = None,
        single_date: int | str | date | None = None,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        self.folder, self.metadata = Path(folder), list(metadata)
        self.target, self.classes = target, classes
        self.reference_date = reference_date
        self.class_mapping = parse_class_mapping(class_mapping)
        self.single_date = parse_single_date(single_date)
        self.augmentation = augmentation or AugmentationConfig()
        if not self.metadata:
            raise DatasetError(f"{folder} has no patch of {parts}", "at least one", "choose others, which the dataset has")
        self.ids = tuple(patch.id for patch in self.metadata)

    def __len__(self) -> int:
        return len(self.metadata)

    def dates(self, index: int) -> tuple[date, ...]:
        """Dates of a patch, ascending, all of them whatever ``single_date`` says."""
        return tuple(sorted(self.metadata[index].dates))

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, np.random.default_rng((0, 0, index % len(self)))).in_order()

    def draw(self, index: int, generator: np.random.Generator) -> Sample:
        """The sample at ``index``, augmented as ``generator`` decides; ``collate`` puts its bands in order."""
        return augment(self._read(self.metadata[index]), self.augmentation, generator)

    def _read(self, patch: _Patch) -> Sample:
        """A sample before augmentation."""
        raise NotImplementedError

    def _season(self, on_disk_TCHW: NDArray, patch: _Patch) -> tuple[Tensor, Tensor]:
        """The images that are used, sorted with their days."""
        return sorted_season(on_disk_TCHW, patch.dates, self.reference_date, self.single_date, patch.id)

    def _mapped(self, classes_HW: NDArray) -> Tensor:
        """Classes as they are learned, of those on disk."""
        return map_classes(classes_HW, self.class_mapping, self.classes)
