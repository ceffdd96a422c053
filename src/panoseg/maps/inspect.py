"""Say how a season is understood before it is mapped: as text, as JSON and as a page.

Everything is what ``panoseg map`` would use: the same reading, the same choice of dates.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from PIL import Image

import panoseg
from panoseg.cube import ReadOptions
from panoseg.cube.check import Reading, read_dataset
from panoseg.cube.folder import notes_of
from panoseg.cube.forms import recognise
from panoseg.cube.metadata import crs_text, report_of
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import Season, choose_season
from panoseg.errors import CubeError
from panoseg.files import write_text
from panoseg.imagery.sentinel2 import PASTIS_BANDS, PIXEL_M, SCENE_CLASSIFICATION
from panoseg.maps.figures import TEMPLATES, clearest_date, enlarged, nearest_band, true_colour

_SAMPLED_SIDE = 512
_LONGEST_SIDE = 1024
_NAMED_VARIABLES = 30
# Brown soil over yellow to dark green, at equal steps of NDVI from 0 to 0.9.
_NDVI_COLOURS = np.array(
    [[166, 134, 102], [219, 205, 157], [200, 212, 110], [110, 170, 70], [30, 110, 50], [5, 60, 40]],
    np.float64,
)


@dataclass(frozen=True)
class InspectedDate:
    """A date of a season."""

    date: str
    """YYYY-MM-DD."""
    used: bool
    """Whether a map uses it."""
    reason: str
    """Why it is not used; empty for one that is."""
    clear: float | None
    """Share of pixels that show the ground, 0-1; None where it was not looked at."""


@dataclass(frozen=True)
class Inspection:
    """How a season is understood."""

    path: str
    """The file or folder."""
    format: str
    """Its format, in words."""
    bands: Mapping[str, str]
    """Band -> its name in the file."""
    scene_classification: bool
    """Whether there is a scene classification."""
    scale: str
    """What the numbers are, and how this is known."""
    offset: str
    """The offset that was subtracted, in words."""
    nodata: tuple[float, ...]
    """Numbers that are stated as no data; 0 and NaN always are."""
    crs: str
    """The coordinate system."""
    crs_from: str
    """Where it is stated."""
    height: int
    """Pixels from north to south."""
    width: int
    """Pixels from west to east."""
    pixel_m: float
    """Side of a pixel in metres."""
    corner: tuple[float, float]
    """Coordinates of the upper left corner."""
    centre: tuple[float, float]
    """Longitude and latitude of the middle, in degrees."""
    harvest_year: int | None
    """Year in which the season ends; None if no date is usable."""
    season: tuple[str, str] | None
    """First and last day of the season."""
    dates: tuple[InspectedDate, ...]
    """All dates of the cube."""
    data_share: float
    """Share of the pixels of all used dates that have data, 0-1."""
    warnings: tuple[str, ...]
    """A sentence for everything odd."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"panoseg": panoseg.__version__, **asdict(self)}

    def rows(self) -> list[tuple[str, str]]:
        """Return what was found, as pairs of a label and a text."""
        used = [day for day in self.dates if day.used]
        names = ", ".join(
            band if band == name else f"{band} = {name}" for band, name in self.bands.items()
        )
        nodata = ", ".join(["0", "NaN", *(f"{number:g}" for number in self.nodata if number)])
        x, y = self.corner
        longitude, latitude = self.centre
        place = (
            f"{abs(latitude):.3f} {'N' if latitude >= 0 else 'S'},"
            f" {abs(longitude):.3f} {'E' if longitude >= 0 else 'W'}"
        )
        km2 = self.height * self.width * self.pixel_m**2 / 1e6
        season = (
            "none" if self.season is None else f"{self.harvest_year} ({' to '.join(self.season)})"
        )
        span = f", {used[0].date} to {used[-1].date}" if used else ""
        return [
            ("Format", self.format),
            ("Bands", names),
            ("Scene classification", "yes" if self.scene_classification else "no"),
            ("Values", ", ".join(part for part in (self.scale, self.offset) if part)),
            ("No data", nodata),
            ("Coordinate system", f"{self.crs}, from {self.crs_from}"),
            ("Grid", f"{self.width} x {self.height} pixels of {self.pixel_m:g} m, {km2:,.2f} km2"),
            ("Place", f"{place}; upper left corner {x:.10g}, {y:.10g}"),
            ("Season", season),
            ("Dates", f"{len(used)} of {len(self.dates)} used{span}"),
            ("Data", f"{self.data_share:.1%} of the pixels of the used dates"),
        ]

    def lines(self) -> list[str]:
        """Return the inspection as lines of text."""
        rows = self.rows()
        width = max(len(label) for label, _ in rows) + 2
        dates = [
            f"  {day.date}  {'used' if day.used else 'not used'}{_clear_text(day)}"
            for day in self.dates
        ]
        return [
            *(f"{label:<{width}}{text}" for label, text in rows),
            *dates,
            *(f"warning: {warning}" for warning in self.warnings),
        ]


def _clear_text(day: InspectedDate) -> str:
    if not day.used:
        return f": {day.reason}"
    return "" if day.clear is None else f", {day.clear:.0%} clear"


@dataclass(frozen=True, eq=False)
class InspectedCube:
    """An inspection with the cube that was inspected."""

    inspection: Inspection
    """How it is understood."""
    cube: xr.Dataset
    """The checked cube."""
    season: Season | None
    """The dates that a map uses; None if there are too few."""

    def write_report(self, out: Path) -> None:
        """Write a page with the inspection and pictures of clear dates.

        Raises:
            OutputError: The file cannot be written.
            CubeError: The cube cannot be read.
        """
        with reading(self.inspection.path):
            pictures = self._pictures()
        page = TEMPLATES.get_template("inspect.html.j2").render(
            inspection=self.inspection, rows=self.inspection.rows(), pictures=pictures
        )
        write_text(out, page)

    def _pictures(self) -> list[dict[str, str]]:
        """Return true colour and NDVI of a few dates: a title and data URIs."""
        days = self.cube["time"].values.astype("datetime64[D]")
        if self.season is None:
            places = [0]
        else:
            best = clearest_date(self.season)
            clear = self.season.clear_T
            thirds = np.array_split(np.arange(len(clear)), 3)
            each = {int(part[clear[part].argmax()]) for part in thirds if part.size}
            places = self.season.index_T[sorted({best, *each})].tolist()
        return [
            {
                "title": str(days[place]),
                "true_colour": true_colour(self.cube, place),
                "ndvi": ndvi_image(self.cube, place),
            }
            for place in places
        ]


def ndvi_image(cube: xr.Dataset, position: int) -> str:
    """Return the NDVI of one date of a checked cube as a PNG in a data URI.

    Brown is 0 and below, dark green 0.9 and above; pixels without data are light grey.
    """
    step = max(1, max(cube.sizes["y"], cube.sizes["x"]) // _LONGEST_SIDE)
    part = cube.isel(time=position, y=slice(None, None, step), x=slice(None, None, step))
    near, red = (nearest_band(cube, band) for band in ("B08", "B04"))
    near_HW, red_HW = (part[band].values.astype(np.float64) for band in (near, red))
    sum_HW = near_HW + red_HW
    data_HW = (near != red) & np.isfinite(sum_HW) & (sum_HW > 0) & (near_HW != 0) & (red_HW != 0)
    ndvi = (near_HW[data_HW] - red_HW[data_HW]) / sum_HW[data_HW]
    steps = np.linspace(0, 0.9, len(_NDVI_COLOURS))
    colours_HW3 = np.full((*sum_HW.shape, 3), 225, np.uint8)
    for channel in range(3):
        colours_HW3[data_HW, channel] = np.interp(ndvi, steps, _NDVI_COLOURS[:, channel])
    image = enlarged(colours_HW3, Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def inspect_cube(
    path: Path | str, options: ReadOptions | None = None, fewest_bands: int | None = None
) -> InspectedCube:
    """Inspect a season.

    Args:
        path: The season, in any form that ``open_cube`` reads.
        options: What the file does not say.
        fewest_bands: How many bands are enough; None if all ten are needed.

    Raises:
        CubeError: The season cannot be used; the message says why, and which option helps.
    """
    path, options = Path(path), options or ReadOptions()
    opened = open_cube(path)
    with reading(path):
        found = read_dataset(opened, PASTIS_BANDS, options, fewest_bands)
        cube, season, failure = found.cube, None, ""
        try:
            season = choose_season(cube, min_dates=1, options=options)
        except CubeError as error:
            failure = str(error)
        share = _data_share(cube, season)
    warnings = [*notes_of(cube), *found.notes]
    if season is not None:
        warnings += season.notes
        if len(season.days_T) < 2:
            warnings.append("Only one date is usable, and a map needs at least two.")
    elif failure:
        warnings.append(failure)
    made = report_of(cube, path)
    if made is not None:
        warnings += made.sentences
    return InspectedCube(_inspection(path, found, season, share, tuple(warnings)), cube, season)


def _inspection(
    path: Path, found: Reading, season: Season | None, share: float, warnings: tuple[str, ...]
) -> Inspection:
    cube = found.cube
    grid = cube.odc.geobox
    centre = grid.extent.centroid.to_crs("EPSG:4326").coords[0]
    offset = ""
    if found.decoding.offset_since is not None:
        offset = f"less 1000 from {found.decoding.offset_since} on"
    return Inspection(
        path=str(path),
        format=_form_text(path),
        bands=dict(found.bands),
        scene_classification=SCENE_CLASSIFICATION in cube,
        scale=found.decoding.scale,
        offset=offset,
        nodata=found.decoding.nodata,
        crs=crs_text(pyproj.CRS.from_wkt(grid.crs.to_wkt())),
        crs_from=found.crs_from,
        height=cube.sizes["y"],
        width=cube.sizes["x"],
        pixel_m=PIXEL_M,
        corner=(float(grid.affine.c), float(grid.affine.f)),
        centre=(float(centre[0]), float(centre[1])),
        harvest_year=None if season is None else season.harvest_year,
        season=None if season is None else (str(season.reference), str(season.last)),
        dates=tuple(_dates(cube, season)),
        data_share=share,
        warnings=warnings,
    )


def _dates(cube: xr.Dataset, season: Season | None) -> list[InspectedDate]:
    """Return all dates of a cube and what becomes of them."""
    days = cube["time"].values.astype("datetime64[D]").astype(str).tolist()
    if season is None:
        return [InspectedDate(day, False, "outside of the season", None) for day in days]
    used = dict(zip(season.dates_T.astype(str).tolist(), season.clear_T.tolist(), strict=True))
    left_out = dict(season.left_out)
    return [
        InspectedDate(
            day,
            day in used,
            "" if day in used else left_out.get(day, "outside of the season"),
            used.get(day),
        )
        for day in days
    ]


def _data_share(cube: xr.Dataset, season: Season | None) -> float:
    """Return the share of pixels with data, of the used dates; of a sample of a large cube."""
    step = {dim: slice(None, None, max(1, cube.sizes[dim] // _SAMPLED_SIDE)) for dim in ("y", "x")}
    part = cube[nearest_band(cube, PASTIS_BANDS[0])].isel(step)
    if season is not None:
        part = part.isel(time=season.index_T)
    return float((part.notnull() & (part != 0)).mean().compute(scheduler="threads"))


def _form_text(path: Path) -> str:
    """Return the format of a season in words."""
    form = recognise(path)
    kind = {
        "netcdf": "NetCDF",
        "zarr": "Zarr",
        "eopf": "EOPF Zarr",
        "rasters": "GeoTIFFs",
    }[form.kind]
    if form.kind == "eopf":
        return f"{kind}, {len(form.stores)} products"
    if path.is_file() and form.kind == "zarr":
        return f"{kind}, zipped"
    return kind


def describe_unusable(path: Path | str) -> list[str]:
    """Return what a file holds that is refused as a season: its dimensions and variables.

    Empty if nothing can be opened.
    """
    try:
        opened = open_cube(path)
    except CubeError:
        return []
    dims = ", ".join(f"{name} {size}" for name, size in opened.sizes.items())
    variables = [
        f"  {str(name)[:60]} ({', '.join(map(str, one.dims))}) {one.dtype}"
        for name, one in opened.data_vars.items()
    ]
    more = len(variables) - _NAMED_VARIABLES
    return [
        f"{_form_text(Path(path))} with the dimensions {dims or '(none)'} and the variables",
        *variables[:_NAMED_VARIABLES],
        *([f"  and {more} more"] if more > 0 else []),
    ]
