"""Shards hold what their folder holds, wherever they lie; each photograph is read once an epoch;
hostile ones are one line.
"""

from __future__ import annotations

import errno
import io
import json
import re
import tarfile
import threading
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from panoseg.cli import main
from panoseg.data import PhotographConfig, places
from panoseg.data.coco import CocoDataset, CocoRecord
from panoseg.data.layouts import find_layout
from panoseg.data.loading import make_loader
from panoseg.data.photographs import collate_photographs
from panoseg.data.places import is_url, read_part, resolved
from panoseg.data.shards import INDEX, CocoShards, ShardIndex, pack, write_shards
from panoseg.errors import ConfigError, DatasetError, OutputError
from panoseg.models.weights import load_weights
from panoseg.training import run as runs
from photograph_runs import PANOPTIC, simulate_photographs

SPLITS = {"train": 8, "val": 2}
CHANCE = PhotographConfig(flip=True, scale=(0.8, 1.25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulate_photographs(tmp_path_factory.mktemp("coco"), crowds=0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(folder, str(out), 3, processes=1)
    return out


@pytest.fixture
def copy(tmp_path, shards):
    """A copy of the shards, to damage."""
    (tmp_path / "copy").mkdir()
    for path in shards.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "copy"


class WithRanges(SimpleHTTPRequestHandler):
    """Serves a folder, parts of files too; fails as often as ``failures`` says."""

    failures = 0
    asked: Counter

    def do_GET(self):
        if WithRanges.failures:
            WithRanges.failures -= 1
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, wanted.groups())
        data = path.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(shards):
    """The shards' URL on a server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(WithRanges, directory=str(shards)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def same(one, two) -> bool:
    return (
        all(torch.equal(a, b) for a, b in zip(one.tensors(), two.tensors(), strict=True))
        and one.name == two.name
    )


def loader(dataset, **options):
    return make_loader(dataset, 2, collate=collate_photographs, shuffle=True, seed=5, **options)


def names(batches) -> list[str]:
    return [name for batch in batches for name in batch.names]


# What is written


@pytest.mark.parametrize("split", SPLITS)
def test_shards_hold_what_the_folder_holds(folder, shards, split):
    expected, found = CocoDataset(folder, split), CocoShards(shards, split)
    assert len(found) == len(expected) == SPLITS[split]
    assert found.image_ids == expected.image_ids
    assert found.file_names == expected.file_names
    assert found.table.classes == expected.table.classes
    for index in range(len(found)):
        assert same(found[index], expected[index])
        (true, crowds), (read, read_crowds) = expected.truth(index), found.truth(index)
        assert crowds == read_crowds
        np.testing.assert_array_equal(true.segment_HW, read.segment_HW)
        assert found.detections(index) == expected.detections(index)


def grouped(path: Path) -> list[dict[str, bytes]]:
    """The records of a tar as webdataset groups them: members in a row whose names agree up to the
    first dot.
    """
    records: list[dict[str, bytes]] = []
    with tarfile.open(path) as archive:
        for member in archive:
            key, ending = member.name.split(".", 1)
            if not records or records[-1]["__key__"] != key:
                records.append({"__key__": key})
            assert ending not in records[-1]
            records[-1][ending] = archive.extractfile(member).read()
    return records


def test_readers_of_webdatasets_form_read_them(folder, shards):
    samples = [sample for path in sorted(shards.glob("train-*.tar")) for sample in grouped(path)]
    expected = CocoDataset(folder, "train")
    assert len(samples) == 8
    for index, sample in enumerate(samples):
        record = expected.record(index)
        assert sample.keys() == {"__key__", "jpg", "json", "panoptic.png"}
        assert sample["jpg"] == record.image
        assert sample["panoptic.png"] == record.ids_png
        assert json.loads(sample["json"])["annotation"] == json.loads(record.annotation)


def test_the_bytes_of_a_record_stay():
    """The checksum is that of webdataset 1.0.2's TarWriter, which wrote shards before."""
    record = CocoRecord("", "a.jpg", b"12345" * 200, b'{"a": 1}', b"png" * 333, (b'{"q": 2}',))
    assert zlib.crc32(pack(7, record)) == 2741533418


def test_the_number_of_shards_is_that_of_the_largest_split(shards, folder, tmp_path):
    assert sorted(path.name for path in shards.iterdir()) == [
        INDEX, "train-00000.tar", "train-00001.tar", "train-00002.tar", "val-00000.tar",
    ]  # fmt: skip
    more = write_shards(folder, str(tmp_path / "more"), 100, processes=1)
    assert (more.shards, more.photographs) == (10, 10)  # none is empty


def test_several_processes_write_the_same_bytes(folder, shards, tmp_path):
    write_shards(folder, str(tmp_path / "two"), 3, processes=2)
    assert all(
        path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        for path in shards.iterdir()
    )


def test_checksums_are_those_of_the_files(shards):
    import hashlib

    for split in ShardIndex.read(shards).splits.values():
        for shard in split:
            assert hashlib.sha256((shards / shard.name).read_bytes()).hexdigest() == shard.sha256


def test_a_wrong_photograph_costs_itself(folder, tmp_path, capsys):
    broken = simulate_photographs(tmp_path / "coco", 5)
    name = CocoDataset(broken, "train").file_names[1]
    (broken / "train" / name).write_bytes((broken / "train" / name).read_bytes()[:200])
    assert (
        main(
            [
                "coco",
                "shards",
                "--data",
                str(broken),
                "--out",
                str(tmp_path / "out"),
                "--shards",
                "2",
                "--processes",
                "1",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert name in said
    assert "4 photographs in 3 shards" in said
    assert name not in CocoShards(tmp_path / "out", "train").file_names
    assert len(CocoShards(tmp_path / "out", "train")) == 3


def test_a_failure_leaves_no_shards(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("panoseg.data.shards.pack", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_shards(folder, str(tmp_path / "out"), 2, processes=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_command_left_is_removed(folder, tmp_path):
    left = tmp_path / "out" / ".unfinished.0a1b2c3d.part"
    left.mkdir(parents=True)
    (left / "train-00000.tar").write_bytes(b"half")
    write_shards(folder, str(tmp_path / "out"), 1, processes=1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        INDEX,
        "train-00000.tar",
        "val-00000.tar",
    ]


def test_places_in_use_are_refused(folder, shards):
    with pytest.raises(OutputError, match="new or empty"):
        write_shards(folder, str(shards), 2, processes=1)
    with pytest.raises(OutputError, match="new or empty"):
        write_shards(folder, shards.as_uri(), 2, processes=1)
    with pytest.raises(ConfigError, match=r"number of shards must .* not be 0"):
        write_shards(folder, str(shards), 0)


# Where they lie


def test_a_store_is_written_and_read(folder):
    place = "memory://bucket/coco"
    write_shards(folder, place, 2, processes=1)
    expected, found = CocoDataset(folder, "train"), CocoShards(place, "train")
    assert all(same(found[index], expected[index]) for index in range(8))
    assert find_layout(place).rotation(1) == (("train",), ("val",), ("val",))
    with pytest.raises(OutputError, match="holds shards"):
        write_shards(folder, place, 2, processes=1)
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_server_is_read_by_several_processes(folder, served):
    expected = list(loader(CocoDataset(folder, "train", config=CHANCE)))
    found = list(loader(CocoShards(served, "train", config=CHANCE), workers=2))
    for one, two in zip(expected, found, strict=True):
        assert all(same(a, b) for a, b in zip(one.photographs, two.photographs, strict=True))


def test_a_server_that_fails_for_a_moment_is_asked_again(served, monkeypatch):
    monkeypatch.setattr(places, "RETRY_WAITS_S", (0.0, 0.0))
    dataset = CocoShards(served, "train")
    monkeypatch.setattr(WithRanges, "failures", 2)
    assert dataset[0].name == CocoShards(served, "train").file_names[0].removesuffix(".jpg")
    monkeypatch.setattr(WithRanges, "failures", 3)
    with pytest.raises(DatasetError, match="does not answer"):
        dataset.record(0)


def test_kept_copies_are_a_prefix_of_the_url(served, tmp_path, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "filecache", {"cache_storage": str(tmp_path / "kept")})
    dataset = CocoShards(f"filecache::{served}", "train")
    first = dataset[0]
    assert any((tmp_path / "kept").iterdir())
    monkeypatch.setattr(WithRanges, "failures", 1_000_000)
    assert same(dataset[0], first)
    monkeypatch.setattr(WithRanges, "failures", 0)


def test_places():
    assert is_url("gs://bucket/coco")
    assert not is_url(Path("gs://bucket"))
    assert resolved("s3://bucket/coco/") == "s3://bucket/coco"
    assert resolved("coco") == str(Path("coco").resolve())


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nonsense://bucket/coco", "Install the package of this kind of store"),
        ("s3://bucket/coco", r"pip install 'panoseg\[s3\]'"),
        ("memory://nothing/there", "no such file"),
    ],
)
def test_a_place_that_cannot_be_opened_is_one_line(place, said, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DatasetError, match=said) as caught:
        find_layout(place)
    assert "\n" not in str(caught.value)


# Order


def test_every_photograph_is_read_once_over_processes_and_workers(shards):
    dataset = CocoShards(shards, "train")
    for epoch in range(2):
        read = [
            names(loader(dataset, workers=2, rank=rank, ranks=2, epoch=epoch)) for rank in range(2)
        ]
        assert Counter(read[0] + read[1]) == Counter(
            name.removesuffix(".jpg") for name in dataset.file_names
        )


def test_the_order_follows_from_seed_and_epoch_and_goes_on_anywhere(shards):
    dataset = CocoShards(shards, "train", config=CHANCE)
    whole = list(loader(dataset, epoch=1))
    assert names(whole) != names(loader(dataset, epoch=2))
    assert names(whole) == names(loader(dataset, epoch=1, workers=2))
    rest = list(loader(dataset, epoch=1, skip=2))
    assert len(rest) == len(whole) - 2
    for one, two in zip(whole[2:], rest, strict=True):
        assert all(same(a, b) for a, b in zip(one.photographs, two.photographs, strict=True))


def test_training_on_shards_is_training_on_the_folder(folder, shards, tmp_path):
    config = replace(PANOPTIC, epochs=1, max_validation_patches=1)
    runs.start("tiny", config, folder, 1, tmp_path / "folder")
    runs.start("tiny", config, shards.as_uri(), 1, tmp_path / "shards")
    one, two = (load_weights(tmp_path / name / "weights").state for name in ("folder", "shards"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert runs.read_run(tmp_path / "shards").data_folder == shards.as_uri()
    runs.resume_run(tmp_path / "shards")  # finds them again
    assert (
        main(
            [
                "test",
                str(tmp_path / "shards"),
                "--data",
                shards.as_uri(),
                "--out",
                str(tmp_path / "t"),
                "--workers",
                "0",
            ]
        )
        == 0
    )


# What others may have made of them


def change_index(place: Path, edit) -> None:
    content = json.loads((place / INDEX).read_text())
    edit(content, content["splits"]["train"][0])
    (place / INDEX).write_text(json.dumps(content))


def replace_first(place: Path, data: bytes) -> None:
    """Put bytes in place of the first record of a copy, with an index that believes them."""
    data += bytes(-len(data) % 512)
    path = place / "train-00000.tar"
    first = CocoShards(place, "train").shards[0].ends[0]
    rest = path.read_bytes()[first:]
    path.write_bytes(data + rest)

    def edit(_, shard):
        moved = len(data) - first
        shard["ends"] = [end + moved for end in shard["ends"]]
        shard["size"] += moved
        shard["checksums"][0] = zlib.crc32(data)

    change_index(place, edit)


def archive(*members: tuple[tarfile.TarInfo, bytes], end: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
        size = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:size]


def member(
    name: str,
    content: bytes = b"x",
    kind: bytes = tarfile.REGTYPE,
    size: int | None = None,
    link: str = "",
):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content) if size is None else size, link
    return info, content


def sparse() -> bytes:
    info, content = member("000000000.jpg", bytes(512))
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**40),
    }
    return archive((info, content))


HOSTILE = {
    "climbing": archive(member("../../evil.jpg")),
    "absolute": archive(member("/etc/evil.jpg")),
    "link": archive(member("000000000.jpg", b"", tarfile.SYMTYPE, link="/etc/passwd")),
    "hard link": archive(member("000000000.jpg", b"", tarfile.LNKTYPE, link="000000000.json")),
    "device": archive(member("000000000.jpg", b"", tarfile.CHRTYPE)),
    "sparse": sparse(),
    "cut": archive(member("000000000.jpg", bytes(4096)))[:1024],
    "two keys": archive(member("000000000.jpg"), member("000000001.json")),
    "twice": archive(member("000000000.jpg"), member("000000000.jpg")),
    "no annotation": archive(member("000000000.jpg")),
    "no tar": b"hello" * 300,
    "nothing": bytes(1024),
    "squeezed": zlib.compress(bytes(10**6)) + b"x" * 600,
    "no JSON": archive(
        member("000000000.jpg"), member("000000000.json", b"{"), member("000000000.panoptic.png")
    ),
    "another JSON": archive(
        member("000000000.jpg"), member("000000000.json", b"[]"), member("000000000.panoptic.png")
    ),
    "another name": archive(
        member("000000000.jpg"),
        member("000000000.json", b'{"file_name": "../x", "annotation": {}, "instances": null}'),
        member("000000000.panoptic.png"),
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_record_is_one_line_and_unpacks_nothing(copy, kind):
    replace_first(copy, HOSTILE[kind])
    before = sorted(copy.parent.rglob("*"))
    with pytest.raises(DatasetError, match=r"train-00000\.tar") as caught:
        CocoShards(copy, "train")[0]
    assert "\n" not in str(caught.value)
    assert sorted(copy.parent.rglob("*")) == before
    assert CocoShards(copy, "train")[1].name  # the others are what they were


def test_a_shard_that_was_cut_is_named_at_once(copy):
    path = copy / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(
        DatasetError, match=r"train-00001\.tar has \d+ bytes, but index.json says \d+"
    ):
        CocoShards(copy, "train")
    path.unlink()
    with pytest.raises(DatasetError, match=r"train-00001\.tar cannot be read \(no such file\)"):
        CocoShards(copy, "train")


def test_a_record_that_has_changed_is_named(copy):
    path = copy / "train-00000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    dataset = CocoShards(copy, "train")
    with pytest.raises(DatasetError, match=r"Record 0 .* has changed"):
        dataset[0]
    assert dataset[1].name


def test_fewer_bytes_than_asked_for_are_no_record(copy):
    with pytest.raises(DatasetError, match="0 bytes instead of 512"):
        read_part(str(copy / "train-00000.tar"), 10**7, 10**7 + 512)


def put(key, value):
    def edit(_, shard):
        shard[key] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("name", "../../other.tar"), "shard name"),
        (put("name", "a/b.tar"), "shard name"),
        (put("name", 7), "shard name"),
        (put("ends", [2**50] * 3), "ends at|beyond|columns"),
        (put("ends", []), "columns of"),
        (put("size", 3), "records beyond them"),
        (put("file_names", ["../../evil.jpg"] * 2), "file name"),
        (put("checksums", ["x"] * 2), "checksums"),
        (put("image_ids", [[]] * 2), "ids of images"),
        (lambda index, _: index.update(panoseg_shards=99), "version 99"),
        (lambda index, _: index.update(categories=[]), "no categories"),
        (lambda index, _: index.update(splits={}), "a split without a photograph"),
        (lambda index, _: index.update(splits=[]), "splits|attribute"),
        (lambda index, _: index.pop("splits"), "splits"),
    ],
)
def test_a_hostile_index_is_one_line(copy, edit, said):
    change_index(copy, edit)
    with pytest.raises(DatasetError, match=said) as caught:
        find_layout(copy)
    assert INDEX in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\x00\xff", "[" * 100_000])
def test_an_index_that_is_none_is_one_line(copy, text):
    (copy / INDEX).write_text(text)
    with pytest.raises(DatasetError, match=INDEX) as caught:
        find_layout(copy)
    assert "\n" not in str(caught.value)
