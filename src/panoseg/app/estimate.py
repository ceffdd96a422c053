"""What a job would cost, found out without starting it: the dates that a catalogue has, the bytes to fetch, the time."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from panoseg.app.at_a_time import AtATime
from panoseg.app.request_inputs import PIXEL_KM2, RequestInputs
from panoseg.app.requests import CatalogueSource, CubeSource, MapRequest, PhotoRequest, SampleSource
from panoseg.app.stages import sample_options

if TYPE_CHECKING:
    from panoseg.imagery.area import Area

_SECONDS_A_KM2 = 3.0  # before the first finished map tells better
_SECONDS_TO_START = 8.0
_BYTES_A_PIXEL = 22  # ten bands and the classification, of two bytes each


@dataclass(frozen=True)
class SceneDate:
    """A date of a season. cloud_percent: 0..100 of the sky over the whole scene."""

    date: date
    cloud_percent: float


@dataclass(frozen=True)
class Estimate:
    """What a map would cost. seconds: on this server, as finished maps tell. notes: a sentence each."""

    km2: float
    scenes: tuple[SceneDate, ...]
    seconds: float
    download_bytes: int
    notes: tuple[str, ...]


class Estimates:
    """Estimates jobs for users; few search a catalogue at a time."""

    def __init__(self, inputs: RequestInputs) -> None:
        self.inputs = inputs
        self._searches = AtATime("searches", of_user=4, of_all=8)  # all together leave threads for pages

    def of(self, user: str, request: MapRequest | PhotoRequest, km2: float, pace: float | None) -> Estimate:
        """What a checked request would cost. pace: seconds a km2 of finished maps. Raises ``AppError``, ``CatalogueError``."""
        if isinstance(request, PhotoRequest):
            return Estimate(0.0, (), 2 * _SECONDS_TO_START, 0, ())
        scenes, size, notes = self._scenes(user, request)
        return Estimate(km2, scenes, _SECONDS_TO_START + (pace or _SECONDS_A_KM2) * km2, size, notes)

    def _scenes(self, user: str, request: MapRequest) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """The dates of a season, the bytes to fetch, and notes."""
        source = request.source
        if isinstance(source, SampleSource):
            from panoseg.app.stages import SAMPLE_SEEDS
            from panoseg.simulation.season import planned_dates

            planned = planned_dates(SAMPLE_SEEDS + source.seed, sample_options(source))
            scenes = tuple(SceneDate(day, round(100 * cover, 1)) for day, cover in planned)
            return scenes, 0, ("A simulated season: nothing is fetched.",)
        if isinstance(source, CubeSource):
            return (), 0, ("The season is in the upload: nothing is fetched.",)
        area = self.inputs.area(user, source)
        with self._searches.of(user):
            return self._searched(area, source, request.options.max_dates)

    def _searched(self, area: Area, source: CatalogueSource, most: int) -> tuple[tuple[SceneDate, ...], int, tuple[str, ...]]:
        """What a catalogue has of an area and a season."""
        from panoseg.imagery.catalogue import find_catalogue, search

        found = search(area, *source.season, find_catalogue(source.catalogue or self.inputs.settings.catalog))
        clouds: dict[date, list[float]] = {}
        for item in found:
            properties = item.get("properties") or {}
            with suppress(ValueError, TypeError, KeyError):
                day, percent = date.fromisoformat(str(properties["datetime"])[:10]), float(properties.get("eo:cloud_cover", 0))
                clouds.setdefault(day, []).append(percent if 0 <= percent <= 100 else 0.0)  # catalogues write what they like
        scenes = tuple(SceneDate(day, round(sum(many) / len(many), 1)) for day, many in sorted(clouds.items()))
        dates = min(len(scenes), most)
        size = round(area.km2 / PIXEL_KM2 * dates * _BYTES_A_PIXEL)
        left = (f"At most {most} dates are used, the clearest of each stretch of the season.",) if dates < len(scenes) else ()
        return scenes, size, (*area.notes, *left)
