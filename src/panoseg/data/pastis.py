"""PASTIS, and every dataset in its layout.

``PASTIS`` is the dataset for a plain torch ``DataLoader``; ``PastisDataset`` the one that training
uses, by folds and with all options.

Layout: metadata.geojson; DATA_S2/S2_<id>.npy int16 T x 10 x H x W; ANNOTATIONS/TARGET_<id>.npy
(layer 0: classes) and ParcelIDs_<id>.npy; INSTANCE_ANNOTATIONS/{INSTANCES,HEATMAP,ZONES}_<id>.npy;
NORM_S2_patch.json.

Shape suffixes: T dates, C bands, H W pixels. Source: utae-paps @ 987874e, src/dataset.py, with the
differences that docs/architecture.md lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal, Unpack, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from panoseg.classes import PASTIS as PASTIS_CLASSES
from panoseg.classes import ClassTable
from panoseg.data import AugmentationConfig
from panoseg.data.arrays import map_array, mean_statistics, moments
from panoseg.data.pastis_files import FILE_NAME, NORMALISATION_FILE, Patch, read_json, read_metadata
from panoseg.data.samples import (
    CentreTargets,
    Normalisation,
    Sample,
    centre_targets,
    collate,
    number_parcels,
    targets_from_maps,
)
from panoseg.data.seasons import (
    PatchDataset,
    SampleOptions,
    check_complete,
    check_size,
    known_classes,
    map_images,
)
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS

FOLDS: dict[int, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    1: ((1, 2, 3), (4,), (5,)),
    2: ((2, 3, 4), (5,), (1,)),
    3: ((3, 4, 5), (1,), (2,)),
    4: ((4, 5, 1), (2,), (3,)),
    5: ((5, 1, 2), (3,), (4,)),
}
"""The official rotation: by number, the folds to train, validate and test on."""

Target = Literal["semantic", "panoptic"] | None
Split = Literal["train", "val", "test"]

FLIPS_AND_TURNS = AugmentationConfig(flips=True, turns=True)
"""The augmentation of ``PASTIS(augment=True)``: flips and quarter turns, which keep all values."""


class PASTIS(Dataset[Sample]):
    """A split of PASTIS for a plain torch ``DataLoader``.

    Sizes of seasons differ, so samples are stacked by ``collate``, which pads them: torch's loader
    finds it by itself, or takes it as ``collate_fn``.

        data = PASTIS("PASTIS", fold=1, split="train", augment=True)
        for batch in DataLoader(data, batch_size=4, shuffle=True, num_workers=2):
            logits = model(batch.images_BTCHW, batch.days_BT, batch.valid_BT)

    A batch is a ``Batch``: images_BTCHW (float32), days_BT (int64, since 1 September 2018),
    valid_BT (bool), classes_BHW (int64), and for "panoptic" instances_BHW (int32) and centres.
    ``batch.to(device)`` moves it. Augmentation differs in every epoch; ``torch.manual_seed``
    repeats it.

    Args:
        root: Folder of the dataset, or of another in its layout.
        fold: Number of the official rotation, 1..5.
        split: "train" (three folds), "val" (one) or "test" (one).
        augment: True for flips and quarter turns, or a configuration; None for none.
        target: "panoptic" for classes, parcels and centres, "semantic" for classes alone.
        normalise: Standardise images with the statistics of the rotation's training folds;
            False leaves int16, reflectance x 10 000.

    Raises:
        DatasetError: The dataset is incomplete or damaged.
        ConfigError: An option is impossible.
    """

    def __init__(
        self,
        root: Path | str,
        fold: int = 1,
        split: Split = "train",
        augment: AugmentationConfig | bool | None = None,
        target: Literal["panoptic", "semantic"] = "panoptic",
        *,
        normalise: bool = True,
    ) -> None:
        if split not in get_args(Split):
            raise ConfigError(f"The split must be train, val or test, not {split!r}.")
        if fold not in FOLDS:
            raise ConfigError(f"The fold must be a number from 1 to {len(FOLDS)}, not {fold!r}.")
        training, *_ = rotation = FOLDS[fold]
        if not isinstance(augment, AugmentationConfig):
            augment = FLIPS_AND_TURNS if augment else None
        folds = rotation[get_args(Split).index(split)]
        self.patches = PastisDataset(root, folds, target=target, augmentation=augment)
        self.normalisation = fold_normalisation(root, training)
        self.normalise = normalise

    collate = staticmethod(collate)
    """Stacks samples into a batch; for ``DataLoader(.., collate_fn=PASTIS.collate)``."""

    @property
    def classes(self) -> ClassTable:
        """The classes of labels, with names, colours and kinds."""
        return self.patches.classes

    @property
    def ids(self) -> tuple[int, ...]:
        """Identifier of each patch, ascending."""
        return self.patches.ids

    def dates(self, index: int) -> tuple[date, ...]:
        """Return the dates of a patch, ascending."""
        return self.patches.dates(index)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, self.patches.generator())

    def draw(self, index: int, generator: np.random.Generator) -> Sample:
        """Return the sample at ``index``, augmented as ``generator`` decides."""
        sample = self.patches.draw(index, generator)
        if not self.normalise:
            return sample
        valid_1T = torch.ones(1, len(sample.days_T), dtype=torch.bool)
        standard_1TCHW = self.normalisation(sample.images_TCHW[None], valid_1T)
        return replace(sample, images_TCHW=standard_1TCHW[0])


class PastisDataset(PatchDataset[Patch]):
    """The patches of some folds, by ascending identifier.

    Args:
        folder: The dataset.
        folds: Which of 1..5 to take.
        target: "semantic" adds classes, "panoptic" also parcels and centre targets.
        classes: The classes that TARGET files may hold.
        bands: Names of the bands of S2 files.
        **options: Those of ``PatchDataset``, which also says what is raised.
    """

    def __init__(
        self,
        folder: Path | str,
        folds: Sequence[int] = (1, 2, 3, 4, 5),
        *,
        target: Target,
        classes: ClassTable = PASTIS_CLASSES,
        bands: Sequence[str] = PASTIS_BANDS,
        **options: Unpack[SampleOptions],
    ) -> None:
        if target not in ("semantic", "panoptic", None):
            raise ConfigError(f"The target must be semantic, panoptic or None, not {target!r}.")
        _check_folds(folds)
        self.folds, self.bands = tuple(folds), tuple(bands)
        metadata = [patch for patch in read_metadata(Path(folder)) if patch.fold in self.folds]
        super().__init__(folder, metadata, f"folds {self.folds}", target, classes, **options)
        needed = [("DATA_S2", "S2")] + [("ANNOTATIONS", "TARGET")] * (target is not None)
        if target == "panoptic" and not (self.folder / "INSTANCE_ANNOTATIONS").is_dir():
            needed.append(("ANNOTATIONS", "ParcelIDs"))
        for parent, kind in needed:
            check_complete(
                self.folder / parent, [f"{kind}_{patch_id}.npy" for patch_id in self.ids], FILE_NAME
            )

    def _read(self, patch: Patch) -> Sample:
        """Read a sample, without centre targets where augmentation computes them again."""
        images_TCHW, days_T = self._season(_map_images(self.folder, patch, self.bands), patch)
        classes_HW = instances_HW = centres = None
        if self.target is not None:
            written_HW = self._classes(patch, images_TCHW.shape[2:])
            classes_HW = self._mapped(written_HW)
            if self.target == "panoptic":
                instances = self._instances(patch, written_HW)
                instances_HW = torch.from_numpy(instances.astype(np.int32))
                if not self.augmentation.changes_geometry:
                    centres = self._centres(patch, instances, classes_HW.numpy())
        return Sample(images_TCHW, days_T, str(patch.id), classes_HW, instances_HW, centres)

    def _path(self, folder: str, kind: str, patch: Patch) -> Path:
        return self.folder / folder / f"{kind}_{patch.id}.npy"

    def _map(
        self, folder: str, kind: str, patch: Patch, shape: tuple[int, ...], kinds: str = "iu"
    ) -> np.ndarray:
        """Map an array of labels, which must have the size of the patch's other arrays."""
        path = self._path(folder, kind, patch)
        labels_HW = map_array(path, dimensions=2, kinds=kinds)
        check_size(path, labels_HW.shape, shape)
        return labels_HW

    def _classes(self, patch: Patch, shape: tuple[int, ...]) -> np.ndarray:
        """Read the classes on disk, int64."""
        path = self._path("ANNOTATIONS", "TARGET", patch)
        layers = map_array(path, dimensions=3)
        check_size(path, layers.shape[1:] if len(layers) else (), shape)
        return known_classes(path, layers[0], self.classes)

    def _instances(self, patch: Patch, classes_HW: np.ndarray) -> np.ndarray:
        """Number the parcels; from ParcelIDs where the dataset has no instance annotations."""
        path = self._path("INSTANCE_ANNOTATIONS", "INSTANCES", patch)
        if not path.exists():
            return number_parcels(
                self._map("ANNOTATIONS", "ParcelIDs", patch, classes_HW.shape), classes_HW
            )
        instances_HW = self._map("INSTANCE_ANNOTATIONS", "INSTANCES", patch, classes_HW.shape)
        lowest, highest = int(instances_HW.min()), int(instances_HW.max())
        if lowest < 0 or highest > np.iinfo(np.int32).max:
            raise DatasetError(
                f"{path} holds numbers from {lowest} to {highest}, but those of parcels lie between"
                " 0 and 2147483647; copy the file again."
            )
        return instances_HW

    def _centres(
        self, patch: Patch, instances_HW: np.ndarray, classes_HW: np.ndarray
    ) -> CentreTargets:
        """Read the centre targets, or compute them where the dataset has no files of them."""
        heatmap, zones = (
            self._path("INSTANCE_ANNOTATIONS", kind, patch) for kind in ("HEATMAP", "ZONES")
        )
        if not (heatmap.exists() and zones.exists()):
            return centre_targets(instances_HW, classes_HW)
        heatmap_HW = self._map(
            "INSTANCE_ANNOTATIONS", "HEATMAP", patch, classes_HW.shape, kinds="f"
        )
        zones_HW = self._map("INSTANCE_ANNOTATIONS", "ZONES", patch, classes_HW.shape)
        if not ((heatmap_HW >= 0) & (heatmap_HW <= 1)).all():
            raise DatasetError(
                f"{heatmap} holds values outside 0..1; copy the file again, or remove it."
            )
        try:
            return targets_from_maps(heatmap_HW, instances_HW, zones_HW, classes_HW)
        except ValueError as error:
            raise DatasetError(
                f"{zones} does not fit the patch's INSTANCES: {error}; copy the file again, or"
                " remove it."
            ) from None


def fold_normalisation(
    folder: Path | str, folds: Sequence[int], bands: Sequence[str] = PASTIS_BANDS
) -> Normalisation:
    """Return the mean over folds of the statistics that NORM_S2_patch.json gives each of them.

    Raises:
        DatasetError: The file is missing or damaged, or there is no such fold.
    """
    _check_folds(folds)
    path = Path(folder) / NORMALISATION_FILE
    if not path.exists() and Path(folder).is_dir():
        raise DatasetError(
            f"{path} does not exist. Make it with panoseg describe {folder} --normalisation, or"
            " copy it from the dataset."
        )
    table = read_json(path)
    try:
        mean, std = mean_statistics([table[f"Fold_{fold}"] for fold in folds], len(bands))
        return Normalisation(tuple(mean.tolist()), tuple(std.tolist()), tuple(bands))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path} lacks mean and std with {len(bands)} values for"
            f" {', '.join(f'Fold_{fold}' for fold in folds)} ({error}); make it again with"
            f" panoseg describe {folder} --normalisation, or pass --classes table.csv for own"
            " bands and classes."
        ) from error


def compute_normalisation(
    folder: Path | str, bands: Sequence[str] = PASTIS_BANDS
) -> dict[str, dict[str, list[float]]]:
    """Compute what NORM_S2_patch.json holds: for each fold the mean of its patches' statistics.

    Deviations are unbiased and each is of one patch, all dates together (utae-paps @ 987874e,
    ``compute_norm_vals``). One date at a time is in memory.

    Returns:
        {"Fold_1": {"mean": [..], "std": [..]}, ..}, reflectance x 10 000, bands in PASTIS's order;
        folds without patches are left out.
    """
    of_fold: dict[int, list[np.ndarray]] = {}
    for patch in read_metadata(Path(folder)):
        of_fold.setdefault(patch.fold, []).append(moments(_map_images(Path(folder), patch, bands)))
    table = {}
    for fold in sorted(of_fold):
        mean, std = np.mean(of_fold[fold], axis=0)
        table[f"Fold_{fold}"] = {"mean": mean.tolist(), "std": std.tolist()}
    return table


def _map_images(folder: Path, patch: Patch, bands: Sequence[str]) -> np.ndarray:
    path = folder / "DATA_S2" / f"S2_{patch.id}.npy"
    return map_images(path, len(patch.dates), bands, FILE_NAME)


def _check_folds(folds: Sequence[int]) -> None:
    for fold in folds:
        if fold not in FOLDS:
            raise DatasetError(f"There is no fold {fold}; choose folds from 1 to {len(FOLDS)}.")
