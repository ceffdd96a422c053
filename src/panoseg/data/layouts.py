"""The layouts of datasets: how a folder tells its own, the official splits, and how patches are opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.data import pastis_metadata, s2tsczcrop_files
from panoseg.data.pastis import FOLDS, PastisDataset, fold_normalisation
from panoseg.data.s2tsczcrop import S2TSCzCropDataset, train_normalisation
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, DatasetError

Policy = Literal["train", "published"]

Parts = tuple[Any, ...]
"""Folds of PASTIS, as numbers, or sets of S2TSCzCrop, as names."""


@dataclass(frozen=True)
class Layout:
    """A way in which datasets lie on disk.

    name: of the dataset it was made for. table: the file that lists the patches, by which a folder tells its layout. classes:
    what labels mean. part: "fold" or "set". rotations: by number, the parts to train, validate and test on. open: the class
    of its datasets, called with folder, parts and options. normalisation: mean and deviation over some parts, as far as the
    dataset's statistics tell them apart.
    """

    name: str
    table: str
    classes: ClassTable
    part: str
    rotations: Mapping[int, tuple[Parts, Parts, Parts]]
    open: Callable[..., PastisDataset | S2TSCzCropDataset]
    normalisation: Callable[[Path, Parts], Normalisation]

    @property
    def parts(self) -> Parts:
        """All parts of a dataset, in order."""
        return tuple(part for parts in self.rotations[1] for part in parts)

    def rotation(self, fold: int) -> tuple[Parts, Parts, Parts]:
        """The parts to train, validate and test on. Raises ``ConfigError`` for a rotation that the layout does not have."""
        if fold in self.rotations:
            return self.rotations[fold]
        if len(self.rotations) == 1:
            raise ConfigError(
                f"fold {fold} of a dataset in {self.name}'s layout, which has one official split", "fold 1", "leave out --fold"
            )
        raise ConfigError(f"fold {fold}", f"a number from 1 to {len(self.rotations)}, or all", "pass e.g. --fold 1")

    def normalisations(self, folder: Path, fold: int, policy: Policy) -> tuple[Normalisation, ...]:
        """Normalisation of the training, validation and test set of a rotation.

        policy: "train" takes the training parts for all three, so that nothing of the test set leaks into its inputs and one
        normalisation belongs to the weights. "published" gives each set its own, as far as the layout has them.
        """
        rotation = self.rotation(fold)
        return tuple(self.normalisation(folder, parts if policy == "published" else rotation[0]) for parts in rotation)

    def words(self, parts: Sequence[Any]) -> str:
        """Parts in words: "folds 1, 2, 3", "set test"."""
        return f"{self.part}{'s' * (len(parts) > 1)} {', '.join(map(str, parts))}"


PASTIS_LAYOUT = Layout("PASTIS", pastis_metadata.FILE_NAME, PASTIS, "fold", FOLDS, PastisDataset, fold_normalisation)

S2TSCZCROP_LAYOUT = Layout(
    "S2TSCzCrop",
    s2tsczcrop_files.FILE_NAME,
    S2TSCZCROP,
    "set",
    {1: (("train",), ("val",), ("test",))},
    S2TSCzCropDataset,
    # The published program standardises all sets with the statistics of the training set, and there are no others.
    lambda folder, parts: train_normalisation(folder),
)

LAYOUTS = (PASTIS_LAYOUT, S2TSCZCROP_LAYOUT)


def find_layout(folder: Path | str) -> Layout:
    """The layout of a dataset, by the table of patches in its folder. Raises ``DatasetError``."""
    for layout in LAYOUTS:
        if (Path(folder) / layout.table).exists():
            return layout
    found = f"{folder} has no table of patches" if Path(folder).is_dir() else f"{folder} does not exist"
    tables = " or ".join(f"{layout.table} ({layout.name}'s layout)" for layout in LAYOUTS)
    raise DatasetError(found, f"a dataset with {tables}", "complete the dataset or correct its path")
