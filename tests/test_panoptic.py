"""The result type: what it accepts, what it derives, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panoseg.classes import PASTIS
from panoseg.errors import PanopticFormatError
from panoseg.panoptic import Panoptic, Segment, Segments
from panoseg.panoptic.draw import borders, draw
from panoseg.panoptic.segments import positions, present_segments

RASTER = np.array([[1, 1, 0, 5], [1, 0, 0, 5], [1, 5, 5, 5]])
rasters = arrays.arrays(
    np.int32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 9)
)


def picture_of(raster, class_of_id=lambda id_: 1 + id_ % 18) -> Panoptic:
    return Panoptic.from_maps(
        np.array(raster), {int(id_): class_of_id(int(id_)) for id_ in np.unique(raster)}, PASTIS
    )


def test_a_picture_and_its_table():
    picture = Panoptic.from_maps(RASTER, {1: 3, 5: 0}, PASTIS, {1: 0.25})
    assert list(picture.segments) == [
        Segment(1, 3, 0.25, 4, "thing"),
        Segment(5, 0, 1.0, 5, "stuff"),
    ]
    assert picture.segment_HW.dtype == np.int32
    assert picture.segments.is_thing.tolist() == [True, False]
    assert Panoptic(RASTER, Segments.of(reversed(list(picture.segments)))).same_up_to_ids(picture)


def test_a_segment_takes_the_most_frequent_class_of_its_pixels():
    classes = np.array([[2, 2, 0, 7], [3, 0, 0, 7], [2, 8, 8, 8]])
    assert Panoptic.from_maps(RASTER, classes, PASTIS).segments.class_ids.tolist() == [2, 8]


def test_void_outside_segments_becomes_a_segment():
    classes = np.array([[2, 2, 19, 7], [2, 0, 0, 7], [2, 7, 7, 7]])
    picture = Panoptic.from_maps(RASTER, classes, PASTIS)
    assert picture.segments.is_void.tolist() == [False, False, True]
    assert picture.segment_HW[0, 2] == 6


def test_the_raster_given_is_neither_changed_nor_kept():
    raster, classes = RASTER.copy(), np.full(RASTER.shape, 19)
    picture = Panoptic.from_maps(raster, classes, PASTIS)
    np.testing.assert_array_equal(raster, RASTER)
    raster[:] = 0
    assert picture.segment_HW.any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Segment(1, 3, 1.0, 4, "thing")], "Segment 5 is in the raster but missing in the table"),
        (
            [Segment(1, 3, 1.0, 4, "thing"), Segment(5, 3, 1.0, 4, "thing")],
            "area of 4 for segment 5",
        ),
        (
            [Segment(id_, 3, 1.0, area, "thing") for id_, area in ((1, 4), (5, 5), (6, 1))],
            "Segment 6 is in the table but missing in the raster",
        ),
    ],
)
def test_a_contradiction_between_raster_and_table_is_refused(rows, message):
    with pytest.raises(PanopticFormatError, match=message):
        Panoptic(RASTER, Segments.of(rows))


def test_other_bad_input_is_refused():
    with pytest.raises(PanopticFormatError, match="segment id -1"):
        Panoptic.from_maps(np.array([[-1, 1]]), {1: 3}, PASTIS)
    with pytest.raises(PanopticFormatError, match="class 77"):
        Panoptic.from_maps(RASTER, {1: 3, 5: 77}, PASTIS)
    with pytest.raises(PanopticFormatError, match="shape"):
        Panoptic.from_maps(RASTER[None], {1: 3, 5: 3}, PASTIS)
    with pytest.raises(PanopticFormatError, match="equal shapes"):
        Panoptic.from_maps(RASTER, np.zeros((3, 3), int), PASTIS)
    repeated = Segments(
        *(np.repeat(column, 2) for column in vars(picture_of([[1]]).segments).values())
    )
    with pytest.raises(PanopticFormatError, match="without repeats"):
        Panoptic(np.array([[1]]), repeated)


def test_probabilities_stay_with_their_segments():
    said = np.array([[0, 0.25, 0.75], [0, 1, 0]], np.float32)
    segments = replace(picture_of([[5, 0, 9]]).segments, probabilities=said)
    picture = Panoptic(np.array([[5, 0, 9]]), segments)
    for derived in (
        picture,
        picture.relabel(),
        picture.crop(slice(1), slice(3)),
        picture.with_background(PASTIS),
    ):
        np.testing.assert_array_equal(derived.segments.probabilities[:2], said)
    assert picture.keep(np.array([False, True])).segments.probabilities.tolist() == [[0, 1, 0]]
    assert picture.crop(slice(1), slice(1, 3)).segments.probabilities.tolist() == [[0, 1, 0]]
    assert picture.with_background(PASTIS).segments.probabilities[2].tolist() == [0, 0, 0]


def test_tables_of_which_some_have_probabilities_are_one_table():
    said = replace(picture_of([[1]]).segments, probabilities=np.array([[0, 1]], np.float32))
    both = Segments.concatenate(
        [picture_of([[3, 4]]).segments, said, Panoptic.empty(2, 2).segments]
    )
    assert both.ids.tolist() == [3, 4, 1]
    assert both.probabilities.tolist() == [[0, 0], [0, 0], [0, 1]]
    assert (both.ids.dtype, both.areas.dtype, both.probabilities.dtype) == (
        np.int32,
        np.int64,
        np.float32,
    )
    assert len(Segments.concatenate([])) == 0


def test_an_empty_picture():
    picture = Panoptic.empty(3, 4)
    assert len(picture.segments) == 0
    assert picture.boxes_N4().shape == (0, 4)
    assert picture.centroids_N2().shape == (0, 2)
    assert not picture.relabel().classes_HW().any()
    assert picture.same_up_to_ids(Panoptic.empty(3, 4))


def test_large_ids_do_not_need_large_tables():
    picture = picture_of([[2_000_000_000, 0, 7]])
    assert picture.relabel().segment_HW.tolist() == [[2, 0, 1]]
    assert picture.classes_HW().tolist() == [[1 + 2_000_000_000 % 18, 0, 8]]


@settings(deadline=None)
@given(rasters)
def test_derived_values_agree_with_the_raster(raster):
    picture = picture_of(raster)
    boxes, centroids = picture.boxes_N4(), picture.centroids_N2()
    for number, segment in enumerate(picture.segments):
        rows, columns = np.nonzero(raster == segment.id)
        assert segment.area == len(rows)
        assert boxes[number].tolist() == [
            rows.min(),
            columns.min(),
            rows.max() + 1,
            columns.max() + 1,
        ]
        np.testing.assert_allclose(centroids[number], [rows.mean(), columns.mean()])
        assert (picture.classes_HW(none=99)[rows, columns] == segment.class_id).all()
    assert (picture.classes_HW(none=99)[raster == 0] == 99).all()


@settings(deadline=None)
@given(rasters, st.permutations(range(1, 10)))
def test_equality_does_not_depend_on_names(raster, names):
    picture = picture_of(raster)
    renamed = np.array([0, *names])[raster]
    class_of_name = {name: 1 + id_ % 18 for id_, name in enumerate(names, 1)}
    assert picture.same_up_to_ids(picture_of(renamed, lambda name: class_of_name.get(name, 0)))
    assert picture.relabel().same_up_to_ids(picture)


@settings(deadline=None)
@given(rasters, rasters)
def test_equality_sees_every_difference(first, second):
    one, other = picture_of(first), picture_of(second)
    partitions = [
        {frozenset(np.flatnonzero(raster == id_)): id_ for id_ in np.unique(raster) if id_}
        for raster in (first, second)
    ]
    same = first.shape == second.shape and {k: 1 + v % 18 for k, v in partitions[0].items()} == {
        k: 1 + v % 18 for k, v in partitions[1].items()
    }
    assert one.same_up_to_ids(other) == same


def test_another_class_is_another_picture():
    assert not picture_of(RASTER).same_up_to_ids(picture_of(RASTER, lambda id_: 3))


def test_background_becomes_one_stuff_segment():
    picture = picture_of(RASTER).with_background(PASTIS)
    assert list(picture.segments)[-1] == Segment(6, 0, 1.0, 3, "stuff")
    assert picture.with_background(PASTIS) is picture


@settings(deadline=None)
@given(rasters)
def test_positions_find_ids_of_any_size(raster):
    ids, areas = present_segments(raster)
    far_ids, far_areas = present_segments(raster * 10_000_000)
    np.testing.assert_array_equal(far_ids, ids * 10_000_000)
    np.testing.assert_array_equal(far_areas, areas)
    np.testing.assert_array_equal(positions(raster * 10_000_000, far_ids), positions(raster, ids))


def test_a_drawing_has_the_colours_of_the_classes_and_lines_between_segments():
    picture = Panoptic.from_maps(RASTER, {1: 3, 5: 4}, PASTIS)
    image = draw(picture, PASTIS)
    assert image.shape == (3, 4, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [0xFF, 0xBB, 0x78]
    assert image[0, 2].tolist() == [0, 0, 0]
    assert image[0, 3].tolist() == [255, 255, 255]
    assert draw(picture, PASTIS, line=(1, 2, 3))[0, 3].tolist() == [1, 2, 3]


def test_a_background_shows_through_by_alpha_and_is_whole_outside():
    picture = Panoptic.from_maps(np.array([[1, 1, 1, 0, 0]] * 3), {1: 3}, PASTIS)
    ground = np.full((3, 5, 3), 100, np.uint8)
    image = draw(picture, PASTIS, ground, alpha=0.25)
    assert image[1, 4].tolist() == [100, 100, 100]
    assert image[1, 0].tolist() == np.round(0.25 * np.array([0xFF, 0xBB, 0x78]) + 75).tolist()
    assert draw(picture, PASTIS, ground, alpha=1.0)[1, 0].tolist() == [0xFF, 0xBB, 0x78]


def test_scale_makes_lines_thinner_in_proportion():
    picture = picture_of([[1, 2]])
    image = draw(picture, PASTIS, scale=4)
    assert image.shape == (4, 8, 3)
    assert (image == 255).all(axis=2).sum() == 4


def test_a_segment_has_its_line_beside_none_on_all_sides():
    raster = np.zeros((5, 5), int)
    raster[1:4, 1:4] = 7
    ring = np.zeros((5, 5), bool)
    ring[1:4, 1:4] = True
    ring[2, 2] = False
    np.testing.assert_array_equal(borders(raster), ring)
