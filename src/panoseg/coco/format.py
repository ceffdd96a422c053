"""COCO's panoptic format: one PNG per image whose colours are ids, and one JSON for all of them.

Reading: ``CocoAnnotations``. Writing: ``write_coco`` for a few segmentations, ``write_dataset`` for
the results of a tool over many images, in several processes. Ids are chosen as colours close to
those of the classes (``coloured_ids``).

Source: the format as cocodataset/panopticapi @ 7bb4655 reads and writes it.

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np

from panoseg.classes import ClassTable
from panoseg.coco.categories import category_rows, class_table, colour_of
from panoseg.coco.json import CocoJson, ImageId, about, read_row, whole_number, write_rows
from panoseg.coco.parallel import over_images
from panoseg.coco.png import HIGHEST_ID, png_name, read_ids, write_ids
from panoseg.errors import OutputError, PanopticFormatError, PanosegError
from panoseg.files import atomic, new_folder, write_json
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import contradiction, kinds_of, present_segments
from panoseg.progress import track

Job = TypeVar("Job")
Rows = list[dict[str, Any]]

_NOT_STATED = -1.0
_LARGEST_NUMBER = 2**53
_COLOUR_DISTANCE = 30
"""How far the colour of a segment may be from that of its class, 0..255 per channel, at first."""


@dataclass(frozen=True, eq=False)
class CocoAnnotation:
    """What the JSON says about one image; columns ascend by id."""

    image_id: ImageId
    """Id of the image."""
    file_name: str
    """Name of the PNG, inside the folder of the JSON."""
    rows: tuple[Mapping[str, Any], ...]
    """``segments_info`` as it stands in the file."""
    ids_N: np.ndarray
    """int32, N: ids of the segments."""
    class_ids_N: np.ndarray
    """int32, N: their categories."""
    scores_N: np.ndarray
    """float32, N: their scores; 1 where not stated."""
    areas_N: np.ndarray
    """float64, N: their areas in pixels; -1 where not stated."""
    crowd_ids: tuple[int, ...]
    """Ids of the segments that stand for many objects, in the order of the file."""

    @classmethod
    def parse(cls, text: bytes) -> CocoAnnotation:
        """Read a row of the annotations.

        Raises ``PanopticFormatError``, and the errors that ``about`` turns into it.
        """
        annotation = read_row(text)
        rows = annotation["segments_info"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError("segments_info is no list of segments")
        ids = np.array([whole_number(row, "id", 1, HIGHEST_ID) for row in rows], np.int32)
        order = np.argsort(ids, kind="stable")
        if (np.diff(ids[order]) == 0).any():
            raise ValueError(f"id {ids[order][:-1][np.diff(ids[order]) == 0][0]} is listed twice")
        class_ids = np.array(
            [whole_number(row, "category_id", 0, 2**31 - 1) for row in rows], np.int32
        )
        scores = np.array([_number(row, "score", 1.0) for row in rows], np.float32)
        areas = np.array([_number(row, "area", _NOT_STATED) for row in rows], np.float64)
        crowds = tuple(row["id"] for row in rows if row.get("iscrowd") == 1)
        return cls(
            annotation["image_id"],
            png_name(annotation["file_name"]),
            tuple(rows),
            ids[order],
            class_ids[order],
            scores[order],
            areas[order],
            crowds,
        )

    def segments(self, ids: np.ndarray, areas: np.ndarray, table: ClassTable) -> Segments:
        """Return the table of the segments of a raster with these ids and areas.

        Raises:
            PanopticFormatError: The raster has other ids, or a category is unknown.
        """
        if not np.array_equal(ids, self.ids_N):
            raise contradiction(ids, self.ids_N)
        known = [entry.id for entry in table.classes]
        unknown = np.flatnonzero(~np.isin(self.class_ids_N, known))
        if unknown.size:
            raise PanopticFormatError(
                f"segment {ids[unknown[0]]} has the unknown category "
                f"{self.class_ids_N[unknown[0]]}; add it to the categories, or correct the segment."
            )
        return Segments(
            ids, self.class_ids_N, self.scores_N, areas, kinds_of(self.class_ids_N, table)
        )

    def segmentation(self, segment_HW: np.ndarray, table: ClassTable) -> CocoSegmentation:
        """Return the segmentation of a raster of ids (int32, H x W).

        Raises:
            PanopticFormatError: The raster and the annotation contradict each other.
        """
        segments = self.segments(*present_segments(segment_HW), table)
        areas = self.stated_areas(segments.areas)
        result = Panoptic(segment_HW, segments, table)
        return CocoSegmentation(self.image_id, self.file_name, result, self.crowd_ids, areas)

    def stated_areas(self, areas: np.ndarray) -> np.ndarray:
        """Return the areas that the file states, and ``areas`` where it states none: float64, N."""
        return np.where(self.areas_N == _NOT_STATED, areas, self.areas_N)


@dataclass(frozen=True, eq=False)
class CocoSegmentation:
    """One annotated image."""

    image_id: ImageId
    """Id of the image."""
    file_name: str
    """Name of the PNG, inside the folder of the JSON."""
    segmentation: Panoptic
    """The segments, with their true areas."""
    crowd_ids: tuple[int, ...]
    """Ids of the segments that stand for many objects, in the order of the file."""
    stated_areas_N: np.ndarray
    """float64, N: areas that the file states, which may be wrong, in the order of the table."""


@dataclass(frozen=True)
class CocoAnnotations:
    """A JSON of annotations and its folder of PNG files, which are read one at a time."""

    file: CocoJson
    """The JSON."""
    folder: Path
    """The folder of the PNG files."""
    table: ClassTable
    """The classes."""

    @classmethod
    def open(
        cls, path: Path | str, folder: Path | str | None = None, table: ClassTable | None = None
    ) -> CocoAnnotations:
        """Open a JSON.

        Args:
            path: The JSON file.
            folder: Folder of the PNG files; by default named like the JSON, beside it.
            table: The classes if the JSON has no categories, which predictions may lack.

        Raises:
            PanopticFormatError: The file is no panoptic JSON.
        """
        file = CocoJson.open(path)
        if file.annotations is None:
            raise PanopticFormatError(f"{path} has no annotations; pass a panoptic JSON.")
        if file.categories:
            table = class_table(file.path, file.categories)
        if table is None:
            raise PanopticFormatError(f"{path} has no categories; add them to the file.")
        return cls(file, png_folder(file.path, folder), table)

    @property
    def image_ids(self) -> list[ImageId]:
        """Ids of the annotated images, in the order of the file."""
        return list(self.file.annotations or ())

    def __len__(self) -> int:
        return len(self.file.annotations or ())

    def __iter__(self) -> Iterator[CocoSegmentation]:
        return (self.read(image_id) for image_id in self.image_ids)

    def text(self, image_id: ImageId) -> bytes:
        """Return the annotation of an image as it stands in the file.

        Raises:
            PanopticFormatError: The image has no annotation, or several.
        """
        rows = self.file.rows(image_id)
        if len(rows) != 1:
            found = f"{len(rows)} annotations" if rows else "no annotation"
            raise PanopticFormatError(
                f"There {'are' if rows else 'is'} {found} of image {image_id} in {self.file.path}; "
                "an image needs exactly one."
            )
        return rows[0]

    def read(self, image_id: ImageId) -> CocoSegmentation:
        """Read the segmentation of an image.

        Raises:
            PanopticFormatError: The PNG and the JSON contradict each other.
        """
        text = self.text(image_id)
        with about(f"image {image_id} of {self.file.path}"):
            annotation = CocoAnnotation.parse(text)
            return annotation.segmentation(read_ids(self.folder / annotation.file_name), self.table)


def png_folder(path: Path, folder: Path | str | None) -> Path:
    """Return the folder of the PNG files of a JSON: by default named like it, beside it."""
    return path.with_suffix("") if folder is None else Path(folder)


def write_coco(
    path: Path | str, segmentations: Iterable[tuple[str, Panoptic]], table: ClassTable
) -> None:
    """Write segmentations as a JSON and a new folder of PNG files, named like the JSON.

    Args:
        path: The JSON file.
        segmentations: The name of each image and its segmentation; images are numbered from 1. Void
            segments become void pixels. A name keeps its dots: ``a.b.jpg`` gives ``a.b.png``.
        table: The classes.
    """
    path = Path(path)
    folder = new_folder(path.with_suffix(""))
    images, annotations = [], []
    names: set[str] = set()
    for image_id, (name, whole) in enumerate(segmentations, 1):
        result = whole.keep(~whole.segments.is_void)
        new_name = claim_name(png_name(name), names)
        write_ids(folder / new_name, result.segment_HW)
        height, width = result.segment_HW.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations.append(
            {"image_id": image_id, "file_name": new_name, "segments_info": segments_info(result)}
        )
    write_json(
        path, {"images": images, "annotations": annotations, "categories": category_rows(table)}
    )


def claim_name(name: str, taken: set[str]) -> str:
    """Add a name to those taken and return it. Raises ``PanopticFormatError`` if it is taken."""
    if name in taken:
        raise PanopticFormatError(
            f"two images would get the PNG file {name}; rename one of the images."
        )
    taken.add(name)
    return name


def segments_info(result: Panoptic, crowd_ids: Iterable[int] = ()) -> list[dict[str, Any]]:
    """Return the rows of an annotation, with ``score`` in addition to COCO's keys.

    ``bbox`` is left, top, width and height in pixels.

    >>> segments_info(Panoptic.from_maps(np.array([[0, 1, 1, 0]] * 3), {1: 3}, PASTIS))
    [{'id': 1, 'category_id': 3, 'area': 6, 'bbox': [1, 0, 2, 3], 'iscrowd': 0, 'score': 1.0}]
    """
    crowds = set(crowd_ids)
    return [
        {
            "id": row.id,
            "category_id": row.class_id,
            "area": row.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": int(row.id in crowds),
            "score": row.score,
        }
        for row, (top, left, bottom, right) in zip(
            result.segments, result.boxes_N4().tolist(), strict=True
        )
    ]


def wrong_areas(image_id: ImageId, ids: np.ndarray, areas: np.ndarray, stated: np.ndarray) -> str:
    """Describe where stated areas differ from those of the raster; empty if they do not."""
    wrong = np.flatnonzero(stated != areas)
    if not wrong.size:
        return ""
    first = wrong[0]
    return (
        f"image {image_id}: {wrong.size} segments have stated areas unlike their pixels, the first"
        f" of id {ids[first]}: {stated[first]:g} for {areas[first]}"
    )


def warn_of_stated_areas(annotated: CocoSegmentation) -> None:
    """Warn if the file states wrong areas, because published scores use the stated ones."""
    segments = annotated.segmentation.segments
    said = wrong_areas(annotated.image_id, segments.ids, segments.areas, annotated.stated_areas_N)
    if said:
        warnings.warn(said, stacklevel=2)


def _number(row: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of a row of ``segments_info``. Raises ``ValueError``."""
    value = row.get(key, default)
    if type(value) not in (int, float) or not abs(value) <= _LARGEST_NUMBER:
        raise ValueError(f"{key} {str(value)[:40]} of segment {row['id']} is no number")
    return float(value)


def coloured_ids(class_ids: list[int], table: ClassTable) -> list[int]:
    """Choose different ids, 1..2^24 - 1, for segments of the given classes.

    The first segment of a class gets the colour of the class, the others get one near it. Colours
    of stuff are reserved for stuff.

    >>> person = SegmentClass(1, "person", "#dc143c", "thing")
    >>> table = ClassTable("two", (person, SegmentClass(2, "sky", "#000000", "stuff")))
    >>> ids = coloured_ids([1, 2, 1], table)
    >>> ids[0] == 0xDC + 256 * 0x14 + 65536 * 0x3C, len({0, *ids})
    (True, 4)
    """
    random = Random(0)
    own = {entry.id: colour_of(entry) for entry in table.classes}
    kept = {(0, 0, 0)} | {own[id_] for id_ in table.ids("stuff")}
    taken = {(0, 0, 0)}
    ids = []
    for class_id in class_ids:
        colour = own[class_id]
        is_stuff = table[class_id].kind == "stuff"
        distance = _COLOUR_DISTANCE
        while colour in taken or (colour in kept and not is_stuff):
            red, green, blue = (
                min(255, max(0, value + random.randint(-distance, distance)))
                for value in own[class_id]
            )
            colour = (red, green, blue)
            distance = min(distance + 1, 255)  # a free colour is found even if many are taken
        taken.add(colour)
        ids.append(colour[0] + 256 * colour[1] + 65536 * colour[2])
    return ids


def coloured_rows(result: Panoptic, table: ClassTable) -> tuple[Rows, np.ndarray]:
    """Return ``segments_info`` and the raster (int32, H x W), both with ``coloured_ids``."""
    ids = coloured_ids(result.segments.class_ids.tolist(), table)
    rows = [{**row, "id": id_} for row, id_ in zip(segments_info(result), ids, strict=True)]
    return rows, np.array([0, *ids], np.int32)[result.position_HW]


@dataclass(frozen=True)
class Written:
    """What ``write_dataset`` wrote."""

    path: Path
    """The JSON file."""
    images: int
    """Number of images in it."""
    failures: tuple[PanosegError, ...]
    """One error for each image that is not in it."""
    notes: tuple[str, ...] = ()
    """What is inconsistent in the inputs."""


@dataclass(frozen=True)
class Form:
    """The files that ``write_dataset`` writes."""

    name: str
    """Name of the JSON and of the folder of PNG files."""
    png: bool = True
    """Whether there are PNG files."""
    numbered: bool = False
    """Whether the rows get the ids 0, 1, 2 and so on."""
    key: str = "annotations"
    """Key of the rows in the JSON."""


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
    """Write ``out/name.json`` and ``out/name/``.

    If no image can be written, the first failure is raised and nothing is written.

    Args:
        out: A new or empty folder.
        form: The files.
        head: The values of the JSON besides the rows; ``bytes`` are JSON already.
        work: Writes the PNG of a job into the given folder and returns the rows of its annotation.
        jobs: One per image.
        count: Number of jobs.
        failures: Errors found so far; ``jobs`` may add more while it is iterated.
        processes: See ``over_images``.
    """
    new_folder(out)
    done = number = 0
    path = out / f"{form.name}.json"
    with ExitStack() as stack:
        write = stack.enter_context(write_rows(path, head, form.key))
        folder = out
        if form.png:
            folder = stack.enter_context(atomic(out / form.name))
            folder.mkdir()
        results = over_images(functools.partial(work, folder), jobs, count, processes)
        for result in track(results, "images", count):
            if isinstance(result, OutputError):  # e.g. a full disk: it concerns all images
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
