"""Recognise what a file or folder is before it is opened as a cube, whatever it is called.

Zarr stores may be zipped, lie in a folder or a group of their own, or be products of EOPF, the
format of ESA's products in Zarr: a product a date, and a folder of them is a season.

Sources: magic numbers of the formats; EOPF product structure, Sentinel-2 MSI Level-2A.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from panoseg.cube.check import LARGEST_SIDE
from panoseg.errors import CubeError
from panoseg.imagery.scenes import DARKEST, is_hidden, parse_utc
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION, band_name, dates_in

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
"""Files that make a folder a Zarr store."""
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NETCDF_3 = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# What people give instead of a season, by its first bytes.
_OTHER = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"Rar!", "is a RAR archive: unpack it first"),
    (b"GRIB", "is GRIB, which holds no Sentinel-2: give NetCDF, Zarr or GeoTIFFs"),
    (b"SQLite format 3", "is a GeoPackage or another database, not a season: give its images"),
    (b"PAR1", "is Parquet, a table, not a season: give the images"),
    (b"\x89PNG", "is a PNG, a picture without dates: give NetCDF, Zarr or GeoTIFFs"),
    (b"\xff\xd8\xff", "is a JPEG, a picture without dates: give NetCDF, Zarr or GeoTIFFs"),
    (b"\x93NUMPY", "is a NumPy array, without dates and place: write NetCDF or Zarr"),
    (b"%PDF", "is a PDF: give NetCDF, Zarr or GeoTIFFs"),
)
_MOST_ENTRIES = 4_000_000
_LARGEST_ENTRY_BYTES = 2 * 1024**3
_LARGEST_METADATA_BYTES = 64 * 1024**2
_DEEPEST_GROUP = 4
_NAMED = 6

_REFLECTANCE = "measurements/reflectance"
_EOPF_GRIDS = ("r10m", "r20m")
_EOPF_SCL = "conditions/mask/l2a_classification/r20m"
_EOPF_SCALE = 1e-4  # of products that state none


@dataclass(frozen=True)
class Form:
    """What lies at a path."""

    kind: str
    """``netcdf``, ``zarr``, ``eopf`` or ``rasters``."""
    stores: tuple[Store, ...] = ()
    """Stores of Zarr: one, or of EOPF one for each product."""
    group: str = ""
    """Group of the store that holds the cube."""


def recognise(path: Path) -> Form:
    """Return what lies at ``path``.

    Raises:
        CubeError: It is not a season; the message says what it is.
    """
    if path.is_file():
        return _form_of_file(path)
    if is_zarr(path):
        return _form_of_zarr(path, LocalStore(path, read_only=True), "")
    # Folders of other things may be large, so that only what lies directly in them is looked at.
    inside = sorted(entry for entry in path.iterdir() if not is_hidden((entry.name,)))
    stores = [entry for entry in inside if entry.is_dir() and is_zarr(entry)]
    forms = [_form_of_zarr(entry, LocalStore(entry, read_only=True), "") for entry in stores]
    products = [form.stores[0] for form in forms if form.kind == "eopf"]
    if products:
        return Form("eopf", tuple(products))
    if len(forms) == 1:
        return forms[0]
    cubes = stores or [
        entry
        for entry in inside
        if entry.is_file() and entry.name.lower().endswith((".nc", ".nc4", ".zarr.zip"))
    ]
    if cubes:
        raise CubeError(
            f"{path} holds {_listed([entry.name for entry in cubes])}: give"
            f" {'it' if len(cubes) == 1 else 'one of them'} instead of the folder."
        )
    return Form("rasters")


def is_zarr(folder: Path) -> bool:
    """Return whether a folder is a Zarr store."""
    return any((folder / mark).exists() for mark in ZARR_MARKS)


def _form_of_file(path: Path) -> Form:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith((_HDF5, *_NETCDF_3)):
        return Form("netcdf")
    if head.startswith(_TIFF):
        return Form("rasters")
    if head.startswith(_ZIP):
        return _form_of_zip(path)
    if not head:
        raise CubeError(f"{path} is empty: copy it again.")
    for mark, what in _OTHER:
        if head.startswith(mark):
            raise CubeError(f"{path} {what}.")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise CubeError(
            f"{path} is a web page, perhaps of a failed download: download the season again."
        )
    if text.startswith(b"<?xml"):
        raise CubeError(f"{path} is XML, perhaps the answer of a server: download the file again.")
    if _is_text(head):
        raise CubeError(
            f"{path} is a text file, which cannot be read as a cube: give a NetCDF file, a Zarr"
            " store or a folder of GeoTIFFs."
        )
    raise CubeError(
        f"{path} cannot be read: it is neither NetCDF nor a zipped Zarr store nor a GeoTIFF. Give"
        " one of them, or copy the file again if it should be one."
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t" for letter in text)


def _form_of_zip(path: Path) -> Form:
    """Return the form of the Zarr store in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise CubeError(
            f"{path} cannot be read as a zip archive ({error}): copy it again."
        ) from error
    if len(entries) > _MOST_ENTRIES:
        raise CubeError(f"{path} holds {len(entries):,} files, more than any season: give another.")
    names = [entry.filename for entry in entries]
    roots = [
        PurePosixPath(name).parent
        for name in names
        if PurePosixPath(name).name in ZARR_MARKS and not is_hidden(PurePosixPath(name).parts[:-1])
    ]
    if not roots:
        raise CubeError(f"{path} {_content_of_zip(names)}")
    for entry in entries:
        _check_entry(path, entry)
    root = min(roots, key=lambda folder: (len(folder.parts), str(folder)))
    prefix = "" if str(root) == "." else root.as_posix()
    return _form_of_zarr(path, ZipStore(path, mode="r"), prefix)


def _content_of_zip(names: Sequence[str]) -> str:
    """Return what an archive without a Zarr store is, and what to do."""
    lower = [name.lower() for name in names if not is_hidden(PurePosixPath(name).parts)]
    if any(".safe/" in name for name in lower):
        return "is a product of Sentinel-2: make a cube of it with panoseg cube --safe."
    for suffixes, what in (
        ((".tif", ".tiff", ".jp2"), "GeoTIFFs: unpack it, and give the folder"),
        ((".nc", ".nc4"), "NetCDF: unpack it, and give the file"),
        ((".npy",), "NumPy arrays, without dates and place: write NetCDF or Zarr"),
        ((".shp", ".gpkg", ".geojson"), "outlines, not a season: give the images"),
    ):
        if any(name.endswith(suffixes) for name in lower):
            return f"is a zip archive of {what}."
    return "is a zip archive without a Zarr store: give a season."


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that no Zarr store has. Raises ``CubeError``."""
    name = entry.filename
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        raise CubeError(f"{path} holds {name!r}, a path out of the archive: give another file.")
    if entry.flag_bits & 0x1:
        raise CubeError(f"{path} is encrypted: unpack it, and give the folder.")
    is_metadata = PurePosixPath(name).name in (*ZARR_MARKS, ".zarray", ".zattrs")
    if entry.file_size > (_LARGEST_METADATA_BYTES if is_metadata else _LARGEST_ENTRY_BYTES):
        raise CubeError(
            f"{path} holds {name!r} of {entry.file_size:,} bytes, more than any chunk: write the"
            " store with smaller chunks."
        )


def _form_of_zarr(path: Path, store: Store, prefix: str) -> Form:
    """Return the group of a store that holds arrays, or that it is a product of EOPF."""
    for _ in range(_DEEPEST_GROUP):
        node = zarr.open(store=store, path=prefix, mode="r")
        if not isinstance(node, zarr.Group):
            raise CubeError(
                f"{path} is a single array of Zarr, without coordinates: write a dataset with time,"
                " y and x."
            )
        groups = sorted(name for name, _ in node.groups())
        if "measurements" in groups and _REFLECTANCE in node:
            return Form("eopf", (store,), prefix)
        if next(iter(node.arrays()), None) is not None or not groups:
            return Form("zarr", (store,), prefix)
        if len(groups) > 1:
            example = path / prefix / groups[0]
            how = f"give one of them, as in {example}" if path.is_dir() else "unpack it, give one"
            raise CubeError(f"{path} holds several groups ({_listed(groups)}): {how}.")
        prefix = f"{prefix}/{groups[0]}".strip("/")
    return Form("zarr", (store,), prefix)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def eopf_cube(path: Path, form: Form) -> xr.Dataset:
    """Return a lazy cube of products of EOPF: float32 reflectance x 10 000 with NaN, and SCL.

    Products of one zone are put on one grid.

    Raises:
        CubeError: A product lacks what a product has, or lies in another zone.
    """
    dates = [_eopf_date(path, store, form.group) for store in form.stores]
    crs = {date.odc.crs for date in dates}
    if len(crs) > 1:
        zones = _listed(sorted(f"EPSG:{one.epsg}" for one in crs))
        raise CubeError(f"{path} holds products of several zones ({zones}): give those of one.")
    grids = [date.odc.geobox for date in dates]
    if any(grid != grids[0] for grid in grids):
        union = _union(grids)
        dates = [date.reindex(x=union["x"], y=union["y"]) for date in dates]
    bare = [date.drop_vars("spatial_ref") for date in dates]
    season = xr.concat(bare, "time", join="override").sortby("time")
    placed: xr.Dataset = season.odc.assign_crs(crs.pop())
    return placed


def _union(grids: Sequence[GeoBox]) -> Mapping[Any, xr.DataArray]:
    """Return the coordinates of the grid that covers all grids, which share their lattice."""
    first = grids[0]
    boxes = np.array([list(grid.boundingbox.bbox) for grid in grids])
    left, bottom = boxes[:, :2].min(axis=0)
    right, top = boxes[:, 2:].max(axis=0)
    if not max(right - left, top - bottom) <= LARGEST_SIDE * first.resolution.x:
        raise CubeError("The products are too far apart for one cube: give those of one area.")
    covering = GeoBox.from_bbox(
        (left, bottom, right, top), crs=first.crs, resolution=first.resolution.x, tight=True
    )
    return xr_coords(covering, always_yx=True)


def _eopf_date(path: Path, store: Store, prefix: str) -> xr.Dataset:
    """Return a product as a cube of one date, on its grid of 10 m."""

    def group(name: str) -> xr.Dataset:
        return xr.open_dataset(
            store,  # type: ignore[arg-type]  # any store of Zarr
            engine="zarr",
            group=f"{prefix}/{name}".strip("/"),
            consolidated=False,
            mask_and_scale=False,
            chunks={},
        )

    root = zarr.open_group(store, path=prefix, mode="r")
    attributes = dict(root.attrs)
    fine, coarse = (group(f"{_REFLECTANCE}/{name}") for name in _EOPF_GRIDS)
    bands: dict[str, xr.DataArray] = {}
    # Bands of 10 m come first; those of the same name at 20 m are their means.
    for source in (fine, coarse):
        for name, variable in source.data_vars.items():
            band = band_name(str(name))
            if band is not None and band not in bands and set(variable.dims) == {"y", "x"}:
                bands[band] = _eopf_reflectance(_repeated(variable, fine))
    if _EOPF_SCL in root:
        classes = group(_EOPF_SCL)
        if "scl" in classes:
            values = _repeated(classes["scl"], fine).astype(np.float32)
            bands[SCENE_CLASSIFICATION] = values.where(values != 0).drop_attrs()
    date = xr.Dataset({name: bands[name] for name in sorted(bands)}).expand_dims(
        time=[_eopf_time(path, store, attributes)]
    )
    date = date.drop_vars([name for name in date.coords if name not in ("time", "y", "x")])
    placed: xr.Dataset = date.odc.assign_crs(_eopf_crs(path, attributes, fine))
    return placed


def _repeated(variable: xr.DataArray, fine: xr.Dataset) -> xr.DataArray:
    """Return a band with its pixels repeated on the grid of ``fine``."""
    places = {}
    for dim in ("y", "x"):
        given, wanted = (np.asarray(one[dim].values, np.float64) for one in (variable, fine))
        if len(given) == len(wanted):
            continue
        step = (given[-1] - given[0]) / max(len(given) - 1, 1)
        nearest = np.floor((wanted - given[0]) / step + 0.5).astype(int)
        places[dim] = np.clip(nearest, 0, len(given) - 1)
    bare = variable.drop_vars(list(variable.coords)).transpose("y", "x")
    return bare.isel(places).assign_coords(y=fine["y"], x=fine["x"])


def _eopf_reflectance(values: xr.DataArray) -> xr.DataArray:
    """Return reflectance x 10 000 by the attributes of a band."""
    stated = {**(values.attrs.get("_eopf_attrs") or {}), **values.attrs}
    scale, offset = (
        float(stated.get(name, default))
        for name, default in (("scale_factor", _EOPF_SCALE), ("add_offset", 0.0))
    )
    nodata = float(stated.get("_FillValue", stated.get("fill_value", 0)) or 0)
    if not (math.isfinite(scale) and math.isfinite(offset)):
        raise ValueError(f"scale {scale} and offset {offset}")
    numbers = values.astype(np.float32)
    seen = numbers.where((numbers != nodata) & (numbers != 0))
    reflectance = seen * np.float32(scale * 1e4) + np.float32(offset * 1e4)
    return reflectance.where(reflectance != 0, np.float32(DARKEST)).drop_attrs()


def _eopf_time(path: Path, store: Store, attributes: Mapping[str, Any]) -> np.datetime64:
    found = (attributes.get("stac_discovery") or {}).get("properties") or {}
    text = found.get("datetime") or found.get("start_datetime")
    if text:
        return np.datetime64(parse_utc(str(text)), "ns")
    names = [str((attributes.get("stac_discovery") or {}).get("id", "")), str(store), path.name]
    dates = next((dates for name in names if (dates := dates_in(name.split("/")[-1]))), None)
    if dates is None:
        raise CubeError(f"A product in {path} has no datetime: name it as ESA does.")
    return np.datetime64(dates[0], "ns")


def _eopf_crs(path: Path, attributes: Mapping[str, Any], fine: xr.Dataset) -> str:
    """Return the coordinate system of a product."""
    other = attributes.get("other_metadata") or {}
    found = (attributes.get("stac_discovery") or {}).get("properties") or {}
    stated = [
        other.get("horizontal_CRS_code"),
        found.get("proj:code"),
        found.get("proj:epsg"),
        *(variable.attrs.get("proj:epsg") for variable in fine.data_vars.values()),
        *((v.attrs.get("_eopf_attrs") or {}).get("proj:epsg") for v in fine.data_vars.values()),
    ]
    for text in stated:
        number = str(text or "").upper().removeprefix("EPSG:")
        if number.isdecimal():
            return f"EPSG:{number}"
    raise CubeError(
        f"A product in {path} states no coordinate system: add proj:epsg to its attributes."
    )
