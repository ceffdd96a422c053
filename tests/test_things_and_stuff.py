"""Merging of things and stuff: by hand, against rules written out with sets, and its properties."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coco_classes import TABLE
from panoseg.coco.categories import category_rows
from panoseg.coco.format import CocoAnnotations
from panoseg.coco.masks import encode_mask
from panoseg.coco.merge import merge_coco
from panoseg.errors import ConfigError
from panoseg.panoptic.merge import MergeThresholds, ScoredMasks, merge_masks, merge_things_and_stuff

STUFF = (3, 4)
seeds = st.integers(0, 2**32 - 1)


def merged(masks, scores, classes, semantic, thresholds=None, stuff=STUFF):
    """The pictures of a batch given as arrays."""
    tensors = (torch.as_tensor(np.asarray(each)) for each in (masks, scores, classes, semantic))
    return merge_things_and_stuff(*tensors, stuff, thresholds or MergeThresholds(0.5, 0.5, 2))


def one(masks, scores, classes, semantic, thresholds=None):
    """The picture of one image as (class, score, pixels) of each segment, things by falling score,
    then stuff.
    """
    [picture] = merged([masks], [scores], [classes], [semantic], thresholds).to_panoptics(TABLE)
    flat = picture.segment_HW.ravel()
    return [
        (row.class_id, row.score, np.flatnonzero(flat == row.id).tolist())
        for row in picture.segments
    ]


def line(text: str) -> np.ndarray:
    """A mask of one row: "##.." covers the first two of four pixels."""
    return np.array([[character == "#" for character in text]])


NOTHING = np.zeros((1, 8), np.int64)


def test_the_better_thing_gets_shared_pixels_and_stuff_what_is_left():
    masks = np.stack([line("..####.."), line("####....")])
    semantic = np.array([[3, 3, 3, 3, 4, 4, 4, 3]])
    assert one(masks, [0.75, 0.625], [1, 2], semantic) == [
        (1, 0.75, [2, 3, 4, 5]),
        (2, 0.625, [0, 1]),
    ]
    assert one(masks, [0.75, 0.625], [1, 2], semantic, MergeThresholds(0.5, 0.5, 1)) == [
        (1, 0.75, [2, 3, 4, 5]),
        (2, 0.625, [0, 1]),
        (3, 1.0, [7]),
        (4, 1.0, [6]),
    ]


def test_a_thing_covered_by_more_than_the_share_is_left_out_whole():
    masks = np.stack([line("####...."), line(".####...")])
    assert one(masks, [0.75, 0.625], [1, 2], NOTHING) == [(1, 0.75, [0, 1, 2, 3])]
    assert one(masks, [0.75, 0.625], [1, 2], NOTHING, MergeThresholds(0.5, 0.75, 2)) == [
        (1, 0.75, [0, 1, 2, 3]),
        (2, 0.625, [4]),
    ], "exactly the share is allowed"


def test_things_that_are_left_out_cover_nothing():
    masks = np.stack([line("####...."), line(".####..."), line("...####.")])
    assert [row[2] for row in one(masks, [0.9, 0.8, 0.7], [1, 1, 1], NOTHING)] == [
        [0, 1, 2, 3],
        [4, 5, 6],
    ]


def test_a_score_equal_to_the_least_counts_and_of_equal_scores_the_earlier_comes_first():
    masks = np.stack([line("##......"), line(".##....."), line("....##..")])
    assert [row[2] for row in one(masks, [0.5, 0.5, 0.49], [1, 1, 1], NOTHING)] == [[0, 1], [2]]


def test_an_empty_mask_and_padding_give_nothing():
    masks = np.stack([line("........"), line("........")])
    assert one(masks, [0.9, 0.0], [1, 1], NOTHING, MergeThresholds(0.0, 1.0, 1)) == []
    assert (
        merged(
            np.zeros((1, 0, 1, 8), bool), np.zeros((1, 0)), np.zeros((1, 0), int), [NOTHING]
        ).segment_BHW.sum()
        == 0
    )


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"score": 1.5}, "--score"),
        ({"overlap": -0.1}, "--overlap"),
        ({"stuff_area": -1}, "--stuff-area"),
    ],
)
def test_impossible_thresholds_are_refused(thresholds, message):
    with pytest.raises(ConfigError, match=message):
        MergeThresholds(**thresholds)


def test_shapes_do_not_depend_on_values_and_nothing_waits_for_the_device():
    """Tensors without values can be merged: reading a value would fail."""
    shapes = [(2, 5, 16, 12), (2, 5), (2, 5), (2, 16, 12)]
    kinds = [torch.bool, torch.float32, torch.int64, torch.int64]
    tensors = [
        torch.empty(shape, dtype=kind, device="meta")
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    result = merge_things_and_stuff(*tensors, STUFF)
    assert result.segment_BHW.shape == (2, 16, 12)
    assert result.segment_BHW.dtype == torch.int32
    assert result.class_BS.shape == result.score_BS.shape == (2, 7)


def scene(seed, images=1, count=7):
    """Rectangles with different scores, and a semantic map in which 0 and 1 draw nothing."""
    random = np.random.default_rng(seed)
    height, width = random.integers(4, 13, 2)
    masks = np.zeros((images, count, height, width), bool)
    for mask in masks.reshape(-1, height, width):
        top, left = random.integers(0, height), random.integers(0, width)
        mask[top : top + random.integers(0, 8), left : left + random.integers(0, 8)] = True
    scores = np.stack([random.permutation(np.arange(1, count + 1) / 8) for _ in range(images)])
    semantic = (
        random.integers(0, 5, (images, height // 3 + 1, width // 3 + 1)).repeat(3, 1).repeat(3, 2)
    )
    thresholds = MergeThresholds(
        random.choice([0.0, 0.5]), random.choice([0.0, 0.2, 0.5, 1.0]), int(random.integers(0, 12))
    )
    return (
        masks,
        scores,
        random.integers(1, 3, scores.shape),
        semantic[:, :height, :width],
        thresholds,
    )


def by_sets(masks, scores, classes, semantic, thresholds):
    """The rule, written out with sets of pixels."""
    taken: set = set()
    rows = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        pixels = set(np.flatnonzero(masks[index]).tolist())
        covered = len(pixels & taken)
        if (
            scores[index] >= thresholds.score
            and pixels
            and covered / len(pixels) <= thresholds.overlap
        ):
            rows.append((int(classes[index]), scores[index], sorted(pixels - taken)))
            taken |= pixels
    for class_id in STUFF:
        free = set(np.flatnonzero(semantic == class_id).tolist()) - taken
        if len(free) >= thresholds.stuff_area:
            rows.append((class_id, 1.0, sorted(free)))
    return [row for row in rows if row[2]]


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_equals_the_rule_written_out_with_sets(seed):
    masks, scores, classes, semantic, thresholds = scene(seed)
    assert one(masks[0], scores[0], classes[0], semantic[0], thresholds) == by_sets(
        masks[0], scores[0], classes[0], semantic[0], thresholds
    )


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_segments_lie_in_their_masks_and_areas_add_up(seed):
    masks, scores, classes, semantic, thresholds = scene(seed)
    rows = one(masks[0], scores[0], classes[0], semantic[0], thresholds)
    pixels = [pixel for _, _, each in rows for pixel in each]
    assert len(pixels) == len(set(pixels)) <= masks[0, 0].size
    for class_id, score, each in rows:
        if class_id in STUFF:
            inside = semantic[0] == class_id
            assert len(each) >= thresholds.stuff_area
        else:
            inside = masks[0][scores[0] == score][0]
        assert inside.ravel()[each].all()


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_the_order_of_candidates_does_not_matter_and_inputs_stay(seed):
    masks, scores, classes, semantic, thresholds = scene(seed)
    before = masks.copy()
    rows = one(masks[0], scores[0], classes[0], semantic[0], thresholds)
    order = np.random.default_rng(seed).permutation(len(scores[0]))
    assert rows == one(
        masks[0][order], scores[0][order], classes[0][order], semantic[0], thresholds
    )
    np.testing.assert_array_equal(masks, before)
    kept = [score for class_id, score, _ in rows if class_id not in STUFF]
    assert kept == sorted(kept, reverse=True)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_merging_what_was_merged_changes_nothing(seed):
    masks, scores, classes, semantic, thresholds = scene(seed)
    rows = one(masks[0], scores[0], classes[0], semantic[0], thresholds)
    things = [row for row in rows if row[0] not in STUFF]
    again = np.zeros((len(things), *semantic[0].shape), bool)
    stuff = np.zeros(semantic[0].shape, np.int64)
    for mask, (_, _, pixels) in zip(again, things, strict=True):
        mask.ravel()[pixels] = True
    for class_id, _, pixels in rows[len(things) :]:
        stuff.ravel()[pixels] = class_id
    scores = np.array([row[1] for row in things])
    assert one(again, scores, np.array([row[0] for row in things], int), stuff, thresholds) == rows


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_a_batch_is_its_images(seed):
    masks, scores, classes, semantic, thresholds = scene(seed, images=3)
    pictures = merged(masks, scores, classes, semantic, thresholds).to_panoptics(TABLE)
    for index, picture in enumerate(pictures):
        [alone] = merged(
            *(each[index : index + 1] for each in (masks, scores, classes, semantic)), thresholds
        ).to_panoptics(TABLE)
        np.testing.assert_array_equal(picture.segment_HW, alone.segment_HW)
        assert list(picture.segments) == list(alone.segments)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_things_alone_are_those_of_the_other_merging_where_no_share_is_met_exactly(seed):
    masks, scores, classes, semantic, _ = scene(seed)
    thresholds = MergeThresholds(0.3, 0.4321, 10**6)
    [ours] = merged(masks, scores, classes, semantic, thresholds).to_panoptics(TABLE)
    candidates = ScoredMasks(
        torch.as_tensor(masks[0]),
        torch.as_tensor(scores[0]),
        torch.zeros(len(scores[0]), 5),
        torch.zeros(len(scores[0])).long(),
    )
    segment_BHW, _ = merge_masks(candidates, 1, min_remain=1 - 0.4321, min_score=0.3)
    other = segment_BHW[0].numpy()
    numbers = {int(number) for number in np.unique(other)} - {0}
    assert {frozenset(np.flatnonzero(other == number)) for number in numbers} == {
        frozenset(np.flatnonzero(ours.segment_HW == id_)) for id_ in ours.segments.ids
    }


# of files


def merged_files(folder, images, thresholds):
    """Write predictions, merge them, read the result: (class, score, pixels) of each segment, by
    image.
    """
    folder.mkdir()
    semantic, instances, listed = [], [], []
    for image_id, (masks, scores, classes, semantic_HW) in images.items():
        height, width = semantic_HW.shape
        listed.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        )
        semantic += [
            {
                "image_id": image_id,
                "category_id": int(class_id),
                "segmentation": encode_mask(semantic_HW == class_id),
            }
            for class_id in STUFF
        ]
        instances += [
            {
                "image_id": image_id,
                "category_id": int(class_id),
                "score": float(score),
                "segmentation": encode_mask(mask),
            }
            for mask, score, class_id in zip(masks, scores, classes, strict=True)
        ]
    files = {
        "semantic": semantic,
        "instances": instances,
        "images": {"images": listed, "categories": category_rows(TABLE)},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    paths = [folder / f"{name}.json" for name in ("semantic", "instances")]
    written = merge_coco(
        *paths,
        folder / "out",
        images_json=folder / "images.json",
        thresholds=thresholds,
        processes=1,
    )
    assert not written.failures
    found = {}
    for read in CocoAnnotations.open(written.path):
        segments, flat = read.segmentation.segments, read.segmentation.segment_HW.ravel()
        # Sums of areas: the file states those of its pixels, and each painted pixel once.
        np.testing.assert_array_equal(read.stated_areas_N, segments.areas)
        assert segments.areas.sum() == (flat > 0).sum()
        found[read.image_id] = sorted(
            (row.class_id, row.score, np.flatnonzero(flat == row.id).tolist()) for row in segments
        )
    return found


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_files_are_merged_as_tensors_are(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("merge")
    *_, thresholds = first = scene(seed)
    images = {
        number: tuple(array[0] for array in made[:4])
        for number, made in enumerate((first, scene(seed + 1)), 1)
    }
    found = merged_files(folder / "once", images, thresholds)
    for number, (masks, scores, classes, semantic_HW) in images.items():
        assert found[number] == sorted(one(masks, scores, classes, semantic_HW, thresholds))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_merging_merged_files_changes_nothing(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("merge")
    masks, scores, classes, semantic, thresholds = scene(seed)
    first = merged_files(
        folder / "once", {1: (masks[0], scores[0], classes[0], semantic[0])}, thresholds
    )
    shape = semantic[0].shape
    things = [row for row in first[1] if row[0] not in STUFF]
    again, stuff_HW = np.zeros((len(things), *shape), bool), np.zeros(shape, np.int64)
    for mask, (_, _, pixels) in zip(again, things, strict=True):
        mask.ravel()[pixels] = True
    for class_id, _, pixels in (row for row in first[1] if row[0] in STUFF):
        stuff_HW.ravel()[pixels] = class_id
    rows = (again, [row[1] for row in things], [row[0] for row in things], stuff_HW)
    assert merged_files(folder / "twice", {1: rows}, thresholds) == first


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_order_of_rows_does_not_matter(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("merge")
    masks, scores, classes, semantic, thresholds = scene(seed)
    order = np.random.default_rng(seed).permutation(len(scores[0]))
    results = [
        merged_files(
            folder / name,
            {1: (masks[0][rows], scores[0][rows], classes[0][rows], semantic[0])},
            thresholds,
        )
        for name, rows in (("given", slice(None)), ("shuffled", order))
    ]
    assert results[0] == results[1]
