"""The COCO panoptic format: what is written is read again, and what contradicts itself is refused
in one line.
"""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from panoseg.classes import PASTIS
from panoseg.coco import json as coco_json
from panoseg.coco.categories import category_rows, class_table
from panoseg.coco.evaluate import coco_counts
from panoseg.coco.format import CocoAnnotations, segments_info, write_coco
from panoseg.coco.masks import colours_to_ids, ids_to_colours
from panoseg.errors import OutputError, PanopticFormatError
from panoseg.metrics.panoptic_quality import quality_of_counts
from panoseg.panoptic import Panoptic

PICTURE = Panoptic.from_maps(
    np.array([[1, 1, 0, 300], [1, 1, 0, 300], [70000, 70000, 0, 300]]),
    {1: 3, 300: 0, 70000: 8},
    PASTIS,
    {1: 0.5},
)


@pytest.fixture
def written(tmp_path):
    """A JSON of two images."""
    path = tmp_path / "truth.json"
    write_coco(path, [("field.one.jpg", PICTURE), ("two.jpg", Panoptic.empty(2, 3))], PASTIS)
    return path


def change(path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read_again(written):
    annotations = CocoAnnotations.open(written)
    first, second = annotations
    assert len(annotations) == 2
    np.testing.assert_array_equal(first.segmentation.segment_HW, PICTURE.segment_HW)
    assert list(first.segmentation.segments) == list(PICTURE.segments)
    assert (first.image_id, first.file_name) == (1, "field.one.png")
    assert len(second.segmentation.segments) == 0
    assert [entry.id for entry in annotations.table.classes] == list(range(19))
    assert annotations.table[3].colour == PASTIS[3].colour


def test_void_segments_become_void_pixels(tmp_path):
    picture = Panoptic.from_maps(np.array([[1, 2]]), {1: 3, 2: 19}, PASTIS)
    write_coco(tmp_path / "truth.json", [("a.jpg", picture)], PASTIS)
    assert CocoAnnotations.open(tmp_path / "truth.json").read(
        1
    ).segmentation.segment_HW.tolist() == [[1, 0]]


def test_rows_have_boxes_and_crowds():
    rows = segments_info(PICTURE, crowd_ids=[300])
    assert [row["bbox"] for row in rows] == [[0, 0, 2, 2], [3, 0, 1, 3], [0, 2, 2, 1]]
    assert [row["iscrowd"] for row in rows] == [0, 1, 0]


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=8))
def test_colours_say_ids(ids):
    segment_HW = np.array([ids])
    np.testing.assert_array_equal(
        colours_to_ids(np.moveaxis(ids_to_colours(segment_HW), -1, 0)), segment_HW
    )


def test_an_id_beyond_three_bytes_is_refused():
    with pytest.raises(PanopticFormatError, match="16777216"):
        ids_to_colours(np.array([[2**24]]))


def test_a_folder_in_use_is_refused(written):
    with pytest.raises(OutputError, match="new or empty folder"):
        write_coco(written, [], PASTIS)


def test_a_file_scores_one_against_itself(written):
    assert quality_of_counts(coco_counts(written, written)).all.pq == 1.0


def test_folders_may_lie_elsewhere(written, tmp_path):
    (tmp_path / "truth").rename(tmp_path / "moved")
    with pytest.raises(PanopticFormatError, match="no such file"):
        CocoAnnotations.open(written).read(1)
    assert len(CocoAnnotations.open(written, tmp_path / "moved").read(1).segmentation.segments) == 3


def test_predictions_need_no_categories(written):
    change(written, lambda content: content.pop("categories"))
    with pytest.raises(PanopticFormatError, match="has no categories"):
        CocoAnnotations.open(written)
    assert CocoAnnotations.open(written, table=PASTIS).table is PASTIS


def first_rows(content) -> list:
    return content["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: first_rows(content).pop(),
            "Segment 70000 is in the raster but missing in the table",
        ),
        (
            lambda content: first_rows(content).append({"id": 5, "category_id": 3}),
            "Segment 5 is in the table but missing in the raster",
        ),
        (lambda content: first_rows(content)[0].update(category_id=99), "unknown category 99"),
        (lambda content: first_rows(content).append(first_rows(content)[0]), "listed twice"),
        (lambda content: first_rows(content)[0].pop("id"), "no 'id'"),
        (
            lambda content: content["annotations"][0].update(file_name="other.png"),
            "other.png: no such file",
        ),
        (lambda content: content["annotations"].pop(0), "no annotation of image 1"),
    ],
)
def test_a_contradiction_names_the_image_and_fits_on_a_line(written, edit, message):
    change(written, edit)
    with pytest.raises(PanopticFormatError, match=message) as caught:
        CocoAnnotations.open(written).read(1)
    assert "\n" not in str(caught.value)
    assert "image 1" in str(caught.value)


def test_a_prediction_that_lacks_an_image_is_refused(written, tmp_path):
    write_coco(tmp_path / "less.json", [("field.one.jpg", PICTURE)], PASTIS)
    with pytest.raises(PanopticFormatError, match="no annotation of image 2"):
        coco_counts(written, tmp_path / "less.json")


def test_stated_areas_that_are_wrong_are_believed_with_a_warning_unless_strict(written):
    change(written, lambda content: first_rows(content)[0].update(area=5))
    with pytest.warns(UserWarning, match="image 1: 1 segments have stated areas"):
        assert quality_of_counts(coco_counts(written, written)).all.pq < 1.0
    assert quality_of_counts(coco_counts(written, written, strict=True)).all.pq == 1.0


def refusal(path) -> str:
    """What reading all of a file is refused with, empty where it is read."""
    try:
        list(CocoAnnotations.open(path))
    except PanopticFormatError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the end where { belongs"),
        ("5", "'5' where { belongs"),
        ("[1", "the end where , belongs"),
        ('{"annotations": [], "categories": []} x', "more behind the end"),
        ('{"annotations": [], "annotations": []}', "occurs twice"),
        ('{"annotations": {"image_id": 1}}', "annotations are not an array"),
        ('{"annotations": [{"image_id": NaN}]}', "NaN, which is not a number"),
        ('{"annotations": [{"image_id": -Infinity}]}', "-Infinity, which is not a number"),
        ('{"annotations": [' + "[" * 100000, "recursion"),
        ('{"annotations": [{"image_id": ' + "9" * 5000 + "}]}", "Exceeds the limit"),
        ('{"images": []}', "has no annotations"),
        ('{"annotations": []}', "has no categories"),
    ],
)
def test_what_is_no_panoptic_json_is_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(PanopticFormatError, match=message) as caught:
        CocoAnnotations.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_text_that_is_no_unicode_and_folders_are_refused(tmp_path):
    (tmp_path / "truth.json").write_bytes(b'{"annotations": "\xff"}')
    assert "utf-8" in refusal(tmp_path / "truth.json")
    assert "no such file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.json")


@pytest.mark.parametrize("window", [1, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_are_found_with_any_size_of_reads(tmp_path, monkeypatch, window, indent):
    monkeypatch.setattr(coco_json, "READ_BYTES", window)
    rows = [
        {"image_id": 1, "é": "ünï€"},
        {"image_id": "ä", "n": [1.5, {}]},
        {"image_id": 1},
        {},
        {"image_id": True},
    ]
    content = {
        "info": {"é": 12345},
        "annotations": rows,
        "year": 2017,
        "categories": [{"id": 1}],
        "images": [{"id": 1, "w": 2}],
    }
    path = tmp_path / "a.json"
    path.write_bytes(
        b"\xef\xbb\xbf" * (window == 7)
        + json.dumps(content, indent=indent, ensure_ascii=False).encode()
    )
    file = coco_json.CocoJson.open(path)
    assert [json.loads(text) for text in file.rows(1)] == [rows[0], rows[2]]
    assert [json.loads(text) for text in file.rows("ä")] == [rows[1]]
    assert file.rows(2) == ()
    assert {key: json.loads(file.value(key)) for key in file.spans} == content
    assert file.value("other") is None
    assert file.image(1) == {"id": 1, "w": 2}
    assert file.categories == ({"id": 1},)
    assert [str(problem).split(";")[0] for problem in file.problems] == [
        f"{path}: row 3 of the annotations has no image_id",
        f"{path}: row 4 of the annotations has the image_id true, which is neither a whole number"
        " nor a text",
    ]
    with pytest.raises(PanopticFormatError, match="0 entries of image 7"):
        file.image(7)


def test_a_value_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_json, "READ_BYTES", 16)
    monkeypatch.setattr(coco_json, "MAX_VALUE_BYTES", 64)
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [], "info": "x" * 1000}))
    with pytest.raises(PanopticFormatError, match="more than 64 bytes"):
        coco_json.CocoJson.open(tmp_path / "a.json")


def test_memory_does_not_grow_with_the_length_of_rows(tmp_path):
    path = tmp_path / "a.json"
    row = {"image_id": 1, "segmentation": "x" * 100_000}
    path.write_text(json.dumps([{**row, "image_id": number} for number in range(300)]))
    tracemalloc.start()
    file = coco_json.CocoJson.open(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file.annotations) == 300
    assert peak < 10_000_000 < path.stat().st_size


def test_numbers_beyond_all_bounds_are_refused_where_they_are_used(written):
    change(written, lambda content: first_rows(content)[0].update(area="HUGE"))
    written.write_text(written.read_text().replace('"HUGE"', "1e999"))
    assert "image 1" in refusal(written)
    assert "too large" in refusal(written)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1}, {"id": 2}, {"id": 1}], "category 1 is listed 2 times"),
        ([{"id": "1"}], 'category 0: id "1"'),
        ([{"id": True}], "category 0: id true"),
        ([{"id": -1}], "category 0: id -1"),
        ([{"id": 10**9}], "whole number 0 .. 65535"),
        ([{"name": "cow"}], "no 'id'"),
        ([5], "category 0"),
        ([{"id": 1, "isthing": 2}], "isthing 2"),
        ([{"id": 1, "color": [1, 2]}], "color [1, 2] is neither"),
        ([{"id": 1, "color": [1, 2, 256]}], "color 256"),
        ([{"id": 1, "color": 7}], "category 0"),
    ],
)
def test_bad_categories_are_refused_in_a_line(written, categories, message):
    change(written, lambda content: content.update(categories=categories))
    with pytest.raises(PanopticFormatError, match=re.escape(message)) as caught:
        CocoAnnotations.open(written)
    assert str(written) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_categories_without_names_kinds_or_colours_are_read():
    table = class_table(
        "a/few.json",
        [{"id": 7, "isthing": False}, {"id": 3, "name": "cow"}, {"id": 5, "name": "cow"}],
    )
    assert [(entry.id, entry.name, entry.kind) for entry in table.classes] == [
        (3, "cow (3)", "thing"),
        (5, "cow (5)", "thing"),
        (7, "7", "stuff"),
    ]
    assert table.name == "few"
    assert (
        class_table("c", [{"id": 1, "name": "half \ud800"}])[1].name == "half ?"
    )  # which nothing could print
    assert class_table("b", category_rows(table)).classes == table.classes


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "/a.png",
        "a/../../b.png",
        "..\\a.png",
        "C:\\a.png",
        "",
        ".",
        "a/..",
        None,
        5,
        "a\0b",
    ],
)
def test_names_that_leave_the_folder_are_refused(written, name):
    change(written, lambda content: content["annotations"][0].update(file_name=name))
    assert "image 1" in refusal(written)
    assert "file name" in refusal(written)


def test_a_picture_that_has_no_end_is_refused(written):
    change(written, lambda content: content["annotations"][0].update(file_name="endless.png"))
    (written.with_suffix("") / "endless.png").symlink_to("/dev/zero")
    assert "not a regular file" in refusal(written)


def test_names_keep_folders_and_dots(tmp_path):
    pictures = [
        ("a/v1.2.jpg", PICTURE),
        ("b/v1.2.jpg", PICTURE),
        ("b/v1.3", PICTURE),
        ("x.tar.PNG", PICTURE),
    ]
    write_coco(tmp_path / "truth.json", pictures, PASTIS)
    written = sorted(
        path.relative_to(tmp_path / "truth").as_posix()
        for path in (tmp_path / "truth").rglob("*.png")
    )
    assert written == ["a/v1.2.png", "b/v1.2.png", "b/v1.3.png", "x.tar.png"]
    assert len(list(CocoAnnotations.open(tmp_path / "truth.json"))) == 4
    with pytest.raises(PanopticFormatError, match=r"the PNG file a\.png"):
        write_coco(tmp_path / "other.json", [("a.jpg", PICTURE), ("a.png", PICTURE)], PASTIS)


def test_an_image_annotated_twice_is_refused(written):
    change(written, lambda content: content["annotations"].append(content["annotations"][0]))
    with pytest.raises(PanopticFormatError, match="2 annotations of image 1"):
        CocoAnnotations.open(written).read(1)


def test_pictures_of_other_kinds_mean_the_same_or_are_refused(written):
    path = written.parent / "truth" / "field.one.png"
    colours = Image.open(path)
    for mode in ("P", "RGBA"):
        colours.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
        np.testing.assert_array_equal(
            CocoAnnotations.open(written).read(1).segmentation.segment_HW, PICTURE.segment_HW
        )
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(path)
    assert "of 16 bits a colour" in refusal(written)
    colours.save(path, format="JPEG")
    assert "not a PNG" in refusal(written)


def test_grey_is_what_an_optimiser_makes_of_grey_colours(written):
    path = written.parent / "truth" / "two.png"
    Image.fromarray(np.full((2, 3), 7, np.uint8)).save(path)
    change(
        written,
        lambda content: content["annotations"][1].update(
            segments_info=[{"id": 7 * 0x010101, "category_id": 3}]
        ),
    )
    assert CocoAnnotations.open(written).read(2).segmentation.segments.areas.tolist() == [6]


def test_a_picture_that_is_no_picture(written):
    (written.parent / "truth" / "two.png").write_text("no picture")
    with pytest.raises(
        PanopticFormatError, match="it is not a PNG; it cannot be read as a PNG of segment ids"
    ):
        CocoAnnotations.open(written).read(2)


def repacked(path, edit) -> None:
    """Change the compressed pixels of a PNG of one chunk of them, with right checksums."""
    data = path.read_bytes()
    at = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[at - 4 : at])
    pixels = edit(data[at + 4 : at + 4 + length])
    chunks = [(b"IHDR", data[16:29]), (b"IDAT", pixels), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
        for kind, text in chunks
    )
    path.write_bytes(data[:8] + b"".join(packed))


def test_a_cut_picture_is_refused_wherever_it_is_cut(written):
    path = written.parent / "truth" / "field.one.png"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "it is cut" in refusal(written) or "not a PNG" in refusal(written)
    path.write_bytes(whole)
    repacked(path, lambda pixels: pixels[:-9])
    assert "field.one.png" in refusal(written), "checksums are right, but pixels lack"


def test_a_bomb_is_refused_before_it_is_unpacked(written):
    path = written.parent / "truth" / "field.one.png"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "an image of 60000 x 60000 pixels" in refusal(written)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_files_are_refused_or_read(written, data):
    """Cut, or with a byte changed, JSON and PNG either still make sense or raise the one error."""
    for path in (written, written.parent / "truth" / "field.one.png"):
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = data.draw(
            st.sampled_from(
                [whole[:at], whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]]
            )
        )
        path.write_bytes(damaged)
        try:
            said = refusal(written)
        finally:
            path.write_bytes(whole)
        assert "\n" not in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "image_id", "file_name"]), inner)
    ),
    max_leaves=5,
)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(
        [
            "annotations",
            "categories",
            "file_name",
            "segments_info",
            "id",
            "category_id",
            "area",
            "score",
        ]
    ),
    json_values,
)
def test_values_of_another_type_are_refused_or_read(written, key, value):
    whole = written.read_text()
    content = json.loads(whole)
    annotation = content["annotations"][0]
    for holder in (content, annotation, annotation["segments_info"][0]):
        if key in holder:
            holder[key] = value
    written.write_text(json.dumps(content))
    try:
        said = refusal(written)
    finally:
        written.write_text(whole)
    assert "\n" not in said
