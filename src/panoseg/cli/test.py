"""``panoseg test``: score a run, or weights, on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from panoseg.errors import ConfigError


def run(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    data: Path,
    weights: Path | None = None,
    fold: Literal[1, 2, 3, 4, 5] | None = None,
    every_patch: bool = False,
    normalisation: Literal["train", "published"] | None = None,
    region: Literal["all", "boundary", "interior"] = "all",
    batch_size: int = 4,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto",
    workers: int = 2,
    pictures: int = 3,
    out: Path | None = None,
) -> None:
    """Score a run, or weights, on the test fold of a dataset: SQ, RQ and PQ (or OA and IoU) of each class and overall.

    Prints the table and writes metrics.json, metrics.md and pictures. The authors' folder of five folds, and a run of all
    folds, are scored fold by fold, and their mean with it.

    example: panoseg test run --data PASTIS

    example: panoseg test --weights FOLDER --data PASTIS

    example: panoseg test run --data S2TSCZCROP --region boundary

    Args:
        run: Folder of a run.
        data: Folder of the dataset, in the layout of PASTIS or of S2TSCzCrop.
        weights: Instead of a run: our weights, or the authors' folder with conf.json and Fold_1 .. Fold_5.
        fold: Score this official split; otherwise that of the training, and all five of the authors' folder.
        every_patch: Score on all patches of the dataset, which the weights have not seen; the authors' weights then see them
            normalised by the mean over all folds. What was used is printed.
        normalisation: Mean and deviation of the bands: of the training, or of the scored folds as published; else as trained.
        region: Which pixels the table of a semantic model is of: all, those with a neighbour of another class, or the others.
        batch_size: Patches at a time.
        precision: Arithmetic of the network.
        accelerator: Kind of device.
        workers: Processes that read patches.
        pictures: How many patches to draw beside the scores of the classes; 0 draws nothing.
        out: Folder of the results; RUN/test for a run, otherwise test-NAME here, with the region added where it is not all.
    """
    folder = run if weights is None else weights
    if folder is None or (run is not None and weights is not None):
        raise ConfigError(
            "a run and weights" if folder else "neither a run nor weights", "one of them", "see panoseg test --help"
        )
    from panoseg.training.config import TrainConfig
    from panoseg.training.evaluate import score_folder

    options = TrainConfig(batch_size=batch_size, precision=precision, accelerator=accelerator, workers=workers)
    out = out or _default_folder(run, folder, region)
    score_folder(
        folder,
        data,
        out,
        options,
        fold=fold,
        every_patch=every_patch,
        normalisation=normalisation,
        region=region,
        pictures=pictures,
    )


def _default_folder(run: Path | None, folder: Path, region: str) -> Path:
    of_region = "" if region == "all" else f"-{region}"
    return run / f"test{of_region}" if run else Path(f"test-{folder.name}{of_region}")
