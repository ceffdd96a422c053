"""Joining tiles: anything that is cut and joined comes back, in any order; and what a tile sees
badly does not stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from panoseg.classes import PASTIS
from panoseg.panoptic import Panoptic, Segments
from panoseg.panoptic.join import TileJoiner


def parcels(raster, classes=None, scores=None) -> Panoptic:
    raster = np.array(raster)
    ids = [int(id_) for id_ in np.unique(raster) if id_]
    return Panoptic.from_maps(
        raster, {id_: (classes or {}).get(id_, 1 + id_ % 18) for id_ in ids}, PASTIS, scores
    )


def saying(picture: Panoptic, *probabilities) -> Panoptic:
    """The picture whose segments are so likely of each class."""
    return Panoptic(
        picture.segment_HW,
        replace(picture.segments, probabilities=np.array(probabilities, np.float32)),
    )


def join(tiles, height, width, **options) -> Panoptic:
    joiner = TileJoiner(height, width, **options)
    for row, column, picture in tiles:
        joiner.add(row, column, picture)
    return joiner.finish()


def cut(picture: Panoptic, windows) -> list[tuple[int, int, Panoptic]]:
    return [
        (rows.start, columns.start, picture.crop(rows, columns).relabel())
        for rows, columns in windows
    ]


@st.composite
def extents(draw, size: int):
    """Intervals that cover 0..size, each sharing at least one place with the next."""
    found = [slice(0, draw(st.integers(2, size)))]
    while found[-1].stop < size:
        start = draw(st.integers(found[-1].start + 1, found[-1].stop - 1))
        found.append(
            slice(start, min(size, max(start + draw(st.integers(2, size)), found[-1].stop + 1)))
        )
    return found


@st.composite
def cut_maps(draw):
    """A map of connected parcels, and windows of any size that cover it, in any order."""
    height, width = draw(st.integers(4, 24)), draw(st.integers(4, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = random.integers(0, 4, (height // 2 + 1, width // 2 + 1))
    values = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    raster = np.zeros((height, width), np.int32)
    for value in (1, 2, 3):
        regions, _ = ndimage.label(values == value)
        raster[regions > 0] = raster.max() + regions[regions > 0]
    across = draw(extents(width))
    return parcels(raster), draw(
        st.permutations([(rows, columns) for rows in draw(extents(height)) for columns in across])
    )


@settings(deadline=None, max_examples=150)
@given(cut_maps())
def test_a_map_that_is_cut_and_joined_comes_back(cut_map):
    picture, windows = cut_map
    joined = join(cut(picture, windows), *picture.segment_HW.shape)
    assert joined.same_up_to_ids(picture)
    assert joined.segments.ids.tolist() == list(range(1, len(joined.segments) + 1))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_order_of_tiles_does_not_matter_even_where_they_disagree(seed, shuffler):
    random = np.random.default_rng(seed)
    tiles = [
        (row, column, saying(picture, *random.dirichlet(np.ones(6), len(picture.segments))))
        for row in (0, 4, 8)
        for column in (0, 4, 8)
        for picture in [parcels(random.integers(0, 5, (4, 4)).repeat(2, axis=0).repeat(2, axis=1))]
    ]
    expected = join(tiles, 16, 16)
    shuffler.shuffle(tiles)
    found = join(tiles, 16, 16)
    np.testing.assert_array_equal(found.segment_HW, expected.segment_HW)
    for name, column in vars(expected.segments).items():
        np.testing.assert_array_equal(getattr(found.segments, name), column)


def test_touching_parcels_are_not_joined():
    left = parcels([[1, 1, 1, 0]] * 3)
    right = parcels([[0, 2, 2, 2]] * 3)
    joined = join([(0, 0, left), (0, 2, right)], 3, 6)
    assert len(joined.segments) == 2
    assert joined.segment_HW[0].tolist() == [1, 1, 1, 2, 2, 2]


def test_overlapping_parcels_are_joined_from_min_iou_on():
    # In the two shared columns the first tile sees two columns of the parcel, the second only one:
    # IoU one half.
    tiles = [(0, 0, parcels([[1, 1, 1, 1]] * 3)), (0, 2, parcels([[0, 2, 2, 2]] * 3))]
    assert len(join(tiles, 3, 6, min_iou=0.5).segments) == 1
    assert len(join(tiles, 3, 6, min_iou=0.51).segments) == 2


def test_two_segments_of_one_tile_are_never_joined():
    # The long parcel of the right tile is two parcels on the left: only the one that shares more of
    # it is joined.
    left = parcels([[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2]])
    right = parcels([[5, 5, 5, 5]] * 3)
    joined = join([(0, 0, left), (0, 2, right)], 3, 6)
    # Of the last row both want columns 2 and 3. The long parcel claims one of 16 pixels against the
    # owner, the other one of 4.
    assert joined.segment_HW.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [2, 2, 1, 1, 1, 1],
    ]


def test_the_tile_that_sees_a_pixel_best_decides():
    # Columns 2..5 are shared; both see the parcel, one up to column 2, the other from column 4 on.
    left, right = parcels([[1, 1, 1, 1, 1, 0]] * 3), parcels([[0, 1, 1, 1, 0, 0]] * 3)
    joined = join([(0, 0, left), (0, 2, right)], 3, 8)
    assert joined.segment_HW[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_a_parcel_seen_only_in_a_margin_is_dropped_as_a_whole():
    ghost = np.zeros((6, 8), np.int32)
    ghost[2:4, 5:8] = 1  # of these columns the right tile, from column 4 on, owns 6 and 7
    joined = join([(0, 0, parcels(ghost)), (0, 4, Panoptic.empty(6, 8))], 6, 12)
    assert len(joined.segments) == 0


def test_a_parcel_that_one_tile_does_not_know_is_not_cut_along_a_line():
    whole = np.zeros((6, 8), np.int32)
    whole[1:5, 1:7] = 1  # columns 1..6; the right tile owns 6 and 7 and sees nothing there
    joined = join([(0, 0, parcels(whole)), (0, 4, Panoptic.empty(6, 8))], 6, 12)
    assert joined.segments.areas.tolist() == [24]


def test_class_is_a_vote_weighted_by_score_and_area_and_the_score_a_mean():
    left = parcels([[1] * 4] * 3, {1: 3}, {1: 0.5})
    right = parcels([[1] * 4] * 3, {1: 5}, {1: 0.9})
    joined = join([(0, 0, left), (0, 2, right)], 3, 6)
    assert joined.segments.class_ids.tolist() == [5]
    assert joined.segments.scores.tolist() == pytest.approx([0.7])
    larger = parcels([[1] * 10] * 3, {1: 3}, {1: 0.5})
    assert join([(0, 0, larger), (0, 8, right)], 3, 12).segments.class_ids.tolist() == [3]


def test_probabilities_are_means_over_the_area_and_decide_nothing():
    # Twelve and six pixels of the parcel; the votes are 12 x 0.9 for class 3 and 6 x 0.5 for class
    # 5.
    left = saying(parcels([[1] * 4] * 3, {1: 3}, {1: 0.9}), [0, 0, 0, 0.4, 0.3, 0.3])
    right = saying(parcels([[1] * 2] * 3, {1: 5}, {1: 0.5}), [0, 0, 0, 0.0, 0.1, 0.9])
    joined = join([(0, 0, left), (0, 3, right)], 3, 5)
    assert joined.segments.class_ids.tolist() == [3]
    assert joined.segments.probabilities[0].tolist() == pytest.approx(
        [0, 0, 0, 0.8 / 3, 0.7 / 3, 0.5]
    )
    assert joined.segments.probabilities.dtype == np.float32
    # A tile that says nothing does not count.
    silent = join([(0, 0, left), (0, 3, parcels([[1] * 2] * 3, {1: 5}))], 3, 5)
    assert silent.segments.probabilities[0].tolist() == pytest.approx([0, 0, 0, 0.4, 0.3, 0.3])


@settings(deadline=None, max_examples=30)
@given(cut_maps(), st.integers(0, 2**32 - 1))
def test_what_all_tiles_say_alike_comes_back(cut_map, seed):
    picture, windows = cut_map
    said = (
        np.random.default_rng(seed).dirichlet(np.ones(20), len(picture.segments))
        if len(picture.segments)
        else []
    )
    picture = saying(picture, *said) if len(picture.segments) else picture
    joined = join(cut(picture, windows), *picture.segment_HW.shape)
    found = joined.segments.probabilities[joined.position_HW[picture.segment_HW > 0] - 1]
    np.testing.assert_allclose(
        found,
        picture.segments.probabilities[picture.position_HW[picture.segment_HW > 0] - 1],
        rtol=1e-5,
    )
    np.testing.assert_allclose(joined.segments.probabilities.sum(axis=1), 1, atol=1e-6)


def test_pixels_without_a_tile_belong_to_nothing_and_no_tile_is_an_empty_map():
    assert join([], 4, 5).segment_HW.tolist() == np.zeros((4, 5)).tolist()
    joined = join([(1, 1, parcels([[7, 7]]))], 3, 4)
    assert joined.segment_HW.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_a_tile_outside_of_the_map_or_twice_is_refused():
    joiner = TileJoiner(4, 4)
    with pytest.raises(ValueError, match="leaves the map"):
        joiner.add(2, 0, Panoptic.empty(3, 3))
    joiner.add(0, 0, Panoptic.empty(2, 2))
    with pytest.raises(ValueError, match="second tile"):
        joiner.add(0, 0, Panoptic.empty(3, 3))


def test_tiles_are_not_modified():
    tile = parcels([[1, 1, 0, 2]] * 3)
    before = (
        tile.segment_HW.copy(),
        Segments(**{name: column.copy() for name, column in vars(tile.segments).items()}),
    )
    join([(0, 0, tile), (0, 2, tile)], 3, 6)
    np.testing.assert_array_equal(tile.segment_HW, before[0])
    np.testing.assert_array_equal(tile.segments.areas, before[1].areas)
