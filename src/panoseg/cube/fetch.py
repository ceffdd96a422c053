"""Make the cube of an area from a catalogue of scenes, or from a folder of SAFE archives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import shapely

from panoseg.cube import DEFAULT_CATALOGUE, CubeOptions
from panoseg.cube.build import build_cube
from panoseg.cube.metadata import CubeReport
from panoseg.cube.store import work_folder
from panoseg.errors import AreaError, CatalogueError, ConfigError, CubeError, OutputError
from panoseg.files import check_writable, hold_folder, output_error, remove_unfinished
from panoseg.imagery import VectorOptions
from panoseg.imagery.area import Area, grid_of, may_intersect, read_area, solar_offset
from panoseg.imagery.catalogue import (
    MAX_LIST_BYTES,
    find_catalogue,
    load_scenes,
    save_scenes,
    search,
)
from panoseg.imagery.safe import safe_scenes
from panoseg.imagery.sentinel2 import FIRST_YEAR, LAST_YEAR, PASTIS_BANDS, PIXEL_M
from panoseg.platforms import move
from panoseg.text_files import read_json

_BYTES_A_VALUE = 2
_DAYS_A_DATE = 2.5  # two satellites, whose swaths overlap in places
_ASK_ABOVE_GB = 50.0
# Of the rectangle around an area: parts that lie far apart are little to fetch, and much to map.
_ASK_ABOVE_KM2 = 20_000.0


def cube_from_archives(
    folder: Path | str,
    area_path: Path | str,
    days: tuple[date, date] | None,
    out: Path,
    options: CubeOptions,
    bands: tuple[str, ...] = PASTIS_BANDS,
    reading: VectorOptions | None = None,
) -> CubeReport:
    """Make the cube of an outline from SAFE archives as the Zarr store ``out``.

    Archives that cannot be used are named in the report.

    Args:
        folder: Folder of archives, or one archive.
        area_path: File with the outline.
        days: First and last day, in solar time of the area; None for all.
        out: The Zarr store to make.
        options: How the cube is made.
        bands: Bands of the cube.
        reading: What the file with the outline does not say itself.

    Raises:
        AreaError: The outline cannot be used.
        CubeError: No scene shows the area, or too few can be read.
        OutputError: The cube cannot be written.
    """
    area = read_area(area_path, reading)
    grid = grid_of(area, PIXEL_M, options.margin_m)
    check_writable(out.parent / f"{out.name}.probe")
    scenes, broken = safe_scenes(folder)
    offset = solar_offset(grid)
    usable = [
        scene
        for scene in scenes
        if (days is None or days[0] <= scene.day(offset) <= days[1])
        and may_intersect(scene.outline, area.outline)
    ]
    if not usable:
        span = f" between {days[0]} and {days[1]}" if days else ""
        raise CubeError(
            f"None of {len(scenes)} scenes in {folder} shows {area.name}{span} (they are of"
            f" {scenes[0].time:%Y-%m-%d} to {scenes[-1].time:%Y-%m-%d}): check the outline and the"
            " days, or download others."
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


@dataclass(frozen=True)
class CubeRequest:
    """An area and a season in a catalogue. Raises ``ConfigError`` for impossible days."""

    area: Path
    """File with the outline."""
    first: date
    """First day, in solar time of the area."""
    last: date
    """Last day, inclusive."""
    catalogue: str = DEFAULT_CATALOGUE
    """Name or URL of the catalogue."""
    collection: str | None = None
    """A collection of the catalogue; None for its usual one."""
    yes: bool = False
    """Fetch, no matter how large the download is."""
    reading: VectorOptions = field(default_factory=VectorOptions)
    """What the file with the outline does not say itself."""

    def __post_init__(self) -> None:
        if self.first.year < FIRST_YEAR or self.last.year > LAST_YEAR:
            raise ConfigError(
                f"The season from {self.first} to {self.last} lies outside of the years"
                f" {FIRST_YEAR} to {LAST_YEAR}: change the dates."
            )
        if self.first > self.last:
            raise ConfigError(
                f"The season from {self.first} to {self.last} ends before it begins: change the"
                " dates."
            )
        if self.first > datetime.now(UTC).date():
            raise ConfigError(f"The season from {self.first} is in the future: change the dates.")


def scene_list_path(out: Path) -> Path:
    """Return where the list of scenes of a cube outside of a map's folder lies.

    >>> scene_list_path(Path("season.zarr")).name, scene_list_path(Path("farm.2024")).name
    ('season.scenes.json', 'farm.2024.scenes.json')
    """
    return out.with_name(f"{out.name.removesuffix('.zarr')}.scenes.json")


def fetch_cube(
    request: CubeRequest,
    out: Path,
    scenes_path: Path,
    options: CubeOptions,
    bands: tuple[str, ...] = PASTIS_BANDS,
    area: Area | None = None,
) -> tuple[CubeReport, Area]:
    """Fetch the cube of a request as the Zarr store ``out``.

    Args:
        request: What to fetch.
        out: The Zarr store to make.
        scenes_path: Where the scenes that the catalogue lists are saved before any pixel is read.
            An existing list is used again, so that the same request gives the same cube.
        options: How the cube is made.
        bands: Bands of the cube.
        area: Area of the request, if it was read before.

    Returns:
        The report of the cube, and the area.

    Raises:
        AreaError: The outline cannot be used.
        CatalogueError: The catalogue does not answer, or has no scene that can be read.
        CubeError: Too few scenes can be read.
        OutputError: The cube cannot be written, or the list is of another search.
    """
    area = area or requested_area(request, options, len(bands))
    grid = grid_of(area, PIXEL_M, options.margin_m)
    if not _searched(scenes_path, request, area):
        _search(request, area, out, scenes_path)
    scenes, broken = load_scenes(scenes_path)
    offset = solar_offset(grid)
    scenes = [scene for scene in scenes if request.first <= scene.day(offset) <= request.last]
    if not scenes:
        why = next(iter(broken.values()), "it is empty")
        raise CatalogueError(
            f"None of the {len(broken)} scenes in {scenes_path} can be read ({why}): choose another"
            " --catalog, or remove the list."
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


def _search(request: CubeRequest, area: Area, out: Path, scenes_path: Path) -> None:
    """Save the scenes that the catalogue lists.

    What a killed process leaves lies in the folder of the unfinished cube.
    """
    catalogue, work = find_catalogue(request.catalogue, request.collection), work_folder(out)
    today = datetime.now(UTC).date()
    with hold_folder(work, output=out):
        if _searched(scenes_path, request, area):  # by another command in the meantime
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
            move(work / scenes_path.name, scenes_path)
        except OSError as error:
            raise output_error(scenes_path, error) from error


def _asked(request: CubeRequest, area: Area) -> dict[str, str]:
    """Return what a saved search depends on."""
    return {
        "catalogue": request.catalogue,
        "collection": request.collection or "",
        "from": str(request.first),
        "to": str(request.last),
        "outline": hashlib.sha256(shapely.to_wkb(shapely.normalize(area.outline))).hexdigest(),
    }


def _searched(path: Path, request: CubeRequest, area: Area) -> bool:
    """Return whether the scenes of this request are saved.

    Raises ``OutputError`` if those of another search are.
    """
    if not path.exists():
        return False
    try:
        saved = read_json(path, MAX_LIST_BYTES)["panoseg"]
    except (OSError, ValueError, KeyError, TypeError):
        saved = {}
    differing = [name for name, value in _asked(request, area).items() if saved.get(name) != value]
    if differing:
        raise OutputError(
            f"{path} lists the scenes of another search (it differs in its"
            f" {' and '.join(differing)}): choose another --out, or remove the file."
        )
    return True


def _unfinished(request: CubeRequest, scenes_path: Path) -> list[str]:
    """Return a note if the season continues after the day of the search."""
    searched = read_json(scenes_path, MAX_LIST_BYTES)["panoseg"].get("searched", "")
    if str(request.last) <= str(searched):
        return []
    return [f"The season ends on {request.last}; its scenes were searched on {searched}."]


def requested_area(
    request: CubeRequest, options: CubeOptions, bands: int = len(PASTIS_BANDS)
) -> Area:
    """Read the area of a request, and refuse one that is probably larger than intended.

    Raises:
        AreaError: The outline cannot be used, or its download or its map would be very large.
    """
    area = read_area(request.area, request.reading)
    dates = min(
        options.max_dates, max(round(((request.last - request.first).days + 1) / _DAYS_A_DATE), 1)
    )
    gigabytes = area.km2 * 1e6 / PIXEL_M**2 * dates * (bands + 1) * _BYTES_A_VALUE / 1e9
    if gigabytes > _ASK_ABOVE_GB and not request.yes:
        raise AreaError(
            f"{area.name} covers {area.km2:,.0f} km2: {dates} dates are {gigabytes:,.0f} GB to"
            f" download, and about half to keep. Add --yes to fetch more than {_ASK_ABOVE_GB:g} GB,"
            " draw a smaller outline, or lower --max-dates."
        )
    rows, columns = grid_of(area).shape
    rectangle_km2 = rows * columns * PIXEL_M**2 / 1e6
    if rectangle_km2 > _ASK_ABOVE_KM2 and not request.yes:
        raise AreaError(
            f"The rectangle around {area.name} covers {rectangle_km2:,.0f} km2, its parts only"
            f" {area.km2:,.0f} km2, and a map has all pixels of the rectangle. Map the parts one by"
            f" one, or add --yes to map more than {_ASK_ABOVE_KM2:,.0f} km2."
        )
    return area
