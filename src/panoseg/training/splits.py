"""The folds of a dataset: the three sets of each as batches, and the test scores of all five.

Batches are on the device that computes. Scores have a mean and a deviation over the folds, and
tables that report them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from panoseg.data.layouts import Layout, Parts, Reading, find_layout
from panoseg.data.loading import BatchLoader, Collate, make_loader
from panoseg.data.pastis import FOLDS
from panoseg.data.pastis_files import read_class_table
from panoseg.data.places import Place
from panoseg.data.samples import Normalisation, collate
from panoseg.errors import ConfigError, DatasetError
from panoseg.files import write_json, write_text
from panoseg.metrics import render_table
from panoseg.metrics.confusion import confusion_scores
from panoseg.models.configs import ModelConfig, facts_of
from panoseg.text_files import read_json
from panoseg.training import TrainConfig

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


METRICS, TABLE = "metrics.json", "metrics.md"
_SHARES = {
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "sq": "SQ",
    "rq": "RQ",
    "pq": "PQ",
}


@dataclass(frozen=True)
class FoldScores:
    """The test scores of one fold."""

    summary: Mapping[str, float]
    """The main numbers, in percent."""
    classes: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """Numbers of each class by name, 0..1; None where the fold has no such pixel or parcel."""
    confusion: Mapping[str, Any] | None = None
    """Pixels by true and predicted class, with the ids that are ignored; None where unknown."""


def read_test_scores(folder: Path) -> FoldScores:
    """Read the test scores of a run or of a test.

    Raises:
        DatasetError: They are missing or damaged; the message names the file.
    """
    path = folder / METRICS
    try:
        written = read_json(path)
        details = written["details"]
        classes = details.get("by_class", details)["classes"]
        shares = {
            name: {key: value for key, value in numbers.items() if key in _SHARES}
            for name, numbers in classes.items()
        }
        return FoldScores(dict(written["test"]), shares, details.get("confusion"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is missing or damaged: resume the run of this fold.") from error


def write_mean(folder: Path, scores: Mapping[int, FoldScores]) -> str:
    """Write ``metrics.json`` and ``metrics.md`` of five folds; returns the tables."""
    tables, summary = mean_of_folds(scores)
    write_text(folder / TABLE, tables + "\n")
    write_json(folder / METRICS, summary)
    return tables


def mean_of_folds(scores: Mapping[int, FoldScores]) -> tuple[str, dict[str, Any]]:
    """Return the scores of five folds with mean and sample deviation, overall and by class.

    Where confusion matrices are known, the scores of all five test sets taken together follow, as
    utae-paps @ 987874e (train_semantic.py, ``overall_performance``) reports them.

    Returns:
        Markdown tables, and the same JSON-ready.

    Raises:
        DatasetError: Folds are missing; the message names them.

    >>> print(mean_of_folds({fold: FoldScores({"PQ": 40.0 + fold}) for fold in range(1, 6)})[0])
    | fold      |   PQ |
    |:----------|-----:|
    | 1         | 41.0 |
    | 2         | 42.0 |
    | 3         | 43.0 |
    | 4         | 44.0 |
    | 5         | 45.0 |
    | mean      | 43.0 |
    | deviation |  1.6 |
    """
    missing = sorted(FOLDS.keys() - scores.keys())
    if missing:
        words = ", ".join(map(str, missing))
        raise DatasetError(f"The scores of fold {words} are missing: train or test all five folds.")
    folds = {fold: scores[fold].summary for fold in FOLDS}
    names = list(folds[1])
    columns = {name: [numbers[name] for numbers in folds.values()] for name in names}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    deviation = {name: statistics.stdev(values) for name, values in columns.items()}
    pooled = _together([scores[fold].confusion for fold in FOLDS])
    together = {name: pooled[name] for name in names if name in pooled}
    classes = _means_by_class([scores[fold].classes for fold in FOLDS])
    rows = {
        **{str(fold): numbers for fold, numbers in folds.items()},
        "mean": mean,
        "deviation": deviation,
    }
    rows |= {"together": together} if together else {}
    cells = [
        [label, *(f"{row[name]:.1f}" if name in row else "" for name in names)]
        for label, row in rows.items()
    ]
    table = render_table(["fold", *names], cells)
    numbers = {
        "folds": {str(fold): dict(row) for fold, row in folds.items()},
        "mean": mean,
        "deviation": deviation,
    }
    numbers |= {"together": together} if together else {}
    return "\n\n".join([table, *([_class_table(classes)] if classes else [])]), {
        **numbers,
        "classes": classes,
    }


def _together(confusions: Sequence[Mapping[str, Any] | None]) -> dict[str, float]:
    """OA and mIoU in percent of the sum of the folds' confusion matrices; empty without them."""
    known = [confusion for confusion in confusions if confusion is not None]
    if len(known) < len(confusions):
        return {}
    matrix_KK = np.sum([confusion["matrix"] for confusion in known], axis=0)
    scores = confusion_scores(matrix_KK, known[0]["ignored"])
    return {"OA": 100 * scores.accuracy, "mIoU": 100 * scores.mean_iou}


def _means_by_class(
    folds: Sequence[Mapping[str, Mapping[str, float | None]]],
) -> dict[str, dict[str, Any]]:
    """Return mean and deviation of each number of each class, in percent.

    They are taken over the folds where the number is defined, and their count is returned too.
    """
    return {
        name: {
            key: _mean([100 * value for fold in folds if (value := fold[name][key]) is not None])
            for key in folds[0][name]
        }
        for name in folds[0]
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "folds": len(values),
    }


def _class_table(classes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table with a row for each class: its folds, and mean ± deviation of each number."""
    keys = list(next(iter(classes.values())))
    rows = [
        [
            name,
            str(max(numbers[key]["folds"] for key in keys)),
            *(_spread(numbers[key]) for key in keys),
        ]
        for name, numbers in classes.items()
    ]
    return render_table(["class", "folds", *(_SHARES[key] for key in keys)], rows)


def _spread(number: Mapping[str, Any]) -> str:
    """Return mean ± deviation, as text.

    >>> _spread({"mean": 43.21, "deviation": 1.58, "folds": 5})
    '43.2 ± 1.6'
    >>> _spread({"mean": None, "deviation": None, "folds": 0})
    '–'
    """
    if number["mean"] is None:
        return "–"
    return f"{number['mean']:.1f}" + (
        f" ± {number['deviation']:.1f}" if number["deviation"] is not None else ""
    )
