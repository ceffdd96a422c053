"""Photographs with annotations in shards, in a folder or in the cloud, read a record at a time from where they lie.

A record is one piece of its shard, so it costs one question to the store, in any order: a training draws from all shards in a
new order each epoch, every photograph once, and goes on anywhere in it, as from a folder. Nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from bisect import bisect_right
from itertools import accumulate
from typing import Any

from panoseg.classes import ClassTable
from panoseg.coco.json import about, read_row
from panoseg.data.coco import check_classes, full_name
from panoseg.data.coco_records import CocoRecord, CocoRecords
from panoseg.data.photograph_config import PhotographConfig
from panoseg.data.places import Place, joined, read_part, size_of
from panoseg.data.shard_index import INDEX, Shard, ShardIndex
from panoseg.errors import DatasetError, PanopticFormatError

IDS_ENDING, ABOUT_ENDING = "panoptic.png", "json"


class CocoShards(CocoRecords):
    """A split of a dataset of shards, as ``write_shards`` wrote it: the same photographs in the same order as its folder."""

    def __init__(
        self,
        place: Place,
        split: str,
        table: ClassTable | None = None,
        config: PhotographConfig = PhotographConfig(),  # noqa: B008
    ) -> None:
        """Open a split. place: folder or URL. table: the classes that it must have. Raises ``DatasetError``, also for a shard
        that is shorter than it was."""
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
        raise DatasetError(f"{path}: {size} bytes", f"{shard.size}, as {INDEX} says", "copy the shard again")


def _unpack(data: bytes, path: str, file_name: str, with_image: bool) -> CocoRecord:
    """The record in a piece of a tar. Raises ``DatasetError`` for members that are none of its, whatever they claim to be."""
    try:
        with about(f"{path}: {file_name}"):
            parts = _members(data)
            words = read_row(parts.pop(ABOUT_ENDING))
            ids_png = parts.pop(IDS_ENDING)
            [image] = parts.values()
            if words["file_name"] != file_name:
                raise ValueError(f"the record of {str(words['file_name'])[:60]}")
            instances = None if words["instances"] is None else tuple(map(_bytes, words["instances"]))
            annotation = _bytes(words["annotation"])
    except (PanopticFormatError, tarfile.TarError) as error:
        reason = getattr(error, "found", f"{path}: {file_name}: {error}")
        raise DatasetError(reason, "a record of panoseg coco shards", "write the shards again") from error
    return CocoRecord(path, file_name, image if with_image else b"", annotation, ids_png, instances)


def _members(data: bytes) -> dict[str, bytes]:
    """The members of one record, by their ending. Links, holes and files that are not there whole are refused."""
    parts: dict[str, bytes] = {}
    keys = set()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:  # never unpacks what is compressed
        for member in archive:
            key, _, ending = member.name.partition(".")
            keys.add(key)
            if member.type != tarfile.REGTYPE or member.issparse() or not key.isalnum() or len(keys) > 1 or ending in parts:
                raise ValueError(f"a member {member.name[:60]!r} that does not belong there")
            content = archive.extractfile(member)
            parts[ending] = content.read() if content is not None and member.offset_data + member.size <= len(data) else b""
            if len(parts[ending]) != member.size:
                raise ValueError(f"{member.name[:60]!r} is cut")
    return parts


def _bytes(row: Any) -> bytes:
    return json.dumps(row).encode()
