"""Cube + weights -> the picture of the whole area, block by block, so that memory is bounded and a stop costs a block.

Shape suffixes: B batch, T dates, C bands, H W pixels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from affine import Affine
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from panoseg.cube.open import reading
from panoseg.cube.window import Window, read_window
from panoseg.errors import ConfigError, WeightsError
from panoseg.files import atomic
from panoseg.maps.options import MapOptions
from panoseg.maps.tidy import redrawn
from panoseg.maps.tiles import Block, plan_blocks
from panoseg.models.paps import PaPs
from panoseg.models.weights import Weights
from panoseg.panoptic.join import TileJoiner
from panoseg.panoptic.merge import merge_masks, to_panoptics
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.progress import track

_BLOCK_BYTES = 400 * 1024**2
_BLOCK_SIDE = 512


class Predictor:
    """A network on its device that turns the images of a tile into a picture.

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

    @torch.inference_mode()
    def __call__(self, images_TCHW: np.ndarray, days_T: np.ndarray) -> Panoptic:
        """The picture of one tile; images_TCHW: float32 reflectance x 10 000, any size (mirrored up to the network's stride).

        Tiles are predicted one by one: the centres of a batch are found against the mean heat of the batch, so that a tile's
        parcels would depend on its company.
        """
        height, width = images_TCHW.shape[-2:]
        margins = ((0, 0), (0, 0), (0, -height % self.stride), (0, -width % self.stride))
        images_BTCHW = torch.from_numpy(np.pad(images_TCHW, margins, mode="symmetric")[None]).to(self.device)
        days_BT = torch.from_numpy(days_T[None]).to(self.device)
        valid_BT = torch.ones_like(days_BT, dtype=torch.bool)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            masks = self.model.masks(self.normalisation(images_BTCHW, valid_BT), days_BT, valid_BT, self.views)
        segment_BHW, _ = merge_masks(masks, 1, self.model.config.min_remain)
        return to_panoptics(segment_BHW, masks, self.card.classes)[0].crop(slice(height), slice(width))


def predict_cube(
    cube: xr.Dataset,
    days_T: np.ndarray,
    predictor: Predictor,
    work: Path,
    options: MapOptions,
    source: Path | str,
    outline: BaseGeometry | None = None,
) -> tuple[Panoptic, np.ndarray]:
    """The picture of a checked cube whose dates are those of the season, and where it has data (bool, H x W).

    work: an existing folder for finished blocks; blocks that are there already are not predicted again. source: the cube's
    path, for messages. outline: what is mapped, in the cube's coordinate system. The picture does not depend on the order of
    tiles, nor on where an earlier run stopped.
    """
    height, width = cube.sizes["y"], cube.sizes["x"]
    bands = predictor.card.bands
    blocks = plan_blocks(height, width, options.tile, options.overlap, _block_side(len(days_T), len(bands)))
    pending = [number for number, block in enumerate(blocks) if _load_block(work, number, block) is None]
    tiles = sum(len(blocks[number].tiles) for number in pending)
    done = _predict_blocks(cube, days_T, predictor, work, source, [(number, blocks[number]) for number in pending], outline)
    for _ in track(done, "tiles", total=tiles):
        pass
    joiner, data_HW = TileJoiner(height, width), np.zeros((height, width), bool)
    for number, block in enumerate(blocks):
        finished = _load_block(work, number, block)
        if finished is None:
            raise RuntimeError(f"block {number} in {work} has gone while the map was made")
        pictures, data_HW[block.window.rows, block.window.columns] = finished
        for tile, picture in zip(block.tiles, pictures, strict=True):
            joiner.add(tile.top, tile.left, picture)
    joined = joiner.finish()
    return redrawn(joined, np.where(data_HW, joined.segment_HW, 0)), data_HW


def find_device(name: str) -> torch.device:
    """The device of a name; auto takes a GPU where there is one. Raises ``ConfigError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not available", "auto, cpu, cuda or mps", "change --device") from error


def _block_side(dates: int, bands: int) -> int:
    """The side of a block whose images fit into the memory set aside for them."""
    return min(_BLOCK_SIDE, int((_BLOCK_BYTES / (4 * dates * bands)) ** 0.5))


def _predict_blocks(
    cube: xr.Dataset,
    days_T: np.ndarray,
    predictor: Predictor,
    work: Path,
    source: Path | str,
    blocks: Sequence[tuple[int, Block]],
    outline: BaseGeometry | None,
) -> Iterator[Window]:
    """Predict blocks and save each when it is complete; yields after every tile."""
    for number, block in blocks:
        with reading(source):
            images_TCHW, data_HW = read_window(cube, predictor.card.bands, block.window)
        if outline is not None:
            data_HW &= _inside(outline, cube.odc.geobox.affine, block.window)
        pictures = []
        for tile in block.tiles:
            inside = Window(tile.top - block.window.top, tile.left - block.window.left, tile.height, tile.width)
            if data_HW[inside.rows, inside.columns].any():
                pictures.append(predictor(images_TCHW[:, :, inside.rows, inside.columns], days_T))
            else:
                pictures.append(Panoptic.empty(tile.height, tile.width))
            yield tile
        _save_block(work, number, pictures, data_HW)


def _inside(outline: BaseGeometry, grid: Affine, window: Window) -> np.ndarray:
    """The pixels of a window whose centre lies inside an outline."""
    corner = grid * Affine.translation(window.left, window.top)
    return ~geometry_mask([outline], (window.height, window.width), corner)


def _block_path(work: Path, number: int) -> Path:
    return work / f"block-{number:06d}.npz"


def _save_block(work: Path, number: int, pictures: Sequence[Panoptic], data_HW: np.ndarray) -> None:
    arrays = {
        field.name: np.concatenate([getattr(picture.segments, field.name) for picture in pictures])
        for field in fields(Segments)
    }
    arrays["data"] = data_HW
    arrays["segments"] = np.stack([picture.segment_HW for picture in pictures])
    arrays["counts"] = np.array([len(picture.segments) for picture in pictures])
    with atomic(_block_path(work, number)) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def _load_block(work: Path, number: int, block: Block) -> tuple[list[Panoptic], np.ndarray] | None:
    """The pictures of a finished block and where it has data; None where it is not finished, or its file is damaged."""
    try:
        with _block_path(work, number).open("rb") as file, np.load(file) as saved:
            ends = np.cumsum(saved["counts"])[:-1]
            columns = [np.split(saved[field.name], ends) for field in fields(Segments)]
            pictures = [
                Panoptic(segment_HW, Segments(*table)) for segment_HW, *table in zip(saved["segments"], *columns, strict=True)
            ]
            data_HW = saved["data"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (pictures, data_HW) if len(pictures) == len(block.tiles) else None
