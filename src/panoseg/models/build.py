"""A configuration becomes a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from panoseg.errors import ConfigError
from panoseg.models.config import ModelConfig

MOST_PARAMETERS = 200_000_000
"""The most parameters that a network may have, 800 MB: a hundred times those of any published
network for seasons.
"""

_XAVIER = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a configuration, with torch's own initial weights; ``initialise`` gives the
    published ones.

    Raises ``ConfigError`` for one of more than ``MOST_PARAMETERS``: options that are harmless one
    by one may, from a file that somebody else wrote, multiply to a network that fills the memory.
    """
    module, name = config.network.split(":")
    with _counting_parameters(config):
        return getattr(import_module(module), name)(config)


@contextmanager
def _counting_parameters(config: ModelConfig) -> Iterator[None]:
    """Refuse the layer with which a network grows too large, before a number is written into the
    memory set aside for it.
    """
    total = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > MOST_PARAMETERS:
            raise ConfigError(
                f"a {config.title} of {total:,} parameters or more",
                f"at most {MOST_PARAMETERS:,}",
                "lower its widths",
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights as the published training does, from torch's random numbers; gives the model
    back.

    Convolutions and linear layers: weights Xavier normal, biases normal(0, 1). Convolutions in one
    dimension: both normal(0, 1). Batch norms: scales normal(0, 1), biases 0. Group norms and
    queries keep what they have. (utae-paps @ 987874e, src/learning/weight_init.py.)
    """
    for module in model.modules():
        if isinstance(module, _XAVIER):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Conv1d | _XAVIER) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model
