"""Blosc that reads no further than the bytes that it was given.

numcodecs 0.16 believes the length that a chunk says of itself: of one that was cut off, or lies, it decodes whatever happens to
follow in memory, and mostly says nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numcodecs
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs.blosc import BloscCodec
from zarr.registry import register_codec

_HEADER = 16  # bytes, of which the last four are the length of the chunk with its header
_LENGTH = slice(12, 16)


class CheckedBlosc(Blosc):
    """Blosc as arrays of Zarr 2 use it. Raises ``RuntimeError``, as it does itself, for a chunk that is not whole."""

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
        return CheckedBlosc(**{name: value for name, value in super()._blosc_codec.get_config().items() if name != "id"})


@cache
def use_checked_blosc() -> None:
    """From now on Zarr decodes Blosc by these, in this process."""
    numcodecs.register_codec(CheckedBlosc)
    register_codec("blosc", CheckedBloscCodec)
    zarr.config.set({"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"})
