"""Find what a dataset says about itself: coordinate system, grid, bands, and how it was made.

Every program writes the first three in another place: on the dataset, on a variable, on a scalar
coordinate, or for each date. All known places are searched here, before bands are split off and
attributes are lost. A cube that panoseg made also says which dates and scenes it has, and what was
left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401 - gives datasets their .odc
import pyproj
import xarray as xr
from affine import Affine
from pyproj.exceptions import CRSError

from panoseg.imagery.sentinel2 import band_names, band_of_wavelength
from panoseg.text_files import json_of

_CRS_KEYS = (
    "crs_wkt",
    "spatial_ref",
    "_crs",
    "crs",
    "crs_code",
    "proj:wkt2",
    "proj:projjson",
    "proj:code",
    "proj:epsg",
    "epsg",
    "epsg_code",
    "horizontal_crs_code",
    "horizontal_cs_code",
    "projection",
    "proj4",
    "proj4text",
    "proj4_string",
    "esri_pe_string",
)
_TILE_KEYS = ("s2:mgrs_tile", "mgrs_tile", "grid:code", "tile_id", "tileid", "tile", "mgrs")
# GDAL writes the corner first, rasterio and STAC the size of a pixel.
_GDAL_TRANSFORM_KEYS = ("geotransform", "gdal_geotransform")
_TRANSFORM_KEYS = ("transform", "proj:transform", "affine", "raster_transform")
_NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
_EPSG = re.compile(
    r"(?:(?:\+?init=)?epsg:{1,2}|urn:ogc:def:crs:epsg:[^:]*:|http.*/epsg/[^/]+/)?(\d{4,6})", re.I
)
_TILE = re.compile(r"(?:MGRS-|T)?(\d{1,2})([C-HJ-NP-X])[A-Z]{2}", re.I)
_LABEL_COORDS = ("band_name", "name", "common_name", "eo:common_name", "title", "description")
_LABEL_ATTRIBUTES = (
    "long_name",
    "band_names",
    "names",
    "bands",
    "descriptions",
    "description",
    "common_name",
    "standard_name",
    "band",
    "name",
)
_WAVELENGTH_KEYS = ("wavelength", "wavelengths", "center_wavelength", "central_wavelength")
_LONGEST_TEXT = 100_000
_FAR_DEGREES = 10.0  # tiles reach over the edge of their zone, many degrees near the poles


def find_crs(cube: xr.Dataset) -> tuple[str | None, str, list[str]]:
    """Return the coordinate system of a dataset.

    Returns:
        WKT, or None if nothing states a coordinate system; where it is stated; and a note for each
        place that states another one.
    """
    found: list[tuple[str, pyproj.CRS, str]] = []
    own = _own_crs(cube)
    if own is not None:
        found.append(("the grid mapping", own, own.to_wkt()))
    for place, value in _stated(cube, _CRS_KEYS):
        crs = crs_of(value)
        if crs is not None:
            found.append((place, crs, crs.to_wkt()))
    for name, variable in cube.variables.items():
        if "grid_mapping_name" in variable.attrs:
            try:
                crs = pyproj.CRS.from_cf(dict(variable.attrs))
            except (CRSError, KeyError, TypeError, ValueError):
                continue
            found.append((f"variable {name}", crs, crs.to_wkt()))
    if not found:
        for place, value in _stated(cube, _TILE_KEYS):
            match = _TILE.fullmatch(value.strip()) if isinstance(value, str) else None
            if match is not None and 1 <= int(match[1]) <= 60:
                code = (32600 if match[2].upper() >= "N" else 32700) + int(match[1])
                crs = pyproj.CRS.from_epsg(code)
                note = f"The coordinate system is EPSG:{code}, from {place} ({value[:20]})."
                return crs.to_wkt(), place, [note]
        return None, "", []
    first_place, first, wkt = found[0]
    notes = [
        f"{place[0].upper()}{place[1:]} says {crs_text(crs)}, and {first_place} says"
        f" {crs_text(first)}, which is used; --crs chooses another."
        for place, crs, _ in found[1:]
        if not _same(crs, first)
    ]
    return wkt, first_place, list(dict.fromkeys(notes))


def _own_crs(cube: xr.Dataset) -> pyproj.CRS | None:
    """Return the coordinate system that odc-geo finds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # attributes that odc-geo does not know are read below
            crs = cube.odc.crs
        return None if crs is None else pyproj.CRS.from_wkt(crs.to_wkt())
    except (CRSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _same(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    codes = one.to_epsg(60), other.to_epsg(60)
    return codes[0] == codes[1] if None not in codes else one.equals(other, ignore_axis_order=True)


def crs_text(crs: pyproj.CRS) -> str:
    """Return a short name of a coordinate system."""
    code = crs.to_epsg(60)
    return f"EPSG:{code}" if code else crs.name[:60]


def note_far_place(cube: xr.Dataset) -> list[str]:
    """Return a note if the cube lies far from where its coordinate system is used."""
    grid = cube.odc.geobox
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    code = crs.to_epsg()
    area = (crs if code is None else pyproj.CRS.from_epsg(code)).area_of_use
    if area is None:
        return []
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = grid.extent.centroid.coords[0]
    longitude, latitude = to_degrees.transform(x, y)
    exists = bool(np.isfinite([longitude, latitude]).all())
    if exists:
        width = (area.east - area.west) % 360 or 360
        from_west = (longitude - area.west + _FAR_DEGREES) % 360
        # Northings below zero are usual south of the equator in the zones of the north.
        is_zone = crs.utm_zone is not None
        lowest, highest = area.south - _FAR_DEGREES, area.north + _FAR_DEGREES
        inside = is_zone or lowest <= latitude <= highest
        if from_west <= width + 2 * _FAR_DEGREES and inside:
            return []
    place = f"at latitude {latitude:.1f} and longitude {longitude:.1f}" if exists else "nowhere"
    return [
        f"The cube lies {place} in {crs_text(crs)}, far from where that is used: check that x and y"
        " are not exchanged, or state another coordinate system with --crs."
    ]


def crs_of(value: object) -> pyproj.CRS | None:
    """Return the coordinate system that a value of any form means, or None.

    Numbers, ``EPSG:32631``, ``+init=epsg:32631``, URNs and URLs of EPSG, WKT, PROJ strings,
    PROJJSON, and the dictionaries of GDAL's Zarr driver are understood.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json_of(value[:_LONGEST_TEXT])
        except ValueError:
            return None
    try:
        if isinstance(value, Mapping):
            if "type" in value:
                return pyproj.CRS.from_json_dict(dict(value))
            parts = (value.get(key) for key in ("wkt", "projjson", "url", "code"))
            return next((crs for part in parts if part and (crs := crs_of(part))), None)
        if isinstance(value, (bool, np.bool_)):
            return None
        if isinstance(value, (int, float, np.number)):
            return pyproj.CRS.from_epsg(int(value))
        if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_TEXT:
            return None
        match = _EPSG.fullmatch(value.strip())
        return pyproj.CRS.from_epsg(int(match[1])) if match else pyproj.CRS.from_user_input(value)
    except (CRSError, ValueError, OverflowError, TypeError, RecursionError):
        return None


def _stated(cube: xr.Dataset, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield where a key is stated, and its value: attributes first, then coordinates.

    A coordinate over dates counts where all its values are equal.
    """
    for key in keys:
        for place, attributes in _attributes(cube):
            for name, value in attributes.items():
                if str(name).lower() == key:
                    yield f"attribute {name} of {place}", _scalar(value)
        for name, variable in cube.variables.items():
            if str(name).lower() == key and variable.size <= _LONGEST_TEXT and variable.ndim <= 1:
                values = np.unique(np.atleast_1d(variable.values).astype(str))
                if values.size == 1:
                    yield f"coordinate {name}", np.atleast_1d(variable.values)[0]


def _attributes(cube: xr.Dataset) -> Iterator[tuple[str, Mapping[Hashable, Any]]]:
    """Yield the attributes of everything in a dataset."""
    yield "the file", cube.attrs
    for name, variable in cube.variables.items():
        yield str(name), variable.attrs


def _scalar(value: Any) -> Any:  # noqa: ANN401 - attributes may be anything
    """Return the only entry of a list or array; other values as they are."""
    if isinstance(value, (list, tuple, np.ndarray)) and np.size(value) == 1:
        return np.asarray(value).reshape(-1)[0]
    return value


def find_transform(cube: xr.Dataset) -> tuple[Affine, str] | None:
    """Return the transform from pixels to coordinates that a dataset states, and where; or None."""
    for keys, is_gdal in ((_TRANSFORM_KEYS, False), (_GDAL_TRANSFORM_KEYS, True)):
        for place, value in _stated(cube, keys):
            numbers = _numbers(value)
            if len(numbers) not in (6, 9):
                continue
            transform = Affine.from_gdal(*numbers[:6]) if is_gdal else Affine(*numbers[:6])
            if transform.a > 0 and transform.e and not transform.b and not transform.d:
                return transform, place
    return None


def _numbers(value: object) -> list[float]:
    """Return the numbers in a text or a list."""
    if isinstance(value, str):
        return [float(text) for text in _NUMBER.findall(value[:1000])]
    try:
        return np.asarray(value, np.float64).reshape(-1).tolist()
    except (TypeError, ValueError):
        return []


def labels_of_dim(variable: xr.DataArray, dim: Hashable) -> list[list[str]]:
    """Return the names that the bands along a dimension may have, from each place that has some."""
    count = variable.sizes[dim]
    sources: list[list[str]] = []
    names = [dim, *_LABEL_COORDS, *(name for name in variable.coords if name != dim)]
    for name in dict.fromkeys(names):
        if name in variable.coords and variable.coords[name].dims == (dim,):
            sources.append([str(label) for label in variable.coords[name].values.tolist()])
    for key in _LABEL_ATTRIBUTES:
        value = variable.attrs.get(key)
        if isinstance(value, str):
            value = re.split(r"[,;|\s]+", value.strip("[]() "))
        if isinstance(value, (list, tuple, np.ndarray)) and len(value) == count:
            sources.append([str(label).strip("'\" ") for label in value])
    for key in _WAVELENGTH_KEYS:
        lengths = _numbers(variable.attrs.get(key))
        if len(lengths) == count:
            sources.append([f"{length:g}" for length in lengths])
    return sources or [[str(number + 1) for number in range(count)]]


def labels_of_variables(cube: xr.Dataset) -> list[dict[str, str]]:
    """Return the names that variables may have as bands (variable -> name), from each place."""
    names = [str(name) for name in cube.data_vars]
    sources = [{name: name for name in names}]
    for key in (*_LABEL_ATTRIBUTES, *_WAVELENGTH_KEYS):
        stated = {name: _scalar(cube[name].attrs.get(key)) for name in names}
        sources.append({name: str(value) for name, value in stated.items() if value is not None})
    return sources


def bands_of_labels(labels: list[str]) -> dict[str, str]:
    """Return label -> band, for the labels that are recognised as names or wavelengths."""
    found = band_names(labels)
    for label in labels:
        try:
            band = band_of_wavelength(float(label.lower().removesuffix("nm")))
        except ValueError:
            continue
        if band is not None and label not in found:
            found[label] = band
    return found


RECORD = "panoseg"
"""Name of the attribute in which a cube that panoseg made says what it was made of."""
OPENED = "panoseg_opened"
"""Name of the attribute in which a folder of scenes says, while it is open, what was left out."""
_NAMED = 10  # scenes in the notes of a map


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
        record = json_of(cube.attrs[RECORD])
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
