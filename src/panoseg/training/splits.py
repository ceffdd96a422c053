"""The three sets of a fold as batches on the device that computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from panoseg.classes import ClassTable
from panoseg.data.coco import CocoRecords
from panoseg.data.config import AugmentationConfig, PhotographConfig
from panoseg.data.layouts import Layout, Parts, find_layout
from panoseg.data.loading import BatchLoader, Collate, make_loader
from panoseg.data.pastis import PastisDataset
from panoseg.data.photographs import Photograph, collate_photographs
from panoseg.data.places import Place
from panoseg.data.s2tsczcrop import S2TSCzCropDataset
from panoseg.data.samples import Normalisation, collate
from panoseg.data.seasons import parse_reference_date
from panoseg.errors import ConfigError
from panoseg.models.config import ModelConfig, fit_to_classes, fit_to_data, looks_at_photographs
from panoseg.panoptic.panoptic import Panoptic
from panoseg.training.config import DataConfig, Task, TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True, eq=False)
class Split:
    """One set of patches or photographs, and how it becomes batches.

    normalisation is applied on the device that computes; None for photographs, which networks
    standardise. shuffle: a new order each epoch, of whole batches alone (training); otherwise every
    sample once, in order. collate: makes a batch of samples.
    """

    dataset: Dataset[Any]
    normalisation: Normalisation | None
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    workers: int = 0
    collate: Collate = collate

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def loader(self, fabric: Fabric) -> BatchLoader:
        """The loader of this process' part."""
        return make_loader(
            self.dataset,
            self.batch_size,
            collate=self.collate,
            shuffle=self.shuffle,
            seed=self.seed,
            workers=self.workers,
            # A dataset smaller than a batch is one batch.
            drop_last=self.shuffle and len(self) >= self.batch_size * fabric.world_size,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        )

    def batches(
        self, fabric: Fabric, loader: BatchLoader | None = None, last_step: int | None = None
    ) -> Iterator[Any]:
        """Batches as ``prepare`` makes them; of a loader that has been entered, or of a new one."""
        loader = self.loader(fabric) if loader is None else loader
        for batch in islice(loader, last_step):
            yield self.prepare(batch, fabric)

    def prepare(self, batch: Any, fabric: Fabric) -> Any:
        """A batch on the device, seasons with standardised float32 images."""
        batch = batch.to(fabric.device)
        if self.normalisation is None:
            return batch
        return replace(batch, images_BTCHW=self.normalisation(batch.images_BTCHW, batch.valid_BT))


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test set of one of a dataset's official rotations.

    layout: the dataset's, with its class table. parts: what each of the three sets is made of.
    """

    train: Split
    validation: Split
    test: Split
    layout: Layout
    parts: tuple[Parts, Parts, Parts]

    def fitted(self, config: TrainConfig) -> ModelConfig:
        """The network of a configuration with what follows from the data."""
        if looks_at_photographs(config.model):
            return fit_to_classes(config.model, self.layout.classes)
        assert self.train.normalisation is not None, "seasons have a normalisation"
        classes = self.layout.classes.count
        return fit_to_data(
            config.model, self.train.normalisation.channels, classes, config.data.reference_date
        )


def open_splits(folder: Place, fold: int, config: TrainConfig) -> Splits:
    """The sets of rotation ``fold`` of a dataset in any layout. Raises ``DatasetError`` and
    ``ConfigError``.
    """
    layout = find_layout(folder)
    rotation = layout.rotation(fold)
    check_kind(layout, config.model)
    if layout.of_photographs:
        train, validation, test = _photograph_sets(layout, folder, fold, config)
    else:
        train, validation, test = _season_sets(layout, Path(folder), fold, config)
    return Splits(
        replace(train, shuffle=True, seed=config.seed), validation, test, layout, rotation
    )


def check_kind(layout: Layout, model: ModelConfig) -> None:
    """Raise ``ConfigError`` for a network that does not look at what a dataset holds."""
    if layout.of_photographs != looks_at_photographs(model):
        raise ConfigError(
            f"{model.title} with a dataset in {layout.name}'s layout",
            "a network for"
            f" {'photographs' if layout.of_photographs else 'satellite image time series'}",
            "choose another dataset, or see panoseg experiments",
        )


def _season_sets(layout: Layout, folder: Path, fold: int, config: TrainConfig) -> list[Split]:
    normalisations = layout.normalisations(folder, fold, config.data.normalisation)
    augmentations = (config.data.augmentation, None, None)
    datasets: list[Dataset[Any]] = [
        open_parts(folder, parts, config.data, config.task, augmentation)
        for parts, augmentation in zip(layout.rotation(fold), augmentations, strict=True)
    ]
    if config.max_validation_patches:
        count = min(config.max_validation_patches, len(datasets[1]))  # type: ignore[arg-type]
        datasets[1] = Subset(datasets[1], range(count))
    return [
        Split(
            dataset,
            replace(normalisation, ndvi=config.data.ndvi),
            config.batch_size,
            workers=config.workers,
        )
        for dataset, normalisation in zip(datasets, normalisations, strict=True)
    ]


def _photograph_sets(layout: Layout, folder: Place, fold: int, config: TrainConfig) -> list[Split]:
    train, *others = (
        open_photographs(layout, folder, parts, config.photographs)
        for parts in layout.rotation(fold)
    )
    size, workers = config.batch_size, config.workers
    return [
        Split(train, None, size, workers=workers, collate=collate_photographs),
        *(
            Split(
                ScoredPhotographs(dataset, count),
                None,
                size,
                workers=workers,
                collate=collate_scored,
            )
            for dataset, count in zip(others, (config.max_validation_patches, 0), strict=True)
        ),
    ]


def open_parts(
    folder: Path | str,
    parts: Parts,
    config: DataConfig,
    task: Task,
    augmentation: AugmentationConfig | None = None,
) -> PastisDataset | S2TSCzCropDataset:
    """The patches of some folds or sets with what a task learns of them."""
    return find_layout(folder).open(
        folder,
        parts,
        target=task,
        reference_date=parse_reference_date(config.reference_date),
        single_date=config.single_date,
        augmentation=augmentation,
    )


@dataclass(frozen=True, eq=False)
class ScoredPhotograph:
    """A photograph without labels, and its truth.

    index: its position in its set. truth: of the size on disk. crowd_ids: segments of the truth
    that stand for many objects.
    things: the true objects, rows of COCO's detection form.
    """

    photograph: Photograph
    index: int
    truth: Panoptic
    crowd_ids: tuple[int, ...]
    things: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Photographs that are scored together; the truth stays where it is."""

    entries: tuple[ScoredPhotograph, ...]

    @property
    def photographs(self) -> tuple[Photograph, ...]:
        """The photographs alone."""
        return tuple(entry.photograph for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each photograph."""
        return tuple(entry.photograph.name for entry in self.entries)

    def to(self, device: torch.device | str) -> ScoredBatch:
        """The same batch with its images on another device."""
        return self._with_images(lambda image: image.to(device, non_blocking=True))

    def pin_memory(self) -> ScoredBatch:
        """The same batch with its images in pinned memory; called by torch's loader."""
        return self._with_images(Tensor.pin_memory)

    def _with_images(self, function: Any) -> ScoredBatch:
        return ScoredBatch(
            tuple(
                replace(entry, photograph=entry.photograph.map_tensors(function))
                for entry in self.entries
            )
        )


class ScoredPhotographs(Dataset[ScoredPhotograph]):
    """The photographs of a set beside their truth, without chance. count: the first so many, 0 for
    all.
    """

    def __init__(self, dataset: CocoRecords, count: int = 0) -> None:
        self.dataset, self.table = dataset, dataset.table
        self.count = min(count or len(dataset), len(dataset))
        self.unannotated = dataset.unannotated
        self.names = [str(Path(name).with_suffix("")) for name in dataset.file_names[: self.count]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> ScoredPhotograph:
        if not 0 <= index < self.count:
            raise IndexError(index)
        record = self.dataset.record(index)
        photograph = replace(
            record.photograph(self.table, self.dataset.config, None), classes_HW=None, objects=None
        )
        truth = record.truth(self.table)
        return ScoredPhotograph(
            photograph,
            index,
            truth.segmentation,
            truth.crowd_ids,
            tuple(record.detections(self.table)),
        )


def unannotated_note(unannotated_of: Mapping[str, int]) -> str:
    """A line that says how many images of which sets are left out, as they have no annotation;
    empty where there is none.

    >>> unannotated_note({"set train": 2, "set val": 0})
    '\\nnote: images without annotation are left out: 2 of set train'
    """
    found = [f"{count:,} of {words}" for words, count in unannotated_of.items() if count]
    return f"\nnote: images without annotation are left out: {', '.join(found)}" if found else ""


def collate_scored(entries: Sequence[ScoredPhotograph]) -> ScoredBatch:
    """A batch of scored photographs, for ``make_loader``."""
    return ScoredBatch(tuple(entries))


def open_photographs(
    layout: Layout,
    folder: Path | str,
    parts: Parts,
    config: PhotographConfig,
    table: ClassTable | None = None,
) -> CocoRecords:
    """The photographs of one set, with the classes of ``table`` or else of the layout. Raises
    ``PanosegError``.
    """
    [part] = parts
    records: CocoRecords = layout.open(folder, part, table or layout.classes, config)
    return records
