"""Write a dataset in COCO's layout as shards: tar files in webdataset's form.

They go to a folder or to any store that fsspec knows; ``index.json`` is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from panoseg.coco.categories import category_rows
from panoseg.coco.json import read_row
from panoseg.coco.masks import IMAGE_SUFFIXES
from panoseg.data.coco import CocoDataset, CocoRecord, check_classes, find_splits
from panoseg.data.config import PhotographConfig
from panoseg.data.places import is_url, joined, store_of
from panoseg.data.shards import ABOUT_ENDING, BLOCK, IDS_ENDING, INDEX, Shard, ShardIndex
from panoseg.errors import ConfigError, DatasetError, OutputError, PanosegError
from panoseg.files import atomic, new_folder, note_written, remove
from panoseg.processes import over_images, usable_cores
from panoseg.progress import track

_MOST_SHARDS = 100_000
_END_OF_TAR = bytes(2 * BLOCK)


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
    return WrittenShards(
        len(jobs),
        sum(len(shard) for written in splits.values() for shard in written),
        tuple(failures),
    )


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
                written.rename(place)
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
