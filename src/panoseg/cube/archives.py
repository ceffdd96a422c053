"""From a folder of SAFE archives to the cube of an area, by the same code as from a catalogue."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from panoseg.cube.build import CubeReport, build_cube
from panoseg.cube.options import TEN_BANDS, CubeOptions
from panoseg.errors import CubeError
from panoseg.files import check_writable
from panoseg.imagery.area import PIXEL_M, grid_of, may_meet, read_area, sun_ahead
from panoseg.imagery.safe import safe_scenes
from panoseg.imagery.scenes import Scene


def cube_of_archives(
    folder: Path | str,
    area_path: Path | str,
    days: tuple[date, date] | None,
    out: Path,
    options: CubeOptions,
    bands: tuple[str, ...] = TEN_BANDS,
) -> CubeReport:
    """Make the cube of an outline from the archives in ``folder`` as the Zarr store ``out``.

    days: the first and the last that are taken, by the sun at the place; None for all. Archives that cannot be used are named
    in the report. Raises ``AreaError``, ``CubeError``, ``OutputError``.
    """
    area = read_area(area_path)
    grid = grid_of(area, PIXEL_M, options.margin_m)
    check_writable(out.parent / f"{out.name}.probe")
    scenes, broken = safe_scenes(folder)
    ahead = sun_ahead(grid)
    usable = [scene for scene in scenes if _within(scene, days, ahead) and may_meet(scene.outline, area.outline)]
    if not usable:
        span = f" between {days[0]} and {days[1]}" if days else ""
        raise CubeError(
            f"none of {len(scenes)} scenes in {folder} shows {area.name}{span} (they are of {scenes[0].time:%Y-%m-%d} to "
            f"{scenes[-1].time:%Y-%m-%d})",
            "scenes of the area",
            "check the outline and the days, or download others",
        )
    return build_cube(usable, grid, out, options, area.outline, bands=bands, title=area.name, left_out=broken, notes=area.notes)


def _within(scene: Scene, days: tuple[date, date] | None, ahead: timedelta) -> bool:
    return days is None or days[0] <= scene.day(ahead) <= days[1]
