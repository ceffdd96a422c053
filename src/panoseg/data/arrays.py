"""Arrays of a dataset: .npy files mapped into memory, and the statistics of bands.

A file's header is checked against the file before it is mapped; nothing is unpickled. Format:
numpy.lib.format, versions 1.0 and 2.0. Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

import math
import tokenize
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

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
) -> np.ndarray:
    """Map the array of a .npy file; it is read only where it is touched.

    Args:
        path: The file.
        dimensions: Number of dimensions that it must have.
        dtype: Type that it must have; without one, any of ``kinds``.
        kinds: NumPy's letters of the kinds of type that are allowed.

    Returns:
        The array; changes to it stay in memory.

    Raises:
        DatasetError: The file is missing, damaged, shorter or longer than its header says, or has
            another type or number of dimensions.
    """
    try:
        with path.open("rb") as file:
            shape, fortran_order, found = _header(path, file)
            offset, size = file.tell(), path.stat().st_size
            _check_form(path, shape, found, dimensions, dtype, kinds)
            expected = offset + math.prod(shape) * found.itemsize
            if size != expected:
                raise DatasetError(
                    f"{path} has {size} bytes instead of {expected} for {_words(shape)} {found};"
                    " copy the file again, it is damaged."
                )
            if not math.prod(shape):  # an empty file cannot be mapped
                return np.zeros(shape, found)
            return np.memmap(file, found, "c", offset, shape, "F" if fortran_order else "C")
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; complete the dataset or correct its path."
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror or error}); check the disk and permissions."
        ) from error


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single"


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the shape, whether columns come first, and the type of values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
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
            f"{path} is no .npy file as numpy.save writes it; copy the file again."
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
            f"{path} holds {_words(shape)} {_NAMES['O'] if found.hasobject else found}, but the"
            f" array must have {dimensions} dimensions of {kind}."
        )


def mean_statistics(entries: Sequence[Any], bands: int) -> np.ndarray:
    """Average the statistics of bands that a JSON file holds.

    Args:
        entries: Values {"mean": [..], "std": [..]}, as read; they may be damaged.
        bands: Number of bands C.

    Returns:
        float64, 2 x C, the mean over entries of means and of deviations.

    Raises:
        ValueError: There are other numbers of values, infinite ones, or deviations that are not
            positive. ``KeyError``, ``TypeError`` and ``OverflowError`` say the same.
    """
    values = np.array(
        [[entry[key] for entry in entries] for key in ("mean", "std")], dtype=np.float64
    )
    if values.shape[1:] != (len(entries), bands) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}, or not finite")
    if not (values[1] > 0).all():
        raise ValueError("a deviation that is not positive")
    statistics_2C: np.ndarray = values.mean(axis=1)
    return statistics_2C


def moments(images_TCHW: np.ndarray) -> np.ndarray:
    """Return mean and unbiased deviation of each band over all dates, float64, 2 x C.

    One date at a time is in memory. Sums of int16 and of their squares are exact in double
    precision.
    """
    total, square = np.zeros((2, images_TCHW.shape[1]))
    for image_CHW in images_TCHW:
        values = image_CHW.reshape(len(image_CHW), -1).astype(np.float64)
        total += values.sum(axis=1)
        square += np.einsum("cp,cp->c", values, values)
    count = images_TCHW.size // images_TCHW.shape[1]
    variance = (square - total**2 / count) / max(count - 1, 1)
    return np.stack([total / count, np.sqrt(np.maximum(variance, 0))])
