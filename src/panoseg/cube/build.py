"""Scenes + a grid -> a cube on disk: dates chosen by what they show, fetched by threads window by window, resumed after a stop.

A scene that cannot be read is left out: its date is made again of the others, the log and the cube's record name it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry.base import BaseGeometry

import panoseg
from panoseg.cube.dates import Dates
from panoseg.cube.options import TEN_BANDS, CubeOptions
from panoseg.cube.record import RECORD, CubeReport, report_of
from panoseg.cube.store import begin, discard, finish, work_folder
from panoseg.errors import OutputError
from panoseg.files import making, output_error
from panoseg.imagery.remote import check_keys
from panoseg.imagery.scenes import Scene

_FREE_OPTIONS = ("threads",)


def build_cube(
    scenes: Sequence[Scene],
    grid: GeoBox,
    out: Path,
    options: CubeOptions,
    outline: BaseGeometry,
    *,
    bands: Sequence[str] = TEN_BANDS,
    title: str = "",
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> CubeReport:
    """Make the cube of ``scenes`` on ``grid`` as the Zarr store ``out``, which appears whole or not at all.

    outline: in degrees; dates are chosen by what they show inside it, and nothing is fetched farther away than the margin.
    left_out: scenes that were no scenes, with the reason, for the report. The same call continues a cube that was stopped, and
    gives the report of one that is finished; the bytes are the same. Raises ``CubeError`` where too few scenes can be read and
    ``OutputError``.
    """
    check_keys(asset.href for scene in scenes for asset in scene.assets.values())
    plan = _plan(scenes, grid, options, outline, bands)
    if not out.exists():
        with making(work_folder(out), of=out):
            if not out.exists():  # another command may just have finished it
                record = {"title": title, "plan": plan, "left_out_scenes": dict(left_out or {}), "notes": list(notes)}
                _make(scenes, grid, out, options, outline, bands, record)
    return _finished(out, plan)


def _make(
    scenes: Sequence[Scene],
    grid: GeoBox,
    out: Path,
    options: CubeOptions,
    outline: BaseGeometry,
    bands: Sequence[str],
    known: Mapping[str, Any],
) -> None:
    """Make a cube. known: of its record, before a pixel is read."""
    work = begin(out, known["plan"])
    try:
        dates = Dates(scenes, grid, work, options, outline, bands)
        with warnings.catch_warnings(
            action="ignore", category=NotGeoreferencedWarning
        ):  # an error that names its scene follows
            chosen, left_out_dates = dates.choose()
            dates.fetch(chosen)
        found = dates.record(chosen, left_out_dates)
        record = {
            **known,
            **found,
            "left_out_scenes": dict(sorted({**known["left_out_scenes"], **found["left_out_scenes"]}.items())),
            "notes": [*known["notes"], *found["notes"]],
        }
        finish(work, out, list(record["scenes"]), bands, grid, list(record["clear"].values()), record)
    except OSError as error:
        raise output_error(out, error) from error


def _plan(
    scenes: Sequence[Scene], grid: GeoBox, options: CubeOptions, outline: BaseGeometry, bands: Sequence[str]
) -> dict[str, Any]:
    """Everything that the bytes of a cube depend on, JSON-ready."""
    given = [
        (scene.id, str(scene.time), sorted((b, a.href, repr(a.meaning)) for b, a in scene.assets.items())) for scene in scenes
    ]
    return {
        "panoseg": panoseg.__version__,
        "grid": f"{grid.crs} {grid.shape[0]} x {grid.shape[1]} {tuple(grid.affine)[:6]}",
        "outline": hashlib.sha256(shapely.to_wkb(shapely.normalize(outline))).hexdigest(),
        "scenes": hashlib.sha256(json.dumps(given).encode()).hexdigest(),
        "bands": list(bands),
        "options": {
            name: value for name, value in json.loads(json.dumps(asdict(options))).items() if name not in _FREE_OPTIONS
        },
    }


def _finished(out: Path, plan: Mapping[str, Any]) -> CubeReport:
    """The report of a cube that is there already, if it is the one that is asked for."""
    try:
        with xr.open_dataset(out, engine="zarr", consolidated=False, chunks={}) as cube:
            report = report_of(cube, out)
            same = report is not None and json.loads(cube.attrs[RECORD])["plan"] == plan
    except Exception:  # whatever it is, it is not ours
        report, same = None, False
    if report is None or not same:
        raise OutputError(f"{out} exists and is another cube", "a new name", "choose another --out, or remove it")
    discard(work_folder(out))
    return report
