"""The COCO panoptic format: what is written is read again, and what contradicts itself is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from panoseg.classes import PASTIS
from panoseg.errors import OutputError, PanopticFormatError
from panoseg.metrics.coco_files import coco_counts
from panoseg.metrics.panoptic_quality import panoptic_quality
from panoseg.panoptic.coco import CocoAnnotations, segments_info, write_coco
from panoseg.panoptic.coco_png import colours_to_ids, ids_to_colours
from panoseg.panoptic.panoptic import Panoptic

PICTURE = Panoptic.from_maps(
    np.array([[1, 1, 0, 300], [1, 1, 0, 300], [70000, 70000, 0, 300]]), {1: 3, 300: 0, 70000: 8}, PASTIS, {1: 0.5}
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
    np.testing.assert_array_equal(first.picture.segment_HW, PICTURE.segment_HW)
    assert list(first.picture.segments) == list(PICTURE.segments)
    assert (first.image_id, first.file_name) == (1, "field.one.png")
    assert len(second.picture.segments) == 0
    assert [entry.id for entry in annotations.table.classes] == list(range(19))
    assert annotations.table[3].colour == PASTIS[3].colour


def test_void_segments_become_void_pixels(tmp_path):
    picture = Panoptic.from_maps(np.array([[1, 2]]), {1: 3, 2: 19}, PASTIS)
    write_coco(tmp_path / "truth.json", [("a.jpg", picture)], PASTIS)
    assert CocoAnnotations.open(tmp_path / "truth.json").read(1).picture.segment_HW.tolist() == [[1, 0]]


def test_rows_have_boxes_and_crowds():
    rows = segments_info(PICTURE, crowd_ids=[300])
    assert [row["bbox"] for row in rows] == [[0, 0, 2, 2], [3, 0, 1, 3], [0, 2, 2, 1]]
    assert [row["iscrowd"] for row in rows] == [0, 1, 0]


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=8))
def test_colours_say_ids(ids):
    segment_HW = np.array([ids])
    np.testing.assert_array_equal(colours_to_ids(ids_to_colours(segment_HW)), segment_HW)


def test_an_id_beyond_three_bytes_is_refused():
    with pytest.raises(PanopticFormatError, match="16777216"):
        ids_to_colours(np.array([[2**24]]))


def test_a_folder_in_use_is_refused(written):
    with pytest.raises(OutputError, match="new or empty folder"):
        write_coco(written, [], PASTIS)


def test_a_file_scores_one_against_itself(written):
    assert panoptic_quality(coco_counts(written, written)).all.pq == 1.0


def test_folders_may_lie_elsewhere(written, tmp_path):
    (tmp_path / "truth").rename(tmp_path / "moved")
    with pytest.raises(PanopticFormatError, match="no such file"):
        CocoAnnotations.open(written).read(1)
    assert len(CocoAnnotations.open(written, tmp_path / "moved").read(1).picture.segments) == 3


def test_predictions_need_no_categories(written):
    change(written, lambda content: content.pop("categories"))
    with pytest.raises(PanopticFormatError, match="without categories"):
        CocoAnnotations.open(written)
    assert CocoAnnotations.open(written, table=PASTIS).table is PASTIS


def first_rows(content) -> list:
    return content["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: first_rows(content).pop(), "segment 70000 missing in the table"),
        (lambda content: first_rows(content).append({"id": 5, "category_id": 3}), "segment 5 missing in the raster"),
        (lambda content: first_rows(content)[0].update(category_id=99), "unknown category 99"),
        (lambda content: first_rows(content).append(first_rows(content)[0]), "listed twice"),
        (lambda content: first_rows(content)[0].pop("id"), "KeyError 'id'"),
        (lambda content: content["annotations"][0].update(file_name="other.png"), "other.png: no such file"),
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
        assert panoptic_quality(coco_counts(written, written)).all.pq < 1.0
    assert panoptic_quality(coco_counts(written, written, strict=True)).all.pq == 1.0


def refusal(path) -> str:
    """What reading all of a file is refused with, empty where it is read."""
    try:
        list(CocoAnnotations.open(path))
    except PanopticFormatError as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_or_read(written, data):
    """Cut, or with a byte changed, JSON and PNG either still make sense or raise the one error."""
    for path in (written, written.parent / "truth" / "field.one.png"):
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = data.draw(
            st.sampled_from([whole[:at], whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]])
        )
        path.write_bytes(damaged)
        said = refusal(written)
        path.write_bytes(whole)
        assert "\n" not in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "image_id", "file_name"]), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["annotations", "categories", "file_name", "segments_info", "id", "category_id", "area", "score"]),
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
    said = refusal(written)
    written.write_text(whole)
    assert "\n" not in said


def test_a_picture_that_is_no_picture(written):
    Image.new("L", (3, 2)).save(written.parent / "truth" / "two.png")
    assert CocoAnnotations.open(written).read(2).picture.segment_HW.shape == (2, 3)
    (written.parent / "truth" / "two.png").write_text("no picture")
    with pytest.raises(PanopticFormatError, match="a PNG of segment ids"):
        CocoAnnotations.open(written).read(2)
