"""Scores of classified pixels: by hand, and against the published meter."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panoseg.classes import PASTIS
from panoseg.errors import DatasetError
from panoseg.metrics import confusion_table
from panoseg.metrics.confusion import confusion_matrix, confusion_scores

TRUE = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [3, 3, 3, 3]])
PREDICTED = np.array([[0, 1, 1, 1], [1, 3, 2, 2], [0, 1, 2, 3]])


def test_rows_are_true_and_columns_predicted_classes():
    matrix = confusion_matrix(TRUE, PREDICTED, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 3, 0, 1], [0, 0, 2, 0], [1, 1, 1, 1]]


def test_ignored_truth_is_left_out_and_pixels_predicted_as_ignored_are_missed():
    matrix = confusion_matrix(TRUE, PREDICTED, 4, ignored=[3])
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 3, 0, 1], [0, 0, 2, 0], [0, 0, 0, 0]]
    scores = confusion_scores(matrix, ignored=[3])
    assert scores.accuracy == 6 / 8
    assert scores.iou_K[:3].tolist() == [0.5, 0.6, 1.0]
    assert np.isnan(scores.iou_K[3])
    assert scores.mean_iou == pytest.approx(0.7)
    assert scores.recall_K[:3].tolist() == [0.5, 0.75, 1.0]
    assert scores.precision_K[:3].tolist() == [1.0, 0.75, 1.0]


def test_the_published_variant_also_leaves_out_pixels_predicted_as_ignored():
    matrix = confusion_matrix(TRUE, PREDICTED, 4, ignored=[3], variant="published")
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion_scores(matrix, ignored=[3]).accuracy == 6 / 7


@pytest.mark.parametrize("variant", ["strict", "published"])
def test_equals_the_published_meter(golden, variant):
    # No pixel of the golden case is predicted as void, so both variants agree with it.
    with np.load(golden / "utae-paps" / "iou_meter.npz") as meter:
        matrix = confusion_matrix(
            torch.from_numpy(meter["true"]), torch.from_numpy(meter["pred"]), 20, [19], variant
        )
        np.testing.assert_array_equal(matrix.numpy(), meter["confusion"])
        scores = confusion_scores(matrix, ignored=[19])
        assert 100 * scores.mean_iou == pytest.approx(float(meter["miou"]), abs=1e-6)
        assert 100 * scores.accuracy == pytest.approx(float(meter["acc"]), abs=1e-6)
        overall = json.loads(str(meter["overall"]))
    assert np.nanmean(scores.precision_K) == pytest.approx(overall["MACRO_Precision"], abs=1e-6)
    assert np.nanmean(scores.recall_K) == pytest.approx(overall["MACRO_Recall"], abs=1e-6)
    assert scores.mean_f1 == pytest.approx(overall["MACRO_F1-score"], abs=1e-6)


labels = arrays.arrays(np.int64, 30, elements=st.integers(0, 3))


@given(labels, labels)
def test_matrices_of_parts_add_up(true, predicted):
    whole = confusion_matrix(true, predicted, 4, ignored=[0])
    parts = [
        confusion_matrix(true[part], predicted[part], 4, ignored=[0])
        for part in (slice(0, 7), slice(7, 7), slice(7, 30))
    ]
    assert torch.equal(sum(parts), whole)


@given(labels)
def test_a_perfect_prediction_scores_one(true):
    scores = confusion_scores(confusion_matrix(true, true, 4))
    assert scores.accuracy == scores.mean_iou == scores.mean_f1 == 1.0


def test_no_pixels_score_zero_without_warning():
    scores = confusion_scores(torch.zeros(3, 3, dtype=torch.int64))
    assert (scores.accuracy, scores.mean_iou) == (0.0, 0.0)


@pytest.mark.parametrize("label", [-1, 4, 255])
def test_a_label_outside_of_the_table_is_refused(label):
    for true, predicted in (([0, label], [0, 0]), ([0, 0], [label, 0])):
        with pytest.raises(DatasetError, match="outside of the class table"):
            confusion_matrix(np.array(true), np.array(predicted), 4)


def test_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="2 true and 3 predicted"):
        confusion_matrix(np.zeros(2), np.zeros(3), 4)


def test_the_table_leaves_out_ignored_classes():
    matrix = torch.zeros(20, 20, dtype=torch.int64)
    matrix[1, 1], matrix[1, 2] = 3, 1
    table = confusion_table(confusion_scores(matrix, [19]), PASTIS, ignored=[19])
    assert "| meadow                      | 75.0 |     100.0 |   75.0 | 85.7 |      4 |" in table
    assert "void" not in table
