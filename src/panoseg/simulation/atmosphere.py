"""The weather of each date: haze, cirrus, clouds with their shadows, and snow.

The truth of each pixel is one of ``CLEAR``, ``CLOUD``, ``SHADOW``, ``CIRRUS``, ``SNOW`` and
``MISSING``, where a swath ends.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoseg.simulation.noise import fractal_noise
from panoseg.simulation.options import SimulationOptions

CLEAR, CLOUD, SHADOW, CIRRUS, SNOW, MISSING = range(6)
_CLOUD_SPECTRUM = np.array([0.96, 0.94, 0.97, 1.0, 1.05, 1.1, 1.1, 1.13, 0.0, 0.0], np.float32)
_CLOUD_SHORTWAVE = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1.0, 0.78], np.float32)
_CIRRUS_SPECTRUM = np.array([1.0, 0.95, 0.92, 0.9, 0.85, 0.8, 0.78, 0.75, 0.4, 0.25], np.float32)
_SNOW_SPECTRUM = np.array([8200, 8300, 8200, 8100, 7900, 7700, 7500, 7300, 900, 700], np.float32)
_HAZE_SPECTRUM = np.array([1.0, 0.75, 0.6, 0.5, 0.42, 0.36, 0.32, 0.3, 0.12, 0.08], np.float32)
_SHADOW_DEPTH = np.array([0.5, 0.55, 0.6, 0.62, 0.66, 0.68, 0.69, 0.7, 0.74, 0.76], np.float32)


@dataclass(frozen=True)
class Sky:
    """The weather of one date."""

    cover: float
    """Share of sky under cloud, 0..1."""
    cirrus: float
    """Brightness of thin cloud, reflectance x 10 000."""
    haze: float
    """Path radiance in blue, reflectance x 10 000."""
    snow: float
    """Share of open ground under snow, 0..1."""


def draw_skies(
    days_T: np.ndarray, options: SimulationOptions, rng: np.random.Generator
) -> list[Sky]:
    """Draw the weather of each date.

    A season has its own share of cloudy dates, with more of them in winter.
    """
    low, high = options.cloudy
    cloudy = low + (high - low) * rng.beta(1.0, 1.9)
    winter_T = np.exp(-0.5 * ((days_T - 130) / 55.0) ** 2)
    chance_T = cloudy * (0.75 + 0.7 * winter_T)
    snowy = rng.random() < options.snow
    storm = rng.uniform(95, 175)
    skies = []
    for day, chance in zip(days_T, chance_T, strict=True):
        affected = rng.random() < chance
        kind = rng.choice(3, p=[0.35, 0.42, 0.23])
        cover = cirrus = 0.0
        if affected:
            cover = 1.0 if kind == 0 else rng.beta(0.9, 1.4) if kind == 1 else 0.0
            cirrus = rng.uniform(250, 1800) if kind == 2 else rng.uniform(0, 350)
        haze = options.noise * rng.normal(0, 45)
        haze += (rng.random() < 0.12) * min(options.noise, 1) * rng.gamma(2.0, 90)
        lying = snowy and 0 <= day - storm < rng.uniform(4, 16)
        snow = rng.uniform(0.3, 1.0) if lying else 0.0
        skies.append(Sky(float(cover), float(cirrus), float(haze), float(snow)))
    return skies


def apply_sky(
    image_CHW: np.ndarray, sky: Sky, day: float, snowless_HW: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Change a clear image in place as the sky does.

    Args:
        image_CHW: float32, reflectance x 10 000.
        sky: The weather.
        day: Day since 1 September, for the length of shadows.
        snowless_HW: Share of each pixel where snow does not stay, 0..1.
        rng: Draws where clouds and snow lie.

    Returns:
        uint8 H x W, the truth of each pixel.
    """
    truth_HW = np.zeros(image_CHW.shape[1:], np.uint8)
    if sky.snow:
        _snow(image_CHW, truth_HW, sky.snow, snowless_HW, rng)
    image_CHW += (sky.haze * _HAZE_SPECTRUM)[:, None, None]
    if sky.cirrus:
        _cirrus(image_CHW, truth_HW, sky.cirrus, rng)
    if sky.cover:
        _clouds(image_CHW, truth_HW, sky.cover, day, rng)
    return truth_HW


def _snow(
    image_CHW: np.ndarray,
    truth_HW: np.ndarray,
    share: float,
    snowless_HW: np.ndarray,
    rng: np.random.Generator,
) -> None:
    patches_HW = fractal_noise(rng, truth_HW.shape, 1.6, 60)
    lying_HW = _soft_step(patches_HW + 4 * share - 1.6, 1.0) * (1 - 0.75 * snowless_HW)
    image_CHW += lying_HW * (_SNOW_SPECTRUM[:, None, None] * rng.uniform(0.8, 1.05) - image_CHW)
    truth_HW[lying_HW > 0.4] = SNOW


def _cirrus(
    image_CHW: np.ndarray, truth_HW: np.ndarray, strength: float, rng: np.random.Generator
) -> None:
    streaks_HW = np.clip(0.6 + 0.5 * fractal_noise(rng, truth_HW.shape, 1.9, 150), 0, None)
    image_CHW *= 1 - 0.06 * np.minimum(streaks_HW * strength / 1000, 3)
    image_CHW += (strength * _CIRRUS_SPECTRUM)[:, None, None] * streaks_HW
    truth_HW[streaks_HW * strength > 350] = CIRRUS


def _clouds(
    image_CHW: np.ndarray, truth_HW: np.ndarray, cover: float, day: float, rng: np.random.Generator
) -> None:
    """Add fractal clouds of a given cover, and their shadows to the north-west.

    Shadows are longer under a low sun.
    """
    reach = 40
    height, width = truth_HW.shape
    field = fractal_noise(
        rng, (height + reach, width + reach), rng.uniform(1.7, 2.3), rng.uniform(40, 300)
    )
    whole = cover >= 1
    edge = -9.0 if whole else float(np.quantile(field, 1 - cover))
    optical = _soft_step(field - edge, rng.uniform(0.15, 0.9))
    length = rng.uniform(6, 16) / np.tan(np.radians(sun_elevation(day)))
    down, right = int(np.clip(0.85 * length, 2, reach)), int(np.clip(0.5 * length, 1, reach))
    cloud_HW = optical[:height, :width]
    shadow_HW = optical[down : down + height, right : right + width]
    depth = rng.uniform(0.55, 1.0)
    image_CHW *= 1 - depth * _SHADOW_DEPTH[:, None, None] * shadow_HW
    thick_HW = field[:height, :width]
    texture_HW = 1 + 0.16 * thick_HW if whole else 0.75 + 0.12 * np.clip(thick_HW - edge, 0, 3)
    # Ice absorbs in the short-wave infrared, droplets hardly do.
    spectrum = _CLOUD_SPECTRUM + rng.uniform(0.3, 1.3) * _CLOUD_SHORTWAVE
    white_CHW = (rng.uniform(4200, 9500) * spectrum)[:, None, None] * texture_HW
    image_CHW += cloud_HW * (white_CHW - image_CHW)
    truth_HW[shadow_HW > 0.3] = SHADOW
    truth_HW[cloud_HW > 0.1] = CLOUD


def apply_steps(
    image_CHW: np.ndarray,
    truth_HW: np.ndarray,
    weather: frozenset[str],
    rng: np.random.Generator,
) -> None:
    """Change an image in place by what masks of clouds do not tell, and cut it at a swath's edge.

    Args:
        image_CHW: float32, reflectance x 10 000.
        truth_HW: The truth of each pixel; only the land beyond a swath's edge is marked.
        weather: Names of ``WeatherFeature``.
        rng: The generator.
    """
    height, width = truth_HW.shape
    if "haze-steps" in weather and rng.random() < 0.2:
        # Atmospheric correction goes by coarse cells: haze rises or steps across the land.
        ramp_HW = _across(truth_HW.shape, rng)
        if rng.random() < 0.4:
            ramp_HW = (ramp_HW > rng.uniform(0.3, 0.7)).astype(np.float32)
        image_CHW += ((rng.normal(0, 90) * _HAZE_SPECTRUM)[:, None, None]) * ramp_HW
        image_CHW *= 1 + np.float32(rng.normal(0, 0.03)) * ramp_HW
    if "residual-clouds" in weather and rng.random() < 0.12:
        field_HW = fractal_noise(rng, (height, width), 2.0, rng.uniform(15, 60))
        edge_HW = _soft_step(field_HW - rng.uniform(0.8, 2.2), 0.8) * (truth_HW == CLEAR)
        if rng.random() < 0.5:
            image_CHW *= 1 - rng.uniform(0.2, 0.6) * _SHADOW_DEPTH[:, None, None] * edge_HW
        else:
            image_CHW += (rng.uniform(200, 1500) * _CIRRUS_SPECTRUM)[:, None, None] * edge_HW
    if "swath-edges" in weather and rng.random() < 0.05:
        truth_HW[_across(truth_HW.shape, rng) > rng.uniform(0.05, 0.95)] = MISSING


def _across(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a plane from 0 to 1 that rises in a direction drawn at random, float32 H x W."""
    turn = rng.uniform(0, 2 * np.pi)
    y_HW, x_HW = np.indices(shape, np.float32)
    plane_HW = x_HW * np.cos(turn) + y_HW * np.sin(turn)
    rising_HW: np.ndarray = (plane_HW - plane_HW.min()) / max(float(np.ptp(plane_HW)), 1.0)
    return rising_HW.astype(np.float32)


def _soft_step(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 below ``-width``, 1 above ``width``, and a smooth step between.

    A cloud with a wide soft edge would hide its own shadow.
    """
    share = np.clip(values / (2 * width) + 0.5, 0, 1)
    return share * share * (3 - 2 * share)


def sun_elevation(day: float, latitude: float = 48.0) -> float:
    """Return the elevation of the sun when the satellite passes, about 10:30 solar time.

    Args:
        day: Day since 1 September.
        latitude: Degrees north.

    Returns:
        Degrees above the horizon.
    """
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 254) / 365.25))
    latitude, hour = np.radians(latitude), np.radians(-22.0)
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(
        hour
    )
    return float(np.degrees(np.arcsin(sine)))
