"""COCO's panoptic form to and from others, file by file: two channels, detections, semantic maps.

Source: converters/ of cocodataset/panopticapi @ 7bb4655. Categories keep isthing and color here, which the published converters
drop, so that what was written can be read again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from panoseg.errors import ConfigError, PanopticFormatError, PanosegError
from panoseg.panoptic.coco import claim_name, picture_folder
from panoseg.panoptic.coco_categories import kinds_by_id, read_categories
from panoseg.panoptic.coco_conversions import (
    ConvertOptions,
    ImageJob,
    Setting,
    from_detections,
    from_two_channels,
    to_detections,
    to_semantic,
    to_two_channels,
)
from panoseg.panoptic.coco_json import CocoJson, about, read_row
from panoseg.panoptic.coco_output import Form, Written, write_dataset
from panoseg.panoptic.coco_png import png_name

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
    options: ConvertOptions = ConvertOptions(),  # noqa: B008
    processes: int | None = None,
) -> Written:
    """Write a dataset in another form into a new folder: panoptic, two_channel, detection or semantic .json and pictures.

    source: a panoptic JSON; for "panoptic", a JSON of detections, or one of images alone whose pictures have two channels.
    folder: where the pictures of the source lie, by default beside it under its name. categories_json: the classes, by default
    those of the source. Raises ``PanosegError``.
    """
    _check_options(to, options)
    file = CocoJson.open(source, "images")
    given = CocoJson.open(categories_json, "categories") if categories_json is not None else None
    categories, table = read_categories(*(each for each in (given, file) if each is not None))
    setting = Setting(str(file.path), picture_folder(file.path, folder), table, kinds_by_id(table), options)
    _check_source(file, to)
    failures: list[PanosegError] = list(file.problems)
    if to == "panoptic":
        form, work = Form("panoptic"), from_two_channels if file.annotations is None else from_detections
        jobs, count = _images(file, failures), len(file.images)
    else:
        form, work = _TARGETS[to]
        jobs, count = _annotations(file, failures), len(file.annotations or ())
    head: dict[str, Any] = {name: file.value(name) for name in ("info", "licenses", "images")}
    head["categories"] = _categories(to, categories, setting)
    return write_dataset(Path(out), form, head, functools.partial(work, setting), jobs, count, failures, processes)


def _check_options(to: Target, options: ConvertOptions) -> None:
    for field in fields(options):
        if getattr(options, field.name) != field.default and field.name not in _OPTIONS_OF[to]:
            name = f"--{field.name.replace('_', '-')}"
            targets = [target for target, names in _OPTIONS_OF.items() if field.name in names]
            raise ConfigError(f"{name} with --to {to}", f"--to {' or '.join(targets)}", f"leave {name} out")


def _check_source(file: CocoJson, to: Target) -> None:
    """Refuse a file that is of the wanted form already, or of none that can become it."""
    with about(str(file.path)):
        texts = (text for image_id in file.annotations or () for text in file.rows(image_id))
        first: dict[str, Any] = next((read_row(text) for text in texts), {})
    if to == "panoptic" and "segments_info" in first:
        raise PanopticFormatError(
            f"{file.path}, which is panoptic", "detections or pictures of two channels", "use it as it is"
        )
    if to != "panoptic" and (file.annotations is None or (first and "segments_info" not in first)):
        raise PanopticFormatError(f"{file.path} without segments_info", "a panoptic JSON", "convert it --to panoptic first")


def _categories(to: Target, categories: list[Any], setting: Setting) -> list[Any]:
    """The categories of what is written."""
    options = setting.options
    if options.things_only:
        return [row for row in categories if setting.kinds[row["id"]] == "thing"]
    if options.things_as is None:
        return categories
    if setting.kinds.get(options.things_as) == "stuff":
        raise ConfigError(f"--things-as {options.things_as}, a class of stuff", "an id that is free", "pass another, e.g. 183")
    other = {"id": options.things_as, "name": "other", "supercategory": "other", "isthing": 0, "color": [128, 128, 128]}
    return [row for row in categories if setting.kinds[row["id"]] == "stuff"] + [other]


def _annotations(file: CocoJson, failures: list[PanosegError]) -> Iterator[ImageJob]:
    """The annotation of each image of a panoptic JSON."""
    names: set[str] = set()
    for image_id in file.annotations or ():
        rows = file.rows(image_id)
        try:
            with about(f"image {image_id} of {file.path}"):
                if len(rows) != 1:
                    raise PanopticFormatError(f"{len(rows)} annotations", "one an image", "merge them, or remove some")
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
                    f"{file.path}: annotations of image {image_id}, which is not among the images", "its entry", "add it"
                )
            )
