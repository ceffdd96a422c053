"""What readers of datasets share: files, seasons in the order of their dates, maps of classes.

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
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.data.arrays import map_array
from panoseg.data.augment import augment
from panoseg.data.config import AugmentationConfig
from panoseg.data.pastis_files import parse_date
from panoseg.data.samples import Sample
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.calendar import REFERENCE_DATE

_REFERENCE_DAY = date.fromisoformat(REFERENCE_DATE)


def check_complete(folder: Path, names: Sequence[str], table: str) -> None:
    """Find missing files before a long run rather than in it. names: a file a patch. table: the
    file that lists the patches.
    """
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in present]
    if missing:
        raise DatasetError(
            f"{folder} lacks {missing[0]}"
            + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            f"a file for each of the {len(names)} patches in {table}",
            "complete the dataset or correct its path",
        )


def map_images(path: Path, dates: int, bands: Sequence[str], table: str) -> NDArray:
    """The images of a patch, int16 T x C x H x W, mapped into memory. dates: how many ``table``
    lists for it.
    """
    images_TCHW = map_array(path, dimensions=4, dtype="int16")
    if images_TCHW.shape[1] != len(bands) or not all(images_TCHW.shape):
        raise DatasetError(
            f"{path} is {' x '.join(map(str, images_TCHW.shape))}",
            f"T x {len(bands)} x H x W with the bands {' '.join(bands)}",
            "write all bands and at least one date",
        )
    if len(images_TCHW) != dates:
        raise DatasetError(
            f"{path} has {len(images_TCHW)} images",
            f"{dates}, the number of its dates in {table}",
            "make the two agree",
        )
    return images_TCHW


def sorted_season(
    images_TCHW: NDArray,
    dates: Sequence[date],
    reference_date: date,
    single_date: int | date | None,
    patch: object,
) -> tuple[Tensor, Tensor]:
    """Images and days since ``reference_date``, sorted together; only mapped, not read, where they
    are sorted on disk.

    single_date: keep only the date at that position of the sorted series, or the one nearest to
    that date. patch: its name.
    """
    days_T = np.array([(day - reference_date).days for day in dates], dtype=np.int64)
    order = np.argsort(days_T, kind="stable")
    if isinstance(single_date, date):
        # The earlier of two that are equally near.
        order = order[[np.abs(days_T[order] - (single_date - reference_date).days).argmin()]]
    elif single_date is not None:
        if not -len(order) <= single_date < len(order):
            raise DatasetError(
                f"patch {patch} has {len(order)} dates",
                f"one at position {single_date}",
                "choose another single date",
            )
        order = order[[single_date]]
    if len(order) < len(days_T) or (np.diff(order) < 0).any():
        images_TCHW = images_TCHW[order]
    return torch.from_numpy(images_TCHW), torch.from_numpy(days_T[order])


def check_size(path: Path, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse an array that covers other pixels than the rest of its patch."""
    if tuple(found) != tuple(expected):
        raise DatasetError(
            f"{path} covers {' x '.join(map(str, found)) or 'no'} pixels",
            f"{' x '.join(map(str, expected))} as in the patch's other arrays",
            "make the arrays of the patch agree",
        )


def known_classes(path: Path, labels_HW: NDArray, table: ClassTable) -> NDArray:
    """Labels as int64, all of them classes of the table."""
    classes_HW = labels_HW.astype(np.int64)
    unknown = sorted(set(np.unique(classes_HW).tolist()) - {entry.id for entry in table.classes})
    if unknown:
        raise DatasetError(
            f"{path} holds class {unknown[0]}",
            f"the classes of {table.name}",
            "correct the file or give its class table",
        )
    return classes_HW


def map_classes(
    classes_HW: NDArray, mapping: Mapping[int, int] | None, table: ClassTable
) -> Tensor:
    """Classes after a mapping of ``parse_class_mapping``; names the class that it lacks."""
    if mapping is None:
        return torch.from_numpy(classes_HW)
    present = np.unique(classes_HW).tolist()
    for class_id in present:
        if class_id not in mapping:
            raise ConfigError(
                f"class_mapping lacks class {class_id} ({table[class_id].name})",
                "a new class for each class of the dataset",
                f"add {class_id} to the mapping",
            )
    new = torch.zeros(max(present) + 1, dtype=torch.int64)
    for class_id in present:
        new[class_id] = mapping[class_id]
    return new[torch.from_numpy(classes_HW)]


def parse_class_mapping(
    mapping: Mapping[int, int] | Mapping[str, int] | None,
) -> dict[int, int] | None:
    """New class of each class. Keys may be text, as JSON writes them."""
    try:
        parsed = None if mapping is None else {int(old): new for old, new in mapping.items()}
    except ValueError as error:
        raise ConfigError(
            f"class_mapping: {error}", "classes as keys", "correct the mapping"
        ) from None
    for old, new in (parsed or {}).items():
        if type(new) is not int or new < 0:
            raise ConfigError(
                f"class_mapping maps {old} to {new!r}", "a class from 0", "correct the mapping"
            )
    return parsed


def parse_single_date(single_date: int | str | date | None) -> int | date | None:
    """A position (a number, also as text, negative from the end) or a date."""
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
            f"single date {single_date!r}",
            "a position, or a date such as 2019-08-01",
            "write it in one of these forms",
        ) from None


def parse_reference_date(text: str) -> date:
    """The date from which days are counted; every season begins with its month and day. Raises
    ``ConfigError``.

    text: YYYY-MM-DD. 29 February is refused, since most years have no season that begins on it.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text or (day.month, day.day) == (2, 29):
        raise ConfigError(
            f"reference date {text!r}",
            "a date YYYY-MM-DD that every year has",
            "write one such as 2018-09-01",
        ) from None
    return day


def position_of(patch: str, names: Sequence[str]) -> int:
    """The position of a patch among the names of a dataset's. Raises ``ConfigError`` for a name
    that is not one of them.
    """
    if patch in names:
        return names.index(patch)
    close = difflib.get_close_matches(patch, names, n=1)
    fix = f"did you mean {close[0]}?" if close else f"e.g. {names[0]}"
    raise ConfigError(f"no patch {patch!r} in the dataset", f"one of its {len(names)} patches", fix)


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

    metadata: the patches, by ascending identifier. parts: what they are of, in words. target: what
    is read beside images, None for nothing. classes: those that labels on disk may have.
    reference_date: day 0 of ``Sample.days_T``. class_mapping: new class of each class. single_date:
    only one image a patch, by position (negative from the end) or the one nearest to a date.
    augmentation: none by default; a loader draws it anew each epoch, ``dataset[index]`` always
    gives the same. Raises ``DatasetError`` for what is wrong on disk, ``ConfigError`` for
    impossible options.
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
            raise DatasetError(
                f"{folder} has no patch of {parts}",
                "at least one",
                "choose others, which the dataset has",
            )
        self.ids = tuple(patch.id for patch in self.metadata)

    def __len__(self) -> int:
        return len(self.metadata)

    def dates(self, index: int) -> tuple[date, ...]:
        """Dates of a patch, ascending, all of them whatever ``single_date`` says."""
        return tuple(sorted(self.metadata[index].dates))

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, np.random.default_rng((0, 0, index % len(self)))).in_order()

    def draw(self, index: int, generator: np.random.Generator) -> Sample:
        """The sample at ``index``, augmented as ``generator`` decides; ``collate`` puts its bands
        in order.
        """
        return augment(self._read(self.metadata[index]), self.augmentation, generator)

    def _read(self, patch: _Patch) -> Sample:
        """A sample before augmentation."""
        raise NotImplementedError

    def _season(self, on_disk_TCHW: NDArray, patch: _Patch) -> tuple[Tensor, Tensor]:
        """The images that are used, sorted with their days."""
        return sorted_season(
            on_disk_TCHW, patch.dates, self.reference_date, self.single_date, patch.id
        )

    def _mapped(self, classes_HW: NDArray) -> Tensor:
        """Classes as they are learned, of those on disk."""
        return map_classes(classes_HW, self.class_mapping, self.classes)
