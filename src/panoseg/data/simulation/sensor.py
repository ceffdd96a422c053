"""The instrument: which units a pixel sees, 10 m and 20 m bands, shifts between dates, noise.

What a pixel sees is linear in what the units reflect, so it is one sparse matrix: the share of each unit in each pixel,
blurred by the point spread. Narrow roads, hedges and mixed border pixels come out of it by themselves.

Shape suffixes: P pixels (H x W), Q pixels of 20 m, U units, C bands, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from panoseg.data.bands import PASTIS_BANDS
from panoseg.data.simulation.landscape import CELLS

FINE_BANDS = tuple(PASTIS_BANDS.index(band) for band in ("B02", "B03", "B04", "B08"))
COARSE_BANDS = tuple(index for index in range(len(PASTIS_BANDS)) if index not in FINE_BANDS)
_BLUR_10M = 0.1
"""Share of a pixel's light that comes from the neighbour on each side; a point spread of about 1.1 pixels at half height."""


@dataclass(frozen=True)
class Footprints:
    """What pixels see. fine_PU: shares of units in 10 m pixels. coarse_QU: in 20 m pixels. spread_PQ: from 20 m to 10 m."""

    fine_PU: sparse.csr_matrix
    coarse_QU: sparse.csr_matrix
    spread_PQ: sparse.csr_matrix


def footprints(units_YX: np.ndarray, units: int, resampling: str) -> Footprints:
    """The footprints of all pixels. The grid of 20 m covers an odd last row or column by half a pixel more."""
    height, width = units_YX.shape[0] // CELLS, units_YX.shape[1] // CELLS
    cells = units_YX.reshape(height, CELLS, width, CELLS).transpose(0, 2, 1, 3).reshape(height * width, CELLS**2)
    starts = np.arange(height * width + 1) * CELLS**2
    shares = np.full(cells.size, 1 / CELLS**2, np.float32)
    shares_PU = sparse.csr_matrix((shares, cells.ravel(), starts), shape=(height * width, units))
    shares_PU.sum_duplicates()
    fine_PU = _separable(_blur(height), _blur(width)) @ shares_PU
    coarse_QU = _separable(_pool(height), _pool(width)) @ fine_PU
    spread = _repeat if resampling == "nearest" else _interpolate
    return Footprints(fine_PU.tocsr(), coarse_QU.tocsr(), _separable(spread(height), spread(width)))


def _separable(rows: sparse.spmatrix, columns: sparse.spmatrix) -> sparse.csr_matrix:
    return sparse.kron(rows, columns, format="csr").astype(np.float32)


def _blur(length: int) -> sparse.csr_matrix:
    """A three-tap blur that keeps the edge."""
    matrix = sparse.diags([_BLUR_10M, 1 - 2 * _BLUR_10M, _BLUR_10M], [-1, 0, 1], shape=(length, length)).tolil()
    matrix[0, 0] += _BLUR_10M
    matrix[-1, -1] += _BLUR_10M
    return matrix.tocsr()


def _pool(length: int) -> sparse.csr_matrix:
    repeat = _repeat(length)
    return sparse.diags(1 / np.asarray(repeat.sum(0)).ravel()) @ repeat.T


def _repeat(length: int) -> sparse.csr_matrix:
    rows = np.arange(length)
    return sparse.csr_matrix((np.ones(length), (rows, rows // 2)), shape=(length, (length + 1) // 2))


def _interpolate(length: int) -> sparse.csr_matrix:
    """Linear interpolation between centres of 20 m pixels: a 10 m centre lies a quarter of the way to the next."""
    coarse = (length + 1) // 2
    rows = np.arange(length)
    near = rows // 2
    far = np.clip(near + np.where(rows % 2, 1, -1), 0, coarse - 1)
    weights = np.concatenate([np.full(length, 0.75), np.full(length, 0.25)])
    return sparse.csr_matrix((weights, (np.tile(rows, 2), np.concatenate([near, far]))), shape=(length, coarse))


def shift(image_CHW: np.ndarray, down: float, right: float) -> np.ndarray:
    """The image moved by a part of a pixel, bilinearly; the edge is repeated."""
    for axis, by in ((1, down), (2, right)):
        if by:
            step = -1 if by < 0 else 1
            moved = np.roll(image_CHW, step, axis)
            edge: list[slice | int] = [slice(None)] * 3
            edge[axis] = 0 if step > 0 else -1
            moved[tuple(edge)] = image_CHW[tuple(edge)]
            image_CHW = image_CHW + abs(by) * (moved - image_CHW)
    return image_CHW


def add_noise(image_CHW: np.ndarray, factor: float, rng: np.random.Generator) -> None:
    """Photon and readout noise of each pixel, in place: a few parts in a thousand of the signal and some counts."""
    if factor:
        noise = rng.standard_normal(image_CHW.shape, dtype=np.float32)
        noise *= factor * (10 + 0.014 * np.abs(image_CHW))
        image_CHW += noise
