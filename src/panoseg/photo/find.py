"""Which photographs are meant by files, folders and patterns, and a name for each that no other one has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePath

from panoseg.coco.png import IMAGE_SUFFIXES
from panoseg.errors import DatasetError, PanosegError

_ODD = re.compile(r"[\x00-\x1f\x7f:\\\ud800-\udfff]")
"""What may stand in the name of a file here, but not in one on any disk, in a line, or in UTF-8."""


@dataclass(frozen=True)
class Source:
    """A photograph to segment. path: its file. name: of its results, with folders where files of several have one name."""

    path: Path
    name: str

    @property
    def file_name(self) -> str:
        """The name with its file's ending."""
        ending = _ODD.sub("_", self.path.suffix)
        return self.name if self.name.endswith(ending) else f"{self.name}{ending}"


def find_photographs(arguments: Iterable[str]) -> tuple[list[Source], list[PanosegError]]:
    """The photographs that arguments mean, each once, in their order; and a failure for each argument that means none.

    A folder stands for the pictures in it and in the folders below, a pattern (``"2024/*.jpg"``, ``**`` for any folders) for
    the files that match.
    """
    paths: dict[Path, Path] = {}
    failures: list[PanosegError] = []
    for argument in arguments:
        try:
            found = _expand(argument)
        except OSError as error:
            failures.append(_nothing(argument[:100], error.strerror or str(error)))
            continue
        if not found:
            failures.append(_nothing(argument))
        for path in found:
            paths.setdefault(path.resolve(), path)
    return [Source(path, name) for path, name in zip(paths.values(), unique_names([*paths]), strict=True)], failures


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """The shortest names that tell files apart, on any disk: without ending, with folders and ending only where needed.

    >>> unique_names([PurePath("/a/one.jpg"), PurePath("/a/two.jpg"), PurePath("/b/two.jpg"), PurePath("/b/two.png")])
    ['one', 'a/two', 'b/two.jpg', 'two.png']
    """
    names: dict[int, str] = {}
    deepest = max((len(path.parts) for path in paths), default=0)
    for with_ending in (False, True):
        for depth in range(1, deepest + 1):
            left = {position: _name(path, depth, with_ending) for position, path in enumerate(paths)}
            count = Counter(name.lower() for name in left.values())
            names |= {position: name for position, name in left.items() if position not in names and count[name.lower()] == 1}
    taken: set[str] = set()
    # Those of files whose paths differ in small and capital letters alone are made different at the end.
    return [_free(names.get(position, _name(path, 1, with_ending=True)), taken) for position, path in enumerate(paths)]


def _name(path: PurePath, depth: int, with_ending: bool) -> str:
    """The last so many parts of a path, odd characters replaced."""
    parts = path.relative_to(path.anchor).parts[-depth:]
    return _ODD.sub("_", "/".join((*parts[:-1], path.name if with_ending else path.stem)))


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken, which ``two.jpg`` may be by a file ``two.jpg.png``; it is taken then."""
    while name.lower() in taken:
        name += "_"
    taken.add(name.lower())
    return name


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if not argument:  # an empty variable of a shell, which does not mean the folder where it is
        return []
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if _is_picture(entry))
    if path.exists():
        return [path]
    if has_magic(argument):
        return [Path(entry) for entry in sorted(glob(argument, recursive=True)) if Path(entry).is_file()]
    return []


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _nothing(argument: str, reason: str = "") -> DatasetError:
    if argument and not reason and Path(argument).is_dir():
        return DatasetError(
            f"{argument}: no picture in this folder", f"files {', '.join(IMAGE_SUFFIXES)}", "name another folder"
        )
    found = reason or ("no file matches" if has_magic(argument) else "no such file or folder")
    return DatasetError(f"{argument or repr(argument)}: {found}", "a photograph, a folder or a pattern", "correct the name")
