"""Stuff: which region of a picture is of which class, and its texture.

Shape suffixes: H W pixels, 3 colours (0..1).
"""

from __future__ import annotations

import numpy as np

from panoseg.data.simulated_photographs.classes import BRICKS, GRASS, SKY, WATER
from panoseg.data.simulation.noise import fractal_noise, smooth_noise

_BACKGROUNDS, _GROUNDS = (SKY, SKY, BRICKS), (GRASS, WATER, BRICKS)


def draw_regions(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    """Class of each pixel: a background above a wavy horizon, a ground below, often a patch of another ground. int64, H x W."""
    height, width = size_HW
    background = int(rng.choice(_BACKGROUNDS))
    ground, other = (int(class_id) for class_id in rng.permutation([entry for entry in _GROUNDS if entry != background])[:2])
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32)
    waves_W = smooth_noise(rng, (16, width), 0.3 * width)[0]
    horizon_W = height * (rng.uniform(0.2, 0.55) + 0.04 * waves_W + rng.uniform(-0.08, 0.08) * (x_HW[0] / width - 0.5))
    classes_HW = np.where(y_HW < horizon_W, background, ground)
    if rng.random() < 0.7:
        x, y = rng.uniform(0, width), rng.uniform(0.6, 1.0) * height
        across, down = rng.uniform(0.25, 0.5) * width, rng.uniform(0.12, 0.3) * height
        distance_HW = np.hypot((x_HW - x) / across, (y_HW - y) / down) + 0.12 * smooth_noise(rng, size_HW, 0.25 * width)
        classes_HW[(distance_HW < 1) & (classes_HW == ground)] = other
    return classes_HW


def paint_regions(rng: np.random.Generator, classes_HW: np.ndarray) -> np.ndarray:
    """The picture of the regions: float32, H x W x 3, 0..1; nothing of one class is painted on another."""
    height, width = classes_HW.shape
    colour_HW3 = np.zeros((height, width, 3), np.float32)
    for class_id in np.unique(classes_HW):
        painted_HW3 = _PAINTERS[int(class_id)](rng, (height, width))
        colour_HW3 = np.where((classes_HW == class_id)[..., None], painted_HW3, colour_HW3)
    return np.clip(colour_HW3, 0, 1).astype(np.float32)


def _sky(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    height, width = size_HW
    zenith, horizon = np.array([0.22, 0.45, 0.85]), np.array([0.72, 0.85, 0.97])
    down_HW1 = np.linspace(0, 1.6, height)[:, None, None].clip(max=1)
    clear_HW3 = zenith + down_HW1 * (horizon - zenith)
    clouds_HW = np.clip(0.9 * fractal_noise(rng, size_HW, 1.6, width) - rng.uniform(-0.2, 1.0), 0, 1)
    return clear_HW3 + clouds_HW[..., None] * (np.array([0.97, 0.97, 0.98]) - clear_HW3)


def _grass(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    blades_HW = 0.6 * smooth_noise(rng, size_HW, 1.5) + 0.6 * smooth_noise(rng, size_HW, 0.1 * size_HW[1])
    one, other = np.array([0.20, 0.42, 0.10]), np.array([0.48, 0.62, 0.22])
    return one + np.clip(0.5 + 0.4 * blades_HW, 0, 1)[..., None] * (other - one)


def _water(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    y_HW = np.mgrid[: size_HW[0], : size_HW[1]][0] * (128 / size_HW[0])
    swell_HW = smooth_noise(rng, size_HW, 0.15 * size_HW[1])
    ripples_HW = np.sin(0.9 * y_HW + 2.5 * swell_HW) * (0.5 + 0.5 * smooth_noise(rng, size_HW, 0.08 * size_HW[1]))
    one, other = np.array([0.05, 0.28, 0.38]), np.array([0.35, 0.62, 0.68])
    return one + np.clip(0.4 + 0.3 * ripples_HW, 0, 1)[..., None] * (other - one)


def _bricks(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    """Courses of bricks, every other shifted by half of one, mortar between them, each brick of its own shade."""
    height, width = size_HW
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32)
    brick = rng.uniform(0.055, 0.085) * width
    course_HW = np.floor(y_HW / (brick / 2))
    along_HW = x_HW / brick + 0.5 * (course_HW % 2)
    column_HW = np.floor(along_HW)
    joint = 0.9 / brick
    is_mortar_HW = (along_HW - column_HW < joint) | (y_HW / (brick / 2) - course_HW < 2 * joint)
    shade_table = rng.standard_normal((64, 64))
    shade_HW = shade_table[course_HW.astype(int) % 64, column_HW.astype(int) % 64] + 0.4 * smooth_noise(rng, size_HW, 2)
    brick_HW3 = np.array([0.58, 0.27, 0.20]) * (1 + 0.13 * shade_HW[..., None])
    return np.where(is_mortar_HW[..., None], np.array([0.70, 0.67, 0.62]), brick_HW3)


_PAINTERS = {SKY: _sky, GRASS: _grass, WATER: _water, BRICKS: _bricks}
