"""The authors' five folds of weights become ours."""

from __future__ import annotations

from pathlib import Path

from panoseg.data.pastis import FOLDS, NORMALISATION_FILE, fold_normalisation
from panoseg.errors import WeightsError
from panoseg.files import atomic, new_folder
from panoseg.models.published import import_published
from panoseg.models.weights import save_weights


def import_folds(folder: Path, out: Path, data: Path | None = None, fold: int | None = None) -> list[Path]:
    """Write published weights as ``out``/fold_1 .. fold_5, or one fold as ``out`` itself; returns the folders written.

    data: where NORM_S2_patch.json lies, else ``folder``. Nothing is written unless all folds can be read.
    """
    norm_folder = data or folder
    if data is None and not (folder / NORMALISATION_FILE).exists():
        raise WeightsError(
            f"no {NORMALISATION_FILE} in {folder}",
            "the normalisation that the weights were trained with, which is part of the dataset",
            "add --data with the folder of PASTIS",
        )
    numbers = [fold] if fold else list(FOLDS)
    imported = {
        number: import_published(folder, number, fold_normalisation(norm_folder, FOLDS[number][0])) for number in numbers
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
