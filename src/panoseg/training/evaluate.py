"""Scores of weights on a dataset: of a run, of our weights, or of the authors' five folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from panoseg.data.pastis import FOLDS, Policy, fold_normalisation
from panoseg.errors import ConfigError, WeightsError
from panoseg.models.published import import_published
from panoseg.models.weights import CARD, Weights, load_weights
from panoseg.training.config import DataConfig, task_of_model
from panoseg.training.splits import Split, open_folds
from panoseg.training.tasks import Scores, Task, task_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric

WEIGHTS = "weights"


def score(weights: Weights, split: Split, fabric: Fabric) -> tuple[Task, Scores]:
    """The task of some weights on Fabric's device, and its scores on a set."""
    task = task_of(weights.model(), weights.card.classes).to(fabric.device)
    return task, task.evaluate(split, fabric)


@dataclass(frozen=True)
class FoldWeights:
    """Weights and what they are scored on.

    fold: their rotation, None where they belong to none. folds: the dataset's folds whose patches are scored.
    """

    weights: Weights
    fold: int | None
    folds: tuple[int, ...]


def find_weights(folder: Path, data: Path, fold: int | None, every_patch: bool) -> Iterator[FoldWeights]:
    """The weights in a folder: a run's, our own, our own of several folds, or the authors'.

    fold: take only this rotation. every_patch: score on all patches of the dataset, none of which the weights have seen.
    """
    if (folder / WEIGHTS / CARD).exists():
        folder = folder / WEIGHTS
    if (folder / CARD).exists():
        weights = load_weights(folder)
        yield _placed(weights, fold or weights.card.provenance.get("fold"), every_patch)
    elif (folder / "conf.json").exists():
        for number in [fold] if fold else FOLDS:
            normalisation = fold_normalisation(data, FOLDS[number][0])
            yield _placed(import_published(folder, number, normalisation), number, every_patch)
    elif any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        for number in [fold] if fold else FOLDS:
            yield from find_weights(folder / f"fold_{number}", data, number, every_patch)
    else:
        raise WeightsError(
            f"{folder} holds no weights",
            "a run, a folder with card.json, or the authors' folder with conf.json and Fold_1 .. Fold_5",
            "check the path",
        )


def _placed(weights: Weights, fold: int | None, every_patch: bool) -> FoldWeights:
    if every_patch:
        return FoldWeights(weights, fold, tuple(FOLDS))
    if fold not in FOLDS:
        raise ConfigError(
            "weights that belong to no fold", "the fold to score", "add --fold 1, or --every-patch for unseen data"
        )
    return FoldWeights(weights, fold, FOLDS[fold][2])


def scored_split(found: FoldWeights, data: Path, normalisation: Policy | None, batch_size: int, workers: int) -> Split:
    """The patches to score, read as the weights expect. normalisation: None follows the weights."""
    card = found.weights.card
    published = "imported_from" in card.provenance
    policy = normalisation or card.provenance.get("normalisation", "published" if published else "train")
    values = fold_normalisation(data, found.folds) if policy == "published" else card.normalisation
    config = DataConfig(reference_date=card.reference_date, single_date=card.provenance.get("single_date"))
    return Split(open_folds(data, found.folds, config, task_of_model(card.model)), values, batch_size, workers=workers)
