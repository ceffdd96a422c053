"""Files of weights from elsewhere, opened within bounds: those of ``torch.save``, and archives.

This is the only place that opens files of ``torch.save``. They are pickles, which could run code:
they are read with ``weights_only``, as tensors and plain values alone, and never without. What they
hold is checked to be plain numbers in memory.

Every entry of an archive must be a plain file or folder inside; links, devices and paths that climb
out are refused, and the size is bounded before and while it is written.
"""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from panoseg.errors import WeightsError
from panoseg.files import output_error
from panoseg.text_files import reason_of, shortened

if TYPE_CHECKING:
    from torch import Tensor


def load_tensors(path: Path, advice: str) -> Any:  # noqa: ANN401
    """Return the content of a checkpoint, on the CPU.

    Args:
        path: The file.
        advice: What the user can do where the file cannot be read: a sentence for the message.

    Raises:
        WeightsError: The file is missing or damaged, or holds code.
    """
    import torch  # in the functions that need it: to find weights by name needs none

    try:
        with warnings.catch_warnings():
            # Before torch fails it warns about other protocols of pickling.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise WeightsError(f"{path}: {error.strerror}. {advice}") from error
    # A damaged or hostile pickle can fail in any way, an OSError included.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or holds more than numbers{_culprit(error)}. {advice}"
        ) from error
    for tensor in _tensors_in(content):
        if unusual := _unusual(tensor):
            raise WeightsError(f"{path} has a tensor {unusual}. {advice}")
    return content


def _tensors_in(content: object) -> Iterator[Tensor]:
    """Yield every tensor in nested tables and lists, which may contain themselves."""
    from torch import Tensor

    todo, seen = [content], set[int]()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, Mapping) else value


def _unusual(tensor: Tensor) -> str:
    """Return what distinguishes a tensor from plain numbers in memory; empty for nothing."""
    import torch

    if tensor.device.type != "cpu":
        return f"without values, on the device {tensor.device.type}"
    if tensor.is_quantized:
        return "of quantised numbers"
    if tensor.layout != torch.strided:
        return f"with the layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_complex():
        return "of complex numbers"
    # A few numbers that stand for many, in memory that would have to be had.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of shape {tuple(tensor.shape)}, which has fewer numbers in the file"
    return ""


def _culprit(error: Exception) -> str:
    """Return the object that a pickle asked for besides tensors.

    torch's own message is advice to load it nevertheless.
    """
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({asked[1]})" if asked else ""


MOST_BYTES = 64 * 1024**3
MOST_ENTRIES = 20_000
MOST_RATIO = 200
"""Numbers of networks hardly shrink; an archive that unpacks to more times its size is a trap."""
_RATIO_FROM_BYTES = 64 * 1024**2
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NO_ARCHIVES = (".pth.tar", ".pt.tar")
"""Files of torch.save, which end like archives in the published programs."""
_CHUNK = 1024**2
_LONGEST_NAME, _LONGEST_PATH = 200, 800
ROOTS = ("card.json", "conf.json", "config.json")
"""Files that a folder of weights has: ours, those of the published programs, the hub's."""
_ROOTS_BELOW = ("Fold_1/conf.json", "fold_1/card.json", "weights/card.json")
_DEEPEST = 3


@dataclass(frozen=True)
class _Entry:
    """A file in an archive."""

    name: str
    """Its path there."""
    size: int
    """Its bytes, as stated."""
    file: IO[bytes]
    """Its content."""


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive by its name.

    >>> is_archive(Path("weights.tar.gz")), is_archive(Path("model.pth.tar"))
    (True, False)
    """
    name = path.name.lower()
    return name.endswith(_SUFFIXES) and not name.endswith(_NO_ARCHIVES)


def unpack(path: Path, target: Path) -> None:
    """Unpack an archive into a folder; files that are there already are in the way.

    Raises:
        WeightsError: The archive is damaged, encrypted, too large, or has an entry that is no file
            inside.
        OutputError: The disk is full, and the like.
    """
    limit = MOST_BYTES
    if path.stat().st_size * MOST_RATIO > _RATIO_FROM_BYTES:
        limit = min(limit, path.stat().st_size * MOST_RATIO)
    else:
        limit = _RATIO_FROM_BYTES
    left = limit
    with _reading(path):
        for count, entry in enumerate(_entries(path), 1):
            left -= entry.size
            if left < 0 or count > MOST_ENTRIES:
                raise WeightsError(
                    f"{path.name} unpacks to more than {limit >> 20:,} MiB or {MOST_ENTRIES:,}"
                    " files, far more than its size suggests. Tell those who publish it."
                )
            if entry.size > shutil.disk_usage(target).free:
                raise WeightsError(
                    f"{path.name} unpacks to more than is free in {target.parent}. Free some space,"
                    " or choose another folder with --cache."
                )
            _write(entry, target / PurePosixPath(entry.name))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the archive readers raise for a damaged archive into one sentence."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise WeightsError(
            f"{path.name} cannot be unpacked ({reason_of(error)}). Fetch it again."
        ) from error


def _entries(path: Path) -> Iterator[_Entry]:
    """Yield the files of an archive; every name has been checked."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                # Archives of systems without modes have none.
                plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
                _check(path, info.filename, plain)
                if not info.is_dir():
                    with archive.open(info) as file:
                        yield _Entry(info.filename, info.file_size, file)
        return
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            _check(path, member.name, member.isreg() or member.isdir())
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                with content:
                    yield _Entry(member.name, member.size, content)


def _check(path: Path, name: str, plain: bool) -> None:
    """Refuse an entry that is a link or device, or whose path leads out of the folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    outside = pure.is_absolute() or ".." in pure.parts or ":" in name or "\0" in name
    if outside or not plain:
        what = "a path out of its folder" if outside else "a link or a device"
        raise WeightsError(
            f"{path.name} holds {shortened(repr(name), 60)}, {what}. Nothing was unpacked; tell"
            " those who publish it."
        )
    if len(name) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in pure.parts):
        raise WeightsError(f"{path.name} holds a file name of {len(name)} letters. Pack it again.")


def _write(entry: _Entry, path: Path) -> None:
    """Write a file of an archive, of no more than its stated size."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            left = entry.size
            while left > 0 and (chunk := entry.file.read(min(_CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise WeightsError(
            f"The archive holds {shortened(entry.name, 60)} twice, or as a file and a folder. Tell"
            " those who publish it."
        ) from error
    except OSError as error:
        raise output_error(path, error) from error


def find_root(folder: Path) -> Path | None:
    """Return the folder of weights in a folder, itself first; None where there is none."""
    level = [folder]
    for _ in range(_DEEPEST):
        for place in level:
            if any((place / name).is_file() for name in (*ROOTS, *_ROOTS_BELOW)):
                return place
        level = [
            entry
            for place in level
            for entry in sorted(place.iterdir())
            if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
        ]
    return None
