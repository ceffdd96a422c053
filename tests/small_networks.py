"""Networks for servers of the tests: small, with drawn weights, so that they know nothing."""

from __future__ import annotations

from pathlib import Path

import photograph_networks as networks
from mapping_weights import tiny_weights
from panoseg.models.build import build_network
from panoseg.models.network import initialise
from panoseg.models.weights import Weights, WeightsCard, save_weights


def save_small_networks(folder: Path) -> None:
    """``tiny`` for maps and ``boxes`` for photographs, folders of weights in ``folder``."""
    save_weights(folder / "tiny", tiny_weights())
    config = networks.mask_rcnn()
    card = WeightsCard(config, None, networks.TABLE)
    save_weights(folder / "boxes", Weights(card, initialise(build_network(config)).state_dict()))
