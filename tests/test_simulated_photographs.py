"""Simulated photographs: reproducible, true to their own truth, shaped by every option, and in
COCO's form on disk.
"""

from __future__ import annotations

import colorsys
import contextlib
import io
import json
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from panoseg.cli import main
from panoseg.coco.format import CocoAnnotations
from panoseg.data.coco import CocoDataset
from panoseg.errors import ConfigError, OutputError, PanosegError
from panoseg.simulation import photographs as scene
from panoseg.simulation import photographs as things
from panoseg.simulation.options import (
    BALL,
    SIMULATED_PHOTOGRAPHS,
    STAR,
    STUFF,
    THINGS,
    PhotographOptions,
)
from panoseg.simulation.photographs import distance, simulate_photograph
from panoseg.simulation.write_photographs import write_photographs

SIZE = (48, 64)
CLEAN = PhotographOptions(crowds=0.0, smudges=0.0)
SMALL = (24, 32)


def photographs(count=12, size=SIZE, **options):
    """Some photographs, with the options given and neither crowds nor dirt else."""
    made = PhotographOptions(**{"crowds": 0.0, "smudges": 0.0, **options})
    return [simulate_photograph(size, (5, number), made) for number in range(count)]


def contents(folder):
    """The bytes of each file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# The picture and its truth


def test_the_same_seed_gives_the_same_photograph_and_another_gives_another():
    first, again, other = (simulate_photograph(SIZE, (7, number)) for number in (1, 1, 2))
    np.testing.assert_array_equal(first.image_HW3, again.image_HW3)
    np.testing.assert_array_equal(first.truth.segment_HW, again.truth.segment_HW)
    assert list(first.truth.segments) == list(again.truth.segments)
    assert first.crowd_ids == again.crowd_ids
    assert not np.array_equal(first.image_HW3, other.image_HW3)
    assert not np.array_equal(first.image_HW3, simulate_photograph(SIZE, (8, 1)).image_HW3)


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (64, 48)])
def test_a_photograph_has_the_types_and_ranges_it_states(size):
    made = simulate_photograph(size, (3, 0))
    assert made.image_HW3.dtype == np.uint8
    assert made.image_HW3.shape == (*size, 3)
    assert made.truth.segment_HW.shape == size
    assert made.image_HW3.std() > 5


def test_segments_are_of_known_classes_and_can_be_seen():
    for made in photographs(20, crowds=0.5, smudges=0.5):
        segments = made.truth.segments
        assert set(segments.class_ids.tolist()) <= {*THINGS, *STUFF}
        assert segments.areas.min() >= 12
        np.testing.assert_array_equal(
            segments.areas, [(made.truth.segment_HW == id_).sum() for id_ in segments.ids]
        )
        assert segments.areas.sum() == (made.truth.segment_HW > 0).sum()
        stuff = segments.class_ids[~segments.is_thing].tolist()
        assert len(stuff) == len(set(stuff)), "a class of stuff is one segment"
        assert 1 <= len(stuff) <= 3


def test_every_class_occurs():
    found = {
        class_id for made in photographs(25) for class_id in made.truth.segments.class_ids.tolist()
    }
    assert found == {entry.id for entry in SIMULATED_PHOTOGRAPHS.classes} == {*THINGS, *STUFF}


def placed(monkeypatch):
    """The things of the photographs that are made from now on."""
    found = []
    place_things = things.place_things

    def noting(*arguments):
        found.append(place_things(*arguments))
        return found[-1]

    monkeypatch.setattr(scene, "place_things", noting)
    return found


def test_what_is_nearer_hides_what_is_behind(monkeypatch):
    """The nearer, the lower in the picture; each thing is what it covers without what nearer ones
    cover.
    """
    found, hidden = placed(monkeypatch), 0
    for made, placed_things in zip(
        photographs(10, things=(6, 10), thing_size=1.5), found, strict=True
    ):
        expected, taken = set(), np.zeros(SIZE, bool)
        for thing in sorted(placed_things, key=lambda thing: -thing.y):
            covers = things.cover(thing, SIZE).opacity_HW > 0.5
            visible = covers & ~taken
            hidden += int((covers & taken).any())
            taken |= covers
            if visible.sum() >= 12:
                expected.add((thing.class_id, visible.tobytes()))
        truth = made.truth
        seen = {
            (segment.class_id, (truth.segment_HW == segment.id).tobytes())
            for segment in truth.segments
            if segment.kind == "thing"
        }
        assert seen == expected
    assert hidden > 20


def test_things_have_the_colour_of_their_class():
    """What the truth calls a ball is red in the picture; shadows, patterns and light do not change
    its hue.
    """
    differences = []
    for made in photographs(15, size=(64, 64), grain=0.0, things=(4, 6)):
        for segment in made.truth.segments:
            if segment.kind != "thing" or segment.area < 60:
                continue
            colour = np.median(made.image_HW3[made.truth.segment_HW == segment.id], axis=0) / 255
            hue = colorsys.rgb_to_hsv(*colour)[0]
            apart = abs(hue - things._HUES[segment.class_id])
            differences.append(min(apart, 1 - apart))
    assert len(differences) > 30
    assert np.mean(np.array(differences) < 0.1) > 0.9


def test_outlines_are_what_they_are_called():
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 61), np.linspace(-1.5, 1.5, 61))
    inside = {class_id: distance(class_id, u, v) < 0 for class_id in THINGS}
    assert inside[BALL].sum() == pytest.approx(np.pi / 0.05**2, rel=0.02)
    for class_id in THINGS:
        mirrored = inside[class_id][:, ::-1]
        assert (inside[class_id] == mirrored).mean() > 0.99, class_id
        assert not inside[class_id][0].any()
    assert len({mask.tobytes() for mask in inside.values()}) == len(THINGS)
    assert inside[STAR].sum() < inside[BALL].sum() / 1.5


def test_a_crowd_is_one_segment_that_is_flagged():
    for made in photographs(10, crowds=1.0, things=(0, 0)):
        [crowd] = made.crowd_ids
        [row] = [segment for segment in made.truth.segments if segment.kind == "thing"]
        assert row.id == crowd


def test_dirt_on_the_lens_is_of_no_segment_and_seen():
    for clean, dirty in zip(photographs(6), photographs(6, smudges=1.0), strict=True):
        void = dirty.truth.segment_HW == 0
        assert void.sum() >= 12
        # Under the dirt there is less contrast than in the same place of the clean picture.
        inside = dirty.image_HW3[void].astype(float).std()
        assert inside < clean.image_HW3.astype(float).std()


# Options


def test_every_option_is_tried():
    assert {entry.name for entry in fields(PhotographOptions)} == {
        "things",
        "thing_size",
        "crowds",
        "smudges",
        "grain",
    }


def thing_counts(made):
    return [int(one.truth.segments.is_thing.sum()) for one in made]


def test_option_things_bounds_their_number():
    assert thing_counts(photographs(8, things=(0, 0))) == [0] * 8
    assert max(thing_counts(photographs(8, things=(1, 1)))) == 1
    assert max(thing_counts(photographs(8, things=(2, 3)))) <= 3
    assert np.mean(thing_counts(photographs(8, things=(12, 12)))) > 6


def test_option_thing_size_makes_things_larger():
    areas = [
        sum(
            int(one.truth.segments.areas[one.truth.segments.is_thing].sum())
            for one in photographs(8, thing_size=factor)
        )
        for factor in (0.5, 1.0, 2.0)
    ]
    assert 1.5 * areas[0] < areas[1] < areas[2] / 1.5


def test_option_crowds_is_a_chance():
    assert not any(one.crowd_ids for one in photographs(15, crowds=0.0))
    assert all(one.crowd_ids for one in photographs(15, crowds=1.0))
    assert 4 <= sum(bool(one.crowd_ids) for one in photographs(30, size=SMALL, crowds=0.5)) <= 26


def test_option_smudges_is_a_chance():
    void = [
        [(one.truth.segment_HW == 0).mean() > 0.004 for one in photographs(15, smudges=chance)]
        for chance in (0.0, 1.0)
    ]
    assert sum(void[0]) <= 3  # things of which hardly anything is seen are void, too
    assert sum(void[1]) >= 13


def test_option_grain_is_noise_of_the_camera_alone():
    still, usual, coarse = (photographs(1, grain=grain)[0] for grain in (0.0, 1.0, 4.0))
    np.testing.assert_array_equal(still.truth.segment_HW, coarse.truth.segment_HW)
    deviations = [(one.image_HW3.astype(float) - still.image_HW3).std() for one in (usual, coarse)]
    assert deviations[0] == pytest.approx(0.015 * 255, rel=0.3)
    assert deviations[1] > 2.5 * deviations[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"things": (3, 2)},
            "--things must be the smallest and largest number of objects, 0 to 100, not (3, 2)",
        ),
        ({"things": (-1, 2)}, "--things must be"),
        ({"things": (0, 101)}, "0 to 100"),
        ({"crowds": 1.5}, "--crowds must be a probability between 0 and 1, not 1.5"),
        ({"smudges": -0.1}, "--smudges must be a probability between 0 and 1, not -0.1"),
        ({"thing_size": 0.0}, "--thing-size must be a factor between 0.1 and 10, not 0.0"),
        ({"thing_size": float("nan")}, "--thing-size must be a factor between 0.1 and 10, not nan"),
        ({"grain": -1.0}, "--grain must be a factor between 0 and 10, not -1.0"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        PhotographOptions(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("size", [(8, 64), (64, 5000)])
def test_impossible_sizes_are_refused_in_one_line(size):
    with pytest.raises(ConfigError, match="--size must be 16 to 4096 pixels on each side, not"):
        simulate_photograph(size, (0, 0))


# On disk


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Eleven photographs, nine to train and two to validate, with crowds and dirt."""
    options = PhotographOptions(crowds=0.4, smudges=0.4)
    return write_photographs(
        tmp_path_factory.mktemp("simulated") / "data", 11, SMALL, 4, options, workers=1
    )


def test_every_fifth_photograph_is_for_validation(written):
    assert [path.stem for path in sorted((written / "val").iterdir())] == [
        "000000000005",
        "000000000010",
    ]
    assert len(list((written / "train").iterdir())) == 9
    for split, count in (("train", 9), ("val", 2)):
        assert len(CocoDataset(written, split)) == count
        assert len(list((written / "annotations" / f"panoptic_{split}").iterdir())) == count


def test_the_files_say_what_was_simulated(written):
    """Read again, each picture has the segments of the simulation; ids are coloured, so they are
    others.
    """
    options = PhotographOptions(crowds=0.4, smudges=0.4)
    annotations = CocoAnnotations.open(written / "annotations" / "panoptic_train.json")
    assert annotations.table.same_classes(SIMULATED_PHOTOGRAPHS)
    crowds = 0
    for read in annotations:
        made = simulate_photograph(SMALL, (4, read.image_id - 1), options)
        truth, again = made.truth, read.segmentation
        assert {
            (segment.class_id, (truth.segment_HW == segment.id).tobytes())
            for segment in truth.segments
        } == {
            (segment.class_id, (again.segment_HW == segment.id).tobytes())
            for segment in again.segments
        }
        np.testing.assert_array_equal(read.stated_areas_N, again.segments.areas)
        assert len(read.crowd_ids) == len(made.crowd_ids)
        crowds += len(read.crowd_ids)
        image = np.asarray(Image.open(written / "train" / f"{read.image_id:012d}.jpg")).astype(
            float
        )
        assert np.abs(image - made.image_HW3).mean() < 12
    assert 0 < crowds < 9


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_the_instances(written, split):
    """The library of COCO loads the file, its masks are those of the ids, and its own scores of
    them are perfect.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = CocoAnnotations.open(written / "annotations" / f"panoptic_{split}.json")
    with contextlib.redirect_stdout(io.StringIO()):
        library = COCO(written / "annotations" / f"instances_{split}.json")
        assert set(library.getCatIds()) == set(THINGS)
        assert library.getImgIds() == annotations.image_ids
        found = []
        for read in annotations:
            truth = read.segmentation
            masks = {
                (
                    segment.class_id,
                    (truth.segment_HW == segment.id).tobytes(),
                    int(segment.id in read.crowd_ids),
                )
                for segment in truth.segments
                if segment.kind == "thing"
            }
            rows = library.loadAnns(library.getAnnIds([read.image_id]))
            assert masks == {
                (row["category_id"], library.annToMask(row).astype(bool).tobytes(), row["iscrowd"])
                for row in rows
            }
            for row in rows:
                assert row["area"] == library.annToMask(row).sum()
                found += [] if row["iscrowd"] else [{**row, "score": 0.9}]
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(library, library.loadRes(found), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0)


def test_ids_and_boxes_of_the_panoptic_json(written):
    content = json.loads((written / "annotations" / "panoptic_train.json").read_text())
    assert {entry["id"] for entry in content["images"]} == {
        entry["image_id"] for entry in content["annotations"]
    }
    for annotation in content["annotations"]:
        colours = np.asarray(
            Image.open(written / "annotations" / "panoptic_train" / annotation["file_name"])
        ).astype(int)
        ids_HW = colours @ [1, 256, 65536]
        assert {row["id"] for row in annotation["segments_info"]} == set(
            np.unique(ids_HW).tolist()
        ) - {0}
        for row in annotation["segments_info"]:
            assert "score" not in row
            rows, columns = np.nonzero(ids_HW == row["id"])
            left, top, width, height = row["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
            assert row["area"] == len(rows)


def test_the_truth_scored_against_itself_is_perfect(written, tmp_path):
    path = written / "annotations" / "panoptic_val.json"
    scores = tmp_path / "scores.json"
    assert (
        main(
            [
                "coco",
                "evaluate",
                "--truth",
                str(path),
                "--prediction",
                str(path),
                "--json",
                str(scores),
            ]
        )
        == 0
    )
    quality = json.loads(scores.read_text())["all"]
    assert [quality[name] for name in ("pq", "sq", "rq")] == [1, 1, 1]


def test_the_reader_takes_both_splits_as_they_are(written):
    for split in ("train", "val"):
        dataset = CocoDataset(written, split, SIMULATED_PHOTOGRAPHS)
        for index in range(len(dataset)):
            one, (truth, crowds) = dataset[index], dataset.truth(index)
            assert one.size_HW == SMALL
            things_of_truth = truth.segments.is_thing & ~np.isin(truth.segments.ids, crowds)
            assert sorted(one.objects.class_N.tolist()) == sorted(
                truth.segments.class_ids[things_of_truth].tolist()
            )
            assert len(dataset.detections(index)) == truth.segments.is_thing.sum()


def test_an_interrupted_simulation_is_completed_to_the_same_bytes(tmp_path, monkeypatch):
    whole = write_photographs(tmp_path / "whole", 7, SMALL, 2, workers=1)
    done, simulate = [], simulate_photograph

    def stopping(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return simulate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("panoseg.simulation.write_photographs.simulate_photograph", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_photographs(tmp_path / "data", 7, SMALL, 2, workers=1)
    assert len(list((tmp_path / "data" / "train").iterdir())) == 3
    assert not (tmp_path / "data" / "annotations" / "panoptic_train.json").exists()
    first = tmp_path / "data" / "train" / "000000000001.jpg"
    before = first.stat().st_mtime_ns
    write_photographs(tmp_path / "data", 7, SMALL, 2, workers=1)
    assert contents(tmp_path / "data") == contents(whole)
    assert first.stat().st_mtime_ns == before


def test_a_simulation_is_enlarged_to_the_same_bytes_by_any_number_of_processes(tmp_path):
    write_photographs(tmp_path / "data", 3, SMALL, 2, workers=1)
    write_photographs(tmp_path / "data", 7, SMALL, 2, workers=2)
    assert contents(tmp_path / "data") == contents(
        write_photographs(tmp_path / "whole", 7, SMALL, 2, workers=1)
    )


def test_few_photographs_are_one_split(tmp_path):
    """A split without photographs would be read as a damaged one."""
    folder = write_photographs(tmp_path / "data", 2, SMALL, workers=1)
    assert [path.name for path in (folder / "annotations").glob("*.json")] != []
    assert not list(folder.rglob("*_val*"))
    assert len(CocoDataset(folder, "train")) == 2


@pytest.mark.parametrize("change", [{"seed": 3}, {"size": (32, 32)}, {"options": CLEAN}])
def test_another_simulation_is_not_mixed_in(tmp_path, change):
    arguments = {"size": SMALL, "seed": 2, "options": PhotographOptions(), "workers": 1}
    write_photographs(tmp_path / "data", 1, **arguments)
    before = contents(tmp_path / "data")
    with pytest.raises(
        OutputError, match=f"holds a simulation that differs in {next(iter(change))}"
    ):
        write_photographs(tmp_path / "data", 2, **{**arguments, **change})
    assert contents(tmp_path / "data") == before


def test_no_photograph_is_refused(tmp_path):
    with pytest.raises(PanosegError, match="number of photographs must be at least 1, not 0"):
        write_photographs(tmp_path / "data", 0)
    assert not (tmp_path / "data").exists()


def test_the_command_writes_photographs_with_its_options(tmp_path, capsys):
    command = [
        "simulate",
        str(tmp_path / "data"),
        "--layout",
        "coco",
        "--patches",
        "2",
        "--size",
        "32",
        "--workers",
        "1",
    ]
    assert main([*command, "--photographs.things", "0", "0", "--photographs.crowds", "0"]) == 0
    assert "2 photographs of 32 x 32 pixels" in capsys.readouterr().out
    dataset = CocoDataset(tmp_path / "data", "train")
    assert [len(dataset[index].objects) for index in range(2)] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--layout", "coco", "--centres"],
        ["--layout", "coco", "--noise", "2"],
        ["--photographs.grain", "2"],
        ["--layout", "coco", "--photographs.grain", "20"],
        ["--layout", "coco", "--size", "8"],
    ],
)
def test_the_command_ends_in_one_line_for_wrong_options(tmp_path, capsys, wrong):
    assert (
        main(["simulate", str(tmp_path / "data"), "--patches", "1", "--workers", "1", *wrong]) == 2
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "data").exists()
