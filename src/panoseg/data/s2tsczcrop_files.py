"""Read and write the files of S2TSCzCrop's layout; torch is not needed.

    metadata.json            a list of patches: identifier, status, set, dates, tile, grid
    DATA_S2/S2_<id>          .npy without its ending: int16 T x 10 x H x W, bands ``OWN_BANDS``
    ANNOTATIONS/TARGET_<id>  .npy without its ending: uint8 H x W, classes
    NORM_S2_patch.json       {"train": {"mean": [..], "std": [..]}}, bands ``OWN_BANDS``

Source: Many98/Crop2Seg @ aee7827, src/datasets/s2_ts_cz_crop.py. Shape suffixes: T dates, C bands,
H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from panoseg.data.pastis_files import Json, parse_date, read_json
from panoseg.errors import DatasetError
from panoseg.files import atomic, write_json
from panoseg.imagery.sentinel2 import PASTIS_BANDS

FILE_NAME = "metadata.json"
NORMALISATION_FILE = "NORM_S2_patch.json"

OWN_BANDS = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
"""The bands in the order of the files, which is that of Sentinel-2's folders: 10 m first."""

TO_PASTIS = tuple(OWN_BANDS.index(band) for band in PASTIS_BANDS)
"""Position in the files of each band of PASTIS."""

FROM_PASTIS = tuple(PASTIS_BANDS.index(band) for band in OWN_BANDS)
"""Position in PASTIS's order of each band of the files."""

SetName = Literal["train", "val", "test"]
SETS: tuple[SetName, ...] = get_args(SetName)

Affine = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: a pixel's corner is x = a column + b row + c, y = d column + e row + f."""


@dataclass(frozen=True)
class CzechPatch:
    """One patch, as metadata.json describes it."""

    id: int
    """Identifier, as in the names of its files."""
    set: SetName
    """Set that it belongs to."""
    dates: tuple[date, ...]
    """Date of each image, in the order of the images on disk."""
    epsg: int | None = None
    """EPSG code of the grid's coordinate system; None where the file does not say."""
    affine: Affine | None = None
    """Grid of its pixels; None where the file does not say."""
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All properties of its record."""


def read_patches(folder: Path) -> list[CzechPatch]:
    """Read the patches whose status is OK, by ascending identifier.

    Raises:
        DatasetError: The table is missing or damaged, or lists a patch twice.
    """
    path = folder / FILE_NAME
    records = read_json(path)
    if not isinstance(records, list):
        raise DatasetError(
            f"{path} is not a list of records, one for each patch; copy the file again."
        )
    found = (_patch(path, number, record) for number, record in enumerate(records))
    patches = sorted((patch for patch in found if patch is not None), key=lambda patch: patch.id)
    for one, other in pairwise(patches):
        if one.id == other.id:
            raise DatasetError(f"{path} lists patch {one.id} twice; remove one of its records.")
    return patches


def _patch(path: Path, number: int, record: Json) -> CzechPatch | None:
    """Parse the record of a patch, which may be any JSON value."""
    try:
        if record["Status"] != "OK":  # patches without enough declared land have no files
            return None
        dates = record["dates-S2"]
        if isinstance(dates, dict):
            dates = [dates[str(position)] for position in range(len(dates))]
        if not isinstance(dates, list) or record["set"] not in SETS:
            raise ValueError("a value of another type or range")
        epsg, affine = record.get("crs"), record.get("affine")
        return CzechPatch(
            _whole(record["ID_PATCH"]),
            record["set"],
            tuple(map(parse_date, dates)),
            None if epsg is None else _whole(epsg),
            None if affine is None else parse_affine(affine),
            record,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"Record {number} of {path} is damaged ({error}); it must have ID_PATCH, Status, set"
            " (train, val or test) and dates-S2 numbered from 0, each such as 20180917."
        ) from error


def _whole(value: object) -> int:
    """Return a whole number from 0, also one that pandas wrote as 7.0."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or value != int(value)
        or value < 0
    ):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def parse_affine(matrix: ArrayLike) -> Affine:
    """Parse a grid from its 3 x 3 matrix, upright or transposed as the published program stores it.

    Raises:
        ValueError: The values are no such matrix.

    >>> parse_affine([[10, 0, 0], [0, -10, 0], [500000, 5500000, 1]])
    (10.0, 0.0, 500000.0, 0.0, -10.0, 5500000.0)
    """
    matrix_33 = np.array(matrix, dtype=np.float64)
    if matrix_33.shape != (3, 3) or not np.isfinite(matrix_33).all():
        raise ValueError(f"affine of shape {matrix_33.shape}, or not finite")
    upright_33 = matrix_33 if (matrix_33[2] == (0, 0, 1)).all() else matrix_33.T
    if (upright_33[2] != (0, 0, 1)).any():
        raise ValueError("affine without a row or column 0 0 1")
    a, b, c, d, e, f = upright_33[:2].flatten().tolist()
    return a, b, c, d, e, f


def images_path(folder: Path, patch_id: int) -> Path:
    """Return the file of a patch's images."""
    return folder / "DATA_S2" / f"S2_{patch_id}"


def classes_path(folder: Path, patch_id: int) -> Path:
    """Return the file of a patch's classes."""
    return folder / "ANNOTATIONS" / f"TARGET_{patch_id}"


def save_arrays(
    folder: Path, patch_id: int, images_TCHW: np.ndarray, classes_HW: np.ndarray
) -> None:
    """Write a patch's two files, each atomically.

    Args:
        folder: The dataset.
        patch_id: Identifier of the patch.
        images_TCHW: Reflectance x 10 000, within int16, bands in PASTIS's order.
        classes_HW: Integers, 0..14.
    """
    save_images(folder, patch_id, images_TCHW)
    save_classes(folder, patch_id, classes_HW)


def save_images(folder: Path, patch_id: int, images_TCHW: np.ndarray) -> None:
    """Write a patch's images, given with bands in PASTIS's order, atomically."""
    _save(images_path(folder, patch_id), images_TCHW[:, FROM_PASTIS].astype(np.int16))


def save_classes(folder: Path, patch_id: int, classes_HW: np.ndarray) -> None:
    """Write a patch's classes, 0..14, atomically."""
    _save(classes_path(folder, patch_id), classes_HW.astype(np.uint8))


def _save(path: Path, array: np.ndarray) -> None:
    # Given a name instead of a file, NumPy would add an ending.
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def save_patches(folder: Path, patches: Sequence[CzechPatch]) -> None:
    """Write metadata.json in the published form; other ``properties`` of patches are kept."""
    write_json(
        folder / FILE_NAME,
        [_record(patch) for patch in sorted(patches, key=lambda patch: patch.id)],
    )


def _record(patch: CzechPatch) -> dict[str, Any]:
    grid: dict[str, Any] = {}
    if patch.affine is not None:
        a, b, c, d, e, f = patch.affine
        grid["affine"] = [[a, d, 0.0], [b, e, 0.0], [c, f, 1.0]]  # transposed, as published
    if patch.epsg is not None:
        grid["crs"] = patch.epsg
    return {
        "ID_WITHIN_TILE": patch.id,
        "Fold": 1,
        "weight": 1.0,
        **patch.properties,
        "ID_PATCH": patch.id,
        "Status": "OK",
        "set": patch.set,
        "time-series_length": len(patch.dates),
        "dates-S2": {
            str(position): int(day.strftime("%Y%m%d")) for position, day in enumerate(patch.dates)
        },
        **grid,
    }


def save_band_statistics(folder: Path, moments_of_patches: Sequence[np.ndarray]) -> None:
    """Write NORM_S2_patch.json: the mean over patches of their mean and deviation.

    Args:
        folder: The dataset.
        moments_of_patches: For each patch of the training set, mean and deviation of each band,
            2 x C, bands in PASTIS's order.
    """
    mean_C, std_C = np.mean(moments_of_patches, axis=0)[:, FROM_PASTIS]
    write_json(
        folder / NORMALISATION_FILE, {"train": {"mean": mean_C.tolist(), "std": std_C.tolist()}}
    )
