"""A configuration becomes a network."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from panoseg.models.config import ModelConfig

_XAVIER = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a configuration, with torch's own initial weights; ``initialise`` gives the published ones."""
    module, name = config.network.split(":")
    return getattr(import_module(module), name)(config)


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights as the published training does, from torch's random numbers; gives the model back.

    Convolutions and linear layers: weights Xavier normal, biases normal(0, 1). Convolutions in one dimension: both
    normal(0, 1). Batch norms: scales normal(0, 1), biases 0. Group norms and queries keep what they have. (utae-paps @ 987874e,
    src/learning/weight_init.py.)
    """
    for module in model.modules():
        if isinstance(module, _XAVIER):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Conv1d | _XAVIER) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model
