"""Random fields over pixels: white noise filtered in the frequency domain."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def _frequencies(height: int, width: int) -> np.ndarray:
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    single: np.ndarray = frequencies.astype(np.float32)
    return single


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float) -> np.ndarray:
    """Draw Gaussian noise whose features are about ``length`` pixels wide.

    Returns:
        float32 of ``shape``, with zero mean and unit deviation over a slightly larger field.
    """
    height, width = _padded(shape)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    spectrum *= np.exp(-0.5 * (np.pi * length * _frequencies(height, width)) ** 2)
    return _standardised(np.fft.irfft2(spectrum, s=(height, width)), shape)


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], power: float, largest: float
) -> np.ndarray:
    """Draw noise with a power-law spectrum, as clouds have.

    Args:
        rng: The generator.
        shape: Height and width in pixels.
        power: Amplitude falls with frequency to this power.
        largest: Size of the largest features in pixels.

    Returns:
        float32 of ``shape``, with zero mean and unit deviation over a slightly larger field.
    """
    height, width = _padded(shape)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    spectrum /= (_frequencies(height, width) ** 2 + 1.0 / largest**2) ** (power / 2)
    return _standardised(np.fft.irfft2(spectrum, s=(height, width)), shape)


def _padded(shape: tuple[int, int]) -> tuple[int, int]:
    """Return a larger size that transforms quickly; its margin hides that the noise is periodic."""
    return tuple(int(np.ceil(1.2 * extent / 16)) * 16 for extent in shape)  # type: ignore[return-value]


def _standardised(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    field = field - field.mean()
    # Features much longer than a small field leave nothing of it.
    deviation = max(float(field.std()), 1e-12)
    standardised: np.ndarray = (field[: shape[0], : shape[1]] / deviation).astype(np.float32)
    return standardised
