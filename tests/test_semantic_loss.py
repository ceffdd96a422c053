"""The loss of classified pixels: against the published one, by hand, and each option by what it
changes.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from panoseg.classes import PASTIS, S2TSCZCROP, ClassTable, SegmentClass
from panoseg.errors import ConfigError
from panoseg.metrics.confusion import class_boundaries
from panoseg.models.losses import SemanticLoss
from panoseg.models.outputs import SemanticOutput
from panoseg.training import SemanticLossConfig

NO_VOID = ClassTable(
    "no void",
    tuple(replace(entry, kind="thing" if entry.id else "stuff") for entry in S2TSCZCROP.classes),
)
THREE = ClassTable(
    "three",
    tuple(
        SegmentClass(i, str(i), "#000000", kind)
        for i, kind in enumerate(("stuff", "thing", "void"))
    ),
)

# Crop2Seg @ aee7827, smooth_loss.py: the part of each class in S2TSCzCrop; they sum to 0.9999.
CZECH_SHARES = (
    0.3111,
    0.0193,
    0.0809,
    0.2809,
    0.1084,
    0.0892,
    0.0350,
    0.0170,
    0.0007,
    0.0047,
    0.0015,
    0.0044,
    0.0394,
    0.0074,
)


@pytest.fixture(scope="module")
def cases(golden):
    folder = golden / "crop2seg"
    with np.load(folder / "losses.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return tensors, json.loads((folder / "losses.json").read_text())


def published(cases, table=S2TSCZCROP, **options) -> float:
    tensors, _ = cases
    return (
        SemanticLoss(SemanticLossConfig(**options), table)
        .pixel_loss(tensors["logits"], tensors["target"].long())
        .item()
    )


# The published losses


@pytest.mark.parametrize(
    ("case", "table", "options"),
    [
        ("focal_gamma0", NO_VOID, {"kind": "focal", "gamma": 0.0}),
        ("focal_gamma1", NO_VOID, {"kind": "focal", "gamma": 1.0}),
        ("focal_gamma2", NO_VOID, {"kind": "focal"}),
        ("focal_gamma2_ignore14", S2TSCZCROP, {"kind": "focal"}),
        ("recall", NO_VOID, {"kind": "recall"}),
        ("recall_ignore14", S2TSCZCROP, {"kind": "recall", "void": "published"}),
        ("smooth_background_plain", NO_VOID, {"smoothing": 0.1, "smoothing_by": "neighbours"}),
        ("smooth_ls0.3", NO_VOID, {"smoothing": 0.3, "smoothing_by": "neighbours"}),
        (
            "smooth_background_plain_zero_weight_last",
            S2TSCZCROP,
            {"smoothing": 0.1, "smoothing_by": "neighbours", "void": "published"},
        ),
        ("cross_entropy_weight0_last_smoothing0.0", S2TSCZCROP, {}),
        ("cross_entropy_weight0_last_smoothing0.0", S2TSCZCROP, {"void": "published"}),
        (
            "cross_entropy_weight0_last_smoothing0.1",
            S2TSCZCROP,
            {"smoothing": 0.1, "void": "published"},
        ),
    ],
)
def test_published_values(cases, case, table, options):
    assert published(cases, table, **options) == pytest.approx(cases[1][case], rel=1e-5)


def test_published_sum_of_focal(cases):
    pixels = cases[0]["target"].numel()
    assert pixels * published(cases, NO_VOID, kind="focal") == pytest.approx(
        cases[1]["focal_gamma2_sum"], rel=1e-5
    )


def test_published_recall_counts_void_in_its_mean(cases):
    """By default the mean is over the pixels that are not void; nothing else differs."""
    tensors, values = cases
    counted = (tensors["target"] != 14).float().mean().item()
    assert published(cases, kind="recall") * counted == pytest.approx(
        values["recall_ignore14"], rel=1e-5
    )


def smoothed(cases, table=NO_VOID, **options) -> torch.Tensor:
    config = SemanticLossConfig(smoothing=0.1, smoothing_by="neighbours", **options)
    return SemanticLoss(config, table).targets(cases[0]["target"].long())


def test_published_soft_labels(cases):
    np.testing.assert_allclose(
        smoothed(cases)[:1], cases[0]["smooth_targets_background_plain"], atol=1e-6
    )


@pytest.mark.parametrize(
    "name", ["smooth_background_treated", "smooth_background_treated_zero_weight_last"]
)
def test_published_background(cases, name):
    """The published shares sum to 0.9999, ours to 1: scaled back, labels and losses agree."""
    tensors, values = cases
    config = SemanticLossConfig(
        smoothing=0.1, smoothing_by="neighbours", background_share=0.6, class_shares=CZECH_SHARES
    )
    target_BHW = tensors["target"].long()
    ours = SemanticLoss(config, NO_VOID).targets(target_BHW)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-6)
    released = ours.clone()
    released[:, 1:] = torch.where(
        (target_BHW == 0)[:, None], sum(CZECH_SHARES) * ours[:, 1:], ours[:, 1:]
    )
    np.testing.assert_allclose(
        released[:1], tensors["smooth_targets_background_treated"], atol=1e-6
    )
    weight = torch.ones(15)
    weight[14] = 0.0 if name.endswith("last") else 1.0
    loss = -(weight[:, None, None] * released * tensors["logits"].log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(values[name], rel=1e-5)
    table = S2TSCZCROP if name.endswith("last") else NO_VOID
    normalised = SemanticLoss(replace(config, void="published"), table).pixel_loss(
        tensors["logits"], target_BHW
    )
    assert normalised.item() == pytest.approx(values[name], rel=5e-5)


# By hand


def logits_of(*pixels: tuple[float, ...]) -> torch.Tensor:
    """Scores of a row of pixels, 1 x K x 1 x W."""
    return torch.tensor(pixels).T[None, :, None]


def loss_of(
    classes: list[int], logits: torch.Tensor, table: ClassTable = THREE, **options
) -> float:
    return (
        SemanticLoss(SemanticLossConfig(**options), table)
        .pixel_loss(logits, torch.tensor([[classes]]))
        .item()
    )


RIGHT, UNSURE = (math.log(3), 0.0, -100.0), (0.0, 0.0, -100.0)
"""Three quarters for class 0, and one half."""


def test_void_is_left_out_of_everything():
    logits = logits_of(RIGHT, UNSURE)
    for options in (
        {},
        {"kind": "focal"},
        {"kind": "recall"},
        {"smoothing": 0.2},
        {"smoothing": 0.2, "smoothing_by": "neighbours"},
    ):
        assert loss_of([0, 2], logits, **options) == pytest.approx(
            loss_of([0], logits[..., :1], **options)
        ), options
        assert loss_of([2, 2], logits, **options) == 0
    assert loss_of([0, 1], logits) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_published_void_teaches_what_smoothing_spreads():
    logits = logits_of(RIGHT, RIGHT)
    left_out, released = (
        loss_of([0, 2], logits, smoothing=0.3, void=void) for void in ("left_out", "published")
    )
    spread = 0.1 * (math.log(4 / 3) + math.log(4))
    assert released == pytest.approx(0.7 * math.log(4 / 3) + 2 * spread)
    assert left_out == pytest.approx(0.7 * math.log(4 / 3) + 1.5 * spread)


def test_smoothing_spreads_over_the_classes_that_are_learned():
    targets = SemanticLoss(SemanticLossConfig(smoothing=0.2), THREE).targets(
        torch.tensor([[[0, 1]]])
    )
    assert targets[0, :, 0].T.flatten().tolist() == pytest.approx([0.9, 0.1, 0, 0.1, 0.9, 0])


def test_neighbours_share_alike_and_void_is_no_neighbour():
    config = SemanticLossConfig(smoothing=0.2, smoothing_by="neighbours")
    targets = SemanticLoss(config, THREE).targets(torch.tensor([[[0, 0, 1, 2]]]))
    assert targets[0, :, 0, :3].T.flatten().tolist() == pytest.approx(
        [0.9, 0.1, 0, 0.5, 0.5, 0, 0.5, 0.5, 0]
    )


def test_background_keeps_its_share_and_gives_the_rest_by_shares():
    four = ClassTable(
        "four",
        (*THREE.classes[:2], replace(THREE.classes[1], id=2), replace(THREE.classes[2], id=3)),
    )
    config = SemanticLossConfig(smoothing=0.1, smoothing_by="neighbours", background_share=0.6)
    background = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert SemanticLoss(config, four).targets(background).flatten().tolist() == pytest.approx(
        [0.6, 0.2, 0.2, 0]
    )
    config = replace(config, class_shares=(3.0, 1.0, 5.0))
    assert SemanticLoss(config, four).targets(background).flatten().tolist() == pytest.approx(
        [0.6, 0.3, 0.1, 0]
    )


def test_focal_loss_spares_what_is_almost_right():
    logits = logits_of(RIGHT, UNSURE)
    for gamma in (1.0, 2.0, 0.5):
        expected = (0.25**gamma * math.log(4 / 3) + 0.5**gamma * math.log(2)) / 2
        assert loss_of([0, 1], logits, kind="focal", gamma=gamma) == pytest.approx(expected)


def test_recall_loss_weighs_classes_by_what_is_missed():
    logits = logits_of(RIGHT, RIGHT, RIGHT, RIGHT)
    by_class = (
        2 * 0.5 * math.log(4 / 3) + 2 * 1.0 * math.log(4)
    ) / 4  # class 0: none of two, taken as one; class 1: both
    assert loss_of([0, 0, 1, 1], logits, kind="recall") == pytest.approx(by_class)


@pytest.mark.parametrize("classes", [[0, 0], [1, 1]])
def test_recall_loss_of_one_class_and_of_perfect_predictions(classes):
    logits = logits_of(*[tuple(100.0 * (k == c) for k in range(3)) for c in classes])
    assert loss_of(classes, logits, kind="recall") == pytest.approx(0)


@pytest.mark.parametrize("options", [{}, {"kind": "focal", "gamma": 0.0}])
def test_class_weights_make_a_mean_by_weight(options):
    loss = loss_of([0, 1], logits_of(RIGHT, UNSURE), class_weights=(3.0, 1.0, 9.0), **options)
    assert loss == pytest.approx((3 * math.log(4 / 3) + math.log(2)) / 4)


def test_class_weights_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits, classes = (
        torch.randn(2, 20, 4, 4, generator=generator),
        torch.randint(19, (2, 4, 4), generator=generator),
    )
    weights = tuple(range(1, 21))
    expected = F.cross_entropy(
        logits, classes, weight=torch.tensor([*weights[:19], 0.0]), label_smoothing=0.1
    )
    config = SemanticLossConfig(smoothing=0.1, class_weights=weights, void="published")
    assert SemanticLoss(config, PASTIS).pixel_loss(logits, classes).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_focal_class_weights_are_per_pixel(cases):
    """The released program pairs every pixel with the weight of every other one; its value is known
    and not ours.
    """
    tensors, values = cases
    weights = tuple(tensors["class_weights"].tolist())
    ours = published(cases, NO_VOID, kind="focal", class_weights=weights)
    pixel_weight = tensors["class_weights"][tensors["target"].long()]
    log_p = tensors["logits"].log_softmax(1).gather(1, tensors["target"].long()[:, None])[:, 0]
    by_hand = -(pixel_weight * (1 - log_p.exp()) ** 2 * log_p).sum() / pixel_weight.sum()
    assert ours == pytest.approx(by_hand.item(), rel=1e-5)
    assert ours != pytest.approx(values["focal_gamma2_class_weights_as_released"], rel=0.01)


@pytest.mark.parametrize(
    "options", [{}, {"kind": "focal", "gamma": 0.5}, {"kind": "recall"}, {"smoothing": 0.1}]
)
def test_gradients_are_finite_at_certainty_and_without_pixels(options):
    logits = logits_of((1000.0, 0.0, 0.0), (0.0, 1000.0, 0.0)).requires_grad_()
    for classes in ([0, 1], [1, 0], [2, 2]):
        loss = SemanticLoss(SemanticLossConfig(**options), THREE).pixel_loss(
            logits, torch.tensor([[classes]])
        )
        [gradient] = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_half_precision_is_computed_in_float32():
    logits = logits_of(RIGHT, UNSURE).bfloat16()
    assert (
        SemanticLoss(table=THREE).pixel_loss(logits, torch.tensor([[[0, 1]]])).dtype
        == torch.float32
    )


# The boundary


def test_published_boundary_loss(cases):
    """Scores and boundaries of the golden case, whose boundaries are those of no labels."""
    tensors, values = cases
    edge = tensors["edge"].long()
    log_p = tensors["boundary_logits"].log_softmax(1).gather(1, edge[:, None])[:, 0]
    by_hand = -((1 - log_p.exp()) ** 2 * log_p).mean()
    assert by_hand.item() == pytest.approx(values["focal_gamma2_boundary"], rel=1e-5)


def output_of(classes: torch.Tensor, boundary: bool = True, seed: int = 0) -> SemanticOutput:
    generator = torch.Generator().manual_seed(seed)
    size = (len(classes), *classes.shape[1:])
    logits = torch.randn(size[0], 15, *size[1:], generator=generator)
    return SemanticOutput(
        logits, None, torch.randn(size[0], 2, *size[1:], generator=generator) if boundary else None
    )


def test_a_network_without_boundary_head_has_no_boundary_loss():
    classes = torch.randint(15, (1, 6, 6))
    losses = SemanticLoss(table=S2TSCZCROP)(output_of(classes, boundary=False), classes)
    assert losses.boundary.item() == 0
    assert losses.total is losses.pixel


@pytest.mark.parametrize(("weight", "gamma"), [(1.0, 2.0), (0.5, 2.0), (1.0, 0.0)])
def test_the_boundary_is_made_from_labels(weight, gamma):
    classes = torch.randint(15, (2, 6, 6), generator=torch.Generator().manual_seed(1)).clamp(max=14)
    output = output_of(classes)
    config = SemanticLossConfig(boundary_weight=weight, boundary_gamma=gamma)
    losses = SemanticLoss(config, S2TSCZCROP)(output, classes)
    edge = class_boundaries(classes).long()
    log_p = output.boundary_B2HW.log_softmax(1).gather(1, edge[:, None])[:, 0]
    expected = -((1 - log_p.exp()) ** gamma * log_p).mean()
    assert losses.boundary.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.total.item() == pytest.approx((losses.pixel + weight * expected).item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_the_focal_factor_passes_a_gradient(gamma):
    """As in Crop2Seg's training step; utae-paps holds the factor still for the classes of
    parcels.
    """
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    classes = torch.randint(2, (1, 4, 4), generator=torch.Generator().manual_seed(1))
    log_p = logits.log_softmax(1).gather(1, classes[:, None])[:, 0]
    [by_hand] = torch.autograd.grad(-((1 - log_p.exp()) ** gamma * log_p).mean(), logits)
    loss = SemanticLoss(SemanticLossConfig(kind="focal", gamma=gamma), THREE).pixel_loss(
        logits, classes
    )
    [gradient] = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, by_hand)


# Options that cannot be


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1, not 1.0"),
        ({"smoothing": -0.1}, "smoothing must be .* not -0.1"),
        ({"kind": "focal", "gamma": -1.0}, "gamma must be a number from 0, not -1.0"),
        ({"boundary_weight": float("nan")}, "boundary_weight must be a number from 0, not nan"),
        ({"boundary_gamma": -1.0}, "boundary_gamma must be a number from 0, not -1.0"),
        ({"class_weights": (1.0, -1.0)}, "class_weights"),
        (
            {
                "smoothing": 0.1,
                "smoothing_by": "neighbours",
                "background_share": 0.6,
                "class_shares": (0.0,),
            },
            "class_shares",
        ),
        ({"kind": "focal", "smoothing": 0.1}, "smoothing needs kind cross_entropy"),
        ({"smoothing_by": "neighbours"}, "smoothing_by needs smoothing"),
        (
            {"smoothing": 0.1, "background_share": 0.6},
            "background_share needs smoothing_by neighbours",
        ),
        ({"class_shares": (1.0,)}, "class_shares needs background_share"),
        ({"gamma": 1.0}, "gamma needs kind focal"),
    ],
)
def test_impossible_options(wrong, words):
    with pytest.raises(ConfigError, match=words):
        SemanticLossConfig(**wrong)


def test_weights_and_shares_are_one_a_class():
    with pytest.raises(
        ConfigError,
        match="class_weights must have 15 entries, one for each class of S2TSCzCrop, not 2",
    ):
        SemanticLoss(SemanticLossConfig(class_weights=(1.0, 2.0)), S2TSCZCROP)
    config = SemanticLossConfig(
        smoothing=0.1, smoothing_by="neighbours", background_share=0.5, class_shares=CZECH_SHARES
    )
    with pytest.raises(
        ConfigError,
        match="class_shares must have 19 entries, one for each class of PASTIS but background, not 14",
    ):
        SemanticLoss(config, PASTIS)
