"""Simulated seasons on disk in S2TSCzCrop's own layout, which ``panoseg.data.s2tsczcrop_files`` describes.

The simulator grows PASTIS's crops; ``CZECH_CLASS`` says what they are called here. Flax and hemp, and hops, are not grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.data.s2tsczcrop_files import CzechPatch, SetName, save_arrays, save_band_statistics, save_patches
from panoseg.data.simulation.landscape import PIXEL_M
from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.patches import FIRST_ID, write_patches
from panoseg.data.simulation.season import Season
from panoseg.data.statistics import moments

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
) -> Path:
    """Write ``patches`` seasons in S2TSCzCrop's layout; arguments and errors as of ``write_pastis``.

    Of 20 patches, 14 are to train, 3 to validate and 3 to test, as published; three are enough for one of each.
    """
    return write_patches(folder, patches, size, seed, options, workers, parcel_maps, _CzechForm())


def set_of(number: int) -> SetName:
    """The set of the patch with that number; a larger dataset keeps the sets of a smaller one.

    >>> [set_of(number) for number in range(4)]
    ['train', 'val', 'test', 'train']
    """
    position = number % _PERIOD
    return "val" if position in _VALIDATION else "test" if position in _TEST else "train"


@dataclass(frozen=True)
class _CzechForm:
    """Seasons as S2TSCzCrop has them."""

    def mark(self) -> dict[str, Any]:
        return {"layout": "S2TSCzCrop"}

    def save(self, folder: Path, number: int, season: Season) -> dict[str, Any]:
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
        patches = [_patch(record) for record in records]
        train = [record["moments"] for record, patch in zip(records, patches, strict=True) if patch.set == "train"]
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
