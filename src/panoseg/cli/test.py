"""``panoseg test``: score a run, or weights, on a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.data.places import Place, place_of
from panoseg.errors import ConfigError


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


def run(
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
    _score(folder, place_of(data), out or _default_folder(run, folder, options), options)


def _score(folder: Path, data: Place, out: Path, options: ScoringOptions) -> None:
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
