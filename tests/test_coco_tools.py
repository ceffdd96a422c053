"""``panoseg coco``: equal to the published tools on their golden cases, and one line for
anything that is wrong with an image.
"""

from __future__ import annotations

import importlib
import json
import shutil
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from coco_classes import TABLE
from panoseg import processes as parallel
from panoseg.classes import ClassTable
from panoseg.cli import main
from panoseg.coco import forms as coco_conversions
from panoseg.coco.categories import category_rows
from panoseg.coco.convert import ConvertOptions, convert_coco
from panoseg.coco.evaluate import coco_counts, evaluate_coco
from panoseg.coco.format import CocoAnnotations, coloured_ids, write_coco
from panoseg.coco.masks import decode_mask, encode_mask, png_name, read_ids
from panoseg.coco.merge import merge_coco
from panoseg.errors import ConfigError, OutputError, PanopticFormatError
from panoseg.metrics.panoptic_quality import PanopticCounts, coco_patch_counts, quality_of_counts
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import MergeThresholds
from panoseg.processes import over_images

SIZE = (12, 16)
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def rows_of(path) -> list:
    return json.loads(path.read_text())["annotations"]


def change(path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def picture(seed: int) -> Panoptic:
    """Blocks of a few pixels, some void: two segments of each thing class, one of each stuff
    class.
    """
    random = np.random.default_rng(seed)
    raster = random.integers(0, 7, (SIZE[0] // 2, SIZE[1] // 2)).repeat(2, 0).repeat(2, 1)
    raster.ravel()[:6] = range(1, 7)
    return Panoptic.from_maps(raster, {1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4}, TABLE)


@pytest.fixture
def truth(tmp_path):
    """A panoptic JSON of three images."""
    path = tmp_path / "truth.json"
    write_coco(path, [(f"{number}.jpg", picture(number)) for number in (1, 2, 3)], TABLE)
    return path


# ----------------------------------------------------------------------------------------------------------------
# evaluate


@pytest.mark.parametrize("processes", [1, 2])
def test_counts_equal_the_published_ones(golden, monkeypatch, processes):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    folder = golden / "panopticapi" / "pq"
    expected = json.loads((folder / "result.json").read_text())["counts"]
    result = evaluate_coco(folder / "gt.json", folder / "pred.json", processes=processes)
    assert (result.images, result.failures) == (8, ())
    assert_counts(result.counts, CocoAnnotations.open(folder / "gt.json").table, expected)


def test_counts_of_each_image_equal_the_published_ones(golden, tmp_path):
    folder = golden / "panopticapi" / "pq"
    expected = json.loads((folder / "result.json").read_text())["counts_per_image"]
    table = CocoAnnotations.open(folder / "gt.json").table
    content = json.loads((folder / "gt.json").read_text())
    for annotation in content["annotations"]:
        one = tmp_path / "one.json"
        one.write_text(json.dumps({**content, "annotations": [annotation], "images": []}))
        counts = evaluate_coco(one, folder / "pred.json", folder / "gt").counts
        assert_counts(counts, table, expected[str(annotation["image_id"])])


def assert_counts(counts: PanopticCounts, table: ClassTable, expected: dict) -> None:
    for entry, (tp, fp, fn, iou) in zip(table.classes, counts.to_array(), strict=True):
        row = expected.get(str(entry.id), {"tp": 0, "fp": 0, "fn": 0, "iou": 0})
        assert [tp, fp, fn, iou] == pytest.approx(
            [row[name] for name in ("tp", "fp", "fn", "iou")], abs=1e-9
        ), entry.name


def test_files_score_as_their_pictures_do(truth, tmp_path):
    prediction = tmp_path / "prediction.json"
    pictures = [picture(number) for number in (1, 5, 6)]
    write_coco(
        prediction, [(f"{number}.jpg", each) for number, each in enumerate(pictures, 1)], TABLE
    )
    expected = PanopticCounts.zero(TABLE, "coco")
    for annotated, predicted in zip(CocoAnnotations.open(truth), pictures, strict=True):
        expected += coco_patch_counts(annotated.segmentation, predicted, TABLE)
    np.testing.assert_array_equal(coco_counts(truth, prediction).to_array(), expected.to_array())


def test_evaluate_prints_a_table_and_writes_json(truth, tmp_path, capsys):
    words = [
        "coco",
        "evaluate",
        "--truth",
        str(truth),
        "--prediction",
        str(truth),
        "--json",
        str(tmp_path / "score.json"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| person             | 100.0 | 100.0 | 100.0 |" in printed
    assert "mean of things (2)" in printed
    assert "3 images scored" in printed
    scores = json.loads((tmp_path / "score.json").read_text())
    assert scores["images"] == 3
    assert scores["all"] == {"sq": 1.0, "rq": 1.0, "pq": 1.0, "n": 4}
    assert scores["classes"]["sky"]["true_positives"] == 3


def test_pictures_may_lie_elsewhere(truth, tmp_path, capsys):
    (tmp_path / "truth").rename(tmp_path / "moved")
    words = ["coco", "evaluate", "--truth", str(truth), "--prediction", str(truth)]
    assert main(words) == 2
    assert "no such file" in capsys.readouterr().err
    folder = str(tmp_path / "moved")
    assert main([*words, "--truth-folder", folder]) == 2
    assert main([*words, "--prediction-folder", folder]) == 2
    assert main([*words, "--truth-folder", folder, "--prediction-folder", folder]) == 0


def test_without_stuff_or_things_a_mean_has_no_class(truth, capsys):
    change(truth, lambda content: [row.update(isthing=1) for row in content["categories"]])
    quality = quality_of_counts(evaluate_coco(truth, truth).counts)
    assert (quality.things.n, quality.stuff.n, quality.stuff.pq) == (4, 0, 0.0)
    change(truth, lambda content: [row.update(isthing=0) for row in content["categories"]])
    assert quality_of_counts(evaluate_coco(truth, truth).counts).things.n == 0


def test_strict_lets_all_crowds_excuse(golden, capsys):
    folder = golden / "panopticapi" / "pq"
    words = [
        "coco",
        "evaluate",
        "--truth",
        str(folder / "gt.json"),
        "--prediction",
        str(folder / "pred.json"),
    ]
    assert main(words) == 0
    published = capsys.readouterr().out
    assert main([*words, "--strict"]) == 0
    assert capsys.readouterr().out != published


def test_wrong_areas_of_the_truth_are_believed_with_a_note_unless_strict(truth, capsys):
    change(truth, lambda content: [row.update(area=row["area"] + 1) for row in rows(content, 0)])
    words = ["coco", "evaluate", "--truth", str(truth), "--prediction", str(truth)]
    assert main(words) == 0
    believed = capsys.readouterr()
    assert "note: image 1: 6 segments have stated areas unlike their pixels" in believed.err
    assert "100.0 | 100.0 | 100.0" not in believed.out
    assert main([*words, "--strict"]) == 0
    counted = capsys.readouterr()
    assert "note" not in counted.err
    assert "100.0 | 100.0 | 100.0" in counted.out


def test_areas_and_scores_of_predictions_are_not_believed(truth, tmp_path):
    prediction = tmp_path / "prediction.json"
    shutil.copy(truth, prediction)
    shutil.copytree(truth.with_suffix(""), prediction.with_suffix(""))
    change(prediction, lambda content: [row.update(area=0, score=7) for row in rows(content, 0)])
    assert quality_of_counts(evaluate_coco(truth, prediction).counts).all.pq == 1


def test_classes_are_those_of_the_truth(truth, tmp_path):
    """Categories of the predictions' own are ignored, as published."""
    prediction = tmp_path / "prediction.json"
    shutil.copytree(truth.with_suffix(""), prediction.with_suffix(""))
    content = json.loads(truth.read_text())
    prediction.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "other"}]}))
    assert quality_of_counts(evaluate_coco(truth, prediction).counts).all.pq == 1


def rows(content: dict, image: int) -> list:
    return content["annotations"][image]["segments_info"]


BAD_IMAGES = [
    (lambda content: rows(content, 1).pop(), "missing in the table"),
    (
        lambda content: rows(content, 1).append({"id": 99, "category_id": 1}),
        "Segment 99 is in the table but missing in the raster",
    ),
    (lambda content: rows(content, 1)[0].update(category_id=77), "unknown category 77"),
    (lambda content: rows(content, 1)[0].update(category_id="1"), 'category_id "1"'),
    (lambda content: rows(content, 1)[0].pop("category_id"), "no 'category_id'"),
    (lambda content: rows(content, 1)[0].update(id=0), "id 0"),
    (lambda content: rows(content, 1)[0].update(id=2**24), "id 16777216"),
    (lambda content: rows(content, 1)[0].update(id=1.0), "id 1.0"),
    (lambda content: rows(content, 1).append(rows(content, 1)[0]), "id 1 is listed twice"),
    (lambda content: content["annotations"][1].update(segments_info=5), "not a list of segments"),
    (
        lambda content: content["annotations"][1].update(file_name="../2.png"),
        "file name '../2.png'",
    ),
    (
        lambda content: content["annotations"][1].update(file_name="other.png"),
        "other.png: no such file",
    ),
    (
        lambda content: content["annotations"].append(content["annotations"][1]),
        "2 annotations of image 2",
    ),
]


@pytest.mark.parametrize("side", ["truth", "prediction"])
@pytest.mark.parametrize(("edit", "message"), BAD_IMAGES)
def test_an_image_that_is_wrong_is_named_and_the_others_are_scored(
    truth, tmp_path, capsys, side, edit, message
):
    bad = tmp_path / "bad.json"
    shutil.copy(truth, bad)
    shutil.copytree(truth.with_suffix(""), bad.with_suffix(""))
    change(bad, edit)
    files = {"truth": truth, "prediction": truth, side: bad}
    words = [
        "--truth",
        str(files["truth"]),
        "--prediction",
        str(files["prediction"]),
        "--json",
        str(tmp_path / "s.json"),
    ]
    assert main(["coco", "evaluate", *words]) == 2
    said = capsys.readouterr()
    [line, last] = said.err.splitlines()
    assert message in line
    assert "image 2" in line
    assert str(bad) in line
    assert last.startswith("panoseg coco: 2 images scored, 1 left out")
    assert "100.0 | 100.0 | 100.0" in said.out
    scores = json.loads((tmp_path / "s.json").read_text())
    assert (scores["images"], len(scores["failures"])) == (2, 1)


def test_an_image_without_a_prediction_is_named(truth, tmp_path, capsys):
    less = tmp_path / "less.json"
    shutil.copy(truth, less)
    shutil.copytree(truth.with_suffix(""), less.with_suffix(""))
    change(less, lambda content: content["annotations"].pop(0))
    assert main(["coco", "evaluate", "--truth", str(truth), "--prediction", str(less)]) == 2
    assert f"no annotation of image 1 in {less}" in capsys.readouterr().err
    assert main(["coco", "evaluate", "--truth", str(less), "--prediction", str(truth)]) == 0
    said = capsys.readouterr().err
    assert (
        f"note: {truth} has 1 images that the truth does not have, the first 1; they are not scored"
        in said
    )
    assert f"note: {less} has 1 images without annotation, the first 1" in said


def test_pictures_of_another_size_and_areas_of_nothing_are_named(truth, tmp_path, capsys):
    other = tmp_path / "other.json"
    cropped = [picture(1).crop(slice(0, 10), slice(0, 16)), picture(2), picture(3)]
    write_coco(other, [(f"{number}.jpg", each) for number, each in enumerate(cropped, 1)], TABLE)
    change(truth, lambda content: rows(content, 1)[0].update(area=0))
    assert main(["coco", "evaluate", "--truth", str(truth), "--prediction", str(other)]) == 2
    said = capsys.readouterr().err
    assert f"image 1 of {other}: the PNG has 16 x 10 pixels and that of the truth 16 x 12" in said
    assert f"image 2 of {truth}: area 0 of segment 1" in said


def test_of_very_many_failures_some_are_told(tmp_path, capsys):
    path = tmp_path / "many.json"
    annotations = [
        {"image_id": number, "file_name": "none.png", "segments_info": []} for number in range(50)
    ]
    path.write_text(json.dumps({"annotations": annotations, "categories": category_rows(TABLE)}))
    assert main(["coco", "evaluate", "--truth", str(path), "--prediction", str(path)]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 22
    assert "and 30 more" in said.err
    assert said.out == ""


@pytest.mark.parametrize("text", ["[]", "{}", "5", "", '{"annotations": NaN}'])
def test_a_file_that_is_none_ends_in_one_line(truth, tmp_path, capsys, text):
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert main(["coco", "evaluate", "--truth", str(bad), "--prediction", str(truth)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(bad) in line


# -------------------------------------------------------------------------------------------------------------------
# merge


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("panoptic", []),
        (
            "panoptic_overlap0.2_area100_score0.7",
            ["--overlap=0.2", "--stuff-area=100", "--score=0.7"],
        ),
    ],
)
def test_merging_equals_the_published_tool_up_to_the_names_of_things(
    golden, real_data, tmp_path, name, words
):
    folder = golden / "panopticapi" / "combine"
    categories = real_data / "coco-sample" / "panoptic_coco_categories.json"
    files = [
        "--semantic",
        folder / "semantic.json",
        "--instances",
        folder / "instances.json",
        "--images",
        folder / "images.json",
    ]
    options = ["--categories", categories, "--out", tmp_path / "out"]
    assert main(["coco", "merge", *map(str, [*files, *options]), *words]) == 0
    merged = tmp_path / "out" / "panoptic.json"
    content = json.loads(merged.read_text())
    assert content["images"] == json.loads((folder / "images.json").read_text())["images"]
    assert content["categories"] == json.loads(categories.read_text())
    published = json.loads((folder / f"{name}.json").read_text())["annotations"]
    assert [row["file_name"] for row in content["annotations"]] == [
        row["file_name"] for row in published
    ]
    for ours, theirs in zip(content["annotations"], published, strict=True):
        raster, other = (
            read_ids(merged.with_suffix("") / ours["file_name"]),
            read_ids(folder / name / theirs["file_name"]),
        )
        # A class of stuff that is listed twice is one segment here.
        expected = list(
            dict.fromkeys((row["id"], row["category_id"]) for row in theirs["segments_info"])
        )
        assert [row["category_id"] for row in ours["segments_info"]] == [
            class_id for _, class_id in expected
        ]
        for row, (other_id, _) in zip(ours["segments_info"], expected, strict=True):
            np.testing.assert_array_equal(raster == row["id"], other == other_id)
            assert row["area"] == (raster == row["id"]).sum()
        assert not (raster[other == 0]).any()


def mask_row(mask: np.ndarray, class_id: int, image_id: int = 1, **values) -> dict:
    return {
        "image_id": image_id,
        "category_id": class_id,
        "segmentation": encode_mask(mask),
        **values,
    }


def block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def predictions(tmp_path):
    """Semantic and instance predictions of three images, and the categories."""
    semantic = [mask_row(block(0, 12, 0, 16), 3, image_id) for image_id in (1, 2, 3)]
    instances = [mask_row(block(0, 4, 0, 4), 1, image_id, score=0.9) for image_id in (1, 2, 3)]
    instances += [mask_row(block(2, 6, 0, 4), 1, image_id, score=0.6) for image_id in (1, 2, 3)]
    paths = [tmp_path / f"{name}.json" for name in ("semantic", "instances", "categories")]
    for path, content in zip(paths, (semantic, instances, category_rows(TABLE)), strict=True):
        path.write_text(json.dumps(content))
    return paths


def merge_words(predictions, out, *more) -> list[str]:
    semantic, instances, categories = map(str, predictions)
    files = ["--semantic", semantic, "--instances", instances, "--categories", categories]
    return ["coco", "merge", *files, "--out", str(out), "--stuff-area", "4", *more]


def test_every_threshold_matters(predictions, tmp_path):
    def areas(name: str, *more: str) -> list[int]:
        assert main(merge_words(predictions, tmp_path / name, *more)) == 0
        return [
            row["area"] for row in rows_of(tmp_path / name / "panoptic.json")[0]["segments_info"]
        ]

    assert areas("a") == [16, 8, 168]
    assert areas("b", "--score", "0.7") == [16, 176]
    assert areas("c", "--overlap", "0.4") == [16, 176]
    assert areas("d", "--stuff-area", "169") == [16, 8]


def test_without_categories_the_classes_of_instances_are_things(predictions, tmp_path, capsys):
    words = merge_words(predictions, tmp_path / "out")
    at = words.index("--categories")
    assert main(words[:at] + words[at + 2 :]) == 0
    assert "no file has categories: the 1 classes of" in capsys.readouterr().err
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [(row["id"], row["isthing"]) for row in content["categories"]] == [(1, 1), (3, 0)]
    assert content["images"][2] == {
        "id": 3,
        "file_name": "000000000003.jpg",
        "height": 12,
        "width": 16,
    }


def test_only_the_images_that_are_listed_are_merged(predictions, tmp_path, capsys):
    images = tmp_path / "images.json"
    images.write_text(
        json.dumps(
            {"images": [{"id": 2, "file_name": "a/b.c.jpg"}, {"id": 9, "file_name": "9.jpg"}]}
        )
    )
    words = merge_words(predictions, tmp_path / "out", "--images", str(images))
    assert main(words) == 2, "the size of image 9 is not known"
    said = capsys.readouterr().err
    assert f"image 9 of {images}: no height and width" in said
    assert "has 2 images that are not listed, the first 1; they are left out" in said
    assert (tmp_path / "out" / "panoptic" / "a" / "b.c.png").is_file()
    change(images, lambda content: content["images"][1].update(height=5, width=4))
    assert (
        main(
            [
                *words[: words.index("--out")],
                "--out",
                str(tmp_path / "two"),
                "--images",
                str(images),
            ]
        )
        == 0
    )
    merged = CocoAnnotations.open(tmp_path / "two" / "panoptic.json")
    assert [len(each.segmentation.segments) for each in merged] == [
        2,
        0,
    ], "without predictions an image is void"


def test_a_class_of_stuff_that_is_listed_twice_is_one_segment(predictions, tmp_path):
    twice = [
        mask_row(block(0, 2, 0, 16), 3),
        mask_row(block(6, 8, 0, 16), 4),
        mask_row(block(10, 12, 0, 16), 3),
    ]
    predictions[0].write_text(json.dumps(twice))
    assert (
        main(merge_words(predictions, tmp_path / "out", "--stuff-area", "40", "--score", "0.95"))
        == 0
    )
    [first, *_] = rows_of(tmp_path / "out" / "panoptic.json")
    assert [(row["category_id"], row["area"]) for row in first["segments_info"]] == [(3, 64)]


def test_stuff_that_is_listed_first_comes_first_and_things_in_the_semantic_file_are_ignored(
    predictions, tmp_path
):
    overlapping = [
        mask_row(block(0, 8, 0, 16), 3),
        mask_row(block(4, 12, 0, 16), 4),
        mask_row(block(0, 12, 0, 16), 1),
    ]
    predictions[0].write_text(json.dumps(overlapping))
    assert main(merge_words(predictions, tmp_path / "out", "--score", "0.95")) == 0
    segments = rows_of(tmp_path / "out" / "panoptic.json")[0]["segments_info"]
    assert [(row["category_id"], row["area"]) for row in segments] == [(3, 128), (4, 64)]


@pytest.mark.parametrize(
    ("which", "edit", "message"),
    [
        (1, lambda row: row.update(category_id=77), "unknown category 77"),
        (1, lambda row: row.update(category_id=3), "category 3, which is stuff"),
        (1, lambda row: row.pop("score"), "no 'score'"),
        (1, lambda row: row.update(score="high"), 'score "high" is not a number'),
        (1, lambda row: row["segmentation"].update(size=[16, 12]), "size [16, 12]"),
        (1, lambda row: row["segmentation"].update(counts="1234"), "run lengths of 12 pixels"),
        (0, lambda row: row.update(segmentation=None), "segmentation null"),
        (0, lambda row: row.update(category_id=None), "unknown category null"),
        (0, lambda row: row["segmentation"].update(counts="o"), "not compressed run lengths"),
        (
            0,
            lambda row: row["segmentation"].update(size=[10**6, 10**6]),
            "1000000 x 1000000 pixels",
        ),
    ],
)
def test_an_image_that_cannot_be_merged_is_named_and_the_others_are_merged(
    predictions, tmp_path, capsys, which, edit, message
):
    content = json.loads(predictions[which].read_text())
    edit(content[1])
    predictions[which].write_text(json.dumps(content))
    assert main(merge_words(predictions, tmp_path / "out")) == 2
    [line, last] = capsys.readouterr().err.splitlines()
    assert message in line
    assert "image 2" in line
    assert "2 images in" in last
    assert [row["image_id"] for row in rows_of(tmp_path / "out" / "panoptic.json")] == [1, 3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "panoptic",
        "panoptic.json",
    ]


def test_where_no_image_can_be_merged_nothing_is_written(predictions, tmp_path, capsys):
    predictions[0].write_text(json.dumps([mask_row(block(0, 1, 0, 1), 99)]))
    predictions[1].write_text("[]")
    assert main(merge_words(predictions, tmp_path / "out")) == 2
    assert "unknown category 99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert main(merge_words(predictions, tmp_path / "out")) == 2
    assert "new or empty folder" in capsys.readouterr().err


def test_rows_without_an_image_are_named(predictions, tmp_path, capsys):
    content = json.loads(predictions[1].read_text())
    content[0].pop("image_id")
    predictions[1].write_text(json.dumps([*content, 5]))
    assert main(merge_words(predictions, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert f"{predictions[1]}: row 0 of the annotations has no image_id" in said
    assert "row 6 of the annotations" in said
    assert len(rows_of(tmp_path / "out" / "panoptic.json")) == 3


def test_names_from_ids_stay_in_the_folder(predictions, tmp_path, capsys):
    content = [
        {**row, "image_id": "../../up"} if row["image_id"] == 2 else row
        for row in json.loads(predictions[0].read_text())
    ]
    predictions[0].write_text(json.dumps(content))
    assert main(merge_words(predictions, tmp_path / "out" / "deep")) == 2
    assert f'image "../../up" of {predictions[1]}: file name' in capsys.readouterr().err
    assert not list(tmp_path.glob("**/up*"))


@pytest.mark.parametrize("name", ["\ud800", "x" * 300, "x/" * 2000 + "y", "\u6d77" * 90])
def test_a_name_that_no_disk_holds_costs_its_image(predictions, tmp_path, capsys, name):
    content = [
        {**row, "image_id": name} if row["image_id"] == 2 else row
        for row in json.loads(predictions[0].read_text())
    ]
    predictions[0].write_text(json.dumps(content))
    assert main(merge_words(predictions, tmp_path / "out")) == 2
    assert "file name" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out" / "panoptic.json")) == 3


def test_a_name_as_long_as_a_disk_holds_is_written(predictions, tmp_path):
    name = "\u6d77" * 80  # 240 bytes
    for path in predictions[:2]:
        rows = json.loads(path.read_text())
        path.write_text(
            json.dumps([{**row, "image_id": name} if row["image_id"] == 2 else row for row in rows])
        )
    assert main(merge_words(predictions, tmp_path / "out")) == 0
    assert (tmp_path / "out" / "panoptic" / f"{name}.png").exists()


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32 - 1))
def test_merged_files_have_ids_that_never_meet(tmp_path_factory, seed):
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("merge")
    masks = [random.random(SIZE) < random.choice([0.1, 0.5, 1.0]) for _ in range(12)]
    instances = [
        mask_row(mask, int(random.integers(1, 3)), score=float(random.random())) for mask in masks
    ]
    semantic = [mask_row(random.random(SIZE) < 0.5, int(random.integers(3, 5))) for _ in range(5)]
    for name, content in (("s", semantic), ("i", instances), ("c", category_rows(TABLE))):
        (folder / f"{name}.json").write_text(json.dumps(content))
    thresholds = MergeThresholds(0.2, 0.9, 1)
    files = folder / "s.json", folder / "i.json", folder / "out"
    written = merge_coco(*files, categories_json=folder / "c.json", thresholds=thresholds)
    annotated = CocoAnnotations.open(written.path).read(
        1
    )  # refuses ids that are black, meet, or have other areas
    covered = np.logical_or.reduce(
        [decode_mask(row["segmentation"], *SIZE) for row in semantic + instances]
    )
    assert not annotated.segmentation.segment_HW[~covered].any()
    np.testing.assert_array_equal(annotated.stated_areas_N, annotated.segmentation.segments.areas)


@given(st.lists(st.integers(1, 4), max_size=60))
def test_coloured_ids_never_meet_and_are_never_black(class_ids):
    ids = coloured_ids(class_ids, TABLE)
    assert len(set(ids)) == len(ids)
    assert all(0 < id_ < 2**24 for id_ in ids)
    if 1 in class_ids:
        assert ids[class_ids.index(1)] == 0xDC + 256 * 0x14 + 65536 * 0x3C


def test_colours_are_found_however_many_are_taken():
    ids = coloured_ids([1] * 3000 + [4] * 30000, TABLE)
    assert len({0, *ids}) == 33001


# -----------------------------------------------------------------------------------------------------------------
# convert


@pytest.fixture
def sample(real_data):
    return real_data / "coco-sample"


@pytest.mark.parametrize(
    ("name", "words"), [("detection", []), ("detection_things_only", ["--things-only"])]
)
def test_detections_equal_the_published_ones(golden, sample, tmp_path, name, words):
    source = str(sample / "panoptic_examples.json")
    assert (
        main(
            ["coco", "convert", source, "--to", "detection", "--out", str(tmp_path / "out"), *words]
        )
        == 0
    )
    assert rows_of(tmp_path / "out" / "detection.json") == rows_of(
        golden / "panopticapi" / "convert" / f"{name}.json"
    )
    categories = json.loads((tmp_path / "out" / "detection.json").read_text())["categories"]
    assert len(categories) == (80 if words else 133)


@pytest.mark.parametrize(
    ("name", "words"), [("semantic", []), ("semantic_things_other", ["--things-as", "183"])]
)
def test_semantic_maps_equal_the_published_ones(golden, sample, tmp_path, name, words):
    folder = golden / "panopticapi" / "convert"
    source = str(sample / "panoptic_examples.json")
    assert (
        main(
            ["coco", "convert", source, "--to", "semantic", "--out", str(tmp_path / "out"), *words]
        )
        == 0
    )
    assert rows_of(tmp_path / "out" / "semantic.json") == rows_of(folder / f"{name}.json")
    for path in (folder / name).iterdir():
        np.testing.assert_array_equal(
            Image.open(tmp_path / "out" / "semantic" / path.name), Image.open(path)
        )
    categories = json.loads((tmp_path / "out" / "semantic.json").read_text())["categories"]
    assert len(categories) == (54 if words else 133)


def assert_same_up_to_ids(ours, theirs, table) -> None:
    first, second = CocoAnnotations.open(ours), CocoAnnotations.open(theirs, table=table)
    assert first.image_ids == second.image_ids
    for annotated in first:
        assert annotated.segmentation.same_up_to_ids(second.read(annotated.image_id).segmentation)
    for row, other in zip(rows_of(ours), rows_of(theirs), strict=True):
        assert (row["image_id"], row["file_name"]) == (other["image_id"], other["file_name"])
        for segment, expected in zip(row["segments_info"], other["segments_info"], strict=True):
            assert all(segment[name] == value for name, value in expected.items() if name != "id")


def test_panoptic_from_detections_equals_the_published_one(golden, sample, tmp_path):
    folder = golden / "panopticapi" / "convert"
    content = {
        **json.loads((sample / "panoptic_examples.json").read_text()),
        "annotations": rows_of(folder / "detection.json"),
    }
    (tmp_path / "detection.json").write_text(json.dumps(content))
    assert (
        main(
            [
                "coco",
                "convert",
                str(tmp_path / "detection.json"),
                "--to",
                "panoptic",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    table = CocoAnnotations.open(sample / "panoptic_examples.json").table
    assert_same_up_to_ids(tmp_path / "out" / "panoptic.json", folder / "from_detection.json", table)


def test_panoptic_from_two_channels_equals_the_published_one(golden, sample, tmp_path):
    words = [
        "coco",
        "convert",
        sample / "images_info_examples.json",
        "--folder",
        sample / "panoptic_examples_2ch_format",
    ]
    words += [
        "--categories",
        sample / "panoptic_coco_categories.json",
        "--to",
        "panoptic",
        "--out",
        tmp_path / "out",
    ]
    assert main(list(map(str, words))) == 0
    table = CocoAnnotations.open(sample / "panoptic_examples.json").table
    theirs = golden / "panopticapi" / "convert" / "from_2channels.json"
    assert_same_up_to_ids(tmp_path / "out" / "panoptic.json", theirs, table)


def test_two_channels_equal_the_published_sample_and_come_back(sample, tmp_path):
    written = convert_coco(sample / "panoptic_examples.json", "two-channel", tmp_path / "two")
    for path in (sample / "panoptic_examples_2ch_format").iterdir():
        np.testing.assert_array_equal(
            Image.open(written.path.with_suffix("") / path.name), Image.open(path)
        )
    back = convert_coco(written.path, "panoptic", tmp_path / "back")
    truth = CocoAnnotations.open(sample / "panoptic_examples.json")
    for annotated in CocoAnnotations.open(back.path):
        assert annotated.segmentation.same_up_to_ids(truth.read(annotated.image_id).segmentation)


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["two-channel", "detection"]))
def test_what_is_converted_comes_back(tmp_path_factory, seed, form):
    folder = tmp_path_factory.mktemp("convert")
    write_coco(folder / "truth.json", [("a.b.jpg", picture(seed))], TABLE)
    there = convert_coco(folder / "truth.json", form, folder / "there")
    back = convert_coco(there.path, "panoptic", folder / "back")
    [annotated] = CocoAnnotations.open(back.path)
    assert annotated.file_name == "a.b.png"
    assert annotated.segmentation.same_up_to_ids(picture(seed))


def test_crowds_and_void_in_two_channels(truth, tmp_path):
    change(truth, lambda content: [row.update(iscrowd=1) for row in rows(content, 0)[:2]])
    written = convert_coco(truth, "two-channel", tmp_path / "out", options=ConvertOptions(void=9))
    pixels = np.asarray(Image.open(written.path.with_suffix("") / "1.png"))
    segments = picture(1)
    expected = {1: (1, 255), 2: (1, 254), 3: (2, 0), 4: (2, 1), 5: (3, 0), 6: (4, 0), 0: (9, 0)}
    for id_, (red, green) in expected.items():
        assert (pixels[segments.segment_HW == id_] == (red, green, 0)).all()
    back = convert_coco(written.path, "panoptic", tmp_path / "back", options=ConvertOptions(void=9))
    assert CocoAnnotations.open(back.path).read(1).segmentation.same_up_to_ids(segments)
    assert convert_coco(truth, "two-channel", tmp_path / "again").images == 3


def test_semantic_pictures_in_colours(truth, tmp_path):
    written = convert_coco(
        truth, "semantic", tmp_path / "out", options=ConvertOptions(colours=True, things_as=9)
    )
    pixels = np.asarray(Image.open(written.path.with_suffix("") / "1.png"))
    classes = picture(1).classes_HW()
    for class_id, colour in {
        0: (0, 0, 0),
        1: (128, 128, 128),
        2: (128, 128, 128),
        3: (0, 0, 255),
        4: (0, 0, 0),
    }.items():
        assert (pixels[classes == class_id] == colour).all()


def test_the_command_passes_its_options_on(truth, tmp_path):
    for name, words in (
        ("a", ["--to", "semantic", "--colours"]),
        ("b", ["--to", "two-channel", "--void", "9"]),
    ):
        assert main(["coco", "convert", str(truth), *words, "--out", str(tmp_path / name)]) == 0
    assert np.asarray(Image.open(tmp_path / "a" / "semantic" / "1.png")).shape == (*SIZE, 3)
    pixels = np.asarray(Image.open(tmp_path / "b" / "two_channel" / "1.png"))
    assert (pixels[picture(1).segment_HW == 0] == (9, 0, 0)).all()
    moved = (tmp_path / "b" / "two_channel").rename(tmp_path / "moved")
    back = [
        "coco",
        "convert",
        str(tmp_path / "b" / "two_channel.json"),
        "--to",
        "panoptic",
        "--void",
        "9",
    ]
    assert main([*back, "--out", str(tmp_path / "c")]) == 2
    assert main([*back, "--folder", str(moved), "--out", str(tmp_path / "d")]) == 0


def test_semantic_pictures_of_large_classes_have_two_bytes(truth, tmp_path):
    written = convert_coco(
        truth, "semantic", tmp_path / "out", options=ConvertOptions(things_as=300)
    )
    pixels = np.asarray(Image.open(written.path.with_suffix("") / "1.png"))
    assert sorted(set(pixels.ravel().tolist())) == [0, 3, 4, 300]


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        (
            "semantic",
            {"things_only": True},
            "--things-only does not apply to --to semantic, only to --to detection",
        ),
        (
            "detection",
            {"things_as": 9},
            "--things-as does not apply to --to detection, only to --to semantic",
        ),
        ("two-channel", {"colours": True}, "--colours does not apply to --to two-channel"),
        (
            "semantic",
            {"void": 7},
            "--void does not apply to --to semantic, only to --to panoptic or two-channel",
        ),
        ("semantic", {"things_as": 3}, "--things-as 3 is a class of stuff"),
    ],
)
def test_options_that_would_do_nothing_are_refused(truth, tmp_path, to, options, message):
    with pytest.raises(ConfigError, match=message):
        convert_coco(truth, to, tmp_path / "out", options=ConvertOptions(**options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"void": 256}, {"void": -1}, {"things_as": 2**16}])
def test_classes_beyond_their_bytes_are_refused(options):
    with pytest.raises(ConfigError, match="a class 0"):
        ConvertOptions(**options)


def test_a_file_of_the_wrong_form_is_refused(truth, tmp_path):
    with pytest.raises(PanopticFormatError, match="is panoptic already"):
        convert_coco(truth, "panoptic", tmp_path / "out")
    detections = convert_coco(truth, "detection", tmp_path / "detections").path
    with pytest.raises(PanopticFormatError, match="has no segments_info"):
        convert_coco(detections, "semantic", tmp_path / "out")
    change(detections, lambda content: content.pop("categories"))
    with pytest.raises(PanopticFormatError, match="no categories in"):
        convert_coco(detections, "panoptic", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["two-channel", "detection", "semantic"])
@pytest.mark.parametrize(("edit", "message"), BAD_IMAGES)
def test_an_image_that_cannot_be_converted_is_named(truth, tmp_path, capsys, to, edit, message):
    change(truth, edit)
    assert main(["coco", "convert", str(truth), "--to", to, "--out", str(tmp_path / "out")]) == 2
    [line, last] = capsys.readouterr().err.splitlines()
    assert message.removesuffix(" of image 2") in line
    assert "image 2" in line
    assert str(truth) in line
    assert last.startswith("panoseg coco: 2 images in")


def detection_file(tmp_path, annotations, **image):
    images = [
        {"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for number in (1, 2)
    ]
    images[1].update(image)
    path = tmp_path / "detection.json"
    path.write_text(
        json.dumps(
            {"images": images, "annotations": annotations, "categories": category_rows(TABLE)}
        )
    )
    return path


GOOD = [
    mask_row(block(0, 4, 0, 4), 1, id=10),
    mask_row(block(4, 8, 0, 4), 3, id=11),
    mask_row(block(0, 2, 8, 9), 2, 2, id=12),
]


def test_detections_keep_their_values_and_stuff_is_one_segment(tmp_path):
    polygon = {
        "image_id": 1,
        "category_id": 2,
        "segmentation": [[10, 6, 14, 6, 14, 10, 10, 10]],
        "area": 3.5,
        "id": 13,
    }
    empty = mask_row(block(0, 0, 0, 0), 1, id=14)
    more = [polygon, mask_row(block(10, 12, 0, 4), 3, id=15, iscrowd=0, note="x"), empty]
    written = convert_coco(detection_file(tmp_path, [*GOOD, *more]), "panoptic", tmp_path / "out")
    first = rows_of(written.path)[0]["segments_info"]
    assert [(row["category_id"], row["area"], row["bbox"]) for row in first] == [
        (1, 16, [0, 0, 4, 4]),
        (3, 24, [0, 4, 4, 8]),
        (2, 16, [10, 6, 4, 4]),
    ]
    assert len(CocoAnnotations.open(written.path).read(1).segmentation.segments) == 3


@pytest.mark.parametrize(
    ("row", "image", "message"),
    [
        (
            mask_row(block(1, 3, 8, 10), 1, 2, id=20),
            {},
            "annotations 12 of category 2 and 20 of category 1 share 1 pixels",
        ),
        (mask_row(block(1, 3, 8, 10), 9, 2), {}, "unknown category 9"),
        (mask_row(np.ones((3, 3), bool), 1, 2), {}, "run lengths of size [3, 3]"),
        ({"image_id": 2, "category_id": 1}, {}, "no 'segmentation'"),
        (
            mask_row(block(0, 0, 0, 0), 1, 2),
            {"height": 10**6, "width": 10**6},
            "1000000 x 1000000 pixels",
        ),
        (mask_row(block(0, 0, 0, 0), 1, 2), {"height": None}, "an image of null x 16 pixels"),
        (mask_row(block(0, 0, 0, 0), 1, 2), {"file_name": "../x.jpg"}, "file name '../x.jpg'"),
        (
            mask_row(block(0, 0, 0, 0), 1, 2),
            {"file_name": "1.png"},
            "two images would get the PNG file 1.png",
        ),
        (
            mask_row(block(0, 0, 0, 0), 1, 7),
            {},
            "annotations of image 7, which is not among the images",
        ),
    ],
)
def test_detections_that_are_wrong_are_named(tmp_path, capsys, row, image, message):
    path = detection_file(tmp_path, [*GOOD, row], **image)
    assert (
        main(["coco", "convert", str(path), "--to", "panoptic", "--out", str(tmp_path / "out")])
        == 2
    )
    [line, _] = capsys.readouterr().err.splitlines()
    assert message in line
    assert str(path) in line
    done = [each["image_id"] for each in rows_of(tmp_path / "out" / "panoptic.json")]
    assert done == ([1, 2] if "7" in message else [1])


def test_two_channel_pictures_that_are_wrong_are_named(truth, tmp_path, capsys):
    written = convert_coco(truth, "two-channel", tmp_path / "two")
    folder = written.path.with_suffix("")
    pixels = np.array(Image.open(folder / "1.png"))
    pixels[0, 0] = (77, 0, 0)
    Image.fromarray(pixels).save(folder / "1.png")
    Image.fromarray(pixels[..., 0]).save(folder / "2.png")
    Image.fromarray(pixels[:5]).save(folder / "3.png")
    change(written.path, lambda content: content["images"].append({"id": 4, "file_name": "4.jpg"}))
    shutil.copytree(tmp_path / "two" / "two_channel", tmp_path / "keep")
    Image.fromarray(
        np.array(Image.open(truth.with_suffix("") / "1.png").convert("LA")) * 0 + 1
    ).save(folder / "4.png")
    assert (
        main(
            [
                "coco",
                "convert",
                str(written.path),
                "--to",
                "panoptic",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "image 1" in said
    assert "unknown category 77" in said
    assert "2.png of mode L does not have two channels" in said
    assert "the PNG has 16 x 5 pixels, but the JSON states 16 x 12" in said
    assert [row["image_id"] for row in rows_of(tmp_path / "out" / "panoptic.json")] == [4]


def test_more_segments_than_a_byte_can_number_are_refused(tmp_path):
    raster = np.arange(1, 301).reshape(15, 20)
    many = Panoptic.from_maps(raster, dict.fromkeys(range(1, 301), 1), TABLE)
    write_coco(tmp_path / "truth.json", [("a.jpg", many)], TABLE)
    with pytest.raises(PanopticFormatError, match="more than 256 segments of class 1"):
        convert_coco(tmp_path / "truth.json", "two-channel", tmp_path / "out")


# --------------------------------------------------------------------------------------------------------------------
# fuzz


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([1, 2, 3, 10**6, "1.png"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def places(value, way=()) -> list:
    """The way to every value inside a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [way, *(place for key, each in inner for place in places(each, (*way, key)))]


def replaced(value, way, new):
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = replaced(copy[way[0]], way[1:], new)
    return copy


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_for_any_file_a_tool_ends_with_a_result_or_in_lines(tmp_path_factory, capsys, data):
    """One value somewhere in one of the files is another."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_coco(folder / "truth.json", [("1.jpg", picture(1)), ("2.jpg", picture(2))], TABLE)
    files = {
        "truth": json.loads((folder / "truth.json").read_text()),
        "detection": json.loads(detection_file(folder, GOOD).read_text()),
        "semantic": [mask_row(block(0, 12, 0, 16), 3)],
        "instances": [mask_row(block(0, 4, 0, 4), 1, score=0.9)],
        "categories": category_rows(TABLE),
    }
    name = data.draw(st.sampled_from(sorted(files)))
    way = data.draw(st.sampled_from(places(files[name])))
    files[name] = replaced(files[name], way, data.draw(json_values))
    for each, content in files.items():
        (folder / f"{each}.json").write_text(json.dumps(content))
    path = {each: str(folder / f"{each}.json") for each in files}
    commands = {
        "truth": [
            ["evaluate", "--truth", path["truth"], "--prediction", path["truth"]],
            ["convert", path["truth"], "--to", "two-channel", "--out", str(folder / "a")],
            ["convert", path["truth"], "--to", "detection", "--out", str(folder / "b")],
            ["convert", path["truth"], "--to", "semantic", "--out", str(folder / "c")],
        ],
        "detection": [
            ["convert", path["detection"], "--to", "panoptic", "--out", str(folder / "d")]
        ],
    }
    merge = [
        "merge",
        "--semantic",
        path["semantic"],
        "--instances",
        path["instances"],
        "--categories",
        path["categories"],
    ]
    for words in commands.get(name, [[*merge, "--out", str(folder / "e")]]):
        code = main(["coco", *words])
        said = capsys.readouterr().err
        assert code in (0, 2)
        assert bool(said.strip()) or code == 0


# ---------------------------------------------------------------------------------------------------------
# over processes


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_and_failures_stay_with_their_image(monkeypatch, processes):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    names = ["../up.jpg" if number % 7 == 3 else f"{number}.jpg" for number in range(60)]
    for name, result in zip(names, over_images(png_name, names, 60, processes), strict=True):
        assert str(result).startswith(
            "file name '../up.jpg'" if name[0] == "." else name.replace("jpg", "png")
        )


def test_only_a_few_images_are_under_way(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    taken = []
    results = over_images(
        png_name, (taken.append(number) or f"{number}.jpg" for number in range(1000)), 1000, 2
    )
    next(results)
    assert len(taken) <= 2 * 3 * 8
    results.close()


def test_few_large_jobs_keep_all_processes_busy(monkeypatch):
    """A shard is a job of minutes: eight of them in a row would leave most processes without
    any.
    """
    chunks = []

    class Pool:
        def __init__(self, *options, **more):
            pass

        def submit(self, work, function, jobs):
            chunks.extend([len(jobs)] * bool(jobs))  # empty ones only start the processes
            done = Future()
            done.set_result(work(function, jobs))
            return done

        def shutdown(self, **options):
            pass

    monkeypatch.setattr(parallel, "usable_cores", lambda: 16)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Pool)
    assert len(list(over_images(png_name, (f"{number}.jpg" for number in range(32)), 32, 16))) == 32
    assert chunks == [1] * 32
    chunks.clear()
    list(over_images(png_name, (f"{number}.jpg" for number in range(1000)), 1000, 16))
    assert set(chunks) == {8}


def test_this_process_works_while_the_others_start(monkeypatch):
    """A process takes as long to start as hundreds of images take to be scored."""
    shut = []

    class Pool:
        def __init__(self, *options, **more):
            pass

        def submit(self, work, function, jobs):
            assert not jobs, "no process is there yet"
            return Future()

        def shutdown(self, wait, cancel_futures):
            shut.append(wait)

    monkeypatch.setattr(parallel, "usable_cores", lambda: 4)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Pool)
    names = [f"{number}.jpg" for number in range(500)]
    assert list(over_images(png_name, names, 500, 4)) == [f"{number}.png" for number in range(500)]
    assert shut == [False], "nobody waits for processes that have nothing to do"


@pytest.mark.parametrize("processes", [0, -1, 10**4])
def test_an_impossible_number_of_processes_is_refused(
    truth, predictions, tmp_path, capsys, processes
):
    commands = (
        ["coco", "evaluate", "--truth", str(truth), "--prediction", str(truth)],
        ["coco", "convert", str(truth), "--to", "detection", "--out", str(tmp_path / "a")],
        merge_words(predictions, tmp_path / "b"),
    )
    for words in commands:
        assert main([*words, "--processes", str(processes)]) == 2
        assert "--processes is" in capsys.readouterr().err


def test_a_full_disk_ends_all_and_leaves_nothing(truth, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OutputError("the disk is full: free some space.")

    monkeypatch.setattr(coco_conversions, "save_png", full)
    assert (
        main(["coco", "convert", str(truth), "--to", "semantic", "--out", str(tmp_path / "out")])
        == 2
    )
    [line] = capsys.readouterr().err.splitlines()
    assert "the disk is full" in line
    assert not (tmp_path / "out").exists()


def test_the_benchmark_compares_programs_that_agree(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    coco_pairs = importlib.import_module("coco_pairs")
    monkeypatch.setattr(coco_pairs, "usable_cores", lambda: 1)
    plain, ours = coco_pairs.rows(2)  # which fails where their qualities differ
    assert (plain[-1], ours[0]) == ("1.0", "panoseg, 1 process")


def test_the_group_explains_itself(capsys):
    assert main(["coco"]) == 0
    assert "panoseg coco evaluate --truth" in capsys.readouterr().out
    assert main(["coco", "draw"]) == 2
    assert "panoseg coco has evaluate, merge, convert" in capsys.readouterr().err
    for verb in ("evaluate", "merge", "convert"):
        with pytest.raises(SystemExit):
            main(["coco", verb, "--help"])
        assert f"example: panoseg coco {verb}" in capsys.readouterr().out
