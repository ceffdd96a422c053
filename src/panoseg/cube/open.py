"""Blosc that reads no further than the bytes that it was given.

numcodecs 0.16 believes the length that a chunk says of itself: of one that was cut off, or lies, it
decodes whatever happens to follow in memory, and mostly says nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import xarray as xr
import zarr
from numcodecs.blosc import Blosc
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from zarr.codecs.blosc import BloscCodec
from zarr.registry import register_codec

from panoseg.errors import CubeError

_HEADER = 16  # bytes, of which the last four are the length of the chunk with its header
_LENGTH = slice(12, 16)


class CheckedBlosc(Blosc):
    """Blosc as arrays of Zarr 2 use it. Raises ``RuntimeError``, as it does itself, for a chunk
    that is not whole.
    """

    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The numbers of a chunk, as bytes."""
        whole = memoryview(buf).cast("B")
        if len(whole) < _HEADER or int.from_bytes(whole[_LENGTH], "little") > len(whole):
            raise RuntimeError("a chunk was cut off")
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):
    """Blosc as arrays of Zarr 3 use it."""

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
    """From now on Zarr decodes Blosc by these, in this process."""
    numcodecs.register_codec(CheckedBlosc)
    register_codec("blosc", CheckedBloscCodec)
    zarr.config.set(
        {"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"}
    )


_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
# Variables stored in one piece are read in pieces of this size, so that a window costs a window.
_CHUNKS = {"time": 8, "y": 512, "x": 512}


_DAMAGE = (OSError, RuntimeError, ValueError, RasterioError)
# Metadata that was tampered with breaks the decoders in ways of its own.
_DAMAGED_METADATA = (
    *_DAMAGE,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    NotImplementedError,
    RecursionError,
)


@contextmanager
def reading(path: Path | str, failures: tuple[type[Exception], ...] = _DAMAGE) -> Iterator[None]:
    """Turn what the reading libraries raise on damaged files into one ``CubeError`` that names
    ``path``.

    NetCDF, HDF5, Zarr and GDAL each raise their own; a file that was cut off shows itself only when
    its end is read.
    """
    try:
        with warnings.catch_warnings():
            # rasterio silences this warning of its own in a way that threads undo for each other.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # What is wrong is said by the error that follows, or is nothing to the user.
            warnings.filterwarnings("ignore", module="zarr")
            for name in ("odc.loader", "rasterio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
    except CubeError:
        raise
    except failures as error:
        damaged = _damaged_part(Path(path))
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise CubeError(
            f"{damaged} cannot be read ({text[0].split('. ')[0]})",
            "a complete NetCDF, Zarr or STAC folder",
            "copy it again",
        ) from error


def _damaged_part(path: Path) -> Path:
    """The file that is to blame; odc-stac does not tell which of a thousand rasters it is."""
    if not path.is_dir() or any((path / mark).exists() for mark in _ZARR_MARKS):
        return path
    from panoseg.imagery.scenes import damaged_raster

    with suppress(CubeError):
        return damaged_raster(path) or path
    return path


def open_cube(path: Path | str) -> xr.Dataset:
    """The cube at ``path``, nothing but its metadata read; values are decoded by the file's own
    scale and fill value.

    Raises ``CubeError`` where there is nothing, or nothing that can be read. ``check_cube`` tells
    whether it is a season.
    """
    path = Path(path)
    if not path.exists():
        raise CubeError(
            f"{path} does not exist",
            "a NetCDF file, a Zarr store or a folder with STAC items",
            "check the path",
        )
    with reading(path, _DAMAGED_METADATA):
        if path.is_file():
            return _chunked(xr.open_dataset(path, decode_coords="all", chunks={}))
        if any((path / mark).exists() for mark in _ZARR_MARKS):
            use_checked_blosc()
            return _chunked(
                xr.open_dataset(
                    path, engine="zarr", consolidated=False, decode_coords="all", chunks={}
                )
            )
        # Catalogues take their time to import, and the workers of a map mostly read Zarr.
        from panoseg.cube.scenes import cube_of_scenes
        from panoseg.imagery.scenes import is_stac_folder, read_scenes

        if is_stac_folder(path):
            return cube_of_scenes(read_scenes(path))
    raise CubeError(
        f"{path} holds neither a Zarr store nor STAC items",
        "a NetCDF file, Zarr or a STAC folder",
        "check the path",
    )


def _chunked(cube: xr.Dataset) -> xr.Dataset:
    """The same cube with variables that lie in one piece on disk cut into pieces."""
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
