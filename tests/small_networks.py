"""Small networks with drawn weights, and seasons of random numbers for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import photograph_networks as networks
from mapping_weights import tiny_weights
from panoseg.models.configs import ModelConfig
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import UtaeConfig
from panoseg.models.network import build_network, initialise
from panoseg.models.weights import Weights, WeightsCard, save_weights

SMALL_WIDTHS = {
    "bands": 3,
    "classes": 4,
    "encoder_widths": (8, 8),
    "decoder_widths": (8, 8),
    "head_widths": (8,),
}
SMALL_UTAE = UtaeConfig(**SMALL_WIDTHS, heads=4, d_model=16)
AUTHORS_OPTIONS = {
    "model": "utae",
    "encoder_widths": "[8,8]",
    "decoder_widths": "[8,8]",
    "out_conv": "[8, 20]",
    "n_head": 4,
    "d_model": 16,
    "d_k": 2,
}
AUTHORS_CONFIG = UtaeConfig(
    encoder_widths=(8, 8), decoder_widths=(8, 8), head_widths=(8,), heads=4, d_model=16, key_width=2
)
"""A U-TAE as the options of the authors' program say it, and as ours do."""


def small_model(config: ModelConfig = SMALL_UTAE) -> nn.Module:
    """The network of a configuration, its weights drawn from seed 0, for prediction."""
    torch.manual_seed(0)
    return build_network(config).eval()


def small_paps(**options) -> nn.Module:
    """PaPs on ``SMALL_UTAE`` whose boxes are of more than a pixel, as a trained network's are."""
    model = small_model(PapsConfig(SMALL_UTAE, **options))
    nn.init.constant_(model.size_mlp[-2].bias, 6.0)
    return model


def season(
    dates: int = 4,
    size_hw: tuple[int, int] = (16, 16),
    lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random seasons of three bands, every 20 days.

    Args:
        dates: Dates of a season, with the padding.
        size_hw: Height and width.
        lengths: Dates of each season without the padding; two full seasons without it.
        seed: Of the random numbers.

    Returns:
        Images B x T x 3 x H x W, days B x T, and which dates are valid, B x T.
    """
    lengths = [dates, dates] if lengths is None else lengths
    generator = torch.Generator().manual_seed(seed)
    images_BTCHW = torch.randn(len(lengths), dates, 3, *size_hw, generator=generator)
    valid_BT = torch.arange(dates) < torch.tensor(lengths)[:, None]
    return images_BTCHW, torch.arange(dates).repeat(len(lengths), 1) * 20, valid_BT


def padded_season(dates: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Two seasons, the second one two dates shorter."""
    return season(dates, lengths=(dates, max(1, dates - 2)))


def authors_folder(path: Path, options: dict, state: dict, fold: int = 1) -> Path:
    """A run folder of utae-paps with the weights of a fold; ``options`` stand in its conf.json."""
    (path / f"Fold_{fold}").mkdir(parents=True)
    (path / "conf.json").write_text(json.dumps(options))
    torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": {"param_groups": []}},
        path / f"Fold_{fold}" / "model.pth.tar",
    )
    return path


def save_small_networks(folder: Path) -> None:
    """``tiny`` for maps and ``boxes`` for photographs, folders of weights in ``folder``."""
    save_weights(folder / "tiny", tiny_weights())
    config = networks.mask_rcnn()
    card = WeightsCard(config, None, networks.TABLE)
    save_weights(folder / "boxes", Weights(card, initialise(build_network(config)).state_dict()))
