"""Write datasets of simulated patches in PASTIS's and S2TSCzCrop's layouts.

A patch depends only on the seed, its number and the options.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from panoseg.data.arrays import map_array, moments
from panoseg.data.pastis_files import (
    PatchRow,
    read_json,
    save_images,
    save_labels,
    save_land_cover,
    save_metadata,
    save_normalisation,
)
from panoseg.data.pieces import write_pieces
from panoseg.data.s2tsczcrop_files import (
    CzechPatch,
    SetName,
    save_arrays,
    save_band_statistics,
    save_patches,
)
from panoseg.errors import ConfigError, DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.landscape import PIXEL_M
from panoseg.simulation.layout import Layout, ParcelFile
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.season import Season, check_size, simulate_season

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

FIRST_ID = 10_000
_VERSION = 5
"""Raised whenever a seed gives other data, so that patches of two simulations are not mixed."""


class Form(Protocol):
    """A layout in which seasons are written; it is pickled for other processes."""

    def mark(self) -> dict[str, Any]:
        """Return the entries of simulation.json that distinguish this form from others."""

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
        """Write the files of patch ``FIRST_ID`` + ``number``.

        Returns:
            What ``finish`` needs of it, JSON-ready.
        """

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Write the tables of all patches."""


@dataclass(frozen=True)
class _Patches:
    """Everything besides its number that a patch depends on."""

    size: tuple[int, int]
    """Height and width in pixels."""
    seed: int
    """Seed of the dataset."""
    options: SimulationOptions
    """How seasons are simulated."""
    maps: list[Path]
    """Maps of parcels that are used in turn; none to draw them."""
    parcels: ParcelFile | None
    """Parcels of which each patch has a window; None to draw them."""
    form: Form
    """Layout to write."""

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        """Write the files of a patch; return what the tables need of it."""
        layout = None
        if self.parcels is not None:
            rng = np.random.default_rng((self.seed, number, 1))
            layout = self.parcels.window(self.size, rng, self.options.field_size)
        elif self.maps:
            layout = self._turned_map(number, self.maps[number % len(self.maps)])
        season = simulate_season(self.size, (self.seed, number), self.options, layout)
        return self.form.save(folder, number, season)

    def _turned_map(self, number: int, path: Path) -> Layout:
        """Read a map of parcels, cut to size and in one of its eight orientations."""
        parcels_HW = map_array(path, dimensions=2)
        rng = np.random.default_rng((self.seed, number, 1))
        parcels_HW = np.rot90(parcels_HW, int(rng.integers(4)))
        parcels_HW = parcels_HW[::-1] if rng.random() < 0.5 else parcels_HW
        height, width = self.size
        return Layout(np.ascontiguousarray(parcels_HW[:height, :width]))


def write_patches(
    folder: Path | str,
    patches: int,
    size: tuple[int, int],
    seed: int,
    options: SimulationOptions | None,
    workers: int | None,
    parcel_maps: Path | None,
    form: Form,
    parcels: GeoDataFrame | None = None,
) -> Path:
    """Write ``patches`` seasons in a form; other arguments are those of ``write_pastis``."""
    options = options or SimulationOptions()
    if patches < 1:
        raise ConfigError(f"The number of patches must be at least 1, not {patches}.")
    check_size(size)
    maps = _parcel_maps(parcel_maps, size)
    if maps and parcels is not None:
        raise ConfigError("--parcels and --parcel-maps are two layouts; leave one of them out.")
    contents: dict[str, Any] = {
        "version": _VERSION,
        "size": size,
        "seed": seed,
        "options": options.contents(),
        "maps": [str(path) for path in maps],
    }
    windows = None
    if parcels is not None:
        windows = ParcelFile.of(parcels)
        contents["parcels"] = [len(parcels), *np.round(parcels.total_bounds, 6).tolist()]
    names = [str(FIRST_ID + number) for number in range(patches)]
    patch = _Patches(size, seed, options, maps, windows, form)
    records = write_pieces(folder, {**contents, **form.mark()}, names, patch.write, workers)
    form.finish(Path(folder), [read_json(record) for record in records])
    return Path(folder)


def _parcel_maps(folder: Path | None, size: tuple[int, int]) -> list[Path]:
    """Find the maps in a folder; raise ``DatasetError`` where one cannot be used."""
    if folder is None:
        return []
    maps = sorted(Path(folder).glob("ParcelIDs_*.npy"))
    if not maps:
        raise DatasetError(
            f"{folder} holds no maps of parcels ParcelIDs_*.npy; give the ANNOTATIONS folder of a"
            " dataset."
        )
    for path in maps:
        shape = map_array(path, dimensions=2).shape
        if min(shape) < max(size):
            raise DatasetError(
                f"{path} has {' x '.join(map(str, shape))} pixels, less than the {max(size)} x"
                f" {max(size)} of a patch; use a smaller --size."
            )
    return maps


FOLD_COUNT = 5
"""Number of folds of PASTIS."""


def write_pastis(
    folder: Path | str,
    patches: int,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    options: SimulationOptions | None = None,
    workers: int | None = None,
    *,
    parcel_maps: Path | None = None,
    parcels: GeoDataFrame | None = None,
    centres: bool = False,
) -> Path:
    """Write simulated seasons in PASTIS's layout, in five folds; return the folder.

    Args:
        folder: New, empty, or of an earlier run with the same seed, size and options, which is
            completed.
        patches: Number of patches.
        size: Height and width in pixels.
        seed: The same seed gives the same patches.
        options: How seasons are simulated.
        workers: Number of processes; None takes one per core.
        parcel_maps: A folder with ``ParcelIDs_*.npy`` whose parcels are used in turn, turned and
            mirrored.
        parcels: Polygons of fields; each patch has a window of them, turned and mirrored, and what
            lies between them is drawn.
        centres: Write the centre targets too, which readers otherwise compute.

    Raises:
        OutputError: The folder cannot be written, or holds something else.
        ConfigError: A number is impossible.
        DatasetError: A map of parcels cannot be used.
    """
    return write_patches(
        folder, patches, size, seed, options, workers, parcel_maps, _PastisForm(centres), parcels
    )


@dataclass(frozen=True)
class _PastisForm:
    """PASTIS's layout."""

    centres: bool
    """Whether to write the centre targets."""

    def mark(self) -> dict[str, Any]:
        """Return what distinguishes this form from others."""
        return {"centres": self.centres}

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
        """Write the files of a patch."""
        save_images(folder, FIRST_ID + number, season.images_TCHW)
        save_labels(
            folder, FIRST_ID + number, season.classes_HW, season.parcels_HW, centres=self.centres
        )
        if season.cover_HW is not None:
            save_land_cover(folder, FIRST_ID + number, season.cover_HW)
        return _record(number, season)

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Write metadata and statistics."""
        save_normalisation(folder, _normalisation(records))
        save_metadata(folder, [_row(record) for record in records])


def _record(number: int, season: Season) -> dict[str, Any]:
    """Return what the dataset's metadata and statistics need of one patch."""
    # The sums are exact integers; float64 holds them.
    flat_CN = (
        season.images_TCHW.transpose(1, 0, 2, 3).reshape(len(PASTIS_BANDS), -1).astype(np.float64)
    )
    return {
        "patch": FIRST_ID + number,
        "fold": number % FOLD_COUNT + 1,
        "dates": [int(date.strftime("%Y%m%d")) for date in season.dates],
        "parcels": int(np.unique(season.parcels_HW[season.parcels_HW > 0]).size),
        "cover": float((season.parcels_HW > 0).mean()),
        "region": season.region,
        "epsg": season.epsg,
        "outline": season.outline(),
        "count": flat_CN.shape[1],
        "sum": flat_CN.sum(1).tolist(),
        "squares": np.einsum("cn,cn->c", flat_CN, flat_CN).tolist(),
    }


def _normalisation(records: list[dict[str, Any]]) -> dict[int, np.ndarray]:
    """Return mean and standard deviation of each band, 2 x C, in each fold that has patches."""
    folds = {}
    for fold in sorted({record["fold"] for record in records}):
        members = [record for record in records if record["fold"] == fold]
        count = sum(record["count"] for record in members)
        mean_C = np.sum([record["sum"] for record in members], axis=0) / count
        variance_C = np.sum([record["squares"] for record in members], axis=0) / count - mean_C**2
        folds[fold] = np.stack([mean_C, np.sqrt(variance_C)])
    return folds


def _row(record: dict[str, Any]) -> PatchRow:
    return PatchRow(
        record["patch"],
        record["fold"],
        tuple(datetime.strptime(str(day), "%Y%m%d").date() for day in record["dates"]),
        record["parcels"],
        record["cover"],
        record["region"],
        record["epsg"],
        record["outline"],
    )


CZECH_CLASS = {
    0: 0,  # background
    1: 1,  # meadow: permanent grassland
    2: 4,  # soft winter wheat: winter cereals
    3: 6,  # corn: maize
    4: 4,  # winter barley: winter cereals
    5: 5,  # winter rapeseed: rapeseed
    6: 3,  # spring barley: summer cereals
    7: 13,  # sunflower: other crops
    8: 12,  # grapevine: vineyards
    9: 8,  # beet: sugar beet
    10: 4,  # winter triticale: winter cereals
    11: 4,  # winter durum wheat: winter cereals
    12: 2,  # fruits, vegetables, flowers: annual fruit and vegetable
    13: 13,  # potatoes: other crops
    14: 7,  # leguminous fodder: annual forage crops
    15: 13,  # soybeans: other crops
    16: 10,  # orchard: permanent fruit
    17: 4,  # mixed cereal, which the simulator sows in autumn: winter cereals
    18: 13,  # sorghum: other crops
    19: 14,  # void: not classified
}
"""Class of S2TSCzCrop for each class of PASTIS."""

_NEW_CLASS = np.array([CZECH_CLASS[class_id] for class_id in range(len(CZECH_CLASS))], np.uint8)
_VALIDATION, _TEST, _PERIOD = (1, 8, 15), (2, 9, 16), 20


def write_s2tsczcrop(
    folder: Path | str,
    patches: int,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    options: SimulationOptions | None = None,
    workers: int | None = None,
    *,
    parcel_maps: Path | None = None,
    parcels: GeoDataFrame | None = None,
) -> Path:
    """Write simulated seasons in S2TSCzCrop's layout; arguments are those of ``write_pastis``.

    Of 20 patches, 14 are for training, 3 for validation and 3 for testing, as published; three
    patches are enough for one of each.
    """
    return write_patches(
        folder, patches, size, seed, options, workers, parcel_maps, _CzechForm(), parcels
    )


def set_of(number: int) -> SetName:
    """Return the set of a patch by its number; a larger dataset keeps the sets of a smaller one.

    >>> [set_of(number) for number in range(4)]
    ['train', 'val', 'test', 'train']
    """
    position = number % _PERIOD
    return "val" if position in _VALIDATION else "test" if position in _TEST else "train"


@dataclass(frozen=True)
class _CzechForm:
    """S2TSCzCrop's layout."""

    def mark(self) -> dict[str, Any]:
        """Return what distinguishes this form from others."""
        return {"layout": "S2TSCzCrop"}

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
        """Write the files of a patch."""
        classes_HW = _NEW_CLASS[season.classes_HW]
        save_arrays(folder, FIRST_ID + number, season.images_TCHW, classes_HW)
        return {
            "number": number,
            "dates": [day.isoformat() for day in season.dates],
            "epsg": season.epsg,
            "origin": list(season.origin),
            "background": float((classes_HW == 0).mean()),
            "region": season.region,
            "moments": moments(season.images_TCHW).tolist(),
        }

    def finish(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Write metadata and statistics."""
        patches = [_patch(record) for record in records]
        train = [
            record["moments"]
            for record, patch in zip(records, patches, strict=True)
            if patch.set == "train"
        ]
        save_band_statistics(folder, [np.array(moments_2C) for moments_2C in train])
        save_patches(folder, patches)


def _patch(record: dict[str, Any]) -> CzechPatch:
    left, top = record["origin"]
    return CzechPatch(
        FIRST_ID + record["number"],
        set_of(record["number"]),
        tuple(map(date.fromisoformat, record["dates"])),
        record["epsg"],
        (PIXEL_M, 0.0, left, 0.0, -PIXEL_M, top),
        {"Background_Cover": record["background"], "TILE": record["region"]},
    )
