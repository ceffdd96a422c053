"""Read S2TSCzCrop, and every dataset in its layout, as samples; write samples in its layout.

6,945 patches of Czechia in the season of 2019, 128 x 128 pixels, 27 to 61 dates, crops in 15
classes. The files are those of ``panoseg.data.s2tsczcrop_files``. Batches have the bands in
PASTIS's order. Source: Many98/Crop2Seg @ aee7827.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

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
from panoseg.imagery.sentinel2 import PASTIS_BANDS


class S2TSCzCropDataset(PatchDataset[CzechPatch]):
    """The patches of some sets, by ascending identifier.

    Args:
        folder: The dataset.
        sets: Which of train, val and test to take.
        target: "semantic" adds classes; there are no parcels.
        **options: Those of ``PatchDataset``, which also says what is raised.
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
                f"{folder} has S2TSCzCrop's layout, which has the class of each pixel but not its"
                f" parcel, so it has no target {target!r}; train a semantic model, or use a dataset"
                " in PASTIS's layout."
            )
        for name in sets:
            if name not in SETS:
                raise DatasetError(f"There is no set {name!r}; choose from {', '.join(SETS)}.")
        metadata = [patch for patch in read_patches(Path(folder)) if patch.set in sets]
        super().__init__(folder, metadata, f"set {', '.join(sets)}", target, S2TSCZCROP, **options)
        for path in [images_path] + [classes_path] * (target is not None):
            files = [path(self.folder, patch_id) for patch_id in self.ids]
            check_complete(files[0].parent, [file.name for file in files], FILE_NAME)

    def _read(self, patch: CzechPatch) -> Sample:
        """Read a sample, with its bands as they lie on disk."""
        images_TCHW, days_T = self._season(_map_images(self.folder, patch), patch)
        classes_HW = None
        if self.target is not None:
            path = classes_path(self.folder, patch.id)
            labels_HW = map_array(path, dimensions=2)
            check_size(path, labels_HW.shape, images_TCHW.shape[2:])
            classes_HW = self._mapped(known_classes(path, labels_HW, self.classes))
        return Sample(images_TCHW, days_T, str(patch.id), classes_HW, order=TO_PASTIS)


def train_normalisation(folder: Path | str, rotation: int = 1) -> Normalisation:
    """Read the statistics of the training set from NORM_S2_patch.json, in PASTIS's order of bands.

    The file has the entry "train", with bands in the order of the images on disk. One with PASTIS's
    entries Fold_1 .. Fold_5, with bands in PASTIS's order, gives weights from PASTIS their own
    statistics.

    Args:
        folder: The dataset.
        rotation: Number of the rotation of PASTIS over whose training folds to average.

    Raises:
        DatasetError: The file is missing or damaged.
    """
    path = Path(folder) / NORMALISATION_FILE
    if not path.exists() and Path(folder).is_dir():
        raise DatasetError(
            f"{path} does not exist. Make it with panoseg describe {folder} --normalisation, or"
            " copy it from the dataset."
        )
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
            f"{path} lacks mean and std with {len(OWN_BANDS)} values for train ({error}); make it"
            f" again with panoseg describe {folder} --normalisation."
        ) from error


def compute_normalisation(folder: Path | str) -> dict[str, dict[str, list[float]]]:
    """Compute what NORM_S2_patch.json holds: the mean of the statistics of the training patches.

    Deviations are unbiased and each is of one patch, all dates together (Crop2Seg @ aee7827,
    ``compute_norm_vals``). One date at a time is in memory.

    Returns:
        {"train": {"mean": [..], "std": [..]}}, reflectance x 10 000, bands in the order of the
        files.
    """
    patches = [patch for patch in read_patches(Path(folder)) if patch.set == "train"]
    if not patches:
        raise DatasetError(f"{folder} has no patch of set train, so no statistics can be computed.")
    mean, std = np.mean([moments(_map_images(Path(folder), patch)) for patch in patches], axis=0)
    return {"train": {"mean": mean.tolist(), "std": std.tolist()}}


def write_samples(folder: Path | str, entries: Iterable[tuple[Sample, CzechPatch]]) -> Path:
    """Write samples as a new dataset, with its table and the statistics of its training set.

    Args:
        folder: New or empty.
        entries: Samples and their rows of metadata.json. Images are int16 with bands in PASTIS's
            order, one for each date of the row; classes are those of ``S2TSCZCROP``. At least one
            patch is of the set train.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
        DatasetError: A sample has other values, or none is of the set train.
    """
    folder = new_folder(folder)
    patches, statistics = [], []
    for sample, patch in entries:
        classes_HW = _classes_to_write(sample, patch)
        save_arrays(folder, patch.id, sample.images_TCHW.numpy(), classes_HW)
        patches.append(patch)
        if patch.set == "train":
            statistics.append(moments(sample.images_TCHW.numpy()))
    if not statistics:
        raise DatasetError("No sample is of the set train; put some into it.")
    save_band_statistics(folder, statistics)
    save_patches(folder, patches)  # last: without it there is no dataset
    return folder


def _classes_to_write(sample: Sample, patch: CzechPatch) -> np.ndarray:
    """Return the classes of a sample; raise ``DatasetError`` where it cannot be written."""
    known = [entry.id for entry in S2TSCZCROP.classes]
    classes_HW = None if sample.classes_HW is None else sample.classes_HW.numpy()
    if classes_HW is None or not np.isin(classes_HW, known).all():
        raise DatasetError(
            f"Sample {sample.name} lacks classes of S2TSCzCrop, 0 to 14; map its classes first."
        )
    if sample.images_TCHW.dtype != torch.int16 or len(sample.images_TCHW) != len(patch.dates):
        raise DatasetError(
            f"Sample {sample.name} has {len(sample.images_TCHW)} images of"
            f" {sample.images_TCHW.dtype} and {len(patch.dates)} dates; images must be int16,"
            " reflectance x 10 000, one per date."
        )
    return classes_HW


def _map_images(folder: Path, patch: CzechPatch) -> np.ndarray:
    return map_images(images_path(folder, patch.id), len(patch.dates), OWN_BANDS, FILE_NAME)
