"""From an outline and a season to a map: the cube is fetched into the map's folder, then mapped inside the outline."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from panoseg.cube.fetch import Request, asked_area, fetch_cube
from panoseg.cube.options import AreaOptions, CubeOptions
from panoseg.cube.season import season_span
from panoseg.errors import ConfigError, PanosegError
from panoseg.files import making, new_folder, output_error
from panoseg.maps.mapping import MapResult, map_cube
from panoseg.maps.options import MapOptions, RunOptions
from panoseg.maps.resume import UNFINISHED
from panoseg.models.weights import Weights, default_weights, load_weights

SCENES = "scenes.json"


def map_area(
    wanted: AreaOptions,
    fetch: CubeOptions,
    weights: Weights | Path | str | None,
    out: Path | str,
    options: MapOptions | None = None,
    truth: Path | str | None = None,
    declared_only: bool = False,
    running: RunOptions | None = None,
) -> MapResult:
    """Fetch the season of an area and map it in the folder ``out``: scenes.json, NAME.zarr, and what ``map_cube`` writes.

    Pixels outside of the outline have no parcel; one that straddles it is cut there. weights: their bands are fetched, for the
    days of their season. Other arguments and errors as in ``map_cube`` and ``fetch_cube``. A stopped map is continued.
    """
    options, out = options or MapOptions(), Path(out)
    if wanted.area is None or wanted.season is None:
        raise ConfigError("--area without --season, or the other way round", "both", "add --area FILE --season 2024")
    if options.year not in (None, wanted.season):
        raise ConfigError(f"--season {wanted.season} with --year {options.year}", "one year of harvest", "leave out --year")
    loaded = weights if isinstance(weights, Weights) else default_weights() if weights is None else load_weights(weights)
    request = Request(
        wanted.area, *season_span(wanted.season, loaded.card.season_start), wanted.catalog, wanted.collection, wanted.yes
    )
    bands = tuple(loaded.card.bands)
    area = asked_area(request, fetch, len(bands))
    with making(out):
        _begin(out)
        # A cube that is not kept lies where all goes when the map is finished, so that no kill leaves it behind.
        cube = (out if wanted.keep_cube else out / UNFINISHED) / f"{area.name}.zarr"
        try:
            fetch_cube(request, cube, out / SCENES, fetch, bands, area)
        except PanosegError:
            _remove_empty(out)
            raise
        chosen = replace(options, year=wanted.season)
        return map_cube(cube, weights, out, chosen, truth, declared_only, within=area.outline, running=running)


def _begin(out: Path) -> None:
    """Make the folder of a map, or accept that of an unfinished one, which is known as such while its cube is fetched."""
    try:
        (new_folder(out, resumable=UNFINISHED) / UNFINISHED).mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error


def _remove_empty(out: Path) -> None:
    """Remove a folder in which nothing was made."""
    with suppress(OSError):
        if [entry.name for entry in out.iterdir()] == [UNFINISHED]:
            (out / UNFINISHED).rmdir()
            out.rmdir()
