"""U-Net 3D: its mean over dates against the plain way, groups of four dates, and few dates."""

from __future__ import annotations

import pytest
import torch

from panoseg.models.baselines import UNet3d, _Conv3d
from panoseg.models.configs.season import UNet3dConfig
from panoseg.models.network import initialise
from small_networks import season, small_model


@pytest.mark.parametrize(("dates", "lengths"), [(4, [4]), (9, [9, 6]), (7, [2, 7, 1])])
def test_scores_are_the_mean_over_valid_dates_of_the_scores_of_dates(dates, lengths):
    model, (images, days, valid) = (
        small_model(UNet3dConfig(bands=3, classes=4, width=4)),
        season(dates, (8, 8), lengths),
    )
    seen = []
    model.dc3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        found = model(images, days, valid).logits_BKHW
        scores_BKTHW = model.final(seen[0])
    whole = dates // 4 * 4
    assert scores_BKTHW.shape[2] == whole
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row], scores_BKTHW[row, :, : min(length, whole)].mean(1))


def test_few_dates_are_blank_ones_more():
    model = small_model(UNet3dConfig(bands=3, classes=4, width=4))
    for dates in (1, 3):
        images, days, valid = season(dates, (8, 8), [dates])
        longer = torch.cat([images, torch.full((1, 4 - dates, 3, 8, 8), 9.0)], 1)
        with torch.no_grad():
            expected = model(
                longer, torch.arange(4)[None], torch.arange(4)[None] < dates
            ).logits_BKHW
            torch.testing.assert_close(model(images, days, valid).logits_BKHW, expected)


def test_dates_after_the_last_group_of_four_still_shape_the_features():
    model, (images, days, valid) = (
        small_model(UNet3dConfig(bands=3, classes=4, width=4)),
        season(9, (8, 8), [9]),
    )
    changed = images.clone()
    changed[:, 8] += 1
    with torch.no_grad():
        assert (
            model(images, days, valid).logits_BKHW - model(changed, days, valid).logits_BKHW
        ).abs().max() > 1e-5


def test_initialise_draws_the_published_distributions_in_three_dimensions():
    model = initialise(UNet3d(UNet3dConfig()))
    for conv in (model.dc4[0], model.trans3[0]):
        outward, inward = conv.weight.shape[:2]
        assert conv.weight.std().item() == pytest.approx(
            (2 / (27 * (outward + inward))) ** 0.5, rel=0.03
        )
        assert conv.bias.std().item() == pytest.approx(1, rel=0.5)
    assert model.center_in[1].weight.std().item() == pytest.approx(1, rel=0.3)
    assert model.center_in[1].bias.abs().max() == 0


def test_two_dates_in_half_precision_have_right_gradients():
    """Where torch's own convolution reads memory that nothing was written to, here full of what is
    not a number.
    """
    torch.manual_seed(0)
    conv, maps = (
        _Conv3d(8, 8),
        torch.randn(2, 8, 2, 8, 8).contiguous(memory_format=torch.channels_last_3d),
    )
    conv(maps).square().sum().backward()
    expected = conv.weight.grad.clone()
    for _ in range(12):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scores = conv(maps)
        assert scores.shape == maps.shape
        rubbish = [torch.full((size,), torch.nan) for size in (500, 2000, 8000, 30000)]
        del rubbish
        scores.float().square().sum().backward()
        torch.testing.assert_close(
            conv.weight.grad, expected, rtol=0, atol=0.03 * expected.abs().max().item()
        )


@pytest.mark.parametrize(("dates", "height"), [(5, 8), (2, 4), (1, 2), (3, 5)])
def test_one_sample_in_halves_is_the_plain_convolution(dates, height):
    torch.manual_seed(0)
    conv, maps = _Conv3d(3, 4), torch.randn(1, 3, dates, height, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            conv(maps), torch.nn.functional.conv3d(maps, conv.weight, conv.bias, padding=1)
        )
