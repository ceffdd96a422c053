"""Simulated seasons beside real ones: quantiles of what a network sees of fields and of the land
between them.

    python benchmarks/simulated_against_real.py [--seasons 12] [--size 64] \\
        [--real CUBE LABELS.npy].. [--profiles FOLDER]

Prints one column for each style of the simulator and one for each real season, which is a cube and
a label image of its fields (0: none). All are compared on twelve composites of thirty days
(medians of clear pixels) in log reflectance, except the shifts between dates. ``--profiles`` is a
folder with series of real parcels: ``*_s2_ts.csv`` (statistics inside a parcel) and
``ndvi_series.parquet`` (NDVI of fields).
"""

from __future__ import annotations

import argparse
import datetime
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation import SimulationOptions, simulate_season

RED, INFRARED = PASTIS_BANDS.index("B04"), PASTIS_BANDS.index("B08")
START = datetime.date(2018, 9, 1)
CLOUDED_SCL = (0, 1, 3, 8, 9, 10, 11)
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Seen:
    """One season, simulated or real."""

    images_TCHW: np.ndarray
    """Reflectance x 10 000."""
    clear_THW: np.ndarray
    """bool."""
    days_T: np.ndarray
    """Days since 1 September."""
    fields_HW: np.ndarray
    """Number of the field, 0 for none."""


def simulated(style: str, seasons: int, size: int) -> Iterator[Seen]:
    """Seasons of a style, one for each seed."""
    for seed in range(seasons):
        season = simulate_season((size, size), (77, seed), SimulationOptions(style=style))
        days = [(date - START).days for date in season.dates]
        yield Seen(season.images_TCHW, season.cloud_THW == 0, np.array(days), season.parcels_HW)


def real(cube: Path, labels: Path) -> Seen:
    """A cube with SCL, and a label image; dates of other seasons are left out."""
    with xr.open_dataset(cube) as data:
        times = pd.to_datetime(data["time"].values)
        start = pd.Timestamp(times[len(times) // 2].year - 1, START.month, START.day)
        days_T = (times - start).days.to_numpy()
        data = data.isel(time=np.flatnonzero((days_T >= 0) & (days_T < 426)))
        images_TCHW = np.stack([data[band].values for band in PASTIS_BANDS], axis=1)
        clear_THW = ~np.isin(data["SCL"].values, CLOUDED_SCL) & (images_TCHW > 0).all(1)
    days_T = days_T[(days_T >= 0) & (days_T < 426)]
    return Seen(images_TCHW, clear_THW, days_T, np.load(labels))


def composites(seen: Seen) -> np.ndarray:
    """Log reflectance of twelve composites, 12 x C x H x W; a gap takes the one before or after."""
    log = np.log(np.maximum(seen.images_TCHW.astype(np.float32), 30))
    log[~np.broadcast_to(seen.clear_THW[:, None], log.shape)] = np.nan
    found = []
    for month in range(12):
        of_month = (seen.days_T >= 60 + 30 * month) & (seen.days_T < 90 + 30 * month)
        of_month &= seen.clear_THW.mean((1, 2)) > 0.5
        if of_month.any():
            with warnings.catch_warnings(action="ignore"):  # pixels that are never clear
                middle_CHW = np.nanmedian(log[of_month], axis=0)
            if np.isnan(middle_CHW).mean() < 0.05:
                found.append(np.nan_to_num(middle_CHW, nan=float(np.nanmean(middle_CHW))))
    return np.stack(found) if found else np.zeros((0, *log.shape[1:]), np.float32)


def inside(fields_HW: np.ndarray) -> np.ndarray:
    """The fields without the pixels that touch another field or other land."""
    kept = ndimage.minimum_filter(fields_HW, 3) == ndimage.maximum_filter(fields_HW, 3)
    return np.where(kept, fields_HW, 0)


def pairs(fields_HW: np.ndarray) -> set[tuple[int, int]]:
    """Fields with at least four pixels within two of each other."""
    count: dict[tuple[int, int], int] = {}
    for step in (1, 2):
        for one, other in (
            (fields_HW[step:], fields_HW[:-step]),
            (fields_HW[:, step:], fields_HW[:, :-step]),
        ):
            meet = (one != other) & (one > 0) & (other > 0)
            for a, b in zip(one[meet].tolist(), other[meet].tolist(), strict=True):
                key = min(a, b), max(a, b)
                count[key] = count.get(key, 0) + 1
    return {key for key, pixels in count.items() if pixels >= 4}


def measure(seen: Seen) -> dict[str, list[float]]:
    """What one season adds to each row of the table."""
    rows: dict[str, list[float]] = {}
    fields_HW = seen.fields_HW
    sizes = np.bincount(fields_HW[fields_HW > 0])
    rows["field, pixels"] = sizes[sizes >= 5].tolist()
    rows["land outside fields, %"] = [100 * float((fields_HW == 0).mean())]
    months = composites(seen)
    if len(months) >= 4:
        rows |= _contrasts(months, fields_HW)
    rows |= _shifts(seen)
    return rows


def _contrasts(months: np.ndarray, fields_HW: np.ndarray) -> dict[str, list[float]]:
    core_HW = inside(fields_HW)
    names = [int(i) for i in np.unique(core_HW[core_HW > 0]) if (core_HW == i).sum() >= 9]
    mean = {i: months[:, :, core_HW == i].mean(-1) for i in names}
    spread = {i: months[:, :, core_HW == i].std(-1) for i in names}
    apart = [
        float((abs(mean[a] - mean[b]) / np.hypot(spread[a], spread[b]) * 2**0.5).max(0).mean())
        for a, b in sorted(pairs(fields_HW))
        if a in mean and b in mean
    ]
    down, right = np.gradient(months, axis=(2, 3))
    slope_HW = 2 * np.sqrt((down**2 + right**2).mean((0, 1)))  # between pixels two apart
    border = (ndimage.maximum_filter(fields_HW, 3) != fields_HW) & (fields_HW > 0)
    deep = ndimage.minimum_filter(np.where(fields_HW == 0, 1, 0), 3) > 0
    ndvi = np.exp(months)
    ndvi = (ndvi[:, INFRARED] - ndvi[:, RED]) / (ndvi[:, INFRARED] + ndvi[:, RED])
    return {
        "deviation inside a field": [float(spread[i].mean()) for i in names],
        "neighbours, best composite, d'": apart,
        "gradient inside fields": slope_HW[core_HW > 0].tolist()[::7],
        "gradient on borders": slope_HW[border].tolist()[::7],
        "gradient outside fields": slope_HW[deep].tolist()[::7],
        "NDVI of a field, highest": [float(ndvi[:, core_HW == i].mean(-1).max()) for i in names],
        "NDVI of a field, lowest": [float(ndvi[:, core_HW == i].mean(-1).min()) for i in names],
        "spread of B04 inside, share": [float(s[:, RED].mean()) for s in spread.values()],
        "spread of B08 inside, share": [float(s[:, INFRARED].mean()) for s in spread.values()],
    }


def _shifts(seen: Seen) -> dict[str, list[float]]:
    """Shifts of the clear dates against the mean of their edges, pixels."""
    clear = np.flatnonzero(seen.clear_THW.mean((1, 2)) > 0.97)
    edges = [_edges(seen.images_TCHW[index, RED]) for index in clear]
    if len(edges) < 4:
        return {}
    mean = np.mean(edges, axis=0)
    found = []
    for edge in edges:
        moved, _, _ = phase_cross_correlation(mean, edge, upsample_factor=20, normalization=None)
        if np.abs(moved).max() < 2:  # further: the edges of the two differ too much
            found.append(moved)
    size = np.array(found) - np.mean(found, axis=0)
    return {"shift of a date, pixels": np.abs(size).ravel().tolist()}


def _edges(image_HW: np.ndarray) -> np.ndarray:
    log = np.log(np.maximum(image_HW, 30.0))
    edge = np.hypot(ndimage.sobel(log, axis=0), ndimage.sobel(log, axis=1))
    return np.minimum(edge, np.quantile(edge, 0.98)) - edge.mean()


def profiles(folder: Path) -> dict[str, list[float]]:
    """The rows that series of real parcels have."""
    rows: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("*_s2_ts.csv")):
        table = pd.read_csv(path)
        for band in ("B04", "B08"):
            # A cloud over part of the parcel spreads it widely.
            spread = table.loc[(table.band == band) & (table["COEF.VAR"] < 0.5), "COEF.VAR"]
            rows.setdefault(f"spread of {band} inside, share", []).append(float(spread.mean()))
    for path in sorted(folder.rglob("ndvi_series.parquet")):
        series = pd.read_parquet(path).filter(like="ndvi_").to_numpy()
        rows["NDVI of a field, highest"] = series[~np.isnan(series).any(1)].max(1).tolist()
        rows["NDVI of a field, lowest"] = series[~np.isnan(series).any(1)].min(1).tolist()
    return rows


def gathered(seasons: Iterator[Seen] | list[Seen]) -> dict[str, list[float]]:
    """All rows of several seasons."""
    rows: dict[str, list[float]] = {}
    for seen in seasons:
        for name, values in measure(seen).items():
            rows.setdefault(name, []).extend(values)
    return rows


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seasons", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--styles", nargs="+", default=["plain", "real"])
    parser.add_argument(
        "--real", nargs=2, type=Path, action="append", default=[], metavar=("CUBE", "LABELS")
    )
    parser.add_argument("--profiles", type=Path)
    arguments = parser.parse_args()
    columns = {}
    for style in arguments.styles:
        started = time.process_time()
        columns[f"simulated, {style}"] = gathered(
            simulated(style, arguments.seasons, arguments.size)
        )
        print(f"{style}: {time.process_time() - started:.1f} s of processor time")
    for cube, labels in arguments.real:
        columns[cube.parent.name] = gathered([real(cube, labels)])
    if arguments.profiles:
        columns["profiles"] = profiles(arguments.profiles)
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    print("quantiles " + ", ".join(f"{q:.0%}" for q in QUANTILES))
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in names:
        print(
            f"| {name} | " + " | ".join(_cell(rows.get(name)) for rows in columns.values()) + " |"
        )


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    return " ".join(f"{value:.3g}" for value in np.quantile(values, QUANTILES))


if __name__ == "__main__":
    main()
