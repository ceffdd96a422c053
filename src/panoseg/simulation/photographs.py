"""Simulate photographs: things in front of stuff, with panoptic truth in COCO's form.

Shape suffixes: H W pixels, 3 red, green and blue. u and v are coordinates of a thing, right and
down, in units of its size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from panoseg.errors import ConfigError
from panoseg.panoptic import Panoptic
from panoseg.simulation.draws import fractal_noise, smooth_noise
from panoseg.simulation.options import (
    BALL,
    BRICKS,
    CRATE,
    GRASS,
    KITE,
    LEAF,
    RING,
    SIMULATED_PHOTOGRAPHS,
    SKY,
    STAR,
    THINGS,
    WATER,
    PhotographOptions,
)

_POINTS = 5  # of a star
_HUES = {BALL: 0.0, CRATE: 0.09, STAR: 0.15, LEAF: 0.36, RING: 0.9, KITE: 0.75}
_HUE_DEVIATION = 0.03
_LIGHT = (-0.5, -0.8)
"""Direction of the light, right and down: it comes from the left and above."""
_BACKGROUNDS, _GROUNDS = (SKY, SKY, BRICKS), (GRASS, WATER, BRICKS)
_LEAST_PIXELS = 12
"""Objects of which fewer pixels are visible are not annotated."""
_SIDES = (16, 4096)
"""Smallest and largest side of a photograph in pixels."""


def distance(class_id: int, u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    """Return the signed distance from the outline of a thing, in units of its size.

    It is negative inside, and exact near the outline only.

    >>> distance(BALL, np.array([[0.0, 1.0, 3.0]]), np.zeros((1, 3)))
    array([[-1.,  0.,  2.]])
    """
    return _SHAPES[class_id](u_HW, v_HW)


def _ball(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    distance_HW: np.ndarray = np.hypot(u_HW, v_HW) - 1
    return distance_HW


def _crate(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    distance_HW: np.ndarray = np.maximum(np.abs(u_HW), np.abs(v_HW)) - 0.85
    return distance_HW


def _star(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    # The distance from the line between a point and the notch next to it; all points are folded
    # onto one.
    point_HW = (np.arctan2(u_HW, -v_HW) * _POINTS / (2 * np.pi) + 0.5) % 1 - 0.5
    angle_HW = np.abs(point_HW) * 2 * np.pi / _POINTS
    radius_HW = np.hypot(u_HW, v_HW)
    across_HW, along_HW = radius_HW * np.sin(angle_HW), radius_HW * np.cos(angle_HW)
    point = np.array([0.0, 1.15])
    notch = 0.55 * np.array([np.sin(np.pi / _POINTS), np.cos(np.pi / _POINTS)])
    edge = (notch - point) / np.hypot(*(notch - point))
    distance_HW: np.ndarray = (along_HW - point[1]) * edge[0] - (across_HW - point[0]) * edge[1]
    return distance_HW


def _leaf(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    # The intersection of two circles.
    upper_HW, lower_HW = np.hypot(u_HW, v_HW + 1.0), np.hypot(u_HW, v_HW - 1.0)
    distance_HW: np.ndarray = np.maximum(upper_HW, lower_HW) - 1.55
    return distance_HW


def _ring(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    distance_HW: np.ndarray = np.abs(np.hypot(u_HW, v_HW) - 0.78) - 0.27
    return distance_HW


def _kite(u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    down_HW = np.where(v_HW < -0.3, (-0.3 - v_HW) / 0.7, (v_HW + 0.3) / 1.5)
    distance_HW: np.ndarray = (np.abs(u_HW) / 0.75 + down_HW - 1) * 0.55
    return distance_HW


_SHAPES = {BALL: _ball, CRATE: _crate, STAR: _star, LEAF: _leaf, RING: _ring, KITE: _kite}


@dataclass(frozen=True)
class Thing:
    """One object."""

    class_id: int
    """Its class."""
    x: float
    """Column of its centre, pixels."""
    y: float
    """Row of its centre, pixels."""
    size: float
    """Distance from its centre to its outline, pixels."""
    turn: float
    """Rotation, radians."""
    hue: float
    """Hue of its colours, 0..1."""
    phase: float
    """Phase of its pattern, radians."""
    crowd: bool = False
    """Whether it is a member of a crowd."""


@dataclass(frozen=True)
class Cover:
    """An object as it is drawn into an image."""

    opacity_HW: np.ndarray
    """Share of each pixel that it covers, 0..1."""
    shade_HW: np.ndarray
    """Share of the light that its shadow takes away, 0..1."""
    colour_HW3: np.ndarray
    """Its colour, 0..1."""


def place_things(
    rng: np.random.Generator, size_HW: tuple[int, int], options: PhotographOptions
) -> list[Thing]:
    """Draw the objects of an image, the farthest first.

    Objects farther down are nearer, so they are larger and hide those behind.
    """
    height, width = size_HW
    count = int(rng.integers(options.things[0], options.things[1] + 1))
    things = [
        _thing(rng, int(rng.choice(THINGS)), rng.uniform(0, width), rng.uniform(0.2, 0.95) * height)
        for _ in range(count)
    ]
    scaled = [
        _scaled(thing, size_HW, options.thing_size * rng.uniform(0.75, 1.3)) for thing in things
    ]
    if rng.random() < options.crowds:
        scaled += _crowd(rng, size_HW, options)
    return sorted(scaled, key=lambda thing: thing.y)


def cover(thing: Thing, size_HW: tuple[int, int]) -> Cover:
    """Draw an object for an image of a size."""
    height, width = size_HW
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    cosine, sine = np.cos(thing.turn) / thing.size, np.sin(thing.turn) / thing.size
    right_HW, down_HW = x_HW - thing.x, y_HW - thing.y
    u_HW, v_HW = right_HW * cosine + down_HW * sine, down_HW * cosine - right_HW * sine
    inside_HW = -distance(thing.class_id, u_HW, v_HW)
    opacity_HW = np.clip(0.5 + inside_HW * thing.size, 0, 1)
    return Cover(opacity_HW, _shadow(thing, x_HW, y_HW), _paint(thing, u_HW, v_HW, inside_HW))


def _thing(rng: np.random.Generator, class_id: int, x: float, y: float) -> Thing:
    """Draw an object of size 1."""
    hue = (_HUES[class_id] + _HUE_DEVIATION * rng.standard_normal()) % 1
    return Thing(class_id, x, y, 1.0, rng.uniform(-0.6, 0.6), hue, rng.uniform(0, 2 * np.pi))


def _scaled(thing: Thing, size_HW: tuple[int, int], factor: float, crowd: bool = False) -> Thing:
    """Return the object in a size that follows from its place in the image."""
    size = factor * min(size_HW) * (0.06 + 0.11 * thing.y / size_HW[0])
    return replace(thing, size=size, crowd=crowd)


def _crowd(
    rng: np.random.Generator, size_HW: tuple[int, int], options: PhotographOptions
) -> list[Thing]:
    """Draw many small objects of one class, side by side."""
    height, width = size_HW
    class_id, count = int(rng.choice(THINGS)), int(rng.integers(14, 25))
    x, y = rng.uniform(0.25, 0.75) * width, rng.uniform(0.3, 0.7) * height
    places = zip(
        rng.normal(x, 0.12 * width, count), rng.normal(y, 0.05 * height, count), strict=True
    )
    return [
        _scaled(_thing(rng, class_id, *place), size_HW, 0.45 * options.thing_size, crowd=True)
        for place in places
    ]


def _shadow(thing: Thing, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """Draw a soft ellipse on the ground, away from the light."""
    across_HW = (x_HW - thing.x + 0.4 * _LIGHT[0] * thing.size) / (1.15 * thing.size)
    down_HW = (y_HW - thing.y - 0.95 * thing.size) / (0.4 * thing.size)
    shade_HW: np.ndarray = 0.45 * np.clip(1.2 - np.hypot(across_HW, down_HW), 0, 1)
    return shade_HW


def _paint(thing: Thing, u_HW: np.ndarray, v_HW: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    """Draw pattern, light from one side, and a darker rim."""
    light_HW = np.clip(0.85 + 0.3 * (u_HW * _LIGHT[0] + v_HW * _LIGHT[1]), 0.45, 1.2)
    rim_HW = np.clip(0.7 + 3 * inside_HW, 0.7, 1)
    pattern_HW = _pattern(thing, u_HW, v_HW)
    one = _colour(thing.hue, 0.75, 0.95)
    other = _colour(thing.hue, 0.35, 1.0 if thing.class_id == BALL else 0.65)
    colour_HW3 = one + pattern_HW[..., None] * (other - one)
    colour_HW3 = colour_HW3 * (light_HW * rim_HW)[..., None]
    if thing.class_id == BALL:
        shine_HW = np.exp(-12 * ((u_HW + 0.35) ** 2 + (v_HW + 0.4) ** 2))
        colour_HW3 = colour_HW3 + 0.6 * shine_HW[..., None]
    painted_HW3: np.ndarray = np.clip(colour_HW3, 0, 1)
    return painted_HW3


def _pattern(thing: Thing, u_HW: np.ndarray, v_HW: np.ndarray) -> np.ndarray:
    """Return the share of its second colour at each place of an object, 0..1."""
    angle_HW = np.arctan2(v_HW, u_HW)
    if thing.class_id == BALL:
        return _smooth_step(np.sin(3 * angle_HW + thing.phase))
    if thing.class_id == CRATE:
        frame_HW = np.maximum(np.abs(u_HW), np.abs(v_HW)) > 0.62
        return np.where(frame_HW, 0.1, 0.25 + 0.75 * (np.abs((v_HW * 2.2 + 0.5) % 1 - 0.5) > 0.36))
    if thing.class_id == STAR:
        glow_HW: np.ndarray = np.clip(np.hypot(u_HW, v_HW) - 0.1, 0, 0.8)
        return glow_HW
    if thing.class_id == LEAF:
        veins_HW = np.abs((u_HW * 3 - np.abs(v_HW) * 2.5) % 1 - 0.5) < 0.12
        return np.where((np.abs(v_HW) < 0.05) | veins_HW, 1.0, 0.15)
    if thing.class_id == RING:
        return _smooth_step(np.sin(8 * angle_HW + thing.phase))
    quarters_HW = _smooth_step(6 * u_HW) + _smooth_step(6 * (v_HW + 0.3))  # a kite
    kite_HW: np.ndarray = np.abs(quarters_HW - 1)
    return kite_HW


def _smooth_step(values_HW: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 2 * values_HW, 0, 1)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert hue, saturation and value, 0..1, to red, green and blue, 0..1."""
    wheel_3 = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    colour_3 = (1 - saturation + saturation * np.clip(wheel_3, 0, 1)).astype(np.float32)
    scaled_3: np.ndarray = value * colour_3
    return scaled_3


def draw_regions(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    """Draw the class of each pixel, int64.

    A background lies above a wavy horizon, a ground below, often with a patch of another ground.
    """
    height, width = size_HW
    background = int(rng.choice(_BACKGROUNDS))
    ground, other = (
        int(class_id)
        for class_id in rng.permutation([entry for entry in _GROUNDS if entry != background])[:2]
    )
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32)
    waves_W = smooth_noise(rng, (16, width), 0.3 * width)[0]
    horizon_W = height * (
        rng.uniform(0.2, 0.55) + 0.04 * waves_W + rng.uniform(-0.08, 0.08) * (x_HW[0] / width - 0.5)
    )
    classes_HW = np.where(y_HW < horizon_W, background, ground)
    if rng.random() < 0.7:
        x, y = rng.uniform(0, width), rng.uniform(0.6, 1.0) * height
        across, down = rng.uniform(0.25, 0.5) * width, rng.uniform(0.12, 0.3) * height
        distance_HW = np.hypot((x_HW - x) / across, (y_HW - y) / down) + 0.12 * smooth_noise(
            rng, size_HW, 0.25 * width
        )
        classes_HW[(distance_HW < 1) & (classes_HW == ground)] = other
    return classes_HW


def paint_regions(rng: np.random.Generator, classes_HW: np.ndarray) -> np.ndarray:
    """Draw the regions in their colours: float32, H x W x 3, 0..1."""
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
    clouds_HW = np.clip(
        0.9 * fractal_noise(rng, size_HW, 1.6, width) - rng.uniform(-0.2, 1.0), 0, 1
    )
    white_3 = np.array([0.97, 0.97, 0.98])
    sky_HW3: np.ndarray = clear_HW3 + clouds_HW[..., None] * (white_3 - clear_HW3)
    return sky_HW3


def _grass(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    blades_HW = 0.6 * smooth_noise(rng, size_HW, 1.5) + 0.6 * smooth_noise(
        rng, size_HW, 0.1 * size_HW[1]
    )
    one, other = np.array([0.20, 0.42, 0.10]), np.array([0.48, 0.62, 0.22])
    share_HW: np.ndarray = np.clip(0.5 + 0.4 * blades_HW, 0, 1)
    colour_HW3: np.ndarray = one + share_HW[..., None] * (other - one)
    return colour_HW3


def _water(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    y_HW = np.mgrid[: size_HW[0], : size_HW[1]][0] * (128 / size_HW[0])
    swell_HW = smooth_noise(rng, size_HW, 0.15 * size_HW[1])
    ripples_HW = np.sin(0.9 * y_HW + 2.5 * swell_HW) * (
        0.5 + 0.5 * smooth_noise(rng, size_HW, 0.08 * size_HW[1])
    )
    one, other = np.array([0.05, 0.28, 0.38]), np.array([0.35, 0.62, 0.68])
    share_HW: np.ndarray = np.clip(0.4 + 0.3 * ripples_HW, 0, 1)
    colour_HW3: np.ndarray = one + share_HW[..., None] * (other - one)
    return colour_HW3


def _bricks(rng: np.random.Generator, size_HW: tuple[int, int]) -> np.ndarray:
    """Draw rows of bricks, every other shifted by half a brick, with mortar between them."""
    height, width = size_HW
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32)
    brick = rng.uniform(0.055, 0.085) * width
    row_HW = np.floor(y_HW / (brick / 2))
    along_HW = x_HW / brick + 0.5 * (row_HW % 2)
    column_HW = np.floor(along_HW)
    joint = 0.9 / brick
    is_mortar_HW = (along_HW - column_HW < joint) | (y_HW / (brick / 2) - row_HW < 2 * joint)
    shade_table = rng.standard_normal((64, 64))
    shade_HW = shade_table[
        row_HW.astype(int) % 64, column_HW.astype(int) % 64
    ] + 0.4 * smooth_noise(rng, size_HW, 2)
    brick_HW3 = np.array([0.58, 0.27, 0.20]) * (1 + 0.13 * shade_HW[..., None])
    return np.where(is_mortar_HW[..., None], np.array([0.70, 0.67, 0.62]), brick_HW3)


_PAINTERS = {SKY: _sky, GRASS: _grass, WATER: _water, BRICKS: _bricks}


@dataclass(frozen=True, eq=False)
class SimulatedPhotograph:
    """An image and its truth."""

    image_HW3: np.ndarray
    """uint8, red, green, blue."""
    truth: Panoptic
    """Stuff and things; void pixels belong to no segment."""
    crowd_ids: tuple[int, ...]
    """Ids of segments that are crowds."""


def simulate_photograph(
    size_HW: tuple[int, int], seed: tuple[int, ...], options: PhotographOptions | None = None
) -> SimulatedPhotograph:
    """Simulate a photograph.

    Args:
        size_HW: Height and width in pixels, 16..4096.
        seed: The same seed gives the same photograph.
        options: How it is simulated.

    Raises:
        ConfigError: The size is impossible.
    """
    check_photograph_size(size_HW)
    options = options or PhotographOptions()
    rng = np.random.default_rng(seed)
    classes_HW = draw_regions(rng, size_HW)
    colour_HW3 = paint_regions(rng, classes_HW)
    stuff = np.unique(classes_HW)
    segment_HW = (np.searchsorted(stuff, classes_HW) + 1).astype(np.int32)
    class_of = {number: int(class_id) for number, class_id in enumerate(stuff, 1)}
    crowd_ids: set[int] = set()
    for thing in place_things(rng, size_HW, options):
        # All members of a crowd are one segment.
        id_ = next(iter(crowd_ids), len(class_of) + 1) if thing.crowd else len(class_of) + 1
        class_of[id_] = thing.class_id
        crowd_ids |= {id_} if thing.crowd else set()
        covered = cover(thing, size_HW)
        colour_HW3 = colour_HW3 * (1 - covered.shade_HW * (1 - covered.opacity_HW))[..., None]
        colour_HW3 += covered.opacity_HW[..., None] * (covered.colour_HW3 - colour_HW3)
        segment_HW[covered.opacity_HW > 0.5] = id_
    if rng.random() < options.smudges:
        colour_HW3, is_dirty_HW = _smudge(rng, colour_HW3)
        segment_HW[is_dirty_HW] = 0
    areas = np.bincount(segment_HW.ravel(), minlength=len(class_of) + 1)
    segment_HW[(areas < _LEAST_PIXELS)[segment_HW]] = 0
    truth = Panoptic.from_maps(segment_HW, class_of, SIMULATED_PHOTOGRAPHS)
    present = tuple(int(id_) for id_ in truth.segments.ids if id_ in crowd_ids)
    return SimulatedPhotograph(_expose(rng, colour_HW3, options.grain), truth, present)


def check_photograph_size(size_HW: tuple[int, int]) -> None:
    """Raise ``ConfigError`` for a size outside 16..4096 pixels."""
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in size_HW):
        height, width = size_HW
        raise ConfigError(
            f"--size must be {_SIDES[0]} to {_SIDES[1]} pixels on each side, not {height} x"
            f" {width}."
        )


def _smudge(rng: np.random.Generator, colour_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with a blurred grey spot, and the pixels that it hides."""
    height, width = colour_HW3.shape[:2]
    y_HW, x_HW = np.mgrid[:height, :width]
    radius = rng.uniform(0.05, 0.12) * min(height, width)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    distance_HW = np.hypot(x_HW - x, y_HW - y) / radius + 0.2 * smooth_noise(
        rng, (height, width), radius
    )
    density_HW1 = np.clip(2.5 * (1.15 - distance_HW), 0, 0.9)[..., None]
    return colour_HW3 + density_HW1 * (0.45 - colour_HW3), density_HW1[..., 0] > 0.3


def _expose(rng: np.random.Generator, colour_HW3: np.ndarray, grain: float) -> np.ndarray:
    """Apply what a camera does: brightness, tint, darker corners, noise; uint8."""
    height, width = colour_HW3.shape[:2]
    down_H, across_W = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    corners_HW1 = (1 - 0.12 * (down_H[:, None] ** 2 + across_W**2) / 2)[..., None]
    gain_3 = rng.uniform(0.8, 1.15) * (1 + 0.04 * rng.standard_normal(3))
    noise_HW3 = grain * 0.015 * rng.standard_normal(colour_HW3.shape)
    return np.rint(255 * np.clip(colour_HW3 * gain_3 * corners_HW1 + noise_HW3, 0, 1)).astype(
        np.uint8
    )
