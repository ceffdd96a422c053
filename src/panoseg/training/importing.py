"""Weights of several folds: the authors' become ours, and that of one fold is found in whatever folder holds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from panoseg.classes import PASTIS, S2TSCZCROP
from panoseg.data.pastis import FOLDS
from panoseg.data.pastis_files import NORMALISATION_FILE
from panoseg.data.s2tsczcrop import train_normalisation
from panoseg.data.samples import Normalisation
from panoseg.files import atomic, new_folder
from panoseg.models.published import import_crop2seg, import_published, read_options
from panoseg.models.weights import CARD, Weights, load_weights, save_weights


def weights_of_fold(folder: Path, fold: int) -> Weights:
    """The weights in a folder: of a run, our own, or those of one fold where a folder holds several, ours or the authors'."""
    if is_published(folder):
        return published_weights(folder, fold)
    if (folder / "weights" / CARD).exists():
        return load_weights(folder / "weights")
    if any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        return weights_of_fold(folder / f"fold_{fold}", fold)
    return load_weights(folder)


def is_published(folder: Path) -> bool:
    """Whether a folder was written by one of the published programs: it has a conf.json, or its first fold has one."""
    return any((place / "conf.json").exists() for place in (folder, folder / "Fold_1"))


def holds_one_fold(folder: Path) -> bool:
    """Whether a published program's folder holds one fold's weights alone: beside their options, or in its only Fold_1."""
    here = (folder / "model.pth.tar").exists() or (folder / "Fold_1" / "conf.json").exists()
    return here and not (folder / "Fold_2").exists()


def published_weights(folder: Path, fold: int, normalisation: Normalisation | None = None) -> Weights:
    """The weights of one fold in the folder of a published program: utae-paps, or Crop2Seg, whose options are more."""
    of_fold = folder / f"Fold_{fold}"
    place = of_fold if (of_fold / "conf.json").exists() else folder
    options = read_options(place / "conf.json")
    if "conv_type" not in options:
        return import_published(folder, fold, normalisation)
    if normalisation is not None and options.get("add_ndvi"):
        normalisation = replace(normalisation, ndvi=True)
    classes = PASTIS if options.get("num_classes") == PASTIS.count else S2TSCZCROP
    return import_crop2seg(place, classes, normalisation, f"{classes.name}, by Crop2Seg")


def import_folds(folder: Path, out: Path, data: Path | None = None, fold: int | None = None) -> list[Path]:
    """Write published weights as ``out``/fold_1 .. fold_5, or one fold as ``out`` itself; returns the folders written.

    data: folder of NORM_S2_patch.json, else ``folder``; where neither has it the normalisation stays unknown, and the weights
    can be scored on their dataset but not used for maps. Nothing is written unless all folds can be read.
    """
    norms = data or (folder if (folder / NORMALISATION_FILE).exists() else None)

    def of_fold(number: int) -> Weights:
        return published_weights(folder, number, train_normalisation(norms, number) if norms else None)

    if fold or holds_one_fold(folder):
        weights = of_fold(fold or 1)
        save_weights(new_folder(out), weights)
        return [out]
    imported = {number: of_fold(number) for number in FOLDS}
    new_folder(out)
    with atomic(out) as temporary:
        for number, weights in imported.items():
            save_weights(temporary / f"fold_{number}", weights)
    return [out / f"fold_{number}" for number in imported]
