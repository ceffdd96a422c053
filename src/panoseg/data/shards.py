"""What lies where in a dataset of shards: ``index.json``, written last.

A shard is a tar of webdataset's form; a record, three members that follow one another: KEY.jpg (or
another ending): the image; KEY.panoptic.png: its PNG of ids; KEY.json: its name, annotation and
instances.
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
from panoseg.coco.png import png_name
from panoseg.data.coco import CocoRecord, CocoRecords, check_classes, full_name
from panoseg.data.config import PhotographConfig
from panoseg.data.places import Place, joined, read_file, read_part, size_of
from panoseg.errors import DatasetError, PanopticFormatError

INDEX = "index.json"
VERSION = 1
BLOCK = 512  # bytes of a tar
_MOST_BYTES = 2**28
_LONGEST_RECORD = 2**30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Shard:
    """A tar of records. name: of its file. size: bytes. sha256: of them. ends: the byte behind each
    record, of which the first begins at 0. checksums: CRC-32 of each record. image_ids, file_names:
    of each record's image.
    """

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
        """Read what ``to_json`` wrote. Raises ``ValueError`` and the errors that ``about`` turns
        into one of ours.
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


def _check_columns(checksums: tuple, image_ids: tuple, file_names: tuple) -> None:
    if not all(type(value) is int for value in checksums):
        raise ValueError("checksums that are no numbers")
    if not all(type(value) in (int, str) for value in image_ids):
        raise ValueError("ids of images that are neither numbers nor text")
    for name in file_names:
        png_name(name)  # which refuses those that leave their folder


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All shards of a dataset. place: its folder or URL. table: the classes. splits: the shards of
    each split, in order.
    """

    place: str
    table: ClassTable
    splits: Mapping[str, tuple[Shard, ...]]

    @classmethod
    def read(cls, place: Place) -> ShardIndex:
        """Read the index of a dataset. Raises ``DatasetError`` where there is none, or it
        contradicts itself.
        """
        path = joined(place, INDEX)
        try:
            with about(path):
                return cls._parse(str(place), json.loads(read_file(path, _MOST_BYTES)))
        except PanopticFormatError as error:
            raise DatasetError(
                error.found, "the index of panoseg coco shards", "write the shards again"
            ) from error

    @classmethod
    def _parse(cls, place: str, content: Any) -> ShardIndex:
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
        """A JSON-ready dictionary, with the classes as rows of COCO's categories."""
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
    """A split of a dataset of shards, as ``write_shards`` wrote it: the same photographs in the
    same order as its folder.
    """

    def __init__(
        self,
        place: Place,
        split: str,
        table: ClassTable | None = None,
        config: PhotographConfig = PhotographConfig(),  # noqa: B008
    ) -> None:
        """Open a split. place: folder or URL. table: the classes that it must have. Raises
        ``DatasetError``, also for a shard that is shorter than it was.
        """
        index = ShardIndex.read(place)
        self.place, self.config, self.table = index.place, config, index.table
        if table is not None:
            check_classes(joined(place, INDEX), index.table, table)
            self.table = table
        self.shards = index.splits[full_name(place, tuple(index.splits), split)]
        for shard in self.shards:
            _check_size(joined(place, shard.name), shard)
        self.image_ids = [image_id for shard in self.shards for image_id in shard.image_ids]
        self.file_names = [name for shard in self.shards for name in shard.file_names]
        self._starts = [0, *accumulate(map(len, self.shards))]

    def record(self, index: int, *, with_image: bool = True) -> CocoRecord:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        shard, row = self.shards[number], index - self._starts[number]
        path = joined(self.place, shard.name)
        data = read_part(path, *shard.span(row))
        if zlib.crc32(data) != shard.checksums[row]:
            raise DatasetError(
                f"{path}: record {row} ({shard.file_names[row]}) has changed",
                "the bytes that were written",
                "copy the shard again",
            )
        return _unpack(data, path, shard.file_names[row], with_image)


def _check_size(path: str, shard: Shard) -> None:
    size = size_of(path)
    if size is not None and size != shard.size:
        raise DatasetError(
            f"{path}: {size} bytes", f"{shard.size}, as {INDEX} says", "copy the shard again"
        )


def _unpack(data: bytes, path: str, file_name: str, with_image: bool) -> CocoRecord:
    """The record in a piece of a tar. Raises ``DatasetError`` for members that are none of its,
    whatever they claim to be.
    """
    try:
        with about(f"{path}: {file_name}"):
            parts = _members(data)
            words = read_row(parts.pop(ABOUT_ENDING))
            ids_png = parts.pop(IDS_ENDING)
            [image] = parts.values()
            if words["file_name"] != file_name:
                raise ValueError(f"the record of {str(words['file_name'])[:60]}")
            instances = (
                None if words["instances"] is None else tuple(map(_bytes, words["instances"]))
            )
            annotation = _bytes(words["annotation"])
    except (PanopticFormatError, tarfile.TarError) as error:
        reason = getattr(error, "found", f"{path}: {file_name}: {error}")
        raise DatasetError(
            reason, "a record of panoseg coco shards", "write the shards again"
        ) from error
    return CocoRecord(path, file_name, image if with_image else b"", annotation, ids_png, instances)


def _members(data: bytes) -> dict[str, bytes]:
    """The members of one record, by their ending. Links, holes and files that are not there whole
    are refused.
    """
    parts: dict[str, bytes] = {}
    keys = set()
    with tarfile.open(
        fileobj=io.BytesIO(data), mode="r:"
    ) as archive:  # never unpacks what is compressed
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


def _bytes(row: Any) -> bytes:
    return json.dumps(row).encode()
