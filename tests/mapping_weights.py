"""A tiny network with random numbers, which draws parcels of a kind: for tests of all that is
around a network.
"""

from __future__ import annotations

import torch

from panoseg.data.samples import Normalisation
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import Dates, UtaeConfig
from panoseg.models.network import build_network, initialise
from panoseg.models.weights import Weights, WeightsCard


def tiny_weights(seed: int = 3, min_confidence: float = 0.0, dates: Dates = "relative") -> Weights:
    """Weights of PaPs with two levels of 16 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths = {"encoder_widths": (16, 16), "decoder_widths": (16, 16), "head_widths": (8,)}
        backbone = UtaeConfig(**widths, heads=4, d_model=16, dates=dates)
        config = PapsConfig(backbone, 8, False, min_confidence, min_remain=0.2, mask_threshold=0.2)
        model = initialise(build_network(config))
        # Parcels of about eight pixels across.
        with torch.no_grad():
            model.size_mlp[-2].bias.fill_(8.0)
    card = WeightsCard(
        model.config, Normalisation((2000.0,) * 10, (1000.0,) * 10), trained_on="nothing"
    )
    return Weights(card, model.state_dict())
