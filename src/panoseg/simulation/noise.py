"""Random fields: smooth noise over pixels, made by filtering white noise in the frequency
domain.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def _frequencies(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]).astype(
        np.float32
    )


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float) -> np.ndarray:
    """Gaussian noise with zero mean and unit deviation whose features are about ``length`` pixels
    wide. float32.
    """
    height, width = _padded(shape)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    spectrum *= np.exp(-0.5 * (np.pi * length * _frequencies(height, width)) ** 2)
    return _standardised(np.fft.irfft2(spectrum, s=(height, width)), shape)


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], power: float, largest: float
) -> np.ndarray:
    """Noise with a power-law spectrum, as clouds have: amplitude falls with frequency to the
    ``power``, features up to ``largest`` pixels. float32, zero mean and unit deviation.
    """
    height, width = _padded(shape)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    spectrum /= (_frequencies(height, width) ** 2 + 1.0 / largest**2) ** (power / 2)
    return _standardised(np.fft.irfft2(spectrum, s=(height, width)), shape)


def _padded(shape: tuple[int, int]) -> tuple[int, int]:
    """A larger size that transforms quickly; noise repeats at its end, which the margin hides."""
    return tuple(int(np.ceil(1.2 * extent / 16)) * 16 for extent in shape)  # type: ignore[return-value]


def _standardised(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    field = field - field.mean()
    return (field[: shape[0], : shape[1]] / field.std()).astype(np.float32)
