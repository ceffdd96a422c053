"""S2TSCzCrop, and every dataset in its layout, as samples; and samples as such a dataset.

6,945 patches of Czechia in the season of 2019, 128 x 128 pixels, 27 to 61 dates, crops in 15
classes. The layout is that of ``panoseg.data.s2tsczcrop_files``. Bands come in PASTIS's order,
whatever theirs on disk. Source: Many98/Crop2Seg @ aee7827.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from panoseg.classes import S2TSCZCROP
from panoseg.data.arrays import map_array, mean_statistics, moments
from panoseg.data.pastis import FOLDS
from panoseg.data.pastis_files import read_json
from panoseg.data.s2tsczcrop_files import (
    FILE_NAME,
    NORMALISATION_FILE,
    OWN_BANDS,
    SETS,
    TO_PASTIS,
    CzechPatch,
    SetName,
    classes_path,
    images_path,
    read_patches,
    save_arrays,
    save_band_statistics,
    save_patches,
)
from panoseg.data.samples import Normalisation, Sample
from panoseg.data.seasons import (
    PatchDataset,
    SampleOptions,
    check_complete,
    check_size,
    known_classes,
    map_images,
)
from panoseg.errors import ConfigError, DatasetError
from panoseg.files import new_folder
from panoseg.imagery.bands import PASTIS_BANDS


class S2TSCzCropDataset(PatchDataset[CzechPatch]):
    """The patches of some sets, by ascending identifier.

    folder: the dataset. sets: which of train, val, test to take. target: "semantic" adds classes;
    there are no parcels. The other options, and errors, are those of ``PatchDataset``.
    """

    def __init__(
        self,
        folder: Path | str,
        sets: Sequence[SetName] = SETS,
        *,
        target: str | None,
        **options: Unpack[SampleOptions],
    ) -> None:
        if target not in ("semantic", None):
            raise ConfigError(
                f"target {target!r} of {folder}, a dataset in S2TSCzCrop's layout",
                "semantic: it tells the class of each pixel but not its parcel",
                "train a semantic model, or use a dataset in PASTIS's layout",
            )
        for name in sets:
            if name not in SETS:
                raise DatasetError(
                    f"set {name!r}", f"sets out of {', '.join(SETS)}", "choose some of them"
                )
        metadata = [patch for patch in read_patches(Path(folder)) if patch.set in sets]
        super().__init__(folder, metadata, f"set {', '.join(sets)}", target, S2TSCZCROP, **options)
        for path in [images_path] + [classes_path] * (target is not None):
            files = [path(self.folder, patch_id) for patch_id in self.ids]
            check_complete(files[0].parent, [file.name for file in files], FILE_NAME)

    def _read(self, patch: CzechPatch) -> Sample:
        """A sample before augmentation, its bands as they lie on disk."""
        images_TCHW, days_T = self._season(_map_images(self.folder, patch), patch)
        classes_HW = None
        if self.target is not None:
            path = classes_path(self.folder, patch.id)
            labels_HW = map_array(path, dimensions=2)
            check_size(path, labels_HW.shape, images_TCHW.shape[2:])
            classes_HW = self._mapped(known_classes(path, labels_HW, self.classes))
        return Sample(images_TCHW, days_T, str(patch.id), classes_HW, order=TO_PASTIS)


def train_normalisation(folder: Path | str, rotation: int = 1) -> Normalisation:
    """Mean and deviation of the training set from NORM_S2_patch.json, in PASTIS's order of bands.
    Raises ``DatasetError``.

    The file has the entry "train" in the order of the files. One with PASTIS's entries Fold_1 ..
    Fold_5, which are in PASTIS's order already, gives weights from PASTIS their own statistics: the
    mean over the training folds of ``rotation``.
    """
    path = Path(folder) / NORMALISATION_FILE
    table = read_json(path)
    try:
        if "train" in table:
            mean, std = mean_statistics([table["train"]], len(OWN_BANDS))[:, TO_PASTIS]
        else:
            mean, std = mean_statistics(
                [table[f"Fold_{fold}"] for fold in FOLDS[rotation][0]], len(PASTIS_BANDS)
            )
        return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path} has no valid normalisation of the training set ({error})",
            f"mean and std with {len(OWN_BANDS)} values for train",
            "write it anew with panoseg.data.s2tsczcrop.compute_normalisation",
        ) from error


def compute_normalisation(folder: Path | str) -> dict[str, dict[str, list[float]]]:
    """What NORM_S2_patch.json holds, from the images: the mean over the training patches of their
    mean and deviation.

    Bands in the order of the files; deviations are unbiased and each is of one patch, all dates
    together (Crop2Seg @ aee7827, ``compute_norm_vals``). One date at a time is in memory.
    """
    patches = [patch for patch in read_patches(Path(folder)) if patch.set == "train"]
    if not patches:
        raise DatasetError(
            f"{folder} has no patch of set train",
            "at least one",
            "choose sets that the dataset has",
        )
    mean, std = np.mean([moments(_map_images(Path(folder), patch)) for patch in patches], axis=0)
    return {"train": {"mean": mean.tolist(), "std": std.tolist()}}


def write_samples(folder: Path | str, entries: Iterable[tuple[Sample, CzechPatch]]) -> Path:
    """Write samples as a new dataset with its table and the statistics of its training set; returns
    the folder.

    entries: a sample with images int16 in PASTIS's order of bands and classes of ``S2TSCZCROP``,
    and what metadata.json says of it, with a date an image. At least one is of the set train.
    Raises ``OutputError`` and ``DatasetError``.
    """
    folder = new_folder(folder)
    patches, statistics = [], []
    for sample, patch in entries:
        _check_writable(sample, patch)
        save_arrays(folder, patch.id, sample.images_TCHW.numpy(), sample.classes_HW.numpy())  # type: ignore[union-attr]
        patches.append(patch)
        if patch.set == "train":
            statistics.append(moments(sample.images_TCHW.numpy()))
    if not statistics:
        raise DatasetError(
            "samples of no patch of set train",
            "at least one",
            "put some of them into the training set",
        )
    save_band_statistics(folder, statistics)
    save_patches(folder, patches)  # last: without it there is no dataset
    return folder


def _check_writable(sample: Sample, patch: CzechPatch) -> None:
    known = {entry.id for entry in S2TSCZCROP.classes}
    if sample.classes_HW is None or not set(sample.classes_HW.unique().tolist()) <= known:
        raise DatasetError(
            f"sample {sample.name}", "classes of S2TSCzCrop, 0 to 14", "map its classes first"
        )
    if sample.images_TCHW.dtype != torch.int16 or len(sample.images_TCHW) != len(patch.dates):
        raise DatasetError(
            f"sample {sample.name} with {len(sample.images_TCHW)} images of"
            f" {sample.images_TCHW.dtype} and {len(patch.dates)} dates",
            "int16 images, reflectance x 10 000, as many as dates",
            "convert it first",
        )


def _map_images(folder: Path, patch: CzechPatch) -> NDArray:
    return map_images(images_path(folder, patch.id), len(patch.dates), OWN_BANDS, FILE_NAME)
