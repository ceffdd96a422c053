"""Open cubes from NetCDF, Zarr and folders with STAC items; damaged files become ``CubeError``.

Zarr chunks compressed by Blosc are decoded by a checked decoder. numcodecs 0.16 trusts the length
in the header of a chunk: of a chunk that was cut off it decodes what happens to follow in memory,
mostly without an error.
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
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_CHUNKS = {"time": 8, "y": 512, "x": 512}
_DAMAGE = (OSError, RuntimeError, ValueError, RasterioError)
# Damaged metadata breaks the decoders in other ways, too.
_DAMAGED_METADATA = (
    *_DAMAGE,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    NotImplementedError,
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
    """Make Zarr decode Blosc by these classes in this process."""
    numcodecs.register_codec(CheckedBlosc)
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
        path: The cube; named in the message, or in a STAC folder the damaged file.
        failures: Exceptions to translate.
    """
    try:
        with warnings.catch_warnings():
            # rasterio silences this warning in a way that threads undo for each other.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # Problems are reported by the error that follows.
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
            f"{damaged} cannot be read as NetCDF, Zarr or STAC folder ({text[0].split('. ')[0]}):"
            " copy it again."
        ) from error


def _damaged_part(path: Path) -> Path:
    """Return the damaged file; odc-stac does not report which of a thousand rasters it is."""
    if not path.is_dir() or any((path / mark).exists() for mark in _ZARR_MARKS):
        return path
    from panoseg.imagery.scenes import damaged_raster

    with suppress(CubeError):
        return damaged_raster(path) or path
    return path


def open_cube(path: Path | str) -> xr.Dataset:
    """Open the cube at ``path``, lazily; values are decoded by the file's scale and fill value.

    ``check_cube`` checks the result.

    Raises:
        CubeError: There is nothing, or nothing that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise CubeError(
            f"{path} does not exist: give a NetCDF file, a Zarr store or a folder with STAC items."
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
        # A slow import, and the workers of a map mostly read Zarr.
        from panoseg.cube.scenes import cube_of_scenes
        from panoseg.imagery.scenes import is_stac_folder, read_scenes

        if is_stac_folder(path):
            return cube_of_scenes(read_scenes(path))
    raise CubeError(
        f"{path} holds neither a Zarr store nor STAC items: give a NetCDF file, a Zarr store or a"
        " folder with STAC items."
    )


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
