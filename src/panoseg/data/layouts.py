"""Layouts of datasets: how a folder is recognised, its official splits, and how they are opened."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.utils.data import Dataset, Subset

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.coco.categories import class_table, read_categories
from panoseg.coco.json import CocoJson
from panoseg.data import AugmentationConfig, DataConfig, PhotographConfig, s2tsczcrop_files
from panoseg.data import pastis_files as pastis_metadata
from panoseg.data.coco import (
    CocoDataset,
    CocoRecords,
    find_splits,
)
from panoseg.data.loading import Collate
from panoseg.data.pastis import FOLDS, PastisDataset, fold_normalisation
from panoseg.data.pastis_files import own_bands
from panoseg.data.photographs import collate_photographs
from panoseg.data.places import is_url
from panoseg.data.s2tsczcrop import S2TSCzCropDataset, train_normalisation
from panoseg.data.samples import Normalisation, collate
from panoseg.data.scored_photographs import ScoredPhotographs, collate_scored
from panoseg.data.seasons import parse_reference_date
from panoseg.data.shards import INDEX, CocoShards, ShardIndex
from panoseg.errors import (
    ConfigError,
    DatasetError,
    PanopticFormatError,
    WeightsError,
)

_LONGEST_CATEGORIES = 2**24  # bytes
Policy = Literal["train", "published"]
"""Whose statistics standardise the validation and test set, see ``Layout.normalisations``."""
Parts = tuple[Any, ...]
"""Folds of PASTIS, as numbers, or sets of other layouts, as names."""
Inputs = Literal["season", "photograph"]
"""Kind of sample."""
Target = Literal["semantic", "panoptic", "instances"]
"""What is learned."""
Opened = Any
"""A dataset that a layout has opened; each layout has its own class."""


@dataclass(frozen=True)
class Reading:
    """How samples are read from a dataset of any layout."""

    target: Target = "panoptic"
    """What is learned of seasons: parcels, or classes alone."""
    seasons: DataConfig = field(default_factory=DataConfig)
    """How patches become samples."""
    photographs: PhotographConfig = field(default_factory=PhotographConfig)
    """How photographs become samples."""


@dataclass(frozen=True)
class Layout(ABC):
    """A way in which datasets lie on disk, and how their sets are opened."""

    inputs: ClassVar[Inputs]
    """What the samples are."""
    samples: ClassVar[str]
    """What the samples are called."""
    scoring_options: ClassVar[frozenset[str]]
    """Options of ``panoseg test`` that apply to its samples."""
    standardised: ClassVar[bool]
    """Whether samples are standardised by statistics of the dataset; otherwise networks do it."""

    name: str
    """Name of the dataset that it was made for."""
    table: str
    """Name of the file that lists the samples, by which a folder is recognised."""
    classes: ClassTable
    """The classes of labels."""
    part: str
    """Word for its parts: "fold" or "set"."""
    rotations: Mapping[int, tuple[Parts, Parts, Parts]]
    """Parts to train, validate and test on, by the number of the rotation."""
    open: Callable[..., Any]
    """Class of its datasets, called with folder, parts and options."""

    @abstractmethod
    def open_train(self, folder: Path | str, parts: Parts, reading: Reading) -> Dataset[Any]:
        """Open some parts to train on."""

    @abstractmethod
    def open_scored(
        self,
        folder: Path | str,
        parts: Parts,
        reading: Reading,
        table: ClassTable | None = None,
        count: int = 0,
    ) -> Dataset[Any]:
        """Open some parts to score on, without augmentation.

        Args:
            folder: The dataset.
            parts: Folds or sets.
            reading: How samples are read.
            table: Classes of the network that is scored; None for those of the dataset.
            count: Number of samples to take from the start; 0 takes all.
        """

    @property
    @abstractmethod
    def collate_train(self) -> Collate:
        """Function that makes a batch of the samples of ``open_train``."""

    @property
    @abstractmethod
    def collate_scored(self) -> Collate:
        """Function that makes a batch of the samples of ``open_scored``."""

    @abstractmethod
    def names(self, dataset: Opened) -> list[str]:
        """Return the names of the samples of an opened set, in order."""

    @abstractmethod
    def left_out(self, dataset: Opened) -> int:
        """Return how many samples of an opened set have no annotation and are left out."""

    @abstractmethod
    def normalisation_of(self, folder: Path, parts: Parts) -> Normalisation | None:
        """Return mean and deviation over some parts; None where networks standardise."""

    @property
    def openable(self) -> tuple[Parts, ...]:
        """All parts, in groups that can be opened together."""
        return (self.parts,)

    @property
    def parts(self) -> Parts:
        """All parts of a dataset, in order."""
        return tuple(dict.fromkeys(part for parts in self.rotations[1] for part in parts))

    def rotation(self, fold: int) -> tuple[Parts, Parts, Parts]:
        """Return the parts to train, validate and test on.

        Raises:
            ConfigError: The layout has no such rotation.
        """
        if fold in self.rotations:
            return self.rotations[fold]
        if len(self.rotations) == 1:
            raise ConfigError(
                f"A dataset in {self.name}'s layout has one official split and no fold {fold};"
                " leave out --fold."
            )
        raise ConfigError(
            f"--fold must be a number from 1 to {len(self.rotations)}, or all, not {fold}."
        )

    def notes(self, fold: int) -> tuple[str, ...]:
        """Return notes about the test set of a rotation; none if it is a separate set.

        >>> S2TSCZCROP_LAYOUT.notes(1)
        ()
        """
        train, validation, test = self.rotation(fold)
        if test == train:
            return (
                f"this dataset has one set: scores are of {self.words(test)}, on which networks are"
                " trained too",
            )
        if test == validation:
            return (
                f"this dataset has no test set: scores are of {self.words(test)}, on which the best"
                " epoch is chosen too",
            )
        return ()

    def normalisations(
        self, folder: Path, fold: int, policy: Policy
    ) -> tuple[Normalisation | None, ...]:
        """Return the normalisation of the training, validation and test set of a rotation.

        Args:
            folder: The dataset.
            fold: The rotation.
            policy: "train" takes the training parts for all three, so that nothing of the test set
                leaks into its inputs and one normalisation belongs to the weights. "published"
                gives each set its own, as far as the layout has them.
        """
        rotation = self.rotation(fold)
        return tuple(
            self.normalisation_of(folder, parts if policy == "published" else rotation[0])
            for parts in rotation
        )

    def words(self, parts: Sequence[Any]) -> str:
        """Return parts in words: "folds 1, 2, 3", "set test"."""
        return f"{self.part}{'s' * (len(parts) > 1)} {', '.join(map(str, parts))}"


@dataclass(frozen=True)
class SeasonLayout(Layout):
    """A layout of satellite image time series."""

    inputs = "season"
    samples = "patches"
    scoring_options = frozenset({"every_patch", "normalisation", "region", "tta"})
    standardised = True

    normalisation: Callable[[Path, Parts], Normalisation]
    """Reads mean and deviation over some parts, as far as the dataset distinguishes them."""

    def open_train(self, folder: Path | str, parts: Parts, reading: Reading) -> Dataset[Any]:
        """Open some parts to train on, with augmentation."""
        dataset: Dataset[Any] = self._open(folder, parts, reading, reading.seasons.augmentation)
        return dataset

    def open_scored(
        self,
        folder: Path | str,
        parts: Parts,
        reading: Reading,
        table: ClassTable | None = None,
        count: int = 0,
    ) -> Dataset[Any]:
        """Open some parts to score on; arguments as in ``Layout``."""
        if table is not None and not table.same_classes(self.classes):
            raise WeightsError(
                f"These weights are for the {len(table.classes)} classes of {table.name}, but a"
                f" dataset in {self.name}'s layout has {len(self.classes.classes)}. Use weights"
                " that were trained on such a dataset."
            )
        dataset = self._open(folder, parts, reading)
        return Subset(dataset, range(min(count, len(dataset)))) if count else dataset

    def _open(
        self,
        folder: Path | str,
        parts: Parts,
        reading: Reading,
        augmentation: AugmentationConfig | None = None,
    ) -> Opened:
        return self.open(
            folder,
            parts,
            target=reading.target,
            reference_date=parse_reference_date(reading.seasons.reference_date),
            single_date=reading.seasons.single_date,
            augmentation=augmentation,
        )

    @property
    def collate_train(self) -> Collate:
        """Function that makes a batch of samples."""
        return collate

    @property
    def collate_scored(self) -> Collate:
        """Function that makes a batch of samples."""
        return collate

    def names(self, dataset: Opened) -> list[str]:
        """Return the identifiers of the patches."""
        return [str(patch_id) for patch_id in dataset.ids]

    def left_out(self, dataset: Opened) -> int:
        """Return 0: every patch is annotated."""
        return 0

    def normalisation_of(self, folder: Path, parts: Parts) -> Normalisation:
        """Return mean and deviation over some parts."""
        return self.normalisation(folder, parts)


@dataclass(frozen=True)
class PhotographLayout(Layout):
    """A layout of photographs, which networks standardise themselves."""

    inputs = "photograph"
    samples = "photographs"
    scoring_options = frozenset()
    standardised = False

    def open_train(self, folder: Path | str, parts: Parts, reading: Reading) -> CocoRecords:
        """Open a set to train on, with augmentation."""
        return self._records(folder, parts, reading, self.classes)

    def open_scored(
        self,
        folder: Path | str,
        parts: Parts,
        reading: Reading,
        table: ClassTable | None = None,
        count: int = 0,
    ) -> ScoredPhotographs:
        """Open a set with its truth; arguments as in ``Layout``."""
        return ScoredPhotographs(
            self._records(folder, parts, reading, table or self.classes), count
        )

    def _records(
        self, folder: Path | str, parts: Parts, reading: Reading, table: ClassTable
    ) -> CocoRecords:
        [part] = parts
        records: CocoRecords = self.open(folder, part, table, reading.photographs)
        return records

    @property
    def collate_train(self) -> Collate:
        """Function that makes a batch of photographs."""
        return collate_photographs

    @property
    def collate_scored(self) -> Collate:
        """Function that makes a batch of photographs with their truth."""
        return collate_scored

    def names(self, dataset: Opened) -> list[str]:
        """Return the names of the photographs' files, without ending."""
        return list(dataset.names)

    def left_out(self, dataset: Opened) -> int:
        """Return the number of photographs without annotation."""
        return len(dataset.unannotated)

    def normalisation_of(self, folder: Path, parts: Parts) -> None:
        """Return None."""

    @property
    def openable(self) -> tuple[Parts, ...]:
        """Each set alone."""
        return tuple((part,) for part in self.parts)


PASTIS_LAYOUT = SeasonLayout(
    "PASTIS", pastis_metadata.FILE_NAME, PASTIS, "fold", FOLDS, PastisDataset, fold_normalisation
)

S2TSCZCROP_LAYOUT = SeasonLayout(
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
    """Return the layout of a dataset of photographs in COCO's form, with the classes that it has.

    The set to train on is the one whose name begins with "train", that to validate and test on the
    one with "val", or else another; a dataset of one set has it for all three.

    Raises:
        DatasetError: The dataset is incomplete.
        PanopticFormatError: Its JSON is damaged.
    """
    names = find_splits(folder)
    # The classes of the smaller set, which is read faster, unless the larger one lists more.
    validation, training = (
        Path(folder) / "annotations" / f"panoptic_{name}.json"
        for name in (_validation(names), _training(names))
    )
    classes = _read_classes(validation, *_version(validation))
    more = _find_classes(training, *_version(training))
    if more is not None and _lists_all(more, classes):
        classes = more
    return _photographs("annotations/panoptic_NAME.json", names, classes, CocoDataset)


def shards_layout(place: Path | str) -> Layout:
    """Return the layout of a dataset of shards, as ``panoseg coco shards`` writes it.

    Raises:
        DatasetError: The place has no index of shards, or a damaged one.
    """
    index = ShardIndex.read(place)
    return _photographs(INDEX, tuple(index.splits), index.table, CocoShards)


def _validation(names: Sequence[str]) -> str:
    others = [name for name in names if not name.startswith("train")]
    return next((name for name in names if name.startswith("val")), (others or names)[-1])


def _training(names: Sequence[str]) -> str:
    return next((name for name in names if name.startswith("train")), names[0])


def _lists_all(table: ClassTable, other: ClassTable) -> bool:
    """Return whether a table has all classes of another one."""
    ids = {(entry.id, entry.name) for entry in table.classes}
    return all((entry.id, entry.name) in ids for entry in other.classes)


def _photographs(
    table: str, names: Sequence[str], classes: ClassTable, reader: Callable[..., Any]
) -> Layout:
    train = _training(names)
    validation = _validation(names)
    rotations = {1: ((train,), (validation,), (validation,))}
    return PhotographLayout("COCO", table, classes, "set", rotations, reader)


def _version(path: Path) -> tuple[int, int]:
    """Return the size of a file and when it was changed."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _find_classes(annotations: Path, size: int, changed: int) -> ClassTable | None:
    """Return the classes of a JSON without reading it whole, None where they are not found."""
    word = b'"categories"'
    try:
        with annotations.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            start = content.rfind(word)
            if start < 0:
                return None
            text = content[start + len(word) : start + _LONGEST_CATEGORIES].decode(errors="ignore")
        rows, _ = json.JSONDecoder().raw_decode(text[text.index("[") :])
        return class_table(annotations, rows)
    except (OSError, ValueError, RecursionError, PanopticFormatError):
        return None  # ``_read_classes`` tells what is wrong when the set is opened


@lru_cache(maxsize=8)
def _read_classes(annotations: Path, size: int, changed: int) -> ClassTable:
    """Read the classes of a JSON; ``size`` and ``changed`` distinguish versions of the file."""
    _, table = read_categories(CocoJson.open(annotations))
    return table


def _own_layout(folder: Path, classes: ClassTable) -> Layout:
    """Return PASTIS's layout with other classes, and with the bands that a dataset has."""
    if not (folder / PASTIS_LAYOUT.table).exists():
        raise ConfigError(
            f"A table of classes is for datasets in PASTIS's layout, but {folder} has no"
            f" {PASTIS_LAYOUT.table}; leave out --classes."
        )
    bands = own_bands(folder)
    return replace(
        PASTIS_LAYOUT,
        classes=classes,
        open=partial(PastisDataset, classes=classes, bands=bands),
        normalisation=partial(fold_normalisation, bands=bands),
    )


def find_layout(folder: Path | str, classes: ClassTable | None = None) -> Layout:
    """Return the layout of a dataset, by the files in its folder; a URL holds shards.

    Args:
        folder: The dataset.
        classes: Classes of an own dataset in PASTIS's layout, which may have own bands, too.

    Raises:
        ConfigError: Classes are given for another layout.
        DatasetError: The folder holds no dataset of any layout.
    """
    if classes is not None:
        return _own_layout(Path(folder), classes)
    if is_url(folder) or (Path(folder) / INDEX).exists():
        return shards_layout(folder)
    for layout in LAYOUTS:
        if (Path(folder) / layout.table).exists():
            return layout
    if find_splits(folder):
        return coco_layout(folder)
    if not Path(folder).is_dir():
        raise DatasetError(f"The dataset {folder} does not exist; correct its path.")
    tables = [f"{layout.table} ({layout.name}'s layout)" for layout in LAYOUTS]
    tables += ["annotations/panoptic_NAME.json (COCO's layout)", f"{INDEX} (shards)"]
    raise DatasetError(
        f"{folder} is no dataset: it has no {', '.join(tables[:-1])} or {tables[-1]}; complete it"
        " or correct its path."
    )
