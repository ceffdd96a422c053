"""S2TSCzCrop's own layout on disk: the table of patches, and writing; no torch in it.

    metadata.json              a list of patches: identifier, status, set, dates, tile, grid
    DATA_S2/S2_<id>            a .npy file without its ending: int16 T x 10 x H x W, bands ``OWN_BANDS``
    ANNOTATIONS/TARGET_<id>    the same: uint8 H x W, classes
    NORM_S2_patch.json         {"train": {"mean": [..], "std": [..]}}, bands ``OWN_BANDS``

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
from numpy.typing import NDArray

from panoseg.data.pastis_files import parse_date, read_json
from panoseg.errors import DatasetError
from panoseg.files import atomic, write_json
from panoseg.imagery.bands import PASTIS_BANDS

FILE_NAME = "metadata.json"
NORMALISATION_FILE = "NORM_S2_patch.json"

OWN_BANDS = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
"""The bands in the order of the files, which is that of Sentinel-2's folders: 10 m first."""

TO_PASTIS = tuple(OWN_BANDS.index(band) for band in PASTIS_BANDS)
"""Where each band of PASTIS lies in the files."""

FROM_PASTIS = tuple(PASTIS_BANDS.index(band) for band in OWN_BANDS)
"""Where each band of the files lies in PASTIS's order."""

SetName = Literal["train", "val", "test"]
SETS: tuple[SetName, ...] = get_args(SetName)

Affine = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f, of the corner of a
pixel.
"""


@dataclass(frozen=True)
class CzechPatch:
    """One patch as metadata.json describes it.

    id: as in the names of its files. set: which of ``SETS``. dates: one an image, in the order of
    the images on disk. epsg: code of the grid's reference system, and affine: the grid, or None
    where the file does not say. properties: all that the file says of it.
    """

    id: int
    set: SetName
    dates: tuple[date, ...]
    epsg: int | None = None
    affine: Affine | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_patches(folder: Path) -> list[CzechPatch]:
    """The patches whose status is OK, by ascending identifier. Raises ``DatasetError``."""
    path = folder / FILE_NAME
    records = read_json(path)
    if not isinstance(records, list):
        raise DatasetError(
            f"{path} has no list of patches",
            "a list of records, one a patch",
            "copy the file again",
        )
    found = (_patch(path, number, record) for number, record in enumerate(records))
    patches = sorted((patch for patch in found if patch is not None), key=lambda patch: patch.id)
    for one, other in pairwise(patches):
        if one.id == other.id:
            raise DatasetError(
                f"{path} lists patch {one.id} twice", "one record a patch", "remove one of them"
            )
    return patches


def _patch(path: Path, number: int, record: Any) -> CzechPatch | None:
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
            f"record {number} of {path} is damaged ({error})",
            "ID_PATCH, Status, set (train, val or test) and dates-S2 numbered from 0, each"
            " 20180917",
            "write the file in S2TSCzCrop's form",
        ) from error


def _whole(value: Any) -> int:
    """A whole number from 0, also one that pandas wrote as 7.0."""
    if type(value) not in (int, float) or value != int(value) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def parse_affine(matrix: Any) -> Affine:
    """A grid from its 3 x 3 matrix as the published program stores it, transposed, or upright.
    Raises ``ValueError``.

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
    """The file of a patch's images."""
    return folder / "DATA_S2" / f"S2_{patch_id}"


def classes_path(folder: Path, patch_id: int) -> Path:
    """The file of a patch's classes."""
    return folder / "ANNOTATIONS" / f"TARGET_{patch_id}"


def save_arrays(folder: Path, patch_id: int, images_TCHW: NDArray, classes_HW: NDArray) -> None:
    """Write a patch's two files, each whole or not at all. images_TCHW: int16, bands in PASTIS's
    order. classes_HW: 0..14.
    """
    save_images(folder, patch_id, images_TCHW)
    save_classes(folder, patch_id, classes_HW)


def save_images(folder: Path, patch_id: int, images_TCHW: NDArray) -> None:
    """Write a patch's images, int16 with bands in PASTIS's order, whole or not at all."""
    _save(images_path(folder, patch_id), images_TCHW[:, FROM_PASTIS].astype(np.int16))


def save_classes(folder: Path, patch_id: int, classes_HW: NDArray) -> None:
    """Write a patch's classes, 0..14, whole or not at all."""
    _save(classes_path(folder, patch_id), classes_HW.astype(np.uint8))


def _save(path: Path, array: NDArray) -> None:
    with (
        atomic(path) as temporary,
        temporary.open("wb") as file,
    ):  # given a name, NumPy would add an ending
        np.save(file, array)


def save_patches(folder: Path, patches: Sequence[CzechPatch]) -> None:
    """Write metadata.json in the published form; what ``properties`` say besides is kept."""
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


def save_band_statistics(folder: Path, moments_of_patches: Sequence[NDArray]) -> None:
    """Write NORM_S2_patch.json: the mean over patches of their mean and deviation.

    moments_of_patches: of each patch of the training set, 2 x C, bands in PASTIS's order.
    """
    mean_C, std_C = np.mean(moments_of_patches, axis=0)[:, FROM_PASTIS]
    write_json(
        folder / NORMALISATION_FILE, {"train": {"mean": mean_C.tolist(), "std": std_C.tolist()}}
    )
