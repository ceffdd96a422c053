"""COCO files as people have them: ids and flags as text, colours of all programs, category 0, crowds
alone, masks that overlap, predictions that are missing, PNG files of other programs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoseg.cli import main
from panoseg.coco.categories import class_table
from panoseg.coco.format import CocoAnnotations
from panoseg.coco.masks import ids_to_colours
from panoseg.errors import PanopticFormatError

CATEGORIES = [
    {"id": 0, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 1, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 2, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
]
VOID, ROAD, CAR, SKY = 0, 5, 9, 300


def ids() -> np.ndarray:
    ids_HW = np.full((8, 12), ROAD, np.int32)
    ids_HW[:3] = SKY
    ids_HW[4:6, 2:6] = CAR
    ids_HW[7, :4] = VOID
    return ids_HW


def panoptic(folder: Path, name: str = "gt", images: int = 2, **changes) -> Path:
    """A panoptic JSON of equal photographs, each value of which may be changed."""
    segments = [
        {"id": ROAD, "category_id": 0, "area": int((ids() == ROAD).sum()), "iscrowd": 0},
        {"id": CAR, "category_id": 1, "area": 8, "iscrowd": 0},
        {"id": SKY, "category_id": 2, "area": 36, "iscrowd": 0},
    ]
    segments = [{**row, **changes.get("segment", {})} for row in segments]
    (folder / name).mkdir(parents=True, exist_ok=True)
    numbers = range(1, images + 1)
    for number in numbers:
        pixels = changes.get("pixels", ids_to_colours)(ids())
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    kind = changes.get("image_id", int)
    content = {
        "images": [
            {"id": kind(n), "file_name": f"{n}.jpg", "height": 8, "width": 12} for n in numbers
        ],
        "annotations": [
            {"image_id": kind(n), "file_name": f"{n}.png", "segments_info": segments}
            for n in numbers
        ],
        "categories": [{**row, **changes.get("category", {})} for row in CATEGORIES],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def detections(folder: Path, rows: list[dict], **image) -> Path:
    """A JSON of detections on one image of 8 x 12 pixels."""
    entry = {"id": 1, "file_name": "1.jpg", "height": 8, "width": 12, **image}
    rows = [{"id": n, "image_id": 1, "category_id": 1, **row} for n, row in enumerate(rows, 1)]
    path = folder / "detections.json"
    path.write_text(json.dumps({"images": [entry], "annotations": rows, "categories": CATEGORIES}))
    return path


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def evaluate(truth: Path, prediction: Path, *more: str) -> int:
    return main(["coco", "evaluate", "--truth", str(truth), "--prediction", str(prediction), *more])


def table(printed: str) -> str:
    """A table without its padding."""
    return " ".join(printed.split())


def convert(source: Path, to: str, out: Path, *more: str) -> int:
    return main(["coco", "convert", str(source), "--to", to, "--out", str(out), *more])


# Category 0


@pytest.mark.parametrize("things_as", [None, "7"])
def test_category_0_keeps_its_pixels_in_semantic_maps(tmp_path, capsys, things_as):
    truth = panoptic(tmp_path)
    words = ["--things-as", things_as] if things_as else []
    assert convert(truth, "semantic", tmp_path / "out", *words) == 0
    assert "note: 0 is a class, so 255 means void" in capsys.readouterr().err
    map_HW = np.asarray(Image.open(tmp_path / "out" / "semantic" / "1.png"))
    car = int(things_as or 1)
    expected = {VOID: 255, ROAD: 0, CAR: car, SKY: 2}
    assert all((map_HW[ids() == id_] == value).all() for id_, value in expected.items())
    rows = json.loads((tmp_path / "out" / "semantic.json").read_text())["annotations"]
    assert [row["area"] for row in rows[:3]] == [48, 8, 36]


def test_category_0_beside_large_ones_has_a_void_of_two_bytes(tmp_path):
    truth = panoptic(tmp_path)
    content = json.loads(truth.read_text())
    content["categories"] += [{"id": 300, "name": "sea", "isthing": 0}]
    truth.write_text(json.dumps(content))
    assert convert(truth, "semantic", tmp_path / "out") == 0
    map_HW = np.asarray(Image.open(tmp_path / "out" / "semantic" / "1.png"))
    assert (map_HW[ids() == VOID] == 65535).all()
    assert (map_HW[ids() == ROAD] == 0).all()


@pytest.mark.parametrize("void", [None, "200"])
def test_category_0_comes_back_from_two_channels(tmp_path, capsys, void):
    truth = panoptic(tmp_path)
    words = ["--void", void] if void else []
    assert convert(truth, "two-channel", tmp_path / "two", *words) == 0
    assert ("so 255 means void" in capsys.readouterr().err) == (void is None)
    red_HW = np.asarray(Image.open(tmp_path / "two" / "two_channel" / "1.png"))[..., 0]
    assert (red_HW[ids() == VOID] == int(void or 255)).all()
    source = tmp_path / "two" / "two_channel.json"
    assert convert(source, "panoptic", tmp_path / "back", *words) == 0
    for read in CocoAnnotations.open(tmp_path / "back" / "panoptic.json"):
        areas = {row.class_id: row.area for row in read.segmentation.segments}
        assert areas == {0: 48, 1: 8, 2: 36}


def test_category_0_is_drawn_in_its_colour_detected_and_merged(tmp_path):
    truth = panoptic(tmp_path, images=1)
    assert convert(truth, "semantic", tmp_path / "colours", "--colours") == 0
    map_HW3 = np.asarray(Image.open(tmp_path / "colours" / "semantic" / "1.png"))
    assert (map_HW3[ids() == ROAD] == [128, 64, 128]).all()
    assert convert(truth, "detection", tmp_path / "detections") == 0
    source = tmp_path / "detections" / "detection.json"
    assert convert(source, "panoptic", tmp_path / "back") == 0
    content = json.loads(source.read_text())
    rows = [{**row, "score": 0.9} for row in content["annotations"]]
    kinds = {row["id"]: row["isthing"] for row in CATEGORIES}
    for name, is_thing in (("things", 1), ("stuff", 0)):
        own = [row for row in rows if kinds[row["category_id"]] == is_thing]
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    words = ["--semantic", str(tmp_path / "stuff.json"), "--instances"]
    words += [str(tmp_path / "things.json"), "--categories", str(truth), "--stuff-area", "1"]
    assert main(["coco", "merge", *words, "--out", str(tmp_path / "merged")]) == 0
    for folder in ("back", "merged"):
        [read] = CocoAnnotations.open(tmp_path / folder / "panoptic.json")
        areas = {row.class_id: row.area for row in read.segmentation.segments}
        assert areas == {0: 48, 1: 8, 2: 36}, folder


# Values as JSON shows them


def test_ids_of_images_that_are_text_on_one_side_are_shown(tmp_path, capsys):
    truth, prediction = panoptic(tmp_path), panoptic(tmp_path, "text", image_id=str)
    assert evaluate(truth, prediction) == 2
    said = capsys.readouterr().err
    assert f'no annotation of image 1 in {prediction} (it has "1", a text, which is not 1)' in said
    assert 'the first "1" (that has 1, a number, which is not "1")' in said
    assert evaluate(prediction, truth) == 2
    assert 'image "1"' in capsys.readouterr().err
    padded = panoptic(tmp_path, "padded", image_id=lambda number: f"{number:012d}")
    assert evaluate(truth, padded) == 2
    assert '"000000000001", a text' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "image", "said"),
    [
        (
            [{"image_id": "1"}],
            {},
            'annotations of image "1", which is not among the images (it has 1,',
        ),
        ([{"category_id": "1"}], {}, 'annotation 1: the unknown category "1" is used (it has 1, a'),
        ([{"iscrowd": "1"}], {}, 'annotation 1: iscrowd "1" of 1 is neither 0 nor 1'),
        ([{"segmentation": "12"}], {}, 'annotation 1: segmentation "12" is neither'),
        ([{"segmentation": [[4, 5, 20, 30]]}], {}, "annotation 1: a polygon is not a list"),
        ([{}], {"height": "8", "width": "12"}, 'an image of "8" x "12" pixels'),
    ],
)
def test_values_are_shown_as_in_the_file_with_their_annotation(tmp_path, capsys, rows, image, said):
    rows = [{"segmentation": box(1, 1, 3, 3), **row} for row in rows]
    source = detections(tmp_path, rows, **image)
    assert convert(source, "panoptic", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(source) in error


def test_a_flag_that_is_text_is_shown(tmp_path, capsys):
    truth = panoptic(tmp_path, category={"isthing": "1"})
    assert evaluate(truth, truth) == 2
    assert 'isthing "1", which is neither 0 nor 1' in capsys.readouterr().err


def test_a_number_that_json_lacks_is_told_with_row_and_key(tmp_path, capsys):
    source = detections(tmp_path, [{"segmentation": box(1, 1, 3, 3), "area": "NAN"}])
    source.write_text(source.read_text().replace('"NAN"', "NaN"))
    assert convert(source, "panoptic", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert '(id 1): area NaN, which is not a number in JSON, in row 0 of "annotations"' in said
    source.write_text(source.read_text().replace("NaN", "8").replace("[[1, 1,", "[[1, Infinity,"))
    assert convert(source, "panoptic", tmp_path / "out") == 2
    assert "segmentation[0][1] Infinity, which" in capsys.readouterr().err


# What a command does not need is not checked


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ("#8040C0", "#8040c0"),
        ("#84c", "#8844cc"),
        ("#8040c0ff", "#8040c0"),
        ("rgb(128, 64, 192)", "#8040c0"),
        ("red", "#ff0000"),
        ([128, 64, 192, 255], "#8040c0"),
        ([128.0, 64.0, 192.0], "#8040c0"),
        ([0.5, 0.25, 0.75], "#8040bf"),
        (None, "#808080"),
        ("", "#808080"),
    ],
)
def test_colours_of_all_programs_are_read(colour, expected):
    table = class_table("a.json", [{"id": 1, "name": "car", "color": colour}])
    assert table[1].colour == expected


@pytest.mark.parametrize("colour", ["#12", "no colour", [1, 2], [1, 2, 3, 4, 5], [1, 2, "3"], 7])
def test_what_is_no_colour_is_shown(colour):
    with pytest.raises(PanopticFormatError, match="category 0: color ") as error:
        class_table("a.json", [{"id": 1, "color": colour}])
    shown = colour[-1] if colour == [1, 2, "3"] else colour
    assert json.dumps(shown) in str(error.value)


def test_areas_and_scores_that_are_none_or_not_needed(tmp_path, capsys):
    truth = panoptic(tmp_path, segment={"area": None, "score": None, "bbox": None})
    prediction = panoptic(tmp_path, "pred", segment={"area": "8", "score": "high", "bbox": 5})
    assert evaluate(truth, prediction) == 0
    assert "| mean of 3 classes | 100.0 |" in table(capsys.readouterr().out)
    for to in ("semantic", "detection"):
        assert convert(prediction, to, tmp_path / to) == 0
    assert evaluate(prediction, truth) == 2  # the areas of the truth count
    assert 'area "8" of segment 5 is not a number' in capsys.readouterr().err
    assert evaluate(prediction, truth, "--strict") == 0


# What cannot be scored is noticed


def test_crowds_alone_are_noticed_and_can_be_objects(tmp_path, capsys):
    rows = [
        {"segmentation": box(1, 1, 4, 4), "iscrowd": 1},
        {"segmentation": box(6, 1, 9, 4), "iscrowd": 1},
    ]
    source = detections(tmp_path, rows)
    assert convert(source, "panoptic", tmp_path / "crowds") == 0
    assert "note: 2 of 2 things are crowds (iscrowd 1)" in capsys.readouterr().err
    crowds = tmp_path / "crowds" / "panoptic.json"
    assert evaluate(crowds, crowds) == 0
    assert "all 2 segments of" in capsys.readouterr().err
    assert convert(source, "panoptic", tmp_path / "objects", "--no-crowds") == 0
    objects = tmp_path / "objects" / "panoptic.json"
    assert evaluate(objects, objects) == 0
    said = capsys.readouterr()
    assert "| mean of 1 classes | 100.0 |" in table(said.out)
    assert said.err == ""


def test_categories_that_never_occur_are_noticed(tmp_path, capsys):
    source = detections(tmp_path, [])
    assert convert(source, "panoptic", tmp_path / "out") == 0
    assert "has no annotation of any of its categories" in capsys.readouterr().err
    empty = tmp_path / "out" / "panoptic.json"
    assert evaluate(empty, empty) == 0
    assert "has no segment, so no class is scored" in capsys.readouterr().err


# Masks that overlap


@pytest.mark.parametrize(
    ("overlap", "areas"), [("first", [36, 3, 0]), ("last", [20, 9, 4]), ("smallest", [20, 9, 4])]
)
def test_overlapping_masks_are_drawn_as_asked(tmp_path, capsys, overlap, areas):
    large, small, hidden = box(0, 0, 6, 6), box(4, 4, 7, 7), box(0, 0, 2, 2)
    order = [large, small, hidden]
    source = detections(tmp_path, [{"segmentation": mask} for mask in order])
    assert convert(source, "panoptic", tmp_path / "error") == 2
    assert "pass --overlap first, last or smallest" in capsys.readouterr().err
    assert convert(source, "panoptic", tmp_path / "out", "--overlap", overlap) == 0
    [read] = CocoAnnotations.open(tmp_path / "out" / "panoptic.json")
    found = sorted((row.area for row in read.segmentation.segments), reverse=True)
    drawn = np.zeros((8, 12), int)
    numbers = [3, 2, 1] if overlap == "first" else [1, 2, 3]
    for number in numbers:
        left, top, *_, bottom = order[number - 1][0]
        right = order[number - 1][0][2]
        drawn[top:bottom, left:right] = number
    expected = sorted(np.bincount(drawn.ravel(), minlength=4)[1:].tolist(), reverse=True)
    assert found == [area for area in expected if area]


def test_overlap_and_crowds_are_for_detections_alone(tmp_path, capsys):
    truth = panoptic(tmp_path)
    for words in (["--overlap", "first"], ["--no-crowds"]):
        assert convert(truth, "semantic", tmp_path / "out", *words) == 2
        assert f"{words[0]} does not apply to --to semantic" in capsys.readouterr().err
        images = tmp_path / "images.json"
        content = json.loads(truth.read_text())
        images.write_text(json.dumps({key: content[key] for key in ("images", "categories")}))
        assert convert(images, "panoptic", tmp_path / "out", *words) == 2
        assert f"{words[0]} is for detections" in capsys.readouterr().err


# Predictions that are missing, PNG files of other programs


def test_missing_predictions_are_scored_as_missed_if_asked(tmp_path, capsys):
    truth, prediction = panoptic(tmp_path, images=3), panoptic(tmp_path, "pred", images=1)
    content = json.loads(prediction.read_text())
    third = {**content["annotations"][0], "image_id": 3, "file_name": "gone.png"}
    prediction.write_text(json.dumps({**content, "annotations": [*content["annotations"], third]}))
    assert evaluate(truth, prediction) == 2
    assert "1 images scored, 2 left out" in capsys.readouterr().err
    scores = tmp_path / "scores.json"
    assert evaluate(truth, prediction, "--missing", "wrong", "--json", str(scores)) == 0
    said = capsys.readouterr()
    assert "2 images have no prediction; all their segments count as missed" in said.err
    assert "3 images scored" in said.out
    found = json.loads(scores.read_text())
    # 1 of 3 segments of each class is found: RQ = 1 / (1 + 2 / 2).
    assert "| mean of 3 classes | 100.0 | 50.0 | 50.0 |" in table(said.out)
    assert found["images"] == 3


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (lambda ids_HW: ids_to_colours(ids_HW)[..., ::-1].copy(), "(OpenCV's order)"),
        (lambda ids_HW: (ids_HW * (ids_HW < 256)).astype(np.uint8), "As grey values the ids fit"),
        (
            lambda ids_HW: np.repeat((ids_HW * (ids_HW < 256)).astype(np.uint8)[..., None], 3, -1),
            "As grey values the ids fit",
        ),
    ],
)
def test_channels_in_another_order_are_recognised(tmp_path, capsys, pixels, said):
    truth, prediction = panoptic(tmp_path), panoptic(tmp_path, "pred", pixels=pixels)
    assert evaluate(truth, prediction) == 2
    assert said in capsys.readouterr().err
