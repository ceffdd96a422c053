"""Draw the pictures of docs/simulation.md.

python docs/simulation_pictures.py
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from panoseg.classes import PASTIS
from panoseg.imagery.sentinel2 import PASTIS_BANDS, season_span
from panoseg.simulation import Season, SimulationOptions, simulate_season
from panoseg.simulation.landscape import LandCover
from panoseg.simulation.options import REGIONS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent / "images"
TRUE_COLOUR = [PASTIS_BANDS.index(band) for band in ("B04", "B03", "B02")]
CROPS = ((2, 4, 5), (6, 3, 7), (9, 13, 15), (1, 14, 8))


def true_colour(season: Season, index: int) -> np.ndarray:
    """A date as it looks to the eye; float [H, W, 3], 0..1."""
    return (season.images_TCHW[index, TRUE_COLOUR].transpose(1, 2, 0) / 2300).clip(0, 1) ** 0.8


def outlined(season: Season) -> np.ndarray:
    """Classes in their colours, a dark line between parcels; float [H, W, 3]."""
    colours = np.array([matplotlib.colors.to_rgb(PASTIS[i].colour) for i in range(PASTIS.count)])
    picture = colours[season.classes_HW]
    parcels_HW = np.pad(season.parcels_HW, ((0, 1), (0, 1)), mode="edge")
    edge_HW = (parcels_HW[:-1, :-1] != parcels_HW[1:, :-1]) | (
        parcels_HW[:-1, :-1] != parcels_HW[:-1, 1:]
    )
    picture[edge_HW] *= 0.45
    return picture


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure with few colours, so that it stays small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    FOLDER.mkdir(exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(
        FOLDER / name, optimize=True
    )


def telling_dates(season: Season) -> list[int]:
    """Eight clear dates spread over the season and three that are partly clouded, in order."""
    cloud_T = (season.cloud_THW > 0).mean((1, 2))
    clear, partly = (
        np.flatnonzero(cloud_T < 0.02),
        np.flatnonzero((cloud_T > 0.15) & (cloud_T < 0.8)),
    )
    spread = [
        group[np.linspace(0, group.size - 1, count).round().astype(int)]
        for group, count in ((clear, 8), (partly, 3))
    ]
    return sorted(np.concatenate(spread).tolist())


def season_picture() -> None:
    """Eleven dates of one season and its truth."""
    options = SimulationOptions(
        region="lowland-mixed", void=False, dates=(50, 50), cloudy=(0.3, 0.3)
    )
    season = simulate_season((128, 128), 12, options)
    figure, axes = plt.subplots(3, 4, figsize=(6.4, 5.1))
    for axis, index in zip(axes.flat, telling_dates(season), strict=False):
        axis.imshow(true_colour(season, index))
        axis.set_title(season.dates[index].isoformat(), fontsize=7, pad=2)
    axes.flat[-1].imshow(outlined(season))
    axes.flat[-1].set_title("true parcels and classes", fontsize=7, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, 0.04, 0.12)
    save(figure, "simulation-season.png")


def regions_picture() -> None:
    """A landscape of each region."""
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.3))
    for axis, (seed, name) in zip(axes.flat, enumerate(REGIONS), strict=False):
        axis.imshow(
            outlined(
                simulate_season(
                    (128, 128), seed, SimulationOptions(region=name, dates=(1, 1), void=False)
                )
            )
        )
        axis.set_title(name, fontsize=8, pad=3)
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.94, 0.05, 0.12)
    save(figure, "simulation-regions.png")


COVERS = {
    LandCover.BUILT: "#c44e52",
    LandCover.GARDEN: "#8fd18a",
    LandCover.TREES: "#1f6f2b",
    LandCover.WATER: "#3b6fd4",
    LandCover.ROAD: "#7f7f7f",
    LandCover.IDLE: "#d9d45a",
    LandCover.FIELD: "#ead7ae",
}


def real_picture() -> None:
    """Five seasons in the style real: three dates, the fields as drawn, the land cover."""
    figure, axes = plt.subplots(5, 5, figsize=(7.6, 7.9))
    colours = np.zeros((8, 3))
    for cover, colour in COVERS.items():
        colours[cover] = matplotlib.colors.to_rgb(colour)
    titles = ("March", "June", "August", "fields as drawn", "land cover")
    for row, seed in zip(axes, (1, 2, 4, 7, 11), strict=True):
        options = SimulationOptions(
            style="real", dates=(60, 60), cloudy=(0.05, 0.1), composites="none"
        )
        season = simulate_season((96, 96), (12, seed), options)
        days_T = np.array([(date - season_span(2019)[0]).days for date in season.dates])
        cloud_T = (season.cloud_THW > 0).mean((1, 2))
        dates = [int((abs(days_T - day) + 500 * cloud_T).argmin()) for day in (200, 285, 345)]
        pictures = [true_colour(season, index) for index in dates]
        pictures += [outlined(season), colours[season.cover_HW]]
        for axis, picture, title in zip(row, pictures, titles, strict=True):
            axis.imshow(picture)
            axis.axis("off")
            if row[0] is axes[0, 0]:
                axis.set_title(title, fontsize=8, pad=3)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, 0.04, 0.04)
    save(figure, "simulation-real.png")


def curves(seasons: int = 60) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Days and NDVI of parcels of each class, where the sky is clear."""
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for seed in range(seasons):
        season = simulate_season((48, 48), (5, seed), SimulationOptions(void=False))
        days_T = np.array([(date - season_span(2019)[0]).days for date in season.dates])
        for parcel in np.unique(season.parcels_HW[season.parcels_HW > 0]):
            inside = season.parcels_HW == parcel
            if inside.sum() < 25:
                continue
            clear_T = ~season.cloud_THW[:, inside].any(1)
            red, infrared = (
                season.images_TCHW[clear_T, PASTIS_BANDS.index(b)][:, inside].mean(1)
                for b in ("B04", "B08")
            )
            crop = int(season.classes_HW[inside][0])
            found.setdefault(crop, []).append(
                (days_T[clear_T], (infrared - red) / (infrared + red))
            )
    return found


def ndvi_picture() -> None:
    """NDVI of six parcels of each of twelve classes."""
    found = curves()
    figure, axes = plt.subplots(4, 3, figsize=(8, 7), sharex=True, sharey=True)
    months = np.array([0, 61, 122, 181, 242, 303, 365])
    for axis, crop in zip(axes.flat, [crop for row in CROPS for crop in row], strict=True):
        for days_T, ndvi_T in found.get(crop, [])[:6]:
            axis.plot(days_T, ndvi_T, color=PASTIS[crop].colour, linewidth=1.2, alpha=0.9)
        axis.set_title(PASTIS[crop].name, fontsize=8, pad=3)
        axis.set_ylim(0, 1)
        axis.set_xticks(months, ["Sep", "Nov", "Jan", "Mar", "May", "Jul", "Sep"], fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.supylabel("NDVI", fontsize=8)
    figure.subplots_adjust(0.07, 0.04, 0.99, 0.96, 0.08, 0.2)
    save(figure, "simulation-ndvi.png")


if __name__ == "__main__":
    season_picture()
    regions_picture()
    real_picture()
    ndvi_picture()
