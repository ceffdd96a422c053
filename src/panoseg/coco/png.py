"""Pictures of ids as PNG files, and the names of files inside a folder.

Source: cocodataset/panopticapi @ 7bb4655: id = R + 256 G + 65536 B, 0 is void.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import stat
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from panoseg.coco.json import about
from panoseg.coco.masks import check_size
from panoseg.errors import ConfigError, OutputError, PanopticFormatError, PanosegError
from panoseg.files import atomic

if TYPE_CHECKING:
    from PIL import Image


HIGHEST_ID = 2**24 - 1

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of files of images; those that a folder of photographs is searched for."""
_LARGEST_FILE = 2**29
_LONGEST_NAME, _LONGEST_PATH = 250, 2048  # bytes, with room for an ending and for folders above
_SIGNATURE, _FIRST_CHUNK = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", 8
_CHUNK, _CHECKSUM, _SIZE = struct.Struct(">I4s"), struct.Struct(">I"), struct.Struct(">II")
_SIZE_AT, _DEPTH, _COLOUR_TYPE = 16, 24, 25
_BITS, _COLOURS = 8, (2, 6)  # red, green, blue, without and with opacity


def ids_to_colours(segment_HW: np.ndarray) -> np.ndarray:
    """The colours that say the ids: uint8, H x W x 3. Ids above 2^24 - 1 raise
    ``PanopticFormatError``.

    >>> ids_to_colours(np.array([[1, 256, 65536 + 2, 0]])).tolist()
    [[[1, 0, 0], [0, 1, 0], [2, 0, 1], [0, 0, 0]]]
    """
    highest = int(segment_HW.max(initial=0))
    if highest > HIGHEST_ID:
        raise PanopticFormatError(
            f"segment id {highest}",
            f"at most {HIGHEST_ID}, what three bytes hold",
            "relabel the picture",
        )
    return np.stack([segment_HW & 255, segment_HW >> 8 & 255, segment_HW >> 16], axis=-1).astype(
        np.uint8
    )


def colours_to_ids(colour_3HW: np.ndarray) -> np.ndarray:
    """The ids that colours say: int32, H x W.

    >>> colours_to_ids(np.array([[[1, 0]], [[0, 1]], [[0, 0]]], np.uint8))
    array([[  1, 256]], dtype=int32)
    """
    red_HW, green_HW, blue_HW = colour_3HW
    ids_HW = blue_HW.astype(np.int32)
    for channel_HW in (green_HW, red_HW):
        ids_HW <<= 8
        ids_HW |= channel_HW
    return ids_HW


def read_ids(path: Path) -> np.ndarray:
    """The ids of a PNG of colours: int32, H x W. Raises ``PanopticFormatError``."""
    return colours_to_ids(read_colours(path))


def decode_ids(data: bytes, path: Path) -> np.ndarray:
    """The ids of a PNG whose bytes are at hand: int32, H x W. path: what failures call it. Raises
    ``PanopticFormatError``.
    """
    _check_png(data, path)
    return colours_to_ids(_colours(data, path))


def read_colours(path: Path) -> np.ndarray:
    """The colours of a PNG of eight bits: uint8, 3 x H x W. Raises ``PanopticFormatError``."""
    return _colours(_read_whole(path), path)


def _colours(data: bytes, path: Path) -> np.ndarray:
    depth, colour_type = data[_DEPTH], data[_COLOUR_TYPE]
    if depth == _BITS and colour_type in _COLOURS:
        return _decode_colours(path, data)
    if depth > _BITS:
        raise PanopticFormatError(
            f"{path} of {depth} bits a colour", "eight", "write the ids as R, G, B"
        )
    # Palettes and grey are what an optimiser makes of few colours; they mean the same.
    return np.moveaxis(np.asarray(_decode(path, data).convert("RGB")), -1, 0)


def write_ids(path: Path, segment_HW: np.ndarray) -> None:
    """Write a picture of ids; folders above it are made."""
    save_png(path, ids_to_colours(segment_HW))


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 pixels, H x W or H x W x 3; folders above it are made."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def open_png(path: Path) -> Image.Image:
    """The image in a PNG file, whole. Raises ``PanopticFormatError`` where it is none, cut, or
    above 67 million pixels.
    """
    return _decode(path, _read_whole(path))


def _read_whole(path: Path) -> bytes:
    """The bytes of a PNG file, whose chunks are all there and unchanged, of an image of bearable
    size.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no ordinary file")  # a device may have no end
        if status.st_size > _LARGEST_FILE:
            raise ValueError(f"more than {_LARGEST_FILE} bytes")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PanopticFormatError(
            f"{path}: no such file", "a PNG", "restore the file, or name the right folder"
        ) from error
    except OSError as error:
        raise _no_png(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _no_png(path, str(error)) from error
    _check_png(data, path)
    return data


def _check_png(data: bytes, path: Path) -> None:
    """Refuse a PNG that is not whole, or of unbearable size."""
    try:
        _check_chunks(data)
    except (ValueError, struct.error) as error:
        raise _no_png(
            path, "it is cut" if isinstance(error, struct.error) else str(error)
        ) from error
    with about(str(path)):
        width, height = _SIZE.unpack_from(data, _SIZE_AT)
        check_size(height, width)


def _check_chunks(data: bytes) -> None:
    """Walk through the chunks to the last. Raises ``ValueError`` or ``struct.error``; decoders may
    fill gaps with anything.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    at, kind = _FIRST_CHUNK, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length
        (stated,) = _CHECKSUM.unpack_from(data, end)
        if zlib.crc32(data[at + 4 : end]) != stated:
            raise ValueError(f"chunk {kind.decode('latin-1')!r} is damaged")
        at = end + _CHECKSUM.size


def _decode_colours(path: Path, data: bytes) -> np.ndarray:
    """The colours of eight bits in a PNG: uint8, 3 x H x W. GDAL's decoder is several times as fast
    as Pillow's.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(), rasterio.MemoryFile(data) as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(driver="PNG") as picture:
                return picture.read((1, 2, 3))
    except RasterioError as error:
        raise _no_png(path, str(error.__cause__ or error)) from error


def _decode(path: Path, data: bytes) -> Image.Image:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the size is checked already
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            image.load()
            return image
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        raise _no_png(path, str(error)) from error


def _no_png(path: Path, reason: str) -> PanopticFormatError:
    return PanopticFormatError(f"{path}: {reason}", "a PNG of segment ids", "restore the file")


def png_name(name: Any) -> str:
    """The name of an image's PNG, which keeps folders and dots. Raises ``PanopticFormatError`` for
    one that leaves its folder, or that file systems do not hold.

    >>> png_name("000000142238.jpg"), png_name("val/field.one.jpg"), png_name("v1.2")
    ('000000142238.png', 'val/field.one.png', 'v1.2.png')
    """
    text = name.replace("\\", "/") if isinstance(name, str) else ""
    path = PurePosixPath(text)
    parts = [part.encode("utf-8", "surrogatepass") for part in path.parts]
    is_long = (
        max(map(len, parts), default=0) > _LONGEST_NAME
        or sum(map(len, parts)) + len(parts) > _LONGEST_PATH
    )
    is_odd = is_long or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
    if (
        is_odd
        or not path.name
        or path.is_absolute()
        or ".." in path.parts
        or PureWindowsPath(text).drive
    ):
        raise PanopticFormatError(
            f"file name {str(name)[:60]!r}", "the name of a file inside its folder", "correct it"
        )
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    return str(path.with_suffix(".png") if is_image else path.with_name(f"{path.name}.png"))


Job = TypeVar("Job")
Result = TypeVar("Result")

_LARGEST_CHUNK = 8
_AHEAD = 3
_WORTH_A_PROCESS = 64


def over_images(
    function: Callable[[Job], Result], jobs: Iterable[Job], count: int, processes: int | None = None
) -> Iterator[Result | PanosegError]:
    """What a function makes of each job, in their order; a ``PanosegError`` that it raises is the
    result of that job.

    The function and the jobs must be such that can be pickled. count: number of jobs. processes: by
    default one for every 64 images, at most one a core. Only a few jobs a process are under way, so
    that memory does not grow with their number.
    """
    cores = usable_cores()
    if processes is not None and not 1 <= processes <= cores:
        raise ConfigError(
            f"processes {processes}",
            f"1 .. {cores}, the cores that may be used",
            "pass fewer --processes",
        )
    processes = min(processes or -(-count // _WORTH_A_PROCESS), cores, count)
    if processes <= 1:
        for job in jobs:
            yield _attempt(function, job)
    else:
        chunk = min(
            _LARGEST_CHUNK, -(-count // (_AHEAD * processes))
        )  # few jobs are large ones: all processes have some
        yield from _in_pool(function, jobs, processes, chunk)


def usable_cores() -> int:
    """Cores that this process may use; where the system does not tell, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_pool(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int, size: int
) -> Iterator[Result | PanosegError]:
    jobs = iter(jobs)
    # A fresh interpreter each: forking a process that holds torch's threads can hang.
    # An interrupt is for this process, which ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=signal.signal, initargs=ignore)
    waiting: deque[Future] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD * processes and (chunk := list(islice(jobs, size))):
                waiting.append(pool.submit(_attempt_all, function, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OutputError(
            "a process was ended, perhaps for memory", "all of them alive", "pass fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt_all(
    function: Callable[[Job], Result], jobs: Sequence[Job]
) -> list[Result | PanosegError]:
    return [_attempt(function, job) for job in jobs]


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | PanosegError:
    try:
        return function(job)
    except PanosegError as error:
        return error
