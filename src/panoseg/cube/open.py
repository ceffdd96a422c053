"""Open cubes from NetCDF, Zarr and folders of GeoTIFFs; damaged files become ``CubeError``.

Zarr chunks compressed by Blosc are decoded by a checked decoder. numcodecs 0.16 trusts the length
in the header of a chunk: of a chunk that was cut off it decodes what happens to follow in memory,
mostly without an error.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import netCDF4
import numcodecs
import xarray as xr
import zarr
from numcodecs.blosc import Blosc
from numcodecs.pickles import Pickle
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from zarr.codecs.blosc import BloscCodec
from zarr.registry import register_codec

from panoseg.cube.forms import eopf_cube, recognise
from panoseg.errors import CubeError

_HEADER = 16  # bytes, of which the last four are the length of the chunk with its header
_LENGTH = slice(12, 16)
_CHUNKS = {"time": 8, "y": 512, "x": 512}
_STORED: dict[str, Any] = {"decode_coords": "all", "mask_and_scale": False, "decode_times": False}
_DAMAGE = (OSError, RuntimeError, ValueError, RasterioError)
# Damaged metadata breaks the decoders in other ways, too.
_DAMAGED_METADATA = (
    *_DAMAGE,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RecursionError,
)


class CheckedBlosc(Blosc):  # type: ignore[misc]  # numcodecs has no types
    """Blosc for arrays of Zarr 2.

    Raises ``RuntimeError``, as Blosc itself does, for a chunk that is cut off.
    """

    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:  # noqa: ANN401 - as numcodecs has it
        """Return the decoded bytes of a chunk."""
        whole = memoryview(buf).cast("B")
        if len(whole) < _HEADER or int.from_bytes(whole[_LENGTH], "little") > len(whole):
            raise RuntimeError("a chunk was cut off")
        return super().decode(buf, out)


class RefusedPickle(Pickle):  # type: ignore[misc]  # numcodecs has no types
    """Pickles in arrays of Zarr 2, which could run any code. Before 0.16.6 numcodecs reads them."""

    def decode(self, buf: Any, out: Any = None) -> Any:  # noqa: ANN401 - as numcodecs has it
        """Raise ``RuntimeError``."""
        raise RuntimeError("it holds pickles, which could run any code")


class CheckedBloscCodec(BloscCodec):
    """Blosc for arrays of Zarr 3."""

    @property
    def _blosc_codec(self) -> Blosc:
        return CheckedBlosc(
            **{
                name: value
                for name, value in super()._blosc_codec.get_config().items()
                if name != "id"
            }
        )


@cache
def use_checked_blosc() -> None:
    """Make Zarr decode Blosc by these classes, and no pickles, in this process."""
    numcodecs.register_codec(CheckedBlosc)
    numcodecs.register_codec(RefusedPickle)
    register_codec("blosc", CheckedBloscCodec)
    zarr.config.set(
        {"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"}
    )


@contextmanager
def reading(path: Path | str, failures: tuple[type[Exception], ...] = _DAMAGE) -> Iterator[None]:
    """Turn exceptions of the reading libraries on damaged files into a ``CubeError``.

    NetCDF, HDF5, Zarr and GDAL each have their own; a file that was cut off fails only when its end
    is read.

    Args:
        path: The cube, named in the message.
        failures: Exceptions to translate.
    """
    try:
        with warnings.catch_warnings():
            # rasterio silences this warning in a way that threads undo for each other.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # Problems are reported by the error that follows.
            warnings.filterwarnings("ignore", module="zarr")
            # ``metadata.find_crs`` looks elsewhere.
            warnings.filterwarnings("ignore", message=r"Variable\(s\) referenced in")
            logging.getLogger("rasterio").setLevel(logging.CRITICAL)
            yield
    except CubeError:
        raise
    except failures as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise CubeError(
            f"{path} cannot be read as NetCDF, Zarr or GeoTIFFs ({text[0].split('. ')[0]}): copy it"
            " again."
        ) from error


def open_cube(path: Path | str) -> xr.Dataset:
    """Open the cube at ``path``, lazily, with the numbers and attributes that it stores.

    ``check_cube`` decodes and checks the result.

    Raises:
        CubeError: There is nothing, or nothing that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise CubeError(
            f"{path} does not exist: give a NetCDF file, a Zarr store or a folder of GeoTIFFs."
        )
    with reading(path, _DAMAGED_METADATA):
        use_checked_blosc()
        form = recognise(path)
        if form.kind == "netcdf":
            return _chunked(_named_dims(path, _open_netcdf(path)))
        if form.kind == "eopf":
            return _chunked(eopf_cube(path, form))
        if form.kind == "zarr":
            return _chunked(
                xr.open_dataset(
                    form.stores[0],  # type: ignore[arg-type]  # any store of Zarr
                    engine="zarr",
                    group=form.group or None,
                    consolidated=False,
                    chunks={},
                    **_STORED,
                )
            )
        # A slow import, and the workers of a map mostly read Zarr.
        from panoseg.cube.folder import cube_of_scenes
        from panoseg.imagery.geotiffs import season_scenes

        return cube_of_scenes(*season_scenes(path))


def _open_netcdf(path: Path) -> xr.Dataset:
    # The engine is named, because xarray goes by the suffix.
    cube = xr.open_dataset(path, engine="netcdf4", chunks={}, **_STORED)
    if cube.variables:
        return cube
    with netCDF4.Dataset(path) as file:
        groups = list(file.groups)
    if len(groups) > 1:
        raise CubeError(
            f"{path} holds the groups {', '.join(groups)[:200]}: write one of them as a file."
        )
    if not groups:
        return cube
    return xr.open_dataset(path, engine="netcdf4", group=groups[0], chunks={}, **_STORED)


def _named_dims(path: Path, cube: xr.Dataset) -> xr.Dataset:
    """Return a cube whose dimensions have names, as those of NetCDF have."""
    if any(str(dim).startswith("phony_dim") for dim in cube.dims):
        raise CubeError(
            f"{path} is HDF5 without named dimensions, not NetCDF: write it as NetCDF with time, y"
            " and x (xarray.Dataset.to_netcdf)."
        )
    return cube


def _chunked(cube: xr.Dataset) -> xr.Dataset:
    """Split variables that lie in one piece on disk, so that a window reads only a window."""
    whole = [
        name
        for name, variable in cube.data_vars.items()
        if not variable.encoding.get("preferred_chunks")
    ]
    pieces = {dim: size for dim, size in _CHUNKS.items() if dim in cube.dims}
    return cube.assign(
        {
            name: cube[name].chunk({d: n for d, n in pieces.items() if d in cube[name].dims})
            for name in whole
        }
    )
