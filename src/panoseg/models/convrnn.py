"""ConvLSTM and ConvGRU: a recurrence over dates at full size, then one convolution that scores classes.

The baselines of Garnot & Landrieu 2021, Table 1, after Russwurm & Koerner 2018, "Multi-temporal land cover classification with
sequential recurrent encoders"; utae-paps @ 987874e, src/backbones/convlstm.py (ConvLSTM_Seg) and convgru.py (ConvGRU_Seg).
Shape suffixes: B batch, T dates, C bands, H W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoseg.models.backbone import Backbone
from panoseg.models.configs.convrnn import ConvRnnConfig
from panoseg.models.outputs import FeatureMaps
from panoseg.models.recurrence import Recurrence, blank_padding


class ConvRnn(Backbone):
    """ConvLSTM or ConvGRU: scores of the classes for each pixel, by the order of the dates of a season."""

    classifier = "classification_layer"

    def __init__(self, config: ConvRnnConfig) -> None:
        super().__init__()
        self.config = config
        # The published checkpoints name it after the cell.
        self._encoder = f"conv{config.cell}_encoder"
        self.add_module(self._encoder, Recurrence(config.bands, config.hidden, config.cell))
        self.classification_layer = nn.Conv2d(config.hidden, config.classes, 3, padding=1)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The recurrence's last state, a map of full size; arguments as in ``forward``."""
        if self.config.runs_over_padding:
            images_BTCHW, valid_BT = blank_padding(images_BTCHW, valid_BT)
        frames_FCHW = images_BTCHW[valid_BT].contiguous(memory_format=torch.channels_last)
        return FeatureMaps((self.get_submodule(self._encoder)(frames_FCHW, valid_BT),))
