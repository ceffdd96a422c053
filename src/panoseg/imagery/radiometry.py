"""From the numbers in a file to reflectance: scale, offset and no data, as each catalogue really delivers them.

From processing baseline 04.00 on (25 January 2022, and older scenes that were processed again since) a product holds
reflectance x 10 000 + 1000, so that noise below zero survives. Copies of the products differ in whether the 1000 is still in
the numbers, and their metadata do not always tell the truth; docs/radiometry.md has the rule as a table.

Sources: ESA, Sentinel-2 products upgrade of baseline 04.00; microsoft/PlanetaryComputer issue 134; Element84/earth-search
issues 9, 66 and 71; MTD_MSIL2A.xml of the products.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoseg.imagery.bands import SCENE_CLASSIFICATION

FIRST_BASELINE_WITH_OFFSET = 4.0
_MOST_BASELINES = 100  # they have two digits
OFFSET = -0.1
# Reflectance x 10 000 of a pixel that is seen and would have 0, which means no data in a cube.
DARKEST = 1.0
_DEFAULT_SCALE = 1e-4
_BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_APPLIED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_PRODUCT_NAME = re.compile(r"_N(\d{2})(\d{2})_")
# Land is hardly ever darker than nothing: a larger share of negative reflectance says that the 1000 was taken off before.
_MOST_NEGATIVE = 0.02


@dataclass(frozen=True)
class Radiometry:
    """What a number in a file means: reflectance = number x ``scale`` + ``offset``.

    nodata: the number that means none. doubtful: the metadata say that the offset is still in the numbers, in a catalogue that
    is known to say so wrongly; ``without_offset`` looks at the numbers.
    """

    scale: float
    offset: float
    nodata: float
    doubtful: bool = False


def radiometry(asset: dict[str, Any], properties: dict[str, Any], band: str, name: str = "") -> Radiometry:
    """The radiometry of a STAC asset of ``band``, in an item with these ``properties`` and this ``name``.

    The offset is, by the first line that fits: 0 where the catalogue says that it has subtracted it; 0 before baseline 04.00,
    whatever is stated; what the asset states; by the baseline; 0. Raises ``ValueError`` for numbers that are none.
    """
    described = {**asset, **(asset.get("raster:bands") or asset.get("bands") or [{}])[0]}
    nodata = float(described.get("nodata") or 0)
    if band == SCENE_CLASSIFICATION:
        return Radiometry(1.0, 0.0, nodata)
    scale = float(described.get("scale", described.get("raster:scale", _DEFAULT_SCALE)))
    stated = described.get("offset", described.get("raster:offset"))
    baseline = processing_baseline(properties, name)
    applied = next((properties[key] for key in _APPLIED_KEYS if key in properties), None)
    if applied is True or (baseline is not None and baseline < FIRST_BASELINE_WITH_OFFSET):
        offset = 0.0
    elif stated is not None:
        offset = float(stated)
    else:
        offset = OFFSET if baseline is not None else 0.0
    if not (math.isfinite(scale) and math.isfinite(offset)):
        raise ValueError(f"scale {scale} and offset {offset}")
    return Radiometry(scale, offset, nodata, doubtful=applied is False and offset != 0)


def processing_baseline(properties: dict[str, Any], name: str = "") -> float | None:
    """The processing baseline of a product, 4.0 for 04.00; from its properties, else from its name; None where neither tells.

    Raises ``ValueError`` for one that is none.

    >>> processing_baseline({}, "S2A_MSIL2A_20200301T090901_N0500_R050_T35UPU_20230630T033416")
    5.0
    """
    for key in _BASELINE_KEYS:
        if properties.get(key):
            baseline = float(properties[key])
            if not 0 <= baseline < _MOST_BASELINES:  # NaN is neither before nor after 04.00
                raise ValueError(f"{key} {properties[key]!r}")
            return baseline
    match = _PRODUCT_NAME.search(f"{properties.get('s2:product_uri', '')} {name}")
    return float(f"{match[1]}.{match[2]}") if match else None


def without_offset(numbers: np.ndarray, meaning: Radiometry) -> bool:
    """Whether numbers of which the offset is said to be part do not hold it: too many would be negative reflectance.

    numbers: of a visible band, any shape; those that mean no data count for nothing.
    """
    valid = numbers[np.isfinite(numbers) & (numbers != meaning.nodata)]
    return bool(valid.size and np.mean(valid * meaning.scale + meaning.offset < 0) > _MOST_NEGATIVE)
