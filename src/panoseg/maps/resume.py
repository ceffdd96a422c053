"""The folder of an unfinished map, which only the same command continues.

What the map depends on is recorded in ``unfinished/plan.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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
"""Name of the folder inside a map's folder that holds its finished windows."""
_PLAN = "plan.json"
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
"""Options that may differ between two starts: they do not change the predicted tiles, or only
through the dates, which are compared themselves.
"""


def fingerprint(
    path: Path,
    cube: xr.Dataset,
    season: Season,
    weights: Weights,
    options: MapOptions,
    outline: BaseGeometry | None,
) -> dict[str, Any]:
    """Return all that the predicted tiles depend on, as a JSON-ready dictionary."""
    digest = hashlib.sha256(json.dumps(weights.card.to_json(), sort_keys=True).encode())
    for name in sorted(weights.state):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights.state[name].cpu().numpy()).tobytes())
    return {
        "panoseg": panoseg.__version__,
        "cube": {
            "path": str(path.resolve()),
            "files": signature(path),
            "grid": str(cube.odc.geobox),
            "dates": season.dates_T.astype(str).tolist(),
        },
        "weights": digest.hexdigest(),
        "options": {
            name: value for name, value in options.to_json().items() if name not in _FREE_OPTIONS
        },
        "outline": None if outline is None else hashlib.sha256(outline.normalize().wkb).hexdigest(),
    }


def begin(out: Path, plan: dict[str, Any]) -> Path:
    """Create or continue a map in ``out``, and return the folder for its finished windows.

    Args:
        out: A folder that is new, empty, or holds an unfinished map of the same plan.
        plan: The result of ``fingerprint``.

    Raises:
        OutputError: For any other folder.
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
                f"{out} holds an unfinished map that differs in its {' and '.join(differing)}. Run"
                f" it with the same cube, weights and options, choose another folder, or remove"
                f" {work}."
            )
    else:
        # Windows without a plan are left when ``finish`` is killed. Folders stay: a temporary cube
        # may lie there, with a plan of its own.
        try:
            for entry in work.glob("*"):
                if entry.is_file():
                    entry.unlink()
        except OSError as error:
            raise output_error(work, error) from error
        write_json(recorded, plan)
    return work


def finish(work: Path) -> None:
    """Remove the folder of a finished map.

    Its plan goes first, so that after a kill the windows that are left belong to no plan; then
    whole cubes.

    Raises:
        OutputError: If something cannot be removed.
    """
    try:
        (work / _PLAN).unlink()
        for cube in work.glob("*.zarr"):
            remove_folder(cube)
        shutil.rmtree(work)
    except OSError as error:
        raise output_error(work, error) from error
