"""The commands of experiments: experiments, train, test."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from panoseg.data.places import Place, place_of
from panoseg.errors import ConfigError
from panoseg.training.config import TrainConfig
from panoseg.training.experiments import EXPERIMENTS, experiment


def experiments(name: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """List every named experiment: model, task, data and published score; or all options of one.

    Train one with panoseg train NAME --data DIR --out RUN.

    example: panoseg experiments

    example: panoseg experiments pastis-utae-paps

    Args:
        name: Show this experiment alone, with its source and its options as panoseg train takes
            them.
    """
    print(_list() if name is None else _details(name))


def _list() -> str:
    """A line for each experiment, in aligned columns."""
    from panoseg.training.experiments import EXPERIMENTS

    header = ("experiment", "model", "task", "data", "published")
    rows = [
        header,
        *(
            (name, e.model, e.config.task, e.data, e.published or "-")
            for name, e in EXPERIMENTS.items()
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _details(name: str) -> str:
    from panoseg.training.experiments import experiment

    entry = experiment(name)
    about = {
        "experiment": name,
        "model": entry.model,
        "task": entry.config.task,
        "data": entry.data,
        "published": entry.published or "-",
        "source": entry.source,
    }
    lines = [f"{key:<12}{value}" for key, value in about.items()]
    return "\n".join(
        [*lines, "", *(f"  {' '.join(words)}" for words in option_words(entry.config))]
    )


def option_words(config: Any, prefix: str = "") -> list[list[str]]:
    """The options of a configuration as words of a command line, which set them to the values they
    have; None is left out.

    >>> from panoseg.data.config import PhotographConfig
    >>> option_words(PhotographConfig(scale=(0.5, 2.0), crop=473), "data.")[2:]
    [['--data.scale', '0.5', '2.0'], ['--data.no-flip'], ['--data.crop', '473']]
    """
    found: list[list[str]] = []
    for entry in fields(config):
        value, option = getattr(config, entry.name), entry.name.replace("_", "-")
        if is_dataclass(value):
            found += option_words(value, f"{prefix}{option}.")
        elif isinstance(value, bool):
            found.append([f"--{prefix}{'' if value else 'no-'}{option}"])
        elif value is not None:
            found.append(
                [f"--{prefix}{option}", *map(str, value if isinstance(value, tuple) else [value])]
            )
    return found


USAGE = """Train a named experiment, or resume a run.

usage: panoseg train EXPERIMENT --data DIR --out RUN [--fold 1..5 | all] [options]
       panoseg train --resume RUN [--data DIR]

EXPERIMENT is one of
{names}.
panoseg train EXPERIMENT --help lists its options with their values.

example: panoseg train pastis-utae-paps --data PASTIS --fold 3 --out run \
--model.shape-size 24 --batch-size 2 --epochs 1
example: panoseg train s2tsczcrop-utae --data CZECH --out tuned --start-from run \
--swap-classifier --freeze in_conv down_blocks
example: panoseg train --resume run
"""

Fold = Literal["1", "2", "3", "4", "5", "all"]


@dataclass(frozen=True)
class Arguments:
    """What follows the experiment's name."""

    data: str
    """Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards."""
    out: Path
    """Folder of the run; new or empty."""
    fold: Fold = "1"
    """Which of the five official splits, or all of them and their mean."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """The training."""


@dataclass(frozen=True)
class ResumeArguments:
    """Continue an interrupted run from its last checkpoint, to the same weights as if it had never
    stopped.

    example: panoseg train --resume run
    """

    resume: Path
    """Folder of the run, of one fold or of all."""
    data: str | None = None
    """Folder of the dataset, if it has moved."""


def train(arguments: Sequence[str]) -> None:
    """Parse the experiment's name, then its options, and train."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            USAGE.format(names=textwrap.fill(", ".join(EXPERIMENTS), 110, break_on_hyphens=False))
        )
    elif arguments[0].startswith("--resume"):
        from panoseg.training.folds import resume

        parsed = tyro.cli(
            ResumeArguments, prog="panoseg train", args=arguments, config=(tyro.conf.DisallowNone,)
        )
        resume(parsed.resume, parsed.data and place_of(parsed.data))
    elif arguments[0].startswith("-"):
        raise ConfigError(
            f"{arguments[0]} in the first place",
            "an experiment's name or --resume",
            "see panoseg train --help",
        )
    else:
        _train(arguments[0], arguments[1:])


def _train(name: str, options: Sequence[str]) -> None:
    config = experiment(name).config
    default = Arguments(tyro.MISSING, tyro.MISSING, train=config)
    parsed = tyro.cli(
        Arguments,
        prog=f"panoseg train {name}",
        description=(
            f"Train {name}.\n\nexample: panoseg train {name} --data PASTIS --fold 1 --out run"
            " --epochs 1"
        ),
        args=options,
        default=default,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.DisallowNone),
    )
    from panoseg.training.folds import start_all_folds
    from panoseg.training.run import start

    if parsed.fold == "all":
        start_all_folds(name, parsed.train, place_of(parsed.data), parsed.out)
    else:
        start(name, parsed.train, place_of(parsed.data), int(parsed.fold), parsed.out)


@dataclass(frozen=True)
class ScoringOptions:
    """What is scored, and with what."""

    fold: Literal[1, 2, 3, 4, 5] | None = None
    """Score this official split; otherwise that of the training, and all five of the authors'
    folder.
    """
    every_patch: bool = False
    """Score on all patches of the dataset, all unseen in training; the authors' weights see them by
    the mean of all folds.
    """
    normalisation: Literal["train", "published"] | None = None
    """Mean and deviation of the bands: of the training, or of the scored folds as published; else
    as trained.
    """
    region: Literal["all", "boundary", "interior"] = "all"
    """Which pixels the table of a semantic model is of: all, those with a neighbour of another
    class, or the others.
    """
    views: int = 1
    """As how many turned and mirrored images a panoptic model of seasons sees each patch, 1 to 8;
    their masks are joined.
    """
    batch_size: int = 4
    """Patches at a time."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the network."""
    accelerator: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"
    """Kind of device."""
    workers: int = 2
    """Processes that read patches."""
    pictures: int = 3
    """How many patches to draw beside the scores of the classes; 0 draws nothing."""


def score(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    data: str,
    weights: Path | None = None,
    options: Annotated[ScoringOptions, tyro.conf.arg(name="")] = ScoringOptions(),
    out: Path | None = None,
) -> None:
    """Score a run, or weights, on the test fold of a dataset: SQ, RQ and PQ (or OA and IoU) of each
    class and overall.

    Prints the table and writes metrics.json, metrics.md and pictures. The authors' folder of five
    folds, and a run of all folds, are scored fold by fold, and their mean with it.

    example: panoseg test run --data PASTIS

    example: panoseg test --weights FOLDER --data PASTIS

    example: panoseg test run --data S2TSCZCROP --region boundary

    example: panoseg test run --data PASTIS --views 4

    Args:
        run: Folder of a run.
        data: Folder of the dataset, in the layout of PASTIS, S2TSCzCrop or COCO; or URL of shards.
        weights: Instead of a run: our weights, or the authors' folder with conf.json and Fold_1 ..
            Fold_5.
        options: What is scored, and with what.
        out: Folder of the results; RUN/test for a run, otherwise test-NAME here; --region and
            --views add to the name.
    """
    folder = run if weights is None else weights
    if folder is None or (run is not None and weights is not None):
        raise ConfigError(
            "a run and weights" if folder else "neither a run nor weights",
            "one of them",
            "see panoseg test --help",
        )
    _run_score(folder, place_of(data), out or _default_folder(run, folder, options), options)


def _run_score(folder: Path, data: Place, out: Path, options: ScoringOptions) -> None:
    from panoseg.training.config import TrainConfig
    from panoseg.training.evaluate import score_folder

    score_folder(
        folder,
        data,
        out,
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
        views=options.views,
        pictures=options.pictures,
    )


def _default_folder(run: Path | None, folder: Path, options: ScoringOptions) -> Path:
    of_region = "" if options.region == "all" else f"-{options.region}"
    of_views = "" if options.views == 1 else f"-{options.views}-views"
    suffix = of_region + of_views
    return run / f"test{suffix}" if run else Path(f"test-{folder.name}{suffix}")
