"""The instrument: shares of units in pixels, 10 m and 20 m bands, shifts between dates, noise.

The value of a pixel is linear in the reflectance of units, so it is one sparse matrix: the share of
each unit in each pixel, blurred by the point spread. Narrow roads, hedges and mixed pixels at
borders follow from it.

Shape suffixes: P pixels (H x W), Q pixels of 20 m, U units, C bands, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.landscape import CELLS

FINE_BANDS = tuple(PASTIS_BANDS.index(band) for band in ("B02", "B03", "B04", "B08"))
COARSE_BANDS = tuple(index for index in range(len(PASTIS_BANDS)) if index not in FINE_BANDS)
_BLUR_10M = 0.13
"""Share of a pixel's light that comes from the neighbour on each side; the point spread is about
1.3 pixels wide at half height.
"""


@dataclass(frozen=True)
class Footprints:
    """Shares of units in pixels, 0..1."""

    fine_PU: sparse.csr_matrix
    """float32, shares in pixels of 10 m."""
    coarse_QU: sparse.csr_matrix
    """float32, shares in pixels of 20 m."""


def footprints(units_YX: np.ndarray, units: int) -> Footprints:
    """Compute the footprints of all pixels.

    An odd last row or column of 10 m pixels gets its own 20 m pixels.

    Args:
        units_YX: Integers, unit of each cell.
        units: Number of units.
    """
    height, width = units_YX.shape[0] // CELLS, units_YX.shape[1] // CELLS
    cells = (
        units_YX.reshape(height, CELLS, width, CELLS)
        .transpose(0, 2, 1, 3)
        .reshape(height * width, CELLS**2)
    )
    starts = np.arange(height * width + 1) * CELLS**2
    shares = np.full(cells.size, 1 / CELLS**2, np.float32)
    shares_PU = sparse.csr_matrix((shares, cells.ravel(), starts), shape=(height * width, units))
    shares_PU.sum_duplicates()
    fine_PU = sparse.kron(_blur(height), _blur(width), format="csr").astype(np.float32) @ shares_PU
    coarse_QU = (
        sparse.kron(_pairs(height), _pairs(width), format="csr").astype(np.float32) @ fine_PU
    )
    return Footprints(fine_PU.tocsr(), coarse_QU.tocsr())


def _blur(length: int) -> sparse.csr_matrix:
    """Return the matrix of a three-tap blur that keeps the edge."""
    matrix = sparse.diags(
        [_BLUR_10M, 1 - 2 * _BLUR_10M, _BLUR_10M], [-1, 0, 1], shape=(length, length)
    ).tolil()
    matrix[0, 0] += _BLUR_10M
    matrix[-1, -1] += _BLUR_10M
    return matrix.tocsr()


def _pairs(length: int) -> sparse.csr_matrix:
    """Return the matrix of the mean of each two pixels."""
    rows = np.arange(length)
    repeat = sparse.csr_matrix(
        (np.ones(length), (rows, rows // 2)), shape=(length, (length + 1) // 2)
    )
    return sparse.diags(1 / np.asarray(repeat.sum(0)).ravel()) @ repeat.T


def pool(values: np.ndarray) -> np.ndarray:
    """Average each 2 x 2 pixels of the last two axes; an odd last row or column counts twice."""
    height, width = values.shape[-2:]
    if height % 2 or width % 2:
        values = np.pad(
            values, [(0, 0)] * (values.ndim - 2) + [(0, height % 2), (0, width % 2)], mode="edge"
        )
    halved = values[..., 0::2, :] + values[..., 1::2, :]
    pooled: np.ndarray = 0.25 * (halved[..., 0::2] + halved[..., 1::2])
    return pooled


def repeat(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Repeat 20 m pixels to ``size`` pixels of 10 m."""
    return coarse.repeat(2, -2).repeat(2, -1)[..., : size[0], : size[1]]


def interpolate(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate 20 m pixels bilinearly to ``size`` pixels of 10 m.

    The centre of a fine pixel lies a quarter of a coarse one from that one's centre.
    """
    for axis in (-2, -1):
        near = np.moveaxis(coarse, axis, -1)
        padded = np.concatenate([near[..., :1], near, near[..., -1:]], axis=-1)
        fine = np.empty((*near.shape[:-1], 2 * near.shape[-1]), near.dtype)
        fine[..., 0::2] = 0.75 * near + 0.25 * padded[..., :-2]
        fine[..., 1::2] = 0.75 * near + 0.25 * padded[..., 2:]
        coarse = np.moveaxis(fine, -1, axis)
    return coarse[..., : size[0], : size[1]]


RESAMPLINGS = {"nearest": repeat, "bilinear": interpolate}


def shift(image_CHW: np.ndarray, down: float, right: float) -> np.ndarray:
    """Move an image by less than a pixel, bilinearly; the edge is repeated."""
    for axis, by in ((1, down), (2, right)):
        if by:
            step = -1 if by < 0 else 1
            moved = np.roll(image_CHW, step, axis)
            edge: list[slice | int] = [slice(None)] * 3
            edge[axis] = 0 if step > 0 else -1
            moved[tuple(edge)] = image_CHW[tuple(edge)]
            image_CHW = image_CHW + abs(by) * (moved - image_CHW)
    return image_CHW


def slide(image_CHW: np.ndarray, down: float, right: float) -> np.ndarray:
    """Move an image by up to two pixels with three taps, which blur less than two; edges repeat."""
    for axis, by in ((1, down), (2, right)):
        whole = round(by)
        part = by - whole
        if whole:
            size = image_CHW.shape[axis]
            image_CHW = image_CHW.take(np.clip(np.arange(size) - whole, 0, size - 1), axis)
        if abs(part) > 1e-6:
            view = np.moveaxis(image_CHW, axis, -1)
            moved = (1 - part**2) * view
            moved[..., 1:] += np.float32(0.5 * part * (part + 1)) * view[..., :-1]
            moved[..., :-1] += np.float32(0.5 * part * (part - 1)) * view[..., 1:]
            moved[..., 0] += np.float32(0.5 * part * (part + 1)) * view[..., 0]
            moved[..., -1] += np.float32(0.5 * part * (part - 1)) * view[..., -1]
            image_CHW = np.moveaxis(moved, -1, axis)
    return image_CHW


def deliver(
    image_CHW: np.ndarray,
    resampling: str,
    noise: float,
    rng: np.random.Generator,
    phase: tuple[int, int] = (0, 0),
) -> None:
    """Average 20 m bands, add noise and resample them to 10 m, in place.

    Args:
        image_CHW: float32, reflectance x 10 000, all bands at 10 m.
        resampling: A name of ``RESAMPLINGS``.
        noise: Factor on the noise.
        rng: Draws the noise.
        phase: Rows and columns, 0 or 1, of the first pixel of 20 m that lie outside of the image.
    """
    fine, coarse = list(FINE_BANDS), list(COARSE_BANDS)
    image_CHW[fine] = _noisy(image_CHW[fine], noise, rng)
    margin = [(0, 0), (phase[0], 0), (phase[1], 0)]
    values_CHW = np.pad(image_CHW[coarse], margin, mode="edge")
    values_CHW = RESAMPLINGS[resampling](_noisy(pool(values_CHW), noise, rng), values_CHW.shape[1:])
    image_CHW[coarse] = values_CHW[:, phase[0] :, phase[1] :]


def _noisy(image_CHW: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Add photon and readout noise: some thousandths of the signal and some counts."""
    if not factor:
        return image_CHW
    noise = rng.standard_normal(image_CHW.shape, dtype=np.float32)
    noise *= factor * (9 + 0.009 * np.abs(image_CHW))
    return image_CHW + noise


_MONTH_DAYS = 30.4


def composite(
    images_TCHW: np.ndarray, cloud_THW: np.ndarray, days_T: np.ndarray, *, best: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make one image a month of the dates of a season.

    Args:
        images_TCHW: int16, reflectance x 10 000.
        cloud_THW: The truth of the sky, 0 where it is clear.
        days_T: Day of each date, ascending.
        best: Take the clearest date of each month, in place of the median of clear pixels.

    Returns:
        The images, the truth of the sky (the least cloudy of the month), and the days.
    """
    month_T = (days_T / _MONTH_DAYS).astype(int)
    images, clouds, days = [], [], []
    for month in np.unique(month_T):
        of_month = np.flatnonzero(month_T == month)
        clearest = of_month[(cloud_THW[of_month] == 0).mean((1, 2)).argmax()]
        if best or of_month.size == 1:
            images.append(images_TCHW[clearest])
            clouds.append(cloud_THW[clearest])
            days.append(int(days_T[clearest]))
            continue
        clear_KHW = cloud_THW[of_month] == 0
        count_HW = clear_KHW.sum(0)
        # Clouded values sort last; a pixel that is never clear takes the median of all.
        hidden_KHW = ~clear_KHW & (count_HW > 0)
        values = np.where(hidden_KHW[:, None], np.int16(32767), images_TCHW[of_month])
        values.sort(axis=0)
        middle_HW = (np.where(count_HW > 0, count_HW, of_month.size) - 1) // 2
        images.append(np.take_along_axis(values, middle_HW[None, None], 0)[0])
        clouds.append(np.where(count_HW > 0, 0, cloud_THW[clearest]).astype(np.uint8))
        days.append(int(_MONTH_DAYS * (month + 0.5)))
    return np.stack(images), np.stack(clouds), np.array(days)
