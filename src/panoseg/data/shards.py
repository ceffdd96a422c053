"""Datasets of shards, read and written: tar files in webdataset's form, with an ``index.json``.

A record of a shard is three members that follow one another: KEY.jpg (or another ending), the
image; KEY.panoptic.png, its PNG of ids; KEY.json, its name, annotation and instances. The index
says where each record lies, so that one read of a part of a file gives it, from any store that
fsspec knows; it is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from panoseg.classes import ClassTable
from panoseg.coco.categories import category_rows, class_table
from panoseg.coco.json import ImageId, about, read_row
from panoseg.coco.masks import IMAGE_SUFFIXES, png_name
from panoseg.data import PhotographConfig
from panoseg.data.coco import (
    CocoDataset,
    CocoRecord,
    CocoRecords,
    check_classes,
    find_splits,
    full_name,
)
from panoseg.data.places import Place, is_url, joined, read_file, read_part, size_of, store_of
from panoseg.errors import ConfigError, DatasetError, OutputError, PanopticFormatError, PanosegError
from panoseg.files import atomic, new_folder, note_written, remove
from panoseg.platforms import move
from panoseg.processes import over_images, usable_cores
from panoseg.progress import track
from panoseg.text_files import json_of

INDEX = "index.json"
VERSION = 1
BLOCK = 512  # bytes of a tar
IDS_ENDING, ABOUT_ENDING = "panoptic.png", "json"
_END_OF_TAR = bytes(2 * BLOCK)
_MOST_SHARDS = 100_000
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


@dataclass(frozen=True)
class _Job:
    """A shard to write."""

    name: str
    """Name of its file."""
    split: str
    """Name of the split."""
    records: range
    """Positions in the split of the records that go into the shard."""


@dataclass(frozen=True)
class WrittenShards:
    """What ``write_shards`` has written."""

    shards: int
    """Number of shards."""
    photographs: int
    """Number of photographs in them."""
    failures: tuple[PanosegError, ...]
    """Why a photograph was left out, one error each."""


def write_shards(data: Path, out: str, shards: int, processes: int | None = None) -> WrittenShards:
    """Write all splits of a dataset as shards.

    Each photograph is decoded with its annotation first; a damaged one is left out. A folder is
    filled when all shards are written; in a store, shards without an index are no dataset.

    Args:
        data: A folder in COCO's layout.
        out: A new or empty folder, or a URL.
        shards: Number of shards of the largest split; those of other splits are about as large.
        processes: Number of processes, by default one per core.

    Raises:
        ConfigError: The number of shards or processes is impossible.
        DatasetError: ``data`` is no such dataset, or a split has no photograph that can be read.
        OutputError: ``out`` cannot be written.
    """
    if not 1 <= shards <= _MOST_SHARDS:
        raise ConfigError(
            f"The number of shards must lie between 1 and {_MOST_SHARDS}, not be {shards};"
            " pass for example --shards 32."
        )
    datasets = _open(data)
    jobs = _plan({split: len(dataset) for split, dataset in datasets.items()}, shards)
    failures: list[PanosegError] = []
    splits: dict[str, list[Shard]] = {split: [] for split in datasets}
    with _output(out) as place:
        work = partial(_write_shard, place, datasets)
        processes = min(usable_cores(), len(jobs)) if processes is None else processes
        for job, result in zip(
            jobs,
            track(over_images(work, jobs, len(jobs), processes), "shards", len(jobs)),
            strict=True,
        ):
            if isinstance(result, PanosegError):
                raise result
            shard, wrong = result
            splits[job.split].append(shard)
            failures += wrong
        table = replace(_widest(datasets).table, name=Path(data).resolve().name)
        if not all(sum(map(len, written)) for written in splits.values()):
            raise failures[0]
        index = ShardIndex(
            place, table, {split: tuple(written) for split, written in splits.items()}
        )
        index_place = joined(place, INDEX)
        store, path = store_of(index_place)
        with _store_errors(index_place):
            content = json.dumps(index.to_json(category_rows(table)), allow_nan=False)
            store.pipe_file(path, content.encode())
    photographs = sum(len(shard) for written in splits.values() for shard in written)
    return WrittenShards(len(jobs), photographs, tuple(failures))


def _open(data: Path) -> dict[str, CocoDataset]:
    names = find_splits(data)
    if not names:
        raise DatasetError(
            f"{data} has no annotations/panoptic_NAME.json, so it is no dataset in COCO's layout;"
            " correct its path."
        )
    datasets = {name: CocoDataset(data, name, config=PhotographConfig()) for name in names}
    first = _widest(datasets)
    for dataset in datasets.values():
        check_classes(dataset.files.panoptic, dataset.table, first.table)
    return datasets


def _widest(datasets: Mapping[str, CocoDataset]) -> CocoDataset:
    """Return the split that lists the most classes; others may list fewer."""
    return max(datasets.values(), key=lambda dataset: len(dataset.table.classes))


def _plan(counts: Mapping[str, int], shards: int) -> list[_Job]:
    """Spread records over shards: ``shards`` for the largest split, others in proportion.

    >>> [(job.name, list(job.records)) for job in _plan({"train": 5, "val": 2}, 2)]
    [('train-00000.tar', [0, 1]), ('train-00001.tar', [2, 3, 4]), ('val-00000.tar', [0, 1])]
    """
    jobs = []
    largest = max(counts.values())
    for split, count in counts.items():
        number = min(max(1, round(shards * count / largest)), count)
        for shard in range(number):
            records = range(shard * count // number, (shard + 1) * count // number)
            jobs.append(_Job(f"{split}-{shard:05d}.tar", split, records))
    return jobs


@contextmanager
def _output(out: str) -> Iterator[str]:
    """Yield the place to write to, and fill ``out`` from it when the block ends well.

    A store is written to directly.
    """
    folder = out.removeprefix("file://")
    if is_url(folder):
        store, path = store_of(out)
        with _store_errors(out):
            if store.exists(store_of(joined(out, INDEX))[1]):
                raise OutputError(f"{out} holds shards already; choose another place.")
            with suppress(FileExistsError):
                # With parents, a bucket with a mistyped name would be made.
                store.mkdir(path, create_parents=False)
        yield out
    else:
        target = new_folder(folder)
        # Inside the target, so that what a killed command leaves is found by the next.
        with atomic(target / "unfinished") as temporary:
            temporary.mkdir()
            yield str(temporary)
            for written in sorted(temporary.iterdir(), key=lambda entry: entry.name == INDEX):
                size, place = written.stat().st_size, (target / written.name).absolute()
                move(written, place)
                note_written({place: size})
        remove(target / "unfinished")


def _write_shard(
    place: str, datasets: Mapping[str, CocoDataset], job: _Job
) -> tuple[Shard, list[PanosegError]]:
    dataset, failures = datasets[job.split], []
    columns: list[tuple[int, int, Any, str]] = []
    size, sha256, path = 0, hashlib.sha256(), joined(place, job.name)
    store, inside = store_of(path)
    with _store_errors(path), store.open(inside, "wb") as file:
        for index in job.records:
            try:
                record = dataset.record(index)
                # Decoded to find damage now, not in the middle of a training.
                record.photograph(dataset.table, dataset.config, None)
                record.detections(dataset.table)
            except PanosegError as error:
                failures.append(error)
                continue
            data = pack(index, record)
            file.write(data)
            sha256.update(data)
            size += len(data)
            columns.append((size, zlib.crc32(data), dataset.image_ids[index], record.file_name))
        file.write(_END_OF_TAR)
        sha256.update(_END_OF_TAR)
    ends, checksums, image_ids, names = zip(*columns, strict=True) if columns else ((), (), (), ())
    size += len(_END_OF_TAR)
    shard = Shard(job.name, size, sha256.hexdigest(), ends, checksums, image_ids, names)
    return shard, failures


def pack(index: int, record: CocoRecord) -> bytes:
    """Return a record as the members of a tar, without the end of an archive.

    The bytes are those of webdataset's TarWriter: no user or group, mode 0444, members in the order
    of their names.

    Args:
        index: Position in the split, which becomes the key.
        record: The record, with the bytes of its image.
    """
    ending = PurePosixPath(record.file_name).suffix.lower()
    instances = None if record.instances is None else [read_row(row) for row in record.instances]
    words = {
        "file_name": record.file_name,
        "annotation": read_row(record.annotation),
        "instances": instances,
    }
    parts = {
        ending[1:] if ending in IMAGE_SUFFIXES else "image": record.image,
        IDS_ENDING: record.ids_png,
        ABOUT_ENDING: json.dumps(words).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(parts):
            member = tarfile.TarInfo(f"{index:09d}.{name}")
            member.size, member.mode = len(parts[name]), 0o444
            # A float puts the time into a separate header, as in all shards written so far.
            member.mtime = 0.0
            archive.addfile(member, io.BytesIO(parts[name]))
        size = archive.offset
    return buffer.getvalue()[:size]


@contextmanager
def _store_errors(place: str) -> Iterator[None]:
    """Raise ``OutputError`` for any error of a store that cannot write."""
    try:
        yield
    except PanosegError:
        raise
    except Exception as error:  # every store has its own exceptions
        if isinstance(error, OSError) and not is_url(place):
            raise  # a full disk and the like, which ``files.atomic`` explains
        raise OutputError(
            f"{place} cannot be written: {error}; check the address and your permissions."
        ) from error
