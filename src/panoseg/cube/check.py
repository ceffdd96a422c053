"""Bring a dataset of any origin into panoseg's conventions, and say how it was understood.

Conventions: dims (time, y, x), north up, pixels of 10 m in a projected coordinate system, one
float32 variable for each band with reflectance x 10 000, 0 or NaN = no data, one date a day,
ascending.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import odc.geo.xr  # noqa: F401 - gives datasets their .odc
import xarray as xr
from pyproj import Geod, Transformer

from panoseg.cube import ReadOptions
from panoseg.cube.metadata import (
    OPENED,
    RECORD,
    bands_of_labels,
    find_crs,
    find_transform,
    labels_of_dim,
    labels_of_variables,
    note_far_place,
    report_of,
)
from panoseg.cube.times import decode_times, is_time, one_time_a_day
from panoseg.cube.values import Decoding, as_reflectance, decode, stated_nodata, states_offset
from panoseg.errors import CubeError, MissingBandsError
from panoseg.imagery.sentinel2 import PIXEL_M, SCENE_CLASSIFICATION

SMALLEST_SIDE = 16
"""Pixels a side of the smallest cube that a network can map."""
LARGEST_SIDE = 200_000
"""Pixels a side of the largest cube that is read."""
_PIXEL_TOLERANCE = 0.1
_CORNER_TOLERANCE = 0.01  # of a pixel
_MOST_STRETCHED = 0.05
_DIMS = {
    "y": ("y", "northing", "lat", "latitude", "row", "rows", "projection_y_coordinate"),
    "x": ("x", "easting", "lon", "longitude", "column", "columns", "projection_x_coordinate"),
}
_BAND_DIMS = (
    "band",
    "bands",
    "band_name",
    "wavelength",
    "variable",
    "channel",
    "channels",
    "spectral",
    "bnd",
)
_BASELINE_NAMES = ("s2:processing_baseline", "processing:version", "processing_baseline")
_APPLIED_NAMES = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_NEWER_BASELINE = 4.0
# Others may contradict what was found.
_KEPT_ATTRIBUTES = (RECORD, OPENED, "title", "source")


@dataclass(frozen=True, eq=False)
class Reading:
    """A cube in the conventions of this module, and how its file was understood."""

    cube: xr.Dataset
    """The cube, lazy."""
    bands: Mapping[str, str]
    """Band -> its name in the file."""
    crs_from: str
    """Where the coordinate system is stated."""
    decoding: Decoding
    """How its numbers became reflectance."""
    notes: tuple[str, ...]
    """A sentence for everything odd."""


def check_cube(
    cube: xr.Dataset,
    bands: Sequence[str],
    options: ReadOptions | None = None,
    fewest_bands: int | None = None,
) -> xr.Dataset:
    """Return ``cube`` in the conventions of this module, still lazy; see ``read_dataset``."""
    return read_dataset(cube, bands, options, fewest_bands).cube


def read_dataset(
    cube: xr.Dataset,
    bands: Sequence[str],
    options: ReadOptions | None = None,
    fewest_bands: int | None = None,
) -> Reading:
    """Bring a dataset into the conventions of this module.

    Only a sample of its values is read, to find their scale and what is odd. These are converted:
    other names and orders of bands and dims, south-up grids, coordinates of corners, any calendar,
    unsorted dates, several acquisitions a day (merged: the first that has data), stated scale,
    offset and no data, reflectance 0..1, and numbers that are no reflectance.

    Args:
        cube: A dataset as ``open_cube`` returns it.
        bands: Bands that are needed; others are dropped.
        options: What the file does not say.
        fewest_bands: How many of ``bands`` are enough; None if all are needed. Those that are
            missing are left out of the cube.

    Raises:
        CubeError: The dataset cannot be brought into the conventions.
    """
    options = options or ReadOptions()
    crs, crs_from, notes = find_crs(cube)
    if options.crs_wkt is not None:
        crs, crs_from, notes = options.crs_wkt, "--crs", []
    cube = _name_dims(_without_single_dims(cube))
    placed, more = _place(cube)
    notes += more
    newer_T = _newer_baseline(placed)
    named, names = _name_bands(placed, bands, options, min(fewest_bands or len(bands), len(bands)))
    missing = [band for band in bands if band not in names]
    if missing:
        notes.append(
            f"The cube lacks {', '.join(missing)}; the map does without, and pictures and NDVI take"
            " the nearest bands."
        )
        bands = list(names)
    if crs is None:
        raise CubeError(
            "The cube states no coordinate system: pass the one of its x and y with --crs, in most"
            " cases a UTM zone such as EPSG:32631."
        )
    newer = None if newer_T is None else xr.DataArray(newer_T, dims="time")
    if newer is not None:
        named = named.assign_coords(newer_baseline=newer)
    named, more = decode_times(named)
    notes += more
    newer_T = named["newer_baseline"].values if newer is not None else None
    others = [name for name in named.coords if name not in ("time", "y", "x")]
    named = named.drop_vars(others).odc.assign_crs(crs)
    named = _north_up(named)
    _check_grid(named)
    notes += note_far_place(named) or _stretched(named)
    decoding = Decoding(
        nodata=stated_nodata(named, bands, options, cube.attrs),
        stored_scale=_stored_scale(named[bands[0]]),
    )
    decoded = decode(named, bands, options, cube.attrs)
    if newer_T is not None and states_offset(named, bands, options):
        newer_T = np.zeros_like(newer_T)  # it is not subtracted once more
    # Other programs keep the attributes of a cube whose numbers they change to fractions.
    known = report_of(cube) is not None and all(
        np.issubdtype(named[band].dtype, np.integer) for band in bands
    )
    if options.scale is not None:
        known = True
        decoding = replace(decoding, factor=1e4, scale="--scale", stored_scale=options.scale)
    elif known:
        decoding = replace(decoding, scale="reflectance x 10 000, as panoseg writes it")
    else:
        _check_depth(named, bands)
    scaled, decoding = as_reflectance(decoded, bands, decoding, known, newer_T)
    return Reading(one_time_a_day(scaled), names, crs_from, decoding, (*notes, *decoding.notes))


def _stored_scale(band: xr.DataArray) -> float:
    try:
        return float(band.attrs.get("scale_factor", 1.0)) or 1.0
    except (TypeError, ValueError):
        return 1.0


def _without_single_dims(cube: xr.Dataset) -> xr.Dataset:
    """Drop dimensions of one entry that are neither time, bands, y nor x."""
    known = {name for names in _DIMS.values() for name in names} | set(_BAND_DIMS)
    single = [
        dim
        for dim, size in cube.sizes.items()
        if size == 1 and str(dim).lower() not in known and not is_time(cube, dim)
    ]
    return cube.squeeze(single, drop=True) if single else cube


def _name_dims(cube: xr.Dataset) -> xr.Dataset:
    """Rename the dimensions to time, y and x."""
    names: dict[Hashable, str] = {}
    for wanted in ("time", "y", "x"):
        found = _find_dim(cube, wanted)
        if found is None and wanted == "time" and len(cube.dims) == 2:
            raise CubeError(
                f"The cube has the dimensions {', '.join(map(str, cube.dims))} and none of dates:"
                " join the images of a season along a dimension 'time'."
            )
        if found is None:
            raise CubeError(
                f"The cube has the dimensions {', '.join(map(str, cube.dims)) or '(none)'}, and"
                f" needs time, y and x: name the {wanted} dimension {wanted!r}."
            )
        if found != wanted:
            names[found] = wanted
    taken = [name for name in names.values() if name in cube.variables]
    return cube.drop_vars(taken).rename(names)


def _find_dim(cube: xr.Dataset, wanted: str) -> Hashable | None:
    """Return the dimension of time, y or x by its name, or else by its attributes or values."""
    if wanted == "time":
        named = [dim for dim in cube.dims if is_time(cube, dim)]
        return next((dim for dim in named if str(dim).lower() == "time"), next(iter(named), None))
    for dim in cube.dims:
        if str(dim).lower() in _DIMS[wanted]:
            return dim
    for dim in cube.dims:
        attributes = cube[dim].attrs if dim in cube.coords else {}
        if (
            attributes.get("standard_name") == f"projection_{wanted}_coordinate"
            or str(attributes.get("axis", "")).lower() == wanted
        ):
            return dim
    return None


def _place(cube: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Return the cube with x and y as the centres of pixels, and notes.

    A stated transform tells whether x and y are corners, and gives them where there are none.
    """
    found = find_transform(cube)
    if found is None:
        if all(dim in cube.coords and _are_multiples(cube[dim]) for dim in ("y", "x")):
            return cube, [
                "x and y are multiples of 10 m: if they are the corners of pixels and not their"
                " centres, the map lies 5 m off its place."
            ]
        return cube, []
    transform, place = found
    steps = {"x": (transform.c, transform.a), "y": (transform.f, transform.e)}
    missing = [dim for dim in steps if dim not in cube.coords]
    if missing:
        centres = {
            dim: steps[dim][0] + steps[dim][1] * (np.arange(cube.sizes[dim]) + 0.5)
            for dim in missing
        }
        return cube.assign_coords(centres), []
    corners, centres_are = [], []
    for dim, (origin, step) in steps.items():
        values = cube[dim].values
        if not np.issubdtype(values.dtype, np.number) or values.size < 2:
            return cube, []
        first = values.min() if step > 0 else values.max()
        pixels = (first - origin) / step
        corners.append(abs(pixels) < _CORNER_TOLERANCE)
        # A part of a file keeps the transform of the whole.
        centres_are.append(pixels > 0 and abs(pixels % 1 - 0.5) < _CORNER_TOLERANCE)
    if all(corners):
        shifted = {dim: cube[dim].values + steps[dim][1] / 2 for dim in steps}
        note = f"x and y are the corners of pixels, as the {place} says; they were moved by half."
        return cube.assign_coords(shifted), [note]
    if not all(centres_are):
        return cube, [
            f"The {place} says another place than x and y, which are used; check where the map"
            " lies."
        ]
    return cube, []


def _are_multiples(coordinate: xr.DataArray) -> bool:
    values = coordinate.values
    if not np.issubdtype(values.dtype, np.number) or values.size < 2:
        return False
    return bool(np.all(values % PIXEL_M == 0) and abs(abs(values[1] - values[0]) - PIXEL_M) < 1e-6)


def _newer_baseline(cube: xr.Dataset) -> np.ndarray | None:
    """Return which dates state a baseline of 04.00 or newer and no subtracted offset: bool, T.

    None where no baseline is stated.
    """
    count = cube.sizes["time"]
    baseline = _over_dates(cube, _BASELINE_NAMES, count)
    if baseline is None:
        return None
    applied = _over_dates(cube, _APPLIED_NAMES, count)
    numbers = [_number(value) for value in baseline]
    if all(number is None for number in numbers):
        return None
    is_applied = [str(value).lower() in ("true", "1") for value in applied or [""] * count]
    return np.array(
        [
            number is not None and number >= _NEWER_BASELINE and not done
            for number, done in zip(numbers, is_applied, strict=True)
        ]
    )


def _over_dates(cube: xr.Dataset, names: Sequence[str], count: int) -> list[object] | None:
    """Return what a coordinate or an attribute says of each date; None if there is none."""
    for name in names:
        for key, value in cube.coords.items():
            if str(key).lower() == name and value.dims in (("time",), ()):
                return list(np.broadcast_to(value.values, count).tolist())
        for attributes in (cube.attrs, *(cube[key].attrs for key in cube.data_vars)):
            if name in attributes and np.size(attributes[name]) in (1, count):
                return list(np.broadcast_to(np.asarray(attributes[name]), count).tolist())
    return None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _name_bands(
    cube: xr.Dataset, bands: Sequence[str], options: ReadOptions, fewest: int
) -> tuple[xr.Dataset, dict[str, str]]:
    """Return the bands under their own names, in order, and SCL; and band -> name in the file."""
    arrays, sources = _labelled(cube)
    given = options.band_of
    unknown = [name for name in given if not any(name in source for source in sources)]
    if unknown:
        present = ", ".join(dict.fromkeys(label for source in sources for label in source))
        raise CubeError(
            f"--bands names {unknown[0]}, which the cube does not have; it has {present[:300]}."
        )
    best: dict[str, str] = {}
    keys: dict[str, Hashable] = {}
    for source in sources:
        found = {
            label: band
            for label, band in bands_of_labels(list(source)).items()
            if label not in given and band not in given.values()
        } | {label: band for label, band in given.items() if label in source}
        if len(set(found.values()) & set(bands)) > len(set(best.values()) & set(bands)):
            best, keys = found, source
    by_band: dict[str, str] = {}
    for label, band in best.items():
        if band in by_band:
            raise CubeError(
                f"The variables {by_band[band]} and {label} are both band {band}: choose one with"
                f" --bands {band}={label}."
            )
        by_band[band] = label
    missing = [band for band in bands if band not in by_band]
    if len(bands) - len(missing) < fewest:
        needs = "" if fewest == len(bands) else f"; at least {fewest} of its bands are needed"
        present = ", ".join(dict.fromkeys(label for source in sources for label in source))
        raise MissingBandsError(
            f"The cube lacks {', '.join(missing)} (it has: {present[:300] or 'nothing'}){needs}:"
            f" say which is which with --bands, e.g. --bands {missing[0]}=NAME."
        )
    bands = [band for band in bands if band in by_band]
    classes = _classification(cube, arrays, by_band, keys)
    chosen = {band: arrays[keys[by_band[band]]] for band in bands}
    if classes is not None:
        chosen[SCENE_CLASSIFICATION] = classes
    for band, array in chosen.items():
        if not np.issubdtype(array.dtype, np.number):
            raise CubeError(
                f"The variable {by_band.get(band, band)} holds {array.dtype}: write the bands as"
                " numbers."
            )
    named = xr.Dataset(
        {band: array.transpose("time", "y", "x") for band, array in chosen.items()},
        attrs={key: cube.attrs[key] for key in _KEPT_ATTRIBUTES if key in cube.attrs},
    )
    return named, {band: by_band[band] for band in bands}


def _classification(
    cube: xr.Dataset,
    arrays: Mapping[Hashable, xr.DataArray],
    by_band: Mapping[str, str],
    keys: Mapping[str, Hashable],
) -> xr.DataArray | None:
    """Return the scene classification, which may be a variable next to stacked bands."""
    if SCENE_CLASSIFICATION in by_band:
        return arrays[keys[by_band[SCENE_CLASSIFICATION]]]
    for name in bands_of_labels([str(name) for name in cube.data_vars]).items():
        if name[1] == SCENE_CLASSIFICATION and set(cube[name[0]].dims) == {"time", "y", "x"}:
            return cube[name[0]]
    return None


def _labelled(
    cube: xr.Dataset,
) -> tuple[dict[Hashable, xr.DataArray], list[dict[str, Hashable]]]:
    """Return the arrays that may be bands by key, and label -> key from each place with labels."""
    for variable in cube.data_vars.values():
        dims = [dim for dim in variable.dims if str(dim).lower() in _BAND_DIMS]
        if not dims:
            dims = [dim for dim in variable.dims if dim not in ("time", "y", "x")]
        if len(dims) == 1 and set(variable.dims) == {"time", "y", "x", dims[0]}:
            dim = dims[0]
            arrays: dict[Hashable, xr.DataArray] = {
                number: variable.isel({dim: number}, drop=True)
                for number in range(variable.sizes[dim])
            }
            sources: list[dict[str, Hashable]] = [
                _first_of_each((label, number) for number, label in enumerate(labels))
                for labels in labels_of_dim(variable, dim)
            ]
            return arrays, sources
    arrays = {
        str(name): variable
        for name, variable in cube.data_vars.items()
        if set(variable.dims) == {"time", "y", "x"}
    }
    sources = [
        _first_of_each((label, name) for name, label in labels.items())
        for labels in labels_of_variables(cube[list(arrays)])
    ]
    return arrays, [source for source in sources if source]


def _first_of_each(pairs: Iterable[tuple[str, Hashable]]) -> dict[str, Hashable]:
    """Return the first value of each label."""
    found: dict[str, Hashable] = {}
    for label, value in pairs:
        found.setdefault(label, value)
    return found


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
    if max(height, width) > LARGEST_SIDE:
        raise CubeError(
            f"The cube has {height:,} x {width:,} pixels, and at most {LARGEST_SIDE:,} a side are"
            " read: cut it to the area."
        )
    steps = [np.diff(cube[dim].values.astype(np.float64)) for dim in ("y", "x")]
    if not all(np.allclose(d, d.mean(), rtol=1e-3) for d in steps) or cube.odc.geobox is None:
        raise CubeError(
            "The cube's x and y are not evenly spaced: resample it to the centres of pixels on a"
            " grid."
        )
    grid = cube.odc.geobox
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


def _stretched(cube: xr.Dataset) -> list[str]:
    """Return a note if pixels have another size on the ground than in their projection."""
    grid = cube.odc.geobox
    x, y = grid.extent.centroid.coords[0]
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    (west, east), (south, north) = to_degrees.transform([x, x + PIXEL_M], [y, y])
    if not np.isfinite([west, east, south, north]).all():
        return []
    side_m = Geod(ellps="WGS84").inv(west, south, east, north)[2]
    if abs(side_m - PIXEL_M) <= _MOST_STRETCHED * PIXEL_M:
        return []
    name = f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else grid.crs.proj.name
    return [
        f"A pixel has {side_m:.1f} m on the ground, because {name} stretches distances; networks"
        f" know {PIXEL_M:g} m. Warp the cube to its UTM zone."
    ]


def _check_depth(cube: xr.Dataset, bands: Sequence[str]) -> None:
    """Refuse numbers of 8 bits without a scale: they cannot hold reflectance x 10 000."""
    if all(
        cube[band].dtype.itemsize == 1 and "scale_factor" not in cube[band].attrs for band in bands
    ):
        raise CubeError(
            "The cube's bands are numbers of 8 bits, such as those of pictures, and state no scale:"
            " give the reflectance itself, or state the factor to reflectance 0 to 1 with --scale."
        )
