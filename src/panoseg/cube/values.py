"""Decode the numbers of a cube: no data, scale and offset, from all that states or shows them.

No data is decided on the stored numbers, before they are scaled. What nothing states is judged from
a sample of all bands together, spread over the whole grid and several dates.

Shape suffixes: N sampled values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from panoseg.cube import ReadOptions
from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION

LOWEST, HIGHEST = -2000.0, 20_000.0
"""Reflectance x 10 000 beyond which a number is no reflectance. Clouds and snow reach about 1.6."""

_NODATA_KEYS = (
    "_fillvalue",
    "missing_value",
    "nodata",
    "nodatavals",
    "_nodata",
    "no_data",
    "nodata_value",
    "nodatavalue",
    "no_data_value",
    "fill_value",
    "fillvalue",
    "odc:nodata",
)
_DECODED_KEYS = ("_FillValue", "scale_factor", "add_offset", "_Unsigned")
_UNSTATED_NODATA = -999.0
"""The one usual number for no data that lies inside the range of reflectance x 10 000."""
_USUAL_NODATA = (-32768.0, -9999.0, -999.0, -99.0, 32767.0, 65535.0)
"""Numbers that say nothing about the scale of the others."""
_LEAST_SHARE = 0.001  # of sampled values that makes an unstated number no data
_SAMPLED_DATES = 7
_SAMPLED_SIDE = 32  # pixels a side of a sampled square
_SQUARES = (2, 5, 9)  # squares a side of the grid, until enough data are found
_ENOUGH = 2000  # values of a band
_PERCENT = 110.0  # the largest value that reflectance in percent has in most pixels
_VISIBLE = ("B02", "B03", "B04")
_REMOVED_TWICE, _MOSTLY = -100.0, 0.5
OFFSET = 1000.0
"""What products of baseline 04.00 and newer add to reflectance x 10 000 (ESA, 25 January 2022)."""
BASELINE_DAY = np.datetime64("2022-01-25")
"""The first day of that baseline."""
_MOST_BELOW = 0.05  # of the visible values; shadows and water are darker than 0.1


@dataclass(frozen=True, eq=False)
class Decoding:
    """How the numbers of a cube became reflectance x 10 000."""

    nodata: tuple[float, ...] = ()
    """Numbers that the file or the user states as no data."""
    scale: str = ""
    """What the factor is and where it comes from, in words."""
    factor: float = 1.0
    """From the decoded numbers to reflectance x 10 000."""
    hide_unclassified: bool = False
    """Whether pixels of class 0 (no data) of the scene classification hold numbers, which count as
    no data.
    """
    hidden: float | None = None
    """An unstated number that counts as no data."""
    stored_scale: float = 1.0
    """From the stored to the decoded numbers."""
    offset_since: np.datetime64 | None = None
    """First date whose numbers held the offset of baseline 04.00, which was subtracted; None where
    no date did.
    """
    notes: tuple[str, ...] = ()
    """A sentence for everything odd."""


def decode(
    cube: xr.Dataset,
    bands: Sequence[str],
    options: ReadOptions,
    attributes: Mapping[Any, Any],
) -> xr.Dataset:
    """Decode the stored numbers: no data becomes NaN, stated scale and offset are applied.

    Args:
        cube: Bands under their own names, as they are stored, with their attributes.
        bands: Bands to decode.
        options: What the user states in addition.
        attributes: Attributes of the file.

    Raises:
        CubeError: An attribute of a band cannot be used.
    """
    everywhere = _nodata_of(attributes)
    decoded: dict[str, xr.DataArray] = {}
    for band in bands:
        stored = cube[band]
        nodata = {*everywhere, *_nodata_of(stored.attrs)}
        if options.nodata is not None:
            nodata.add(options.nodata)
        checked = _checked_attributes(band, stored.attrs)
        manual = options.scale is not None or options.stored_offset is not None
        if manual:
            checked |= _manual(checked, options)
        # 0 is no data in every product of Sentinel-2; with an offset it would become a number.
        if options.stored_offset is not None or (
            np.issubdtype(stored.dtype, np.integer) and checked.get("add_offset", 0.0) < 0
        ):
            nodata.add(0.0)
        values = xr.conventions.decode_cf_variable(
            band, stored.variable.copy(deep=False)._replace(attrs=checked), decode_times=False
        )
        array = xr.DataArray(values, coords=stored.coords, name=band)
        hidden = _representable(nodata - {checked.get("_FillValue")}, stored.dtype)
        if hidden:
            array = array.where(~stored.isin(hidden))
        if options.stored_offset is not None:
            array = _add_offset(array, options, checked.get("scale_factor", 1.0))
        decoded[band] = array
    return cube.assign(decoded)


def states_offset(cube: xr.Dataset, bands: Sequence[str], options: ReadOptions) -> bool:
    """Return whether the user states an offset, or a decoded band one that lowers its numbers."""
    return options.stored_offset is not None or any(
        _checked_attributes(band, cube[band].attrs).get("add_offset", 0.0) < 0 for band in bands
    )


def stated_nodata(
    cube: xr.Dataset, bands: Sequence[str], options: ReadOptions, attributes: Mapping[Any, Any]
) -> tuple[float, ...]:
    """Return the numbers that are stated as no data, ascending."""
    found = _nodata_of(attributes).union(*(_nodata_of(cube[band].attrs) for band in bands))
    return tuple(sorted(found | ({options.nodata} if options.nodata is not None else set())))


def _nodata_of(attributes: Mapping[Any, Any]) -> set[float]:
    """Return the finite numbers that attributes state as no data."""
    found: set[float] = set()
    for key, value in attributes.items():
        if str(key).lower() not in _NODATA_KEYS:
            continue
        entries = re.split(r"[,\s]+", value.strip("[]() ")) if isinstance(value, str) else value
        for entry in np.atleast_1d(np.asarray(entries, dtype=object)).reshape(-1)[:100]:
            try:
                number = float(entry)
            except (TypeError, ValueError, OverflowError):
                continue
            if np.isfinite(number):
                found.add(number)
    return found


def _representable(numbers: Iterable[float | None], dtype: np.dtype[Any]) -> list[Any]:
    """Return the numbers that an array of a type can hold, in that type."""
    held = []
    for number in numbers:
        if number is None:
            continue
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            if number == int(number) and limits.min <= number <= limits.max:
                held.append(dtype.type(int(number)))
        else:
            held.append(dtype.type(number))
    return held


def _checked_attributes(band: str, attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the attributes that decoding uses, as numbers.

    Raises:
        CubeError: Scale or offset is no finite number.
    """
    kept: dict[str, Any] = {}
    for key in _DECODED_KEYS:
        if key not in attributes:
            continue
        value = attributes[key]
        if key == "_Unsigned":
            kept[key] = str(value)
            continue
        entries = np.asarray(value, dtype=object).reshape(-1)
        try:
            number = float(entries[0]) if entries.size == 1 else float("nan")
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if key in ("scale_factor", "add_offset"):
            if not np.isfinite(number) or (key == "scale_factor" and number == 0):
                raise CubeError(
                    f"The attribute {key} of {band} is {str(value)[:80]!r}, which is no usable"
                    " number: correct it, or pass --scale and --offset."
                )
            # As its own type, because the type of the decoded values depends on it.
            kept[key] = entries[0] if isinstance(entries[0], np.generic) else number
        elif key == "_FillValue" and entries.size == 1 and not isinstance(value, str):
            kept[key] = entries[0]
    return kept


def _manual(attributes: Mapping[str, Any], options: ReadOptions) -> dict[str, Any]:
    """Return scale and offset as the user states them."""
    scale = attributes.get("scale_factor", 1.0) if options.scale is None else options.scale
    stated = 0.0 if options.stored_offset else attributes.get("add_offset", 0.0)
    return {"scale_factor": float(scale), "add_offset": float(stated)}


def _add_offset(array: xr.DataArray, options: ReadOptions, scale: float) -> xr.DataArray:
    """Add the offset of the user, from its day on."""
    number, since = options.stored_offset or (0.0, None)
    if since is None:
        return array + np.float32(number * scale)
    later = array["time"].values >= np.datetime64(since)
    added = np.where(later, number * scale, 0).astype(np.float32)
    return array + xr.DataArray(added, dims="time", coords={"time": array["time"]})


def as_reflectance(
    cube: xr.Dataset,
    bands: Sequence[str],
    decoding: Decoding,
    known: bool,
    newer_T: np.ndarray | None = None,
) -> tuple[xr.Dataset, Decoding]:
    """Return every band as float32 reflectance x 10 000, and how it was decoded.

    Numbers that cannot be reflectance become no data.

    Args:
        cube: A decoded cube with the dims time, y and x.
        bands: Its bands.
        decoding: What is known so far; ``factor`` is used where ``known``.
        known: Whether the factor is stated, and not to be judged from the values.
        newer_T: bool, dates whose metadata state a processing baseline of 04.00 or newer, and do
            not say that its offset was subtracted; None where metadata state no baseline. All False
            where an offset is stated.

    Raises:
        CubeError: The values have no scale that is known, or show that an offset is wrong.
    """
    sample = _Sample.of(cube, bands)
    if not known:
        decoding = replace(decoding, **_judge_scale(sample))
    decoding = _judge_values(sample, decoding)
    offset_T: xr.DataArray | None = None
    if newer_T is not None and newer_T.any():
        decoding, offset_T = _subtract_offset(cube, sample, decoding, newer_T)
    elif newer_T is None and not known:
        decoding = _note_offset(sample, decoding)
    factor = np.float32(decoding.factor)
    scaled = {}
    for band in bands:
        values = cube[band].astype(np.float32) * factor
        # As it is stored: with an offset, the number would be another one.
        if decoding.hidden is not None:
            values = values.where(values != decoding.hidden)
        if offset_T is not None:
            values = (values - offset_T).where(values != 0)
        if decoding.hide_unclassified:
            classes = cube[SCENE_CLASSIFICATION]
            values = values.where(classes.notnull() & (classes != 0))
        scaled[band] = values.where((values >= LOWEST) & (values <= HIGHEST))
    return cube.assign(scaled), decoding


@dataclass(frozen=True, eq=False)
class _Sample:
    """Values of a few dates and places."""

    bands: Mapping[str, np.ndarray]
    """Band -> float64 values, dates x pixels, NaN = no data."""
    seen: np.ndarray | None
    """bool, dates x pixels: whether the scene classification has data; None without one."""
    dates: np.ndarray
    """datetime64[D], the sampled dates."""

    @classmethod
    def of(cls, cube: xr.Dataset, bands: Sequence[str]) -> _Sample:
        """Sample squares on ever finer grids, until there are enough data."""
        dates = np.unique(
            np.linspace(0, cube.sizes["time"] - 1, _SAMPLED_DATES).round().astype(int)
        )
        names = [*bands, *([SCENE_CLASSIFICATION] if SCENE_CLASSIFICATION in cube else [])]
        part = cube[names].isel(time=dates)
        height, width = cube.sizes["y"], cube.sizes["x"]
        for count in _SQUARES:
            rows, columns = (_spread(size, count, _SAMPLED_SIDE) for size in (height, width))
            # By threads of this process, see window.read_window.
            loaded = part.isel(y=rows, x=columns).compute(scheduler="threads")
            values = {
                band: loaded[band].values.astype(np.float64).reshape(len(dates), -1)
                for band in bands
            }
            for array in values.values():
                array[(array == 0) | ~np.isfinite(array)] = np.nan
            enough = np.isfinite(values[bands[0]]).sum() >= _ENOUGH
            if enough or (len(rows) == height and len(columns) == width):
                break
        seen = None
        if SCENE_CLASSIFICATION in cube:
            classes = loaded[SCENE_CLASSIFICATION].values.reshape(len(dates), -1)
            seen = np.isfinite(classes) & (classes != 0)
        return cls(values, seen, cube["time"].values[dates].astype("datetime64[D]"))

    def pooled(self, names: Iterable[str] | None = None) -> np.ndarray:
        """Return the valid values of some bands together."""
        chosen = [self.bands[name] for name in names or self.bands if name in self.bands]
        values = np.concatenate([array.ravel() for array in chosen]) if chosen else np.empty(0)
        return values[np.isfinite(values)]


def _spread(size: int, count: int, side: int) -> np.ndarray:
    """Return the positions of ``count`` stretches of ``side``, spread over an axis of ``size``."""
    if size <= count * side:
        return np.arange(size)
    starts = ((size - side) * (2 * np.arange(count) + 1) / (2 * count)).astype(int)
    return (starts[:, None] + np.arange(side)).ravel()


def _judge_scale(sample: _Sample) -> dict[str, Any]:
    """Return the factor to reflectance x 10 000 that the values suggest, and why.

    Land has a median reflectance of 0.005 to 2 over all bands, so that the scales do not overlap.
    Bands are judged together, because one band of deep water may have any value.
    """
    values = sample.pooled()
    if values.size == 0:
        raise CubeError(
            "The cube holds only 0 and NaN where it was sampled, instead of reflectance x 10 000:"
            " check the area and the dates."
        )
    possible = np.abs(values[(np.abs(values) <= HIGHEST) & ~np.isin(values, _USUAL_NODATA)])
    if possible.size == 0:
        raise CubeError(
            f"The cube has values around {np.median(values):g}, which are no reflectance x 10 000:"
            " state its scale with --scale, or its no data with --nodata."
        )
    median, high = float(np.median(possible)), float(np.quantile(possible, 0.9))
    fraction = float(np.mean(possible != np.round(possible)))
    if high <= 2.0 and fraction > 0.1:
        found = {"factor": 1e4, "scale": "reflectance 0 to 1, from its values"}
    elif median >= 20 and high > _PERCENT:
        found = {"factor": 1.0, "scale": "reflectance x 10 000, from its values"}
    else:
        kind = (
            " (8-bit pictures have no reflectance)"
            if fraction == 0 and possible.max() <= 255
            else ""
        )
        example = "0.0001"
        if high <= _PERCENT:
            example = "0.01 of percent, or 0.0001 of water x 10 000" if fraction == 0 else "0.01"
        raise CubeError(
            f"The cube has values around {median:g}{kind}: state the factor to reflectance 0 to 1"
            f" with --scale, e.g. --scale {example}."
        )
    for band in sample.bands:
        own = sample.pooled([band])
        own = np.abs(own[(np.abs(own) <= HIGHEST) & ~np.isin(own, _USUAL_NODATA)])
        if own.size == 0:
            continue
        is_fraction = np.quantile(own, 0.9) <= 2.0 and np.mean(own != np.round(own)) > 0.1
        if is_fraction != (found["factor"] == 1e4):
            raise CubeError(
                f"{band} has another scale than the other bands: scale all bands to reflectance x"
                " 10 000."
            )
    return found


def _judge_values(sample: _Sample, decoding: Decoding) -> Decoding:
    """Find numbers that are no reflectance, and offsets that are wrong.

    Raises:
        CubeError: The visible bands are mostly negative.
    """
    factor, notes = decoding.factor, list(decoding.notes)
    values = sample.pooled()
    if values.size == 0:
        return decoding
    scaled = values * factor
    impossible = (scaled < LOWEST) | (scaled > HIGHEST)
    if impossible.any():
        numbers, counts = np.unique(values[impossible], return_counts=True)
        common = numbers[counts.argmax()]
        notes.append(
            f"{_percent(impossible.mean())} of the sampled values are no reflectance (such as"
            f" {common:g}) and count as no data."
        )
    hidden = None
    if _UNSTATED_NODATA not in decoding.nodata:
        share = float(np.mean(values == _UNSTATED_NODATA))
        if share >= _LEAST_SHARE and factor == 1:
            hidden = _UNSTATED_NODATA
            notes.append(
                f"{_percent(share)} of the sampled values are {_UNSTATED_NODATA:g}, which counts as"
                " no data."
            )
    hide = False
    if sample.seen is not None:
        first = next(iter(sample.bands.values()))
        hide = bool((np.isfinite(first) & ~sample.seen).any())
        if hide:
            notes.append(
                "Pixels that the scene classification calls no data hold numbers; they count as no"
                " data."
            )
    decoding = replace(decoding, notes=tuple(notes), hidden=hidden, hide_unclassified=hide)
    _check_offset(sample, decoding)
    return decoding


def _visible(sample: _Sample, decoding: Decoding) -> np.ndarray:
    """Return the visible bands of the sample x 10 000: dates x values, NaN = no data."""
    bands = [sample.bands[band] for band in _VISIBLE if band in sample.bands]
    if not bands:
        return np.full((len(sample.dates), 0), np.nan)
    values = np.concatenate(bands, axis=1)
    scaled = values * decoding.factor
    scaled[(scaled < LOWEST) | (scaled > HIGHEST) | (values == decoding.hidden)] = np.nan
    return scaled


def _subtract_offset(
    cube: xr.Dataset, sample: _Sample, decoding: Decoding, newer_T: np.ndarray
) -> tuple[Decoding, xr.DataArray | None]:
    """Return the offset of each date (x 10 000), if newer baselines still hold it."""
    times = cube["time"].values.astype("datetime64[D]")
    is_newer = np.isin(sample.dates, times[newer_T])
    values = _visible(sample, decoding)[is_newer]
    values = values[np.isfinite(values)]
    if values.size == 0 or np.mean(values < OFFSET) > _MOST_BELOW:
        return decoding, None
    since = times[newer_T].min()
    note = (
        f"Images from {since} on hold the offset of {OFFSET:g} of processing baseline 04.00; it was"
        " subtracted."
    )
    offset = np.where(newer_T, OFFSET, 0).astype(np.float32)
    array = xr.DataArray(offset, dims="time", coords={"time": cube["time"]})
    return replace(decoding, notes=(*decoding.notes, note), offset_since=since), array


def _note_offset(sample: _Sample, decoding: Decoding) -> Decoding:
    """Add a note if all visible values since the change of baseline look as if they hold it."""
    later = sample.dates >= BASELINE_DAY
    values = _visible(sample, decoding)
    values, earlier = values[later], values[~later]
    values = values[np.isfinite(values)]
    earlier = earlier[np.isfinite(earlier)]
    if values.size < _ENOUGH or np.mean(values < OFFSET) > _MOST_BELOW:
        return decoding
    if earlier.size and np.mean(earlier < OFFSET) <= _MOST_BELOW:
        return decoding  # bright land
    stored = OFFSET / (decoding.factor * decoding.stored_scale)
    note = (
        f"Hardly any visible value since {BASELINE_DAY} is below {OFFSET:g}: the offset of newer"
        f" products may not be subtracted; --offset {-stored:g}@{BASELINE_DAY} subtracts it."
    )
    return replace(decoding, notes=(*decoding.notes, note))


def _check_offset(sample: _Sample, decoding: Decoding) -> None:
    """Raise ``CubeError`` where the visible bands of some date are mostly negative."""
    wrong = []
    for day, values in zip(sample.dates, _visible(sample, decoding), strict=True):
        valid = values[np.isfinite(values)]
        if valid.size >= 20 and np.mean(valid < 0) > _MOSTLY and np.median(valid) < _REMOVED_TWICE:
            wrong.append(day)
    if wrong:
        since = "" if wrong[0] == sample.dates[0] else f"@{wrong[0]}"
        raise CubeError(
            f"The visible bands are mostly negative on {wrong[0]}: the offset of -1000 of newer"
            " products was probably subtracted twice. Add it again with --offset"
            f" {OFFSET / (decoding.factor * decoding.stored_scale):g}{since}."
        )


def _percent(share: float) -> str:
    """Return a share as text, never as nothing."""
    return f"{share:.0%}" if share >= 0.01 else "Less than 1%"
