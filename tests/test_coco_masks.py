"""Masks of COCO's files: equal to the library that everybody uses, and safe where that one is
not.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as library

from panoseg.coco.masks import check_size, decode_mask, encode_mask, mask_box, run_lengths
from panoseg.errors import PanopticFormatError


@st.composite
def any_mask(draw):
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))


@settings(deadline=None)
@given(any_mask(), st.integers(1, 40))
def test_masks_come_back_and_equal_the_library(mask, scale):
    mask = mask.repeat(scale, axis=0)  # long runs have run lengths of several characters
    height, width = mask.shape
    compressed = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(compressed, height, width), mask)
    np.testing.assert_array_equal(
        decode_mask({**compressed, "counts": list(_counts(mask))}, height, width), mask
    )
    theirs = {"size": compressed["size"], "counts": compressed["counts"].encode()}
    np.testing.assert_array_equal(library.decode(theirs).astype(bool), mask)
    assert mask_box(mask) == library.toBbox(theirs).tolist() or not mask.any()
    assert run_lengths(compressed, height, width).sum() == mask.size


def _counts(mask):
    """Run lengths by walking down the columns."""
    value, length = False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            yield length
            value, length = pixel, 0
        length += 1
    yield length


def test_polygons_are_drawn_as_the_library_does():
    polygons = [[1, 1, 6, 1, 6, 5], [0.5, 6.5, 4.5, 6.5, 4.5, 8.5, 0.5, 8.5]]
    mask = decode_mask(polygons, 10, 8)
    np.testing.assert_array_equal(
        mask, library.decode(library.merge(library.frPyObjects(polygons, 10, 8))).astype(bool)
    )
    assert mask.any()
    assert not decode_mask([], 10, 8).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"size": [3, 4], "counts": "52203"},
            r"size \[3, 4\] do not fit the image, which has the size \[4, 3\]",
        ),
        ({"size": [4, 3], "counts": ""}, "run lengths of 0 pixels"),
        ({"size": [4, 3], "counts": "5"}, "run lengths of 5 pixels"),
        ({"size": [4, 3], "counts": "5P"}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": "oooooooo1"}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": "5é"}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": "5\ud800"}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": [5, 8]}, "run lengths of 13 pixels"),
        ({"size": [4, 3], "counts": [13, -1]}, "counts are not run lengths"),
        ({"size": [4, 3], "counts": [6.0, 6]}, "counts are not run lengths"),
        ({"size": [4, 3], "counts": [10**30]}, "counts are not run lengths"),
        ({"size": [4, 3]}, "counts are not run lengths"),
        ({"counts": "5"}, "size null"),
        ("5", 'segmentation "5"'),
        ([[1, 1, 2]], "polygon is not a list"),
        ([[1, 1, 2, 2]], "polygon is not a list"),
        ([[1, 1, 2, 2, "3", 3]], "polygon is not a list"),
        ([5, 5, 5, 5, 5, 5], "polygon is not a list"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "polygon leaves its image"),
        ([[0, 0, float("nan"), 0, 2, 2]], "polygon leaves its image"),
        ([[0, 0, 8, 8] * 10**6], "is too long"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(PanopticFormatError, match=message) as caught:
        decode_mask(segmentation, 4, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "size", [(0, 5), (-1, 5), (5.0, 5), ("5", 5), (None, 5), (True, 5), (10**5, 10**5), (10**40, 1)]
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(PanopticFormatError, match="an image of"):
        check_size(*size)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=14))
def test_any_text_is_a_mask_of_the_right_size_or_refused(text):
    try:
        mask = decode_mask({"size": [4, 5], "counts": text}, 4, 5)
    except PanopticFormatError:
        return
    assert mask.shape == (4, 5)
    assert encode_mask(mask)["size"] == [4, 5]
