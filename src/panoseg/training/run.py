"""A run's folder: from an experiment to weights and scores.

config.json     every option with its value, the data and the fold
log.csv         losses and validation scores; tensorboard/ holds the same
start.json      where the run started from other weights: which entries it took, and why not the others
last.ckpt       the last checkpoint, from which the run continues
weights/        the best weights so far
metrics.json    scores on the test fold, once training is done; metrics.md is its table
pictures/       curves, scores by class, and predictions beside the truth
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from panoseg.data.places import Place, resolved
from panoseg.errors import ConfigError, PanosegError
from panoseg.files import new_folder, remove_unfinished, write_json
from panoseg.models.build import initialise
from panoseg.models.config import looks_at_photographs
from panoseg.models.paps import PaPs
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.training.checkpoint import Progress
from panoseg.training.config import RunConfig, TrainConfig, from_json, to_json
from panoseg.training.evaluate import PICTURES, WEIGHTS, score, write_scores
from panoseg.training.loop import LAST, Training, make_fabric, seed_all
from panoseg.training.pictures import draw_curves, draw_predictions
from panoseg.training.score_pictures import draw_scores
from panoseg.training.scores import METRICS
from panoseg.training.splits import Splits, open_splits, unannotated_note
from panoseg.training.task import Task, numbers_text
from panoseg.training.tasks import make_task
from panoseg.training.transfer import check_parts, take_over, weights_of_fold

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CONFIG, START = "config.json", "start.json"


def start(
    experiment: str,
    train: TrainConfig,
    data: Place,
    fold: int,
    folder: Path,
    fabric: Fabric | None = None,
) -> None:
    """Train one fold into a new folder. fabric: one that is already launched, where several runs
    share it.
    """
    splits = open_splits(data, fold, train)
    train = replace(train, model=splits.fitted(train))
    run = RunConfig(experiment, resolved(data), fold, train)
    _check_samples(splits)
    if is_first_process():
        write_json(new_folder(folder) / CONFIG, to_json(run))
    try:
        _train(run, splits, Path(folder), fabric or make_fabric(train))
    except PanosegError:
        if not (Path(folder) / LAST).exists() and is_first_process():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(folder: Path, data: Place | None = None, fabric: Fabric | None = None) -> None:
    """Continue a run from its last checkpoint. data: where the dataset lies now, if it has
    moved.
    """
    run = read_run(folder)
    run = replace(run, data_folder=resolved(data)) if data else run
    splits = open_splits(run.data_folder, run.fold, run.train)
    if is_first_process():
        remove_unfinished(Path(folder))
    _train(run, splits, Path(folder), fabric or make_fabric(run.train))


def read_run(folder: Path | str) -> RunConfig:
    """The configuration of a run. Raises ``ConfigError``."""
    path = Path(folder) / CONFIG
    fix = "give the folder that panoseg train wrote"
    try:
        return from_json(RunConfig, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "a run's folder", fix) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error})", "a run's configuration", fix) from error


def _train(run: RunConfig, splits: Splits, folder: Path, fabric: Fabric) -> None:
    seed_all(run.train.seed)
    task = make_task(run.train, splits.layout.classes)
    fabric.print(_opening(run, splits, task))
    check_parts(task.model, run.train.freeze)
    if not (folder / LAST).exists():
        _initialise(task, run, folder, fabric)
    training = Training(
        fabric,
        run.train,
        task,
        splits.train,
        splits.validation,
        folder,
        _BestKeeper(run, splits, task, folder),
    )
    if training.course.text():
        fabric.print(training.course.text())
    training.resume()
    if training.progress.total_steps:
        fabric.print(_continuing(training.progress, training.course.epochs))
    training.run()
    _finish(run, splits, folder, fabric)


def _initialise(task: Task, run: RunConfig, folder: Path, fabric: Fabric) -> None:
    """Draw the weights, then take over those that the run starts from."""
    model, train = task.model, run.train
    weights = (
        None if train.start_from is None else weights_of_fold(Path(train.start_from), run.fold)
    )
    if looks_at_photographs(train.model):
        from panoseg.models.initial_weights import (
            take_initial_weights,
        )  # with torchvision, which seasons do without

        # ImageNet's are those of the backbone alone: where all of it is taken over, they need not
        # be fetched.
        if (
            train.model.weights != "imagenet"
            or weights is None
            or not _has_backbone(weights, model)
        ):
            fabric.print(take_initial_weights(model, task.table))  # type: ignore[arg-type]
    elif train.initialisation == "published":
        initialise(model)
    if train.initial_heat and isinstance(model, PaPs):
        model.expect_heat(train.initial_heat)
    if train.start_from is not None and weights is not None:
        transfer = take_over(model, weights, task.table, train.start_from, train.swap_classifier)
        fabric.print(transfer.text())
        if weights.card.provenance.get("fold", run.fold) != run.fold:
            fabric.print(
                "note: these weights are of another fold, and may have seen patches that this run"
                " tests on"
            )
        if fabric.is_global_zero:
            write_json(folder / START, transfer.to_json())


def _has_backbone(weights: Weights, model: nn.Module) -> bool:
    """Whether weights have every entry of the backbone of a network for photographs."""
    backbone = {
        name: value for name, value in model.state_dict().items() if name.startswith("backbone.")
    }
    return all(
        name in weights.state and weights.state[name].shape == value.shape
        for name, value in backbone.items()
    )


@dataclass(frozen=True, eq=False)
class _BestKeeper:
    """Writes the weights of a training as they are now, with the scores that made them the best so
    far.
    """

    run: RunConfig
    splits: Splits
    task: Task
    folder: Path

    def __call__(self, epoch: int, scores: dict[str, float]) -> None:
        config = self.run.train
        provenance = {
            "experiment": self.run.experiment,
            "fold": self.run.fold,
            "epoch": epoch,
            "seed": config.seed,
            **_reading(config),
            **(
                {"started_from": config.start_from, "frozen": list(config.freeze)}
                if config.start_from
                else {}
            ),
        }
        card = WeightsCard(
            self.task.tuned_config(),
            self.splits.train.normalisation,
            self.task.table,
            config.data.reference_date,
            f"{Path(self.run.data_folder).name}, {self.splits.layout.words(self.splits.parts[0])}",
            provenance,
            {f"validation_{name}": round(value, 3) for name, value in scores.items()},
        )
        save_weights(self.folder / WEIGHTS, Weights(card, self.task.model.state_dict()))


def _finish(run: RunConfig, splits: Splits, folder: Path, fabric: Fabric) -> None:
    """Score the best weights on the test fold and draw."""
    weights = load_weights(folder / WEIGHTS)
    task, scores = score(weights, splits.test, fabric)
    fabric.print(f"test fold: {numbers_text(scores.summary())}; {folder / METRICS}")
    if not fabric.is_global_zero:
        return
    card = weights.card
    draw_curves(folder / "log.csv", folder / PICTURES / "curves.png")
    draw_predictions(task, splits.test, fabric, card.reference_date, folder / PICTURES)
    draw_scores(scores, task.table, folder / PICTURES)
    about = {
        "experiment": run.experiment,
        "fold": run.fold,
        "best_epoch": card.provenance["epoch"],
        **({} if card.of_photographs else {"normalisation": run.train.data.normalisation}),
        "validation": card.scores,
    }
    write_scores(folder, scores, about)


def _reading(config: TrainConfig) -> dict[str, Any]:
    """What a card must know to read other data like those of the training."""
    if looks_at_photographs(config.model):
        return {"min_side": config.photographs.min_side, "max_side": config.photographs.max_side}
    return {"normalisation": config.data.normalisation, "single_date": config.data.single_date}


def _opening(run: RunConfig, splits: Splits, task: Task) -> str:
    words, samples = splits.layout.words, splits.layout.samples
    train, validation, test = splits.parts
    parameters = sum(parameter.numel() for parameter in task.parameters())
    rotations = len(splits.layout.rotations)
    name = f"{run.experiment}, fold {run.fold} of {rotations}" if rotations > 1 else run.experiment
    opening = (
        f"{name}: {parameters:,} parameters; {len(splits.train)} {samples} of {words(train)} to"
        f" train, {len(splits.validation)} of {words(validation)} to validate, {len(splits.test)}"
        f" of {words(test)} to test"
    )
    if splits.layout.of_photographs:
        datasets: list[Any] = [
            split.dataset for split in (splits.train, splits.validation, splits.test)
        ]
        pairs = zip(splits.parts, datasets, strict=True)
        return opening + unannotated_note(
            {words(parts): len(dataset.unannotated) for parts, dataset in pairs}
        )
    of = (
        "its own patches (published)"
        if run.train.data.normalisation == "published"
        else f"{words(train)} for all sets"
    )
    return f"{opening}\nnormalisation: mean and deviation of {of}"


def _continuing(progress: Progress, epochs: int) -> str:
    if progress.epoch == epochs:
        return f"trained to the end of epoch {epochs} before: the best weights are scored again"
    return f"goes on in epoch {progress.epoch + 1} of {epochs}, after step {progress.total_steps}"


def _check_samples(splits: Splits) -> None:
    """Read a sample of each set, so that a broken dataset is found before a folder is made."""
    for split in (splits.train, splits.validation, splits.test):
        split.dataset[0]


def is_first_process() -> bool:
    """Whether this is the process that writes, known before Fabric has started the others."""
    return all(
        int(os.environ.get(name, "0")) == 0
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
    )
