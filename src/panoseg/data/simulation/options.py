"""What a simulated season may look like: the options, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from panoseg.data.simulation.regions import REGIONS
from panoseg.errors import ConfigError


@dataclass(frozen=True)
class SimulationOptions:
    """How seasons are simulated; what is left at its default varies from season to season.

    region: name of a region of ``regions.REGIONS``; None draws one a season. field_size: factor on the region's field area.
    harvest_year: the season runs from 1 September of the year before to 31 October. dates: fewest and most acquisitions.
    cloudy: smallest and largest share of acquisitions that have clouds. snow: chance of a snowy winter.
    shift_days: how far a season may be early or late. heterogeneity: factor on the variation inside parcels.
    noise: factor on pixel noise, radiometric drift and haze. registration: standard deviation of the shift between dates,
    pixels. resampling: how 20 m bands come to 10 m; None draws one a season. void: parcels that lie mostly outside become
    void, as in PASTIS. crops: class ids that may occur; None allows all.
    """

    region: str | None = None
    field_size: float = 1.0
    harvest_year: int = 2019
    dates: tuple[int, int] = (38, 61)
    cloudy: tuple[float, float] = (0.05, 0.4)
    snow: float = 0.15
    shift_days: float = 20.0
    heterogeneity: float = 1.0
    noise: float = 1.0
    registration: float = 0.15
    resampling: Literal["nearest", "bilinear"] | None = None
    void: bool = True
    crops: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.region is not None and self.region not in REGIONS:
            _refuse("region", self.region, "one of " + ", ".join(REGIONS))
        if not 0.05 <= self.field_size <= 20:
            _refuse("field_size", self.field_size, "a factor between 0.05 and 20")
        if not 2016 <= self.harvest_year <= 2100:
            _refuse("harvest_year", self.harvest_year, "a year between 2016 and 2100")
        if not 1 <= self.dates[0] <= self.dates[1] <= 140:
            _refuse("dates", self.dates, "fewest and most dates, 1 to 140, ascending")
        if not 0 <= self.cloudy[0] <= self.cloudy[1] <= 1:
            _refuse("cloudy", self.cloudy, "two shares between 0 and 1, ascending")
        if not 0 <= self.snow <= 1:
            _refuse("snow", self.snow, "a chance between 0 and 1")
        if not 0 <= self.shift_days <= 60:
            _refuse("shift_days", self.shift_days, "0 to 60 days")
        for name in ("heterogeneity", "noise"):
            if not 0 <= getattr(self, name) <= 10:
                _refuse(name, getattr(self, name), "a factor between 0 and 10")
        if not 0 <= self.registration <= 1:
            _refuse("registration", self.registration, "0 to 1 pixels")
        if self.resampling not in (None, "nearest", "bilinear"):
            _refuse("resampling", self.resampling, "nearest or bilinear")
        if self.crops is not None and (not self.crops or not set(self.crops) <= set(range(1, 19))):
            _refuse("crops", self.crops, "class ids between 1 and 18")


def _refuse(name: str, value: object, expected: str) -> None:
    raise ConfigError(f"{name} is {value!r}", expected, f"change --options.{name.replace('_', '-')}")
