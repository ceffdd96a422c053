"""Photographs on disk become a folder of results: pictures of ids with their JSON, overlays, and a table of segments.

panoptic.json, panoptic/     COCO's panoptic form
overlay/                     each photograph under its segments, with their names
segments.csv                 a row a segment
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.categories import category_rows
from panoseg.coco.format import coloured_rows
from panoseg.coco.png import write_ids
from panoseg.data.photograph_files import decode_photograph, read_bytes
from panoseg.errors import DatasetError
from panoseg.files import atomic, new_folder
from panoseg.panoptic.draw import overlay
from panoseg.panoptic.panoptic import Panoptic
from panoseg.photo.find import Source
from panoseg.progress import track

if TYPE_CHECKING:
    from PIL import Image

PANOPTIC, OVERLAY, SEGMENTS = "panoptic", "overlay", "segments.csv"
COLUMNS = ("class", "kind", "score", "area", "left", "top", "width", "height", "id")
"""Of the table of segments, behind the name of the photograph; pixels, but for the score 0..1 and the id."""
_QUALITY = 92  # of JPEG

Predict = Callable[["Image.Image"], Panoptic]
Row = dict[str, Any]


@dataclass(frozen=True)
class Segmented:
    """What was done: how many photographs, a failure for each that is left out, and the seconds that one took."""

    images: int
    failures: tuple[DatasetError, ...]
    seconds: float


def segment_photographs(
    sources: Sequence[Source],
    predict: Predict,
    table: ClassTable,
    out: Path,
    show: Callable[[str, list[Row]], None] = lambda name, rows: None,
) -> Segmented:
    """Write the results of photographs into a new or empty folder: of all, or, where something else fails, of none.

    A photograph that cannot be read, or is too large, costs itself; where none is left, the first failure is raised. predict:
    what makes pictures, of the classes of ``table``. show: called with the name of each photograph and its segments. Raises
    ``OutputError``.
    """
    new_folder(out)
    failures: list[DatasetError] = []
    done, seconds = 0, 0.0
    with _Results.open(out, table) as results:
        for source, image_id in zip(track(sources, "photographs"), _image_ids(sources), strict=True):
            started = time.perf_counter()
            try:
                image = decode_photograph(read_bytes(source.path), source.path)
                picture = _predicted(predict, image, source)
            except DatasetError as error:
                failures.append(error)
                continue
            rows = results.write(source, image_id, image, picture)
            done, seconds = done + 1, seconds + time.perf_counter() - started
            show(source.name, rows)
        if failures and not done:
            first, others = failures[0], len(failures) - 1
            found = f"{first.found} (and {others} more left out)" if others else first.found
            raise DatasetError(found, first.expected, first.fix)
    return Segmented(done, tuple(failures), seconds / max(done, 1))


def _predicted(predict: Predict, image: Image.Image, source: Source) -> Panoptic:
    try:
        return predict(image)
    except DatasetError as error:
        raise DatasetError(f"{source.path}: {error.found}", error.expected, error.fix) from error


class _Results:
    """The files of some photographs, which appear together."""

    def __init__(self, table: ClassTable, pictures: Path, overlays: Path, segments: Path) -> None:
        self.table, self.pictures, self.overlays = table, pictures, overlays
        self._file = segments.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(("image", *COLUMNS))
        self.images: list[Row] = []
        self.annotations: list[Row] = []

    @classmethod
    @contextmanager
    def open(cls, out: Path, table: ClassTable) -> Iterator[_Results]:
        with ExitStack() as stack:
            path = stack.enter_context(atomic(out / f"{PANOPTIC}.json"))  # first in, so that it appears last
            pictures, overlays = (stack.enter_context(atomic(out / name)) for name in (PANOPTIC, OVERLAY))
            pictures.mkdir()
            overlays.mkdir()
            results = cls(table, pictures, overlays, stack.enter_context(atomic(out / SEGMENTS)))
            with results._file:
                yield results
            path.write_text(json.dumps(results._json(), allow_nan=False), encoding="utf-8")

    def write(self, source: Source, image_id: int, image: Image.Image, picture: Panoptic) -> list[Row]:
        """Write the results of one photograph; returns its segments, as ``COLUMNS``."""
        info, id_HW = coloured_rows(picture, self.table)
        write_ids(self.pictures / f"{source.name}.png", id_HW)
        _write_jpeg(self.overlays / f"{source.name}.jpg", overlay(np.asarray(image), picture, self.table))
        self.images.append({"id": image_id, "file_name": source.file_name, "height": image.height, "width": image.width})
        self.annotations.append({"image_id": image_id, "file_name": f"{source.name}.png", "segments_info": info})
        rows = segment_rows(info, self.table)
        self._csv.writerows([source.name, *row.values()] for row in rows)
        return rows

    def _json(self) -> Row:
        return {"images": self.images, "annotations": self.annotations, "categories": category_rows(self.table)}


def segment_rows(info: Sequence[Row], table: ClassTable) -> list[Row]:
    """Rows of an annotation for people, the largest first: values by the names of ``COLUMNS``."""
    rows = []
    for segment in sorted(info, key=lambda segment: -segment["area"]):
        entry = table[segment["category_id"]]
        values = (entry.name, entry.kind, round(segment["score"], 3), segment["area"], *segment["bbox"], segment["id"])
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _image_ids(sources: Sequence[Source]) -> list[int]:
    """Ids of the images: the numbers that their names are, as COCO's are, where all are different ones; else 1, 2, 3 ..."""
    names = [source.path.stem for source in sources]
    numbers = {int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= 15}
    return [int(name) for name in names] if len(numbers) == len(names) else list(range(1, len(names) + 1))


def _write_jpeg(path: Path, pixels_HW3: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW3).save(path, quality=_QUALITY, subsampling=0)  # or thin lines would lose their colour
