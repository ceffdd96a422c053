"""Centre targets: by hand, against the published script, and where that one fails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from panoseg.data.samples import centre_targets, number_parcels, targets_from_maps

TWO_PARCELS = np.array(
    [
        [0, 0, 0, 0, 0],
        [0, 4, 4, 0, 0],
        [0, 4, 4, 0, 9],
        [0, 0, 0, 0, 9],
    ]
)
CLASSES = np.where(TWO_PARCELS == 4, 2, np.where(TWO_PARCELS == 9, 7, 0))


def test_by_hand():
    targets = centre_targets(TWO_PARCELS, CLASSES)
    # Parcel 4 with its margin spans rows and columns 0..3: centre (1, 1), 3 x 3. Parcel 9 spans
    # rows 1..3, columns 3..4.
    assert targets.heatmap_HW[1, 1] == 1
    assert targets.heatmap_HW[2, 3] == 1
    assert (targets.heatmap_HW == 1).sum() == 2
    deviation = 0.3 / 1.7 * 3 / 3
    assert targets.heatmap_HW[1, 2].item() == pytest.approx(
        math.exp(-1 / (2 * deviation**2)), rel=1e-5
    )
    assert targets.zone_HW[1, 1] == 4
    assert targets.zone_HW[2, 4] == 9
    assert targets.size_HW2[1, 1].tolist() == [2, 2]
    assert targets.size_HW2[2, 4].tolist() == [2, 1]
    assert targets.zone_class_HW[1, 1] == 2
    assert targets.zone_class_HW[2, 4] == 7
    assert targets.instance_HW.tolist() == TWO_PARCELS.tolist()
    kinds = [
        getattr(targets, name).dtype
        for name in ("heatmap_HW", "instance_HW", "zone_HW", "size_HW2", "zone_class_HW")
    ]
    assert kinds == [torch.float32, torch.int32, torch.int32, torch.float32, torch.int64]


def test_published_centre_targets(golden):
    case = np.load(golden / "utae-paps" / "center_targets.npz")
    targets, expected = centre_targets(case["instance"], case["semantic"]), case["target"]
    np.testing.assert_allclose(targets.heatmap_HW, expected[..., 0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(targets.instance_HW, expected[..., 1])
    np.testing.assert_array_equal(targets.zone_HW, expected[..., 2])
    np.testing.assert_array_equal(targets.size_HW2, expected[..., 3:5])
    np.testing.assert_array_equal(targets.zone_class_HW, expected[..., 5])


def test_published_instances_and_heat(golden):
    folder = golden / "pastis" / "PASTIS"
    for patch in (10005, 10041, 20037, 30002, 40011):
        parcels, heatmap, zones, instances = (
            np.load(folder / name / f"{kind}_{patch}.npy")
            for name, kind in (
                ("ANNOTATIONS", "ParcelIDs"),
                ("INSTANCE_ANNOTATIONS", "HEATMAP"),
                ("INSTANCE_ANNOTATIONS", "ZONES"),
                ("INSTANCE_ANNOTATIONS", "INSTANCES"),
            )
        )
        classes = np.load(folder / "ANNOTATIONS" / f"TARGET_{patch}.npy")[0]
        numbered = number_parcels(parcels, classes)
        np.testing.assert_array_equal(numbered, instances)
        computed = centre_targets(numbered, classes)
        np.testing.assert_allclose(computed.heatmap_HW, heatmap, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(computed.zone_HW, zones)
        assert_same(computed, targets_from_maps(heatmap, instances, zones, classes))


def test_genuine_heat_maps(real_data):
    """PASTIS's own heat maps agree with its parcels for most pixels, not all."""
    folder = real_data / "pastis-annotations"
    for patch in range(10000, 10005):
        parcels = np.load(folder / "ANNOTATIONS" / f"ParcelIDs_{patch}.npy")
        heatmap = np.load(folder / "INSTANCE_ANNOTATIONS" / f"HEATMAP_{patch}.npy")
        computed = centre_targets(
            number_parcels(parcels, parcels != 0), parcels != 0
        ).heatmap_HW.numpy()
        assert (np.abs(computed - heatmap) < 1e-6).mean() > 0.94


def test_no_parcel():
    targets = centre_targets(np.zeros((4, 6), int), np.zeros((4, 6), int))
    assert targets.size_HW2.shape == (4, 6, 2)
    for values in vars(targets).values():
        assert not values.any()


def test_no_background(golden):
    ids_HW = np.repeat([[5, 8]], 6, axis=0).repeat(3, axis=1)
    numbers = number_parcels(ids_HW, np.full((6, 6), 3))
    published = np.load(golden / "pastis" / "golden.npz")[
        "instances_of_two_parcels_without_background"
    ]
    assert published == 1  # the published script takes the first parcel for background
    assert np.unique(numbers).tolist() == [1, 2]
    targets = centre_targets(numbers, np.full((6, 6), 3))
    assert (targets.heatmap_HW == 1).sum() == 2
    assert set(targets.zone_HW.unique().tolist()) == {1, 2}


def test_parcels_of_background_are_no_instances():
    assert number_parcels([[7, 7, 0], [9, 4, 4]], [[2, 0, 2], [0, 1, 1]]).tolist() == [
        [2, 0, 0],
        [0, 1, 1],
    ]


def test_one_row():
    """A box without height would have a Gaussian without width."""
    targets = centre_targets(np.array([[0, 1, 1, 0]]), np.array([[0, 3, 3, 0]]))
    assert torch.isfinite(targets.heatmap_HW).all()
    assert targets.heatmap_HW.max() == 1


def test_parcel_in_two_pieces_has_the_size_of_its_pieces():
    """As published: rows and columns that are touched, not those of the box."""
    targets = centre_targets(np.array([[1, 0, 0, 0, 1]] * 2), np.full((2, 5), 3))
    assert targets.size_HW2[0, 0].tolist() == [2, 2]


def test_zone_of_no_parcel_is_refused():
    with pytest.raises(ValueError, match="zone 5 has no parcel"):
        targets_from_maps(np.zeros((4, 5)), TWO_PARCELS, np.where(TWO_PARCELS == 9, 5, 4), CLASSES)
    with pytest.raises(ValueError, match="zone 1 has no parcel"):
        targets_from_maps(
            np.zeros((2, 2)), np.zeros((2, 2), int), np.ones((2, 2), int), np.zeros((2, 2), int)
        )


def test_accepts_tensors_and_leaves_them():
    instances, classes = torch.tensor(TWO_PARCELS), torch.tensor(CLASSES)
    assert_same(centre_targets(instances, classes), centre_targets(TWO_PARCELS, CLASSES))
    assert instances.tolist() == TWO_PARCELS.tolist()


def heat_by_definition(instances_HW: np.ndarray) -> dict[int, np.ndarray]:
    """Heat of each parcel, one pixel after the other."""
    height, width = instances_HW.shape
    heat = {}
    for number in sorted(set(instances_HW.flat) - {0}):
        rows, columns = (np.flatnonzero((instances_HW == number).any(axis)) for axis in (1, 0))
        top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
        tall = max(min(rows[-1] + 1, height - 1) - top, 1)
        wide = max(min(columns[-1] + 1, width - 1) - left, 1)
        heat[number] = np.zeros((height, width))
        for row in range(height):
            for column in range(width):
                down, right = (row - top - tall // 2) / tall, (column - left - wide // 2) / wide
                heat[number][row, column] = math.exp(-(down**2 + right**2) / 2 * 17**2)
    return heat


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.int32,
        st.tuples(st.integers(2, 9), st.integers(2, 9)),
        elements=st.sampled_from([0, 0, 1, 2, 5]),
    )
)
def test_definition(instances_HW):
    targets = centre_targets(instances_HW, instances_HW + 1)
    heat = heat_by_definition(instances_HW)
    zone_HW = targets.zone_HW.numpy()
    assert set(zone_HW.flat) <= set(heat or {0: None})
    if not heat:
        return
    strongest_HW = np.max(list(heat.values()), axis=0)
    np.testing.assert_allclose(targets.heatmap_HW, strongest_HW, rtol=1e-5, atol=1e-30)
    for number in heat:
        in_zone = zone_HW == number
        np.testing.assert_allclose(heat[number][in_zone], strongest_HW[in_zone], rtol=1e-9)
        size = [len(set(places.tolist())) for places in np.nonzero(instances_HW == number)]
        assert (targets.size_HW2.numpy()[in_zone] == size).all()
    assert (zone_HW[strongest_HW == 0] == min(heat)).all()
    assert (targets.zone_class_HW.numpy() == zone_HW + 1).all()


def assert_same(one, other):
    for name, values in vars(one).items():
        assert torch.equal(values, getattr(other, name)), name
