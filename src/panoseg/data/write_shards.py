"""A dataset in COCO's layout becomes shards: tars of webdataset's form, in a folder or in any
store; ``index.json`` is last.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from panoseg.coco.categories import category_rows
from panoseg.coco.json import read_row
from panoseg.coco.parallel import over_images
from panoseg.coco.png import IMAGE_SUFFIXES
from panoseg.data.coco import CocoDataset, CocoRecord, check_classes, find_splits
from panoseg.data.config import PhotographConfig
from panoseg.data.places import is_url, joined, store_of
from panoseg.data.shards import ABOUT_ENDING, BLOCK, IDS_ENDING, INDEX, Shard, ShardIndex
from panoseg.errors import ConfigError, DatasetError, OutputError, PanosegError
from panoseg.files import atomic, new_folder
from panoseg.processes import usable_cores
from panoseg.progress import track

_MOST_SHARDS = 100_000
_END = bytes(2 * BLOCK)
"""What ends a tar."""


@dataclass(frozen=True)
class _Job:
    """A shard to write: its name, and which records of which split go into it."""

    name: str
    split: str
    records: range


@dataclass(frozen=True)
class WrittenShards:
    """What was written: shards and photographs, and a failure for each photograph that is left
    out.
    """

    shards: int
    photographs: int
    failures: tuple[PanosegError, ...]


def write_shards(data: Path, out: str, shards: int, processes: int | None = None) -> WrittenShards:
    """Write all splits of a dataset as shards.

    shards: of the largest split; the others have shards about as large. Each photograph is decoded
    with its annotation first: one that is wrong costs itself. processes: by default one a core. A
    folder is filled when all is done; in a store, shards without an index are no dataset. Raises
    ``PanosegError``.
    """
    if not 1 <= shards <= _MOST_SHARDS:
        raise ConfigError(f"shards {shards}", f"1 .. {_MOST_SHARDS}", "pass e.g. --shards 32")
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
        table = replace(next(iter(datasets.values())).table, name=Path(data).resolve().name)
        if not all(sum(map(len, written)) for written in splits.values()):
            raise failures[0]
        index = ShardIndex(
            place, table, {split: tuple(written) for split, written in splits.items()}
        )
        _write(
            joined(place, INDEX),
            json.dumps(index.to_json(category_rows(table)), allow_nan=False).encode(),
        )
    return WrittenShards(
        len(jobs),
        sum(len(shard) for written in splits.values() for shard in written),
        tuple(failures),
    )


def _open(data: Path) -> dict[str, CocoDataset]:
    names = find_splits(data)
    if not names:
        raise DatasetError(
            f"{data} has no annotations/panoptic_NAME.json",
            "a dataset in COCO's layout",
            "correct its path",
        )
    datasets = {name: CocoDataset(data, name, config=PhotographConfig()) for name in names}
    first = datasets[names[0]]
    for dataset in datasets.values():
        check_classes(dataset.files.panoptic, dataset.table, first.table)
    return datasets


def _plan(counts: Mapping[str, int], shards: int) -> list[_Job]:
    """Which records go where: as many shards for the largest split, in proportion for the others,
    each record once.

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
    """The place to write to: a folder whose files appear in ``out`` when the block ends well, or
    the store itself.
    """
    folder = out.removeprefix("file://")
    if is_url(folder):
        store, path = store_of(out)
        with _told(out):
            if store.exists(store_of(joined(out, INDEX))[1]):
                raise OutputError(
                    f"{out} holds shards", "a new place", "choose another, or remove them"
                )
            with suppress(FileExistsError):
                store.mkdir(
                    path, create_parents=False
                )  # or a bucket whose name is mistyped would be made
        yield out
    else:
        target = new_folder(folder)
        with atomic(
            target / "unfinished"
        ) as temporary:  # inside, so that what a killed command leaves is found by the next
            temporary.mkdir()
            yield str(temporary)
            for written in sorted(temporary.iterdir(), key=lambda entry: entry.name == INDEX):
                written.rename(target / written.name)
        (target / "unfinished").rmdir()


def _write_shard(
    place: str, datasets: Mapping[str, CocoDataset], job: _Job
) -> tuple[Shard, list[PanosegError]]:
    dataset, failures = datasets[job.split], []
    columns: list[tuple[int, int, Any, str]] = []
    size, sha256, path = 0, hashlib.sha256(), joined(place, job.name)
    store, inside = store_of(path)
    with _told(path), store.open(inside, "wb") as file:
        for index in job.records:
            try:
                record = dataset.record(index)
                record.photograph(
                    dataset.table, dataset.config, None
                )  # rather wrong now than in the middle of a training
                record.detections(dataset.table)
            except PanosegError as error:
                failures.append(error)
                continue
            data = pack(index, record)
            file.write(data)
            sha256.update(data)
            size += len(data)
            columns.append((size, zlib.crc32(data), dataset.image_ids[index], record.file_name))
        file.write(_END)
        sha256.update(_END)
    ends, checksums, image_ids, names = zip(*columns, strict=True) if columns else ((), (), (), ())
    return Shard(
        job.name, size + len(_END), sha256.hexdigest(), ends, checksums, image_ids, names
    ), failures


def pack(index: int, record: CocoRecord) -> bytes:
    """A record as a piece of a tar, without the end of one. index: its key."""
    from webdataset import TarWriter

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
    writer = TarWriter(buffer, encoder=False, mtime=0.0, user="", group="", compress=False)
    writer.write({"__key__": f"{index:09d}", **parts})
    size = writer.tarstream.offset
    writer.close()
    return buffer.getvalue()[:size]


def _write(place: str, data: bytes) -> None:
    store, path = store_of(place)
    with _told(place):
        store.pipe_file(path, data)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """What stores say when they cannot write becomes a failure of ours."""
    try:
        yield
    except PanosegError:
        raise
    except OSError as error:
        if not is_url(place):
            raise
        raise OutputError(
            f"{place}: {error}", "a place that can be written", "check its address and your rights"
        ) from error
    except Exception as error:  # every store has exceptions of its own
        raise OutputError(
            f"{place}: {error}", "a place that can be written", "check its address and your rights"
        ) from error
