"""Conversion between COCO's panoptic, detection, semantic and two-channel forms.

``convert_coco`` converts a dataset. One function per form (``to_semantic``, ``from_detections``
and so on) converts an image: it writes the PNG, if the form has one, and returns the rows.

Source: converters/ of cocodataset/panopticapi @ 7bb4655; the two-channel form as in 1801.00868 and
that repository's sample: red is the class, green the index of the instance, 255 for a crowd.

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
    """Options of the conversions."""

    things_only: bool = False
    """Detections: leave out stuff."""
    things_as: int | None = None
    """Semantic form: the class that all things become; None keeps their classes."""
    colours: bool = False
    """Semantic form: draw the colours of the classes instead of their ids."""
    void: int = 0
    """Two-channel form: the class of void pixels, 0..255."""

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("things-as", self.things_as or 0, _HIGHEST_CLASS),
            ("void", self.void, _BYTE),
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
    with about(f"image {annotation.image_id} of {setting.source}"):
        channels_N2 = _channels(annotation, segments, setting.options.void)
    colours = np.zeros((len(channels_N2) + 1, 3), np.uint8)
    colours[0, 0] = setting.options.void
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
    """Write a PNG of class ids (0 is void), and return a row for each class.

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
    with about(f"image {job.image_id} of {setting.source}"):
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
        is_void = codes // (_BYTE + 1) == setting.options.void
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

    The masks must not overlap. Areas and boxes are recomputed and other values kept; masks without
    pixels are left out.
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


def _groups(setting: Setting, job: ImageJob) -> list[Rows]:
    """Group annotations into segments: one each for things, all of a class for stuff."""
    groups: dict[tuple[str, int], Rows] = {}
    for number, text in enumerate(job.rows):
        row = read_row(text)
        kind = kind_of_row(row, setting.kinds)
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
            f"annotations {other.get('id')} of category {other['category_id']} and {row.get('id')}"
            f" of category {row['category_id']} share {(others == others[0]).sum()} pixels, but"
            " segments must not overlap; merge predictions with panoseg coco merge."
        )


def _read(setting: Setting, job: ImageJob) -> tuple[CocoAnnotation, np.ndarray, Segments]:
    """Read the annotation of an image, its raster of ids and their table."""
    with about(f"image {job.image_id} of {setting.source}"):
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
                f"{_BYTE} except for that of void, {void}."
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
    highest = max(setting.table.count - 1, setting.options.things_as or 0)
    return np.asarray(np.maximum(class_HW, 0).astype(np.uint8 if highest <= _BYTE else np.uint16))


Target = Literal["panoptic", "two-channel", "detection", "semantic"]

_TARGETS = {
    "two-channel": (Form("two_channel", key="pictures"), to_two_channels),
    "detection": (Form("detection", png=False, numbered=True), to_detections),
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
    """Write a dataset in another form.

    Args:
        source: A panoptic JSON. If ``to`` is "panoptic": a JSON of detections, or one of images
            only, whose PNG files have two channels.
        to: The new form.
        out: A new or empty folder, which gets a JSON and PNG files named after the form.
        folder: Folder of the source's PNG files; by default named like the JSON, beside it.
        categories_json: The classes; by default those of the source.
        options: Options of the form.
        processes: See ``over_images``.

    Raises:
        PanosegError: A file cannot be read, or no image can be converted.
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
    """Refuse options that the form does not have."""
    for field in fields(options):
        if getattr(options, field.name) != field.default and field.name not in _OPTIONS_OF[to]:
            name = f"--{field.name.replace('_', '-')}"
            targets = [target for target, names in _OPTIONS_OF.items() if field.name in names]
            raise ConfigError(
                f"{name} does not apply to --to {to}, only to --to {' or '.join(targets)}."
            )


def _check_source(file: CocoJson, to: Target) -> None:
    """Refuse a file that has the wanted form already, or cannot be converted to it."""
    with about(str(file.path)):
        texts = (text for image_id in file.annotations or () for text in file.rows(image_id))
        first: dict[str, Any] = next((read_row(text) for text in texts), {})
    if to == "panoptic" and "segments_info" in first:
        raise PanopticFormatError(
            f"{file.path} is panoptic already; --to panoptic takes detections or two-channel PNGs."
        )
    if to != "panoptic" and (file.annotations is None or (first and "segments_info" not in first)):
        raise PanopticFormatError(
            f"{file.path} has no segments_info, so it is not panoptic; convert it --to panoptic "
            "first."
        )


def _categories(to: Target, categories: list[Any], setting: Setting) -> list[Any]:
    """Return the categories of the new form."""
    options = setting.options
    if options.things_only:
        return [row for row in categories if setting.kinds[row["id"]] == "thing"]
    if options.things_as is None:
        return categories
    if setting.kinds.get(options.things_as) == "stuff":
        raise ConfigError(
            f"--things-as {options.things_as} is a class of stuff; pass an unused id, e.g. 183."
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
    """Yield the images of a panoptic JSON; those at fault are added to the failures."""
    names: set[str] = set()
    for image_id in file.annotations or ():
        rows = file.rows(image_id)
        try:
            with about(f"image {image_id} of {file.path}"):
                if len(rows) != 1:
                    raise PanopticFormatError(f"it has {len(rows)} annotations instead of one.")
                name = claim_name(png_name(read_row(rows[0])["file_name"]), names)
            yield ImageJob(image_id, name, None, None, rows)
        except PanopticFormatError as error:
            failures.append(error)


def _images(file: CocoJson, failures: list[PanosegError]) -> Iterator[ImageJob]:
    """Yield the images with their annotations; those at fault are added to the failures."""
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
                    f"{file.path} has annotations of image {image_id}, which is not among the "
                    "images; add it."
                )
            )
