"""What readers of datasets share: files, seasons in the order of their dates, maps of classes.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.data.npy import map_array
from panoseg.data.pastis_metadata import parse_date
from panoseg.errors import ConfigError, DatasetError


def check_complete(folder: Path, names: Sequence[str], table: str) -> None:
    """Find missing files before a long run rather than in it. names: a file a patch. table: the file that lists the patches."""
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in present]
    if missing:
        raise DatasetError(
            f"{folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            f"a file for each of the {len(names)} patches in {table}",
            "complete the dataset or correct its path",
        )


def map_images(path: Path, dates: int, bands: Sequence[str], table: str) -> NDArray:
    """The images of a patch, int16 T x C x H x W, mapped into memory. dates: how many ``table`` lists for it."""
    images_TCHW = map_array(path, dimensions=4, dtype="int16")
    if images_TCHW.shape[1] != len(bands) or not all(images_TCHW.shape):
        raise DatasetError(
            f"{path} is {' x '.join(map(str, images_TCHW.shape))}",
            f"T x {len(bands)} x H x W with the bands {' '.join(bands)}",
            "write all bands and at least one date",
        )
    if len(images_TCHW) != dates:
        raise DatasetError(
            f"{path} has {len(images_TCHW)} images", f"{dates}, the number of its dates in {table}", "make the two agree"
        )
    return images_TCHW


def sorted_season(
    images_TCHW: NDArray, dates: Sequence[date], reference_date: date, single_date: int | date | None, patch: object
) -> tuple[Tensor, Tensor]:
    """Images and days since ``reference_date``, sorted together; only mapped, not read, where they are sorted on disk.

    single_date: keep only the date at that position of the sorted series, or the one nearest to that date. patch: its name.
    """
    days_T = np.array([(day - reference_date).days for day in dates], dtype=np.int64)
    order = np.argsort(days_T, kind="stable")
    if isinstance(single_date, date):
        # The earlier of two that are equally near.
        order = order[[np.abs(days_T[order] - (single_date - reference_date).days).argmin()]]
    elif single_date is not None:
        if not -len(order) <= single_date < len(order):
            raise DatasetError(
                f"patch {patch} has {len(order)} dates", f"one at position {single_date}", "choose another single date"
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
            f"{path} holds class {unknown[0]}", f"the classes of {table.name}", "correct the file or give its class table"
        )
    return classes_HW


def map_classes(classes_HW: NDArray, mapping: Mapping[int, int] | None, table: ClassTable) -> Tensor:
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


def parse_class_mapping(mapping: Mapping[int, int] | Mapping[str, int] | None) -> dict[int, int] | None:
    """New class of each class. Keys may be text, as JSON writes them."""
    try:
        parsed = None if mapping is None else {int(old): new for old, new in mapping.items()}
    except ValueError as error:
        raise ConfigError(f"class_mapping: {error}", "classes as keys", "correct the mapping") from None
    for old, new in (parsed or {}).items():
        if type(new) is not int or new < 0:
            raise ConfigError(f"class_mapping maps {old} to {new!r}", "a class from 0", "correct the mapping")
    return parsed


def parse_single_date(single_date: int | str | date | None) -> int | date | None:
    """A position (a number, also as text, negative from the end) or a date."""
    if not isinstance(single_date, str):
        return single_date
    try:
        return int(single_date) if re.fullmatch(r"-?\d{1,4}", single_date, re.ASCII) else parse_date(single_date)
    except ValueError:
        raise ConfigError(
            f"single date {single_date!r}", "a position, or a date such as 2019-08-01", "write it in one of these forms"
        ) from None


def parse_reference_date(text: str) -> date:
    """The date from which days are counted; every season begins with its month and day. Raises ``ConfigError``.

    text: YYYY-MM-DD. 29 February is refused, since most years have no season that begins on it.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text or (day.month, day.day) == (2, 29):
        raise ConfigError(
            f"reference date {text!r}", "a date YYYY-MM-DD that every year has", "write one such as 2018-09-01"
        ) from None
    return day


def position_of(patch: str, names: Sequence[str]) -> int:
    """The position of a patch among the names of a dataset's. Raises ``ConfigError`` for a name that is not one of them."""
    if patch in names:
        return names.index(patch)
    close = difflib.get_close_matches(patch, names, n=1)
    fix = f"did you mean {close[0]}?" if close else f"e.g. {names[0]}"
    raise ConfigError(f"no patch {patch!r} in the dataset", f"one of its {len(names)} patches", fix)
