"""Merge semantic and instance predictions in COCO's format into panoptic ones.

Source: Kirillov et al. (1801.00868), section 7, as in cocodataset/panopticapi @ 7bb4655,
panopticapi/combine_semantic_and_instance_predictions.py. What differs: ids are never black and
never meet, and a class of stuff that is listed twice is one segment.

Shape suffixes: H W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panoseg.classes import ClassTable, Kind
from panoseg.coco.categories import class_table, kind_of_row, kinds_by_id, read_categories
from panoseg.coco.format import Form, Rows, Written, claim_name, coloured_rows, write_dataset
from panoseg.coco.json import CocoJson, ImageId, about, read_row, shown
from panoseg.coco.masks import check_size, decode_mask, png_name, write_ids
from panoseg.errors import PanopticFormatError, PanosegError
from panoseg.panoptic.merge import MergeThresholds, ThingsAndStuff, paint


@dataclass(frozen=True)
class _Setting:
    """What the merging of every image needs."""

    semantic: str
    """Name of the JSON of semantic predictions, for messages."""
    instances: str
    """Name of the JSON of instances, for messages."""
    table: ClassTable
    """The classes."""
    kinds: dict[int, Kind]
    """Kind of each class."""
    thresholds: MergeThresholds
    """Thresholds of the merging."""


@dataclass(frozen=True)
class _Job:
    """An image with its predictions."""

    image_id: ImageId
    """Id of the image in the JSON."""
    file_name: str
    """Name of the PNG to write."""
    height: int
    """Rows of the image, in pixels."""
    width: int
    """Columns of the image, in pixels."""
    semantic: tuple[bytes, ...]
    """Rows as they stand in the file of semantic predictions."""
    instances: tuple[bytes, ...]
    """Rows as they stand in the file of instances."""


def merge_coco(
    semantic_json: Path | str,
    instances_json: Path | str,
    out: Path | str,
    *,
    images_json: Path | str | None = None,
    categories_json: Path | str | None = None,
    thresholds: MergeThresholds = MergeThresholds(),  # noqa: B008
    processes: int | None = None,
) -> Written:
    """Write ``out/panoptic.json`` and ``out/panoptic/``.

    Args:
        semantic_json: Semantic predictions: a list of masks with categories.
        instances_json: Instances: a list of masks with categories and scores.
        out: A new or empty folder.
        images_json: The images to merge, with file names and sizes; by default all images that
            either file has, named by their ids as COCO does.
        categories_json: The classes; by default those of the first of the other files that has any.
            If none has, the classes of the instances are things and the others stuff.
        thresholds: What is kept.
        processes: See ``over_images``.

    Raises:
        PanosegError: A file cannot be read, or no image can be merged.
    """
    semantic, instances = CocoJson.open(semantic_json), CocoJson.open(instances_json)
    images = CocoJson.open(images_json, "images") if images_json is not None else None
    given = CocoJson.open(categories_json, "categories") if categories_json is not None else None
    for file in (semantic, instances):
        if file.annotations is None:
            raise PanopticFormatError(
                f"{file.path} without annotations cannot be merged; pass a list of predictions."
            )
    categories, table, notes = _categories(semantic, instances, images, given)
    failures: list[PanosegError] = [
        *semantic.problems,
        *instances.problems,
        *(images.problems if images else ()),
    ]
    wanted = _images(semantic, instances, images, failures)
    setting = _Setting(
        str(semantic.path), str(instances.path), table, kinds_by_id(table), thresholds
    )
    head = {
        "info": images.value("info") if images else None,
        "licenses": images.value("licenses") if images else None,
        "images": images.value("images") if images else wanted,
        "categories": categories,
    }
    jobs = _jobs(semantic, instances, wanted)
    work = functools.partial(_merge, setting)
    written = write_dataset(
        Path(out), Form("panoptic"), head, work, jobs, len(wanted), failures, processes
    )
    return Written(
        written.path,
        written.images,
        written.failures,
        (*notes, *_left_out(semantic, instances, images)),
    )


def _categories(
    semantic: CocoJson, instances: CocoJson, images: CocoJson | None, given: CocoJson | None
) -> tuple[list[Any], ClassTable, list[str]]:
    """Return the categories, their class table, and notes on how they were found."""
    files = [file for file in (given, images, semantic, instances) if file is not None]
    if given is not None or any(file.categories for file in files):
        return *read_categories(*files), []
    things = set(instances.used_categories)
    used = sorted(things | set(semantic.used_categories))
    categories = [{"id": id_, "name": str(id_), "isthing": int(id_ in things)} for id_ in used]
    note = (
        f"no file has categories: the {len(things)} classes of {instances.path} count as"
        " things, and all others as stuff"
    )
    return categories, class_table(instances.path, categories), [note]


def _images(
    semantic: CocoJson, instances: CocoJson, images: CocoJson | None, failures: list[PanosegError]
) -> list[dict[str, Any]]:
    """Return the images to merge as rows of id, file_name, height and width."""
    names: set[str] = set()
    rows = []
    known = (
        images.images
        if images
        else {**(semantic.annotations or {}), **(instances.annotations or {})}
    )
    for image_id in known:
        try:
            with about(f"image {shown(image_id)} of {images.path if images else instances.path}"):
                coco_name = f"{image_id:012d}" if isinstance(image_id, int) else image_id
                row = images.image(image_id) if images else {"file_name": f"{coco_name}.jpg"}
                claim_name(png_name(row["file_name"]), names)
                size = [row[side] for side in ("height", "width") if side in row]
                if len(size) < 2:
                    size = _first_size(semantic.rows(image_id) + instances.rows(image_id))
                height, width = check_size(*size)
            rows.append(
                {"id": image_id, "file_name": row["file_name"], "height": height, "width": width}
            )
        except PanopticFormatError as error:
            failures.append(error)
    return rows


def _first_size(texts: tuple[bytes, ...]) -> list[Any]:
    """Return the size that the first run lengths state."""
    for text in texts:
        segmentation = read_row(text).get("segmentation")
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if isinstance(size, list) and len(size) == 2:
            return size
    raise PanopticFormatError("no height and width are stated; pass them with --images.")


def _jobs(semantic: CocoJson, instances: CocoJson, wanted: list[dict[str, Any]]) -> Iterator[_Job]:
    """Yield the images with their predictions."""
    for row in wanted:
        image_id = row["id"]
        yield _Job(
            image_id,
            png_name(row["file_name"]),
            row["height"],
            row["width"],
            semantic.rows(image_id),
            instances.rows(image_id),
        )


def _left_out(semantic: CocoJson, instances: CocoJson, images: CocoJson | None) -> Iterator[str]:
    """Yield a note on the predictions of images that are not listed."""
    listed = images.images if images else {}
    for file in (semantic, instances) if images else ():
        extra = [image_id for image_id in file.annotations or () if image_id not in listed]
        if extra:
            yield (
                f"{file.path} has {len(extra)} images that are not listed, the first"
                f" {shown(extra[0])}; they are left out"
            )


def _merge(setting: _Setting, folder: Path, job: _Job) -> Rows:
    """Merge one image, write its PNG and return the row of its annotation."""
    with about(f"image {shown(job.image_id)} of {setting.instances}"):
        things = _things(setting, job)
    with about(f"image {shown(job.image_id)} of {setting.semantic}"):
        stuff = _stuff(setting, job)
    segment_BHW = paint(
        torch.zeros((1, job.height, job.width), dtype=torch.int32),
        (_mask([row], job, setting.instances) for row in things),
        (_mask(rows, job, setting.semantic) for rows in stuff.values()),
        setting.thresholds,
    )
    class_ids = [*(row["category_id"] for row in things), *stuff]
    scores = [*(float(row["score"]) for row in things), *(1.0 for _ in stuff)]
    merged = ThingsAndStuff(segment_BHW, torch.tensor([class_ids]), torch.tensor([scores]))
    [result] = merged.to_panoptics(setting.table)
    rows, segment_HW = coloured_rows(result, setting.table)
    write_ids(folder / job.file_name, segment_HW)
    return [{"image_id": job.image_id, "file_name": job.file_name, "segments_info": rows}]


def _things(setting: _Setting, job: _Job) -> list[dict[str, Any]]:
    """Return the instances that reach the threshold, by falling score; ties keep their order."""
    rows = [read_row(text) for text in job.instances]
    for row in rows:
        if kind_of_row(row, setting.kinds) != "thing":
            raise PanopticFormatError(
                f"an instance of category {row['category_id']}, which is stuff, is not possible; "
                "correct the categories."
            )
        if type(row["score"]) not in (int, float):
            raise TypeError(f"score {shown(row['score'])} is not a number")
    kept = [row for row in rows if row["score"] >= setting.thresholds.score]
    return sorted(kept, key=lambda row: -row["score"])


def _stuff(setting: _Setting, job: _Job) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of each class of stuff, in the order of the file."""
    rows_of_class: dict[int, list[dict[str, Any]]] = {}
    for text in job.semantic:
        row = read_row(text)
        if kind_of_row(row, setting.kinds) == "stuff":
            rows_of_class.setdefault(row["category_id"], []).append(row)
    return rows_of_class


def _mask(rows: list[dict[str, Any]], job: _Job, path: str) -> Tensor:
    """Return the union of the masks of some rows: bool, 1 x H x W."""
    with about(f"image {shown(job.image_id)} of {path}"):
        masks = [decode_mask(row["segmentation"], job.height, job.width) for row in rows]
    return torch.from_numpy(np.ascontiguousarray(np.logical_or.reduce(masks)))[None]
