"""One simulated photograph: stuff, things in front of it, dirt on the lens, and the camera.

Shape suffixes: H W pixels, 3 colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoseg.data.simulated_photographs.classes import SIMULATED_PHOTOGRAPHS
from panoseg.data.simulated_photographs.options import PhotographOptions
from panoseg.data.simulated_photographs.stuff import draw_regions, paint_regions
from panoseg.data.simulated_photographs.things import cover, place_things
from panoseg.data.simulation.noise import smooth_noise
from panoseg.errors import ConfigError
from panoseg.panoptic.panoptic import Panoptic

_LEAST_PIXELS = 12
"""An object of which less can be seen is not annotated."""
_SIDES = (16, 4096)


@dataclass(frozen=True, eq=False)
class SimulatedPhotograph:
    """A picture and its truth.

    image_HW3: uint8. truth: stuff and things; void pixels are of no segment. crowd_ids: ids of segments that are crowds.
    """

    image_HW3: np.ndarray
    truth: Panoptic
    crowd_ids: tuple[int, ...]


def simulate_photograph(
    size_HW: tuple[int, int], seed: tuple[int, ...], options: PhotographOptions | None = None
) -> SimulatedPhotograph:
    """A photograph of a size; the same seed gives the same. Raises ``ConfigError`` for an impossible size."""
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
        # A crowd is one segment, whatever lies between its members.
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
    """Refuse sizes without sense. Raises ``ConfigError``."""
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in size_HW):
        height, width = size_HW
        raise ConfigError(f"{height} x {width} pixels", f"{_SIDES[0]} .. {_SIDES[1]} on a side", "change --size")


def _smudge(rng: np.random.Generator, colour_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a blurred grey spot, and which pixels it hides."""
    height, width = colour_HW3.shape[:2]
    y_HW, x_HW = np.mgrid[:height, :width]
    radius = rng.uniform(0.05, 0.12) * min(height, width)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    distance_HW = np.hypot(x_HW - x, y_HW - y) / radius + 0.2 * smooth_noise(rng, (height, width), radius)
    density_HW1 = np.clip(2.5 * (1.15 - distance_HW), 0, 0.9)[..., None]
    return colour_HW3 + density_HW1 * (0.45 - colour_HW3), density_HW1[..., 0] > 0.3


def _expose(rng: np.random.Generator, colour_HW3: np.ndarray, grain: float) -> np.ndarray:
    """What the camera makes of it: brightness, tint, darker corners, noise. uint8."""
    height, width = colour_HW3.shape[:2]
    down_H, across_W = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    corners_HW1 = (1 - 0.12 * (down_H[:, None] ** 2 + across_W**2) / 2)[..., None]
    gain_3 = rng.uniform(0.8, 1.15) * (1 + 0.04 * rng.standard_normal(3))
    noise_HW3 = grain * 0.015 * rng.standard_normal(colour_HW3.shape)
    return np.rint(255 * np.clip(colour_HW3 * gain_3 * corners_HW1 + noise_HW3, 0, 1)).astype(np.uint8)
