"""Simulated seasons: landscapes, crops, reflectance and weather; the package's own data."""

from panoseg.data.simulation.options import SimulationOptions
from panoseg.data.simulation.season import Layout, Season, simulate_season
from panoseg.data.simulation.write import write_pastis

__all__ = ["Layout", "Season", "SimulationOptions", "simulate_season", "write_pastis"]
