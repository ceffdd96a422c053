"""What makes two maps the same, so that an unfinished one is continued only by its own command."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.season import Season
from panoseg.errors import OutputError
from panoseg.files import new_folder, output_error, remove_folder, signature, write_json
from panoseg.maps.options import MapOptions
from panoseg.models.weights import Weights

UNFINISHED = "unfinished"
_PLAN = "plan.json"
# What does not touch the predicted tiles may differ between the first start and the next.
_FREE_OPTIONS = (
    "min_area_ha",
    "simplify",
    "gpkg",
    "pmtiles",
    "rows_per_file",
    "year",
    "min_dates",
    "min_clear",
    "max_dates",
    "device",
)

_OLD_NAMES = {"tta": "views"}
"""Names of options in plans that earlier versions wrote."""


def fingerprint(
    path: Path,
    cube: xr.Dataset,
    season: Season,
    weights: Weights,
    options: MapOptions,
    outline: BaseGeometry | None,
) -> dict[str, Any]:
    """Everything that the predicted tiles depend on, JSON-ready."""
    chosen = asdict(options)
    return {
        "panoseg": panoseg.__version__,
        "cube": {
            "path": str(path.resolve()),
            "files": signature(path),
            "grid": str(cube.odc.geobox),
            "dates": season.dates_T.astype(str).tolist(),
        },
        "weights": _digest(weights),
        "options": {
            _OLD_NAMES.get(name, name): value
            for name, value in chosen.items()
            if name not in _FREE_OPTIONS
        },
        "outline": None if outline is None else hashlib.sha256(outline.normalize().wkb).hexdigest(),
    }


def begin(out: Path, plan: dict[str, Any]) -> Path:
    """The folder for finished blocks inside ``out``, which is new, empty, or holds an unfinished
    map of the same plan.

    Raises ``OutputError`` for any other folder.
    """
    out = new_folder(out, resumable=UNFINISHED)
    work = out / UNFINISHED
    recorded = work / _PLAN
    if recorded.is_file():
        try:
            earlier = json.loads(recorded.read_text(encoding="utf-8"))
        except ValueError:
            earlier = {}
        differing = [name for name in plan if earlier.get(name) != plan[name]]
        if differing:
            raise OutputError(
                f"{out} holds an unfinished map that differs in its {' and '.join(differing)}",
                "the same cube, weights and options",
                f"choose another folder, or remove {work}",
            )
    else:
        _clear(
            work
        )  # a map that was killed while it took its blocks away has lost their plan first
        write_json(recorded, plan)
    return work


def _clear(work: Path) -> None:
    """Remove the blocks of no plan; a cube that is not kept, which may lie beside them, has a plan
    of its own.
    """
    try:
        for entry in work.glob("*"):  # of a folder that is not there yet: none
            if entry.is_file():
                entry.unlink()
    except OSError as error:
        raise output_error(work, error) from error


def finish(work: Path) -> None:
    """Remove the folder of a finished map: its plan first, so that after a kill its blocks belong
    to none, then whole cubes.

    Raises ``OutputError``.
    """
    try:
        (work / _PLAN).unlink()
        for cube in work.glob("*.zarr"):
            remove_folder(cube)
        shutil.rmtree(work)
    except OSError as error:
        raise output_error(work, error) from error


def _digest(weights: Weights) -> str:
    digest = hashlib.sha256(json.dumps(weights.card.to_json(), sort_keys=True).encode())
    for name in sorted(weights.state):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights.state[name].cpu().numpy()).tobytes())
    return digest.hexdigest()
