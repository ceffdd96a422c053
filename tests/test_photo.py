"""``panoseg photo``: pictures of anyone become panoptic ones; a bad one costs itself, and every
option does something.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from panoseg.classes import PASTIS, ClassTable, SegmentClass
from panoseg.cli import main
from panoseg.coco.format import CocoAnnotations
from panoseg.data import PhotographConfig
from panoseg.data.photograph_files import read_photograph
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, DatasetError, OutputError, WeightsError
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.model import Model
from panoseg.models.network import build_network
from panoseg.models.weights import Weights, WeightsCard, save_weights
from panoseg.panoptic import Panoptic
from panoseg.photo import PhotoOptions, segment
from panoseg.photo.segment import (
    COLUMNS,
    Source,
    find_photographs,
    open_model,
    segment_photographs,
    unique_names,
)
from photograph_networks import TABLE, mask_rcnn, panoptic_fpn, photograph, pspnet
from small_coco import bomb, encoded

PIXELS = photograph(48, 64).image_CHW.numpy().transpose(1, 2, 0)
THINGS = ClassTable("things", tuple(entry for entry in TABLE.classes if entry.kind == "thing"))
ANY_OBJECT = PhotoOptions(score=0.0, mask=0.0, overlap=1.0, stuff_area=0)


def saved(folder: Path, config, table: ClassTable = TABLE, **provenance) -> str:
    """A folder of drawn weights."""
    torch.manual_seed(0)
    save_weights(
        folder,
        Weights(
            WeightsCard(config, None, table, provenance=provenance),
            build_network(config).state_dict(),
        ),
    )
    return str(folder)


@pytest.fixture(scope="module")
def fpn(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "fpn", panoptic_fpn(stuff_area=1))


@pytest.fixture(scope="module")
def stuff(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "pspnet", pspnet())


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "maskrcnn", mask_rcnn(), THINGS)


@pytest.fixture
def image(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "holiday.png")
    return tmp_path / "holiday.png"


def halves(image: Image.Image) -> Panoptic:
    """What a network might say: a disc above grass."""
    segment_HW = np.ones((image.height, image.width), np.int32)
    segment_HW[image.height // 2 :] = 2
    return Panoptic.from_maps(segment_HW, {1: 7, 2: 3}, TABLE, {1: 0.75})


# The command


def test_a_photograph_becomes_coco_panoptic_an_overlay_and_a_table(tmp_path, fpn, image, capsys):
    out = tmp_path / "out"
    assert main(["photo", str(image), "--weights", fpn, "--out", str(out), "--device", "cpu"]) == 0
    [read] = CocoAnnotations.open(out / "panoptic.json")
    assert read.segmentation.segment_HW.shape == (48, 64)
    assert len(read.segmentation.segments) > 0
    assert json.loads((out / "panoptic.json").read_text())["images"] == [
        {"id": 1, "file_name": "holiday.png", "height": 48, "width": 64}
    ]
    height, width, _ = read_photograph(out / "overlay" / "holiday.jpg").shape
    assert width / height == 64 / 48
    rows = list(csv.DictReader((out / "segments.csv").read_text().splitlines()))
    assert {int(row["id"]) for row in rows} == set(read.segmentation.segments.ids.tolist())
    printed = capsys.readouterr().out
    assert "1 photograph in" in printed
    assert " s each" in printed
    assert rows[0]["class"] in printed


def test_results_are_on_disk_before_anything_is_printed(tmp_path, fpn, image, monkeypatch):
    def no_reader(*words, **options):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    out = tmp_path / "out"
    monkeypatch.setattr("builtins.print", no_reader)
    with pytest.raises(BrokenPipeError):
        main(["photo", str(image), "--weights", fpn, "--out", str(out), "--device", "cpu"])
    assert {path.name for path in out.iterdir()} == {
        "panoptic.json",
        "panoptic",
        "overlay",
        "segments.csv",
    }


def test_the_table_says_what_the_picture_shows(tmp_path, image):
    rows = []
    segment_photographs(
        [Source(image, "a")],
        halves,
        TABLE,
        tmp_path / "out",
        lambda name, found: rows.extend(found),
    )
    assert [tuple(row[key] for key in COLUMNS[:-1]) for row in rows] == [
        ("disc", "thing", 0.75, 24 * 64, 0, 0, 64, 24),
        ("grass", "stuff", 1.0, 24 * 64, 0, 24, 64, 24),
    ]
    written = list(csv.reader((tmp_path / "out" / "segments.csv").read_text().splitlines()))
    assert written[0] == ["image", *COLUMNS]
    assert written[1][:5] == ["a", "disc", "thing", "0.75", str(24 * 64)]
    overlay = read_photograph(tmp_path / "out" / "overlay" / "a.jpg").astype(int)
    top, bottom = (
        overlay[: len(overlay) // 2 - 8].mean((0, 1)),
        overlay[len(overlay) // 2 + 8 :].mean((0, 1)),
    )
    assert top[2] > bottom[2] + 50  # discs are blue, grass is green
    assert bottom[1] > top[1] + 50


def test_ids_of_images_are_numbers_in_their_names_as_coco_has_them(tmp_path):
    for name in ("000000000139", "000000000285"):
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    sources, _ = find_photographs([str(tmp_path)])
    segment_photographs(sources, halves, TABLE, tmp_path / "out")
    assert CocoAnnotations.open(tmp_path / "out" / "panoptic.json").image_ids == [139, 285]


# Which photographs


def test_files_folders_and_patterns(tmp_path):
    for name in (
        "a/one.jpg",
        "a/deep/two.PNG",
        "a/notes.txt",
        "a/.hidden.jpg",
        "b/three.jpg",
        "b/four.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    asked = [
        str(tmp_path / "b" / "three.jpg"),
        str(tmp_path / "a"),
        str(tmp_path / "b" / "*.jpg"),
        str(tmp_path / "**" / "four.*"),
    ]
    sources, failures = find_photographs(asked)
    assert [source.name for source in sources] == ["three", "two", "one", "four"]
    assert not failures


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.jpg", "none.jpg: no such file"),
        ("none*.jpg", "none*.jpg: no file matches"),
        (".", ".: no picture"),
        ("", "'': no such file"),
        ("long" * 100, "long" * 19 + "lon…: File name too long"),
    ],
)
def test_an_argument_that_means_nothing_is_named(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    sources, [failure] = find_photographs([name])
    assert sources == []
    assert str(failure).startswith(said)


def test_pictures_of_a_folder_that_are_not_read_are_named(tmp_path, fpn, image, capsys):
    for name in ("a.cr2", "b.JXL", ".hidden.nef", "notes.txt"):
        (tmp_path / name).write_bytes(b"II*\0 raw")
    words = ["photo", str(tmp_path), "--weights", fpn, "--out", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 0
    assert f"note: {tmp_path / 'a.cr2'} and 1 more: not read" in capsys.readouterr().err


def test_one_name_in_several_folders_is_several_results(tmp_path):
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / folder / "img.png")
    sources, _ = find_photographs([str(tmp_path)])
    segment_photographs(sources, halves, TABLE, tmp_path / "out")
    found = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.??g")
    )
    assert found == [
        "overlay/monday/img.jpg",
        "overlay/tuesday/img.jpg",
        "panoptic/monday/img.png",
        "panoptic/tuesday/img.png",
    ]
    assert len(list(CocoAnnotations.open(tmp_path / "out" / "panoptic.json"))) == 2


def test_names_differ_on_every_disk():
    paths = [
        "/a/x.jpg",
        "/a/X.png",
        "/a/b/y.jpg",
        "/b/y.jpg",
        "/c/b/y.jpg",
        "/d/z.jpg",
        "/d/z.png",
        "/d/z.jpg.png",
    ]
    paths += ["/e/twin.jpg", "/e/Twin.jpg", "/E/twin.jpg", "/e/twin.JPG"]
    names = unique_names([PurePath(path) for path in paths])
    assert len({name.lower() for name in names}) == len(paths)
    assert names[3] == "b/y" or names[3].endswith("b/y")
    assert unique_names([PurePath("/a/x.jpg")]) == ["x"]


def test_names_that_not_every_disk_has_are_written_and_read_again(tmp_path):
    """Bytes that are no UTF-8, ends of lines, and what divides folders or is a drive elsewhere."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"\xff\xfe.jpg", b"a\nb.jp\xffg", b"c\\d.jpg", b"C:e.jpg"):
        Image.fromarray(PIXELS).save(tmp_path / "photograph.jpg")
        (tmp_path / "photograph.jpg").rename(folder / os.fsdecode(name))
    sources, failures = find_photographs([os.fsdecode(bytes(folder) + b"/*")])
    assert (len(sources), failures) == (4, [])
    assert segment_photographs(sources, halves, TABLE, tmp_path / "out").images == 4
    assert len(list(CocoAnnotations.open(tmp_path / "out" / "panoptic.json"))) == 4
    with (tmp_path / "out" / "segments.csv").open(newline="") as file:
        named = {row["image"] for row in csv.DictReader(file)}
    assert named == {"__", "a_b", "c_d", "C_e"}
    written = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert {row["file_name"] for row in written["images"]} == {
        "__.jpg",
        "a_b.jp_g",
        "c_d.jpg",
        "C_e.jpg",
    }


# Bad and odd pictures


def test_bad_pictures_cost_themselves(tmp_path, fpn, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x112] = 6
    grey = PIXELS[..., 0]
    good = {
        "grey.png": encoded(grey, "PNG"),
        "deep.png": encoded(grey.astype(np.uint16) * 257, "PNG"),
        "print.jpg": encoded(PIXELS, "JPEG", "CMYK"),
        "turned.png": encoded(PIXELS, "PNG", exif=exif),
    }
    bad = {
        "cut.jpg": encoded(PIXELS, "JPEG")[:300],
        "bomb.png": bomb(),
        "text.jpg": b"no picture at all",
    }
    for name, data in (good | bad).items():
        (folder / name).write_bytes(data)
    out = tmp_path / "out"
    code = main(
        [
            "photo",
            str(folder),
            str(tmp_path / "gone.jpg"),
            "--weights",
            fpn,
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
    )
    said = capsys.readouterr().err.splitlines()
    assert code == 2
    for name in (*bad, "gone.jpg"):
        assert sum(name in line for line in said) == 1
    assert "4 photographs in" in said[-1]
    assert "4 left out" in said[-1]
    sizes = {
        row["file_name"]: (row["height"], row["width"])
        for row in json.loads((out / "panoptic.json").read_text())["images"]
    }
    assert sizes == {
        "grey.png": (48, 64),
        "deep.png": (48, 64),
        "print.jpg": (48, 64),
        "turned.png": (64, 48),
    }


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_any_size_is_segmented(tmp_path, fpn, stuff, things, size):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / "a.png")
    for number, networks in enumerate(((fpn, None), (stuff, things))):
        model = open_model(*networks, PhotoOptions(device="cpu", stuff_area=0))
        done = segment_photographs(
            [Source(tmp_path / "a.png", "a")], model.predict, model.table, tmp_path / str(number)
        )
        assert done.images == 1
        [read] = CocoAnnotations.open(tmp_path / str(number) / "panoptic.json")
        assert read.segmentation.segment_HW.shape == size


def test_a_photograph_that_would_fill_the_memory_costs_itself(tmp_path, fpn, image):
    Image.fromarray(np.zeros((1, 9000, 3), np.uint8)).save(tmp_path / "line.png")
    model = open_model(fpn, None, PhotoOptions(device="cpu"))
    sources = [Source(tmp_path / "line.png", "line"), Source(image, "holiday")]
    done = segment_photographs(sources, enlarging_lines(model), model.table, tmp_path / "out")
    [failure] = done.failures
    assert done.images == 1
    assert str(failure).startswith(
        f"{tmp_path / 'line.png'}: 1 x 9000 pixels, which the network would see as 8192 x 73728000"
    )
    assert "--max-side" in str(failure)


def enlarging_lines(model: Model) -> Callable[[Image.Image], Panoptic]:
    """The same network, which enlarges lines beyond all bounds and leaves other photographs as they
    are.
    """

    def predict(image):
        side = 8192 if image.height == 1 else 0
        return replace(model, sides=PhotographConfig(min_side=side)).predict(image)

    return predict


def test_where_no_picture_can_be_read_nothing_is_written(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.jpg .*it is not an image"):
        segment_photographs([Source(tmp_path / "a.jpg", "a")], halves, TABLE, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    sources = [Source(tmp_path / "a.jpg", "a"), Source(tmp_path / "gone.jpg", "gone")]
    with pytest.raises(DatasetError, match=r"a\.jpg .*it is not an image.*cannot be used: 2"):
        segment_photographs(sources, halves, TABLE, tmp_path / "out")


def test_every_name_that_means_nothing_is_told(tmp_path, capsys):
    names = [str(tmp_path / name) for name in ("one.jpg", "two.jpg")]
    assert main(["photo", *names, "--weights", "none", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [
        line.partition(": no such")[0].removeprefix("panoseg photo: ") for line in said
    ] == names


def test_a_failure_in_the_middle_leaves_nothing_half_written(tmp_path, image, monkeypatch):
    written = []

    def full(path, pixels):
        written.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment, "_write_jpeg", full)
    with pytest.raises(OutputError, match="the disk is full"):
        segment_photographs([Source(image, "a")], halves, TABLE, tmp_path / "out")
    assert written
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_in_use_is_refused_before_anything_is_done(tmp_path, fpn, image, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["photo", str(image), "--weights", fpn, "--out", str(out)]) == 2
    assert "new or empty" in capsys.readouterr().err


# Options


def areas(picture: Panoptic, kind: str) -> list[int]:
    return [row.area for row in picture.segments if row.kind == kind]


def predicted(weights: str, instances: str | None = None, **options) -> Panoptic:
    model = open_model(weights, instances, replace(ANY_OBJECT, device="cpu", **options))
    return model.predict(Image.fromarray(PIXELS))


def test_score_decides_which_objects_are_drawn(fpn):
    every = predicted(fpn)
    scores = every.segments.scores[every.segments.is_thing]
    assert len(scores) > 1
    limit = float(np.sort(scores)[len(scores) // 2])
    fewer = predicted(fpn, score=limit)
    assert 0 < len(areas(fewer, "thing")) < len(scores)
    assert (fewer.segments.scores >= np.float32(limit)).all()
    assert areas(predicted(fpn, score=1.0), "thing") == []


def test_mask_decides_which_pixels_belong_to_an_object(fpn):
    assert sum(areas(predicted(fpn, mask=1.0), "thing")) < sum(
        areas(predicted(fpn, mask=0.0), "thing")
    )


def test_overlap_decides_which_covered_objects_are_left_out(fpn):
    assert len(areas(predicted(fpn, overlap=0.0), "thing")) < len(
        areas(predicted(fpn, overlap=1.0), "thing")
    )


def test_stuff_area_decides_which_stuff_is_drawn(fpn):
    assert areas(predicted(fpn, score=1.0), "stuff")
    assert areas(predicted(fpn, score=1.0, stuff_area=48 * 64 + 1), "stuff") == []


def test_thresholds_left_out_are_those_of_the_weights(tmp_path):
    weights = saved(
        tmp_path / "w",
        panoptic_fpn(merge_score=0.25, merge_overlap=0.125, stuff_area=9, mask_threshold=0.75),
    )
    model = open_model(weights, None, PhotoOptions(device="cpu"))
    thresholds = model.network.thresholds
    assert (thresholds.score, thresholds.overlap, thresholds.stuff_area) == (0.25, 0.125, 9)
    assert model.network.config.mask_threshold == 0.75


def test_photographs_are_seen_as_large_as_in_training_or_as_asked(tmp_path):
    weights = saved(tmp_path / "w", panoptic_fpn(), min_side=96, max_side=112)
    seen = []

    def sizes(options: PhotoOptions) -> tuple[int, int]:
        model = open_model(weights, None, options)
        plain = model.network.outputs
        model.network.outputs = lambda images, wanted: (
            seen.append(images[0].shape[1:]) or plain(images, wanted)
        )
        assert model.predict(Image.fromarray(PIXELS)).segment_HW.shape == (48, 64)
        return tuple(seen[-1])

    assert sizes(PhotoOptions(device="cpu")) == (84, 112)
    assert sizes(PhotoOptions(device="cpu", min_side=32)) == (32, 43)
    assert sizes(PhotoOptions(device="cpu", max_side=0)) == (96, 128)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": 1.5}, "--score must be from 0 to 1, not 1.5"),
        ({"mask": -1.0}, "--mask must be from 0 to 1, not -1.0"),
        ({"overlap": 2.0}, "--overlap must be"),
        ({"stuff_area": -1}, "--stuff-area must be a number of pixels from 0, not -1"),
    ],
)
def test_an_impossible_option_is_one_line(options, said):
    with pytest.raises(ConfigError, match=said):
        PhotoOptions(**options)


# Which networks


def test_two_networks_are_merged(stuff, things):
    both = predicted(stuff, things)
    assert areas(both, "thing")
    assert areas(predicted(stuff, things, score=1.0), "thing") == []
    assert areas(predicted(stuff, things, score=1.0), "stuff")
    model = open_model(stuff, things, PhotoOptions())
    assert model.table.same_classes(TABLE)


def test_published_weights_are_named_and_absent_ones_are_one_line(
    tmp_path, stuff, image, capsys, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no network")),
    )
    code = main(
        [
            "photo",
            str(image),
            "--weights",
            stuff,
            "--instances",
            "coco",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    [line] = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "could not be fetched" in line
    assert "Connect to the internet once" in line
    assert not (tmp_path / "out").exists()


def test_a_network_of_pixels_alone_draws_classes_and_one_of_objects_alone_things(stuff, things):
    image = Image.fromarray(PIXELS)
    assert {
        row.kind for row in open_model(stuff, None, PhotoOptions()).predict(image).segments
    } == {"stuff"}
    assert {
        row.kind
        for row in open_model(things, None, PhotoOptions(score=0.0, mask=0.0))
        .predict(image)
        .segments
    } == {"thing"}


@pytest.mark.parametrize("option", ["score", "mask", "overlap", "stuff_area"])
def test_an_option_that_would_do_nothing_is_refused(stuff, option):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} does nothing with PSPNet"):
        open_model(stuff, None, PhotoOptions(**{option: 1}))


def test_networks_that_do_not_go_together_are_refused(tmp_path, stuff, things):
    with pytest.raises(WeightsError, match="--weights is Mask R-CNN"):
        open_model(things, stuff, PhotoOptions())
    with pytest.raises(WeightsError, match="--instances is PSPNet"):
        open_model(stuff, stuff, PhotoOptions())
    renamed = replace(
        THINGS, classes=(SegmentClass(2, "circle", "#000000", "thing"), THINGS.classes[1])
    )
    other = saved(tmp_path / "renamed", mask_rcnn(), renamed)
    with pytest.raises(
        WeightsError, match="Class 2 is square to one network and circle to the other"
    ):
        open_model(stuff, other, PhotoOptions())
    more = replace(THINGS, classes=(*THINGS.classes, SegmentClass(11, "cat", "#000000", "thing")))
    every_class = saved(tmp_path / "all", pspnet(scope="all"))
    other = saved(tmp_path / "more", mask_rcnn(things=3), more)
    with pytest.raises(WeightsError, match="know different things"):
        open_model(every_class, other, PhotoOptions())
    assert open_model(stuff, other, PhotoOptions()).table.ids("thing") == (2, 7, 11)


def test_weights_of_seasons_are_told_to_go_to_map(tmp_path):
    config = UtaeConfig(classes=20)
    normalisation = Normalisation((0.0,) * 10, (1.0,) * 10)
    card = WeightsCard(config, normalisation, PASTIS)
    save_weights(tmp_path / "w", Weights(card, build_network(config).state_dict()))
    with pytest.raises(WeightsError, match="panoseg map"):
        open_model(str(tmp_path / "w"), None, PhotoOptions())
