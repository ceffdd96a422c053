"""The two-model recipe on files is that of tensors, and has its properties: drawn cases of
rectangles.
"""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.coco.categories import category_rows
from panoseg.coco.format import CocoAnnotations
from panoseg.coco.masks import encode_mask
from panoseg.coco.merge import merge_coco
from test_things_and_stuff import STUFF, TABLE, one, scene

seeds = st.integers(0, 2**32 - 1)


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
