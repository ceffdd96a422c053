"""A stand-in for a network: it knows a landscape and draws it a little differently in every tile,
in whole numbers only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import xarray as xr

from cubes import DATES, make_cube
from panoseg.classes import PASTIS
from panoseg.panoptic import Panoptic


def landscape(height: int, width: int, points: int = 60, seed: int = 0) -> np.ndarray:
    """Cells around random points, a third of them land without a parcel (0); ids from 1. int32, H x
    W.
    """
    random = np.random.default_rng(seed)
    place = random.integers(0, (height, width), (points, 2))
    rows, columns = np.mgrid[:height, :width]
    distance = np.stack([(rows - row) ** 2 + (columns - column) ** 2 for row, column in place])
    cell_HW = distance.argmin(axis=0) + 1
    return np.where(cell_HW % 3 == 0, 0, cell_HW).astype(np.int32)


class EndlessLandscape:
    """A landscape without end that needs no memory: squares of about twelve pixels, a fifth of them
    no parcel.
    """

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, columns = np.mgrid[place]
        row, column = (rows + columns // 3 % 4) // 12, (columns + rows // 5 % 3) // 12
        cell_HW = 1 + column + 100_000 * row
        return np.where((row + 2 * column) % 5 == 0, 0, cell_HW).astype(np.int32)


def coordinates_cube(height: int, width: int | None = None, dates: int = 2) -> xr.Dataset:
    """A cube whose first two bands hold the row and the column of each pixel, from 1."""
    width = width or height
    cube = (
        make_cube(max(height, width), DATES[:dates])
        .isel(y=slice(height), x=slice(width))
        .astype(np.float32)
    )
    cube["B02"][:] = np.arange(1, height + 1)[None, :, None]
    cube["B03"][:] = np.arange(1, width + 1)[None, None, :]
    return cube


class StandIn:
    """In place of ``panoseg.models.model.Model``: ``landscape`` where the images lie, with
    errors that depend on the tile.

    A tile forgets some parcels, moves others by a pixel and leaves crumbs; classes, probabilities
    and scores differ between tiles.
    """

    def __init__(self, segment_HW: np.ndarray, card) -> None:
        self.segment_HW, self.card = segment_HW, card

    @classmethod
    def instead(cls, segment_HW: np.ndarray) -> SimpleNamespace:
        """What stands for the class."""
        return SimpleNamespace(of=lambda weights, **options: cls(segment_HW, weights.card))

    def predict_tiles(
        self,
        tiles: list[np.ndarray],
        days_T: np.ndarray,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Panoptic]:
        found = []
        for own in tiles:
            found.append(
                self.at(int(own[0, 0, 0, 0]) - 1, int(own[0, 1, 0, 0]) - 1, *own.shape[-2:])
            )
            progress(1)
        return found

    def at(self, top: int, left: int, height: int, width: int) -> Panoptic:
        """The picture of a tile."""
        tile_hw = self.segment_HW[top : top + height, left : left + width].copy()
        salt = 7 * top + 13 * left
        tile_hw[(tile_hw * 31 + salt) % 11 == 0] = 0
        moved_hw = np.roll(tile_hw, 1, axis=salt % 2)
        tile_hw = np.where((moved_hw + salt) % 5 == 0, moved_hw, tile_hw)
        tile_hw[:: 9 + salt % 4, :: 7 + salt % 3] = 1 + (salt % 50)
        ids = [int(id_) for id_ in np.unique(tile_hw) if id_]
        classes = {id_: 1 + (id_ + (salt + id_) % 4 // 3) % 18 for id_ in ids}
        scores = {id_: 0.5 + (id_ * 17 + salt) % 50 / 100 for id_ in ids}
        picture = Panoptic.from_maps(tile_hw, classes, PASTIS, scores)
        likely_NK = 1.0 + (picture.segments.ids[:, None] * np.arange(PASTIS.count) + salt) % 7
        likely_NK[:, [*PASTIS.ids("stuff"), *PASTIS.ids("void")]] = 0
        probabilities = (likely_NK / likely_NK.sum(axis=1, keepdims=True)).astype(np.float32)
        return Panoptic(
            picture.segment_HW, replace(picture.segments, probabilities=probabilities)
        ).relabel()
