"""How soil, vigour and stage vary inside fields and other land, as fields over pixels.

Shape suffixes: H W pixels, U units, K effects of variation.
"""

from __future__ import annotations

import numpy as np

from panoseg.simulation.draws import smooth_noise
from panoseg.simulation.landscape import CELLS, Landscape
from panoseg.simulation.options import MEADOW, Material

VIGOUR = 2.2
"""Factor on leaf area between the mean of a parcel and its best or worst pixel."""
STAGE_DAYS = 5.0
"""Days between the mean of a parcel and its latest or earliest pixel."""


def variation_fields(landscape: Landscape, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the variation over pixels.

    Args:
        landscape: The land.
        strength: Factor on the variation.
        rng: The generator.

    Returns:
        float32 5 x H x W, in the order of ``Scene.effects_TUKC``: soil (relative, -0.5..0.5), more
        and less vigour, later and earlier stage (0..1, where 1 is ``VIGOUR`` or ``STAGE_DAYS``).
    """
    size = landscape.parcels_HW.shape
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    units, material_U = landscape.material_U.size, landscape.material_U
    strength = strength * rng.lognormal(0.35, 0.45)
    crop_U, sealed_U = material_U < 100, material_U >= Material.ROOF_RED
    patchy_U = np.where(crop_U, rng.gamma(2.5, 0.11, units), 0.2)
    grain_U = np.where(crop_U, rng.gamma(2, 0.03, units), np.where(sealed_U, 0.05, 0.2))
    grain_HW = smooth_noise(rng, size, 1.2)
    striped_U = np.where(crop_U & (rng.random(units) < 0.6), rng.gamma(2, 0.045, units), 0.0)
    stripes_HW = striped_U[unit_HW] * _stripes(landscape.angle_U[unit_HW], unit_HW, rng)
    vigour_HW = (
        patchy_U[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 14))
        + grain_U[unit_HW] * grain_HW
    )
    vigour_HW += stripes_HW - rng.uniform(0, 0.3, units)[unit_HW] * _headland(landscape.parcels_HW)
    soil_HW = rng.uniform(0.07, 0.2) * smooth_noise(
        rng, size, rng.uniform(6, 25)
    ) + 0.04 * smooth_noise(rng, size, 3.0)
    soil_HW += 0.5 * stripes_HW + np.where(sealed_U, 0.12, 0.015)[unit_HW] * grain_HW
    stage_HW = rng.gamma(2, 1.1, units)[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 12))
    vigour_HW, stage_HW = strength * vigour_HW / np.log(VIGOUR), strength * stage_HW / STAGE_DAYS
    ways = [part_HW.clip(0, 1) for part_HW in (vigour_HW, -vigour_HW, stage_HW, -stage_HW)]
    return np.stack([(strength * soil_HW).clip(-0.5, 0.5), *ways]).astype(np.float32)


_FLOOR, _SLOPE = 0.025, 0.02
"""Deviation of log reflectance inside fields without variation, and what strength 1 adds to it;
measured on simulated composites.
"""
_SWING = 0.95
"""Deviation of the logarithm of how much variation shows from month to month."""
_SPECKLED = (Material.GRASS, Material.SCRUB, Material.GARDEN, Material.YARD, Material.GRAVEL)


def real_variation(
    landscape: Landscape, unevenness: float, growth: frozenset[str], rng: np.random.Generator
) -> np.ndarray:
    """Draw the variation over pixels in the style real; result as of ``variation_fields``.

    Args:
        landscape: The land.
        unevenness: Mean deviation of log reflectance inside a field.
        growth: Names of ``GrowthFeature``; wet spots, lodging, tramlines and old limits are here.
        rng: The generator.
    """
    size = landscape.parcels_HW.shape
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    material_U, units = landscape.material_U, landscape.material_U.size
    # The parts that a field is harvested in vary as one.
    _, first_U = np.unique(landscape.field_U, return_index=True)
    together_U = first_U[np.searchsorted(landscape.field_U[first_U], landscape.field_U)]

    def of_field(values_U: np.ndarray) -> np.ndarray:
        values_HW: np.ndarray = values_U[together_U][unit_HW]
        return values_HW

    crop_U = (material_U < 100) | (material_U == Material.FALLOW)
    own_U = rng.lognormal(0, 0.2, units)
    patchy_U = np.where(crop_U, rng.gamma(6, 0.04, units) * own_U, 0.15)
    # A pasture is as uneven as its herd makes it.
    patchy_U = np.where((material_U == MEADOW) & (rng.random(units) < 0.4), 0.32, patchy_U)
    grain_U = np.where(np.isin(material_U, _SPECKLED), 0.25, rng.gamma(4, 0.012, units) * own_U)
    grain_HW = smooth_noise(rng, size, 1.2)
    broad_HW = smooth_noise(rng, size, rng.uniform(6, 14))
    patches_HW = smooth_noise(rng, size, rng.uniform(2.5, 6))
    share_U = rng.random(units)
    vigour_HW = of_field(patchy_U * share_U) * broad_HW
    vigour_HW += of_field(patchy_U * (1 - share_U)) * patches_HW
    vigour_HW += grain_U[unit_HW] * grain_HW
    striped_U = np.where(crop_U & (rng.random(units) < 0.5), rng.gamma(2, 0.04, units), 0.0)
    stripes_HW = of_field(striped_U) * _stripes(
        of_field(landscape.angle_U), of_field(np.arange(units)), rng
    )
    vigour_HW += stripes_HW - of_field(rng.uniform(0, 0.25, units)) * _headland(
        landscape.parcels_HW
    )
    soil_HW = rng.uniform(0.02, 0.08) * broad_HW[::-1, ::-1] + 0.03 * patches_HW
    soil_HW += 0.4 * stripes_HW + 0.015 * grain_HW
    stage_HW = of_field(rng.gamma(2, 0.5, units)) * broad_HW[:, ::-1]
    stage_HW += of_field(rng.gamma(2, 0.2, units)) * patches_HW[::-1]
    if "tramlines" in growth:
        lines_HW = of_field(np.where(rng.random(units) < 0.5, rng.uniform(0.02, 0.16, units), 0))
        vigour_HW -= lines_HW * _tramlines(of_field(landscape.angle_U), rng)
    if "wet-spots" in growth:
        wet_HW = np.clip(smooth_noise(rng, size, rng.uniform(3, 8)) - rng.uniform(1.2, 2), 0, 1)
        vigour_HW -= 1.2 * wet_HW
        soil_HW -= 0.25 * wet_HW
    if "lodging" in growth:
        lying_HW = smooth_noise(rng, size, rng.uniform(2, 5)) - rng.uniform(1.2, 2.1)
        lying_HW = (1.5 * lying_HW).clip(0, 1)
        stage_HW -= 5 * lying_HW * of_field(rng.random(units) < 0.2)
    if "old-limits" in growth:
        old_HW = _old_limits(size, rng)
        vigour_HW += of_field(rng.gamma(1.5, 0.05, units)) * old_HW
        soil_HW += rng.uniform(0.01, 0.05) * old_HW
    strength = max(unevenness - _FLOOR, 0.0) / _SLOPE
    vigour_HW, stage_HW = strength * vigour_HW / np.log(VIGOUR), strength * stage_HW / STAGE_DAYS
    ways = [part_HW.clip(0, 1) for part_HW in (vigour_HW, -vigour_HW, stage_HW, -stage_HW)]
    return np.stack([(strength * soil_HW).clip(-0.5, 0.5), *ways]).astype(np.float32)


def emphasis(field_U: np.ndarray, days_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw how much each effect of variation shows on each date: fields are even at times.

    A field is most uneven while it emerges, ripens or dries, and hardly so in full growth; on a
    series of one parcel the deviation inside varies by a factor of about six.

    Args:
        field_U: Number of the part that is tilled as one, of each unit.
        days_T: Day of each date.
        rng: The generator.

    Returns:
        float32 T x U x 5, factors of about 1, in the order of the effects.
    """
    knots = np.arange(-30, 470, 28)
    _, at_U = np.unique(field_U, return_inverse=True)
    swing = np.array([0.5, 1.0, 1.0]) * _SWING  # soil varies less
    drawn = np.exp(swing * rng.standard_normal((knots.size, at_U.max() + 1, 3)) - 0.4 * swing**2)
    drawn = drawn.clip(0.1, 1.8)  # beyond it an effect would overshoot
    place_T = (days_T - knots[0]) / 28
    first_T = place_T.astype(int).clip(0, knots.size - 2)
    part_T = (place_T - first_T)[:, None, None]
    between = (1 - part_T) * drawn[first_T] + part_T * drawn[first_T + 1]
    factors: np.ndarray = between[:, at_U][:, :, [0, 1, 1, 2, 2]].astype(np.float32)
    return factors


def _tramlines(angle_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the share of each pixel in wheel tracks, which repeat every 18 to 36 metres."""
    y_HW, x_HW = np.indices(angle_HW.shape)
    across_HW = y_HW * np.cos(angle_HW) - x_HW * np.sin(angle_HW)
    period = rng.choice([1.8, 2.1, 2.4, 2.7, 3.0, 3.6])
    share_HW: np.ndarray = 0.5 + 0.5 * np.cos(2 * np.pi * across_HW / period)
    return share_HW**3


def _old_limits(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return steps of unit deviation along the limits that fields once had."""
    y_HW, x_HW = np.indices(size, np.float32)
    turn = rng.uniform(0, np.pi)
    u_HW = x_HW * np.cos(turn) + y_HW * np.sin(turn)
    v_HW = y_HW * np.cos(turn) - x_HW * np.sin(turn)
    wide, deep = rng.uniform(5, 25, 2)
    table = rng.standard_normal((64, 64))
    steps_HW: np.ndarray = table[
        np.floor(u_HW / wide).astype(int) % 64, np.floor(v_HW / deep).astype(int) % 64
    ]
    return steps_HW


def _stripes(angle_HW: np.ndarray, unit_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw stripes along the rows of each unit, one to a few pixels wide."""
    y_HW, x_HW = np.indices(angle_HW.shape)
    across_HW = y_HW * np.cos(angle_HW) - x_HW * np.sin(angle_HW) + 37.0 * unit_HW
    profile = np.convolve(rng.standard_normal(4099), [0.25, 0.5, 0.25], mode="same") * 1.6
    stripes_HW: np.ndarray = profile[np.round(across_HW * 1.5).astype(np.int64) % profile.size]
    return stripes_HW


def _headland(parcels_HW: np.ndarray) -> np.ndarray:
    """Find the pixels of parcels that touch another parcel or open land."""
    edge_HW = np.zeros(parcels_HW.shape, bool)
    down, right = parcels_HW[1:] != parcels_HW[:-1], parcels_HW[:, 1:] != parcels_HW[:, :-1]
    edge_HW[1:] |= down
    edge_HW[:-1] |= down
    edge_HW[:, 1:] |= right
    edge_HW[:, :-1] |= right
    return edge_HW & (parcels_HW > 0)
