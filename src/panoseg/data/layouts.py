"""The layouts of datasets: how a folder tells its own, the official splits, and how patches or
photographs are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.coco.categories import read_categories
from panoseg.coco.json import CocoJson
from panoseg.data import pastis_files as pastis_metadata
from panoseg.data import s2tsczcrop_files
from panoseg.data.coco import CocoDataset, find_splits
from panoseg.data.pastis import FOLDS, PastisDataset, fold_normalisation
from panoseg.data.places import is_url
from panoseg.data.s2tsczcrop import S2TSCzCropDataset, train_normalisation
from panoseg.data.samples import Normalisation
from panoseg.data.shards import INDEX, CocoShards, ShardIndex
from panoseg.errors import ConfigError, DatasetError

Policy = Literal["train", "published"]

Parts = tuple[Any, ...]
"""Folds of PASTIS, as numbers, or sets of S2TSCzCrop, as names."""


@dataclass(frozen=True)
class Layout:
    """A way in which datasets lie on disk.

    name: of the dataset it was made for. table: the file that lists the patches, by which a folder
    tells its layout. classes: what labels mean. part: "fold" or "set". rotations: by number, the
    parts to train, validate and test on. open: the class of its datasets, called with folder, parts
    and options. normalisation: mean and deviation over some parts, as far as the dataset's
    statistics tell them apart; None for photographs, which networks standardise themselves.
    """

    name: str
    table: str
    classes: ClassTable
    part: str
    rotations: Mapping[int, tuple[Parts, Parts, Parts]]
    open: Callable[..., Any]
    normalisation: Callable[[Path, Parts], Normalisation] | None

    @property
    def of_photographs(self) -> bool:
        """Whether it holds photographs, and not seasons."""
        return self.normalisation is None

    @property
    def samples(self) -> str:
        """What a dataset holds, in a word."""
        return "photographs" if self.of_photographs else "patches"

    @property
    def parts(self) -> Parts:
        """All parts of a dataset, in order."""
        return tuple(dict.fromkeys(part for parts in self.rotations[1] for part in parts))

    def normalisation_of(self, folder: Path, parts: Parts) -> Normalisation:
        """Mean and deviation over some parts of a dataset of seasons."""
        assert self.normalisation is not None, "photographs are standardised by networks"
        return self.normalisation(folder, parts)

    def rotation(self, fold: int) -> tuple[Parts, Parts, Parts]:
        """The parts to train, validate and test on. Raises ``ConfigError`` for a rotation that the
        layout does not have.
        """
        if fold in self.rotations:
            return self.rotations[fold]
        if len(self.rotations) == 1:
            raise ConfigError(
                f"fold {fold} of a dataset in {self.name}'s layout, which has one official split",
                "fold 1",
                "leave out --fold",
            )
        raise ConfigError(
            f"fold {fold}",
            f"a number from 1 to {len(self.rotations)}, or all",
            "pass e.g. --fold 1",
        )

    def normalisations(self, folder: Path, fold: int, policy: Policy) -> tuple[Normalisation, ...]:
        """Normalisation of the training, validation and test set of a rotation.

        policy: "train" takes the training parts for all three, so that nothing of the test set
        leaks into its inputs and one normalisation belongs to the weights. "published" gives each
        set its own, as far as the layout has them.
        """
        rotation = self.rotation(fold)
        return tuple(
            self.normalisation_of(folder, parts if policy == "published" else rotation[0])
            for parts in rotation
        )

    def words(self, parts: Sequence[Any]) -> str:
        """Parts in words: "folds 1, 2, 3", "set test"."""
        return f"{self.part}{'s' * (len(parts) > 1)} {', '.join(map(str, parts))}"


PASTIS_LAYOUT = Layout(
    "PASTIS", pastis_metadata.FILE_NAME, PASTIS, "fold", FOLDS, PastisDataset, fold_normalisation
)

S2TSCZCROP_LAYOUT = Layout(
    "S2TSCzCrop",
    s2tsczcrop_files.FILE_NAME,
    S2TSCZCROP,
    "set",
    {1: (("train",), ("val",), ("test",))},
    S2TSCzCropDataset,
    # The published program standardises all sets with the statistics of the training set, and there
    # are no others.
    lambda folder, parts: train_normalisation(folder),
)

LAYOUTS = (PASTIS_LAYOUT, S2TSCZCROP_LAYOUT)


def coco_layout(folder: Path | str) -> Layout:
    """The layout of a dataset of photographs in COCO's form, with the classes that it has.

    Its set to train on is the one whose name begins with "train", and to validate and test the one
    with "val", or else another; a dataset of one set has it for all three. Raises ``DatasetError``
    and ``PanopticFormatError``.
    """
    names = find_splits(folder)
    # The table of the set that is smaller by far; the other must have the same classes.
    annotations = Path(folder) / "annotations" / f"panoptic_{_validation(names)}.json"
    status = annotations.stat()
    classes = _read_classes(annotations, status.st_size, status.st_mtime_ns)
    return _photographs("annotations/panoptic_NAME.json", names, classes, CocoDataset)


def shards_layout(place: Path | str) -> Layout:
    """The layout of a dataset of shards, as ``panoseg coco shards`` writes it. Raises
    ``DatasetError``.
    """
    index = ShardIndex.read(place)
    return _photographs(INDEX, tuple(index.splits), index.table, CocoShards)


def _validation(names: Sequence[str]) -> str:
    others = [name for name in names if not name.startswith("train")]
    return next((name for name in names if name.startswith("val")), (others or names)[-1])


def _photographs(
    table: str, names: Sequence[str], classes: ClassTable, reader: Callable[..., Any]
) -> Layout:
    train, validation = (
        next((name for name in names if name.startswith("train")), names[0]),
        _validation(names),
    )
    rotations = {1: ((train,), (validation,), (validation,))}
    return Layout("COCO", table, classes, "set", rotations, reader, None)


@lru_cache(maxsize=8)
def _read_classes(annotations: Path, size: int, changed: int) -> ClassTable:
    """The classes of a JSON; ``size`` and ``changed`` say which version of the file."""
    _, table = read_categories(CocoJson.open(annotations))
    return table


def find_layout(folder: Path | str) -> Layout:
    """The layout of a dataset, by the table of patches in its folder; of a URL, that of shards.
    Raises ``DatasetError``.
    """
    if is_url(folder) or (Path(folder) / INDEX).exists():
        return shards_layout(folder)
    for layout in LAYOUTS:
        if (Path(folder) / layout.table).exists():
            return layout
    if find_splits(folder):
        return coco_layout(folder)
    found = (
        f"{folder} has no table of patches" if Path(folder).is_dir() else f"{folder} does not exist"
    )
    tables = [f"{layout.table} ({layout.name}'s layout)" for layout in LAYOUTS]
    tables += ["annotations/panoptic_NAME.json (COCO's layout)", f"{INDEX} (shards)"]
    raise DatasetError(
        found, f"a dataset with {' or '.join(tables)}", "complete the dataset or correct its path"
    )
