"""The layouts in which a register becomes a dataset: PASTIS's and S2TSCzCrop's. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.data import pastis_files, s2tsczcrop_files
from panoseg.data.s2tsczcrop_files import Affine, CzechPatch

LayoutName = Literal["pastis", "s2tsczcrop"]
_DEGREES = 4326


@dataclass(frozen=True, eq=False)
class FinishedPatch:
    """A patch as the tables of a dataset describe it."""

    id: int
    """Names its files."""
    part: int | str
    """Its fold or set."""
    dates: tuple[date, ...]
    """Dates of its images, ascending."""
    parcels: int
    """Number of parcels with a known crop."""
    cover: float
    """Share 0..1 of pixels in such parcels."""
    tile: str
    """Name of its cube."""
    crs: str
    """Coordinate system as WKT."""
    epsg: int | None
    """EPSG code of the coordinate system, if it has one."""
    affine: Affine
    """From pixels (column, row) to coordinates: a, b, c, d, e, f."""
    size: int
    """Pixels on a side."""
    moments_2C: np.ndarray
    """float64: mean and deviation of each band."""

    def outline(self) -> list[tuple[float, float]]:
        """Return its corners in map coordinates, the first repeated."""
        a, b, left, d, e, top = self.affine
        corners = [(0, 0), (self.size, 0), (self.size, self.size), (0, self.size), (0, 0)]
        return [
            (a * column + b * row + left, d * column + e * row + top) for column, row in corners
        ]


@dataclass(frozen=True)
class WrittenLayout:
    """How a dataset of one layout is written."""

    classes: ClassTable
    """Classes of its labels."""
    parts: tuple[int | str, ...]
    """Names of its folds or sets."""
    weights: tuple[float, ...]
    """Share of the land of each fold or set."""
    part: str
    """What they are called: fold or set."""
    save_images: Callable[[Path, int, np.ndarray], None]
    """Writes the images of a patch: folder, id, int16 T x C x H x W in PASTIS's order of bands."""
    save_labels: Callable[[Path, int, np.ndarray, np.ndarray, bool], None]
    """Writes the labels of a patch: folder, id, classes, numbers of parcels, whether to write
    centres.
    """
    save_tables: Callable[[Path, Sequence[FinishedPatch]], None]
    """Writes the tables: folder, all patches. Called last."""


def _save_pastis_labels(
    folder: Path, patch_id: int, classes_HW: np.ndarray, parcels_HW: np.ndarray, centres: bool
) -> None:
    pastis_files.save_labels(folder, patch_id, classes_HW, parcels_HW, centres=centres)


def _save_pastis_tables(folder: Path, patches: Sequence[FinishedPatch]) -> None:
    """Write PASTIS's tables.

    Statistics of a fold are the mean over its patches of their mean and deviation, as published.
    """
    of_fold: dict[int, list[np.ndarray]] = {}
    for patch in patches:
        of_fold.setdefault(int(patch.part), []).append(patch.moments_2C)
    pastis_files.save_normalisation(
        folder, {fold: np.mean(found, axis=0) for fold, found in of_fold.items()}
    )
    codes = {patch.epsg for patch in patches}
    epsg = next(iter(codes)) if len(codes) == 1 else None
    rows = [
        pastis_files.PatchRow(
            patch.id,
            int(patch.part),
            patch.dates,
            patch.parcels,
            patch.cover,
            patch.tile,
            patch.crs,
            patch.outline(),
        )
        for patch in patches
    ]
    pastis_files.save_metadata(folder, rows, epsg or _DEGREES)


def _save_czech_labels(
    folder: Path, patch_id: int, classes_HW: np.ndarray, parcels_HW: np.ndarray, centres: bool
) -> None:
    s2tsczcrop_files.save_classes(folder, patch_id, classes_HW)


def _save_czech_tables(folder: Path, patches: Sequence[FinishedPatch]) -> None:
    s2tsczcrop_files.save_band_statistics(
        folder, [patch.moments_2C for patch in patches if patch.part == "train"]
    )
    rows = [
        CzechPatch(
            patch.id,
            patch.part,  # type: ignore[arg-type]
            patch.dates,
            patch.epsg,
            patch.affine,
            {"Background_Cover": 1 - patch.cover, "TILE": patch.tile},
        )
        for patch in patches
    ]
    s2tsczcrop_files.save_patches(folder, rows)


LAYOUTS: dict[LayoutName, WrittenLayout] = {
    "pastis": WrittenLayout(
        PASTIS,
        (1, 2, 3, 4, 5),
        (0.2,) * 5,
        "fold",
        pastis_files.save_images,
        _save_pastis_labels,
        _save_pastis_tables,
    ),
    "s2tsczcrop": WrittenLayout(
        S2TSCZCROP,
        s2tsczcrop_files.SETS,
        (0.7, 0.15, 0.15),  # as published
        "set",
        s2tsczcrop_files.save_images,
        _save_czech_labels,
        _save_czech_tables,
    ),
}
