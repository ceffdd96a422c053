"""The COCO panoptic format: a PNG an image, whose colours are ids, and one JSON that says what the ids are.

Source: the format as cocodataset/panopticapi @ 7bb4655 reads and writes it: id = R + 256 G + 65536 B, 0 is void.

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoseg.classes import ClassTable, SegmentClass
from panoseg.errors import PanopticFormatError
from panoseg.files import atomic, new_folder, write_json
from panoseg.panoptic.panoptic import Panoptic, Segment, Segments, present_segments

_HIGHEST_ID = 2**24 - 1


@dataclass(frozen=True, eq=False)
class CocoPicture:
    """One annotated image.

    crowd_ids: ids of segments that stand for many objects, in the order of the file. stated_areas_N: areas that the file
    states, in the order of the table; ``picture`` has the true ones.
    """

    image_id: int | str
    file_name: str
    picture: Panoptic
    crowd_ids: tuple[int, ...]
    stated_areas_N: np.ndarray


@dataclass(frozen=True)
class CocoAnnotations:
    """A JSON of annotations and its folder of PNG files; pictures are read one at a time."""

    path: Path
    folder: Path
    table: ClassTable
    annotations: Mapping[int | str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path | str, folder: Path | str | None = None, table: ClassTable | None = None) -> CocoAnnotations:
        """Read the JSON. folder: where the PNG files lie, by default beside it under its name. table: where the JSON has no
        categories, as predictions may not. Raises ``PanopticFormatError``."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            table = _table(path.stem, content["categories"]) if content.get("categories") else table
            annotations = {entry["image_id"]: entry for entry in content["annotations"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(path, error, "COCO panoptic JSON with annotations and categories") from error
        if table is None:
            raise PanopticFormatError(f"{path} without categories", "the classes of the segments", "add them to the file")
        return cls(path, Path(folder) if folder else path.with_suffix(""), table, annotations)

    def __len__(self) -> int:
        return len(self.annotations)

    def __iter__(self) -> Iterator[CocoPicture]:
        return (self.read(image_id) for image_id in self.annotations)

    def read(self, image_id: int | str) -> CocoPicture:
        """The picture of an image. Raises ``PanopticFormatError`` where PNG and JSON contradict each other."""
        if image_id not in self.annotations:
            raise PanopticFormatError(
                f"no annotation of image {image_id} in {self.path}", "one an image", "add it, or leave the image out"
            )
        annotation = self.annotations[image_id]
        try:
            rows = {int(row["id"]): row for row in annotation["segments_info"]}
            if len(rows) != len(annotation["segments_info"]):
                raise ValueError("an id is listed twice")
            file_name = str(annotation["file_name"])
            picture = self._picture(_read_ids(self.folder / file_name), rows)
            crowd_ids = tuple(id_ for id_, row in rows.items() if row.get("iscrowd"))
            areas = [int(rows[id_].get("area", area)) for id_, area in _areas(picture)]
        except PanopticFormatError as error:
            raise PanopticFormatError(f"image {image_id} of {self.path}: {error.found}", error.expected, error.fix) from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _unreadable(self.path, error, f"segments_info and file_name of image {image_id}") from error
        return CocoPicture(image_id, file_name, picture, crowd_ids, np.array(areas, np.int64))

    def _picture(self, segment_HW: np.ndarray, rows: Mapping[int, dict[str, Any]]) -> Panoptic:
        area_of_id = dict(zip(*(column.tolist() for column in present_segments(segment_HW)), strict=True))
        known = {entry.id: entry.kind for entry in self.table.classes}
        segments = []
        for id_, row in rows.items():
            class_id = int(row["category_id"])
            if class_id not in known:
                raise PanopticFormatError(
                    f"segment {id_} of the unknown category {class_id}", f"one of {sorted(known)}", "add the category"
                )
            segments.append(Segment(id_, class_id, float(row.get("score", 1)), area_of_id.get(id_, 0), known[class_id]))
        return Panoptic(segment_HW, Segments.of(segments))


def write_coco(path: Path | str, pictures: Iterable[tuple[str, Panoptic]], table: ClassTable) -> None:
    """Write pictures, each under the name of its image, as ``path`` (JSON) and a new folder of PNG files under its name.

    Images are numbered from 1; void segments become void pixels. A file name keeps its dots: ``a.b.jpg`` gives ``a.b.png``.
    """
    from PIL import Image

    path = Path(path)
    folder = new_folder(path.with_suffix(""))
    images, annotations = [], []
    for image_id, (name, whole) in enumerate(pictures, 1):
        picture = whole.keep(~whole.segments.is_void)
        png_name = Path(name).with_suffix(".png").name
        with atomic(folder / png_name) as temporary:
            Image.fromarray(ids_to_colours(picture.segment_HW)).save(temporary)
        height, width = picture.segment_HW.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations.append({"image_id": image_id, "file_name": png_name, "segments_info": segments_info(picture)})
    write_json(path, {"images": images, "annotations": annotations, "categories": _categories(table)})


def segments_info(picture: Panoptic, crowd_ids: Iterable[int] = ()) -> list[dict[str, Any]]:
    """The rows of an annotation: id, category_id, area, bbox (x, y, width, height), iscrowd, and the score besides.

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
        for row, (top, left, bottom, right) in zip(picture.segments, picture.boxes_N4().tolist(), strict=True)
    ]


def ids_to_colours(segment_HW: np.ndarray) -> np.ndarray:
    """The colours that say the ids: uint8, H x W x 3. Ids above 2^24 - 1 raise ``PanopticFormatError``.

    >>> ids_to_colours(np.array([[1, 256, 65536 + 2, 0]])).tolist()
    [[[1, 0, 0], [0, 1, 0], [2, 0, 1], [0, 0, 0]]]
    """
    highest = int(segment_HW.max(initial=0))
    if highest > _HIGHEST_ID:
        raise PanopticFormatError(
            f"segment id {highest}", f"at most {_HIGHEST_ID}, what three bytes hold", "relabel the picture"
        )
    return np.stack([segment_HW & 255, segment_HW >> 8 & 255, segment_HW >> 16], axis=-1).astype(np.uint8)


def colours_to_ids(colour_HW3: np.ndarray) -> np.ndarray:
    """The inverse of ``ids_to_colours``: int32, H x W."""
    red_HW, green_HW, blue_HW = np.moveaxis(colour_HW3.astype(np.int32), -1, 0)
    return red_HW + 256 * green_HW + 65536 * blue_HW


def warn_of_stated_areas(annotated: CocoPicture) -> None:
    """Warn where the file states other areas than the raster has: published scores believe the file."""
    wrong = np.flatnonzero(annotated.stated_areas_N != annotated.picture.segments.areas)
    if wrong.size:
        first = wrong[0]
        warnings.warn(
            f"image {annotated.image_id}: {wrong.size} segments have stated areas unlike their pixels, the first of id "
            f"{annotated.picture.segments.ids[first]}: {annotated.stated_areas_N[first]} for "
            f"{annotated.picture.segments.areas[first]}",
            stacklevel=2,
        )


def _areas(picture: Panoptic) -> Iterator[tuple[int, int]]:
    return ((row.id, row.area) for row in picture.segments)


def _read_ids(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return colours_to_ids(np.asarray(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error, "a PNG of segment ids") from error


def _table(name: str, categories: list[dict[str, Any]]) -> ClassTable:
    return ClassTable(
        name,
        tuple(
            SegmentClass(
                int(row["id"]),
                str(row["name"]),
                "#{:02x}{:02x}{:02x}".format(*row.get("color", (128, 128, 128))),
                "thing" if row.get("isthing", 1) else "stuff",
            )
            for row in sorted(categories, key=lambda row: row["id"])
        ),
    )


def _categories(table: ClassTable) -> list[dict[str, Any]]:
    return [
        {
            "id": entry.id,
            "name": entry.name,
            "isthing": int(entry.kind == "thing"),
            "color": [int(entry.colour[start : start + 2], 16) for start in (1, 3, 5)],
        }
        for entry in table.classes
        if entry.kind != "void"
    ]


def _unreadable(path: Path, error: Exception, expected: str) -> PanopticFormatError:
    reason = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__} {error}"
    return PanopticFormatError(f"{path}: {reason}", expected, "restore the file, or name the right one")
