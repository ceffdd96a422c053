"""The COCO panoptic format: a PNG an image, whose colours are ids, and one JSON that says what the
ids are.

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
from panoseg.coco.png import HIGHEST_ID, over_images, png_name, read_ids, write_ids
from panoseg.errors import OutputError, PanopticFormatError, PanosegError
from panoseg.files import atomic, new_folder, write_json
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import contradiction, kinds_of, present_segments
from panoseg.progress import track

_NOT_STATED = -1.0
_LARGEST_NUMBER = 2**53


@dataclass(frozen=True, eq=False)
class CocoAnnotation:
    """What the JSON says of one image; columns ascend by id.

    rows: segments_info as it stands there. areas_N: float64, -1 where not stated. crowd_ids: ids of
    segments that stand for many objects, in the order of the file.
    """

    image_id: ImageId
    file_name: str
    rows: tuple[Mapping[str, Any], ...]
    ids_N: np.ndarray
    class_ids_N: np.ndarray
    scores_N: np.ndarray
    areas_N: np.ndarray
    crowd_ids: tuple[int, ...]

    @classmethod
    def parse(cls, text: bytes) -> CocoAnnotation:
        """Read a row of the annotations. Raises ``PanopticFormatError``, and the errors that
        ``about`` turns into it.
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
        """The table of the segments of a raster with these ids and areas. Raises
        ``PanopticFormatError``.
        """
        if not np.array_equal(ids, self.ids_N):
            raise contradiction(ids, self.ids_N)
        known = [entry.id for entry in table.classes]
        unknown = np.flatnonzero(~np.isin(self.class_ids_N, known))
        if unknown.size:
            raise PanopticFormatError(
                f"segment {ids[unknown[0]]} of the unknown category {self.class_ids_N[unknown[0]]}",
                f"one of the {len(known)} of {table.name}",
                "add the category, or correct the segment",
            )
        return Segments(
            ids, self.class_ids_N, self.scores_N, areas, kinds_of(self.class_ids_N, table)
        )

    def segmentation(self, segment_HW: np.ndarray, table: ClassTable) -> CocoSegmentation:
        """The picture of a raster of ids: int32, H x W. Raises ``PanopticFormatError`` where the
        two contradict each other.
        """
        segments = self.segments(*present_segments(segment_HW), table)
        areas = self.stated_areas(segments.areas)
        return CocoSegmentation(
            self.image_id, self.file_name, Panoptic(segment_HW, segments), self.crowd_ids, areas
        )

    def stated_areas(self, areas: np.ndarray) -> np.ndarray:
        """Areas that the file states, and the given ones where it states none. float64, N."""
        return np.where(self.areas_N == _NOT_STATED, areas, self.areas_N)


@dataclass(frozen=True, eq=False)
class CocoSegmentation:
    """One annotated image.

    crowd_ids: ids of segments that stand for many objects, in the order of the file.
    stated_areas_N: areas that the file states, in the order of the table; ``segmentation`` has the true
    ones.
    """

    image_id: ImageId
    file_name: str
    segmentation: Panoptic
    crowd_ids: tuple[int, ...]
    stated_areas_N: np.ndarray


@dataclass(frozen=True)
class CocoAnnotations:
    """A JSON of annotations and its folder of PNG files; annotations and pictures are read one at a
    time.
    """

    file: CocoJson
    folder: Path
    table: ClassTable

    @classmethod
    def open(
        cls, path: Path | str, folder: Path | str | None = None, table: ClassTable | None = None
    ) -> CocoAnnotations:
        """Find what is where in the JSON. folder: where the PNG files lie, by default beside it
        under its name. table: classes where the JSON has no categories, as predictions may not.
        Raises ``PanopticFormatError``.
        """
        file = CocoJson.open(path)
        if file.annotations is None:
            raise PanopticFormatError(
                f"{path} without annotations", "those of a panoptic JSON", "name the right file"
            )
        if file.categories:
            table = class_table(file.path, file.categories)
        if table is None:
            raise PanopticFormatError(
                f"{path} without categories", "the classes of the segments", "add them to the file"
            )
        return cls(file, png_folder(file.path, folder), table)

    @property
    def image_ids(self) -> list[ImageId]:
        """The annotated images, in the order of the file."""
        return list(self.file.annotations or ())

    def __len__(self) -> int:
        return len(self.file.annotations or ())

    def __iter__(self) -> Iterator[CocoSegmentation]:
        return (self.read(image_id) for image_id in self.image_ids)

    def text(self, image_id: ImageId) -> bytes:
        """The annotation of an image as it stands in the file. Raises ``PanopticFormatError`` where
        it has none, or several.
        """
        rows = self.file.rows(image_id)
        if len(rows) != 1:
            raise PanopticFormatError(
                f"{len(rows) or 'no'} annotation{'s' * (len(rows) > 1)} of image {image_id} in"
                f" {self.file.path}",
                "one an image",
                "complete the file, or leave the image out",
            )
        return rows[0]

    def read(self, image_id: ImageId) -> CocoSegmentation:
        """The picture of an image. Raises ``PanopticFormatError`` where PNG and JSON contradict
        each other.
        """
        text = self.text(image_id)
        with about(f"image {image_id} of {self.file.path}"):
            annotation = CocoAnnotation.parse(text)
            return annotation.segmentation(read_ids(self.folder / annotation.file_name), self.table)


def png_folder(path: Path, folder: Path | str | None) -> Path:
    """Where the pictures of a JSON lie: the folder of its name beside it, unless given."""
    return path.with_suffix("") if folder is None else Path(folder)


def write_coco(
    path: Path | str, pictures: Iterable[tuple[str, Panoptic]], table: ClassTable
) -> None:
    """Write pictures, each under the name of its image, as ``path`` (JSON) and a new folder of PNG
    files under its name.

    Images are numbered from 1; void segments become void pixels. A file name keeps its dots:
    ``a.b.jpg`` gives ``a.b.png``.
    """
    path = Path(path)
    folder = new_folder(path.with_suffix(""))
    images, annotations = [], []
    names: set[str] = set()
    for image_id, (name, whole) in enumerate(pictures, 1):
        picture = whole.keep(~whole.segments.is_void)
        new_name = claim_name(png_name(name), names)
        write_ids(folder / new_name, picture.segment_HW)
        height, width = picture.segment_HW.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations.append(
            {"image_id": image_id, "file_name": new_name, "segments_info": segments_info(picture)}
        )
    write_json(
        path, {"images": images, "annotations": annotations, "categories": category_rows(table)}
    )


def claim_name(name: str, taken: set[str]) -> str:
    """A name that none of those taken has; it is taken then. Raises ``PanopticFormatError``."""
    if name in taken:
        raise PanopticFormatError(
            f"two pictures {name}", "another name for each", "rename one of the images"
        )
    taken.add(name)
    return name


def segments_info(picture: Panoptic, crowd_ids: Iterable[int] = ()) -> list[dict[str, Any]]:
    """The rows of an annotation: id, category_id, area, bbox (x, y, width, height), iscrowd, and
    the score besides.

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
            picture.segments, picture.boxes_N4().tolist(), strict=True
        )
    ]


def wrong_areas(image_id: ImageId, ids: np.ndarray, areas: np.ndarray, stated: np.ndarray) -> str:
    """Say where a file states other areas than the raster has, which published scores believe;
    empty where it does not.
    """
    wrong = np.flatnonzero(stated != areas)
    if not wrong.size:
        return ""
    first = wrong[0]
    return (
        f"image {image_id}: {wrong.size} segments have stated areas unlike their pixels, the first"
        f" of id {ids[first]}: {stated[first]:g} for {areas[first]}"
    )


def warn_of_stated_areas(annotated: CocoSegmentation) -> None:
    """Warn where the file states other areas than the raster has: published scores believe the
    file.
    """
    segments = annotated.segmentation.segments
    said = wrong_areas(annotated.image_id, segments.ids, segments.areas, annotated.stated_areas_N)
    if said:
        warnings.warn(said, stacklevel=2)


def _number(row: Mapping[str, Any], key: str, default: float) -> float:
    value = row.get(key, default)
    if type(value) not in (int, float) or not abs(value) <= _LARGEST_NUMBER:
        raise ValueError(f"{key} {str(value)[:40]} of segment {row['id']} is no number")
    return float(value)


_DISTANCE = 30


def coloured_ids(class_ids: list[int], table: ClassTable) -> list[int]:
    """An id for each segment, given their classes: 1 .. 2^24 - 1, all different.

    The first segment of a class has the class's own colour, the others one near it. Colours of
    stuff are kept for stuff.

    >>> table = ClassTable("two", (SegmentClass(1, "person", "#dc143c", "thing"), SegmentClass(2, "sky", "#000000", "stuff")))
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
        distance = _DISTANCE
        while colour in taken or (colour in kept and not is_stuff):
            red, green, blue = (
                min(255, max(0, value + random.randint(-distance, distance)))
                for value in own[class_id]
            )
            colour = (red, green, blue)
            distance = min(distance + 1, 255)  # so that a colour is found, however many are taken
        taken.add(colour)
        ids.append(colour[0] + 256 * colour[1] + 65536 * colour[2])
    return ids


def coloured_rows(picture: Panoptic, table: ClassTable) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows of a picture's annotation and its raster (int32, H x W), both with coloured ids."""
    ids = coloured_ids(picture.segments.class_ids.tolist(), table)
    rows = [{**row, "id": id_} for row, id_ in zip(segments_info(picture), ids, strict=True)]
    return rows, np.array([0, *ids], np.int32)[picture.position_HW]


Job = TypeVar("Job")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Written:
    """What was written: the JSON, the number of images in it, a failure for each image that is not,
    and what is odd.
    """

    path: Path
    images: int
    failures: tuple[PanosegError, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """How a dataset is written.

    name: of the JSON and of the folder of pictures. pictures: whether there are any. numbered:
    whether rows get the ids 0, 1 and so on. key: under which the rows stand.
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

    work: writes the picture of a job into the folder that it is given, and returns the rows of its
    annotation. failures: those met so far; ``jobs`` may add to them while it is walked through.
    Where no image can be done, the first failure is raised and nothing is written.
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
