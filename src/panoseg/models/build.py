"""A configuration becomes a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from panoseg.classes import ClassTable
from panoseg.errors import ConfigError
from panoseg.models.config import ModelConfig, fit_to_table
from panoseg.models.network import Network, check_table

MOST_PARAMETERS = 200_000_000
"""The most parameters of a network, 800 MB: a hundred times those of any published network for
seasons.
"""


def build_network(
    config: ModelConfig, table: ClassTable | None = None, loss: Any = None
) -> Network:
    """Build the network of a configuration, with torch's own initial weights.

    Args:
        config: Its options.
        table: What its classes mean; needed to predict and to learn.
        loss: Options of its loss, ``TrainConfig.loss_options``; None for the defaults.

    Raises:
        ConfigError: The table has other classes, or the network more than ``MOST_PARAMETERS``:
            options that are harmless one by one may, from a file that somebody else wrote,
            multiply to a network that fills the memory.
    """
    if table is not None:
        check_table(config, fit_to_table(config, table), table)
    module, name = config.network.split(":")
    with _counting_parameters(config):
        network: Network = getattr(import_module(module), name)(config)
    return network if table is None else network.prepare(table, loss)


@contextmanager
def _counting_parameters(config: ModelConfig) -> Iterator[None]:
    """Refuse the layer with which a network grows too large, before its memory is written to."""
    total = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > MOST_PARAMETERS:
            raise ConfigError(
                f"A {config.title} of {total:,} parameters or more is too large: at most"
                f" {MOST_PARAMETERS:,} are allowed. Lower its widths."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
