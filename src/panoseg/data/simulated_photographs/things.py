"""Things: where they are, and how they are painted.

Shape suffixes: H W pixels, 3 colours (0..1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoseg.data.simulated_photographs.classes import BALL, CRATE, KITE, LEAF, RING, STAR, THINGS
from panoseg.data.simulated_photographs.options import PhotographOptions
from panoseg.data.simulated_photographs.shapes import distance

_HUES = {BALL: 0.0, CRATE: 0.09, STAR: 0.15, LEAF: 0.36, RING: 0.9, KITE: 0.75}
_HUE_DEVIATION = 0.03
_LIGHT = (-0.5, -0.8)
"""Where the light comes from: from the left and above."""


@dataclass(frozen=True)
class Thing:
    """One object.

    x, y: of its centre, pixels. size: from its centre to its outline, pixels. turn: radians. hue: 0..1. phase: of its pattern,
    radians. crowd: whether it is one of a crowd.
    """

    class_id: int
    x: float
    y: float
    size: float
    turn: float
    hue: float
    phase: float
    crowd: bool = False


@dataclass(frozen=True)
class Cover:
    """What an object does to a picture. opacity_HW: 0..1, of its pixels; shade_HW: 0..1, of its shadow; colour_HW3: 0..1."""

    opacity_HW: np.ndarray
    shade_HW: np.ndarray
    colour_HW3: np.ndarray


def place_things(rng: np.random.Generator, size_HW: tuple[int, int], options: PhotographOptions) -> list[Thing]:
    """The objects of a picture, the farthest first; what lies farther down is nearer, so larger, and hides what is behind."""
    height, width = size_HW
    count = int(rng.integers(options.things[0], options.things[1] + 1))
    things = [
        _thing(rng, int(rng.choice(THINGS)), rng.uniform(0, width), rng.uniform(0.2, 0.95) * height) for _ in range(count)
    ]
    scaled = [_scaled(thing, size_HW, options.thing_size * rng.uniform(0.75, 1.3)) for thing in things]
    if rng.random() < options.crowds:
        scaled += _crowd(rng, size_HW, options)
    return sorted(scaled, key=lambda thing: thing.y)


def cover(thing: Thing, size_HW: tuple[int, int]) -> Cover:
    """What an object does to a picture of a size."""
    height, width = size_HW
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    u_HW, v_HW = _own_coordinates(thing, x_HW - thing.x, y_HW - thing.y)
    inside_HW = -distance(thing.class_id, u_HW, v_HW)
    opacity_HW = np.clip(0.5 + inside_HW * thing.size, 0, 1)
    return Cover(opacity_HW, _shadow(thing, x_HW, y_HW), _paint(thing, u_HW, v_HW, inside_HW))


def _thing(rng: np.random.Generator, class_id: int, x: float, y: float) -> Thing:
    hue = (_HUES[class_id] + _HUE_DEVIATION * rng.standard_normal()) % 1
    return Thing(class_id, x, y, 1.0, rng.uniform(-0.6, 0.6), hue, rng.uniform(0, 2 * np.pi))


def _scaled(thing: Thing, size_HW: tuple[int, int], factor: float, crowd: bool = False) -> Thing:
    size = factor * min(size_HW) * (0.06 + 0.11 * thing.y / size_HW[0])
    return Thing(thing.class_id, thing.x, thing.y, size, thing.turn, thing.hue, thing.phase, crowd)


def _crowd(rng: np.random.Generator, size_HW: tuple[int, int], options: PhotographOptions) -> list[Thing]:
    """Many small objects of one class, side by side."""
    height, width = size_HW
    class_id, count = int(rng.choice(THINGS)), int(rng.integers(14, 25))
    x, y = rng.uniform(0.25, 0.75) * width, rng.uniform(0.3, 0.7) * height
    places = zip(rng.normal(x, 0.12 * width, count), rng.normal(y, 0.05 * height, count), strict=True)
    return [_scaled(_thing(rng, class_id, *place), size_HW, 0.45 * options.thing_size, crowd=True) for place in places]


def _own_coordinates(thing: Thing, x_HW: np.ndarray, y_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(thing.turn) / thing.size, np.sin(thing.turn) / thing.size
    return x_HW * cosine + y_HW * sine, y_HW * cosine - x_HW * sine


def _shadow(thing: Thing, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """A soft ellipse on the ground, away from the light."""
    across_HW = (x_HW - thing.x + 0.4 * _LIGHT[0] * thing.size) / (1.15 * thing.size)
    down_HW = (y_HW - thing.y - 0.95 * thing.size) / (0.4 * thing.size)
    return 0.45 * np.clip(1.2 - np.hypot(across_HW, down_HW), 0, 1)


def _paint(thing: Thing, u_HW: np.ndarray, v_HW: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    """Pattern, light from one side, and a darker rim."""
    light_HW = np.clip(0.85 + 0.3 * (u_HW * _LIGHT[0] + v_HW * _LIGHT[1]), 0.45, 1.2)
    rim_HW = np.clip(0.7 + 3 * inside_HW, 0.7, 1)
    pattern_HW = _pattern(thing, u_HW, v_HW)
    one, other = _colour(thing.hue, 0.75, 0.95), _colour(thing.hue, 0.35, 1.0 if thing.class_id == BALL else 0.65)
    colour_HW3 = one + pattern_HW[..., None] * (other - one)
    colour_HW3 = colour_HW3 * (light_HW * rim_HW)[..., None]
    if thing.class_id == BALL:
        shine_HW = np.exp(-12 * ((u_HW + 0.35) ** 2 + (v_HW + 0.4) ** 2))
        colour_HW3 = colour_HW3 + 0.6 * shine_HW[..., None]
    return np.clip(colour_HW3, 0, 1)


def _pattern(thing: Thing, u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    """How much of its second colour an object has at each place: 0..1."""
    angle_HW = np.arctan2(v_HW, u_HW)
    if thing.class_id == BALL:
        return _smooth_step(np.sin(3 * angle_HW + thing.phase))
    if thing.class_id == CRATE:
        frame_HW = np.maximum(np.abs(u_HW), np.abs(v_HW)) > 0.62
        return np.where(frame_HW, 0.1, 0.25 + 0.75 * (np.abs((v_HW * 2.2 + 0.5) % 1 - 0.5) > 0.36))
    if thing.class_id == STAR:
        return np.clip(np.hypot(u_HW, v_HW) - 0.1, 0, 0.8)
    if thing.class_id == LEAF:
        veins_HW = np.abs((u_HW * 3 - np.abs(v_HW) * 2.5) % 1 - 0.5) < 0.12
        return np.where((np.abs(v_HW) < 0.05) | veins_HW, 1.0, 0.15)
    if thing.class_id == RING:
        return _smooth_step(np.sin(8 * angle_HW + thing.phase))
    quarters_HW = _smooth_step(6 * u_HW) + _smooth_step(6 * (v_HW + 0.3))  # a kite
    return np.abs(quarters_HW - 1)


def _smooth_step(values_HW: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 2 * values_HW, 0, 1)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Red, green and blue, 0..1."""
    wheel_3 = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(wheel_3, 0, 1)).astype(np.float32)
