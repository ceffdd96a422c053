"""``panoseg train``: train an experiment, or resume a run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.data.places import place_of
from panoseg.errors import ConfigError
from panoseg.training.config import TrainConfig
from panoseg.training.experiments import EXPERIMENTS, experiment

USAGE = """Train a named experiment, or resume a run.

usage: panoseg train EXPERIMENT --data DIR --out RUN [--fold 1..5 | all] [options]
       panoseg train --resume RUN [--data DIR]

EXPERIMENT is one of
{names}.
panoseg train EXPERIMENT --help lists its options with their values.

example: panoseg train pastis-utae-paps --data PASTIS --fold 3 --out run --model.shape-size 24 --batch-size 2 --epochs 1
example: panoseg train s2tsczcrop-utae --data CZECH --out tuned --start-from run --swap-classifier --freeze in_conv down_blocks
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


def main(arguments: Sequence[str]) -> None:
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
