"""PASTIS, and every dataset in its layout, as samples.

Layout: metadata.geojson; DATA_S2/S2_<id>.npy int16 T x 10 x H x W; ANNOTATIONS/TARGET_<id>.npy
(layer 0: classes) and ParcelIDs_<id>.npy; INSTANCE_ANNOTATIONS/{INSTANCES,HEATMAP,ZONES}_<id>.npy;
NORM_S2_patch.json.

Shape suffixes: T dates, C bands, H W pixels. Source: utae-paps @ 987874e, src/dataset.py, with the
differences that docs/architecture.md lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.arrays import map_array, mean_statistics, moments
from panoseg.data.centres import centre_targets, number_parcels, targets_from_maps
from panoseg.data.pastis_files import FILE_NAME, NORMALISATION_FILE, Patch, read_json, read_metadata
from panoseg.data.samples import CentreTargets, Normalisation, Sample
from panoseg.data.seasons import (
    PatchDataset,
    SampleOptions,
    check_complete,
    check_size,
    known_classes,
    map_images,
)
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.bands import PASTIS_BANDS

FOLDS: dict[int, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    1: ((1, 2, 3), (4,), (5,)),
    2: ((2, 3, 4), (5,), (1,)),
    3: ((3, 4, 5), (1,), (2,)),
    4: ((4, 5, 1), (2,), (3,)),
    5: ((5, 1, 2), (3,), (4,)),
}
"""The official rotation: folds to train, validate and test on."""

Target = Literal["semantic", "panoptic"] | None


class PastisDataset(PatchDataset[Patch]):
    """The patches of some folds, by ascending identifier.

    folder: the dataset. folds: which of 1..5 to take. target: "semantic" adds classes, "panoptic"
    also instances and centre targets. classes: those that TARGET files may hold. The other options,
    and errors, are those of ``PatchDataset``.
    """

    def __init__(
        self,
        folder: Path | str,
        folds: Sequence[int] = (1, 2, 3, 4, 5),
        *,
        target: Target,
        classes: ClassTable = PASTIS,
        **options: Unpack[SampleOptions],
    ) -> None:
        if target not in ("semantic", "panoptic", None):
            raise ConfigError(
                f"target {target!r}", "semantic, panoptic or None", "choose one of them"
            )
        _check_folds(folds)
        self.folds = tuple(folds)
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
        """A sample before augmentation; without centre targets where that makes them anew."""
        images_TCHW, days_T = self._season(_map_images(self.folder, patch), patch)
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
    ) -> NDArray:
        """An array of labels, checked to cover the same pixels as the images or other labels do."""
        path = self._path(folder, kind, patch)
        labels_HW = map_array(path, dimensions=2, kinds=kinds)
        check_size(path, labels_HW.shape, shape)
        return labels_HW

    def _classes(self, patch: Patch, shape: tuple[int, ...]) -> NDArray:
        """Classes as they are written in the file."""
        path = self._path("ANNOTATIONS", "TARGET", patch)
        layers = map_array(path, dimensions=3)
        check_size(path, layers.shape[1:] if len(layers) else (), shape)
        return known_classes(path, layers[0], self.classes)

    def _instances(self, patch: Patch, classes_HW: NDArray) -> NDArray:
        """Numbers of the parcels; from ParcelIDs where the dataset has no instance annotations."""
        path = self._path("INSTANCE_ANNOTATIONS", "INSTANCES", patch)
        if not path.exists():
            return number_parcels(
                self._map("ANNOTATIONS", "ParcelIDs", patch, classes_HW.shape), classes_HW
            )
        instances_HW = self._map("INSTANCE_ANNOTATIONS", "INSTANCES", patch, classes_HW.shape)
        lowest, highest = int(instances_HW.min()), int(instances_HW.max())
        if lowest < 0 or highest > np.iinfo(np.int32).max:
            raise DatasetError(
                f"{path} holds numbers {lowest} .. {highest}",
                "0 .. 2147483647",
                "copy the file again",
            )
        return instances_HW

    def _centres(self, patch: Patch, instances_HW: NDArray, classes_HW: NDArray) -> CentreTargets:
        """From the files where they are there, computed otherwise."""
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
                f"{heatmap} holds values outside 0..1",
                "heat from 0 to 1",
                "copy the file again, or remove it",
            )
        try:
            return targets_from_maps(heatmap_HW, instances_HW, zones_HW, classes_HW)
        except ValueError as error:
            raise DatasetError(
                f"{zones}: {error}", "numbers of INSTANCES", "copy the file again, or remove it"
            ) from None


def fold_normalisation(folder: Path | str, folds: Sequence[int]) -> Normalisation:
    """The mean over folds of the means and deviations that NORM_S2_patch.json gives each fold.
    Raises ``DatasetError``.
    """
    _check_folds(folds)
    path = Path(folder) / NORMALISATION_FILE
    table = read_json(path)
    try:
        mean, std = mean_statistics([table[f"Fold_{fold}"] for fold in folds], len(PASTIS_BANDS))
        return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path} has no valid normalisation of folds {', '.join(map(str, folds))} ({error})",
            f"mean and std with {len(PASTIS_BANDS)} values for each Fold_n",
            "write it anew with panoseg.data.pastis.compute_normalisation",
        ) from error


def compute_normalisation(folder: Path | str) -> dict[str, dict[str, list[float]]]:
    """What NORM_S2_patch.json holds, from the images: for each fold the mean over its patches of
    their mean and deviation.

    Deviations are unbiased and each is of one patch, all dates together (utae-paps @ 987874e,
    ``compute_norm_vals``). Folds without patches are left out. One date at a time is in memory. The
    result is ready for JSON.
    """
    of_fold: dict[int, list[NDArray]] = {}
    for patch in read_metadata(Path(folder)):
        of_fold.setdefault(patch.fold, []).append(moments(_map_images(Path(folder), patch)))
    table = {}
    for fold in sorted(of_fold):
        mean, std = np.mean(of_fold[fold], axis=0)
        table[f"Fold_{fold}"] = {"mean": mean.tolist(), "std": std.tolist()}
    return table


def _map_images(folder: Path, patch: Patch) -> NDArray:
    return map_images(
        folder / "DATA_S2" / f"S2_{patch.id}.npy", len(patch.dates), PASTIS_BANDS, FILE_NAME
    )


def _check_folds(folds: Sequence[int]) -> None:
    for fold in folds:
        if fold not in FOLDS:
            raise DatasetError(f"fold {fold}", "folds from 1 to 5", "choose one of them")
