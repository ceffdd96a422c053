"""COCO's forms of one image: panoptic, detections, semantic maps and two-channel PNG files.

One function per form (``to_semantic``, ``from_detections`` and so on) converts an image: it writes
the PNG, if the form has one, and returns the rows.

Source: converters/ of cocodataset/panopticapi @ 7bb4655; the two-channel form as in 1801.00868 and
that repository's sample: red is the class, green the index of the instance, 255 for a crowd.

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from panoseg.classes import ClassTable, Kind
from panoseg.coco.categories import colour_of, kind_of_row
from panoseg.coco.format import (
    CocoAnnotation,
    Rows,
    coloured_rows,
)
from panoseg.coco.json import (
    ImageId,
    about,
    is_crowd,
    read_row,
    shown,
)
from panoseg.coco.masks import (
    check_size,
    decode_mask,
    encode_mask,
    mask_box,
    open_png,
    read_ids,
    save_png,
    write_ids,
)
from panoseg.errors import ConfigError, PanopticFormatError
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import positions, present_segments

_BYTE = 255
_GREY = (128, 128, 128)
_HIGHEST_CLASS = 2**16 - 1

Overlaps = Literal["error", "first", "last", "smallest"]
"""Which of two detections that overlap gets the pixels that they share."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of the conversions."""

    things_only: bool = False
    """Detections: leave out stuff."""
    things_as: int | None = None
    """Semantic form: the class that all things become; None keeps their classes."""
    colours: bool = False
    """Semantic form: draw the colours of the classes instead of their ids."""
    void: int | None = None
    """Two-channel form: the class of void pixels, 0..255. None takes 0, or the highest number that
    is not a class where a class has the id 0.
    """
    overlap: Overlaps = "error"
    """Detections to panoptic: which one gets the pixels that several share."""
    crowds: bool = True
    """Detections to panoptic: keep crowds (iscrowd 1); False treats them as objects."""

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("things-as", self.things_as or 0, _HIGHEST_CLASS),
            ("void", self.void or 0, _BYTE),
        ):
            if not 0 <= value <= highest:
                raise ConfigError(f"--{name} is {value}; pass a class 0 to {highest}.")


@dataclass(frozen=True)
class Setting:
    """What the conversion of every image needs."""

    source: str
    """Name of the JSON, for messages."""
    folder: Path
    """Folder of the PNG files to read."""
    table: ClassTable
    """The classes."""
    kinds: Mapping[int, Kind]
    """Kind of each class."""
    options: ConvertOptions
    """Options of the conversion."""

    @property
    def byte_void(self) -> int:
        """The value of void in two-channel files."""
        if self.options.void is not None:
            return self.options.void
        return _void_value(self.kinds, _BYTE)

    @property
    def map_void(self) -> int:
        """The value of void in semantic maps: 0, or the highest free one where 0 is a class."""
        other = self.options.things_as
        classes = {
            class_id for class_id, kind in self.kinds.items() if other is None or kind == "stuff"
        } | ({other} if other is not None else set())
        return _void_value(classes, _BYTE if max(classes, default=0) <= _BYTE else _HIGHEST_CLASS)


def _void_value(classes: Collection[int], highest: int) -> int:
    """Return the value of void next to some classes: 0, or the highest free one if 0 is a class.

    >>> _void_value({1, 255}, 255), _void_value({0, 1}, 255), _void_value({0, 255}, 255)
    (0, 255, 254)
    """
    if 0 not in classes:
        return 0
    free = (value for value in range(highest, 0, -1) if value not in classes)
    return next(free, _HIGHEST_CLASS)


@dataclass(frozen=True)
class ImageJob:
    """An image with its annotations."""

    image_id: ImageId
    """Id of the image."""
    file_name: str
    """Name of its PNG."""
    height: Any
    """Rows, as the file states them; None if it does not."""
    width: Any
    """Columns, as the file states them; None if it does not."""
    rows: tuple[bytes, ...]
    """The annotations as they stand in the file."""


def to_two_channels(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write class and index of the instance: 0 for stuff, from 0 for things, from 255 for crowds.

    Indices of crowds descend.
    """
    annotation, segment_HW, segments = _read(setting, job)
    with about(f"image {shown(annotation.image_id)} of {setting.source}"):
        channels_N2 = _channels(annotation, segments, setting.byte_void)
    colours = np.zeros((len(channels_N2) + 1, 3), np.uint8)
    colours[0, 0] = setting.byte_void
    colours[1:, :2] = channels_N2
    save_png(folder / annotation.file_name, colours[positions(segment_HW, segments.ids)])
    return [{"image_id": annotation.image_id, "file_name": annotation.file_name}]


def to_detections(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Return a row of compressed run lengths for each segment, in the order of the file.

    Areas and boxes are those of the pixels.
    """
    annotation, segment_HW, segments = _read(setting, job)
    columns_HW = np.asfortranarray(segment_HW)
    area_of = dict(zip(segments.ids.tolist(), segments.areas.tolist(), strict=True))
    rows = []
    for row in annotation.rows:
        if setting.options.things_only and setting.kinds[row["category_id"]] != "thing":
            continue
        mask_HW = columns_HW == row["id"]
        kept = {name: value for name, value in row.items() if name != "id"}
        box, area = mask_box(mask_HW), area_of[row["id"]]
        rows.append(
            {
                "iscrowd": 0,
                **kept,
                "area": area,
                "bbox": box,
                "image_id": annotation.image_id,
                "segmentation": encode_mask(mask_HW),
            }
        )
    return rows


def to_semantic(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write a PNG of class ids (void is ``map_void``), and return a row for each class.

    The rows are in the order in which the file names the classes.
    """
    annotation, segment_HW, segments = _read(setting, job)
    other, kinds = setting.options.things_as, setting.kinds

    def merged(class_id: int) -> int:
        return other if other is not None and kinds[class_id] == "thing" else class_id

    class_of_position = np.array(
        [-1, *(merged(class_id) for class_id in segments.class_ids.tolist())], np.int64
    )
    class_HW = class_of_position[positions(segment_HW, segments.ids)]
    columns_HW = np.asfortranarray(class_HW)
    rows = []
    for class_id in dict.fromkeys(merged(row["category_id"]) for row in annotation.rows):
        mask_HW = columns_HW == class_id
        rows.append(
            {
                "image_id": annotation.image_id,
                "category_id": class_id,
                "segmentation": encode_mask(mask_HW),
                "area": int(mask_HW.sum()),
                "bbox": mask_box(mask_HW),
                "iscrowd": 0,
            }
        )
    save_png(folder / annotation.file_name, _semantic_pixels(setting, class_HW))
    return rows


def from_two_channels(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write one segment for each pair of class and instance, and one for each class of stuff."""
    with about(f"image {shown(job.image_id)} of {setting.source}"):
        class_HW, instance_HW = _read_channels(setting.folder / job.file_name)
        if (
            job.height is not None
            and job.width is not None
            and class_HW.shape != (job.height, job.width)
        ):
            raise PanopticFormatError(
                f"the PNG has {class_HW.shape[1]} x {class_HW.shape[0]} pixels, but the JSON "
                f"states {job.width} x {job.height}."
            )
        is_stuff = np.isin(class_HW, setting.table.ids("stuff"))
        code_HW = np.where(is_stuff, class_HW * (_BYTE + 1), class_HW * (_BYTE + 1) + instance_HW)
        codes, position_HW = np.unique(code_HW, return_inverse=True)
        is_void = codes // (_BYTE + 1) == setting.byte_void
        for class_id in np.unique(codes[~is_void] // (_BYTE + 1)).tolist():
            kind_of_row({"category_id": class_id}, setting.kinds)
    number = np.where(is_void, 0, (~is_void).cumsum())
    segment_HW = number[position_HW].reshape(class_HW.shape)
    classes = dict(
        zip(number[~is_void].tolist(), (codes[~is_void] // (_BYTE + 1)).tolist(), strict=True)
    )
    result = Panoptic.from_maps(segment_HW, classes, setting.table)
    rows, segment_HW = coloured_rows(result, setting.table)
    for row in rows:
        del row["score"]
    write_ids(folder / job.file_name, segment_HW)
    return [{"image_id": job.image_id, "file_name": job.file_name, "segments_info": rows}]


def from_detections(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write one segment for each mask of a thing, and one for each class of stuff.

    Masks that overlap are refused, or drawn as ``options.overlap`` says. Areas and boxes are
    recomputed and other values kept; masks without pixels are left out.
    """
    with about(f"image {shown(job.image_id)} of {setting.source}"):
        height, width = check_size(job.height, job.width)
        groups = _groups(setting, job)
        segment_HW = _draw(groups, height, width, setting.options.overlap)
    classes = {number: group[0]["category_id"] for number, group in enumerate(groups, 1)}
    result = Panoptic.from_maps(segment_HW, classes, setting.table)
    new_rows, segment_HW = coloured_rows(result, setting.table)
    rows = []
    for number, new in zip(result.segments.ids.tolist(), new_rows, strict=True):
        kept = {
            name: value
            for name, value in groups[number - 1][0].items()
            if name not in ("segmentation", "image_id")
        }
        rows.append({"iscrowd": 0, **kept, **{name: new[name] for name in ("id", "area", "bbox")}})
    write_ids(folder / job.file_name, segment_HW)
    return [{"image_id": job.image_id, "file_name": job.file_name, "segments_info": rows}]


def _draw(groups: list[Rows], height: int, width: int, overlap: Overlaps) -> np.ndarray:
    """Draw annotations: int32, H x W, the number of the group, from 1; 0 for none."""
    segment_HW = np.zeros((height, width), np.int32)
    numbers = list(range(1, len(groups) + 1))
    if overlap == "first":
        numbers.reverse()
    elif overlap == "smallest":
        areas = [
            sum(int(decode_mask(row["segmentation"], height, width).sum()) for row in group)
            for group in groups
        ]
        # Large ones first, and of equal ones the last first, so that the first stays.
        numbers.sort(key=lambda number: (-areas[number - 1], -number))
    for number in numbers:
        for row in groups[number - 1]:
            with _about_row(row):
                mask_HW = decode_mask(row["segmentation"], height, width)
            if overlap == "error":
                _check_free(row, number, segment_HW[mask_HW], groups)
            segment_HW[mask_HW] = number
    return segment_HW


def _about_row(row: dict[str, Any]) -> AbstractContextManager[None]:
    """Name the annotation in the errors of the block."""
    return about(f"annotation {shown(row['id'])}") if "id" in row else nullcontext()


def _groups(setting: Setting, job: ImageJob) -> list[Rows]:
    """Group annotations into segments: one each for things, all of a class for stuff."""
    groups: dict[tuple[str, int], Rows] = {}
    for number, text in enumerate(job.rows):
        row = read_row(text)
        with _about_row(row):
            kind = kind_of_row(row, setting.kinds)
            if is_crowd(row) and not setting.options.crowds:
                row["iscrowd"] = 0
        groups.setdefault((kind, row["category_id"] if kind == "stuff" else number), []).append(row)
    return list(groups.values())


def _check_free(row: dict[str, Any], number: int, under: np.ndarray, groups: list[Rows]) -> None:
    """Refuse an annotation of segment ``number`` that covers pixels of other segments.

    ``under`` holds the segments of the pixels below the annotation, 0 = none.
    """
    others = under[(under != 0) & (under != number)]
    if others.size:
        other = groups[others[0] - 1][0]
        raise PanopticFormatError(
            f"annotations {shown(other.get('id'))} of category {other['category_id']} and"
            f" {shown(row.get('id'))} of category {row['category_id']} share"
            f" {(others == others[0]).sum()} pixels, but segments must not overlap; pass --overlap"
            " first, last or smallest, or merge predictions with panoseg coco merge."
        )


def _read(setting: Setting, job: ImageJob) -> tuple[CocoAnnotation, np.ndarray, Segments]:
    """Read the annotation of an image, its raster of ids and their table."""
    with about(f"image {shown(job.image_id)} of {setting.source}"):
        annotation = CocoAnnotation.parse(job.rows[0])
        segment_HW = read_ids(setting.folder / annotation.file_name)
        segments = annotation.segments(*present_segments(segment_HW), setting.table)
        return annotation, segment_HW, segments


def _channels(annotation: CocoAnnotation, segments: Segments, void: int) -> np.ndarray:
    """Return class and index of the instance of each segment: int64, N x 2."""
    row_of_id = {row["id"]: row for row in annotation.rows}
    next_number: dict[tuple[int, bool], int] = {}
    numbers = dict.fromkeys(segments.ids.tolist(), 0)
    things = set(segments.ids[segments.is_thing].tolist())
    for id_, row in row_of_id.items():
        class_id, is_crowd = row["category_id"], id_ in annotation.crowd_ids
        if class_id > _BYTE or class_id == void:
            raise PanopticFormatError(
                f"class {class_id} does not fit the two-channel form, which holds the classes 0 to "
                f"{_BYTE} except for that of void, {void}; --void takes another number for void."
            )
        if id_ in things:
            number = next_number.get((class_id, is_crowd), _BYTE if is_crowd else 0)
            next_number[class_id, is_crowd] = number + (-1 if is_crowd else 1)
            numbers[id_] = number
    for class_id, is_crowd in next_number:
        lowest_crowd = next_number.get((class_id, True), _BYTE) + 1
        if not is_crowd and next_number[class_id, False] > lowest_crowd:
            raise PanopticFormatError(
                f"more than {_BYTE + 1} segments of class {class_id} do not fit the two-channel "
                "form."
            )
    return np.stack([segments.class_ids, np.array(list(numbers.values()), np.int64)], axis=1)


def _read_channels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the first two channels of a PNG: int64, H x W each."""
    image = open_png(path)
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise PanopticFormatError(
            f"{path} of mode {image.mode} does not have two channels, class and instance."
        )
    pixels = np.asarray(image)
    return pixels[..., 0].astype(np.int64), pixels[..., 1].astype(np.int64)


def _semantic_pixels(setting: Setting, class_HW: np.ndarray) -> np.ndarray:
    """Return the pixels of a semantic PNG.

    Args:
        setting: Its options select colours or ids.
        class_HW: int64: class of each pixel, -1 = void.

    Returns:
        Colours (uint8, H x W x 3) or ids (H x W, uint8, or uint16 if the classes need it).
    """
    if setting.options.colours:
        colour_of_class = np.zeros((_HIGHEST_CLASS + 2, 3), np.uint8)
        if setting.options.things_as is not None:
            colour_of_class[setting.options.things_as] = _GREY
        for entry in setting.table.classes:
            colour_of_class[entry.id] = colour_of(entry)
        return np.asarray(colour_of_class[class_HW])  # the last row, -1, stays black
    void = setting.map_void
    highest = max(setting.table.count - 1, setting.options.things_as or 0, void)
    value_HW = np.where(class_HW < 0, void, class_HW)
    return np.asarray(value_HW.astype(np.uint8 if highest <= _BYTE else np.uint16))
