"""Writing PASTIS's own layout on disk; no torch in it.

    DATA_S2/S2_<id>.npy                int16 T x 10 x H x W, reflectance x 10 000
    ANNOTATIONS/TARGET_<id>.npy        uint8 3 x H x W, classes in the first layer
    ANNOTATIONS/ParcelIDs_<id>.npy     int32 H x W, 0 outside parcels
    INSTANCE_ANNOTATIONS/{HEATMAP,INSTANCES,ZONES}_<id>.npy   on request
    metadata.geojson                   identifier, fold, dates and outline of each patch
    NORM_S2_patch.json                 mean and deviation of each band in each fold

Layout after VSainteuf/pastis-benchmark @ 43a0ece. Shape suffixes: T dates, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panoseg.data.pastis_metadata import FILE_NAME
from panoseg.files import atomic, write_json

if TYPE_CHECKING:
    from pyproj import Transformer

NORMALISATION_FILE = "NORM_S2_patch.json"
LAMBERT_93 = 2154
"""Code of the coordinate system in which the genuine dataset describes its patches."""


@dataclass(frozen=True)
class PatchRow:
    """What metadata.geojson says of a patch.

    fold: 1..5. dates: one an image, as they lie on disk. parcels: how many it has. cover: share of its pixels in parcels. tile:
    where it comes from, in a word. crs: coordinate system of ``outline``, as pyproj takes it; outline: its corners, the first
    repeated at the end.
    """

    id: int
    fold: int
    dates: tuple[date, ...]
    parcels: int
    cover: float
    tile: str
    crs: int | str
    outline: Sequence[tuple[float, float]]


def save_images(folder: Path, patch_id: int, images_TCHW: NDArray) -> None:
    """Write a patch's images, whole or not at all. images_TCHW: int16, reflectance x 10 000, bands in PASTIS's order."""
    _save(folder, "DATA_S2/S2", patch_id, images_TCHW.astype(np.int16))


def save_labels(folder: Path, patch_id: int, classes_HW: NDArray, parcels_HW: NDArray, *, centres: bool = False) -> None:
    """Write a patch's labels, each file whole or not at all.

    classes_HW: 0..19. parcels_HW: numbers of parcels, 0 outside. centres: the targets of the panoptic head too.
    """
    target_3HW = np.zeros((3, *classes_HW.shape), np.uint8)
    target_3HW[0] = classes_HW
    _save(folder, "ANNOTATIONS/TARGET", patch_id, target_3HW)
    _save(folder, "ANNOTATIONS/ParcelIDs", patch_id, parcels_HW.astype(np.int32))
    if centres:
        for name, array in _centre_maps(classes_HW, parcels_HW).items():
            _save(folder, f"INSTANCE_ANNOTATIONS/{name}", patch_id, array)


def _save(folder: Path, name: str, patch_id: int, array: NDArray) -> None:
    with atomic(folder / f"{name}_{patch_id}.npy") as temporary:
        np.save(temporary, array)


def _centre_maps(classes_HW: NDArray, parcels_HW: NDArray) -> dict[str, NDArray]:
    from panoseg.data.centres import centre_targets, number_parcels  # torch, which workers do without

    instances_HW = number_parcels(parcels_HW, classes_HW)
    targets = centre_targets(instances_HW, classes_HW)
    return {
        "HEATMAP": targets.heatmap_HW.numpy().astype(np.float64),
        "INSTANCES": instances_HW,
        "ZONES": targets.zone_HW.numpy(),
    }


def save_normalisation(folder: Path, of_fold: Mapping[int, NDArray]) -> None:
    """Write NORM_S2_patch.json. of_fold: mean and deviation of each band, 2 x C in PASTIS's order, of folds with patches."""
    table = {f"Fold_{fold}": {"mean": mean.tolist(), "std": std.tolist()} for fold, (mean, std) in sorted(of_fold.items())}
    write_json(folder / NORMALISATION_FILE, table)


def save_metadata(folder: Path, rows: Sequence[PatchRow], epsg: int = LAMBERT_93) -> None:
    """Write metadata.geojson: a feature a patch, outlines in the coordinate system ``epsg``."""
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    features = [_feature(index, row, epsg) for index, row in enumerate(rows)]
    write_json(folder / FILE_NAME, {"type": "FeatureCollection", "features": features, "crs": crs})


@lru_cache(maxsize=16)
def _transformer(crs: int | str, epsg: int) -> Transformer:
    """Made once, since thousands of patches have few coordinate systems."""
    from pyproj import Transformer

    return Transformer.from_crs(crs, epsg, always_xy=True)


def _feature(index: int, row: PatchRow, epsg: int) -> dict[str, Any]:
    transformer = _transformer(row.crs, epsg)
    properties = {
        "Fold": row.fold,
        "ID_PATCH": row.id,
        "N_Parcel": row.parcels,
        "Parcel_Cover": row.cover,
        "TILE": row.tile,
        "dates-S2": {str(position): int(day.strftime("%Y%m%d")) for position, day in enumerate(row.dates)},
        "id": str(row.id),
    }
    ring = [list(transformer.transform(x, y)) for x, y in row.outline]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(index), "type": "Feature", "properties": properties, "geometry": geometry}
