"""All five folds of an experiment, and their mean."""

from __future__ import annotations

import json
from pathlib import Path

from panoseg.data.pastis import FOLDS
from panoseg.data.places import Place, place_of, resolved
from panoseg.errors import ConfigError
from panoseg.files import new_folder, write_json
from panoseg.training import run
from panoseg.training.config import TrainConfig, from_json, to_json
from panoseg.training.loop import make_fabric
from panoseg.training.scores import METRICS, read_test_scores, write_mean
from panoseg.training.splits import open_splits

PLAN = "folds.json"


def start_all_folds(experiment: str, train: TrainConfig, data: Place, folder: Path) -> None:
    """Train the five folds, one after the other, into ``folder``/fold_1 .. fold_5, and write the
    table of their scores.
    """
    for fold in FOLDS:
        open_splits(data, fold, train)
    if run.is_first_process():
        plan = {"experiment": experiment, "data_folder": resolved(data), "train": to_json(train)}
        write_json(new_folder(folder) / PLAN, plan)
    _train_missing_folds(experiment, train, data, folder)


def resume(folder: Path, data: Place | None = None) -> None:
    """Continue a run of one fold, or of all five, where it stopped. data: where the dataset lies
    now, if it has moved.
    """
    if not (folder / PLAN).exists():
        run.resume(folder, data)
        return
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        train = from_json(TrainConfig, plan["train"])
        experiment, data = plan["experiment"], data or place_of(plan["data_folder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / PLAN} is damaged ({error})",
            "the plan of a run of all folds",
            "start a new run",
        ) from error
    _train_missing_folds(experiment, train, data, folder)


def _train_missing_folds(experiment: str, train: TrainConfig, data: Place, folder: Path) -> None:
    fabric = make_fabric(train)
    for fold in FOLDS:
        of_fold = folder / f"fold_{fold}"
        if (of_fold / METRICS).exists():
            continue
        if (of_fold / run.CONFIG).exists():
            run.resume(of_fold, data, fabric)
        else:
            run.start(experiment, train, data, fold, of_fold, fabric)
    if fabric.is_global_zero:
        print(
            write_mean(folder, {fold: read_test_scores(folder / f"fold_{fold}") for fold in FOLDS})
        )
