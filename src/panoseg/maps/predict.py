"""A window of a cube + weights -> the pictures of its tiles: all that a worker does, wherever it
runs.

Shape suffixes: B batch, T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from affine import Affine
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.window import Window, read_window
from panoseg.errors import ConfigError, WeightsError
from panoseg.maps.options import MapOptions
from panoseg.maps.windows import Block, FinishedWindow, plan_blocks, to_bytes
from panoseg.models.outputs import FeatureMaps
from panoseg.models.paps import PaPs
from panoseg.models.weights import Weights
from panoseg.panoptic.join import Tile
from panoseg.panoptic.merge import merge_masks, to_panoptics
from panoseg.panoptic.panoptic import Panoptic
from panoseg.panoptic.tta import augment, chosen_augmentations

_BLOCK_BYTES = 400 * 1024**2
_BLOCK_SIDE = 512
_GPU_TILES = 8


class Predictor:
    """A network on its device that turns the images of tiles into pictures.

    reference_date: from which the days of the season that is mapped are counted.
    """

    def __init__(self, weights: Weights, options: MapOptions, reference_date: date) -> None:
        model = weights.model(reference_date)
        if not isinstance(model, PaPs):
            raise WeightsError(
                f"weights of {type(model).__name__}, which knows classes but no parcels",
                "weights of PaPs",
                "choose others with --weights",
            )
        self.card = weights.card
        self.normalisation = weights.card.known_normalisation()
        self.device = find_device(options.device)
        self.reduced = options.precision == "bfloat16"
        self.views = options.views
        self.model = model.to(self.device)
        self.stride = model.config.stride

    def pictures(self, tiles: Sequence[np.ndarray], days_T: np.ndarray) -> Iterator[Panoptic]:
        """The picture of each tile; all have one size.

        On a GPU the backbone sees several tiles at once, the head each by itself: centres are found
        against the mean heat of a batch, so that a tile's parcels would else depend on its company.
        On a CPU nothing is gained by that.
        """
        size = _GPU_TILES if self.device.type == "cuda" else 1
        for start in range(0, len(tiles), size):
            yield from self.batch(np.stack(tiles[start : start + size]), days_T)

    @torch.inference_mode()
    def batch(self, images_BTCHW: np.ndarray, days_T: np.ndarray) -> list[Panoptic]:
        """The pictures of tiles that the backbone sees together; images_BTCHW: float32 reflectance
        x 10 000, any size (mirrored up to the network's stride).
        """
        count, height, width = len(images_BTCHW), *images_BTCHW.shape[-2:]
        margins = ((0, 0), (0, 0), (0, 0), (0, -height % self.stride), (0, -width % self.stride))
        images = torch.from_numpy(np.pad(images_BTCHW, margins, mode="symmetric")).to(self.device)
        days_BT = torch.from_numpy(days_T[None]).to(self.device).expand(count, -1)
        valid_BT = torch.ones_like(days_BT, dtype=torch.bool)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            normal = self.normalisation(images, valid_BT)
            maps_V = [
                self.model.encoder.features(augment(normal, view), days_BT, valid_BT)
                for view in chosen_augmentations(self.views)
            ]
            masks_B = [
                self.model.masks_of([_alone(maps, place) for maps in maps_V])
                for place in range(count)
            ]
        pictures = []
        for masks in masks_B:
            segment_BHW, _ = merge_masks(masks, 1, self.model.config.min_remain)
            pictures.append(
                to_panoptics(segment_BHW, masks, self.card.classes)[0].crop(
                    slice(height), slice(width)
                )
            )
        return pictures


def _alone(maps: FeatureMaps, place: int) -> FeatureMaps:
    """The maps of one image of a batch."""
    return FeatureMaps(tuple(level_BCHW[place : place + 1] for level_BCHW in maps.pyramid))


@dataclass(frozen=True, eq=False)
class PredictionJob:
    """What the pictures of a map are made of: all that a worker is told.

    cube_path: where the worker finds the cube. index_T: the dates of the season among those of the
    checked cube. days_T: their days since ``reference``. outline: what is mapped, in the cube's
    coordinate system; None for all of it.
    """

    cube_path: Path
    index_T: np.ndarray
    days_T: np.ndarray
    reference: date
    weights: Weights
    options: MapOptions
    outline: BaseGeometry | None = None

    def plan(self, height: int, width: int) -> list[Block]:
        """The windows of a cube of that size: images of one take at most 400 MiB."""
        side = min(
            _BLOCK_SIDE,
            int((_BLOCK_BYTES / (4 * len(self.days_T) * len(self.weights.card.bands))) ** 0.5),
        )
        return plan_blocks(height, width, self.options.tile, self.options.overlap, side)


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
            return check_cube(open_cube(self.job.cube_path), self.job.weights.card.bands).isel(
                time=self.job.index_T
            )

    @cached_property
    def predictor(self) -> Predictor:
        """The network on its device."""
        return Predictor(self.job.weights, self.job.options, self.job.reference)

    def check(self, here: bool) -> None:
        """Raise what is wrong with the weights and, where the work is done ``here``, with the
        device.
        """
        if here:
            _ = self.predictor
        else:
            Predictor(self.job.weights, replace(self.job.options, device="cpu"), self.job.reference)

    def steps(self, block: Block) -> Generator[int, None, bytes]:
        """Predict a window; yields how many more tiles are done, and returns it as bytes, see
        ``panoseg.maps.windows``.
        """
        bands, outline = self.predictor.card.bands, self.job.outline
        with reading(self.job.cube_path):
            images_TCHW, data_HW = read_window(self.cube, bands, block.window)
        if outline is not None:
            data_HW &= inside(outline, self.cube.odc.geobox.affine, block.window)
        places = [_place(tile, block.window) for tile in block.tiles]
        seen = [number for number, place in enumerate(places) if data_HW[place].any()]
        pictures = {
            number: Panoptic.empty(tile.height, tile.width)
            for number, tile in enumerate(block.tiles)
        }
        yield len(places) - len(seen)
        found = self.predictor.pictures(
            [images_TCHW[:, :, *places[number]] for number in seen], self.job.days_T
        )
        for number, picture in zip(seen, found, strict=True):
            pictures[number] = picture
            yield 1
        tiles = [
            Tile.of(tile.top, tile.left, pictures[number])
            for number, tile in enumerate(block.tiles)
        ]
        return to_bytes(FinishedWindow(tiles, data_HW))

    def predict(self, block: Block) -> bytes:
        """A finished window as bytes."""
        steps = self.steps(block)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


def _place(tile: Window, window: Window) -> tuple[slice, slice]:
    """A tile as an index into the window that encloses it."""
    top, left = tile.top - window.top, tile.left - window.left
    return slice(top, top + tile.height), slice(left, left + tile.width)


def inside(outline: BaseGeometry, grid: Affine, window: Window) -> np.ndarray:
    """The pixels of a window whose centre lies inside an outline."""
    corner = grid * Affine.translation(window.left, window.top)
    return ~geometry_mask([outline], (window.height, window.width), corner)


def find_device(name: str) -> torch.device:
    """The device of a name; auto takes a GPU where there is one. Raises ``ConfigError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} is not available", "auto, cpu, cuda or mps", "change --device"
        ) from error
