"""Mean and deviation of bands: from images, and as files of statistics state them; no torch in it.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_statistics(entries: Sequence[Any], bands: int) -> NDArray:
    """Mean and deviation of each band, 2 x C, over entries {"mean": [..], "std": [..]} of a JSON file.

    Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``OverflowError`` for anything else, and for deviations that are not
    positive.
    """
    values = np.array([[entry[key] for entry in entries] for key in ("mean", "std")], dtype=np.float64)
    if values.shape[1:] != (len(entries), bands) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}, or not finite")
    if not (values[1] > 0).all():
        raise ValueError("a deviation that is not positive")
    return values.mean(axis=1)


def moments(images_TCHW: NDArray) -> NDArray:
    """Mean and unbiased deviation of each band over all dates, 2 x C; one date at a time is in memory.

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
