"""A window of a cube and a model become the segmentations of the window's tiles.

This is all that a worker does. Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Window, read_window
from panoseg.errors import WeightsError
from panoseg.maps import MapOptions
from panoseg.maps.windows import Block, FinishedWindow, plan_blocks, to_bytes
from panoseg.models.model import Model, find_device
from panoseg.models.weights import Weights, WeightsCard
from panoseg.panoptic import Panoptic
from panoseg.panoptic.join import Tile

_BLOCK_BYTES = 400 * 1024**2
BLOCK_SIDE = 512
"""Largest side of a window in pixels."""


def check_card(card: WeightsCard) -> None:
    """Raise ``WeightsError`` unless weights can make a map of parcels."""
    card.known_normalisation()
    if card.model.answers != "panoptic":
        raise WeightsError(
            f"Weights of {card.model.title} know classes but no parcels. Choose weights of a"
            " panoptic network with --weights."
        )


@dataclass(frozen=True, eq=False)
class PredictionJob:
    """What the segmentations of a map are made of: all that a worker has to know."""

    cube_path: Path
    """Where the worker finds the cube."""
    index_T: np.ndarray
    """int64, positions of the season's dates among those of the checked cube."""
    days_T: np.ndarray
    """int64, days of these dates since ``reference``."""
    reference: date
    """Day 0 of the season."""
    weights: Weights
    """The network."""
    options: MapOptions
    """How the map is made."""
    outline: BaseGeometry | None = None
    """What is mapped, in the cube's coordinate system; None for all of it."""

    def plan(self, height: int, width: int) -> list[Block]:
        """Return the windows of a cube of that size: the images of one take at most 400 MiB."""
        image_bytes = 4 * len(self.days_T) * len(self.weights.card.bands)
        side = min(BLOCK_SIDE, int((_BLOCK_BYTES / image_bytes) ** 0.5))
        return plan_blocks(height, width, self.options.tile, self.options.overlap, side)


@dataclass(frozen=True, eq=False)
class WindowImages:
    """The images of a window, cut into tiles."""

    tiles: Sequence[np.ndarray]
    """Tiles that have data: float32 T x C x H x W each, reflectance x 10 000 without gaps."""
    numbers: Sequence[int]
    """Which of the window's tiles they are."""
    data_HW: np.ndarray
    """bool, where the window has data and lies inside the outline."""


class OpenJob:
    """A job whose cube and network are opened when the first window needs them, once a process."""

    def __init__(self, job: PredictionJob, cube: xr.Dataset | None = None) -> None:
        self.job = job
        self._given = cube

    @cached_property
    def cube(self) -> xr.Dataset:
        """The checked cube with the dates of the season."""
        if self._given is not None:
            return self._given
        with reading(self.job.cube_path):
            card, read = self.job.weights.card, self.job.options.read
            opened = open_cube(self.job.cube_path)
            cube = check_cube(opened, card.bands, read, card.model.fewest_bands)
            return cube.isel(time=self.job.index_T)

    @cached_property
    def model(self) -> Model:
        """The network on its device."""
        options = self.job.options
        return Model.of(
            self.job.weights,
            device=options.device,
            precision=options.precision,
            tta=options.tta,
            reference_date=self.job.reference,
        )

    def check(self, local: bool) -> None:
        """Raise ``PanosegError`` for a device that is not there, where the work is ``local``."""
        if local:
            find_device(self.job.options.device)

    def read(self, block: Block) -> WindowImages:
        """Read a window from the cube."""
        outline = self.job.outline
        with reading(self.job.cube_path):
            images_TCHW, data_HW = read_window(self.cube, self.job.weights.card.bands, block.window)
        if outline is not None:
            data_HW &= inside(outline, self.cube.odc.geobox.affine, block.window)
        places = [_place(tile, block.window) for tile in block.tiles]
        seen = [number for number, place in enumerate(places) if data_HW[place].any()]
        return WindowImages([images_TCHW[:, :, *places[n]] for n in seen], seen, data_HW)


def finished(block: Block, images: WindowImages, found: Sequence[Panoptic]) -> bytes:
    """Return a finished window as bytes, see ``panoseg.maps.windows``.

    Args:
        block: The window.
        images: What was read of it.
        found: The segmentation of each of the images' tiles.
    """
    panoptics = [Panoptic.empty(tile.height, tile.width) for tile in block.tiles]
    for number, panoptic in zip(images.numbers, found, strict=True):
        panoptics[number] = panoptic
    tiles = [
        Tile.of(tile.top, tile.left, panoptic)
        for tile, panoptic in zip(block.tiles, panoptics, strict=True)
    ]
    return to_bytes(FinishedWindow(tiles, images.data_HW))


def _place(tile: Window, window: Window) -> tuple[slice, slice]:
    """Return a tile as an index into the window that encloses it."""
    top, left = tile.top - window.top, tile.left - window.left
    return slice(top, top + tile.height), slice(left, left + tile.width)


def inside(outline: BaseGeometry, grid: Affine, window: Window) -> np.ndarray:
    """Return the pixels of a window whose centre lies inside an outline: bool, H x W."""
    corner = grid * Affine.translation(window.left, window.top)
    outside_HW: np.ndarray = geometry_mask([outline], (window.height, window.width), corner)
    return ~outside_HW
