"""The three sets of a fold as batches on the device that computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from panoseg.data.layouts import Layout, Parts, Reading, find_layout
from panoseg.data.loading import BatchLoader, Collate, make_loader
from panoseg.data.pastis_files import read_class_table
from panoseg.data.places import Place
from panoseg.data.samples import Normalisation, collate
from panoseg.errors import ConfigError
from panoseg.models.configs import ModelConfig, facts_of
from panoseg.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class Split:
    """One set of patches or photographs, and how it becomes batches."""

    dataset: Dataset[Any]
    """The samples."""
    normalisation: Normalisation | None
    """Applied on the device that computes; None for photographs, which networks standardise."""
    batch_size: int
    """Samples a batch and process."""
    shuffle: bool = False
    """A new order each epoch, of whole batches alone (training); else every sample once, in
    order.
    """
    seed: int = 0
    """Seed of the order and of augmentation."""
    workers: int = 0
    """Processes that read samples."""
    collate: Collate = collate
    """Makes a batch of samples."""

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def loader(self, fabric: Fabric) -> BatchLoader:
        """Return the loader of this process' part."""
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
        """Yield batches as ``prepare`` makes them, of a loader that was entered or of a new one."""
        loader = self.loader(fabric) if loader is None else loader
        for batch in islice(loader, last_step):
            yield self.prepare(batch, fabric)

    def prepare(self, batch: Any, fabric: Fabric) -> Any:  # noqa: ANN401
        """Return a batch on the device, seasons with standardised float32 images."""
        batch = batch.to(fabric.device)
        if self.normalisation is None:
            return batch
        return replace(batch, images_BTCHW=self.normalisation(batch.images_BTCHW, batch.valid_BT))


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test set of one of a dataset's official rotations."""

    train: Split
    """The training set."""
    validation: Split
    """The validation set."""
    test: Split
    """The test set."""
    layout: Layout
    """That of the dataset, with its table of classes."""
    parts: tuple[Parts, Parts, Parts]
    """What each of the three sets is made of."""

    def fitted(self, config: TrainConfig) -> ModelConfig:
        """Return the network of a configuration with what follows from the data."""
        bands = 0 if self.train.normalisation is None else self.train.normalisation.channels
        return config.model.fitted(
            **facts_of(self.layout.classes, bands, config.data.reference_date)
        )


def open_splits(folder: Place, fold: int, config: TrainConfig) -> Splits:
    """Open the sets of a rotation of a dataset in any layout.

    Raises:
        DatasetError: The dataset is missing or damaged.
        ConfigError: The network reads something else, or there is no such rotation.
    """
    classes = None if config.classes is None else read_class_table(config.classes)
    layout = find_layout(folder, classes)
    rotation = layout.rotation(fold)
    check_inputs(layout, config.model)
    reading = Reading(config.model.answers, config.data, config.photographs)
    normalisations: tuple[Normalisation | None, ...] = (None, None, None)
    if layout.standardised:
        found = layout.normalisations(Path(folder), fold, config.data.normalisation)
        normalisations = tuple(one and replace(one, ndvi=config.data.ndvi) for one in found)
    counts = (config.max_validation_patches, 0)
    train = Split(
        layout.open_train(folder, rotation[0], reading),
        normalisations[0],
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        workers=config.workers,
        collate=layout.collate_train,
    )
    validation, test = (
        Split(
            layout.open_scored(folder, parts, reading, count=count),
            normalisation,
            config.batch_size,
            workers=config.workers,
            collate=layout.collate_scored,
        )
        for parts, normalisation, count in zip(
            rotation[1:], normalisations[1:], counts, strict=True
        )
    )
    return Splits(train, validation, test, layout, rotation)


def check_inputs(layout: Layout, model: ModelConfig) -> None:
    """Raise ``ConfigError`` for a network that does not read what a dataset holds."""
    if layout.inputs != model.inputs:
        raise ConfigError(
            f"{model.title} reads {model.inputs}s, but a dataset in {layout.name}'s layout holds"
            f" {layout.inputs}s. Choose another dataset or network, see panoseg experiments."
        )


def unannotated_note(unannotated_of: Mapping[str, int]) -> str:
    r"""Return a line that says how many images of which sets have no annotation and are left out.

    >>> unannotated_note({"set train": 2, "set val": 0})
    '\nnote: images without annotation are left out: 2 of set train'
    """
    found = [f"{count:,} of {words}" for words, count in unannotated_of.items() if count]
    return f"\nnote: images without annotation are left out: {', '.join(found)}" if found else ""
