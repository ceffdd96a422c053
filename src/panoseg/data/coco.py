"""Datasets of photographs with COCO's panoptic annotations.

A ``CocoRecord`` is one photograph with its annotation, as bytes. ``CocoDataset`` reads them from
a folder in COCO's layout, ``panoseg.data.shards`` from shards; both are ``CocoRecords``.

Shape suffixes: H W pixels, N segments or objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os.path import isfile  # unlike Path.is_file, false where a name is too long
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.coco.categories import kinds_by_id
from panoseg.coco.format import CocoAnnotation, CocoAnnotations, CocoSegmentation
from panoseg.coco.json import (
    CocoJson,
    ImageId,
    about,
    is_crowd,
    other_type,
    read_row,
    shown,
)
from panoseg.coco.masks import MOST_PIXELS, decode_ids, decode_mask, detection_row, png_name
from panoseg.data import PhotographConfig
from panoseg.data.photograph_files import decode_photograph, read_bytes
from panoseg.data.photographs import VOID, Objects, Photograph, View, choose_view
from panoseg.errors import DatasetError, PanopticFormatError
from panoseg.panoptic import Panoptic

_LARGEST_NUMBER = 2**53


@dataclass(frozen=True)
class CocoRecord:
    """A photograph and its annotation, nothing decoded."""

    source: str
    """Name of the dataset, for messages."""
    file_name: str
    """Name of the image's file."""
    image: bytes
    """Bytes of the image's file; empty where they were not wanted."""
    annotation: bytes
    """Row of the panoptic JSON."""
    ids_png: bytes
    """Bytes of the PNG of segment ids."""
    instances: tuple[bytes, ...] | None
    """Rows of the instances JSON; None where the dataset has no such file."""
    instances_source: str = ""
    """Name of the instances JSON, for messages; by default ``source``."""

    def truth(self, table: ClassTable) -> CocoSegmentation:
        """Decode the panoptic annotation, of the size on disk.

        Raises:
            PanopticFormatError: It contradicts itself.
        """
        with about(f"{self.source}: {self.file_name}"):
            annotation = CocoAnnotation.parse(self.annotation)
            return annotation.segmentation(
                decode_ids(self.ids_png, Path(annotation.file_name)), table, scored=False
            )

    def photograph(
        self, table: ClassTable, config: PhotographConfig, generator: np.random.Generator | None
    ) -> Photograph:
        """Decode the photograph with its labels.

        Args:
            table: The classes.
            config: Sizes, and random changes.
            generator: Draws the random changes; None for none.

        Raises:
            DatasetError: Image and annotation differ in size, or the resized image is too large.
            PanopticFormatError: The annotation contradicts itself.
        """
        truth = self.truth(table)
        size_HW = truth.segmentation.segment_HW.shape
        image = decode_photograph(self.image, f"{self.source}: {self.file_name}")
        if (image.height, image.width) != size_HW:
            raise DatasetError(
                f"{self.source}: {self.file_name} has {image.height} x {image.width} pixels"
                f" (upright), but is annotated with {size_HW[0]} x {size_HW[1]}; annotate the image"
                " as its EXIF turns it, or remove the EXIF."
            )
        view = choose_view(size_HW, config, generator)
        if view.window_HW[0] * view.window_HW[1] > MOST_PIXELS:
            raise DatasetError(
                f"{self.source}: {self.file_name} of {size_HW[0]} x {size_HW[1]} pixels, resized to"
                f" {view.window_HW[0]} x {view.window_HW[1]}, exceeds {MOST_PIXELS} pixels; pass a"
                " smaller --photographs.max-side or --photographs.crop."
            )
        position_HW = view.labels(truth.segmentation.position_HW)
        objects = (
            _segments_as_objects(truth, position_HW)
            if self.instances is None
            else self._objects(table, size_HW, view)
        )
        return Photograph(
            torch.from_numpy(view.image(image).transpose(2, 0, 1).copy()),
            str(PurePosixPath(self.file_name).with_suffix("")),
            truth.image_id,
            size_HW,
            torch.from_numpy(_labels(truth)[position_HW]),
            objects,
        )

    def detections(self, table: ClassTable) -> list[dict[str, Any]]:
        """Return the things in COCO's detection form, crowds flagged.

        They are those of the instances JSON, or else of the panoptic truth. Areas are those that
        the file states, as published scores take them.

        Returns:
            Rows with category_id, bbox (left, top, width, height in pixels), compressed
            segmentation, area in pixels, and iscrowd.
        """
        truth = self.truth(table)
        rows = []
        if self.instances is not None:
            height, width = truth.segmentation.segment_HW.shape
            for number, (row, mask_HW) in enumerate(self._instances(table, height, width)):
                with self._about_instance(number, row):
                    stated = _stated_size(row)
                rows.append(detection_row(row["category_id"], mask_HW, is_crowd(row)) | stated)
            return rows
        segments = truth.segmentation.segments
        for number, segment in enumerate(segments, 1):
            if segment.kind == "thing":
                mask_HW = truth.segmentation.position_HW == number
                rows.append(detection_row(segment.class_id, mask_HW, segment.id in truth.crowd_ids))
        return rows

    def _objects(self, table: ClassTable, size_HW: tuple[int, int], view: View) -> Objects:
        """Return the instances as a view shows them, without crowds; masks may overlap."""
        rows = [
            (row["category_id"], view.labels(mask_HW))
            for row, mask_HW in self._instances(table, *size_HW)
            if not is_crowd(row)
        ]
        masks_NHW = (
            np.stack([mask for _, mask in rows]) if rows else np.zeros((0, *view.window_HW), bool)
        )
        return Objects.of_masks(
            torch.from_numpy(masks_NHW),
            torch.tensor([class_id for class_id, _ in rows], dtype=torch.int64),
        )

    def _instances(
        self, table: ClassTable, height: int, width: int
    ) -> list[tuple[Mapping[str, Any], np.ndarray]]:
        """Decode the rows of the instances JSON, each with its mask."""
        things = set(table.ids("thing"))
        found: list[tuple[Mapping[str, Any], np.ndarray]] = []
        for number, text in enumerate(self.instances or ()):
            with self._about_instance(number):
                row = read_row(text)
            with self._about_instance(number, row):
                class_id = row["category_id"]
                if type(class_id) is not int or class_id not in things:
                    raise PanopticFormatError(
                        f"category {shown(class_id)} is not a thing of"
                        f" {table.name}{other_type(class_id, things)}; correct the annotation."
                    )
                is_crowd(row)
                found.append((row, decode_mask(row["segmentation"], height, width)))
        return found

    def _about_instance(
        self, number: int, row: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[None]:
        """Name the file, the annotation and the photograph in the errors of the block."""
        id_ = row.get("id") if isinstance(row, dict) else None
        name = f"instance {number}" if id_ is None else f"annotation {shown(id_)}"
        return about(f"{self.instances_source or self.source}: {name} of {self.file_name}")


class CocoRecords(Dataset[Photograph], ABC):
    """Photographs with annotations; subclasses read their records."""

    table: ClassTable
    """The classes."""
    config: PhotographConfig
    """Sizes of the samples, and random changes of those of ``draw``."""
    image_ids: list[ImageId]
    """Id of each photograph in the JSON, in order."""
    file_names: list[str]
    """Name of each photograph's image file."""
    unannotated: Sequence[ImageId] = ()
    """Ids of images without annotation, which are left out."""

    @abstractmethod
    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        """Read the record at ``index``, with the bytes of its image or without."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Photograph:
        return self.record(index).photograph(self.table, self.config, None)

    def draw(self, index: int, generator: np.random.Generator) -> Photograph:
        """Return the sample at ``index``, changed as ``generator`` decides."""
        return self.record(index).photograph(self.table, self.config, generator)

    def truth(self, index: int) -> tuple[Panoptic, tuple[int, ...]]:
        """Return the panoptic truth at ``index``, of the size on disk, and the ids of crowds."""
        annotated = self.record(index, with_image=False).truth(self.table)
        return annotated.segmentation, annotated.crowd_ids

    def detections(self, index: int) -> list[dict[str, Any]]:
        """Return the true things at ``index``, see ``CocoRecord.detections``."""
        return self.record(index, with_image=False).detections(self.table)


def _stated_size(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return area and box as the file states them, as far as it does."""
    stated = {key: row[key] for key in ("area", "bbox") if row.get(key) is not None}
    box = stated.get("bbox", [0, 0, 0, 0])
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"bbox {shown(box)}, which is not a list of left, top, width and height")
    for value in (*box, stated.get("area", 0)):
        if type(value) not in (int, float) or not abs(value) <= _LARGEST_NUMBER:
            raise ValueError(f"area or bbox with {shown(value)}, which is not a number of pixels")
    return stated


def _labels(truth: CocoSegmentation) -> np.ndarray:
    """Return ``VOID``, then the class of each segment (crowds and void: ``VOID``); int64, N + 1."""
    segments = truth.segmentation.segments
    is_left_out = segments.is_void | np.isin(segments.ids, truth.crowd_ids)
    return np.concatenate([[VOID], np.where(is_left_out, VOID, segments.class_ids)]).astype(
        np.int64
    )


def _segments_as_objects(truth: CocoSegmentation, position_HW: np.ndarray) -> Objects:
    """Return the things of the panoptic truth as a view shows them, without crowds."""
    segments = truth.segmentation.segments
    rows_N = np.flatnonzero(segments.is_thing & ~np.isin(segments.ids, truth.crowd_ids))
    rows_N = rows_N[np.isin(rows_N + 1, position_HW)]
    masks_NHW = position_HW == rows_N[:, None, None] + 1
    return Objects.of_masks(
        torch.from_numpy(masks_NHW), torch.from_numpy(segments.class_ids[rows_N].astype(np.int64))
    )


_PREFIX = "panoptic_"


@dataclass(frozen=True)
class CocoFiles:
    """The files of a split."""

    images: Path
    """Folder of images."""
    panoptic: Path
    """Panoptic JSON."""
    pictures: Path
    """Folder of the PNG files of segment ids."""
    instances: Path | None = None
    """Instances JSON; None where there is none."""

    @classmethod
    def find(cls, folder: Path | str, split: str) -> CocoFiles:
        """Find the files of a split in COCO's layout.

        Args:
            folder: The dataset.
            split: Its name, or the beginning of one name: "train" finds train2017.

        Raises:
            DatasetError: There is no such split, or a folder of it is missing.
        """
        folder = Path(folder)
        name = full_name(folder, find_splits(folder), split)
        annotations = folder / "annotations"
        panoptic, instances = (
            annotations / f"{_PREFIX}{name}.json",
            annotations / f"instances_{name}.json",
        )
        pictures = annotations / f"{_PREFIX}{name}"
        for path in (folder / name, pictures):
            if not path.is_dir():
                packed = path.with_name(f"{path.name}.zip")
                fix = "complete the dataset or correct its path"
                if packed.exists():
                    fix = f"unpack {packed.name} where it lies"
                raise DatasetError(
                    f"{path}, the folder that {panoptic.name} describes, does not exist; {fix}."
                )
        return cls(folder / name, panoptic, pictures, instances if instances.exists() else None)


def find_splits(folder: Path | str) -> tuple[str, ...]:
    """Return the splits of a folder in COCO's layout, by name; none where it has another layout."""
    found = (Path(folder) / "annotations").glob(f"{_PREFIX}*.json")
    return tuple(sorted(path.stem.removeprefix(_PREFIX) for path in found))


class CocoDataset(CocoRecords):
    """A split of a dataset in COCO's layout; only the index of its JSON files is held in memory.

    Crowds, and pixels without label, are ``VOID`` in the classes of pixels; objects are those of
    the instances JSON, or else of the panoptic truth.

    Args:
        folder: The dataset.
        split: Name of the split, or the beginning of one name.
        table: The classes that the dataset must have; by default those of its categories.
        config: Sizes of the samples, and random changes of them.
        files: The files of the split; by default those of COCO's layout.

    Raises:
        DatasetError: The dataset is incomplete, or has other classes.
        PanopticFormatError: A JSON file is damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str,
        table: ClassTable | None = None,
        config: PhotographConfig = PhotographConfig(),  # noqa: B008
        *,
        files: CocoFiles | None = None,
    ) -> None:
        self.files = files or CocoFiles.find(folder, split)
        self.annotations = CocoAnnotations.open(self.files.panoptic, self.files.pictures)
        self.instances = (
            None if self.files.instances is None else CocoJson.open(self.files.instances)
        )
        self.table, self.config = self.annotations.table, config
        if table is not None:
            check_classes(self.files.panoptic, self.table, table)
            self.table = table
        for problem in (
            *self.annotations.file.problems,
            *(self.instances.problems if self.instances else ()),
        ):
            raise problem
        known = self.annotations.file.images
        for image_id in self.annotations.image_ids:
            if image_id not in known:
                raise DatasetError(
                    f"{self.files.panoptic}: image {shown(image_id)} has an annotation but no entry"
                    f" among the images{other_type(image_id, known)}; complete them."
                )
        annotated = self.annotations.file.annotations or {}
        self.image_ids = [image_id for image_id in known if image_id in annotated]
        self.unannotated = [image_id for image_id in known if image_id not in annotated]
        if not self.image_ids:
            raise DatasetError(f"{self.files.panoptic} annotates no image; name another split.")
        self.file_names = [self._file_name(image_id) for image_id in self.image_ids]
        for name in self.file_names:  # found now rather than in the middle of a training
            if not isfile(self.files.images / name):
                raise DatasetError(
                    f"{self.files.images} lacks {name}, an image of the JSON; complete the dataset."
                )

    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        """Read the record at ``index``, with the bytes of its image or without."""
        image_id, file_name = self.image_ids[index], self.file_names[index]
        annotation = self.annotations.text(image_id)
        with about(f"image {shown(image_id)} of {self.files.panoptic}"):
            png = self.files.pictures / CocoAnnotation.parse(annotation).file_name
        return CocoRecord(
            str(self.files.panoptic),
            file_name,
            read_bytes(self.files.images / file_name) if with_image else b"",
            annotation,
            read_bytes(png),
            None if self.instances is None else self.instances.rows(image_id),
            str(self.files.instances or ""),
        )

    def _file_name(self, image_id: ImageId) -> str:
        """Return the name of an image's file; refuse one that leaves its folder."""
        with about(f"image {shown(image_id)} of {self.files.panoptic}"):
            name: str = self.annotations.file.image(image_id)["file_name"]
            png_name(name)
            return name


def check_learnable(records: Dataset[Any], answers: str) -> str:
    """Check that a training set has something to learn, from what its JSON files count.

    Args:
        records: The training set; only ``CocoDataset`` is checked.
        answers: What the network answers: "semantic", "instances" or "panoptic".

    Returns:
        A note where either objects or classes of pixels cannot be learned; else empty.

    Raises:
        DatasetError: Nothing can be learned, or a category is not among the categories.
    """
    if not isinstance(records, CocoDataset):
        return ""
    panoptic, kinds = records.annotations.file, kinds_by_id(records.table)
    objects = records.instances or panoptic
    for file in (panoptic, objects):
        unknown = [id_ for id_ in file.used_categories if id_ not in kinds]
        if unknown:
            raise DatasetError(
                f"{file.path} has {file.used_categories[unknown[0]]} annotations of category"
                f" {unknown[0]}, which is not among the categories of {records.files.panoptic};"
                " add it, or remove them."
            )
    labelled, labelled_crowds = panoptic.used_categories.total(), panoptic.crowds.total()
    things = sum(count for id_, count in objects.used_categories.items() if kinds[id_] == "thing")
    thing_crowds = sum(count for id_, count in objects.crowds.items() if kinds[id_] == "thing")
    problems = []
    if answers != "semantic" and "thing" in kinds.values() and things == thing_crowds:
        problems.append(_nothing(objects.path, "objects", things))
    if answers != "instances" and labelled == labelled_crowds:
        problems.append(_nothing(panoptic.path, "segments", labelled))
    if problems and (answers != "panoptic" or labelled == labelled_crowds):
        raise DatasetError(problems[0])
    return problems[0] if problems else ""


def _nothing(path: Path, kind: str, crowds: int) -> str:
    if not crowds:
        return f"{path} has no {kind}, so none can be learned; complete the annotations."
    return (
        f"All {crowds} {kind} of {path} are crowds (iscrowd 1), which teach nothing; write iscrowd"
        " 0, or convert the detections with panoseg coco convert --no-crowds."
    )


def full_name(place: Path | str, names: Sequence[str], split: str) -> str:
    """Return the split with that name, or the only one whose name begins so.

    Args:
        place: The dataset, for messages.
        names: All splits of the dataset.
        split: The name, or its beginning.

    Raises:
        DatasetError: There is none, or there are several.
    """
    fitting = [split] if split in names else [name for name in names if name.startswith(split)]
    if len(fitting) == 1:
        return fitting[0]
    found = " and ".join(fitting) or f"no annotations/{_PREFIX}{split}.json"
    fix = f"name one of {', '.join(names)}" if names else "complete the dataset or correct its path"
    raise DatasetError(f"{place} has {found}, so not one split {split} in COCO's layout; {fix}.")


def check_classes(path: Path | str, found: ClassTable, wanted: ClassTable) -> None:
    """Raise ``DatasetError`` where a dataset has classes that are not wanted; it may lack some."""
    unknown = {(entry.id, entry.name) for entry in found.classes} - {
        (entry.id, entry.name) for entry in wanted.classes
    }
    if unknown:
        id_, name = min(unknown)
        raise DatasetError(
            f"{path} has other classes than the {len(wanted.classes)} of {wanted.name}, the first"
            f" difference is {id_} ({name}); use a dataset and weights of the same classes."
        )
