"""Simulated data: seasons of crops under weather, and photographs of simple objects.

Names are imported on first use, so that the options alone, for ``panoseg simulate --help``, need no
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panoseg.simulation.cube import simulate_cube
    from panoseg.simulation.layout import Layout
    from panoseg.simulation.options import SimulationOptions
    from panoseg.simulation.season import Season, simulate_season
    from panoseg.simulation.write import write_pastis, write_s2tsczcrop


_MODULES = {
    "Layout": "layout",
    "Season": "season",
    "SimulationOptions": "options",
    "simulate_cube": "cube",
    "simulate_season": "season",
    "write_pastis": "write",
    "write_s2tsczcrop": "write",
}

__all__ = [
    "Layout",
    "Season",
    "SimulationOptions",
    "simulate_cube",
    "simulate_season",
    "write_pastis",
    "write_s2tsczcrop",
]


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
