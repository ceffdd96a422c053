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
from panoseg.coco.json import (
    CocoJson,
    ImageId,
    about,
    is_crowd,
    other_type,
    read_row,
    shown,
    whole_number,
    write_rows,
)
from panoseg.coco.masks import HIGHEST_ID, png_name, read_ids, write_ids
from panoseg.errors import OutputError, PanopticFormatError, PanosegError
from panoseg.files import atomic, new_folder, write_json
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import contradiction, kinds_of, present_segments
from panoseg.processes import over_images
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
    """``segments_info`` as written in the file."""
    ids_N: np.ndarray
    """int32, N: ids of the segments."""
    class_ids_N: np.ndarray
    """int32, N: their categories."""
    crowd_ids: tuple[int, ...]
    """Ids of the segments that stand for many objects, in the order of the file."""

    @classmethod
    def parse(cls, text: bytes) -> CocoAnnotation:
        """Read a row of the annotations. Scores and areas are checked where they are used.

        Raises ``PanopticFormatError``, and the errors that ``about`` turns into it.
        """
        annotation = read_row(text)
        rows = annotation["segments_info"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError("segments_info is not a list of segments")
        ids = np.array([whole_number(row, "id", 1, HIGHEST_ID) for row in rows], np.int32)
        order = np.argsort(ids, kind="stable")
        if (np.diff(ids[order]) == 0).any():
            raise ValueError(f"id {ids[order][:-1][np.diff(ids[order]) == 0][0]} is listed twice")
        class_ids = np.array(
            [whole_number(row, "category_id", 0, 2**31 - 1) for row in rows], np.int32
        )
        crowds = tuple(row["id"] for row in rows if is_crowd(row))
        return cls(
            annotation["image_id"],
            png_name(annotation["file_name"]),
            tuple(rows),
            ids[order],
            class_ids[order],
            crowds,
        )

    def scores(self) -> np.ndarray:
        """Return the scores of the segments: float32, N; 1 where not stated."""
        return self._numbers("score", 1.0).astype(np.float32)

    def _numbers(self, key: str, default: float) -> np.ndarray:
        """Return a number of each segment: float64, N."""
        of_id = {row["id"]: _number(row, key, default) for row in self.rows}
        return np.array([of_id[id_] for id_ in self.ids_N.tolist()], np.float64)

    def segments(
        self, ids: np.ndarray, areas: np.ndarray, table: ClassTable, *, scored: bool = False
    ) -> Segments:
        """Return the table of the segments of a raster with these ids and areas.

        Args:
            ids: Ids in the raster, ascending.
            areas: Their numbers of pixels.
            table: The classes.
            scored: Read the scores; by default all are 1.

        Raises:
            PanopticFormatError: The raster has other ids, or a category is unknown.
        """
        if not np.array_equal(ids, self.ids_N):
            error = contradiction(ids, self.ids_N)
            raise PanopticFormatError(f"{error}{_other_channels(ids, self.ids_N)}")
        known = [entry.id for entry in table.classes]
        unknown = np.flatnonzero(~np.isin(self.class_ids_N, known))
        if unknown.size:
            raise PanopticFormatError(
                f"segment {ids[unknown[0]]} has the unknown category "
                f"{self.class_ids_N[unknown[0]]}; add it to the categories, or correct the segment."
            )
        scores = self.scores() if scored else np.ones(len(ids), np.float32)
        return Segments(ids, self.class_ids_N, scores, areas, kinds_of(self.class_ids_N, table))

    def segmentation(
        self, segment_HW: np.ndarray, table: ClassTable, *, scored: bool = True
    ) -> CocoSegmentation:
        """Return the segmentation of a raster of ids (int32, H x W), with scores if ``scored``.

        Raises:
            PanopticFormatError: The raster and the annotation contradict each other.
        """
        segments = self.segments(*present_segments(segment_HW), table, scored=scored)
        result = Panoptic(segment_HW, segments, table)
        return CocoSegmentation(self, result)

    def stated_areas(self, areas: np.ndarray) -> np.ndarray:
        """Return the areas that the file states, and ``areas`` where it states none: float64, N."""
        stated_N = self._numbers("area", _NOT_STATED)
        return np.where(stated_N == _NOT_STATED, areas, stated_N)


@dataclass(frozen=True, eq=False)
class CocoSegmentation:
    """One annotated image."""

    annotation: CocoAnnotation
    """What the JSON says."""
    segmentation: Panoptic
    """The segments, with their true areas."""

    @property
    def image_id(self) -> ImageId:
        """Id of the image."""
        return self.annotation.image_id

    @property
    def file_name(self) -> str:
        """Name of the PNG, inside the folder of the JSON."""
        return self.annotation.file_name

    @property
    def crowd_ids(self) -> tuple[int, ...]:
        """Ids of the segments that stand for many objects, in the order of the file."""
        return self.annotation.crowd_ids

    @property
    def stated_areas_N(self) -> np.ndarray:
        """float64, N: areas that the file states, which may be wrong, in the order of the table."""
        return self.annotation.stated_areas(self.segmentation.segments.areas)


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
            folder: Folder of the PNG files; by default next to the JSON, with its name.
            table: The classes if the JSON has no categories, which predictions may lack.

        Raises:
            PanopticFormatError: The file is not a panoptic JSON.
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
        """Return the annotation of an image as written in the file.

        Raises:
            PanopticFormatError: The image has no annotation, or several.
        """
        rows = self.file.rows(image_id)
        if len(rows) != 1:
            found = f"{len(rows)} annotations" if rows else "no annotation"
            raise PanopticFormatError(
                f"There {'are' if rows else 'is'} {found} of image {shown(image_id)} in"
                f" {self.file.path}{other_type(image_id, self.file.annotations or ())}; an image"
                " needs exactly one."
            )
        return rows[0]

    def read(self, image_id: ImageId) -> CocoSegmentation:
        """Read the segmentation of an image.

        Raises:
            PanopticFormatError: The PNG and the JSON contradict each other.
        """
        text = self.text(image_id)
        with about(f"image {shown(image_id)} of {self.file.path}"):
            annotation = CocoAnnotation.parse(text)
            return annotation.segmentation(read_ids(self.folder / annotation.file_name), self.table)


def png_folder(path: Path, folder: Path | str | None) -> Path:
    """Return the folder of the PNG files of a JSON: by default next to it, with its name."""
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
        f"image {shown(image_id)}: {wrong.size} segments have stated areas unlike their pixels, the"
        f" first of id {ids[first]}: {stated[first]:g} for {areas[first]}"
    )


def warn_of_stated_areas(annotated: CocoSegmentation) -> None:
    """Warn if the file states wrong areas, because published scores use the stated ones."""
    segments = annotated.segmentation.segments
    said = wrong_areas(annotated.image_id, segments.ids, segments.areas, annotated.stated_areas_N)
    if said:
        warnings.warn(said, stacklevel=2)


def _number(row: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of a row of ``segments_info``; null is none. Raises ``ValueError``."""
    value = row.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not abs(value) <= _LARGEST_NUMBER:
        raise ValueError(f"{key} {shown(value)} of segment {row['id']} is not a number")
    return float(value)


def _other_channels(found: np.ndarray, stated: np.ndarray) -> str:
    """Say how the colours of a raster would mean the ids that the JSON states; else empty.

    >>> _other_channels(np.array([5 * 65536]), np.array([5]))[:50]
    ' With red and blue exchanged the ids fit: the PNG '
    """
    if not found.size or not stated.size:
        return ""
    red, green, blue = found & 255, found >> 8 & 255, found >> 16
    if (red == green).all() and (green == blue).all() and np.isin(red, stated).all():
        return (
            " As grey values the ids fit: the PNG was written in grey; write id % 256,"
            " id // 256 % 256 and id // 65536 as red, green and blue."
        )
    if np.isin(blue + (green << 8) + (red << 16), stated).all():
        return (
            " With red and blue exchanged the ids fit: the PNG was written as blue, green, red"
            " (OpenCV's order); write red first."
        )
    return ""


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
