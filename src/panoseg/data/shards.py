"""Read datasets of shards: tar files in webdataset's form, with an ``index.json``.

A record of a shard is three members that follow one another: KEY.jpg (or another ending), the
image; KEY.panoptic.png, its PNG of ids; KEY.json, its name, annotation and instances. The index
says where each record lies, so that one read of a part of a file gives it, from any store.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from panoseg.classes import ClassTable
from panoseg.coco.categories import class_table
from panoseg.coco.json import ImageId, about, read_row
from panoseg.coco.masks import png_name
from panoseg.data.coco import CocoRecord, CocoRecords, check_classes, full_name
from panoseg.data.config import PhotographConfig
from panoseg.data.places import Place, joined, read_file, read_part, size_of
from panoseg.errors import DatasetError, PanopticFormatError
from panoseg.text_files import json_of

INDEX = "index.json"
VERSION = 1
BLOCK = 512  # bytes of a tar
_MOST_BYTES = 2**28
_LONGEST_RECORD = 2**30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Shard:
    """A tar file of records."""

    name: str
    """Name of its file."""
    size: int
    """Number of bytes."""
    sha256: str
    """Hash of the file, hexadecimal."""
    ends: tuple[int, ...]
    """The byte after each record; the first record begins at 0, the others where one ends."""
    checksums: tuple[int, ...]
    """CRC-32 of each record."""
    image_ids: tuple[ImageId, ...]
    """Id of each record's image in COCO's JSON."""
    file_names: tuple[str, ...]
    """Name of each record's image."""

    def __len__(self) -> int:
        return len(self.ends)

    def span(self, record: int) -> tuple[int, int]:
        """Return the first byte of a record and the byte after it."""
        return (self.ends[record - 1] if record else 0), self.ends[record]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it."""
        return {**vars(self), "samples": len(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Shard:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: A value is impossible; other errors of damaged rows, such as ``KeyError``,
                are left to ``about``.
        """
        name, size, ends = row["name"], row["size"], tuple(row["ends"])
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"shard name {str(name)[:60]!r}")
        columns = [ends, *(tuple(row[key]) for key in ("checksums", "image_ids", "file_names"))]
        if {len(column) for column in columns} != {row["samples"]}:
            raise ValueError(
                f"{name} with columns of {sorted({len(column) for column in columns})} rows"
            )
        for start, end in zip((0, *ends), ends, strict=False):
            if type(end) is not int or not start < end <= start + _LONGEST_RECORD or end % BLOCK:
                raise ValueError(f"{name} with a record that ends at {str(end)[:20]}")
        if type(size) is not int or (ends and ends[-1] > size):
            raise ValueError(f"{name} of {str(size)[:20]} bytes with records beyond them")
        _check_columns(*columns[1:])
        return cls(name, size, str(row["sha256"]), *columns)


def _check_columns(
    checksums: tuple[Any, ...], image_ids: tuple[Any, ...], file_names: tuple[Any, ...]
) -> None:
    if not all(type(value) is int for value in checksums):
        raise ValueError("checksums that are not numbers")
    if not all(type(value) in (int, str) for value in image_ids):
        raise ValueError("ids of images that are neither numbers nor text")
    for name in file_names:
        png_name(name)  # raises for a name that leaves its folder


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All shards of a dataset."""

    place: str
    """Folder or URL of the dataset."""
    table: ClassTable
    """Its classes."""
    splits: Mapping[str, tuple[Shard, ...]]
    """The shards of each split, in order."""

    @classmethod
    def read(cls, place: Place) -> ShardIndex:
        """Read the index of a dataset.

        Raises:
            DatasetError: There is none, or it contradicts itself.
        """
        path = joined(place, INDEX)
        try:
            with about(path):
                return cls._parse(str(place), json_of(read_file(path, _MOST_BYTES)))
        except PanopticFormatError as error:
            raise DatasetError(
                f"{str(error).rstrip('.')}, so it is not an index of panoseg coco shards: write the"
                " shards again."
            ) from error

    @classmethod
    def _parse(cls, place: str, content: dict[str, Any]) -> ShardIndex:
        if content["panoseg_shards"] != VERSION:
            raise ValueError(f"version {str(content['panoseg_shards'])[:20]} of shards")
        splits = {
            name: tuple(map(Shard.from_json, rows)) for name, rows in content["splits"].items()
        }
        if not splits or not all(sum(map(len, shards)) for shards in splits.values()):
            raise ValueError("a split without a photograph")
        table = replace(
            class_table(joined(place, INDEX), content["categories"]), name=str(content["name"])
        )
        return cls(place, table, splits)

    def to_json(self, categories: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a JSON-ready dictionary, with the classes as rows of COCO's categories."""
        splits = {
            name: [shard.to_json() for shard in shards] for name, shards in self.splits.items()
        }
        return {
            "panoseg_shards": VERSION,
            "name": self.table.name,
            "categories": categories,
            "splits": splits,
        }


IDS_ENDING, ABOUT_ENDING = "panoptic.png", "json"


class CocoShards(CocoRecords):
    """A split of a dataset of shards: the same photographs in the same order as its folder.

    Args:
        place: Folder or URL of the shards.
        split: Name of the split, or the beginning of one name.
        table: The classes that the dataset must have; by default its own.
        config: Sizes of samples, and random changes of them.

    Raises:
        DatasetError: There is no such split, it has other classes, or a shard is shorter than it
            was.
    """

    def __init__(
        self,
        place: Place,
        split: str,
        table: ClassTable | None = None,
        config: PhotographConfig = PhotographConfig(),  # noqa: B008
    ) -> None:
        index = ShardIndex.read(place)
        self.place, self.config, self.table = index.place, config, index.table
        if table is not None:
            check_classes(joined(place, INDEX), index.table, table)
            self.table = table
        self.shards = index.splits[full_name(place, tuple(index.splits), split)]
        for shard in self.shards:
            path = joined(place, shard.name)
            size = size_of(path)
            if size is not None and size != shard.size:
                raise DatasetError(
                    f"{path} has {size} bytes, but {INDEX} says {shard.size}; copy the shard again."
                )
        self.image_ids = [image_id for shard in self.shards for image_id in shard.image_ids]
        self.file_names = [name for shard in self.shards for name in shard.file_names]
        self._starts = [0, *accumulate(map(len, self.shards))]

    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        """Read the record at ``index``, with the bytes of its image or without."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        shard, row = self.shards[number], index - self._starts[number]
        path = joined(self.place, shard.name)
        data = read_part(path, *shard.span(row))
        if zlib.crc32(data) != shard.checksums[row]:
            raise DatasetError(
                f"Record {row} of {path} ({shard.file_names[row]}) has changed since it was"
                " written; copy the shard again."
            )
        return _unpack(data, path, shard.file_names[row], with_image)


def _unpack(data: bytes, path: str, file_name: str, with_image: bool) -> CocoRecord:
    """Read the record in a piece of a tar; raise ``DatasetError`` if it is not one."""
    try:
        with about(f"{path}: {file_name}"):
            parts = _members(data)
            words = read_row(parts.pop(ABOUT_ENDING))
            ids_png = parts.pop(IDS_ENDING)
            [image] = parts.values()
            if words["file_name"] != file_name:
                raise ValueError(f"the record of {str(words['file_name'])[:60]}")
            rows = words["instances"]
            instances = None if rows is None else tuple(json.dumps(row).encode() for row in rows)
            annotation = json.dumps(words["annotation"]).encode()
    except (PanopticFormatError, tarfile.TarError) as error:
        reason = getattr(error, "found", f"{path}: {file_name}: {error}")
        raise DatasetError(
            f"{reason}, so it is not a record of panoseg coco shards; write the shards again."
        ) from error
    return CocoRecord(path, file_name, image if with_image else b"", annotation, ids_png, instances)


def _members(data: bytes) -> dict[str, bytes]:
    """Return the members of one record by their ending; refuse links, holes and cut files."""
    parts: dict[str, bytes] = {}
    keys = set()
    # "r:" refuses compressed archives, which could unpack to any size.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            keys.add(key)
            if (
                member.type != tarfile.REGTYPE
                or member.issparse()
                or not key.isalnum()
                or len(keys) > 1
                or ending in parts
            ):
                raise ValueError(f"a member {member.name[:60]!r} that does not belong there")
            content = archive.extractfile(member)
            parts[ending] = (
                content.read()
                if content is not None and member.offset_data + member.size <= len(data)
                else b""
            )
            if len(parts[ending]) != member.size:
                raise ValueError(f"{member.name[:60]!r} is cut")
    return parts
