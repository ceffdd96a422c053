"""All five folds of an experiment, and their mean."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoseg.data.pastis import FOLDS
from panoseg.errors import ConfigError, DatasetError
from panoseg.files import new_folder, write_json, write_text
from panoseg.metrics.tables import render_table
from panoseg.training import run
from panoseg.training.config import TrainConfig, from_json, to_json
from panoseg.training.loop import make_fabric
from panoseg.training.splits import open_splits

PLAN = "folds.json"


def start_all_folds(experiment: str, train: TrainConfig, data: Path, folder: Path) -> None:
    """Train the five folds, one after the other, into ``folder``/fold_1 .. fold_5, and write the table of their scores."""
    for fold in FOLDS:
        open_splits(data, fold, train)
    if run.is_first_process():
        plan = {"experiment": experiment, "data_folder": str(Path(data).resolve()), "train": to_json(train)}
        write_json(new_folder(folder) / PLAN, plan)
    _train_missing_folds(experiment, train, data, folder)


def resume(folder: Path) -> None:
    """Continue a run of one fold, or of all five, where it stopped."""
    if not (folder / PLAN).exists():
        run.resume(folder)
        return
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        train = from_json(TrainConfig, plan["train"])
        experiment, data = plan["experiment"], Path(plan["data_folder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / PLAN} is damaged ({error})", "the plan of a run of all folds", "start a new run"
        ) from error
    _train_missing_folds(experiment, train, data, folder)


def _train_missing_folds(experiment: str, train: TrainConfig, data: Path, folder: Path) -> None:
    fabric = make_fabric(train)
    for fold in FOLDS:
        of_fold = folder / f"fold_{fold}"
        if (of_fold / run.METRICS).exists():
            continue
        if (of_fold / run.CONFIG).exists():
            run.resume(of_fold, fabric)
        else:
            run.start(experiment, train, data, fold, of_fold, fabric)
    if fabric.is_global_zero:
        print(write_mean_of_folds(folder))


def write_mean_of_folds(folder: Path) -> str:
    """Write and return the table of the five folds' test scores: ``metrics.json`` and ``metrics.md``.

    Raises ``DatasetError`` where a fold is missing; there is no mean of fewer than five.
    """
    scores = {fold: _test_scores(folder / f"fold_{fold}" / run.METRICS) for fold in FOLDS}
    table, summary = mean_of_folds(scores)
    write_text(folder / run.TABLE, table + "\n")
    write_json(folder / run.METRICS, summary)
    return table


def mean_of_folds(scores: Mapping[int, Mapping[str, float]]) -> tuple[str, dict[str, Any]]:
    """A Markdown table of each fold's scores with their mean and sample deviation, and the same JSON-ready.

    >>> print(mean_of_folds({fold: {"PQ": 40.0 + fold} for fold in range(1, 6)})[0])
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
        raise DatasetError(f"scores of folds {sorted(scores)}", "all five folds", f"train or test fold {missing[0]} too")
    names = list(scores[1])
    columns = {name: [scores[fold][name] for fold in FOLDS] for name in names}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    deviation = {name: statistics.stdev(values) for name, values in columns.items()}
    rows = [(str(fold), _cells(scores[fold], names)) for fold in FOLDS]
    rows += [("mean", _cells(mean, names)), ("deviation", _cells(deviation, names))]
    table = render_table(["fold", *names], [[label, *cells] for label, cells in rows])
    return table, {"folds": {str(fold): dict(scores[fold]) for fold in FOLDS}, "mean": mean, "deviation": deviation}


def _cells(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{numbers[name]:.1f}" for name in names]


def _test_scores(path: Path) -> dict[str, float]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["test"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} is missing or damaged", "the scores of all five folds", "resume the run") from error
