"""``panoseg cube``: the season of an area, from a catalogue to a Zarr store."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from panoseg.cube.options import CubeOptions
from panoseg.errors import ConfigError

if TYPE_CHECKING:
    from panoseg.cube.build import CubeReport

Days = tuple[date, date]


def run(
    area: Path,
    out: Path,
    season: int | None = None,
    first: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    last: Annotated[str | None, tyro.conf.arg(name="to")] = None,
    catalog: str = "earth-search",
    collection: str | None = None,
    safe: Path | None = None,
    yes: bool = False,
    options: Annotated[CubeOptions, tyro.conf.arg(name="")] = CubeOptions(),  # noqa: B008
) -> None:
    """Make the cube of an area and a season, a Zarr store for panoseg map: from a catalogue, or
    from downloaded SAFE archives.

    A stopped run goes on when the same command runs again, to the same bytes. A scene that cannot
    be read is left out, and named. The list of scenes (season.scenes.json) is used again if it is
    there, so that a run repeats exactly.

    example: panoseg cube --area farm.geojson --season 2024 --out season.zarr

    example: panoseg cube --area farm.geojson --safe downloads --out season.zarr

    Args:
        area: File with the outline: GeoJSON, GeoPackage, zipped Shapefile or KML, in any coordinate
            system.
        out: The Zarr store to make.
        season: Harvest year: from 1 September of the year before to 31 October. Or say --from and
            --to.
        first: First day, as 2023-09-01.
        last: Last day, as 2024-10-31.
        catalog: earth-search, planetary-computer, copernicus, or the URL of a STAC API.
        collection: Of the catalogue, if not its usual one with Sentinel-2 L2A.
        safe: Folder of SAFE archives of Sentinel-2 L2A, folders or .zip; the days are then all, if
            none are said.
        yes: Fetch, however much it is.
        options: How the cube is made.
    """
    days = (
        None if safe is not None and season is first is last is None else _days(season, first, last)
    )
    if safe is not None and (catalog != "earth-search" or collection is not None or yes):
        raise ConfigError(
            "--safe with --catalog, --collection or --yes",
            "one source of scenes",
            "leave one of them out",
        )
    given = area, days, out, options
    report = (
        _from_archives(safe, *given) if safe else _from_catalogue(catalog, collection, yes, *given)
    )
    print("\n".join(report.lines()))
    print(f"{report.path} is ready: panoseg map {report.path} --out map")


def _from_catalogue(
    catalog: str,
    collection: str | None,
    yes: bool,
    area: Path,
    days: Days | None,
    out: Path,
    options: CubeOptions,
) -> CubeReport:
    from panoseg.cube.fetch import Request, fetch_cube, scenes_beside

    assert days is not None, "a catalogue is asked for days"
    request = Request(area, *days, catalog, collection, yes)
    return fetch_cube(request, out, scenes_beside(out), options)[0]


def _from_archives(
    safe: Path, area: Path, days: Days | None, out: Path, options: CubeOptions
) -> CubeReport:
    from panoseg.cube.fetch import cube_of_archives

    return cube_of_archives(safe, area, days, out, options)


def _days(season: int | None, first: str | None, last: str | None) -> Days:
    """The first and the last day that the options name."""
    from panoseg.cube.season import season_span

    if (season is None) == (first is None and last is None) or (first is None) != (last is None):
        raise ConfigError(
            "no season, or two",
            "--season 2024, or --from 2023-09-01 --to 2024-10-31",
            "say one of them",
        )
    if season is not None:
        return season_span(season)
    days = []
    for option, text in (("from", first), ("to", last)):
        try:
            days.append(date.fromisoformat(str(text)))
        except ValueError as error:
            raise ConfigError(
                f"{text!r} as a day", "one as 2023-09-01", f"change --{option}"
            ) from error
    return days[0], days[1]
