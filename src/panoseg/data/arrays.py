"""Arrays in NumPy's own file format, mapped into memory after their header has been checked against
the file.

Format: numpy.lib.format, versions 1.0 and 2.0. Nothing is unpickled.
"""

from __future__ import annotations

import math
import tokenize
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from panoseg.errors import DatasetError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NAMES = {
    "i": "integers",
    "u": "unsigned integers",
    "f": "floating-point numbers",
    "O": "pickled objects",
    "b": "truth values",
}


def map_array(
    path: Path, *, dimensions: int, dtype: str | None = None, kinds: str = "iu"
) -> NDArray:
    """The array of a .npy file, read only where it is touched; changes to it stay in memory.

    dimensions: how many it must have. dtype: what it must be; without one, any of ``kinds``
    (NumPy's letters). Raises ``DatasetError`` for a file that is missing, damaged, shorter or
    longer than its header says, or of another form.
    """
    try:
        with path.open("rb") as file:
            shape, fortran_order, found = _header(path, file)
            offset, size = file.tell(), path.stat().st_size
            _check_form(path, shape, found, dimensions, dtype, kinds)
            expected = offset + math.prod(shape) * found.itemsize
            if size != expected:
                raise DatasetError(
                    f"{path} has {size} bytes",
                    f"{expected} for {_words(shape)} {found}",
                    "copy the file again, it is damaged",
                )
            order = "F" if fortran_order else "C"
            if not math.prod(shape):  # an empty file cannot be mapped
                return np.zeros(shape, found)
            return np.memmap(file, found, "c", offset, shape, order)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist",
            "the file of that array",
            "complete the dataset or correct its path",
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror or error}",
            "a readable file",
            "check the disk and permissions",
        ) from error


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single"


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of values, as the file says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            if any(length < 0 for length in shape):
                raise ValueError(f"negative length in {shape}")
            return shape, fortran_order, np.dtype(dtype)
    except (
        ValueError,
        TypeError,
        KeyError,
        SyntaxError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        raise DatasetError(
            f"{path} is not an array", "a .npy file as numpy.save writes it", "copy the file again"
        ) from error


def _check_form(
    path: Path,
    shape: tuple[int, ...],
    found: np.dtype,
    dimensions: int,
    dtype: str | None,
    kinds: str,
) -> None:
    wrong_type = (
        found != np.dtype(dtype) if dtype else found.kind not in kinds or not found.isnative
    )
    if wrong_type or len(shape) != dimensions:
        kind = dtype or " or ".join(_NAMES[letter] for letter in kinds)
        raise DatasetError(
            f"{path} holds {_words(shape)} {_NAMES['O'] if found.hasobject else found}",
            f"{dimensions} dimensions of {kind}",
            "write the array in that form",
        )


def mean_statistics(entries: Sequence[Any], bands: int) -> NDArray:
    """Mean and deviation of each band, 2 x C, over entries {"mean": [..], "std": [..]} of a JSON
    file.

    Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``OverflowError`` for anything else, and
    for deviations that are not positive.
    """
    values = np.array(
        [[entry[key] for entry in entries] for key in ("mean", "std")], dtype=np.float64
    )
    if values.shape[1:] != (len(entries), bands) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}, or not finite")
    if not (values[1] > 0).all():
        raise ValueError("a deviation that is not positive")
    return values.mean(axis=1)


def moments(images_TCHW: NDArray) -> NDArray:
    """Mean and unbiased deviation of each band over all dates, 2 x C; one date at a time is in
    memory.

    Sums of int16 and of their squares are exact in double precision.
    """
    total, square = np.zeros((2, images_TCHW.shape[1]))
    for image_CHW in images_TCHW:
        values = image_CHW.reshape(len(image_CHW), -1).astype(np.float64)
        total += values.sum(axis=1)
        square += np.einsum("cp,cp->c", values, values)
    count = images_TCHW.size // images_TCHW.shape[1]
    variance = (square - total**2 / count) / max(count - 1, 1)
    return np.stack([total / count, np.sqrt(np.maximum(variance, 0))])
