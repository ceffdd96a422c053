"""The commands that train and score networks: experiments, train, test."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from panoseg.cli.output import Output
from panoseg.cli.terminal import say
from panoseg.data.places import place_of
from panoseg.errors import ConfigError, is_installed, missing
from panoseg.files import waiting
from panoseg.processes import is_first_process
from panoseg.training import TrainConfig
from panoseg.training.experiments import EXPERIMENTS, experiment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def experiments(name: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """List every named experiment, or all options of one.

    The list has the model, the task, the data and the published score. Train an experiment with
    panoseg train NAME --data DIR --out RUN.

    example: panoseg experiments

    example: panoseg experiments pastis-utae-paps

    Args:
        name: Show only this experiment, with its source and its options as panoseg train takes
            them.
    """
    print(_experiment_list() if name is None else _experiment_details(name))


def _experiment_list() -> str:
    """Return one line for each experiment, in aligned columns."""
    header = ("experiment", "model", "task", "data", "published")
    rows = [
        header,
        *(
            (name, e.model, e.config.model.answers, e.data, e.published or "-")
            for name, e in EXPERIMENTS.items()
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _experiment_details(name: str) -> str:
    entry = experiment(name)
    about = {
        "experiment": name,
        "model": entry.model,
        "task": entry.config.model.answers,
        "data": entry.data,
        "published": entry.published or "-",
        "source": entry.source,
    }
    lines = [f"{key:<12}{value}" for key, value in about.items()]
    options = [f"  {' '.join(words)}" for words in option_words(entry.config)]
    return "\n".join([*lines, "", *options])


def option_words(config: DataclassInstance, prefix: str = "") -> list[list[str]]:
    """Return the command-line words that set each option of a configuration to its value.

    >>> from panoseg.data import PhotographConfig
    >>> option_words(PhotographConfig(scale=(0.5, 2.0), crop=473), "data.")[2:]
    [['--data.scale', '0.5', '2.0'], ['--data.no-flip'], ['--data.crop', '473']]

    Args:
        config: A dataclass of options; options that are None are left out.
        prefix: Beginning of the names of the options, e.g. ``model.``.
    """
    found: list[list[str]] = []
    for entry in fields(config):
        value, option = getattr(config, entry.name), entry.name.replace("_", "-")
        if is_dataclass(value) and not isinstance(value, type):
            found += option_words(value, f"{prefix}{option}.")
        elif isinstance(value, bool):
            found.append([f"--{prefix}{'' if value else 'no-'}{option}"])
        elif value is not None:
            found.append(
                [f"--{prefix}{option}", *map(str, value if isinstance(value, tuple) else [value])]
            )
    return found


TRAIN_USAGE = """Train a named experiment, or resume a run.

usage: panoseg train EXPERIMENT --data DIR --out RUN [--fold 1..5 | all] [options]
       panoseg train NAME --model WEIGHTS --data DIR --out RUN [options]
       panoseg train --resume RUN [--data DIR] [--epochs N]

EXPERIMENT is one of
{names}.
panoseg train EXPERIMENT --help lists its options with their values.
With --model, a network of the Hugging Face Hub is fine-tuned under any other name: WEIGHTS is
hf:OWNER/NAME, a name of panoseg weights list, or a folder with config.json,
preprocessor_config.json and model.safetensors.

example: panoseg train pastis-utae-paps --data PASTIS --fold 3 --out run \
--model.shape-size 24 --batch-size 2 --epochs 1
example: panoseg train s2tsczcrop-utae --data CZECH --out tuned --start-from run \
--swap-classifier --freeze in_conv down_blocks
example: panoseg train my-photos --model coco-eomt-small --data COCO_LIKE --out run --epochs 12
example: panoseg train --resume run --epochs 200
"""


@dataclass(frozen=True)
class Arguments:
    """The words after the name of the experiment."""

    data: str
    """Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards."""
    out: Path
    """Folder for the run; must be new or empty."""
    fold: Literal["1", "2", "3", "4", "5", "all"] = "1"
    """One of the five official splits, or all of them and their mean."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """How the network is trained."""
    wait: bool = False
    """Wait while another command writes to the same folder, instead of ending."""


@dataclass(frozen=True)
class ResumeArguments:
    """Continue an interrupted run from its last checkpoint, or a finished one for more epochs.

    The weights become the same as without the interruption.

    example: panoseg train --resume run

    example: panoseg train --resume run --epochs 200
    """

    resume: Path
    """Folder of the run, of one fold or of all."""
    data: str | None = None
    """Folder of the dataset, if it has moved."""
    epochs: int | None = None
    """Number of epochs in all, to go on beyond those that were planned."""
    wait: bool = False
    """Wait while another command writes to the same folder, instead of ending."""


def train(arguments: Sequence[str]) -> None:
    """Parse the name of the experiment, then its options, and train."""
    if not arguments or arguments[0] in ("-h", "--help"):
        names = textwrap.fill(", ".join(EXPERIMENTS), 110, break_on_hyphens=False)
        print(TRAIN_USAGE.format(names=names))
        return
    name, result = arguments[0], None
    if name.startswith("--resume"):
        resumed = tyro.cli(
            ResumeArguments, prog="panoseg train", args=arguments, config=(tyro.conf.DisallowNone,)
        )
        from panoseg.training.run import resume

        _note_missing_tensorboard()
        data = resumed.data and place_of(resumed.data)
        with waiting(resumed.wait):
            result = resume(resumed.resume, data, say, resumed.epochs)
    else:
        parsed = _parse_experiment(name, arguments[1:])
        from panoseg.training.run import start, start_all_folds

        _note_missing_tensorboard()
        data, out = place_of(parsed.data), parsed.out
        with waiting(parsed.wait):
            if parsed.fold == "all":
                result = start_all_folds(name, parsed.train, data, out, say)
            else:
                result = start(name, parsed.train, data, int(parsed.fold), out, report=say)
    if is_first_process():
        print(result.text())


def _parse_experiment(name: str, options: Sequence[str]) -> Arguments:
    """Return the options of the experiment ``name``."""
    if name.startswith("-"):
        raise ConfigError(
            f"{name} cannot come first; begin with the name of an experiment, or with --resume. See"
            " panoseg train --help."
        )
    model, options = _split_model(options)
    if model is None:
        config = experiment(name).config
    elif name in EXPERIMENTS:
        raise ConfigError(
            f"{name} is an experiment with a network of its own. With --model, choose another name"
            " for the training, such as my-photos."
        )
    else:
        from panoseg.models.weights_by_name import locate
        from panoseg.training.transfer import fine_tuning

        config = fine_tuning(locate(model))
    return tyro.cli(
        Arguments,
        prog=f"panoseg train {name}",
        description=(
            f"Train {name}.\n\nexample: panoseg train {name} --data PASTIS --fold 1 --out run"
            " --epochs 1"
        ),
        args=options,
        default=Arguments(tyro.MISSING, tyro.MISSING, train=config),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.DisallowNone),
    )


def _split_model(options: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of ``--model``, None without it, and the other words.

    >>> _split_model(["--model", "folder", "--model.score", "0.5"])
    ('folder', ['--model.score', '0.5'])
    """
    words, model = list(options), None
    for place, word in enumerate(options):
        if word == "--model":
            if place + 1 == len(options):
                raise ConfigError(
                    "--model needs a value: a network of the hub, hf:OWNER/NAME or its folder."
                )
            model, words = options[place + 1], [*options[:place], *options[place + 2 :]]
        elif word.startswith("--model="):
            model, words = word.partition("=")[2], [*options[:place], *options[place + 1 :]]
    return model, words


def _note_missing_tensorboard() -> None:
    if is_first_process() and not is_installed("tensorboard"):
        reason = missing("tensorboard", "TensorBoard events are not written, which")
        say(f"note: {reason} log.csv has all numbers.")


@dataclass(frozen=True)
class ScoringOptions:
    """How networks are scored."""

    fold: Literal[1, 2, 3, 4, 5] | None = None
    """Official split to score; by default the split of the training, and all five for published
    weights.
    """
    every_patch: bool = False
    """Score on all patches of the dataset, none of which was used for training; published weights
    are normalised by the mean over all folds.
    """
    normalisation: Literal["train", "published"] | None = None
    """Source of the mean and deviation of the bands: the training folds, or the scored folds as
    published; by default as in training.
    """
    region: Literal["all", "boundary", "interior"] = "all"
    """Pixels that a semantic model is scored on: all, those with a neighbour of another class, or
    the others.
    """
    tta: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 1
    """Number of test-time augmentations (flips and rotations) per patch, 1-8, for panoptic models
    of seasons. Runtime grows linearly.
    """
    batch_size: int = 4
    """Patches per batch."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Precision of the network."""
    accelerator: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"
    """Kind of device."""
    workers: int = 2
    """Processes that read patches."""
    pictures: int = 3
    """Number of patches to draw, besides a figure of the scores of the classes; 0 draws nothing."""

    def __post_init__(self) -> None:
        if not 1 <= self.tta <= 8:
            raise ConfigError(f"--tta must be between 1 and 8, not {self.tta}.")


def score(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    data: str,
    weights: str | None = None,
    options: Annotated[ScoringOptions, tyro.conf.arg(name="")] = ScoringOptions(),
    out: Annotated[Path | None, Output.HELD] = None,
) -> None:
    """Score a run, or weights, on the test fold of a dataset: SQ, RQ and PQ, or OA and IoU.

    Prints the scores of each class and overall, and writes metrics.json, metrics.md and figures.
    Published weights of five folds, and a run of all folds, are scored fold by fold, with the mean.

    example: panoseg test run --data PASTIS

    example: panoseg test --weights FOLDER --data PASTIS

    example: panoseg test --weights pastis-utae-paps --data PASTIS

    example: panoseg test run --data S2TSCZCROP --region boundary

    example: panoseg test run --data PASTIS --tta 4

    Args:
        run: Folder of a run.
        data: Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards.
        weights: Weights to score instead of a run: a folder of weights, the published folder
            with conf.json and Fold_1 .. Fold_5, a name of panoseg weights list, zenodo:RECORD,
            hf:OWNER/NAME, or an https address.
        options: How the networks are scored.
        out: Folder for the results; by default RUN/test for a run and test-NAME for weights, with
            --region and --tta in the name where they are given.
    """
    if (run is None) == (weights is None):
        raise ConfigError("Pass either RUN or --weights, not both. See panoseg test --help.")
    from panoseg.models.weights_by_name import locate
    from panoseg.training.evaluate import score_folder

    folder = locate(weights) if weights is not None else Path(run or "")
    found = score_folder(
        folder,
        place_of(data),
        out or _score_folder_name(run, folder, options),
        TrainConfig(
            batch_size=options.batch_size,
            precision=options.precision,
            accelerator=options.accelerator,
            workers=options.workers,
        ),
        fold=options.fold,
        every_patch=options.every_patch,
        normalisation=options.normalisation,
        region=options.region,
        tta=options.tta,
        pictures=options.pictures,
    )
    if is_first_process():
        print(found.table())
        for note in found.notes:
            print(f"note: {note}")


def _score_folder_name(run: Path | None, folder: Path, options: ScoringOptions) -> Path:
    """Return the default folder for the results."""
    region = "" if options.region == "all" else f"-{options.region}"
    tta = "" if options.tta == 1 else f"-{options.tta}-views"
    return run / f"test{region}{tta}" if run else Path(f"test-{folder.name}{region}{tta}")
