"""Weights of several folds: the authors' become ours, and that of one fold is found in whatever folder holds it."""

from __future__ import annotations

from pathlib import Path

from panoseg.data.pastis import FOLDS, NORMALISATION_FILE, fold_normalisation
from panoseg.files import atomic, new_folder
from panoseg.models.published import import_published
from panoseg.models.weights import CARD, Weights, load_weights, save_weights


def weights_of_fold(folder: Path, fold: int) -> Weights:
    """The weights in a folder: of a run, our own, or those of one fold where a folder holds several, ours or the authors'."""
    if (folder / "conf.json").exists():
        return import_published(folder, fold)
    if (folder / "weights" / CARD).exists():
        return load_weights(folder / "weights")
    if any((folder / f"fold_{number}").is_dir() for number in FOLDS):
        return weights_of_fold(folder / f"fold_{fold}", fold)
    return load_weights(folder)


def import_folds(folder: Path, out: Path, data: Path | None = None, fold: int | None = None) -> list[Path]:
    """Write published weights as ``out``/fold_1 .. fold_5, or one fold as ``out`` itself; returns the folders written.

    data: folder of NORM_S2_patch.json, else ``folder``; where neither has it the normalisation stays unknown, and the weights
    can be scored on PASTIS but not used for maps. Nothing is written unless all folds can be read.
    """
    norms = data or (folder if (folder / NORMALISATION_FILE).exists() else None)
    numbers = [fold] if fold else list(FOLDS)
    imported = {
        number: import_published(folder, number, fold_normalisation(norms, FOLDS[number][0]) if norms else None)
        for number in numbers
    }
    new_folder(out)
    paths = {number: out if fold else out / f"fold_{number}" for number in numbers}
    if fold:
        save_weights(out, imported[fold])
        return [out]
    with atomic(out) as temporary:
        for number, weights in imported.items():
            save_weights(temporary / f"fold_{number}", weights)
    return list(paths.values())
