"""One photograph and its annotation in COCO's form, as bytes of files; and what datasets of such
records have in common.

Shape suffixes: H W pixels, N segments or objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile  # unlike Path.is_file, false where a name is too long
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from panoseg.classes import ClassTable
from panoseg.coco.format import CocoAnnotation, CocoAnnotations, CocoSegmentation
from panoseg.coco.json import CocoJson, ImageId, about, read_row
from panoseg.coco.masks import MOST_PIXELS, decode_mask, detection_row
from panoseg.coco.png import decode_ids, png_name
from panoseg.data.config import PhotographConfig
from panoseg.data.photograph_files import decode_photograph, read_bytes
from panoseg.data.photographs import VOID, Objects, Photograph, View, choose_view
from panoseg.errors import DatasetError, PanopticFormatError
from panoseg.panoptic.panoptic import Panoptic

_LARGEST_NUMBER = 2**53


@dataclass(frozen=True)
class CocoRecord:
    """A photograph and its annotation, nothing decoded.

    source: what failures call the dataset. file_name: of the image. image: bytes of its file, empty
    where they are not wanted.
    annotation: its row of the panoptic JSON. ids_png: bytes of its PNG of ids. instances: its rows
    of the instances JSON, None where the dataset has no such file.
    """

    source: str
    file_name: str
    image: bytes
    annotation: bytes
    ids_png: bytes
    instances: tuple[bytes, ...] | None

    def truth(self, table: ClassTable) -> CocoSegmentation:
        """The panoptic annotation, of the size on disk. Raises ``PanopticFormatError`` where it
        contradicts itself.
        """
        with about(f"{self.source}: {self.file_name}"):
            annotation = CocoAnnotation.parse(self.annotation)
            return annotation.segmentation(
                decode_ids(self.ids_png, Path(annotation.file_name)), table
            )

    def photograph(
        self, table: ClassTable, config: PhotographConfig, generator: np.random.Generator | None
    ) -> Photograph:
        """The photograph with its labels, changed by chance where a generator is given. Raises
        ``DatasetError`` too.
        """
        truth = self.truth(table)
        size_HW = truth.segmentation.segment_HW.shape
        picture = decode_photograph(self.image, f"{self.source}: {self.file_name}")
        if (picture.height, picture.width) != size_HW:
            raise DatasetError(
                f"{self.source}: {self.file_name} of {picture.height} x {picture.width} pixels"
                f" (upright), annotated with {size_HW[0]} x {size_HW[1]}",
                "one size",
                "annotate the picture as its EXIF turns it, or remove the EXIF",
            )
        view = choose_view(size_HW, config, generator)
        if view.window_HW[0] * view.window_HW[1] > MOST_PIXELS:
            raise DatasetError(
                f"{self.source}: {self.file_name} of {size_HW[0]} x {size_HW[1]} pixels, resized to"
                f" {view.window_HW[0]} x {view.window_HW[1]}",
                f"at most {MOST_PIXELS} pixels",
                "pass a smaller --photographs.max-side or --photographs.crop",
            )
        position_HW = view.labels(truth.segmentation.position_HW)
        objects = (
            _segments_as_objects(truth, position_HW)
            if self.instances is None
            else self._objects(table, size_HW, view)
        )
        return Photograph(
            torch.from_numpy(view.image(picture).transpose(2, 0, 1).copy()),
            str(PurePosixPath(self.file_name).with_suffix("")),
            truth.image_id,
            size_HW,
            torch.from_numpy(_labels(truth)[position_HW]),
            objects,
        )

    def detections(self, table: ClassTable) -> list[dict[str, Any]]:
        """The things in COCO's detection form, crowds flagged: category_id, bbox (left, top, width,
        height), compressed segmentation, area, iscrowd. Areas are those that the file states, as
        published scores take them.
        """
        truth = self.truth(table)
        rows = []
        if self.instances is not None:
            height, width = truth.segmentation.segment_HW.shape
            for number, (row, mask_HW) in enumerate(self._instances(table, height, width)):
                with about(f"{self.source}: instance {number} of {self.file_name}"):
                    stated = _stated(row)
                rows.append(
                    detection_row(row["category_id"], mask_HW, row.get("iscrowd") == 1) | stated
                )
            return rows
        segments = truth.segmentation.segments
        for number, segment in enumerate(segments, 1):
            if segment.kind == "thing":
                mask_HW = truth.segmentation.position_HW == number
                rows.append(detection_row(segment.class_id, mask_HW, segment.id in truth.crowd_ids))
        return rows

    def _objects(self, table: ClassTable, size_HW: tuple[int, int], view: View) -> Objects:
        """The instances as a view shows them, crowds left out; their masks may overlap."""
        rows = [
            (row["category_id"], view.labels(mask_HW))
            for row, mask_HW in self._instances(table, *size_HW)
            if row.get("iscrowd") != 1
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
        things = set(table.ids("thing"))
        found = []
        for number, text in enumerate(self.instances or ()):
            with about(f"{self.source}: instance {number} of {self.file_name}"):
                row = read_row(text)
                if row["category_id"] not in things:
                    raise PanopticFormatError(
                        f"category {str(row['category_id'])[:40]}",
                        f"a thing of {table.name}",
                        "correct the annotation",
                    )
                found.append((row, decode_mask(row["segmentation"], height, width)))
        return found


class CocoRecords(Dataset[Photograph], ABC):
    """Photographs with annotations, wherever their records come from.

    table: the classes. config: sizes of the samples, and what chance may do to those of ``draw``.
    image_ids: the id of each photograph in the JSON, in order. file_names: of its image.
    unannotated: ids of images that have no annotation; they are left out.
    """

    table: ClassTable
    config: PhotographConfig
    image_ids: list[ImageId]
    file_names: list[str]
    unannotated: Sequence[ImageId] = ()

    @abstractmethod
    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        """The record at ``index``, with the bytes of its image or without."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Photograph:
        return self.record(index).photograph(self.table, self.config, None)

    def draw(self, index: int, generator: np.random.Generator) -> Photograph:
        """The sample at ``index``, changed by chance as the options say."""
        return self.record(index).photograph(self.table, self.config, generator)

    def truth(self, index: int) -> tuple[Panoptic, tuple[int, ...]]:
        """The panoptic truth at ``index``, of the size on disk, and the ids of segments that are
        crowds.
        """
        annotated = self.record(index, with_image=False).truth(self.table)
        return annotated.segmentation, annotated.crowd_ids

    def detections(self, index: int) -> list[dict[str, Any]]:
        """The true things at ``index``, rows of COCO's detection form: of the instances JSON, or
        else of the panoptic truth.
        """
        return self.record(index, with_image=False).detections(self.table)


def _stated(row: Mapping[str, Any]) -> dict[str, Any]:
    """Area and box as the file states them, as far as it does."""
    stated = {key: row[key] for key in ("area", "bbox") if key in row}
    box = stated.get("bbox", [0, 0, 0, 0])
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"bbox {str(box)[:40]}, which is no list of left, top, width and height")
    for value in (*box, stated.get("area", 0)):
        if type(value) not in (int, float) or not abs(value) <= _LARGEST_NUMBER:
            raise ValueError(f"area or bbox with {str(value)[:40]}, which is no number of pixels")
    return stated


def _labels(truth: CocoSegmentation) -> np.ndarray:
    """Class of each position of the picture's raster, ``VOID`` for none, void and crowds: int64, N
    + 1.
    """
    segments = truth.segmentation.segments
    is_left_out = segments.is_void | np.isin(segments.ids, truth.crowd_ids)
    return np.concatenate([[VOID], np.where(is_left_out, VOID, segments.class_ids)]).astype(
        np.int64
    )


def _segments_as_objects(truth: CocoSegmentation, position_HW: np.ndarray) -> Objects:
    """The things of the panoptic truth as a view shows them, crowds left out."""
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
    """Where the parts of a split lie: folder of images, panoptic JSON, folder of PNG files,
    instances JSON or None.
    """

    images: Path
    panoptic: Path
    pictures: Path
    instances: Path | None = None

    @classmethod
    def find(cls, folder: Path | str, split: str) -> CocoFiles:
        """The files of a split in COCO's layout. split: its name, or how the name of one split
        begins: "train" finds train2017. Raises ``DatasetError``.
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
                fix = (
                    f"unpack {packed.name} where it lies"
                    if packed.exists()
                    else "complete the dataset or correct its path"
                )
                raise DatasetError(
                    f"{path} does not exist", f"the folder that {panoptic.name} describes", fix
                )
        return cls(folder / name, panoptic, pictures, instances if instances.exists() else None)


def find_splits(folder: Path | str) -> tuple[str, ...]:
    """Names of the splits in a folder of COCO's layout, in order of the alphabet; none where it has
    another layout.
    """
    found = (Path(folder) / "annotations").glob(f"{_PREFIX}*.json")
    return tuple(sorted(path.stem.removeprefix(_PREFIX) for path in found))


class CocoDataset(CocoRecords):
    """A split of a dataset in COCO's layout; nothing but the index of its JSON files is held in
    memory.

    A crowd, and what has no label, is ``VOID`` in the classes of pixels; objects are those of the
    instances JSON, or else those of the panoptic truth.
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
        """Open a split. table: the classes that the dataset must have, by default those of its
        categories. files: where the parts lie, by default as in COCO's layout. Raises
        ``DatasetError`` and ``PanopticFormatError``.
        """
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
        strange = next(
            (image_id for image_id in self.annotations.image_ids if image_id not in known), None
        )
        if strange is not None:
            raise DatasetError(
                f"{self.files.panoptic}: image {strange} has an annotation, no entry",
                "both",
                "complete the images",
            )
        self.image_ids = [
            image_id for image_id in known if image_id in (self.annotations.file.annotations or {})
        ]
        if not self.image_ids:
            raise DatasetError(
                f"{self.files.panoptic} annotates no image", "at least one", "name another split"
            )
        self.unannotated = [
            image_id
            for image_id in known
            if image_id not in (self.annotations.file.annotations or {})
        ]
        self.file_names = [self._file_name(image_id) for image_id in self.image_ids]
        missing = next(
            (name for name in self.file_names if not isfile(self.files.images / name)), None
        )
        if missing is not None:  # rather found now than in the middle of a training
            raise DatasetError(
                f"{self.files.images} lacks {missing}",
                "every image of the JSON",
                "complete the dataset",
            )

    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        image_id, file_name = self.image_ids[index], self.file_names[index]
        annotation = self.annotations.text(image_id)
        with about(f"image {image_id} of {self.files.panoptic}"):
            png = self.files.pictures / CocoAnnotation.parse(annotation).file_name
        return CocoRecord(
            str(self.files.panoptic),
            file_name,
            read_bytes(self.files.images / file_name) if with_image else b"",
            annotation,
            read_bytes(png),
            None if self.instances is None else self.instances.rows(image_id),
        )

    def _file_name(self, image_id: ImageId) -> str:
        """The name of an image's file; one that leaves its folder is refused."""
        with about(f"image {image_id} of {self.files.panoptic}"):
            row: dict[str, Any] = self.annotations.file.image(image_id)
            png_name(row["file_name"])
            return row["file_name"]


def full_name(place: Path | str, names: Sequence[str], split: str) -> str:
    """The one of a dataset's splits that is called so, or begins so. Raises ``DatasetError``."""
    fitting = [split] if split in names else [name for name in names if name.startswith(split)]
    if len(fitting) == 1:
        return fitting[0]
    found = f"{place} has {' and '.join(fitting) or f'no annotations/{_PREFIX}{split}.json'}"
    fix = f"name one of {', '.join(names)}" if names else "complete the dataset or correct its path"
    raise DatasetError(found, f"one split {split} in COCO's layout", fix)


def check_classes(path: Path | str, found: ClassTable, wanted: ClassTable) -> None:
    """Raise ``DatasetError`` where a dataset has other classes than are wanted."""
    if not found.same_classes(wanted):
        differing = {(entry.id, entry.name) for entry in found.classes} ^ {
            (entry.id, entry.name) for entry in wanted.classes
        }
        id_, name = min(differing)
        raise DatasetError(
            f"{path}: other classes than {wanted.name}, the first difference is {id_} ({name})",
            f"the {len(wanted.classes)} classes of {wanted.name}",
            "use a dataset and weights of the same classes",
        )
