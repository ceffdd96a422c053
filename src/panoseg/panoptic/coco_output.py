"""A JSON and its folder of pictures, written image by image: whole, or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from panoseg.errors import OutputError, PanosegError
from panoseg.files import atomic, new_folder
from panoseg.panoptic.coco_images import over_images
from panoseg.panoptic.coco_json import write_rows
from panoseg.progress import track

Job = TypeVar("Job")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Written:
    """What was written: the JSON, the number of images in it, a failure for each image that is not, and what is odd."""

    path: Path
    images: int
    failures: tuple[PanosegError, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """How a dataset is written.

    name: of the JSON and of the folder of pictures. pictures: whether there are any. numbered: whether rows get the ids 0, 1
    and so on. key: under which the rows stand.
    """

    name: str
    pictures: bool = True
    numbered: bool = False
    key: str = "annotations"


def write_dataset(
    out: Path,
    form: Form,
    head: Mapping[str, Any],
    work: Callable[[Path, Job], Rows],
    jobs: Iterable[Job],
    count: int,
    failures: list[PanosegError],
    processes: int | None = None,
) -> Written:
    """Write ``out/name.json`` and ``out/name/``, in a new or empty folder.

    work: writes the picture of a job into the folder that it is given, and returns the rows of its annotation. failures: those
    met so far; ``jobs`` may add to them while it is walked through. Where no image can be done, the first failure is raised
    and nothing is written.
    """
    new_folder(out)
    done = number = 0
    path = out / f"{form.name}.json"
    with ExitStack() as stack:
        write = stack.enter_context(write_rows(path, head, form.key))
        folder = out
        if form.pictures:
            folder = stack.enter_context(atomic(out / form.name))
            folder.mkdir()
        results = over_images(functools.partial(work, folder), jobs, count, processes)
        for result in track(results, "images", count):
            if isinstance(result, OutputError):  # a full disk is no matter of one image
                raise result
            if isinstance(result, PanosegError):
                failures.append(result)
                continue
            done += 1
            for row in result:
                write({**row, "id": number} if form.numbered else row)
                number += 1
        if failures and not done:
            raise failures[0]
    return Written(path, done, tuple(failures))
