"""The planned patches: their images read from cubes, and their files in either layout.

Images are read a window at a time. A window holds as many patches as lie in one chunk of a cube on
disk and as memory allows, so that each chunk is read once. The layouts are PASTIS's and
S2TSCzCrop's.

Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable
from panoseg.cube import ReadOptions
from panoseg.cube.check import read_dataset
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import (
    Window,
    dates_of_season,
    fill_gaps,
    is_southern,
    season_begin,
    shows_ground,
    spread_clearest,
)
from panoseg.data import pastis_files, s2tsczcrop_files
from panoseg.data.arrays import moments
from panoseg.data.s2tsczcrop_files import Affine, CzechPatch
from panoseg.files import atomic
from panoseg.imagery.sentinel2 import PASTIS_BANDS, SEASON_START
from panoseg.register import DatasetOptions
from panoseg.register.plan import PlannedPatch

LayoutName = Literal["pastis", "s2tsczcrop"]
_DEGREES = 4326


@dataclass(frozen=True, eq=False)
class FinishedPatch:
    """A patch as the tables of a dataset describe it."""

    id: int
    """Names its files."""
    part: int | str
    """Its fold or set."""
    dates: tuple[date, ...]
    """Dates of its images, ascending."""
    parcels: int
    """Number of parcels with a known crop."""
    cover: float
    """Share 0..1 of pixels in such parcels."""
    tile: str
    """Name of its cube."""
    crs: str
    """Coordinate system as WKT."""
    epsg: int | None
    """EPSG code of the coordinate system, if it has one."""
    affine: Affine
    """From pixels (column, row) to coordinates: a, b, c, d, e, f."""
    size: int
    """Pixels on a side."""
    moments_2C: np.ndarray
    """float64: mean and deviation of each band."""

    def outline(self) -> list[tuple[float, float]]:
        """Return its corners in map coordinates, the first repeated."""
        a, b, left, d, e, top = self.affine
        corners = [(0, 0), (self.size, 0), (self.size, self.size), (0, self.size), (0, 0)]
        return [
            (a * column + b * row + left, d * column + e * row + top) for column, row in corners
        ]


@dataclass(frozen=True)
class WrittenLayout:
    """How a dataset of one layout is written."""

    classes: ClassTable
    """Classes of its labels."""
    parts: tuple[int | str, ...]
    """Names of its folds or sets."""
    weights: tuple[float, ...]
    """Share of the land of each fold or set."""
    part: str
    """What they are called: fold or set."""
    save_images: Callable[[Path, int, np.ndarray], None]
    """Writes the images of a patch: folder, id, int16 T x C x H x W in PASTIS's order of bands."""
    save_labels: Callable[[Path, int, np.ndarray, np.ndarray, bool], None]
    """Writes the labels of a patch: folder, id, classes, numbers of parcels, whether to write
    centres.
    """
    save_tables: Callable[[Path, Sequence[FinishedPatch]], None]
    """Writes the tables: folder, all patches. Called last."""


def _save_pastis_labels(
    folder: Path, patch_id: int, classes_HW: np.ndarray, parcels_HW: np.ndarray, centres: bool
) -> None:
    pastis_files.save_labels(folder, patch_id, classes_HW, parcels_HW, centres=centres)


def _save_pastis_tables(folder: Path, patches: Sequence[FinishedPatch]) -> None:
    """Write PASTIS's tables.

    Statistics of a fold are the mean over its patches of their mean and deviation, as published.
    """
    of_fold: dict[int, list[np.ndarray]] = {}
    for patch in patches:
        of_fold.setdefault(int(patch.part), []).append(patch.moments_2C)
    pastis_files.save_normalisation(
        folder, {fold: np.mean(found, axis=0) for fold, found in of_fold.items()}
    )
    codes = {patch.epsg for patch in patches}
    epsg = next(iter(codes)) if len(codes) == 1 else None
    rows = [
        pastis_files.PatchRow(
            patch.id,
            int(patch.part),
            patch.dates,
            patch.parcels,
            patch.cover,
            patch.tile,
            patch.crs,
            patch.outline(),
        )
        for patch in patches
    ]
    pastis_files.save_metadata(folder, rows, epsg or _DEGREES)


def _save_czech_labels(
    folder: Path, patch_id: int, classes_HW: np.ndarray, parcels_HW: np.ndarray, centres: bool
) -> None:
    s2tsczcrop_files.save_classes(folder, patch_id, classes_HW)


def _save_czech_tables(folder: Path, patches: Sequence[FinishedPatch]) -> None:
    s2tsczcrop_files.save_band_statistics(
        folder, [patch.moments_2C for patch in patches if patch.part == "train"]
    )
    rows = [
        CzechPatch(
            patch.id,
            patch.part,  # type: ignore[arg-type]
            patch.dates,
            patch.epsg,
            patch.affine,
            {"Background_Cover": 1 - patch.cover, "TILE": patch.tile},
        )
        for patch in patches
    ]
    s2tsczcrop_files.save_patches(folder, rows)


LAYOUTS: dict[LayoutName, WrittenLayout] = {
    "pastis": WrittenLayout(
        PASTIS,
        (1, 2, 3, 4, 5),
        (0.2,) * 5,
        "fold",
        pastis_files.save_images,
        _save_pastis_labels,
        _save_pastis_tables,
    ),
    "s2tsczcrop": WrittenLayout(
        S2TSCZCROP,
        s2tsczcrop_files.SETS,
        (0.7, 0.15, 0.15),  # as published
        "set",
        s2tsczcrop_files.save_images,
        _save_czech_labels,
        _save_czech_tables,
    ),
}


LARGEST_WINDOW = 512
# Images of one window, as int16; one band is in memory as float32 at the same time.
_WINDOW_BYTES = 400 * 1024**2


def open_season(path: Path, year: int | None, read: ReadOptions) -> tuple[xr.Dataset, int]:
    """Return the dates of one season of a checked cube, lazy, and its harvest year.

    Raises:
        CubeError: The cube cannot be used, or has no date in the season.
    """
    return _open_season(path, year, read, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=4)
def _open_season(
    path: Path, year: int | None, read: ReadOptions, changed: int
) -> tuple[xr.Dataset, int]:
    """Return the same from a cache; ``changed`` distinguishes versions of the file."""
    with reading(path):
        cube = read_dataset(open_cube(path), PASTIS_BANDS, read).cube
    southern = is_southern(cube)
    harvest_year, _, inside = dates_of_season(
        cube["time"].values.astype("datetime64[D]"),
        season_begin(southern, SEASON_START, read),
        year,
        southern=southern,
        days=read.days,
    )
    # Dates ascend; a slice over all of them is free, while places would copy dask's whole graph.
    return cube.isel(time=slice(inside[0], inside[-1] + 1)), harvest_year


@dataclass(frozen=True)
class Piece:
    """Patches of one cube that are read together."""

    cube: int
    """Number of the cube."""
    patches: tuple[tuple[int, Window], ...]
    """Id and window of each patch."""

    @property
    def name(self) -> str:
        """Name of the piece: the id of its first patch."""
        return str(self.patches[0][0])


def cut_into_pieces(
    patches: Sequence[PlannedPatch], dates: Sequence[int], options: DatasetOptions
) -> list[Piece]:
    """Group neighbouring patches into pieces.

    Args:
        patches: All patches.
        dates: Number of dates in the season of each cube.
        options: How patches are made.
    """
    pieces: dict[tuple[int, int, int], list[tuple[int, Window]]] = {}
    for patch in patches:
        side = options.size * patches_per_side(
            options.size, min(dates[patch.cube], options.max_dates)
        )
        key = (patch.cube, patch.window.top // side, patch.window.left // side)
        pieces.setdefault(key, []).append((patch.id, patch.window))
    return [Piece(cube, tuple(members)) for (cube, _, _), members in pieces.items()]


def patches_per_side(size: int, dates: int) -> int:
    """Return how many patches a window has on a side: a power of two.

    At most 512 pixels and 400 MiB of images, but at least one patch.

    >>> patches_per_side(128, 61), patches_per_side(128, 100), patches_per_side(512, 500)
    (4, 2, 1)
    """
    count = 1
    while (
        size * count * 2 <= LARGEST_WINDOW
        and (size * count * 2) ** 2 * dates * len(PASTIS_BANDS) * 2 <= _WINDOW_BYTES
    ):
        count *= 2
    return count


@dataclass(frozen=True)
class ImageWriter:
    """Writes the images of pieces; is sent to worker processes."""

    cubes: tuple[Path, ...]
    """Path of each cube."""
    pieces: tuple[Piece, ...]
    """All pieces."""
    options: DatasetOptions
    """How patches are made."""
    save: Callable[[Path, int, np.ndarray], None]
    """Writes the images of one patch: folder, id, int16 T x C x H x W."""

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        """Write a piece; return what the tables need of it (see ``_record``)."""
        piece = self.pieces[number]
        path = self.cubes[piece.cube]
        cube, _ = open_season(path, self.options.season, self.options.read)
        with reading(path):
            return {"patches": list(self._patches(folder, cube, piece.patches))}

    def _patches(
        self, folder: Path, cube: xr.Dataset, patches: Sequence[tuple[int, Window]]
    ) -> Iterable[dict[str, Any]]:
        around = _around([window for _, window in patches])
        part = cube.isel(y=around.rows, x=around.columns)
        days_T = part["time"].values.astype("datetime64[D]")
        windows = [
            Window(w.top - around.top, w.left - around.left, w.height, w.width) for _, w in patches
        ]
        seen_THW = shows_ground(part).values
        chosen = [
            self._dates(seen_THW[:, window.rows, window.columns], days_T) for window in windows
        ]
        seasons = _read(part, windows, chosen, days_T)
        for (patch_id, _), dates, (images_TCHW, data_HW) in zip(
            patches, chosen, seasons, strict=True
        ):
            if len(dates):
                self.save(folder, patch_id, images_TCHW)
                if not data_HW.all():  # rare: most patches need no file
                    with atomic(_unseen_path(folder, patch_id)) as temporary:
                        np.save(temporary, ~data_HW)
            yield _record(patch_id, days_T[dates], images_TCHW, data_HW)

    def _dates(self, seen_THW: np.ndarray, days_T: np.ndarray) -> np.ndarray:
        """Return the places of the dates of a patch, ascending; none if there are too few."""
        clear_T = seen_THW.mean(axis=(1, 2))
        enough = np.flatnonzero((clear_T >= self.options.min_clear) & (clear_T > 0))
        kept: np.ndarray = enough[
            spread_clearest(days_T[enough], clear_T[enough], self.options.max_dates)
        ]
        return kept if len(kept) >= self.options.min_dates else kept[:0]


def _around(windows: Sequence[Window]) -> Window:
    """Return the smallest window that contains all windows."""
    top, left = min(w.top for w in windows), min(w.left for w in windows)
    bottom, right = max(w.top + w.height for w in windows), max(w.left + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def _read(
    part: xr.Dataset, windows: Sequence[Window], chosen: Sequence[np.ndarray], days_T: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return int16 images of each patch on its dates, and where it has data on some of them.

    The window is read a band at a time.
    """
    seasons = [
        (
            np.empty((len(dates), len(PASTIS_BANDS), w.height, w.width), np.int16),
            np.ones((w.height, w.width), bool),
        )
        for w, dates in zip(windows, chosen, strict=True)
    ]
    used = np.unique(np.concatenate(chosen))
    if not len(used):
        return seasons
    for channel, band in enumerate(PASTIS_BANDS):
        values_THW = part[band].isel(time=used).values
        for window, dates, (images_TCHW, data_HW) in zip(windows, chosen, seasons, strict=True):
            patch_THW = values_THW[np.searchsorted(used, dates)][:, window.rows, window.columns]
            filled_THW, band_data_HW = fill_gaps(patch_THW, days_T[dates].astype(np.int64))
            images_TCHW[:, channel] = np.clip(np.rint(filled_THW), -32768, 32767)
            data_HW &= band_data_HW
    return seasons


def _record(
    patch_id: int, dates: np.ndarray, images_TCHW: np.ndarray, data_HW: np.ndarray
) -> dict[str, Any]:
    """Return what the tables need of a patch; one without dates was left out."""
    record = {
        "patch": patch_id,
        "dates": [str(day) for day in dates],
        "unseen": int((~data_HW).sum()),
    }
    return {**record, "moments": moments(images_TCHW).tolist()} if len(dates) else record


def read_unseen(folder: Path, record: dict[str, Any], size: int) -> np.ndarray:
    """Return the pixels of a patch that have no data on any date: bool, H x W."""
    if not record["unseen"]:
        return np.zeros((size, size), bool)
    unseen_HW: np.ndarray = np.load(_unseen_path(folder, record["patch"]), allow_pickle=False)
    return unseen_HW


def _unseen_path(folder: Path, patch_id: int) -> Path:
    return folder / ".dataset" / f"unseen_{patch_id}.npy"
