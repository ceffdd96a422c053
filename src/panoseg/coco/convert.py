"""Conversion of a dataset between COCO's panoptic, detection, semantic and two-channel forms.

``panoseg.coco.forms`` converts each image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from panoseg.coco.categories import kinds_by_id, read_categories
from panoseg.coco.format import (
    Form,
    Written,
    claim_name,
    png_folder,
    write_dataset,
)
from panoseg.coco.forms import (
    ConvertOptions,
    ImageJob,
    Setting,
    from_detections,
    from_two_channels,
    to_detections,
    to_semantic,
    to_two_channels,
)
from panoseg.coco.json import (
    CocoJson,
    about,
    other_type,
    read_row,
    shown,
)
from panoseg.coco.masks import png_name
from panoseg.errors import ConfigError, PanopticFormatError, PanosegError

Target = Literal["panoptic", "two-channel", "detection", "semantic"]

_TARGETS = {
    "two-channel": (Form("two_channel", key="pictures"), to_two_channels),
    "detection": (Form("detection", png=False, numbered=True), to_detections),
    "semantic": (Form("semantic", numbered=True), to_semantic),
}
_OPTIONS_OF = {
    "panoptic": ("void", "overlap", "crowds"),
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
    """Write a dataset in another form.

    Args:
        source: A panoptic JSON. If ``to`` is "panoptic": a JSON of detections, or one of images
            only, whose PNG files have two channels.
        to: The new form.
        out: A new or empty folder, which gets a JSON and PNG files named after the form.
        folder: Folder of the source's PNG files; by default next to the JSON, with its name.
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
    _check_source(file, to, options)
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
    written = write_dataset(
        Path(out), form, head, functools.partial(work, setting), jobs, count, failures, processes
    )
    return replace(written, notes=(*written.notes, *_notes(file, to, setting)))


def _notes(file: CocoJson, to: Target, setting: Setting) -> Iterator[str]:
    """Yield what a user should know of the result, one line each."""
    two_channels = to == "two-channel" or (to == "panoptic" and file.annotations is None)
    if two_channels and setting.options.void is None and setting.byte_void:
        yield f"0 is a class, so {setting.byte_void} means void; --void chooses another number"
    if to == "semantic" and not setting.options.colours and setting.map_void:
        yield f"0 is a class, so {setting.map_void} means void in the PNG files"
    crowds = file.crowds.total()
    if to == "panoptic" and crowds and setting.options.crowds:
        things = sum(
            count for id_, count in file.used_categories.items() if setting.kinds[id_] == "thing"
        )
        if 2 * crowds >= things:
            yield (
                f"{crowds} of {things} things are crowds (iscrowd 1), which teach nothing and are"
                " not scored; --no-crowds takes them for objects"
            )
    unused = [entry for entry in setting.table.classes if entry.id in file.used_categories]
    if file.annotations is not None and not unused:
        yield f"{file.path} has no annotation of any of its categories"


def _check_options(to: Target, options: ConvertOptions) -> None:
    """Refuse options that the form does not have."""
    for field in fields(options):
        if getattr(options, field.name) != field.default and field.name not in _OPTIONS_OF[to]:
            no = "no-" if field.default is True else ""
            name = f"--{no}{field.name.replace('_', '-')}"
            targets = [target for target, names in _OPTIONS_OF.items() if field.name in names]
            raise ConfigError(
                f"{name} does not apply to --to {to}, only to --to {' or '.join(targets)}."
            )


def _check_source(file: CocoJson, to: Target, options: ConvertOptions) -> None:
    """Refuse a file that has the wanted form already, or cannot be converted to it."""
    if to == "panoptic" and file.annotations is None:
        for option, is_default in (
            ("--overlap", options.overlap == "error"),
            ("--no-crowds", options.crowds),
        ):
            if not is_default:
                raise ConfigError(
                    f"{option} is for detections, but {file.path} has no annotations. Leave it out."
                )
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
            with about(f"image {shown(image_id)} of {file.path}"):
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
            with about(f"image {shown(image_id)} of {file.path}"):
                row = file.image(image_id)
                name = claim_name(png_name(row["file_name"]), names)
            yield ImageJob(image_id, name, row.get("height"), row.get("width"), file.rows(image_id))
        except PanopticFormatError as error:
            failures.append(error)
    for image_id in file.annotations or ():
        if image_id not in file.images:
            failures.append(
                PanopticFormatError(
                    f"{file.path} has annotations of image {shown(image_id)}, which is not among"
                    f" the images{other_type(image_id, file.images)}; add it."
                )
            )
