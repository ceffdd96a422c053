"""All five folds of an experiment, and their mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from panoseg.data.pastis import FOLDS
from panoseg.data.places import Place, place_of, resolved
from panoseg.errors import ConfigError
from panoseg.files import new_folder, write_json
from panoseg.models.configs import from_json, to_json
from panoseg.processes import hold_in_first_process, is_first_process
from panoseg.text_files import read_json
from panoseg.training import run
from panoseg.training.config import TrainConfig
from panoseg.training.fold_scores import METRICS, read_test_scores, write_mean
from panoseg.training.loop import Report, make_fabric
from panoseg.training.splits import open_splits

PLAN = "folds.json"


@dataclass(frozen=True)
class FoldsResult:
    """The runs of all folds, finished."""

    folder: Path
    """Their folder, with fold_1 .. fold_5."""
    mean: str
    """Tables of the scores of each fold, and of their mean."""

    def table(self) -> str:
        """Return the tables."""
        return self.mean

    def text(self) -> str:
        """Return the tables."""
        return self.mean


def start_all_folds(
    experiment: str,
    train: TrainConfig,
    data: Place,
    folder: Path,
    report: Report = lambda line: None,
) -> FoldsResult:
    """Train the five folds one after the other, and write the table of their scores.

    The runs are ``folder``/fold_1 .. fold_5; arguments as in ``run.start``.
    """
    train = run.with_absolute_paths(train)
    for fold in FOLDS:
        open_splits(data, fold, train)
    with hold_in_first_process(folder):
        if is_first_process():
            plan = {
                "experiment": experiment,
                "data_folder": resolved(data),
                "train": to_json(train),
            }
            write_json(new_folder(folder) / PLAN, plan)
        return _train_missing_folds(experiment, train, data, folder, report)


def resume(
    folder: Path,
    data: Place | None = None,
    report: Report = lambda line: None,
    epochs: int | None = None,
) -> run.RunResult | FoldsResult:
    """Continue a run of one fold, or of all five, where it stopped.

    Arguments as in ``run.resume``.
    """
    if not (folder / PLAN).exists():
        return run.resume(folder, data, report=report, epochs=epochs)
    with hold_in_first_process(folder):
        return _resume_folds(folder, data, report, epochs)


def _resume_folds(
    folder: Path, data: Place | None, report: Report, epochs: int | None
) -> FoldsResult:
    """Continue the held run of all folds; arguments as in ``run.resume``."""
    try:
        plan = read_json(folder / PLAN)
        train = from_json(TrainConfig, plan["train"])
        experiment, data = plan["experiment"], data or place_of(plan["data_folder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / PLAN} is damaged ({error}). It is the plan of a run of all folds: start a"
            " new run."
        ) from error
    if epochs is not None:
        train = run.longer(train, epochs)
        if is_first_process():
            write_json(folder / PLAN, {**plan, "train": to_json(train)})
    return _train_missing_folds(experiment, train, data, folder, report)


def _train_missing_folds(
    experiment: str, train: TrainConfig, data: Place, folder: Path, report: Report
) -> FoldsResult:
    fabric = make_fabric(train)
    for fold in FOLDS:
        of_fold = folder / f"fold_{fold}"
        begun = (of_fold / run.CONFIG).exists()
        more = begun and run.read_run(of_fold).train.epochs < train.epochs
        if (of_fold / METRICS).exists() and not more:
            continue
        if begun:
            epochs = train.epochs if more else None
            result = run.resume(of_fold, data, fabric, report, epochs)
        else:
            result = run.start(experiment, train, data, fold, of_fold, fabric, report)
        if fabric.is_global_zero:
            report(result.text())
    if not fabric.is_global_zero:
        return FoldsResult(folder, "")
    scores = {fold: read_test_scores(folder / f"fold_{fold}") for fold in FOLDS}
    return FoldsResult(folder, write_mean(folder, scores))
