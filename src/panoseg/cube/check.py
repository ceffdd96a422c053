"""Check that a dataset is a cube, bring it into panoseg's conventions, and read its report.

Conventions: dims (time, y, x), north up, pixels of 10 m in a projected coordinate system, one
float32 variable for each band with reflectance x 10 000, 0 or NaN = no data, one date a day,
ascending.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401 - gives datasets their .odc
import xarray as xr

from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import PIXEL_M, REFERENCE_DATE, SCENE_CLASSIFICATION, band_name

RECORD = "panoseg"
"""Name of the attribute in which a cube that panoseg made says what it was made of."""
SMALLEST_SIDE = 16
"""Pixels a side of the smallest cube that a network can map."""
_PIXEL_TOLERANCE = 0.1
_NAMED = 10  # scenes in the notes of a map
_DIMS = {
    "time": ("time", "t", "date", "dates"),
    "y": ("y", "northing", "lat", "latitude"),
    "x": ("x", "easting", "lon", "longitude"),
}
_BAND_DIMS = ("band", "bands", "wavelength", "variable")
_SAMPLED_DATES, _SAMPLED_PIXELS = 5, 64


@dataclass(frozen=True)
class CubeReport:
    """What a cube on disk was made of."""

    path: Path
    """The cube."""
    dates: tuple[str, ...]
    """Dates in ISO format, ascending."""
    clear: tuple[float, ...]
    """Share 0..1 of the area that each date shows."""
    scenes: Mapping[str, Sequence[str]]
    """Date -> ids of its scenes."""
    left_out_dates: Mapping[str, str]
    """Date -> reason."""
    left_out_scenes: Mapping[str, str]
    """Id of a scene -> reason."""
    notes: tuple[str, ...]
    """A sentence each."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        number = sum(map(len, self.scenes.values()))
        head = (
            f"{len(self.dates)} dates of {number} scenes, {np.mean(self.clear):.0%} clear on"
            " average"
        )
        dates = [
            f"  {day}  {share:4.0%} clear"
            for day, share in zip(self.dates, self.clear, strict=True)
        ]
        left = [f"  {day}  left out: {reason}" for day, reason in self.left_out_dates.items()]
        scenes = [
            f"left out: scene {scene}: {reason}" for scene, reason in self.left_out_scenes.items()
        ]
        return [head, *sorted(dates + left), *scenes, *(f"note: {note}" for note in self.notes)]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the reader of a map should know of its cube."""
        named = [
            f"Scene {scene} was left out: {reason}."
            for scene, reason in self.left_out_scenes.items()
        ]
        more = [f"{len(named) - _NAMED} more scenes were left out."] if len(named) > _NAMED else []
        return (*self.notes, *named[:_NAMED], *more)


def report_of(cube: xr.Dataset, path: Path | str = "") -> CubeReport | None:
    """Return the report in the attributes of a cube that panoseg made; None of another cube."""
    try:
        record = json.loads(cube.attrs[RECORD])
        clear = tuple(record["clear"][day] for day in record["scenes"])
        left_out = record["left_out_dates"], record["left_out_scenes"]
        return CubeReport(
            Path(path),
            tuple(record["scenes"]),
            clear,
            record["scenes"],
            *left_out,
            tuple(record["notes"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def check_cube(cube: xr.Dataset, bands: Sequence[str]) -> xr.Dataset:
    """Return ``cube`` in the conventions of this module, still lazy.

    Only a small sample of its values is read, to find their scale. These are converted: other names
    and orders of bands and dims, south-up grids, unsorted dates, several acquisitions a day
    (merged: the first that has data), reflectance 0..1.

    Args:
        cube: A dataset as ``open_cube`` returns it.
        bands: Bands that are needed; others are dropped.

    Raises:
        CubeError: The dataset cannot be brought into the conventions.
    """
    cube = _name_dims(_split_bands(cube))
    cube = _name_bands(cube, bands)
    cube = _north_up(cube)
    _check_grid(cube)
    cube = _one_time_a_day(cube)
    return _as_reflectance(cube, bands)


def _split_bands(cube: xr.Dataset) -> xr.Dataset:
    """Return one variable for each band, if all bands lie in one variable along a dimension."""
    for name, variable in cube.data_vars.items():
        for dim in variable.dims:
            if str(dim).lower() in _BAND_DIMS and dim in cube.coords:
                labels = cube.indexes[dim]
                renamed = variable.assign_coords({dim: [str(label) for label in labels]})
                return (
                    renamed.to_dataset(dim)
                    .assign_coords(cube.drop_dims(str(dim)).coords)
                    .assign_attrs(cube[name].attrs)
                )
    return cube


def _name_dims(cube: xr.Dataset) -> xr.Dataset:
    """Rename the dimensions to time, y and x."""
    names: dict[Hashable, str] = {}
    for wanted, aliases in _DIMS.items():
        found = next((dim for dim in cube.dims if str(dim).lower() in aliases), None)
        if found is None:
            raise CubeError(
                f"The cube has the dimensions {', '.join(map(str, cube.dims)) or '(none)'}, and"
                f" needs time, y and x: name the {wanted} dimension {wanted!r}."
            )
        if found != wanted:
            names[found] = wanted
    return cube.rename(names)


def _name_bands(cube: xr.Dataset, bands: Sequence[str]) -> xr.Dataset:
    """Return the asked bands under their own names, in order, and SCL."""
    found: dict[str, str] = {}
    for name, variable in cube.data_vars.items():
        band = band_name(str(name))
        if band is None or set(variable.dims) != {"time", "y", "x"}:
            continue
        if band in found:
            raise CubeError(
                f"The variables {found[band]} and {name} are both band {band}: take one of them"
                " out."
            )
        found[band] = str(name)
    missing = [band for band in bands if band not in found]
    if missing:
        present = ", ".join(map(str, cube.data_vars)) or "none"
        raise CubeError(
            f"The cube lacks {', '.join(missing)} (its variables: {present}): add them over (time,"
            " y, x), or rename the variables (B02 or blue, B05 or rededge1, ...)."
        )
    kept = [*bands, *([SCENE_CLASSIFICATION] if SCENE_CLASSIFICATION in found else [])]
    numeric = [band for band in kept if not np.issubdtype(cube[found[band]].dtype, np.number)]
    if numeric:
        raise CubeError(
            f"The variable {numeric[0]} holds {cube[found[numeric[0]]].dtype}: write the bands as"
            " numbers."
        )
    crs = cube.odc.crs
    if crs is None:
        raise CubeError(
            "The cube has no coordinate system in a grid mapping variable such as spatial_ref:"
            " write one with odc-geo, in the UTM zone of your area:"
            ' cube.odc.assign_crs("EPSG:32631").'
        )
    named = xr.Dataset(
        {band: cube[found[band]].transpose("time", "y", "x") for band in kept}, attrs=cube.attrs
    )
    others = [name for name in named.coords if name not in ("time", "y", "x")]
    placed: xr.Dataset = named.drop_vars(others).odc.assign_crs(crs)
    return placed


def _north_up(cube: xr.Dataset) -> xr.Dataset:
    """Turn axes so that y descends and x ascends."""
    turned = {
        dim
        for dim in ("y", "x")
        if cube.sizes[dim] > 1 and (cube[dim][1] > cube[dim][0]) == (dim == "y")
    }
    return cube.isel({dim: slice(None, None, -1) for dim in turned})


def _check_grid(cube: xr.Dataset) -> None:
    """Check size, spacing, coordinate system and pixels."""
    height, width = cube.sizes["y"], cube.sizes["x"]
    if min(height, width) < SMALLEST_SIDE:
        raise CubeError(
            f"The cube has {height} x {width} pixels, and needs at least {SMALLEST_SIDE} x"
            f" {SMALLEST_SIDE}: take a larger area."
        )
    grid = cube.odc.geobox
    steps = [np.diff(cube[dim].values.astype(np.float64)) for dim in ("y", "x")]
    if grid is None or not all(np.allclose(d, d.mean(), rtol=1e-3) for d in steps):
        raise CubeError(
            "The cube's x and y are not evenly spaced: resample it to the centres of pixels on a"
            " grid."
        )
    if grid.crs.geographic:
        name = f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else grid.crs.proj.name
        raise CubeError(
            f"The cube is in degrees ({name}): warp it to its UTM zone at {PIXEL_M:g} m."
        )
    pixel_m = [abs(float(side)) for side in (grid.resolution.x, grid.resolution.y)]
    if any(abs(side - PIXEL_M) > _PIXEL_TOLERANCE * PIXEL_M for side in pixel_m):
        raise CubeError(
            f"The cube has pixels of {pixel_m[0]:g} x {pixel_m[1]:g} m: resample it to {PIXEL_M:g}"
            " m."
        )


def _one_time_a_day(cube: xr.Dataset) -> xr.Dataset:
    """Sort the dates, and merge acquisitions of one day.

    A pixel takes the first acquisition of the day that has data there.
    """
    if cube.sizes["time"] == 0:
        raise CubeError("The cube has no date: take a longer season.")
    times = cube["time"].values
    if not np.issubdtype(times.dtype, np.datetime64) or np.isnat(times).any():
        raise CubeError(
            f"The cube's time holds {times.dtype} values instead of dates: write a units attribute"
            f' such as "days since {REFERENCE_DATE}".'
        )
    order = np.argsort(times, kind="stable")
    if (np.diff(order) < 0).any():  # otherwise spared, because dask would copy its whole graph
        cube = cube.isel(time=order)
    cube = cube.assign_coords(time=times[order].astype("datetime64[D]").astype("datetime64[ns]"))
    days, first = np.unique(cube["time"].values, return_index=True)
    if len(days) == cube.sizes["time"]:
        return cube
    merged = []
    for start, end in zip(first, [*first[1:], cube.sizes["time"]], strict=True):
        day = cube.isel(time=slice(start, start + 1))
        for other in range(start + 1, end):
            later = cube.isel(time=slice(other, other + 1))
            day = day.where(day.notnull() & (day != 0), later)
        merged.append(day)
    return xr.concat(merged, "time")


def _as_reflectance(cube: xr.Dataset, bands: Sequence[str]) -> xr.Dataset:
    """Return every band as float32 x 10 000; reflectance 0..1 is recognised by its values.

    A cube that panoseg made has that scale, also where its middle is dark water, or was never
    fetched.
    """
    if report_of(cube) is not None:
        return cube.assign({band: cube[band].astype(np.float32) for band in bands})
    factors = {band: _factor(values, band) for band, values in _sample(cube, bands).items()}
    known = {factor for factor in factors.values() if factor is not None}
    if not known:
        raise CubeError(
            "The cube holds only 0 and NaN where it was sampled, instead of reflectance x 10 000:"
            " check the area and the dates."
        )
    if len(known) > 1:
        odd = min(factors, key=lambda band: list(factors.values()).count(factors[band]))
        raise CubeError(
            f"{odd} has another scale than the other bands: scale all bands to reflectance x 10"
            " 000."
        )
    factor = known.pop()
    return cube.assign({band: cube[band].astype(np.float32) * np.float32(factor) for band in bands})


def _sample(cube: xr.Dataset, bands: Sequence[str]) -> dict[str, np.ndarray]:
    """Return valid values of each band from the middle of a few dates spread over the cube."""
    dates = np.unique(np.linspace(0, cube.sizes["time"] - 1, _SAMPLED_DATES).round().astype(int))
    top, left = (max((cube.sizes[dim] - _SAMPLED_PIXELS) // 2, 0) for dim in ("y", "x"))
    rows, columns = slice(top, top + _SAMPLED_PIXELS), slice(left, left + _SAMPLED_PIXELS)
    # By threads of this process, see window.read_window.
    loaded = cube[list(bands)].isel(time=dates, y=rows, x=columns).compute(scheduler="threads")
    return {
        band: (values := loaded[band].values)[np.isfinite(values) & (values != 0)] for band in bands
    }


def _factor(values: np.ndarray, band: str) -> float | None:
    """Return the factor from the values of a band to reflectance x 10 000; None for no values.

    Snow and cloud reach 1.5, and the median of land is never below 0.005, so the scales do not
    overlap.
    """
    if values.size == 0:
        return None
    median, largest = float(np.median(values)), float(values.max())
    if largest <= 2.0 and median < 2.0:
        return 1e4
    if 20 <= median <= 20_000:
        return 1.0
    raise CubeError(
        f"{band} has values around {median:g}: scale it to reflectance x 10 000 or 0 to 1, or write"
        " a scale_factor."
    )
