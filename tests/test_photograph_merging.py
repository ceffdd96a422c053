"""What networks say of photographs becomes pictures: masks pasted, stuff next to things, in fixed
shapes on any device.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from panoseg.data.photographs import VOID
from panoseg.models.outputs import DetectedObjects, PhotographOutput, best_class, paste, spread
from panoseg.models.photograph_network import Labels, merged, panoptics
from panoseg.models.two_models import two_models
from panoseg.panoptic.merge import MergeThresholds
from photograph_networks import TABLE, photograph

LABELS = Labels.of(TABLE)
HEIGHT, WIDTH = 20, 24
SMALL = MergeThresholds(stuff_area=1)


def objects(boxes, scores, labels, shape=None, size=(HEIGHT, WIDTH), threshold=0.5):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    shapes = torch.ones(len(boxes), 4, 4) if shape is None else shape
    return DetectedObjects(
        shapes[None],
        boxes[None],
        torch.tensor(scores)[None].float(),
        torch.tensor(labels)[None].long(),
        size,
        threshold,
    )


def output(found=None, label_HW=None, classes=3, size=(HEIGHT, WIDTH)):
    """An output whose pixels have the labels given, at the size of the picture."""
    maps = None if label_HW is None else F.one_hot(label_HW, classes).permute(2, 0, 1)[None].float()
    return PhotographOutput(size, found, maps, tuple(map(float, size)))


# Pasting and spreading


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_pasting_is_linear_interpolation_with_zeros_around(seed, side):
    generator = torch.Generator().manual_seed(seed)
    shape_NSS = torch.rand(3, side, side, generator=generator)
    start_N2 = torch.rand(3, 2, generator=generator) * 20 - 5
    box_N4 = torch.cat(
        [start_N2, start_N2 + 0.5 + torch.rand(3, 2, generator=generator) * 15], dim=1
    )
    left, top, right, bottom = box_N4[:, :, None].unbind(1)
    x = (torch.arange(WIDTH) + 0.5 - left) / (right - left) * 2 - 1
    y = (torch.arange(HEIGHT) + 0.5 - top) / (bottom - top) * 2 - 1
    grid = torch.stack(
        [x[:, None].expand(-1, HEIGHT, -1), y[:, :, None].expand(-1, -1, WIDTH)], dim=-1
    )
    expected = F.grid_sample(shape_NSS[:, None], grid, align_corners=False)[:, 0]
    assert paste(shape_NSS, box_N4, (HEIGHT, WIDTH)).allclose(expected, atol=1e-4)


def test_a_full_mask_fills_its_box_and_an_empty_box_nothing():
    full = torch.ones(2, 28, 28)
    pasted = (
        paste(full, torch.tensor([[3.0, 2.0, 9.0, 12.0], [0.0, 0.0, 0.0, 0.0]]), (HEIGHT, WIDTH))
        >= 0.5
    )
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[2:12, 3:9] = True
    assert torch.equal(pasted[0], expected)
    assert not pasted[1].any()


def test_spreading_equals_interpolation_and_leaves_padding_out():
    maps = torch.randn(1, 3, 8, 6)
    assert spread(maps, (8, 6), (32, 24)).allclose(
        F.interpolate(maps, (32, 24), mode="bilinear", align_corners=False), atol=1e-5
    )
    part = spread(maps, (7.5, 5.0), (30, 20))
    assert part.allclose(spread(maps, (8, 6), (32, 24))[..., :30, :20], atol=1e-5)
    assert spread(maps, (7.5, 5.0), (60, 10)).shape == (1, 3, 60, 10)


def test_the_best_class_is_that_of_all_scores():
    maps = torch.randn(2, 5, 7, 9)
    assert torch.equal(
        best_class(maps, (6.5, 9.0), (26, 36)), spread(maps, (6.5, 9.0), (26, 36)).argmax(1)
    )
    assert not best_class(torch.zeros(1, 4, 3, 3), (3, 3), (6, 6)).any()  # equal scores: the first


# Labels


def test_labels_follow_class_ids_in_ascending_order():
    assert (LABELS.things, LABELS.stuff) == ((2, 7), (3, 9))
    one = photograph()
    together, apart = LABELS.of_photograph(one, "stuff"), LABELS.of_photograph(one, "all")
    assert together.label_N.tolist() == [1, 2]
    for class_id, label, label_of_all in (
        (2, 0, 0),
        (3, 1, 1),
        (7, 0, 2),
        (9, 2, 3),
        (VOID, 255, 255),
    ):
        inside = one.classes_HW == class_id
        assert inside.any()
        assert (together.semantic_HW[inside] == label).all()
        assert (apart.semantic_HW[inside] == label_of_all).all()
    assert LABELS.of_photograph(one, None).semantic_HW is None
    assert LABELS.semantic_classes(torch.tensor([0, 1, 2]), "stuff").tolist() == [VOID, 3, 9]
    assert LABELS.semantic_classes(torch.tensor([0, 1, 2, 3]), "all").tolist() == [2, 3, 7, 9]
    assert LABELS.thing_classes(torch.tensor([[0, 2, 1]])).tolist() == [[VOID, 7, 2]]
    with pytest.raises(ValueError, match="no labels"):
        LABELS.of_photograph(type(one)(one.image_CHW, "bare", 1, one.size_HW), "stuff")


# Merging


def test_a_picture_worked_by_hand():
    label_HW = torch.full((HEIGHT, WIDTH), 1)
    label_HW[:10] = 2
    label_HW[:, 20:] = 0  # "things", where no thing is found
    found = objects([[0, 0, 8, 8], [4, 0, 12, 8], [0, 12, 6, 18]], [0.6, 0.9, 0.4], [1, 2, 1])
    (picture,) = panoptics(output(found, label_HW), LABELS, "stuff", SMALL, TABLE)
    classes_HW = picture.classes_HW(VOID)
    assert (classes_HW[:8, 4:12] == 7).all()
    assert (classes_HW[:8, :4] == 2).all()  # half of it is covered, which is allowed
    assert (classes_HW[12:18, :6] == 3).all()  # a score below the threshold
    assert (classes_HW[8:10, :20] == 9).all()
    assert (classes_HW[:, 20:] == VOID).all()
    assert picture.segments.scores.tolist() == pytest.approx([0.9, 0.6, 1.0, 1.0])
    none = panoptics(
        output(found, label_HW), LABELS, "stuff", MergeThresholds(0.95, 0.5, 400), TABLE
    )[0]
    assert not none.segment_HW.any()


def test_things_of_the_other_scope_draw_nothing():
    label_HW = torch.full((HEIGHT, WIDTH), 0)
    label_HW[:5], label_HW[5:9] = 1, 3
    (picture,) = panoptics(output(None, label_HW, 4), LABELS, "all", SMALL, TABLE)
    assert set(np.unique(picture.classes_HW(VOID))) == {VOID, 3, 9}


def test_parts_that_a_network_lacks():
    found = objects([[0, 0, 8, 8]], [0.9], [2])
    (things,) = panoptics(output(found), LABELS, None, SMALL, TABLE)
    assert set(np.unique(things.classes_HW(VOID))) == {VOID, 7}
    (stuff,) = panoptics(
        output(None, torch.ones(HEIGHT, WIDTH, dtype=torch.long)), LABELS, "stuff", SMALL, TABLE
    )
    assert set(np.unique(stuff.classes_HW(VOID))) == {3}


def test_two_models_are_one():
    found = objects([[0, 0, 8, 8]], [0.9], [2])
    label_HW = torch.ones(HEIGHT, WIDTH, dtype=torch.long)
    together = two_models(output(None, label_HW), output(found))
    (one,), (other,) = (
        panoptics(entry, LABELS, "stuff", SMALL, TABLE)
        for entry in (together, output(found, label_HW))
    )
    assert np.array_equal(one.segment_HW, other.segment_HW)
    for wrong in (
        (output(found), output(found)),
        (output(None, label_HW), output(None, label_HW)),
        (
            output(None, label_HW),
            output(objects([[0, 0, 8, 8]], [0.9], [2], size=(5, 5)), size=(5, 5)),
        ),
    ):
        with pytest.raises(ValueError, match="one size and both parts"):
            two_models(*wrong)


def random_output(seed, candidates=6):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(candidates, 2, generator=generator) * 16
    box = torch.cat([start, start + 2 + torch.rand(candidates, 2, generator=generator) * 14], dim=1)
    scores = torch.rand(candidates, generator=generator)
    labels = torch.randint(1, 3, (candidates,), generator=generator)
    found = objects(
        box.tolist(),
        scores.tolist(),
        labels.tolist(),
        torch.rand(candidates, 5, 5, generator=generator) + 0.2,
    )
    return output(found, torch.randint(0, 3, (HEIGHT, WIDTH), generator=generator))


thresholds = st.builds(MergeThresholds, st.floats(0, 1), st.floats(0, 1), st.integers(0, 60))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), thresholds)
def test_properties_of_every_picture(seed, limits):
    made = random_output(seed)
    mask_NHW, label_HW = made.objects.mask_BNHW[0], made.label_BHW[0]
    result = merged(made, LABELS, "stuff", limits)
    segment_HW = result.segment_BHW[0]
    (picture,) = panoptics(made, LABELS, "stuff", limits, TABLE)
    # Sums of areas: the table counts each painted pixel once.
    assert picture.segments.areas.sum() == (picture.segment_HW > 0).sum() == (segment_HW > 0).sum()
    order = made.objects.score_BN[0].sort(descending=True, stable=True).indices
    seen = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for slot, candidate in enumerate(order.tolist(), start=1):
        inside = segment_HW == slot
        if not inside.any():
            continue
        # No overlaps, by falling score: a thing has all its pixels that no better thing has, and
        # they are at least its share.
        assert torch.equal(inside, mask_NHW[candidate] & ~seen)
        assert made.objects.score_BN[0, candidate] >= limits.score
        assert 1 - inside.sum() / mask_NHW[candidate].sum() <= limits.overlap + 1e-6
        seen |= inside
    for number, class_id in enumerate(LABELS.stuff, start=1):
        inside = segment_HW == len(order) + number
        if inside.any():
            assert torch.equal(inside, ~seen & (label_HW == number))
            assert inside.sum() >= limits.stuff_area
        assert result.class_BS[0, len(order) + number - 1] == class_id


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), thresholds, st.integers(1, 5))
def test_padding_changes_nothing(seed, limits, extra):
    made = random_output(seed)
    found = made.objects
    more = DetectedObjects(
        F.pad(found.shape_BNSS, (0, 0, 0, 0, 0, extra)),
        F.pad(found.box_BN4, (0, 0, 0, extra)),
        F.pad(found.score_BN, (0, extra)),
        F.pad(found.label_BN, (0, extra)),
        found.size_HW,
        found.threshold,
    )
    padded = PhotographOutput(
        made.size_HW, more, F.pad(made.maps_BKhw, (0, 3, 0, 2), value=9.0), made.reach_HW
    )
    (one,), (other,) = (
        panoptics(entry, LABELS, "stuff", limits, TABLE) for entry in (made, padded)
    )
    # The last rows and columns alone may look into the padding, between places: not where maps are
    # of the picture's size.
    assert np.array_equal(one.segment_HW, other.segment_HW)
    assert one.segments.class_ids.tolist() == other.segments.class_ids.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), thresholds)
def test_merging_what_was_merged_changes_nothing(seed, limits):
    first = merged(random_output(seed), LABELS, "stuff", limits)
    slots = first.class_BS.shape[1] - len(LABELS.stuff)
    segment_HW = first.segment_BHW[0]
    masks = torch.stack([segment_HW == slot for slot in range(1, slots + 1)])
    label = {7: 2, 2: 1}
    things = DetectedObjects(
        masks[None].float(),
        torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]]).expand(slots, 4)[None],
        first.score_BS[:, :slots],
        torch.tensor([[label[class_id] for class_id in first.class_BS[0, :slots].tolist()]]),
        (HEIGHT, WIDTH),
        0.5,
    )
    # Masks of the picture's rows and columns would need a square of places; draw them as they are.
    drawn = type(
        "Drawn",
        (DetectedObjects,),
        {"mask_BHW": lambda self, candidate_B: self.shape_BNSS[[0], candidate_B] > 0.5},
    )
    things = drawn(**vars(things))
    label_HW = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    for number in range(1, len(LABELS.stuff) + 1):
        label_HW[segment_HW == slots + number] = number
    second = merged(output(things, label_HW), LABELS, "stuff", limits)
    assert torch.equal(first.segment_BHW, second.segment_BHW)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), thresholds)
def test_candidates_that_a_processor_leaves_aside_draw_nothing(seed, limits):
    made = random_output(seed)
    [one] = panoptics(made, LABELS, "stuff", limits, TABLE)
    [other] = merged(made, LABELS, "stuff", limits).to_panoptics(TABLE)
    assert np.array_equal(one.segment_HW, other.segment_HW)
    assert np.array_equal(one.segments.class_ids, other.segments.class_ids)
    assert np.array_equal(one.segments.scores, other.segments.scores)


def test_a_processor_draws_no_mask_below_the_score(monkeypatch):
    drawn = []
    mask = DetectedObjects.mask_BHW
    monkeypatch.setattr(
        DetectedObjects, "mask_BHW", lambda self, number_B: drawn.append(0) or mask(self, number_B)
    )
    made = output(
        objects([[2, 2, 6, 6]] * 5, [0.9, 0.6, 0.4, 0.2, 0.0], [1, 2, 1, 2, 0]),
        torch.ones(HEIGHT, WIDTH).long(),
    )
    panoptics(made, LABELS, "stuff", SMALL, TABLE)
    assert len(drawn) == 2
    assert panoptics(made, LABELS, "stuff", MergeThresholds(1.0, 0.5, 1), TABLE)[
        0
    ].segments.class_ids.tolist() == [3]
    assert len(drawn) == 2


def test_a_threshold_of_zero_stays_inside_the_box():
    found = objects([[2, 2, 6, 6], [0, 0, 0, 0]], [0.9, 0.0], [1, 0], threshold=0.0)
    assert found.mask_BNHW[0, 0, 2:6, 2:6].all()
    assert not found.mask_BNHW[0, 0, 8:].any()
    assert not found.mask_BNHW[0, 1].any()
    assert torch.equal(found.mask_BHW(torch.tensor([1])), found.mask_BNHW[:, 1])
    higher = objects([[2, 2, 6, 6]], [0.9], [1], torch.full((1, 4, 4), 0.6), threshold=0.7)
    assert not higher.mask_BNHW.any()


def test_nothing_waits_for_a_value():
    """Shapes never depend on values and no value is asked for: on fake tensors, which have none,
    both would raise.
    """
    real = random_output(0)
    found = real.objects
    with FakeTensorMode(
        shape_env=ShapeEnv(allow_dynamic_output_shape_ops=False, allow_scalar_outputs=False)
    ) as mode:
        fake = DetectedObjects(
            *(
                mode.from_tensor(getattr(found, name))
                for name in ("shape_BNSS", "box_BN4", "score_BN", "label_BN")
            ),
            found.size_HW,
            found.threshold,
        )
        result = merged(
            PhotographOutput(real.size_HW, fake, mode.from_tensor(real.maps_BKhw), real.reach_HW),
            LABELS,
            "stuff",
            SMALL,
        )
        assert result.segment_BHW.shape == (1, HEIGHT, WIDTH)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            result.segment_BHW.nonzero()


class Merging(torch.nn.Module):
    """``merged`` between tensors, as a compiler of an accelerator sees it."""

    def forward(self, shape_BNSS, box_BN4, score_BN, label_BN, maps_BKhw):
        found = DetectedObjects(shape_BNSS, box_BN4, score_BN, label_BN, (HEIGHT, WIDTH), 0.5)
        result = merged(
            PhotographOutput((HEIGHT, WIDTH), found, maps_BKhw, (HEIGHT, WIDTH)),
            LABELS,
            "stuff",
            SMALL,
        )
        return result.segment_BHW, result.class_BS, result.score_BS


def tensors_of(seed):
    made = random_output(seed)
    found = made.objects
    return found.shape_BNSS, found.box_BN4, found.score_BN, found.label_BN, made.maps_BKhw


def test_one_graph_merges_any_values():
    """Exported from one photograph, the same operations merge others: no branch and no shape came
    from a value.
    """
    graph = torch.export.export(Merging(), tensors_of(0)).module()
    pictures = set()
    for seed in range(1, 6):
        expected, found = Merging()(*tensors_of(seed)), graph(*tensors_of(seed))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        pictures.add(expected[0].numpy().tobytes())
    assert len(pictures) == 5
