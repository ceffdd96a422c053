"""Panoptic quality: by hand, against the published programs, and its properties."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseg.classes import PASTIS, ClassTable, SegmentClass
from panoseg.coco.evaluate import coco_counts
from panoseg.metrics import panoptic_table
from panoseg.metrics.panoptic_quality import (
    PanopticCounts,
    coco_patch_counts,
    panoptic_quality,
    patch_counts,
    quality_of_counts,
)
from panoseg.panoptic import Panoptic, Segment, Segments

TRUE = Panoptic.from_maps(
    np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [0, 0, 0, 3, 3, 3], [4, 4, 4, 3, 3, 3]]),
    {1: 3, 2: 3, 3: 8, 4: 19},
    PASTIS,
)
PREDICTED = Panoptic.from_maps(
    np.array([[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 2, 0], [3, 3, 3, 4, 4, 4], [5, 5, 5, 4, 4, 4]]),
    {1: 3, 2: 3, 3: 3, 4: 2, 5: 2},
    PASTIS,
)


def rows(counts: PanopticCounts) -> dict[str, list]:
    """Counts of the classes that occur."""
    return {
        name: [int(tp), int(fp), int(fn), float(iou)]
        for name, (tp, fp, fn, iou) in zip(counts.classes.names, counts.to_array(), strict=True)
        if tp + fp + fn
    }


def test_the_example_of_the_documentation_under_pastis():
    counts = patch_counts(TRUE, PREDICTED, PASTIS)
    # Parcel 1 is found with IoU 6/7; parcel 2, IoU 3/6, is not; prediction 3 is invented; 4 has the
    # wrong class; 5 is on void.
    assert rows(counts) == {
        "soft winter wheat": [0, 1, 0, 0.0],
        "corn": [1, 2, 1, pytest.approx(6 / 7)],
        "grapevine": [0, 0, 1, 0],
    }
    quality = quality_of_counts(counts)
    assert quality.all.n == 3
    assert quality.all.sq == pytest.approx(6 / 7 / 3)
    assert quality.all.rq == pytest.approx(0.4 / 3)
    assert quality.all.pq == pytest.approx(0.4 * 6 / 7 / 3)


def test_the_example_of_the_documentation_under_coco():
    # Prediction 3 lies where nothing is annotated, which is void for COCO: no mistake.
    counts = patch_counts(TRUE, PREDICTED, PASTIS, "coco")
    assert rows(counts) == {
        "soft winter wheat": [0, 1, 0, 0.0],
        "corn": [1, 1, 1, pytest.approx(6 / 7)],
        "grapevine": [0, 0, 1, 0],
    }
    with_background = patch_counts(
        TRUE.with_background(PASTIS), PREDICTED.with_background(PASTIS), PASTIS, "coco"
    )
    assert rows(with_background)["background"] == [0, 1, 1, 0.0]
    assert rows(with_background)["corn"][1] == 2


def test_without_classes_a_parcel_of_the_wrong_class_is_found():
    counts = patch_counts(TRUE, PREDICTED, PASTIS, class_agnostic=True)
    assert rows(counts) == {"thing": [2, 2, 1, pytest.approx(6 / 7 + 1)]}
    assert rows(patch_counts(TRUE, PREDICTED, PASTIS, "coco", class_agnostic=True)) == {
        "thing": [2, 1, 1, pytest.approx(6 / 7 + 1)]
    }


def test_a_prediction_half_on_a_void_parcel_is_cut_but_not_dropped():
    true = Panoptic.from_maps(np.array([[1, 1, 1, 1]]), {1: 19}, PASTIS)
    halves = Panoptic.from_maps(np.array([[5, 5, 0, 0]]), {5: 2}, PASTIS)
    assert rows(patch_counts(true, halves, PASTIS)) == {}, (
        "wholly on void: nothing of it is left to score"
    )
    partly = Panoptic.from_maps(np.array([[1, 1, 0, 2, 2]]), {1: 19, 2: 3}, PASTIS)
    across = Panoptic.from_maps(np.array([[5, 5, 5, 0, 0]]), {5: 2}, PASTIS)
    assert rows(patch_counts(partly, across, PASTIS)) == {"corn": [0, 0, 1, 0.0]}, (
        "IoU 2/3 with the void parcel: dropped"
    )
    longer = Panoptic.from_maps(np.array([[5, 5, 5, 5, 5]]), {5: 3}, PASTIS)
    assert rows(patch_counts(partly, longer, PASTIS)) == {
        "corn": [1, 0, 0, pytest.approx(2 / 3)]
    }, "cut: 2 of 3 pixels"


def test_equals_the_published_panoptic_meter(golden):
    counts = PanopticCounts.zero(PASTIS)
    with np.load(golden / "utae-paps" / "panoptic_meter.npz") as meter:
        for batch in range(4):
            true, predicted = (
                [
                    Panoptic.from_maps(instances, classes, PASTIS)
                    for instances, classes in zip(
                        meter[f"b{batch}_{kind}_instance"],
                        meter[f"b{batch}_{kind}_class"],
                        strict=True,
                    )
                ]
                for kind in ("true", "pred")
            )
            for one, other in zip(true, predicted, strict=True):
                counts += patch_counts(one, other, PASTIS)
        np.testing.assert_array_equal(counts.to_array()[:, :3], meter["counts_tp_fp_fn"])
        np.testing.assert_allclose(counts.iou_sum, meter["iou_sum"], atol=1e-5)
        quality = quality_of_counts(counts)
        np.testing.assert_allclose(quality.pq_K, meter["class_pq"], atol=1e-6)
        np.testing.assert_allclose(
            [quality.all.sq, quality.all.rq, quality.all.pq],
            [meter[name] for name in ("sq", "rq", "pq")],
            atol=1e-6,
        )


def golden_pairs(golden) -> tuple[list[tuple], list[tuple]]:
    """Truth and predictions of the published meter's case: instances and classes of each batch."""
    with np.load(golden / "utae-paps" / "panoptic_meter.npz") as meter:
        truth, predicted = (
            [
                (meter[f"b{batch}_{kind}_instance"], meter[f"b{batch}_{kind}_class"])
                for batch in range(4)
            ]
            for kind in ("true", "pred")
        )
    return truth, predicted


def test_one_call_equals_the_published_panoptic_meter(golden):
    truth, predicted = golden_pairs(golden)
    scores = panoptic_quality(truth, predicted)
    with np.load(golden / "utae-paps" / "panoptic_meter.npz") as meter:
        assert (scores.sq, scores.rq, scores.pq) == pytest.approx(
            [100 * float(meter[name]) for name in ("sq", "rq", "pq")], abs=1e-4
        )
        of_class = dict(zip(PASTIS.ids("thing"), meter["class_pq"], strict=True))
    for class_id, pq in of_class.items():
        name = PASTIS[class_id].name
        assert (name in scores.by_class) == (not np.isnan(pq))
        if name in scores.by_class:
            assert scores.by_class[name].pq == pytest.approx(100 * pq, abs=1e-4)


def test_one_call_takes_images_batches_and_arrays_alike(golden):
    truth, predicted = golden_pairs(golden)
    expected = panoptic_quality(truth[0], predicted[0])
    singly = [
        [tuple(pair) for pair in zip(*batch, strict=True)] for batch in (truth[0], predicted[0])
    ]
    objects = [[Panoptic.from_maps(*pair, PASTIS) for pair in pairs] for pairs in singly]
    assert panoptic_quality(*singly) == expected
    assert panoptic_quality(*(tuple(pairs) for pairs in singly)) == expected
    assert panoptic_quality(*objects) == expected
    assert panoptic_quality(objects[0], singly[1]) == expected
    one = panoptic_quality(objects[0][0], objects[1][0])
    assert one == panoptic_quality(singly[0][0], singly[1][0])
    assert one == panoptic_quality([objects[0][0]], [objects[1][0]])


def test_one_call_knows_both_definitions():
    assert panoptic_quality(TRUE, TRUE).pq == 100
    assert panoptic_quality(TRUE, Panoptic.empty(4, 6)).pq == 0
    scores = panoptic_quality(TRUE, PREDICTED)
    assert scores.pq == pytest.approx(100 * 0.4 * 6 / 7 / 3)
    assert set(scores.by_class) == {"soft winter wheat", "corn", "grapevine"}
    assert panoptic_quality(TRUE, PREDICTED, definition="coco").pq > scores.pq
    assert set(panoptic_quality(TRUE, PREDICTED, class_agnostic=True).by_class) == {"thing"}
    with pytest.raises(ValueError, match="1 true images"):
        panoptic_quality(TRUE, [])


def test_one_call_uses_the_classes_of_the_images():
    table = ClassTable(
        "two",
        (SegmentClass(0, "none", "#000000", "stuff"), SegmentClass(1, "a", "#ff0000", "thing")),
    )
    truth = Panoptic.from_maps(np.array([[1, 1, 2, 2]]), {1: 1, 2: 1}, table)
    assert set(panoptic_quality(truth, truth).by_class) == {"a"}
    pair = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    assert set(panoptic_quality(pair, truth).by_class) == {"a"}
    assert set(panoptic_quality(pair, pair, table).by_class) == {"a"}
    assert set(panoptic_quality(pair, pair).by_class) == {"meadow"}


def assert_equals_result(counts: PanopticCounts, result: dict) -> None:
    quality = quality_of_counts(counts)
    for name, mean in (("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff)):
        assert vars(mean) == pytest.approx(result[name], abs=1e-9), name
    found = np.nan_to_num(np.stack([quality.pq_K, quality.sq_K, quality.rq_K], axis=1))
    expected = [
        [row["pq"], row["sq"], row["rq"]]
        for _, row in sorted(result["per_class"].items(), key=lambda item: int(item[0]))
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_equals_the_published_coco_evaluation(golden):
    folder = golden / "panopticapi" / "pq"
    expected = json.loads((folder / "result.json").read_text())
    counts = coco_counts(folder / "gt.json", folder / "pred.json")
    assert_equals_result(counts, expected["result"])
    # Strict, both crowds of image 8 excuse predictions, so that fewer are mistakes.
    strict = coco_counts(folder / "gt.json", folder / "pred.json", strict=True)
    assert strict.false_positives.sum() < counts.false_positives.sum()
    np.testing.assert_array_equal(strict.true_positives, counts.true_positives)


@pytest.mark.parametrize("case", ["against_itself", "perturbed"])
def test_equals_the_published_coco_evaluation_of_the_sample(golden, real_data, case):
    true = real_data / "coco-sample" / "panoptic_examples.json"
    folder = golden / "panopticapi" / "sample"
    counts = coco_counts(true, true if case == "against_itself" else folder / "perturbed.json")
    assert_equals_result(counts, json.loads((folder / "result.json").read_text())[case])


def test_crowds_are_never_matched_and_excuse_predictions_of_their_class():
    true = Panoptic.from_maps(np.array([[1, 1, 2, 2, 3, 3]]), {1: 3, 2: 3, 3: 4}, PASTIS)
    predicted = Panoptic.from_maps(np.array([[1, 1, 2, 2, 3, 3]]), {1: 3, 2: 3, 3: 3}, PASTIS)
    assert rows(coco_patch_counts(true, predicted, PASTIS, crowd_ids=[1, 2]))["corn"] == [
        0,
        2,
        0,
        0.0,
    ]
    assert rows(coco_patch_counts(true, predicted, PASTIS, crowd_ids=[1, 2], strict=True))[
        "corn"
    ] == [0, 1, 0, 0.0]
    assert rows(coco_patch_counts(true, predicted, PASTIS))["corn"] == [2, 1, 0, 2.0]


def test_stated_areas_are_believed():
    true = Panoptic.from_maps(np.array([[1, 1, 1]]), {1: 3}, PASTIS)
    assert rows(coco_patch_counts(true, true, PASTIS, true_areas=np.array([4])))["corn"] == [
        1,
        0,
        0,
        0.75,
    ]


def partition(random: np.random.Generator, none: float) -> Panoptic:
    raster = random.integers(1, 7, (6, 6)).repeat(2, axis=0).repeat(2, axis=1)
    raster[random.random(raster.shape) < none] = 0
    return Panoptic.from_maps(
        raster, {id_: int(random.integers(1, 4)) for id_ in range(1, 7)}, PASTIS
    )


def renamed(picture: Panoptic, random: np.random.Generator) -> Panoptic:
    names = random.permutation(1000)[: len(picture.segments)] + 1
    raster = np.concatenate([[0], names])[picture.position_HW]
    return Panoptic(
        raster,
        Segments.of(
            Segment(int(name), row.class_id, row.score, row.area, row.kind)
            for name, row in zip(names, picture.segments, strict=True)
        ),
    )


seeds = st.integers(0, 2**32 - 1)
definitions = st.sampled_from(["pastis", "coco"])
shares = st.sampled_from([0.0, 0.3])


@settings(deadline=None)
@given(seeds, definitions, shares, st.booleans())
def test_a_perfect_prediction_scores_one_with_and_without_background(
    seed, definition, none, class_agnostic
):
    random = np.random.default_rng(seed)
    true = partition(random, none)
    quality = quality_of_counts(
        patch_counts(true, renamed(true, random), PASTIS, definition, class_agnostic=class_agnostic)
    )
    assert quality.all.pq == quality.all.sq == quality.all.rq == 1.0


@settings(deadline=None)
@given(seeds, definitions, shares)
def test_names_and_the_order_of_parcels_do_not_matter_and_inputs_stay(seed, definition, none):
    random = np.random.default_rng(seed)
    true, predicted = partition(random, none), partition(random, none)
    before = true.segment_HW.copy(), predicted.segment_HW.copy()
    counts = patch_counts(true, predicted, PASTIS, definition).to_array()
    again = patch_counts(
        renamed(true, random), renamed(predicted, random), PASTIS, definition
    ).to_array()
    np.testing.assert_allclose(again, counts, rtol=1e-12)
    np.testing.assert_array_equal(true.segment_HW, before[0])
    np.testing.assert_array_equal(predicted.segment_HW, before[1])


@settings(deadline=None)
@given(seeds, shares)
def test_exchanging_truth_and_prediction_exchanges_the_mistakes(seed, none):
    random = np.random.default_rng(seed)
    true, predicted = partition(random, none), partition(random, none)
    counts, exchanged = patch_counts(true, predicted, PASTIS), patch_counts(predicted, true, PASTIS)
    np.testing.assert_array_equal(counts.false_positives, exchanged.false_negatives)
    np.testing.assert_allclose(counts.iou_sum, exchanged.iou_sum, rtol=1e-12)


@pytest.mark.parametrize("definition", ["pastis", "coco"])
def test_an_empty_prediction_scores_zero(definition):
    quality = quality_of_counts(patch_counts(TRUE, Panoptic.empty(4, 6), PASTIS, definition))
    assert quality.all.pq == 0
    assert quality.counts.false_negatives.sum() == 3


def test_no_stuff_or_nothing_at_all_is_no_division_by_zero():
    assert quality_of_counts(patch_counts(TRUE, PREDICTED, PASTIS, "coco")).stuff.n == 0
    nothing = quality_of_counts(PanopticCounts.zero(PASTIS))
    assert (nothing.all.pq, nothing.all.n) == (0.0, 0)
    assert np.isnan(nothing.pq_K).all()


def test_counts_add_up_and_travel_as_an_array():
    counts = patch_counts(TRUE, PREDICTED, PASTIS)
    zero = PanopticCounts.zero(PASTIS)
    both = counts + counts
    np.testing.assert_array_equal(both.to_array(), 2 * counts.to_array())
    travelled = zero.from_array(both.to_array())
    assert travelled.true_positives.dtype == np.int64
    np.testing.assert_array_equal(travelled.to_array(), both.to_array())
    with pytest.raises(ValueError, match="cannot be added"):
        counts + PanopticCounts.zero(PASTIS, "coco")


def test_mistakes_of_the_caller_are_told():
    with pytest.raises(ValueError, match="no definition"):
        patch_counts(TRUE, PREDICTED, PASTIS, "kitti")
    with pytest.raises(ValueError, match="pixels"):
        patch_counts(TRUE, Panoptic.empty(4, 5), PASTIS)


def test_the_table_shows_every_class_and_the_means():
    quality = quality_of_counts(patch_counts(TRUE, PREDICTED, PASTIS))
    table = panoptic_table(quality)
    assert (
        "| corn                        | 85.7 | 40.0 | 34.3 |       1 |        2 |      1 |"
        in table
    )
    assert (
        "| meadow                      |    – |    – |    – |       0 |        0 |      0 |"
        in table
    )
    assert table.splitlines()[-1].startswith("| mean of 3 classes           | 28.6 | 13.3 | 11.4 |")
    assert len({len(line) for line in table.splitlines()}) == 1
    assert json.dumps(quality.to_json(), allow_nan=False)
