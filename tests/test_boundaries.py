"""Boundaries of classes: by hand, and against the published ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panoseg.metrics.confusion import class_boundaries, classes_in_reach


@pytest.mark.parametrize("neighbours", [4, 8])
def test_equals_the_published_boundaries(golden, neighbours):
    with np.load(golden / "crop2seg" / "boundaries.npz") as cases:
        classes = torch.from_numpy(cases["target"]).long()
        reach = classes_in_reach(classes, 15, neighbours)
        np.testing.assert_array_equal(reach.sum(1), cases[f"classes_in_reach_{neighbours}"])
        np.testing.assert_array_equal(
            class_boundaries(classes, neighbours), cases[f"boundary_{neighbours}"]
        )
    assert reach.gather(1, classes[:, None]).all()


def test_corners_count_with_eight_neighbours_alone():
    classes = torch.tensor([[[0, 0, 0], [0, 0, 0], [0, 0, 3]]])
    assert class_boundaries(classes, 4)[0].int().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert class_boundaries(classes, 8)[0].int().tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_other_corners_too():
    classes = torch.tensor([[[0, 0, 0], [0, 0, 0], [3, 0, 0]]])
    assert class_boundaries(classes, 8)[0].int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]


def test_labels_of_any_value_have_boundaries():
    classes = torch.tensor([[[255, 255, -1]]], dtype=torch.int32)
    assert class_boundaries(classes).tolist() == [[[False, True, True]]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (1, 5, 1), (0, 3, 3)])
def test_images_of_a_row_or_a_pixel(shape):
    classes = torch.zeros(shape, dtype=torch.int64)
    assert not class_boundaries(classes, 8).any()
    assert classes_in_reach(classes, 2, 8).shape == (shape[0], 2, *shape[1:])


@given(arrays.arrays(np.int64, (2, 5, 6), elements=st.integers(0, 3)), st.sampled_from([4, 8]))
def test_a_boundary_is_where_more_than_one_class_is_in_reach(classes, neighbours):
    classes = torch.from_numpy(classes)
    assert torch.equal(
        class_boundaries(classes, neighbours), classes_in_reach(classes, 4, neighbours).sum(1) > 1
    )
