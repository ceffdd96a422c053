"""Photographs in COCO's official layout, and any dataset in the same form.

    NAME/                              images
    annotations/panoptic_NAME.json     categories, images, segments
    annotations/panoptic_NAME/         a PNG of ids for each image
    annotations/instances_NAME.json    boxes and masks of the things, where there is one

Source: the official zips of cocodataset.org (NAME: train2017, val2017) and cocodataset/panopticapi @ 7bb4655.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import isfile  # unlike Path.is_file, false where a name is too long
from pathlib import Path
from typing import Any

from panoseg.classes import ClassTable
from panoseg.coco.format import CocoAnnotation, CocoAnnotations
from panoseg.coco.json import CocoJson, ImageId, about
from panoseg.coco.png import png_name
from panoseg.data.coco_records import CocoRecord, CocoRecords
from panoseg.data.photograph_config import PhotographConfig
from panoseg.data.photograph_files import read_bytes
from panoseg.errors import DatasetError

_PREFIX = "panoptic_"


@dataclass(frozen=True)
class CocoFiles:
    """Where the parts of a split lie: folder of images, panoptic JSON, folder of PNG files, instances JSON or None."""

    images: Path
    panoptic: Path
    pictures: Path
    instances: Path | None = None

    @classmethod
    def find(cls, folder: Path | str, split: str) -> CocoFiles:
        """The files of a split in COCO's layout. split: its name, or how the name of one split begins: "train" finds train2017.
        Raises ``DatasetError``."""
        folder = Path(folder)
        name = full_name(folder, find_splits(folder), split)
        annotations = folder / "annotations"
        panoptic, instances = annotations / f"{_PREFIX}{name}.json", annotations / f"instances_{name}.json"
        pictures = annotations / f"{_PREFIX}{name}"
        for path in (folder / name, pictures):
            if not path.is_dir():
                packed = path.with_name(f"{path.name}.zip")
                fix = f"unpack {packed.name} where it lies" if packed.exists() else "complete the dataset or correct its path"
                raise DatasetError(f"{path} does not exist", f"the folder that {panoptic.name} describes", fix)
        return cls(folder / name, panoptic, pictures, instances if instances.exists() else None)


def find_splits(folder: Path | str) -> tuple[str, ...]:
    """Names of the splits in a folder of COCO's layout, in order of the alphabet; none where it has another layout."""
    found = (Path(folder) / "annotations").glob(f"{_PREFIX}*.json")
    return tuple(sorted(path.stem.removeprefix(_PREFIX) for path in found))


class CocoDataset(CocoRecords):
    """A split of a dataset in COCO's layout; nothing but the index of its JSON files is held in memory.

    A crowd, and what has no label, is ``VOID`` in the classes of pixels; objects are those of the instances JSON, or else those
    of the panoptic truth.
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
        """Open a split. table: the classes that the dataset must have, by default those of its categories. files: where the
        parts lie, by default as in COCO's layout. Raises ``DatasetError`` and ``PanopticFormatError``."""
        self.files = files or CocoFiles.find(folder, split)
        self.annotations = CocoAnnotations.open(self.files.panoptic, self.files.pictures)
        self.instances = None if self.files.instances is None else CocoJson.open(self.files.instances)
        self.table, self.config = self.annotations.table, config
        if table is not None:
            check_classes(self.files.panoptic, self.table, table)
            self.table = table
        for problem in (*self.annotations.file.problems, *(self.instances.problems if self.instances else ())):
            raise problem
        known = self.annotations.file.images
        strange = next((image_id for image_id in self.annotations.image_ids if image_id not in known), None)
        if strange is not None:
            raise DatasetError(
                f"{self.files.panoptic}: image {strange} has an annotation, no entry", "both", "complete the images"
            )
        self.image_ids = [image_id for image_id in known if image_id in (self.annotations.file.annotations or {})]
        if not self.image_ids:
            raise DatasetError(f"{self.files.panoptic} annotates no image", "at least one", "name another split")
        self.unannotated = [image_id for image_id in known if image_id not in (self.annotations.file.annotations or {})]
        self.file_names = [self._file_name(image_id) for image_id in self.image_ids]
        missing = next((name for name in self.file_names if not isfile(self.files.images / name)), None)
        if missing is not None:  # rather found now than in the middle of a training
            raise DatasetError(f"{self.files.images} lacks {missing}", "every image of the JSON", "complete the dataset")

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
        differing = {(entry.id, entry.name) for entry in found.classes} ^ {(entry.id, entry.name) for entry in wanted.classes}
        id_, name = min(differing)
        raise DatasetError(
            f"{path}: other classes than {wanted.name}, the first difference is {id_} ({name})",
            f"the {len(wanted.classes)} classes of {wanted.name}",
            "use a dataset and weights of the same classes",
        )
