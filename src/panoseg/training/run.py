"""A run's folder: from an experiment to weights and scores, for one fold or for all five.

config.json     every option with its value, the data and the fold
log.csv         losses and validation scores; tensorboard/ holds the same
start.json      where the run started from other weights: entries it took, and why not the others
last.ckpt       the last checkpoint, from which the run continues
weights/        the best weights so far
metrics.json    scores on the test fold, once training is done; metrics.md is its table
pictures/       curves, scores by class, and predictions next to the truth

A run of all folds has the folders fold_1 .. fold_5, its plan in folds.json, and the mean of the
scores.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoseg.data.coco import check_learnable
from panoseg.data.pastis import FOLDS
from panoseg.data.places import Place, place_of, resolved
from panoseg.errors import ConfigError, PanosegError
from panoseg.files import new_folder, remove, remove_unfinished, write_json
from panoseg.metrics import Scores, nothing_true, numbers_text
from panoseg.models.configs import from_json, to_json
from panoseg.models.model import WEIGHTS
from panoseg.models.network import Network, build_network
from panoseg.models.weights import Weights, WeightsCard, load_weights, save_weights
from panoseg.models.weights_by_name import locate
from panoseg.pictures import draw_curves
from panoseg.pictures.scores import draw_scores
from panoseg.processes import hold_in_first_process, is_first_process
from panoseg.text_files import read_json
from panoseg.training import RunConfig, TrainConfig
from panoseg.training.checkpoint import Progress, read_log
from panoseg.training.evaluate import PICTURES, draw_predictions, score, write_scores
from panoseg.training.loop import LAST, Report, Training, make_fabric, seed_all
from panoseg.training.splits import (
    METRICS,
    TABLE,
    Splits,
    open_splits,
    read_test_scores,
    unannotated_note,
    write_mean,
)
from panoseg.training.transfer import check_parts, take_over, weights_of_fold

if TYPE_CHECKING:
    from lightning_fabric import Fabric


CONFIG, START = "config.json", "start.json"


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run."""

    folder: Path
    """Its folder."""
    scores: Scores
    """Those of the best weights on the test fold."""
    best_epoch: int
    """Epoch of the best weights, 1 first."""
    notes: tuple[str, ...] = ()
    """What to know of the scores, one sentence each."""

    def table(self) -> str:
        """Return the scores as a Markdown table."""
        return self.scores.table()

    def text(self) -> str:
        """Return the notes and the main scores, a line each."""
        line = f"test fold: {numbers_text(self.scores.summary())}; {self.folder / METRICS}"
        return "\n".join([*(f"note: {note}" for note in self.notes), line])


def start(
    experiment: str,
    train: TrainConfig,
    data: Place,
    fold: int,
    folder: Path,
    fabric: Fabric | None = None,
    report: Report = lambda line: None,
) -> RunResult:
    """Train one fold into a new folder.

    Args:
        experiment: Its name.
        train: The options of the training.
        data: The dataset.
        fold: One of its official splits.
        folder: New or empty.
        fabric: One that is already launched, where several runs share it.
        report: Called with each line about the progress of the training, only in the first process.
    """
    train = with_absolute_paths(train)
    splits = open_splits(data, fold, train)
    train = replace(train, model=splits.fitted(train))
    run = RunConfig(experiment, resolved(data), fold, train)
    note = check_learnable(splits.train.dataset, train.model.answers)
    if note and is_first_process():
        report(f"note: {note}")
    for split in (splits.train, splits.validation, splits.test):
        split.dataset[0]  # so that a broken dataset is found before a folder is made
    with hold_in_first_process(folder):
        if is_first_process():
            write_json(new_folder(folder) / CONFIG, to_json(run))
        fabric = fabric or make_fabric(train)
        try:
            training = _prepare(run, splits, Path(folder), fabric, report)
            training.run()
            return _finish(run, splits, Path(folder), fabric)
        except (PanosegError, OSError, RuntimeError, MemoryError):  # also limits of the system
            if not (Path(folder) / LAST).exists() and is_first_process():
                _empty(Path(folder))
            raise


def _empty(folder: Path) -> None:
    """Remove what is in a held folder as far as possible; the folder goes when its hold ends."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            remove(entry)


def resume_run(
    folder: Path,
    data: Place | None = None,
    fabric: Fabric | None = None,
    report: Report = lambda line: None,
    epochs: int | None = None,
) -> RunResult:
    """Continue a run of one fold from its last checkpoint.

    Args:
        folder: Of the run.
        data: Where the dataset lies now, if it has moved.
        fabric: As in ``start``.
        report: As in ``start``.
        epochs: Train this number of epochs in all, beyond those that were planned. The weights
            become those of a run that was planned so, unless its learning rate follows a cosine.
    """
    if not (Path(folder) / CONFIG).exists():
        read_run(folder)  # says what is missing; no folder is made
    with hold_in_first_process(folder):
        return _continue(Path(folder), data, fabric, report, epochs)


def _continue(
    folder: Path, data: Place | None, fabric: Fabric | None, report: Report, epochs: int | None
) -> RunResult:
    """Continue a held run; arguments as in ``resume_run``."""
    run = read_run(folder)
    run = replace(run, data_folder=resolved(data)) if data else run
    planned = run.train.epochs
    run = run if epochs is None else replace(run, train=longer(run.train, epochs))
    splits = open_splits(run.data_folder, run.fold, run.train)
    if is_first_process():
        remove_unfinished(folder)
        if run.train.epochs > planned:
            write_json(folder / CONFIG, to_json(run))
            for name in (METRICS, TABLE):  # of the run as it was planned; this one is not finished
                remove(folder / name)
            if run.train.optimiser.schedule == "cosine":
                report(
                    f"note: the half cosine of the learning rate now spans {run.train.epochs}"
                    f" epochs; up to here it was one of {planned}"
                )
    fabric = fabric or make_fabric(run.train)
    training = _prepare(run, splits, folder, fabric, report)
    training.run()
    return _finish(run, splits, folder, fabric)


def with_absolute_paths(train: TrainConfig) -> TrainConfig:
    """Return the options of a training that can be resumed from another working directory."""
    if train.classes is None:
        return train
    return replace(train, classes=str(Path(train.classes).resolve()))


def longer(train: TrainConfig, epochs: int) -> TrainConfig:
    """Return the options of a training with more epochs.

    Raises:
        ConfigError: It has more epochs already, or its length is a number of steps.
    """
    if train.steps:
        raise ConfigError(
            f"The length of this run is --steps {train.steps}, so --epochs would do nothing; leave"
            " it out."
        )
    if epochs < train.epochs:
        raise ConfigError(
            f"This run has {train.epochs} epochs; pass --epochs {train.epochs + 1} or more."
        )
    return replace(train, epochs=epochs)


def read_run(folder: Path | str) -> RunConfig:
    """Return the configuration of a run.

    Raises:
        ConfigError: The folder holds no run, or its configuration is damaged.
    """
    path = Path(folder) / CONFIG
    fix = "Give the folder that panoseg train wrote."
    try:
        run: RunConfig = from_json(RunConfig, read_json(path))
        return run
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}. {fix}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). {fix}") from error


def _prepare(
    run: RunConfig, splits: Splits, folder: Path, fabric: Fabric, report: Report
) -> Training:
    """Build the network, and the training that continues from the last checkpoint, if any."""

    def tell(line: str) -> None:
        if line and fabric.is_global_zero:
            report(line)

    seed_all(run.train.seed)
    network = build_network(run.train.model, splits.layout.classes, run.train.loss_options)
    tell(_opening(run, splits, network))
    check_parts(network, run.train.freeze)
    if not (folder / LAST).exists():
        _draw_weights(network, run, folder, fabric, tell)
    keep = _BestKeeper(run, splits, network, folder)
    training = Training(
        fabric, run.train, network, splits.train, splits.validation, folder, keep, tell
    )
    tell(training.schedule.text())
    training.resume()
    if training.progress.total_steps:
        tell(_continuing(training.progress, training.schedule.epochs))
    return training


def _draw_weights(
    network: Network, run: RunConfig, folder: Path, fabric: Fabric, tell: Report
) -> None:
    """Draw the weights, then take over those that the run starts from."""
    train = run.train
    weights = (
        None if train.start_from is None else weights_of_fold(locate(train.start_from), run.fold)
    )
    taken = None if weights is None else weights.state
    tell(network.draw_weights(train.initialisation, train.initial_heat, taken))
    if train.start_from is None or weights is None:
        return
    transfer = take_over(network, weights, train.start_from, train.swap_classifier)
    tell(transfer.text())
    if weights.card.provenance.get("fold", run.fold) != run.fold:
        tell(
            "note: these weights are of another fold, and may have seen patches that this run"
            " tests on"
        )
    if fabric.is_global_zero:
        write_json(folder / START, transfer.to_json())


@dataclass(frozen=True, eq=False)
class _BestKeeper:
    """Writes the weights of a training with the scores that made them the best so far."""

    run: RunConfig
    """Configuration of the run."""
    splits: Splits
    """The sets of the fold."""
    network: Network
    """The network that is trained."""
    folder: Path
    """Folder of the run."""

    def __call__(self, epoch: int, scores: dict[str, float]) -> None:
        config = self.run.train
        provenance = {
            "experiment": self.run.experiment,
            "fold": self.run.fold,
            "epoch": epoch,
            "seed": config.seed,
            **self._reading(),
            **(
                {"started_from": config.start_from, "frozen": list(config.freeze)}
                if config.start_from
                else {}
            ),
        }
        card = WeightsCard(
            self.network.tuned_config(),
            self.splits.train.normalisation,
            self.network.table,
            config.data.reference_date,
            f"{Path(self.run.data_folder).name}, {self.splits.layout.words(self.splits.parts[0])}",
            provenance,
            {f"validation_{name}": round(value, 3) for name, value in scores.items()},
        )
        save_weights(self.folder / WEIGHTS, Weights(card, self.network.state_dict()))

    def _reading(self) -> dict[str, Any]:
        """What a card must know to read other data like those of the training."""
        config = self.run.train
        if self.splits.layout.standardised:
            return {
                "normalisation": config.data.normalisation,
                "single_date": config.data.single_date,
                **({"own_classes": True} if config.classes else {}),
            }
        return {"min_side": config.photographs.min_side, "max_side": config.photographs.max_side}


def _finish(run: RunConfig, splits: Splits, folder: Path, fabric: Fabric) -> RunResult:
    """Score the best weights on the test fold and draw."""
    weights = load_weights(folder / WEIGHTS)
    network, scores = score(weights, splits.test, fabric)
    tested = splits.layout.words(splits.parts[2])
    empty = nothing_true(scores, tested)
    card, notes = weights.card, splits.layout.notes(run.fold) + empty
    result = RunResult(folder, scores, card.provenance["epoch"], notes)
    if not fabric.is_global_zero:
        return result
    draw_curves(read_log(folder / "log.csv"), folder / PICTURES / "curves.png")
    draw_predictions(network, splits.test, fabric, card.reference_date, folder / PICTURES)
    if not empty:
        draw_scores(scores, network.table, folder / PICTURES)
    policy = {"normalisation": run.train.data.normalisation}
    about = {
        "experiment": run.experiment,
        "fold": run.fold,
        "best_epoch": result.best_epoch,
        **(policy if splits.layout.standardised else {}),
        "validation": card.scores,
        **({"notes": list(notes)} if notes else {}),
    }
    write_scores(folder, scores, about)
    return result


def _opening(run: RunConfig, splits: Splits, network: Network) -> str:
    layout, sets = splits.layout, (splits.train, splits.validation, splits.test)
    train, validation, test = (layout.words(parts) for parts in splits.parts)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    rotations = len(layout.rotations)
    name = f"{run.experiment}, fold {run.fold} of {rotations}" if rotations > 1 else run.experiment
    opening = (
        f"{name}: {parameters:,} parameters; {len(splits.train)} {layout.samples} of {train} to"
        f" train, {len(splits.validation)} of {validation} to validate, {len(splits.test)}"
        f" of {test} to test"
    )
    if not layout.standardised:
        left_out = (layout.left_out(split.dataset) for split in sets)
        return opening + unannotated_note(
            dict(zip((train, validation, test), left_out, strict=True))
        )
    published = run.train.data.normalisation == "published"
    of = "its own patches (published)" if published else f"{train} for all sets"
    return f"{opening}\nnormalisation: mean and deviation of {of}"


def _continuing(progress: Progress, epochs: int) -> str:
    if progress.epoch == epochs:
        return f"trained to the end of epoch {epochs} before: the best weights are scored again"
    return f"continues in epoch {progress.epoch + 1} of {epochs}, after step {progress.total_steps}"


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

    The runs are ``folder``/fold_1 .. fold_5; arguments as in ``start``.
    """
    train = with_absolute_paths(train)
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
) -> RunResult | FoldsResult:
    """Continue a run of one fold, or of all five, where it stopped.

    Arguments as in ``resume_run``.
    """
    if not (folder / PLAN).exists():
        return resume_run(folder, data, report=report, epochs=epochs)
    with hold_in_first_process(folder):
        return _resume_folds(folder, data, report, epochs)


def _resume_folds(
    folder: Path, data: Place | None, report: Report, epochs: int | None
) -> FoldsResult:
    """Continue the held run of all folds; arguments as in ``resume_run``."""
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
        train = longer(train, epochs)
        if is_first_process():
            write_json(folder / PLAN, {**plan, "train": to_json(train)})
    return _train_missing_folds(experiment, train, data, folder, report)


def _train_missing_folds(
    experiment: str, train: TrainConfig, data: Place, folder: Path, report: Report
) -> FoldsResult:
    fabric = make_fabric(train)
    for fold in FOLDS:
        of_fold = folder / f"fold_{fold}"
        begun = (of_fold / CONFIG).exists()
        more = begun and read_run(of_fold).train.epochs < train.epochs
        if (of_fold / METRICS).exists() and not more:
            continue
        if begun:
            epochs = train.epochs if more else None
            result = resume_run(of_fold, data, fabric, report, epochs)
        else:
            result = start(experiment, train, data, fold, of_fold, fabric, report)
        if fabric.is_global_zero:
            report(result.text())
    if not fabric.is_global_zero:
        return FoldsResult(folder, "")
    scores = {fold: read_test_scores(folder / f"fold_{fold}") for fold in FOLDS}
    return FoldsResult(folder, write_mean(folder, scores))
