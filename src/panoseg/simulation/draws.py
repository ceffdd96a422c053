"""What is drawn at random: the style of a season, and fields over pixels.

Options that are not given are off, or drawn within wide bounds. The bounds of the style "real" come
from what is published about Sentinel-2 and European farmland, rounded outwards; none is fitted to
an image. Fields are white noise filtered in the frequency domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from panoseg.simulation.options import (
    GrowthFeature,
    LandFeature,
    Region,
    SimulationOptions,
    WeatherFeature,
)

_PLAIN_REGISTRATION = 0.15
_RARE = {
    "second-crops": 0.2,
    "streams": 0.6,
    "pivots": 0.15,
    "solar-parks": 0.5,
    "greenhouses": 0.7,
}
"""Factor on the chance of what most countrysides lack."""


@dataclass(frozen=True)
class Style:
    """What one season is like; the options that these come from have the same names."""

    real: bool
    """Whether the land is that of the style real."""
    fields_share: float
    """Share of the land in fields, 0..1."""
    village_share: float
    """Share of the land in villages, 0..1."""
    median_field: float
    """Median area of a field, pixels."""
    land: frozenset[str]
    """What may lie in the land."""
    growth: frozenset[str]
    """What may vary between and inside fields."""
    weather: frozenset[str]
    """What may differ between dates."""
    unevenness: float
    """Mean deviation of log reflectance inside a field."""
    drawn: bool
    """Whether labels are as people draw them."""
    mislabelled: float
    """Share of fields with the class of another crop, 0..1."""
    unlabelled: float
    """Share of fields that nobody declared, 0..1."""
    registration: float
    """Standard deviation of the shift between dates, pixels."""
    far_shifts: float
    """Share of dates that are shifted by 1 to 1.5 pixels, 0..1."""
    band_shift: float
    """Standard deviation of the shift between 10 m and 20 m bands, pixels."""
    gain: float
    """Standard deviation of a factor on each band."""
    composites: str
    """``none``, ``median`` or ``best``."""
    land_cover: bool
    """Whether the land cover is written."""


def draw_style(options: SimulationOptions, region: Region, rng: np.random.Generator) -> Style:
    """Draw the style of one season."""
    real = options.style == "real"
    fields = float(rng.choice([rng.uniform(0.05, 0.95), 0.45 + 0.5 * rng.beta(2.2, 1.4)]))
    village = min(0.5 * rng.beta(0.9, 1.4) * (rng.random() < 0.8), 0.9 * (1 - fields))
    # Larger fields where the region has larger ones; 50 to 150 pixels for most.
    median = 95 * (region.field_ha[0] / 1.5) ** 0.4 * rng.lognormal(0, 0.3)
    drawn: dict[str, Any] = {
        "fields_share": fields,
        "village_share": village,
        "median_field": float(np.clip(median, 30, 400)) * options.field_size,
        "land": _some(rng, get_args(LandFeature), 0.65),
        "growth": _some(rng, get_args(GrowthFeature), 0.8),
        "weather": _some(rng, get_args(WeatherFeature), 0.5),
        "unevenness": rng.uniform(0.045, 0.095),
        "mislabelled": rng.uniform(0, 0.06),
        "unlabelled": 0.0 if options.labels != "declared" else rng.uniform(0, 0.06),
        "registration": rng.uniform(0.2, 0.45),
        "far_shifts": rng.uniform(0, 0.06),
        "band_shift": rng.uniform(0, 0.4),
        "gain": rng.uniform(0, 0.04),
        "composites": str(rng.choice(["none", "median", "best"], p=[0.88, 0.06, 0.06])),
        "land_cover": True,
    }
    off: dict[str, Any] = {
        "land": (),
        "growth": (),
        "weather": (),
        "registration": _PLAIN_REGISTRATION,
        "composites": "none",
        "land_cover": False,
    }
    values: dict[str, Any] = {}
    for name, value in drawn.items():
        given = getattr(options, name)
        values[name] = given if given is not None else value if real else off.get(name, 0.0)
    if options.fields_share is None and options.village_share is not None:
        values["fields_share"] = min(values["fields_share"], 1 - options.village_share)
    elif options.village_share is None:
        values["village_share"] = min(values["village_share"], 1 - values["fields_share"])
    for name in ("land", "growth", "weather"):
        values[name] = frozenset(values[name])
    return Style(real=real, drawn=options.labels != "declared", **values)


def _some(rng: np.random.Generator, names: tuple[str, ...], share: float) -> tuple[str, ...]:
    """Draw some of the names, more in some seasons than in others."""
    chance = rng.beta(4 * share, 4 * (1 - share))
    return tuple(name for name in names if rng.random() < chance * _RARE.get(name, 1.0))


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
