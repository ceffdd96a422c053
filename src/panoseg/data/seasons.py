"""Datasets of patches with seasons: what the readers of PASTIS and S2TSCzCrop share.

``PatchDataset`` is the base class of both; the functions check files on disk, sort a season by its
dates, map classes and parse options.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Generic, Protocol, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.data import AugmentationConfig
from panoseg.data.arrays import map_array
from panoseg.data.augment import augment
from panoseg.data.pastis_files import parse_date
from panoseg.data.samples import Sample
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.sentinel2 import REFERENCE_DATE

_REFERENCE_DAY = date.fromisoformat(REFERENCE_DATE)


class DatedPatch(Protocol):
    """A row of a dataset's table of patches, as far as all layouts have it."""

    @property
    def id(self) -> int:
        """Identifier of the patch."""

    @property
    def dates(self) -> tuple[date, ...]:
        """Date of each image, in the order of the images on disk."""


_Patch = TypeVar("_Patch", bound=DatedPatch)


class SampleOptions(TypedDict, total=False):
    """Options of ``PatchDataset`` that every dataset of patches passes on."""

    reference_date: date
    """Day 0 of ``Sample.days_T``."""
    class_mapping: Mapping[int, int] | Mapping[str, int] | None
    """New class of each class on disk."""
    single_date: int | str | date | None
    """Keep one image a patch: its position (negative from the end), or the nearest to a date."""
    augmentation: AugmentationConfig | None
    """Random changes of samples; None for none."""


class PatchDataset(Dataset[Sample], Generic[_Patch]):
    """The patches of some parts of a dataset; images are read when they are used, not before.

    With augmentation, ``dataset[index]`` draws from torch's global generator, so that under torch's
    ``DataLoader`` every epoch has new augmentation and ``torch.manual_seed`` repeats it (with the
    same number of workers). ``panoseg.data.loading.make_loader`` calls ``draw`` instead, with a
    generator of (seed, epoch, index).

    Args:
        folder: The dataset.
        metadata: The patches, by ascending identifier.
        parts: The folds or sets that they belong to, for messages.
        target: What is read besides images; None for nothing.
        classes: The classes that labels on disk may have.
        reference_date: Day 0 of ``Sample.days_T``.
        class_mapping: New class of each class on disk; by default classes stay.
        single_date: Keep one image a patch: its position (negative from the end), or the nearest
            to a date.
        augmentation: Random changes of samples; none by default.

    Raises:
        DatasetError: Files are missing or contradict each other.
        ConfigError: An option is impossible.
    """

    def __init__(
        self,
        folder: Path | str,
        metadata: Sequence[_Patch],
        parts: str,
        target: str | None,
        classes: ClassTable,
        *,
        reference_date: date = _REFERENCE_DAY,
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
            raise DatasetError(f"{folder} has no patch of {parts}; choose others.")
        self.ids = tuple(patch.id for patch in self.metadata)

    def __len__(self) -> int:
        return len(self.metadata)

    def dates(self, index: int) -> tuple[date, ...]:
        """Return all dates of a patch, ascending; ``single_date`` does not matter."""
        return tuple(sorted(self.metadata[index].dates))

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, self.generator()).in_order()

    def generator(self) -> np.random.Generator:
        """Return a generator for one sample, seeded by torch's global generator.

        In a loader's worker torch seeds that generator again for each epoch, or lets it continue
        where workers persist. Without augmentation it is left as it is.
        """
        if self.augmentation == AugmentationConfig():
            return np.random.default_rng(0)
        return np.random.default_rng(int(torch.randint(2**63 - 1, ())))

    def draw(self, index: int, generator: np.random.Generator) -> Sample:
        """Return the sample at ``index``, augmented as ``generator`` decides.

        Its bands may still lie as on disk; ``collate`` reorders them.
        """
        return augment(self._read(self.metadata[index]), self.augmentation, generator)

    def _read(self, patch: _Patch) -> Sample:
        """Read a sample, before augmentation."""
        raise NotImplementedError

    def _season(self, on_disk_TCHW: np.ndarray, patch: _Patch) -> tuple[Tensor, Tensor]:
        """Return the images that are used and their days, in the order of the days."""
        return sorted_season(
            on_disk_TCHW, patch.dates, self.reference_date, self.single_date, patch.id
        )

    def _mapped(self, classes_HW: np.ndarray) -> Tensor:
        """Return the classes to learn, given those on disk."""
        return map_classes(classes_HW, self.class_mapping, self.classes)


def check_complete(folder: Path, names: Sequence[str], table: str) -> None:
    """Find missing files before a long run rather than in it.

    Args:
        folder: Where the files should be.
        names: One file a patch.
        table: Name of the file that lists the patches, for messages.

    Raises:
        DatasetError: A file is missing.
    """
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise DatasetError(
            f"{folder} lacks {missing[0]}{more}, files of the {len(names)} patches in {table};"
            " complete the dataset or correct its path."
        )


def map_images(path: Path, dates: int, bands: Sequence[str], table: str) -> np.ndarray:
    """Map the images of a patch into memory.

    Args:
        path: A .npy file.
        dates: Number of dates that ``table`` lists for the patch.
        bands: Names of the bands, in the order of the file.
        table: Name of the file that lists the patches, for messages.

    Returns:
        int16, T x C x H x W, reflectance x 10 000, read only where it is touched.

    Raises:
        DatasetError: The file is missing, damaged or of another shape.
    """
    images_TCHW = map_array(path, dimensions=4, dtype="int16")
    if images_TCHW.shape[1] != len(bands) or not all(images_TCHW.shape):
        raise DatasetError(
            f"{path} is {' x '.join(map(str, images_TCHW.shape))} instead of"
            f" T x {len(bands)} x H x W with the bands {' '.join(bands)} and at least one date; for"
            " own bands and classes in PASTIS's layout pass --classes table.csv."
        )
    if len(images_TCHW) != dates:
        raise DatasetError(
            f"{path} has {len(images_TCHW)} images, but {table} lists {dates} dates for it; make"
            " the two agree."
        )
    return images_TCHW


def sorted_season(
    images_TCHW: np.ndarray,
    dates: Sequence[date],
    reference_date: date,
    single_date: int | date | None,
    patch: object,
) -> tuple[Tensor, Tensor]:
    """Sort images and their days together.

    Args:
        images_TCHW: The images on disk; where they are sorted there, they are not read.
        dates: Date of each image.
        reference_date: Day 0.
        single_date: Keep only the date at that position of the sorted series, or the one nearest
            to that date.
        patch: Name of the patch, for messages.

    Returns:
        The images, and their days since ``reference_date``, int64 ascending.

    Raises:
        DatasetError: The series has no such position.
    """
    days_T = np.array([(day - reference_date).days for day in dates], dtype=np.int64)
    order = np.argsort(days_T, kind="stable")
    if isinstance(single_date, date):
        # The earlier of two that are equally near.
        order = order[[np.abs(days_T[order] - (single_date - reference_date).days).argmin()]]
    elif single_date is not None:
        if not -len(order) <= single_date < len(order):
            raise DatasetError(
                f"Patch {patch} has {len(order)} dates and none at position {single_date}; choose"
                " another single date."
            )
        order = order[[single_date]]
    if len(order) < len(days_T) or (np.diff(order) < 0).any():
        images_TCHW = images_TCHW[order]
    return torch.from_numpy(images_TCHW), torch.from_numpy(days_T[order])


def check_size(path: Path, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise ``DatasetError`` for an array of another size than the rest of its patch."""
    if tuple(found) != tuple(expected):
        raise DatasetError(
            f"{path} covers {' x '.join(map(str, found)) or 'no'} pixels, the other arrays of its"
            f" patch {' x '.join(map(str, expected))}; make them agree."
        )


def known_classes(path: Path, labels_HW: np.ndarray, table: ClassTable) -> np.ndarray:
    """Return labels as int64; raise ``DatasetError`` where one is not a class of the table."""
    classes_HW = labels_HW.astype(np.int64)
    unknown = sorted(set(np.unique(classes_HW).tolist()) - {entry.id for entry in table.classes})
    if unknown:
        raise DatasetError(
            f"{path} holds class {unknown[0]}, which is none of {table.name}; correct the file, or"
            " pass the classes of an own dataset with --classes table.csv."
        )
    return classes_HW


def map_classes(
    classes_HW: np.ndarray, mapping: Mapping[int, int] | None, table: ClassTable
) -> Tensor:
    """Apply a mapping of ``parse_class_mapping``; raise ``ConfigError`` for a class it lacks."""
    if mapping is None:
        return torch.from_numpy(classes_HW)
    present = np.unique(classes_HW).tolist()
    for class_id in present:
        if class_id not in mapping:
            raise ConfigError(
                f"class_mapping has no new class for class {class_id} ({table[class_id].name}) of"
                " the dataset; add one."
            )
    new = torch.zeros(max(present) + 1, dtype=torch.int64)
    for class_id in present:
        new[class_id] = mapping[class_id]
    return new[torch.from_numpy(classes_HW)]


def parse_class_mapping(
    mapping: Mapping[int, int] | Mapping[str, int] | None,
) -> dict[int, int] | None:
    """Return the new class of each class; keys may be text, as JSON writes them."""
    try:
        parsed = None if mapping is None else {int(old): new for old, new in mapping.items()}
    except ValueError as error:
        raise ConfigError(f"The keys of class_mapping must be classes: {error}.") from None
    for old, new in (parsed or {}).items():
        if type(new) is not int or new < 0:
            raise ConfigError(
                f"class_mapping maps {old} to {new!r}; a new class must be a whole number from 0."
            )
    return parsed


def parse_single_date(single_date: int | str | date | None) -> int | date | None:
    """Parse a position (a number, also as text, negative from the end) or a date."""
    if not isinstance(single_date, str):
        return single_date
    try:
        return (
            int(single_date)
            if re.fullmatch(r"-?\d{1,4}", single_date, re.ASCII)
            else parse_date(single_date)
        )
    except ValueError:
        raise ConfigError(
            f"{single_date!r} is not a single date; pass a position or a date such as 2019-08-01."
        ) from None


def parse_reference_date(text: str) -> date:
    """Parse the date from which days are counted; every season begins with its month and day.

    Args:
        text: YYYY-MM-DD. 29 February is refused, since most years have no season that begins on it.

    Raises:
        ConfigError: The text is no such date.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text or (day.month, day.day) == (2, 29):
        raise ConfigError(
            f"{text!r} is not a reference date; pass a date YYYY-MM-DD that every year has, such as"
            " 2018-09-01."
        ) from None
    return day


def position_of(patch: str, names: Sequence[str]) -> int:
    """Return the position of a patch in a dataset; raise ``ConfigError`` for an unknown name."""
    if patch in names:
        return names.index(patch)
    close = difflib.get_close_matches(patch, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"for example it has {names[0]}."
    raise ConfigError(f"None of the {len(names)} patches of the dataset is called {patch}; {hint}")
