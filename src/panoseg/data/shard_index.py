"""What lies where in a dataset of shards: ``index.json``, written last.

A shard is a tar of webdataset's form; a record, three members that follow one another:
KEY.jpg (or another ending): the image; KEY.panoptic.png: its PNG of ids; KEY.json: its name, annotation and instances.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from panoseg.classes import ClassTable
from panoseg.coco.categories import class_table
from panoseg.coco.json import ImageId, about
from panoseg.coco.png import png_name
from panoseg.data.places import Place, joined, read_file
from panoseg.errors import DatasetError, PanopticFormatError

INDEX = "index.json"
VERSION = 1
BLOCK = 512  # bytes of a tar
_MOST_BYTES = 2**28
_LONGEST_RECORD = 2**30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Shard:
    """A tar of records. name: of its file. size: bytes. sha256: of them. ends: the byte behind each record, of which the first
    begins at 0. checksums: CRC-32 of each record. image_ids, file_names: of each record's image."""

    name: str
    size: int
    sha256: str
    ends: tuple[int, ...]
    checksums: tuple[int, ...]
    image_ids: tuple[ImageId, ...]
    file_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def span(self, record: int) -> tuple[int, int]:
        """First byte of a record, and the byte behind it."""
        return (self.ends[record - 1] if record else 0), self.ends[record]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; ``from_json`` reads it."""
        return {**vars(self), "samples": len(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Shard:
        """Read what ``to_json`` wrote. Raises ``ValueError`` and the errors that ``about`` turns into one of ours."""
        name, size, ends = row["name"], row["size"], tuple(row["ends"])
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"shard name {str(name)[:60]!r}")
        columns = [ends, *(tuple(row[key]) for key in ("checksums", "image_ids", "file_names"))]
        if {len(column) for column in columns} != {row["samples"]}:
            raise ValueError(f"{name} with columns of {sorted({len(column) for column in columns})} rows")
        for start, end in zip((0, *ends), ends, strict=False):
            if type(end) is not int or not start < end <= start + _LONGEST_RECORD or end % BLOCK:
                raise ValueError(f"{name} with a record that ends at {str(end)[:20]}")
        if type(size) is not int or (ends and ends[-1] > size):
            raise ValueError(f"{name} of {str(size)[:20]} bytes with records beyond them")
        _check_columns(*columns[1:])
        return cls(name, size, str(row["sha256"]), *columns)


def _check_columns(checksums: tuple, image_ids: tuple, file_names: tuple) -> None:
    if not all(type(value) is int for value in checksums):
        raise ValueError("checksums that are no numbers")
    if not all(type(value) in (int, str) for value in image_ids):
        raise ValueError("ids of images that are neither numbers nor text")
    for name in file_names:
        png_name(name)  # which refuses those that leave their folder


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All shards of a dataset. place: its folder or URL. table: the classes. splits: the shards of each split, in order."""

    place: str
    table: ClassTable
    splits: Mapping[str, tuple[Shard, ...]]

    @classmethod
    def read(cls, place: Place) -> ShardIndex:
        """Read the index of a dataset. Raises ``DatasetError`` where there is none, or it contradicts itself."""
        path = joined(place, INDEX)
        try:
            with about(path):
                return cls._parse(str(place), json.loads(read_file(path, _MOST_BYTES)))
        except PanopticFormatError as error:
            raise DatasetError(error.found, "the index of panoseg coco shards", "write the shards again") from error

    @classmethod
    def _parse(cls, place: str, content: Any) -> ShardIndex:
        if content["panoseg_shards"] != VERSION:
            raise ValueError(f"version {str(content['panoseg_shards'])[:20]} of shards")
        splits = {name: tuple(map(Shard.from_json, rows)) for name, rows in content["splits"].items()}
        if not splits or not all(sum(map(len, shards)) for shards in splits.values()):
            raise ValueError("a split without a photograph")
        table = replace(class_table(joined(place, INDEX), content["categories"]), name=str(content["name"]))
        return cls(place, table, splits)

    def to_json(self, categories: list[dict[str, Any]]) -> dict[str, Any]:
        """A JSON-ready dictionary, with the classes as rows of COCO's categories."""
        splits = {name: [shard.to_json() for shard in shards] for name, shards in self.splits.items()}
        return {"panoseg_shards": VERSION, "name": self.table.name, "categories": categories, "splits": splits}
