"""The three sets of a fold as batches on the device that computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset, Subset

from panoseg.data.augment_config import AugmentationConfig
from panoseg.data.layouts import Layout, Parts, find_layout
from panoseg.data.loading import BatchLoader, make_loader
from panoseg.data.pastis import PastisDataset
from panoseg.data.s2tsczcrop import S2TSCzCropDataset
from panoseg.data.samples import Batch, Normalisation, Sample
from panoseg.data.seasons import parse_reference_date
from panoseg.training.config import DataConfig, Task, TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True, eq=False)
class Split:
    """One set of patches, and how it becomes batches.

    normalisation is applied on the device that computes. shuffle: a new order each epoch, of whole batches alone (training);
    otherwise every patch once, in order.
    """

    dataset: Dataset[Sample]
    normalisation: Normalisation
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def loader(self, fabric: Fabric) -> BatchLoader:
        """The loader of this process' part."""
        return make_loader(
            self.dataset,
            self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            workers=self.workers,
            # A dataset smaller than a batch is one batch.
            drop_last=self.shuffle and len(self) >= self.batch_size * fabric.world_size,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        )

    def batches(self, fabric: Fabric, loader: BatchLoader | None = None, last_step: int | None = None) -> Iterator[Batch]:
        """Batches on the device with standardised float32 images; of a loader that has been entered, or of a new one."""
        loader = self.loader(fabric) if loader is None else loader
        for batch in islice(loader, last_step):
            yield self.prepare(batch, fabric)

    def prepare(self, batch: Batch, fabric: Fabric) -> Batch:
        """A batch on the device, with standardised float32 images."""
        batch = batch.to(fabric.device)
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


def open_splits(folder: Path | str, fold: int, config: TrainConfig) -> Splits:
    """The sets of rotation ``fold`` of a dataset in any layout. Raises ``DatasetError`` and ``ConfigError``."""
    layout = find_layout(folder)
    rotation = layout.rotation(fold)
    normalisations = [
        replace(normalisation, ndvi=config.data.ndvi)
        for normalisation in layout.normalisations(Path(folder), fold, config.data.normalisation)
    ]
    augmentations = (config.data.augmentation, None, None)
    datasets = [
        open_parts(folder, parts, config.data, config.task, augmentation)
        for parts, augmentation in zip(rotation, augmentations, strict=True)
    ]
    train, validation, test = (
        Split(dataset, normalisation, config.batch_size, workers=config.workers)
        for dataset, normalisation in zip(datasets, normalisations, strict=True)
    )
    if config.max_validation_patches:
        validation = replace(
            validation, dataset=Subset(validation.dataset, range(min(config.max_validation_patches, len(validation))))
        )
    return Splits(replace(train, shuffle=True, seed=config.seed), validation, test, layout, rotation)


def open_parts(
    folder: Path | str, parts: Parts, config: DataConfig, task: Task, augmentation: AugmentationConfig | None = None
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
