"""Read the dates of a cube: in any calendar and form, sorted, one a day."""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import datetime
from typing import Any

import numpy as np
import xarray as xr

from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import FIRST_YEAR, LAST_YEAR, REFERENCE_DATE

TIME_NAMES = (
    "time",
    "t",
    "date",
    "dates",
    "datetime",
    "timestamp",
    "timestamps",
    "time_stamp",
    "valid_time",
    "acquisition_time",
    "acquisition_date",
    "sensing_time",
    "day",
)
"""Names of the time dimension, in lower case."""
_MOST_DATES = 5000
_MOST_A_DAY = 16  # tiles of an area and swaths that overlap
_DIGITS = re.compile(r"(\d{4})[-_/. ]?(\d{2})[-_/. ]?(\d{2})(?:\D.*|\d{6}.*)?")
_DAY_FIRST = re.compile(r"(\d{2})[-_/. ](\d{2})[-_/. ](\d{4})(?:\D.*)?")
_MONTHS = 12
_DAY_OF_YEAR = re.compile(r"(\d{4})[-_/. ]?(\d{3})")
# Numbers of this size without units count these steps from 1970; days would not have that size.
_EPOCHS = ((1e8, 4.2e9, "s"), (1e11, 4.2e12, "ms"), (1e14, 4.2e15, "us"), (1e17, 4.2e18, "ns"))


def is_time(cube: xr.Dataset, dim: Hashable) -> bool:
    """Return whether a dimension is that of time, by its name, attributes or values."""
    if str(dim).lower() in TIME_NAMES:
        return True
    if dim not in cube.coords:
        return False
    coordinate = cube[dim]
    attributes = {str(coordinate.attrs.get(key, "")).lower() for key in ("standard_name", "axis")}
    units = str(coordinate.attrs.get("units", ""))
    return (
        bool(attributes & {"time", "t"})
        or np.issubdtype(coordinate.dtype, np.datetime64)
        or " since " in units
    )


def decode_times(cube: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Return the cube with ``time`` as datetime64, and notes. Dates that are missing are left out.

    Raises:
        CubeError: The values are no dates.
    """
    if cube.sizes["time"] == 0:
        raise CubeError("The cube has no date: take a longer season.")
    if cube.sizes["time"] > _MOST_DATES:
        raise CubeError(
            f"The cube has {cube.sizes['time']:,} images, and at most {_MOST_DATES:,} are read: cut"
            " it to one season."
        )
    coordinate = cube["time"] if "time" in cube.coords else None
    if coordinate is None:
        coordinate = _other_coordinate(cube)
    times, notes = _as_datetimes(coordinate)
    missing = np.flatnonzero(np.isnat(times))
    if missing.size == times.size:
        raise CubeError("The cube's time has no value: write the dates of its images.")
    if missing.size:
        named = ", ".join(str(place + 1) for place in missing[:10])
        dates, are = ("Date", "is") if missing.size == 1 else ("Dates", "are")
        notes.append(
            f"{dates} {named} of {times.size} {are} missing in the cube; the images were left out."
        )
        kept = np.flatnonzero(~np.isnat(times))
        cube, times = cube.isel(time=kept), times[kept]
    years = times.astype("datetime64[Y]").astype(int) + 1970
    if years.min() < FIRST_YEAR or years.max() > LAST_YEAR:
        raise CubeError(
            f"The cube's time spans {times.min().astype('datetime64[D]')} to"
            f" {times.max().astype('datetime64[D]')}, when there were no such images: correct its"
            " units."
        )
    return cube.assign_coords(time=("time", times.astype("datetime64[ns]"))), notes


def _other_coordinate(cube: xr.Dataset) -> xr.DataArray:
    """Return a coordinate along time under another name, where the dimension itself has none."""
    for name in cube.coords:
        if cube[name].dims == ("time",) and str(name).lower() in TIME_NAMES:
            return cube[name]
    raise CubeError(
        "The cube has no dates along its time dimension: write them as the coordinate time."
    )


def _as_datetimes(coordinate: xr.DataArray) -> tuple[np.ndarray, list[str]]:
    """Return datetime64[s] of any form, and notes."""
    values = coordinate.values
    if np.issubdtype(values.dtype, np.datetime64):
        return values.astype("datetime64[s]"), []
    units = coordinate.attrs.get("units")
    if np.issubdtype(values.dtype, np.number) and isinstance(units, str) and "since" in units:
        return _decoded(coordinate), []
    if np.issubdtype(values.dtype, np.number):
        return _numbers_as_datetimes(values)
    given = values.reshape(-1).tolist()
    parsed = [_parse(value) for value in given]
    unreadable = [
        str(value)[:30] for value, found in zip(given, parsed, strict=True) if found is None
    ]
    if unreadable:
        raise _no_dates(f"{values.dtype} values such as {unreadable[0]!r}")
    return np.array(parsed, "datetime64[s]"), _note_of_order([_text(value) for value in given])


def _note_of_order(texts: list[str]) -> list[str]:
    """Return a note if no date shows whether the day or the month comes first."""
    found = [match for text in texts if (match := _DAY_FIRST.fullmatch(text)) is not None]
    if not found or any(int(match[1]) > _MONTHS for match in found):
        return []
    return [
        f"Dates such as {found[0][0][:10]} are read as day, month, year. If the month comes first,"
        " write them as 2019-04-01."
    ]


def _decoded(coordinate: xr.DataArray) -> np.ndarray:
    """Decode numbers with units as CF defines them, in any calendar."""
    values, units = coordinate.values, coordinate.attrs["units"]
    calendar = coordinate.attrs.get("calendar")
    attributes = {"units": units, **({"calendar": calendar} if calendar else {})}
    fill = coordinate.attrs.get("_FillValue", coordinate.attrs.get("missing_value"))
    known = np.isfinite(values.astype(np.float64))
    if isinstance(fill, (int, float, np.number)):
        known &= values != fill
    result = np.full(values.shape, "NaT", "datetime64[s]")
    if not known.any():
        return result
    try:
        decoded = xr.conventions.decode_cf_variable(
            "time", xr.Variable(("time",), values[known], attributes)
        ).values
        if np.issubdtype(decoded.dtype, np.datetime64):
            result[known] = decoded.astype("datetime64[s]")
        else:  # a calendar without leap days, or with 30 days a month
            result[known] = [_parse(day.isoformat()) for day in decoded]
    except Exception as error:
        raise CubeError(
            f"The attribute units of time is {str(units)[:60]!r}, which does not fit its values:"
            f' correct it, e.g. "days since {REFERENCE_DATE}".'
        ) from error
    return result


def _numbers_as_datetimes(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the dates of numbers without units: 20190401, 2019091 or seconds since 1970."""
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    result = np.full(values.shape, "NaT", "datetime64[s]")
    parsed = [_parse(f"{int(number)}") for number in numbers[known]]
    if parsed and all(day is not None for day in parsed):
        result[known] = parsed
        return result, []
    for low, high, unit in _EPOCHS:
        if known.any() and numbers[known].min() >= low and numbers[known].max() <= high:
            result[known] = values[known].astype(np.int64).astype(f"datetime64[{unit}]")
            return result, [f"The cube's time has no units; it is read as {unit} since 1970."]
    raise _no_dates(f"{values.dtype} values")


def _no_dates(found: str) -> CubeError:
    return CubeError(
        f"The cube's time holds {found} instead of dates: write a units attribute such as"
        f' "days since {REFERENCE_DATE}", or dates as 2019-04-01 or 20190401.'
    )


def _parse(value: Any) -> np.datetime64 | None:  # noqa: ANN401 - of an array of objects
    """Return the time that a value means; NaT for one that is missing, None for no time."""
    if value is None or value != value:
        return np.datetime64("NaT", "s")
    if isinstance(value, datetime):
        return np.datetime64(value.replace(tzinfo=None), "s")
    text = _text(value)
    if text.lower() in ("", "nat", "nan", "none", "null"):
        return np.datetime64("NaT", "s")
    for pattern, order in ((_DIGITS, (1, 2, 3)), (_DAY_FIRST, (3, 2, 1))):
        match = pattern.fullmatch(text)
        if match is not None:
            try:
                year, month, day = (int(match[group]) for group in order)
                return np.datetime64(datetime(year, month, day), "s") + _time_of_day(text)
            except ValueError:
                return None
    match = _DAY_OF_YEAR.fullmatch(text)
    if match is not None and FIRST_YEAR <= int(match[1]) <= LAST_YEAR and 1 <= int(match[2]) <= 366:
        first = np.datetime64(f"{match[1]}-01-01", "s")
        found = first + np.timedelta64(int(match[2]) - 1, "D")
        return found if str(found).startswith(match[1]) else None  # day 366 of a common year
    return None


def _text(value: Any) -> str:  # noqa: ANN401 - of an array of objects
    """Return text or bytes as text without spaces around it."""
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip()


def _time_of_day(text: str) -> np.timedelta64:
    """Return the hours, minutes and seconds after a ``T`` or a space."""
    match = re.search(r"[T ](\d{2}):?(\d{2}):?(\d{2})?", text)
    if match is None:
        return np.timedelta64(0, "s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return np.timedelta64(hours * 3600 + minutes * 60 + seconds, "s")


def one_time_a_day(cube: xr.Dataset) -> xr.Dataset:
    """Sort the dates, and merge acquisitions of one day.

    A pixel takes the first acquisition of the day that has data there.
    """
    times = cube["time"].values
    order = np.argsort(times, kind="stable")
    if (np.diff(order) < 0).any():  # otherwise spared, because dask would copy its whole graph
        cube = cube.isel(time=order)
    cube = cube.assign_coords(time=times[order].astype("datetime64[D]").astype("datetime64[ns]"))
    days, first = np.unique(cube["time"].values, return_index=True)
    if len(days) == cube.sizes["time"]:
        return cube
    ends = [*first[1:], cube.sizes["time"]]
    most = int(np.diff([*first, cube.sizes["time"]]).max())
    if most > _MOST_A_DAY:
        raise CubeError(
            f"The cube has {most:,} images of one day, and at most {_MOST_A_DAY} are merged: check"
            " its dates."
        )
    merged = []
    for start, end in zip(first, ends, strict=True):
        day = cube.isel(time=slice(start, start + 1))
        for other in range(start + 1, end):
            later = cube.isel(time=slice(other, other + 1))
            day = day.where(day.notnull() & (day != 0), later)
        merged.append(day)
    return xr.concat(merged, "time")
