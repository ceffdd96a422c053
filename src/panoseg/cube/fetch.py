"""From a folder of SAFE archives to the cube of an area, by the same code as from a catalogue."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import shapely

from panoseg.cube.build import CubeReport, build_cube
from panoseg.cube.options import DEFAULT_CATALOGUE, CubeOptions
from panoseg.cube.store import work_folder
from panoseg.errors import AreaError, CatalogueError, ConfigError, CubeError, OutputError
from panoseg.files import check_writable, hold_folder, output_error, remove_unfinished
from panoseg.imagery.area import PIXEL_M, Area, grid_of, may_intersect, read_area, solar_offset
from panoseg.imagery.bands import PASTIS_BANDS
from panoseg.imagery.calendar import FIRST_YEAR, LAST_YEAR
from panoseg.imagery.catalogue import find_catalogue, load_scenes, save_scenes, search
from panoseg.imagery.safe import safe_scenes
from panoseg.imagery.scenes import Scene


def cube_of_archives(
    folder: Path | str,
    area_path: Path | str,
    days: tuple[date, date] | None,
    out: Path,
    options: CubeOptions,
    bands: tuple[str, ...] = PASTIS_BANDS,
) -> CubeReport:
    """Make the cube of an outline from the archives in ``folder`` as the Zarr store ``out``.

    days: the first and the last that are taken, by the sun at the place; None for all. Archives
    that cannot be used are named in the report. Raises ``AreaError``, ``CubeError``,
    ``OutputError``.
    """
    area = read_area(area_path)
    grid = grid_of(area, PIXEL_M, options.margin_m)
    check_writable(out.parent / f"{out.name}.probe")
    scenes, broken = safe_scenes(folder)
    ahead = solar_offset(grid)
    usable = [
        scene
        for scene in scenes
        if _within(scene, days, ahead) and may_intersect(scene.outline, area.outline)
    ]
    if not usable:
        span = f" between {days[0]} and {days[1]}" if days else ""
        raise CubeError(
            f"none of {len(scenes)} scenes in {folder} shows {area.name}{span} (they are of"
            f" {scenes[0].time:%Y-%m-%d} to {scenes[-1].time:%Y-%m-%d})",
            "scenes of the area",
            "check the outline and the days, or download others",
        )
    return build_cube(
        usable,
        grid,
        out,
        options,
        area.outline,
        bands=bands,
        title=area.name,
        left_out=broken,
        notes=area.notes,
    )


def _within(scene: Scene, days: tuple[date, date] | None, ahead: timedelta) -> bool:
    return days is None or days[0] <= scene.day(ahead) <= days[1]


_BYTES_A_VALUE = 2
_DAYS_A_DATE = 2.5  # two satellites, where their swaths overlap now and then
_ASK_ABOVE_GB = 50.0
# of the rectangle around an area: parts that lie far apart are little to fetch, and much to map
_ASK_ABOVE_KM2 = 20_000.0


@dataclass(frozen=True)
class Request:
    """What a user asks for. area: file with the outline. first, last: days, by the sun at the
    place. catalogue: name or URL.
    collection: of it, or None for the usual one. yes: however much it is.
    """

    area: Path
    first: date
    last: date
    catalogue: str = DEFAULT_CATALOGUE
    collection: str | None = None
    yes: bool = False

    def __post_init__(self) -> None:
        if self.first.year < FIRST_YEAR or self.last.year > LAST_YEAR:
            raise ConfigError(
                f"a season from {self.first} to {self.last}",
                f"days of the years {FIRST_YEAR} to {LAST_YEAR}",
                "change the dates",
            )
        if self.first > self.last:
            raise ConfigError(
                f"a season from {self.first} to {self.last}",
                "one that ends after it begins",
                "change the dates",
            )
        if self.first > datetime.now(UTC).date():
            raise ConfigError(
                f"a season from {self.first}, which is in the future",
                "one that has begun",
                "change the dates",
            )


def scenes_beside(out: Path) -> Path:
    """Where the list of the scenes of a cube lies that has no folder of its own.

    >>> scenes_beside(Path("season.zarr")).name, scenes_beside(Path("farm.2024")).name
    ('season.scenes.json', 'farm.2024.scenes.json')
    """
    return out.with_name(f"{out.name.removesuffix('.zarr')}.scenes.json")


def fetch_cube(
    request: Request,
    out: Path,
    scenes_path: Path,
    options: CubeOptions,
    bands: tuple[str, ...] = PASTIS_BANDS,
    area: Area | None = None,
) -> tuple[CubeReport, Area]:
    """Fetch the cube of a request as the Zarr store ``out``; gives its report, and the area that
    was asked for.

    scenes_path: where the scenes that the catalogue names are saved before any pixel is read; if
    they are there already they are not asked for again, so that the same request gives the same
    cube. area: of the request, where it is known. Raises ``AreaError``, ``CatalogueError``,
    ``CubeError``, ``OutputError``.
    """
    area = area or asked_area(request, options, len(bands))
    grid = grid_of(area, PIXEL_M, options.margin_m)
    if not _searched(scenes_path, request, area):
        _search(request, area, out, scenes_path)
    scenes, broken = load_scenes(scenes_path)
    ahead = solar_offset(grid)
    scenes = [scene for scene in scenes if request.first <= scene.day(ahead) <= request.last]
    if not scenes:
        why = next(iter(broken.values()), "it is empty")
        raise CatalogueError(
            f"{scenes_path} lists {len(broken)} scenes, none of which can be read ({why})",
            "scenes of Sentinel-2 L2A",
            "choose another --catalog, or remove the list",
        )
    notes = (*area.notes, *_unfinished(request, scenes_path))
    report = build_cube(
        scenes,
        grid,
        out,
        options,
        area.outline,
        bands=bands,
        title=area.name,
        left_out=broken,
        notes=notes,
    )
    return report, area


def _search(request: Request, area: Area, out: Path, scenes_path: Path) -> None:
    """Save the scenes that the catalogue names; what a kill leaves lies in the folder of the
    unfinished cube.
    """
    catalogue, work = find_catalogue(request.catalogue, request.collection), work_folder(out)
    today = datetime.now(UTC).date()
    with hold_folder(work, output=out):
        if _searched(scenes_path, request, area):  # by another command, just now
            return
        try:
            remove_unfinished(work)
            check_writable(work / scenes_path.name)
            found = search(
                area, request.first, min(request.last, today + timedelta(days=1)), catalogue
            )
            save_scenes(
                found, work / scenes_path.name, {**_asked(request, area), "searched": str(today)}
            )
            os.replace(work / scenes_path.name, scenes_path)
        except OSError as error:
            raise output_error(scenes_path, error) from error


def _asked(request: Request, area: Area) -> dict[str, str]:
    """What a saved search depends on."""
    return {
        "catalogue": request.catalogue,
        "collection": request.collection or "",
        "from": str(request.first),
        "to": str(request.last),
        "outline": hashlib.sha256(shapely.to_wkb(shapely.normalize(area.outline))).hexdigest(),
    }


def _searched(path: Path, request: Request, area: Area) -> bool:
    """Whether the scenes of this request are saved already. Raises ``OutputError`` where those of
    another are.
    """
    if not path.exists():
        return False
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))["panoseg"]
    except (OSError, ValueError, KeyError, TypeError):
        saved = {}
    differing = [name for name, value in _asked(request, area).items() if saved.get(name) != value]
    if differing:
        raise OutputError(
            f"{path} lists the scenes of another search (by its {' and '.join(differing)})",
            "those of this one",
            "choose another --out, or remove the file",
        )
    return True


def _unfinished(request: Request, scenes_path: Path) -> list[str]:
    searched = json.loads(scenes_path.read_text(encoding="utf-8"))["panoseg"].get("searched", "")
    if str(request.last) <= str(searched):
        return []
    return [f"The season goes on until {request.last}; its scenes were searched on {searched}."]


def asked_area(request: Request, options: CubeOptions, bands: int = len(PASTIS_BANDS)) -> Area:
    """The area of a request.

    Raises ``AreaError`` for one that cannot be, and, with the estimated cost, for one that nobody
    fetches by mistake.
    """
    area = read_area(request.area)
    dates = min(
        options.max_dates, max(round(((request.last - request.first).days + 1) / _DAYS_A_DATE), 1)
    )
    gigabytes = area.km2 * 1e6 / PIXEL_M**2 * dates * (bands + 1) * _BYTES_A_VALUE / 1e9
    if gigabytes > _ASK_ABOVE_GB and not request.yes:
        raise AreaError(
            f"{area.name} covers {area.km2:,.0f} km2: {dates} dates are {gigabytes:,.0f} GB to"
            " fetch and about half to keep",
            f"at most {_ASK_ABOVE_GB:g} GB, unless it is wanted",
            "add --yes, draw a smaller outline, or lower --max-dates",
        )
    rows, columns = grid_of(area).shape
    rectangle_km2 = rows * columns * PIXEL_M**2 / 1e6
    if rectangle_km2 > _ASK_ABOVE_KM2 and not request.yes:
        raise AreaError(
            f"the rectangle around {area.name} covers {rectangle_km2:,.0f} km2, its parts"
            f" {area.km2:,.0f} km2",
            f"at most {_ASK_ABOVE_KM2:,.0f} km2, unless it is wanted: a map has all its pixels",
            "map the parts one by one, or add --yes",
        )
    return area
