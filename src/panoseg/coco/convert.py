"""What each conversion of COCO's forms does with one image: it writes the picture, if there is one,
and returns the rows.

Source: converters/ of cocodataset/panopticapi @ 7bb4655; the two-channel form as in 1801.00868 and
that repository's sample: red is the class, green the number of the instance, 255 for a crowd.

Shape suffixes: H W pixels, N segments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from panoseg.classes import ClassTable, Kind
from panoseg.coco.categories import colour_of, kind_of_row, kinds_by_id, read_categories
from panoseg.coco.format import (
    CocoAnnotation,
    Form,
    Rows,
    Written,
    claim_name,
    coloured_rows,
    png_folder,
    write_dataset,
)
from panoseg.coco.json import CocoJson, ImageId, about, read_row
from panoseg.coco.masks import check_size, decode_mask, encode_mask, mask_box
from panoseg.coco.png import open_png, png_name, read_ids, save_png, write_ids
from panoseg.errors import ConfigError, PanopticFormatError, PanosegError
from panoseg.panoptic.panoptic import Panoptic, Segments
from panoseg.panoptic.segments import positions, present_segments

_BYTE = 255
_GREY = (128, 128, 128)
_HIGHEST_CLASS = 2**16 - 1


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion may differ in.

    things_only: detections of things alone. things_as: class that all things of a semantic map
    become; None keeps them apart.
    colours: semantic pictures in the colours of the classes instead of their ids. void: class of
    void in two channels.
    """

    things_only: bool = False
    things_as: int | None = None
    colours: bool = False
    void: int = 0

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("things-as", self.things_as or 0, _HIGHEST_CLASS),
            ("void", self.void, _BYTE),
        ):
            if not 0 <= value <= highest:
                raise ConfigError(
                    f"{name} {value}", f"a class 0 .. {highest}", f"pass another --{name}"
                )


@dataclass(frozen=True)
class Setting:
    """What every image of a conversion needs. source: name of the JSON, for messages; folder: where
    its pictures lie.
    """

    source: str
    folder: Path
    table: ClassTable
    kinds: Mapping[int, Kind]
    options: ConvertOptions


@dataclass(frozen=True)
class ImageJob:
    """An image, the name of its PNG, its size where the file states one, and its annotations as
    they stand in the file.
    """

    image_id: ImageId
    file_name: str
    height: Any
    width: Any
    rows: tuple[bytes, ...]


def to_two_channels(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write class and number of the instance; stuff has number 0, things count from 0, crowds from
    255 down.
    """
    annotation, segment_HW, segments = _read(setting, job)
    with about(f"image {annotation.image_id} of {setting.source}"):
        channels_N2 = _channels(annotation, segments, setting.options.void)
    colours = np.zeros((len(channels_N2) + 1, 3), np.uint8)
    colours[0, 0] = setting.options.void
    colours[1:, :2] = channels_N2
    save_png(folder / annotation.file_name, colours[positions(segment_HW, segments.ids)])
    return [{"image_id": annotation.image_id, "file_name": annotation.file_name}]


def to_detections(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """A row of compressed run lengths for each segment, in the order of the file; areas and boxes
    are those of the pixels.
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
    """A row for each class, in the order in which the file names them, and a picture of the
    classes' ids; 0 is void.
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
    """Write the ids of pairs of class and instance, by class, then by instance; stuff is one
    segment a class.
    """
    with about(f"image {job.image_id} of {setting.source}"):
        class_HW, instance_HW = _read_channels(setting.folder / job.file_name)
        if (
            job.height is not None
            and job.width is not None
            and class_HW.shape != (job.height, job.width)
        ):
            raise PanopticFormatError(
                f"a picture of {class_HW.shape[1]} x {class_HW.shape[0]} pixels",
                f"{job.width} x {job.height}",
                "resize it",
            )
        is_stuff = np.isin(class_HW, setting.table.ids("stuff"))
        code_HW = np.where(is_stuff, class_HW * (_BYTE + 1), class_HW * (_BYTE + 1) + instance_HW)
        codes, position_HW = np.unique(code_HW, return_inverse=True)
        is_void = codes // (_BYTE + 1) == setting.options.void
        for class_id in np.unique(codes[~is_void] // (_BYTE + 1)).tolist():
            kind_of_row({"category_id": class_id}, setting.kinds)
    number = np.where(is_void, 0, (~is_void).cumsum())
    segment_HW = number[position_HW].reshape(class_HW.shape)
    classes = dict(
        zip(number[~is_void].tolist(), (codes[~is_void] // (_BYTE + 1)).tolist(), strict=True)
    )
    picture = Panoptic.from_maps(segment_HW, classes, setting.table)
    rows, segment_HW = coloured_rows(picture, setting.table)
    for row in rows:
        del row["score"]
    write_ids(folder / job.file_name, segment_HW)
    return [{"image_id": job.image_id, "file_name": job.file_name, "segments_info": rows}]


def from_detections(setting: Setting, folder: Path, job: ImageJob) -> Rows:
    """Write the ids of masks that do not overlap, in the order of the file; those of one class of
    stuff are one segment.

    Areas and boxes are counted anew, other values kept; a mask without pixels is left out.
    """
    with about(f"image {job.image_id} of {setting.source}"):
        height, width = check_size(job.height, job.width)
        groups = _groups(setting, job)
        segment_HW = np.zeros((height, width), np.int32)
        for number, group in enumerate(groups, 1):
            for row in group:
                mask_HW = decode_mask(row["segmentation"], height, width)
                _check_free(row, number, segment_HW[mask_HW], groups)
                segment_HW[mask_HW] = number
    classes = {number: group[0]["category_id"] for number, group in enumerate(groups, 1)}
    picture = Panoptic.from_maps(segment_HW, classes, setting.table)
    new_rows, segment_HW = coloured_rows(picture, setting.table)
    rows = []
    for number, new in zip(picture.segments.ids.tolist(), new_rows, strict=True):
        kept = {
            name: value
            for name, value in groups[number - 1][0].items()
            if name not in ("segmentation", "image_id")
        }
        rows.append({"iscrowd": 0, **kept, **{name: new[name] for name in ("id", "area", "bbox")}})
    write_ids(folder / job.file_name, segment_HW)
    return [{"image_id": job.image_id, "file_name": job.file_name, "segments_info": rows}]


def _groups(setting: Setting, job: ImageJob) -> list[Rows]:
    """The annotations of each segment: one of a thing, all of a class of stuff."""
    groups: dict[tuple[str, int], Rows] = {}
    for number, text in enumerate(job.rows):
        row = read_row(text)
        kind = kind_of_row(row, setting.kinds)
        groups.setdefault((kind, row["category_id"] if kind == "stuff" else number), []).append(row)
    return list(groups.values())


def _check_free(row: dict[str, Any], number: int, under: np.ndarray, groups: list[Rows]) -> None:
    """Refuse an annotation of segment ``number`` that covers pixels of others, given the numbers
    under it.
    """
    others = under[(under != 0) & (under != number)]
    if others.size:
        other = groups[others[0] - 1][0]
        raise PanopticFormatError(
            f"annotations {other.get('id')} of category {other['category_id']} and {row.get('id')}"
            f" of category {row['category_id']} share {(others == others[0]).sum()} pixels",
            "segments that do not overlap",
            "decide which is in front; predictions with scores are merged by panoseg coco merge",
        )


def _read(setting: Setting, job: ImageJob) -> tuple[CocoAnnotation, np.ndarray, Segments]:
    """What the JSON says of an image, its raster of ids and their table."""
    with about(f"image {job.image_id} of {setting.source}"):
        annotation = CocoAnnotation.parse(job.rows[0])
        segment_HW = read_ids(setting.folder / annotation.file_name)
        return (
            annotation,
            segment_HW,
            annotation.segments(*present_segments(segment_HW), setting.table),
        )


def _channels(annotation: CocoAnnotation, segments: Segments, void: int) -> np.ndarray:
    """Class and number of each segment of the table: int, N x 2."""
    row_of_id = {row["id"]: row for row in annotation.rows}
    next_number: dict[tuple[int, bool], int] = {}
    numbers = dict.fromkeys(segments.ids.tolist(), 0)
    things = set(segments.ids[segments.is_thing].tolist())
    for id_, row in row_of_id.items():
        class_id, is_crowd = row["category_id"], id_ in annotation.crowd_ids
        if class_id > _BYTE or class_id == void:
            raise PanopticFormatError(
                f"class {class_id}", f"1 .. {_BYTE} beside void, {void}", "keep the panoptic form"
            )
        if id_ in things:
            number = next_number.get((class_id, is_crowd), _BYTE if is_crowd else 0)
            next_number[class_id, is_crowd] = number + (-1 if is_crowd else 1)
            numbers[id_] = number
    for class_id, is_crowd in next_number:
        if (
            not is_crowd
            and next_number[class_id, False] > next_number.get((class_id, True), _BYTE) + 1
        ):
            raise PanopticFormatError(
                f"more than {_BYTE + 1} segments of class {class_id}",
                "what a byte can number",
                "keep the panoptic form",
            )
    return np.stack([segments.class_ids, np.array(list(numbers.values()), np.int64)], axis=1)


def _read_channels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first two channels of a PNG: int64, H x W each."""
    image = open_png(path)
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise PanopticFormatError(
            f"{path} of mode {image.mode}", "two channels or more", "write class and instance"
        )
    pixels = np.asarray(image)
    return pixels[..., 0].astype(np.int64), pixels[..., 1].astype(np.int64)


def _semantic_pixels(setting: Setting, class_HW: np.ndarray) -> np.ndarray:
    """The picture of a semantic map, -1 for void: ids of one byte, or two where the classes need
    them, or colours.
    """
    if setting.options.colours:
        colour_of_class = np.zeros((_HIGHEST_CLASS + 2, 3), np.uint8)
        if setting.options.things_as is not None:
            colour_of_class[setting.options.things_as] = _GREY
        for entry in setting.table.classes:
            colour_of_class[entry.id] = colour_of(entry)
        return colour_of_class[class_HW]  # the last row, -1, stays black
    highest = max(setting.table.count - 1, setting.options.things_as or 0)
    return np.maximum(class_HW, 0).astype(np.uint8 if highest <= _BYTE else np.uint16)


Target = Literal["panoptic", "two-channel", "detection", "semantic"]

_TARGETS = {
    "two-channel": (Form("two_channel", key="pictures"), to_two_channels),
    "detection": (Form("detection", pictures=False, numbered=True), to_detections),
    "semantic": (Form("semantic", numbered=True), to_semantic),
}
_OPTIONS_OF = {
    "panoptic": ("void",),
    "two-channel": ("void",),
    "detection": ("things_only",),
    "semantic": ("things_as", "colours"),
}


def convert_coco(
    source: Path | str,
    to: Target,
    out: Path | str,
    *,
    folder: Path | str | None = None,
    categories_json: Path | str | None = None,
    options: ConvertOptions = ConvertOptions(),
    processes: int | None = None,
) -> Written:
    """Write a dataset in another form into a new folder: panoptic, two_channel, detection or
    semantic .json and pictures.

    source: a panoptic JSON; for "panoptic", a JSON of detections, or one of images alone whose
    pictures have two channels.
    folder: where the pictures of the source lie, by default beside it under its name.
    categories_json: the classes, by default those of the source. Raises ``PanosegError``.
    """
    _check_options(to, options)
    file = CocoJson.open(source, "images")
    given = CocoJson.open(categories_json, "categories") if categories_json is not None else None
    categories, table = read_categories(*(each for each in (given, file) if each is not None))
    setting = Setting(
        str(file.path), png_folder(file.path, folder), table, kinds_by_id(table), options
    )
    _check_source(file, to)
    failures: list[PanosegError] = list(file.problems)
    if to == "panoptic":
        form, work = (
            Form("panoptic"),
            from_two_channels if file.annotations is None else from_detections,
        )
        jobs, count = _images(file, failures), len(file.images)
    else:
        form, work = _TARGETS[to]
        jobs, count = _annotations(file, failures), len(file.annotations or ())
    head: dict[str, Any] = {name: file.value(name) for name in ("info", "licenses", "images")}
    head["categories"] = _categories(to, categories, setting)
    return write_dataset(
        Path(out), form, head, functools.partial(work, setting), jobs, count, failures, processes
    )


def _check_options(to: Target, options: ConvertOptions) -> None:
    for field in fields(options):
        if getattr(options, field.name) != field.default and field.name not in _OPTIONS_OF[to]:
            name = f"--{field.name.replace('_', '-')}"
            targets = [target for target, names in _OPTIONS_OF.items() if field.name in names]
            raise ConfigError(
                f"{name} with --to {to}", f"--to {' or '.join(targets)}", f"leave {name} out"
            )


def _check_source(file: CocoJson, to: Target) -> None:
    """Refuse a file that is of the wanted form already, or of none that can become it."""
    with about(str(file.path)):
        texts = (text for image_id in file.annotations or () for text in file.rows(image_id))
        first: dict[str, Any] = next((read_row(text) for text in texts), {})
    if to == "panoptic" and "segments_info" in first:
        raise PanopticFormatError(
            f"{file.path}, which is panoptic",
            "detections or pictures of two channels",
            "use it as it is",
        )
    if to != "panoptic" and (file.annotations is None or (first and "segments_info" not in first)):
        raise PanopticFormatError(
            f"{file.path} without segments_info",
            "a panoptic JSON",
            "convert it --to panoptic first",
        )


def _categories(to: Target, categories: list[Any], setting: Setting) -> list[Any]:
    """The categories of what is written."""
    options = setting.options
    if options.things_only:
        return [row for row in categories if setting.kinds[row["id"]] == "thing"]
    if options.things_as is None:
        return categories
    if setting.kinds.get(options.things_as) == "stuff":
        raise ConfigError(
            f"--things-as {options.things_as}, a class of stuff",
            "an id that is free",
            "pass another, e.g. 183",
        )
    other = {
        "id": options.things_as,
        "name": "other",
        "supercategory": "other",
        "isthing": 0,
        "color": [128, 128, 128],
    }
    return [row for row in categories if setting.kinds[row["id"]] == "stuff"] + [other]


def _annotations(file: CocoJson, failures: list[PanosegError]) -> Iterator[ImageJob]:
    """The annotation of each image of a panoptic JSON."""
    names: set[str] = set()
    for image_id in file.annotations or ():
        rows = file.rows(image_id)
        try:
            with about(f"image {image_id} of {file.path}"):
                if len(rows) != 1:
                    raise PanopticFormatError(
                        f"{len(rows)} annotations", "one an image", "merge them, or remove some"
                    )
                name = claim_name(png_name(read_row(rows[0])["file_name"]), names)
            yield ImageJob(image_id, name, None, None, rows)
        except PanopticFormatError as error:
            failures.append(error)


def _images(file: CocoJson, failures: list[PanosegError]) -> Iterator[ImageJob]:
    """Each image with its annotations, where there are any."""
    names: set[str] = set()
    for image_id in file.images:
        try:
            with about(f"image {image_id} of {file.path}"):
                row = file.image(image_id)
                name = claim_name(png_name(row["file_name"]), names)
            yield ImageJob(image_id, name, row.get("height"), row.get("width"), file.rows(image_id))
        except PanopticFormatError as error:
            failures.append(error)
    for image_id in file.annotations or ():
        if image_id not in file.images:
            failures.append(
                PanopticFormatError(
                    f"{file.path}: annotations of image {image_id}, which is not among the images",
                    "its entry",
                    "add it",
                )
            )
