"""Weights by name: listed, fetched once from servers that may misbehave, used, and published."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pystac
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import panoseg
from cubes import make_cube
from hub_checkpoints import save_checkpoint
from mapping_weights import tiny_weights
from panoseg.cli import main
from panoseg.errors import ConfigError, OutputError, WeightsError
from panoseg.models import fetching, weight_files, weights_list
from panoseg.models.weights import save_weights
from panoseg.models.weights_by_name import locate, origin_of, weights_cache
from panoseg.models.weights_list import find_named
from tiny_runs import tiny_options
from weights_server import COMMIT, Server, serving

OPTIONS = {
    "backbone": "utae",
    "encoder_widths": "[16,16]",
    "decoder_widths": "[16,16]",
    "out_conv": "[8, 20]",
    "n_head": 4,
    "d_model": 16,
    "shape_size": 8,
    "mask_conv": False,
    "min_confidence": 0.0,
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("PANOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "WAITS_S", (0.01, 0.01))
    with serving() as running:
        monkeypatch.setattr(fetching, "ZENODO", f"{running.url}/api")
        monkeypatch.setattr(fetching, "HUB", running.url)
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, bytes]:
    """Weights in our format, as files."""
    folder = tmp_path_factory.mktemp("ours") / "weights"
    save_weights(folder, tiny_weights())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def zipped(files: dict[str, bytes], folder: str = "inner/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(folder + name, data)
    return out.getvalue()


def authors_zip(folds=(1, 2)) -> bytes:
    """A folder of the published program, as its authors zip it."""
    out = io.BytesIO()
    torch.save({"state_dict": tiny_weights().state}, out)
    files = {f"Fold_{fold}/model.pth.tar": out.getvalue() for fold in folds}
    return zipped({"conf.json": json.dumps(OPTIONS).encode(), **files}, "UTAE_PAPs/")


def refusal(call, *words: str) -> str:
    with pytest.raises((WeightsError, ConfigError, OutputError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


def test_every_entry_of_the_list_is_whole(capsys):
    entries = weights_list.listed_weights()
    assert weights_list.DEFAULT_FOR_PHOTOGRAPHS in entries
    for entry in entries.values():
        assert entry.trained_on
        assert entry.citation
        assert entry.title
        assert bool(entry.scores) == bool(entry.score_source), entry.name
        assert find_named(entry.name).entry is entry
        assert find_named(entry.name).source == entry.source
    statistics = weights_list.statistics_of_folds("PASTIS")
    assert {len(values["mean"]) for values in statistics.values()} == {10}
    assert len(statistics) == 5
    assert main(["weights", "list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in entries)
    assert "PQ 43.8" in table
    assert "96 MB" in table
    assert main(["weights", "show", "pastis-utae-paps"]) == 0
    assert "zenodo:5172301" in capsys.readouterr().out


def test_statistics_of_pastis_are_those_of_the_dataset(real_data):
    path = real_data / "pastis-annotations" / "NORM_S2_patch.json"
    assert weights_list.statistics_of_folds("PASTIS") == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("pastis-utae", "pastis-utae"),
        ("zenodo:5172293", "pastis-utae"),
        ("zenodo:17", "zenodo-17"),
        ("hf:tue-mps/coco_panoptic_eomt_small_640_2x", "coco-eomt-small"),
        ("hf:me/fields@v1/x", "hf--me--fields@v1-x"),
        (f"https://host/a/b.zip?download=1#sha256={'a' * 64}", f"https--b--{'a' * 12}"),
        ("RUN", None),
        ("some/folder", None),
    ],
)
def test_names_are_told_from_folders(text, folder):
    named = find_named(text)
    assert (named and named.folder_name) == folder


@pytest.mark.parametrize(
    "text",
    [
        "hf:me",
        "hf:me/../you",
        "hf:a--b/c",
        "zenodo:x",
        "zenodo:",
        "https://host/a.zip",
        "http://host/a.zip",
    ],
)
def test_names_that_are_none_are_refused(text):
    refusal(lambda: find_named(text))


def test_a_wrong_name_gets_the_nearest_and_a_folder_stays_one(tmp_path, monkeypatch):
    refusal(
        lambda: locate("coco-eomt-smal"), "Did you mean coco-eomt-small", "panoseg weights list"
    )
    refusal(lambda: locate("imagenet-resnet50"), "--model.weights imagenet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pastis-utae").mkdir()
    assert locate("pastis-utae") == Path("pastis-utae")
    assert locate(Path("../x/y")) == Path("../x/y")


def test_published_weights_are_fetched_from_zenodo_once_and_make_a_map(server, tmp_path, capsys):
    server.records["5172301"] = {"UTAE_PAPs.zip": authors_zip()}
    make_cube(16).to_netcdf(tmp_path / "season.nc")
    command = f"map {tmp_path}/season.nc --weights pastis-utae-paps --tile 16 --overlap 4 --out"
    assert main([*command.split(), str(tmp_path / "map")]) == 0
    said = capsys.readouterr().out
    assert "fold 1 of 2" in said
    assert "Theia" in said
    assert "Sen2Cor" in said
    made = json.loads((tmp_path / "map" / "map.json").read_text())
    source = made["weights_source"]
    assert source["licence"] == "cc-by-4.0"
    assert source["source"] == "zenodo:5172301"
    [file] = source["files"]
    assert file["checksum"].startswith("md5:")
    assert file["url"].startswith(server.url)
    mean = weights_list.statistics_of_folds("PASTIS")
    expected = sum(mean[f"Fold_{fold}"]["mean"][0] for fold in (1, 2, 3)) / 3
    assert made["card"]["normalisation"]["mean"][0] == pytest.approx(expected, rel=1e-6)
    asked = len(server.requests)
    assert panoseg.load("pastis-utae-paps", fold=2).normalisation.mean[0] != pytest.approx(expected)
    assert len(server.requests) == asked
    assert main([*command.split(), str(tmp_path / "third"), "--fold", "4"]) == 2
    assert main(["weights", "show", "pastis-utae-paps"]) == 0
    assert file["checksum"] in capsys.readouterr().out


def test_published_weights_are_scored_and_trained_from_by_name(server, data, tmp_path, capsys):
    server.records["5172301"] = {"UTAE_PAPs.zip": authors_zip((1,))}
    command = f"test --weights zenodo:5172301 --data {data} --fold 1 --workers 0 --pictures 0"
    assert main([*command.split(), "--out", str(tmp_path / "scores")]) == 0
    assert (tmp_path / "scores" / "metrics.json").exists()
    command = f"train pastis-utae-paps --data {data} --start-from pastis-utae-pap --out"
    assert main([*command.split(), str(tmp_path / "run"), *tiny_options("pastis-utae-paps")]) == 2
    assert "Did you mean pastis-utae" in capsys.readouterr().err


def test_a_repository_of_the_hub_is_fetched_at_a_commit(server, ours):
    server.models["me/fields"] = {
        **ours,
        "README.md": b"page",
        "pytorch_model.bin": b"not fetched",
        "onnx/model.onnx": b"neither",
    }
    folder = locate("hf:me/fields@v1")
    assert folder == weights_cache() / "hf--me--fields@v1"
    origin = origin_of(folder)
    assert origin["revision"] == COMMIT
    assert origin["licence"] == "mit"
    checksums = {file["name"]: file["checksum"] for file in origin["files"]}
    assert set(checksums) == {"card.json", "model.safetensors", "README.md"}
    assert checksums["model.safetensors"].startswith("sha256:")
    assert checksums["card.json"].startswith("git:")
    assert panoseg.load("hf:me/fields@v1").network.config.name == "paps"
    server.models["me/fields"]["card.json"] += b" "
    refusal(lambda: locate("hf:me/nothing"), "nothing at hf:me/nothing", "404")
    server.models["me/empty"] = {"README.md": b"page"}
    refusal(lambda: locate("hf:me/empty"), "no weights that can be read")


def test_a_pickle_of_the_hub_becomes_safetensors_and_code_in_one_is_not_run(server, tmp_path):
    state, out = {"a": torch.arange(3.0), "b": torch.ones(2, 2).t()}, io.BytesIO()
    state["tied"] = state["a"]
    torch.save(state, out)
    server.models["me/old"] = {"config.json": b"{}", "pytorch_model.bin": out.getvalue()}
    folder = locate("hf:me/old")
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "source.json",
    }
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    server.models["me/evil"] = {
        "config.json": b"{}",
        "pytorch_model.bin": pickle.dumps({"a": Hostile()}),
    }
    refusal(lambda: locate("hf:me/evil"), "damaged or holds more than numbers")
    assert not (tmp_path / "ran").exists()
    assert not (weights_cache() / "hf--me--evil").exists()


def test_a_published_pickle_with_code_is_refused_when_it_is_used(server, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    code = pickle.dumps({"state_dict": {"in_conv": Hostile()}})
    files = {"conf.json": json.dumps(OPTIONS).encode(), "Fold_1/model.pth.tar": code}
    server.records["5172301"] = {"w.zip": zipped(files)}
    refusal(lambda: panoseg.load("pastis-utae-paps"), "damaged or holds more than numbers")
    assert not (tmp_path / "ran").exists()


def test_an_address_is_fetched_with_its_checksum(server, ours, capsys):
    data = zipped(ours)
    server.files["/files/fields.zip"] = data
    digest = hashlib.sha256(data).hexdigest()
    url = f"{server.url}/files/fields.zip"
    folder = locate(f"{url}#sha256={digest}")
    assert folder.name == f"https--fields--{digest[:12]}"
    assert origin_of(folder)["files"][0]["checksum"] == f"sha256:{digest}"
    assert locate(Path(f"{url}#sha256={digest}")) == folder  # a path has lost a slash
    assert main(["weights", "fetch", url, "--sha256", digest]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    wrong = "0" * 64
    refusal(
        lambda: locate(f"{url}#sha256={wrong}"), "damaged on the way, or is another file", digest
    )
    assert not list(weights_cache().glob(f"*{wrong[:12]}/*"))
    assert main(["weights", "fetch", "pastis-utae", "--sha256", digest]) == 2
    assert "https address" in capsys.readouterr().err


def test_a_cut_is_continued_and_a_busy_server_asked_again(server, ours):
    data = zipped(ours)
    server.records["7"] = {"w.zip": data}
    server.statuses = [429, 503]
    server.cuts = [70_000, 70_000, 0]  # more often than is tried without any progress
    assert locate("zenodo:7").is_dir()
    ranges = [line.rpartition("=")[2] for line in server.sent()]
    assert [ranges[1], ranges[2], ranges[3]] == ["65536-", "131072-", "131072-"]
    server.records["8"] = {"w.zip": data}
    server.statuses = [503] * 9
    refusal(lambda: locate("zenodo:8"), "zenodo:8 is not on this machine", "503")
    server.statuses, server.cuts = [], [0] * 3
    refusal(lambda: locate("zenodo:8"), "127.0.0.1 was cut", "https://zenodo.org/records/8")


def test_what_another_process_left_is_continued_if_it_is_of_the_same_file(server, ours):
    data = zipped(ours)
    for number, left in (("7", data[:80_000]), ("8", b"x" * 100), ("9", data + b"more")):
        server.records[number] = {"w.zip": data}
        part = weights_cache() / f".zenodo-{number}.part" / "files"
        part.mkdir(parents=True)
        (part / "w.zip.part").write_bytes(left)
        assert locate(f"zenodo:{number}").is_dir()
        assert not part.exists()
    ranges = [line.rpartition(" ")[2] for line in server.sent()]
    assert [one for one in ranges if one.startswith("bytes=")] == ["bytes=80000-", "bytes=100-"]


def test_damage_redirects_and_answers_that_are_none(server, ours):
    server.records["7"] = {"w.zip": zipped(ours)}
    server.damage = True
    refusal(lambda: locate("zenodo:7"), "damaged on the way", "md5")
    server.damage = False
    server.redirects["/api/records/7/files/w.zip/content"] = f"{server.url}/files/w.zip"
    server.files["/files/w.zip"] = server.records["7"]["w.zip"]
    assert locate("zenodo:7").is_dir()
    server.records["8"] = dict(server.records["7"])
    server.redirects["/api/records/8/files/w.zip/content"] = "http://example.org/w.zip"
    refusal(lambda: locate("zenodo:8"), "is redirected to http://example.org/w.zip")
    refusal(lambda: locate("zenodo:9"), "nothing at record 9 of Zenodo", "404")
    server.records["10"] = {"../w.zip": b"x"}
    refusal(lambda: locate("zenodo:10"), "whose name is not allowed")
    server.records["11"] = {"notes.txt": b"x"}
    refusal(lambda: locate("zenodo:11"), "no weights that can be read", "notes.txt")


def test_offline_is_one_line_that_names_the_files_and_the_folder(
    server, monkeypatch, tmp_path, ours
):
    monkeypatch.setattr(fetching, "ZENODO", "http://127.0.0.1:9/api")
    monkeypatch.setattr(fetching, "HUB", "http://127.0.0.1:9")
    folder = tmp_path / "cache" / "weights" / "pastis-utae-paps"
    refusal(lambda: locate("pastis-utae-paps"), "https://zenodo.org/records/5172301", str(folder))
    refusal(lambda: locate("hf:me/fields"), "preprocessor_config.json and model.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refusal(lambda: locate("hf:me/fields"), "HF_HUB_OFFLINE is set", "hf--me--fields")
    # What a person puts there is taken: an archive, or the files.
    folder.mkdir(parents=True)
    (folder / "UTAE_PAPs.zip").write_bytes(authors_zip())
    found = locate("pastis-utae-paps")
    assert (found / "conf.json").exists()
    assert found.is_relative_to(folder)
    assert origin_of(found)["put_there_by_hand"]
    assert (found / "NORM_S2_patch.json").exists()
    assert locate("pastis-utae-paps") == found
    by_hand = tmp_path / "cache" / "weights" / "hf--me--fields"
    by_hand.mkdir()
    for name, data in ours.items():
        (by_hand / name).write_bytes(data)
    assert locate("hf:me/fields") == by_hand
    assert {file["name"] for file in origin_of(by_hand)["files"]} == set(ours)


def test_what_other_programs_have_of_the_hub_is_taken_without_the_internet(
    server, tmp_path, ours, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "hub" / "models--me--fields"
    for name in ("blobs", f"snapshots/{COMMIT}", "refs"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name, data in ours.items():
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (repository / "snapshots" / COMMIT / name).symlink_to(blob)
    blob = repository / "blobs" / hashlib.sha256(ours["model.safetensors"]).hexdigest()
    blob.write_bytes(b"damaged")
    refusal(lambda: locate("hf:me/fields"), "HF_HUB_OFFLINE is set")
    blob.write_bytes(ours["model.safetensors"])
    origin = origin_of(locate("hf:me/fields"))
    assert origin["revision"] == COMMIT
    assert {file["name"] for file in origin["files"]} == set(ours)
    assert not server.requests


def test_the_cache_is_where_the_user_says(server, tmp_path, ours, monkeypatch, capsys):
    server.models["me/fields"] = ours
    assert main(["weights", "fetch", "hf:me/fields", "--cache", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "other" / "weights" / "hf--me--fields")
    assert not (tmp_path / "cache").exists()
    assert main(["weights", "show", "hf:me/fields", "--cache", str(tmp_path / "other")]) == 0
    assert "sha256:" in capsys.readouterr().out
    by_hand = tmp_path / "other" / "weights" / "coco-eomt-base"
    by_hand.mkdir()
    (by_hand / "config.json").write_text("{}")
    assert main(["weights", "list", "--json", "--cache", str(tmp_path / "other")]) == 0
    found = {entry["name"]: entry["folder"] for entry in json.loads(capsys.readouterr().out)}
    assert found["coco-eomt-base"] == str(by_hand)
    assert found["coco-eomt-large"] is None
    monkeypatch.delenv("PANOSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert weights_cache() == tmp_path / "xdg" / "panoseg" / "weights"


@cache
def hostile_archives() -> dict[str, tuple[str, bytes, str]]:
    """Name, file name, content, and what is said."""

    def tarred(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for member in members:
                archive.addfile(member, io.BytesIO(data[: member.size]))
        return out.getvalue()

    def member(
        name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0
    ) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, size
        return info

    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as archive:
        info = zipfile.ZipInfo("card.json")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", bytes(80 * 1024**2))
    return {
        "climbing": ("w.zip", zipped({"x": b""}, "../../"), "a path out of its folder"),
        "absolute": ("w.tar.gz", tarred(member("/x")), "a path out of its folder"),
        "windows": ("w.zip", zipped({"x": b""}, "C:\\a\\"), "a path out of its folder"),
        "link": ("w.zip", linked.getvalue(), "a link or a device"),
        "tar-link": (
            "w.tar.gz",
            tarred(member("a", tarfile.SYMTYPE, "/etc")),
            "a link or a device",
        ),
        "hard-link": (
            "w.tgz",
            tarred(member("a", tarfile.LNKTYPE, "/etc/passwd")),
            "a link or a device",
        ),
        "device": ("w.tar.gz", tarred(member("a", tarfile.CHRTYPE)), "a link or a device"),
        "bomb": ("w.zip", bomb.getvalue(), "far more than its size suggests"),
        "cut": ("w.zip", zipped({"card.json": b"x" * 999})[:-40], "cannot be unpacked"),
        "no-tar": ("w.tar.gz", b"nothing", "cannot be unpacked"),
        "twice": ("w.tar.gz", tarred(member("a"), member("a")), "twice"),
    }


@pytest.mark.parametrize("kind", hostile_archives())
def test_hostile_archives_write_nothing_outside(server, tmp_path, kind):
    name, data, said = hostile_archives()[kind]
    server.records["7"] = {name: data}
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    refusal(lambda: locate("zenodo:7"), said)
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not (weights_cache() / "zenodo-7").exists()


def test_many_small_files_are_refused(server, monkeypatch):
    monkeypatch.setattr(weight_files, "MOST_ENTRIES", 3)
    server.records["7"] = {"w.zip": zipped({f"f{number}": b"" for number in range(4)})}
    refusal(lambda: locate("zenodo:7"), "or 3 files")


def test_a_disk_that_is_too_small_is_told_before_and_one_that_fills_up_after(
    server, ours, monkeypatch
):
    server.models["me/fields"] = ours

    def small(path):
        return SimpleNamespace(free=10)

    with monkeypatch.context() as patched:
        patched.setattr("panoseg.models.weights_by_name.shutil.disk_usage", small)
        refusal(lambda: locate("hf:me/fields"), "are needed", "--cache")
    assert not server.sent()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refusal(lambda: locate("hf:me/fields"), "Cannot write", "larger than may be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert locate("hf:me/fields").is_dir()
    assert "bytes=" in server.sent()[-1]


PROGRAM = """
import sys
from panoseg.models import fetching
fetching.ZENODO = sys.argv[1] + "/api"
from panoseg.models.weights_by_name import locate
print(locate("zenodo:7", cache=sys.argv[2]))
"""


def fetcher(server: Server, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, server.url, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_killed_half_way_and_then_two_at_once_fetch_once(server, ours, tmp_path):
    data = {**ours, "filler.bin": os.urandom(2_000_000)}
    server.records["7"] = {"w.zip": zipped(data)}
    server.slow_s = 0.05
    killed = fetcher(server, tmp_path / "cache")
    part = tmp_path / "cache" / "weights" / ".zenodo-7.part" / "files" / "w.zip.part"
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert part.stat().st_size
    assert not (tmp_path / "cache" / "weights" / "zenodo-7").exists()
    server.requests.clear()
    both = [fetcher(server, tmp_path / "cache") for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(tmp_path / "cache" / "weights" / "zenodo-7")}
    [sent] = server.sent()
    assert "bytes=" in sent


def test_photographs_ask_before_the_default_network_is_fetched(
    server, tmp_path, monkeypatch, capsys
):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ["photo", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--yes" in said
    assert "96 MB, MIT" in said
    assert not server.requests
    asked = []
    monkeypatch.setattr("panoseg.cli.weights.asking", lambda question: asked.append(question))
    assert main(command) == 2
    assert asked
    assert "was not fetched" in capsys.readouterr().err
    assert not server.requests
    assert main([*command, "--yes"]) == 2  # the stand-in has no such repository
    assert "404" in capsys.readouterr().err
    assert server.requests


def test_photographs_are_segmented_by_the_default_network_which_a_result_names(server, tmp_path):
    folder = save_checkpoint(tmp_path / "eomt", "eomt")
    name = "tue-mps/coco_panoptic_eomt_small_640_2x"
    server.models[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert main(["photo", str(tmp_path / "a.png"), "--yes", "--out", str(out)]) == 0
    [source] = json.loads((out / "panoptic.json").read_text())["info"]["weights"]
    assert source["name"] == "coco-eomt-small"
    assert source["licence"] == "mit"
    assert source["revision"] == COMMIT
    asked = len(server.requests)
    assert panoseg.load(f"hf:{name}").network.config.name == "hub_network"
    assert len(server.requests) == asked


def test_the_application_offers_weights_by_name(server, ours):
    from panoseg.app.settings import AppSettings
    from panoseg.cli.app import _prepared

    server.models["me/fields"] = ours
    settings = _prepared(AppSettings(weights=("hf:me/fields",)))
    assert settings.weights == (weights_cache() / "hf--me--fields",)
    assert settings.photo_weights == ("coco",)
    assert settings.weights_folder("hf--me--fields") == settings.weights[0]


def test_weights_are_published_to_a_folder_and_to_the_hub(server, tmp_path, ours, capsys):
    run = tmp_path / "run"
    save_weights(run / "weights", tiny_weights())
    (run / "metrics.json").write_text(json.dumps({"test": {"PQ": 41.25}}))
    out = tmp_path / "out"
    assert (
        main(
            [
                "weights",
                "publish",
                str(run),
                "--to",
                str(out),
                "--licence",
                "CC-BY-4.0",
                "--title",
                "My: fields",
            ]
        )
        == 0
    )
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "card.json",
        "README.md",
        "item.json",
    }
    page = (out / "README.md").read_text()
    assert page.startswith('---\nlicense: "cc-by-4.0"\n')
    assert "# My: fields" in page
    assert "| test_PQ | 41.25 |" in page
    assert "image-segmentation" in page
    card = json.loads((out / "card.json").read_text())
    assert card["provenance"]["licence"] == "CC-BY-4.0"
    assert card["scores"]["test_PQ"] == 41.25
    item = pystac.Item.from_dict(json.loads((out / "item.json").read_text()))
    assert item.properties["mlm:name"] == "paps"
    assert item.assets["model"].href == "./model.safetensors"
    assert item.properties["license"] == "CC-BY-4.0"
    assert panoseg.load(out).network.config.name == "paps"
    assert main(["weights", "publish", str(run), "--to", str(out), "--licence", "MIT"]) == 2
    assert main(["weights", "publish", str(run), "--to", "hf:me", "--licence", "MIT"]) == 2
    assert main(["weights", "publish", str(run), "--to", "x", "--licence", "of mine"]) == 2
    capsys.readouterr()
    assert (
        main(["weights", "publish", str(run), "--to", "hf:me/fields", "--licence", "MIT"]) == 0
    ), capsys.readouterr().err
    assert set(server.uploaded) == {"model.safetensors", "card.json", "README.md", "item.json"}
    assert "--weights hf:me/fields" in server.uploaded["README.md"].decode()
    assert server.uploaded["model.safetensors"] == ours["model.safetensors"]


def test_weights_of_the_package_have_names(monkeypatch):
    packaged = [
        entry for entry in weights_list.listed_weights().values() if entry.source == "package"
    ]
    assert weights_list.DEFAULT_FOR_SEASONS in {entry.name for entry in packaged}
    for entry in packaged:
        assert (locate(entry.name) / "card.json").is_file()
    entry = replace(packaged[0], alias="quick")
    monkeypatch.setattr(weights_list, "listed_weights", lambda: {entry.name: entry})
    assert find_named("quick").entry is entry
    assert find_named("") is None
