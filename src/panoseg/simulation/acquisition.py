"""What a satellite sees on each date: the weather before the land, and the instrument.

Weather is haze, cirrus, clouds with their shadows, and snow. The truth of each pixel is one of
``CLEAR``, ``CLOUD``, ``SHADOW``, ``CIRRUS``, ``SNOW`` and ``MISSING``, where a swath ends.

The instrument has 10 m and 20 m bands, shifts between dates, and noise. The value of a pixel is
linear in the reflectance of units, so it is one sparse matrix: the share of each unit in each
pixel, blurred by the point spread. Narrow roads, hedges and mixed pixels at borders follow from it.

Shape suffixes: T dates, C bands, H W pixels, P pixels (H x W), Q pixels of 20 m, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.draws import fractal_noise
from panoseg.simulation.landscape import CELLS
from panoseg.simulation.options import SimulationOptions

CLEAR, CLOUD, SHADOW, CIRRUS, SNOW, MISSING = range(6)
_CLOUD_SPECTRUM = np.array([0.96, 0.94, 0.97, 1.0, 1.05, 1.1, 1.1, 1.13, 0.0, 0.0], np.float32)
_CLOUD_SHORTWAVE = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1.0, 0.78], np.float32)
_CIRRUS_SPECTRUM = np.array([1.0, 0.95, 0.92, 0.9, 0.85, 0.8, 0.78, 0.75, 0.4, 0.25], np.float32)
_SNOW_SPECTRUM = np.array([8200, 8300, 8200, 8100, 7900, 7700, 7500, 7300, 900, 700], np.float32)
_HAZE_SPECTRUM = np.array([1.0, 0.75, 0.6, 0.5, 0.42, 0.36, 0.32, 0.3, 0.12, 0.08], np.float32)
_SHADOW_DEPTH = np.array([0.5, 0.55, 0.6, 0.62, 0.66, 0.68, 0.69, 0.7, 0.74, 0.76], np.float32)


@dataclass(frozen=True)
class Sky:
    """The weather of one date."""

    cover: float
    """Share of sky under cloud, 0..1."""
    cirrus: float
    """Brightness of thin cloud, reflectance x 10 000."""
    haze: float
    """Path radiance in blue, reflectance x 10 000."""
    snow: float
    """Share of open ground under snow, 0..1."""


def draw_skies(
    days_T: np.ndarray, options: SimulationOptions, rng: np.random.Generator
) -> list[Sky]:
    """Draw the weather of each date.

    A season has its own share of cloudy dates, with more of them in winter.
    """
    low, high = options.cloudy
    cloudy = low + (high - low) * rng.beta(1.0, 1.9)
    winter_T = np.exp(-0.5 * ((days_T - 130) / 55.0) ** 2)
    chance_T = cloudy * (0.75 + 0.7 * winter_T)
    snowy = rng.random() < options.snow
    storm = rng.uniform(95, 175)
    skies = []
    for day, chance in zip(days_T, chance_T, strict=True):
        affected = rng.random() < chance
        kind = rng.choice(3, p=[0.35, 0.42, 0.23])
        cover = cirrus = 0.0
        if affected:
            cover = 1.0 if kind == 0 else rng.beta(0.9, 1.4) if kind == 1 else 0.0
            cirrus = rng.uniform(250, 1800) if kind == 2 else rng.uniform(0, 350)
        haze = options.noise * rng.normal(0, 45)
        haze += (rng.random() < 0.12) * min(options.noise, 1) * rng.gamma(2.0, 90)
        lying = snowy and 0 <= day - storm < rng.uniform(4, 16)
        snow = rng.uniform(0.3, 1.0) if lying else 0.0
        skies.append(Sky(float(cover), float(cirrus), float(haze), float(snow)))
    return skies


def apply_sky(
    image_CHW: np.ndarray, sky: Sky, day: float, snowless_HW: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Change a clear image in place as the sky does.

    Args:
        image_CHW: float32, reflectance x 10 000.
        sky: The weather.
        day: Day since 1 September, for the length of shadows.
        snowless_HW: Share of each pixel where snow does not stay, 0..1.
        rng: Draws where clouds and snow lie.

    Returns:
        uint8 H x W, the truth of each pixel.
    """
    truth_HW = np.zeros(image_CHW.shape[1:], np.uint8)
    if sky.snow:
        _snow(image_CHW, truth_HW, sky.snow, snowless_HW, rng)
    image_CHW += (sky.haze * _HAZE_SPECTRUM)[:, None, None]
    if sky.cirrus:
        _cirrus(image_CHW, truth_HW, sky.cirrus, rng)
    if sky.cover:
        _clouds(image_CHW, truth_HW, sky.cover, day, rng)
    return truth_HW


def _snow(
    image_CHW: np.ndarray,
    truth_HW: np.ndarray,
    share: float,
    snowless_HW: np.ndarray,
    rng: np.random.Generator,
) -> None:
    patches_HW = fractal_noise(rng, truth_HW.shape, 1.6, 60)
    lying_HW = _soft_step(patches_HW + 4 * share - 1.6, 1.0) * (1 - 0.75 * snowless_HW)
    image_CHW += lying_HW * (_SNOW_SPECTRUM[:, None, None] * rng.uniform(0.8, 1.05) - image_CHW)
    truth_HW[lying_HW > 0.4] = SNOW


def _cirrus(
    image_CHW: np.ndarray, truth_HW: np.ndarray, strength: float, rng: np.random.Generator
) -> None:
    streaks_HW = np.clip(0.6 + 0.5 * fractal_noise(rng, truth_HW.shape, 1.9, 150), 0, None)
    image_CHW *= 1 - 0.06 * np.minimum(streaks_HW * strength / 1000, 3)
    image_CHW += (strength * _CIRRUS_SPECTRUM)[:, None, None] * streaks_HW
    truth_HW[streaks_HW * strength > 350] = CIRRUS


def _clouds(
    image_CHW: np.ndarray, truth_HW: np.ndarray, cover: float, day: float, rng: np.random.Generator
) -> None:
    """Add fractal clouds of a given cover, and their shadows to the north-west.

    Shadows are longer under a low sun.
    """
    reach = 40
    height, width = truth_HW.shape
    field = fractal_noise(
        rng, (height + reach, width + reach), rng.uniform(1.7, 2.3), rng.uniform(40, 300)
    )
    whole = cover >= 1
    edge = -9.0 if whole else float(np.quantile(field, 1 - cover))
    optical = _soft_step(field - edge, rng.uniform(0.15, 0.9))
    length = rng.uniform(6, 16) / np.tan(np.radians(sun_elevation(day)))
    down, right = int(np.clip(0.85 * length, 2, reach)), int(np.clip(0.5 * length, 1, reach))
    cloud_HW = optical[:height, :width]
    shadow_HW = optical[down : down + height, right : right + width]
    depth = rng.uniform(0.55, 1.0)
    image_CHW *= 1 - depth * _SHADOW_DEPTH[:, None, None] * shadow_HW
    thick_HW = field[:height, :width]
    texture_HW = 1 + 0.16 * thick_HW if whole else 0.75 + 0.12 * np.clip(thick_HW - edge, 0, 3)
    # Ice absorbs in the short-wave infrared, droplets hardly do.
    spectrum = _CLOUD_SPECTRUM + rng.uniform(0.3, 1.3) * _CLOUD_SHORTWAVE
    white_CHW = (rng.uniform(4200, 9500) * spectrum)[:, None, None] * texture_HW
    image_CHW += cloud_HW * (white_CHW - image_CHW)
    truth_HW[shadow_HW > 0.3] = SHADOW
    truth_HW[cloud_HW > 0.1] = CLOUD


def apply_steps(
    image_CHW: np.ndarray,
    truth_HW: np.ndarray,
    weather: frozenset[str],
    rng: np.random.Generator,
) -> None:
    """Change an image in place by what masks of clouds do not tell, and cut it at a swath's edge.

    Args:
        image_CHW: float32, reflectance x 10 000.
        truth_HW: The truth of each pixel; only the land beyond a swath's edge is marked.
        weather: Names of ``WeatherFeature``.
        rng: The generator.
    """
    height, width = truth_HW.shape
    if "haze-steps" in weather and rng.random() < 0.2:
        # Atmospheric correction goes by coarse cells: haze rises or steps across the land.
        ramp_HW = _across(truth_HW.shape, rng)
        if rng.random() < 0.4:
            ramp_HW = (ramp_HW > rng.uniform(0.3, 0.7)).astype(np.float32)
        image_CHW += ((rng.normal(0, 90) * _HAZE_SPECTRUM)[:, None, None]) * ramp_HW
        image_CHW *= 1 + np.float32(rng.normal(0, 0.03)) * ramp_HW
    if "residual-clouds" in weather and rng.random() < 0.12:
        field_HW = fractal_noise(rng, (height, width), 2.0, rng.uniform(15, 60))
        edge_HW = _soft_step(field_HW - rng.uniform(0.8, 2.2), 0.8) * (truth_HW == CLEAR)
        if rng.random() < 0.5:
            image_CHW *= 1 - rng.uniform(0.2, 0.6) * _SHADOW_DEPTH[:, None, None] * edge_HW
        else:
            image_CHW += (rng.uniform(200, 1500) * _CIRRUS_SPECTRUM)[:, None, None] * edge_HW
    if "swath-edges" in weather and rng.random() < 0.05:
        truth_HW[_across(truth_HW.shape, rng) > rng.uniform(0.05, 0.95)] = MISSING


def _across(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a plane from 0 to 1 that rises in a direction drawn at random, float32 H x W."""
    turn = rng.uniform(0, 2 * np.pi)
    y_HW, x_HW = np.indices(shape, np.float32)
    plane_HW = x_HW * np.cos(turn) + y_HW * np.sin(turn)
    rising_HW: np.ndarray = (plane_HW - plane_HW.min()) / max(float(np.ptp(plane_HW)), 1.0)
    return rising_HW.astype(np.float32)


def _soft_step(values: np.ndarray, width: float) -> np.ndarray:
    """Return 0 below ``-width``, 1 above ``width``, and a smooth step between.

    A cloud with a wide soft edge would hide its own shadow.
    """
    share = np.clip(values / (2 * width) + 0.5, 0, 1)
    return share * share * (3 - 2 * share)


def sun_elevation(day: float, latitude: float = 48.0) -> float:
    """Return the elevation of the sun when the satellite passes, about 10:30 solar time.

    Args:
        day: Day since 1 September.
        latitude: Degrees north.

    Returns:
        Degrees above the horizon.
    """
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 254) / 365.25))
    latitude, hour = np.radians(latitude), np.radians(-22.0)
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(
        hour
    )
    return float(np.degrees(np.arcsin(sine)))


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
