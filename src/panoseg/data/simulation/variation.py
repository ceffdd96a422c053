"""What varies from pixel to pixel inside units: vigour, soil, growth stage, and light.

Shape suffixes: K fields, L lengths of shadows, U units, H W pixels, Y X cells.
"""

from __future__ import annotations

import numpy as np

from panoseg.data.simulation.landscape import CELLS, Landscape
from panoseg.data.simulation.materials import GRAPEVINE, ORCHARD, Material
from panoseg.data.simulation.noise import smooth_noise

VIGOUR = 2.2
"""Factor on leaf area between the mean of a parcel and its best or worst pixel."""
STAGE_DAYS = 5.0
"""Days between the mean of a parcel and its latest or earliest pixel."""
TALL = (Material.BROADLEAF, Material.CONIFER, Material.HEDGE, Material.ROOF_RED, Material.ROOF_GREY)
LONGEST_SHADE = 4
"""Pixels."""
_ROUGHNESS = {
    Material.BROADLEAF: 0.13,
    Material.CONIFER: 0.14,
    Material.HEDGE: 0.12,
    Material.SCRUB: 0.1,
    ORCHARD: 0.05,
    GRAPEVINE: 0.04,
}


def variation_fields(landscape: Landscape, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Variation over pixels, in the order of ``scene.effects_TUKC``: soil, more and less vigour, later and earlier; float32
    [5, H, W].

    Soil is relative, -0.5 to 0.5; the others go from 0 to 1, which is ``VIGOUR`` and ``STAGE_DAYS``.
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
    vigour_HW = patchy_U[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 14)) + grain_U[unit_HW] * grain_HW
    vigour_HW += stripes_HW - rng.uniform(0, 0.3, units)[unit_HW] * _headland(landscape.parcels_HW)
    soil_HW = rng.uniform(0.07, 0.2) * smooth_noise(rng, size, rng.uniform(6, 25)) + 0.04 * smooth_noise(rng, size, 3.0)
    soil_HW += 0.5 * stripes_HW + np.where(sealed_U, 0.12, 0.015)[unit_HW] * grain_HW
    stage_HW = rng.gamma(2, 1.1, units)[unit_HW] * smooth_noise(rng, size, rng.uniform(4, 12))
    vigour_HW, stage_HW = strength * vigour_HW / np.log(VIGOUR), strength * stage_HW / STAGE_DAYS
    ways = [part_HW.clip(0, 1) for part_HW in (vigour_HW, -vigour_HW, stage_HW, -stage_HW)]
    return np.stack([(strength * soil_HW).clip(-0.5, 0.5), *ways]).astype(np.float32)


def relief(landscape: Landscape, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness of each pixel that lasts all season: crowns, roofs, row directions, slopes; float32 [H, W], about 1."""
    unit_HW = landscape.units_YX[1::CELLS, 1::CELLS]
    rough_U = np.full(landscape.material_U.size, 0.01)
    for material, roughness in _ROUGHNESS.items():
        rough_U[landscape.material_U == material] = roughness
    size = unit_HW.shape
    relief_HW = rough_U[unit_HW] * smooth_noise(rng, size, 1.2) + 0.02 * smooth_noise(rng, size, rng.uniform(5, 40))
    return (1 + strength * relief_HW.clip(-0.4, 0.4)).astype(np.float32)


def shades(landscape: Landscape) -> np.ndarray:
    """Share of each pixel that tall things shade where their shadow is 0, 1, .. pixels long; float32 [lengths, H, W]."""
    tall_YX = np.isin(landscape.material_U, TALL)[landscape.units_YX]
    height, width = landscape.parcels_HW.shape
    shaded_YX, lengths = tall_YX.copy(), []
    for step in range(LONGEST_SHADE * CELLS + 1):
        up, left = round(0.9 * step), round(0.43 * step)
        shaded_YX[: tall_YX.shape[0] - up, : tall_YX.shape[1] - left] |= tall_YX[up:, left:]
        if step % CELLS == 0:
            share_HW = (shaded_YX & ~tall_YX).reshape(height, CELLS, width, CELLS).mean((1, 3), dtype=np.float32)
            lengths.append(share_HW)
    return np.stack(lengths)


def _stripes(angle_HW: np.ndarray, unit_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random stripes along the rows of each unit, a pixel or a few wide."""
    y_HW, x_HW = np.indices(angle_HW.shape)
    across_HW = y_HW * np.cos(angle_HW) - x_HW * np.sin(angle_HW) + 37.0 * unit_HW
    profile = np.convolve(rng.standard_normal(4099), [0.25, 0.5, 0.25], mode="same") * 1.6
    return profile[np.round(across_HW * 1.5).astype(np.int64) % profile.size]


def _headland(parcels_HW: np.ndarray) -> np.ndarray:
    """1 in pixels that touch another parcel or open land, 0 inside."""
    edge_HW = np.zeros(parcels_HW.shape, bool)
    down, right = parcels_HW[1:] != parcels_HW[:-1], parcels_HW[:, 1:] != parcels_HW[:, :-1]
    edge_HW[1:] |= down
    edge_HW[:-1] |= down
    edge_HW[:, 1:] |= right
    edge_HW[:, :-1] |= right
    return edge_HW & (parcels_HW > 0)
