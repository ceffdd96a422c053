"""Requests of users, checked: bodies of the API, stored in a job's folder and row.

The docstrings of fields are their descriptions in the API.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from panoseg.app.settings import PACKAGE_WEIGHTS
from panoseg.errors import AppError
from panoseg.imagery.sentinel2 import season_span
from panoseg.maps.options import MapOptions

if TYPE_CHECKING:
    from panoseg.imagery.area import Area

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f]+$")]
Year = Annotated[int, Field(ge=2016, le=2100)]
_MAX_DAYS = 800
_MAX_OUTLINE_BYTES, _MAX_OUTLINE_DEPTH = 1024**2, 50
_NOT_GEOJSON = "the outline must be GeoJSON with finite numbers and valid Unicode"


class _Strict(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SampleSource(_Strict):
    """A simulated season of a landscape that no weights were trained on; downloads nothing."""

    type: Literal["sample"] = "sample"
    """Kind of the source."""
    size: int = Field(default=256, ge=32, le=512)
    """Side of the area in pixels of 10 m."""
    seed: int = Field(default=0, ge=0, le=9999)
    """Number of the landscape."""
    year: Year = 2019
    """Year of the harvest."""


class CubeSource(_Strict):
    """An uploaded season: a NetCDF file, or a zipped Zarr store."""

    type: Literal["cube"]
    """Kind of the source."""
    upload: Id
    """Id of the upload."""


class CatalogueSource(_Strict):
    """Scenes of a catalogue that cover an outline."""

    type: Literal["catalogue"]
    """Kind of the source."""
    catalogue: Annotated[str, Field(max_length=2000, pattern=r"^[^\s\x00-\x1f\x7f]+$")] | None = (
        None
    )
    """Name of a catalogue or URL of a STAC API; by default the server's catalogue."""
    outline: dict[str, Any] | None = None
    """GeoJSON geometry or feature in degrees."""
    upload: Id | None = None
    """Id of an uploaded outline, in place of ``outline``."""
    year: Year
    """Year of the harvest. The season is 1 September of the year before to 31 October; south of the
    equator 1 March of the year before to 30 April.
    """
    first: date | None = None
    """First day, if it is another one."""
    last: date | None = None
    """Last day, if it is another one."""

    @model_validator(mode="after")
    def _one_outline(self) -> CatalogueSource:
        if (self.outline is None) == (self.upload is None):
            raise ValueError("give either outline or upload")
        _check_json(self.outline)
        first, last = season_span(self.year)
        first, last = self.first or first, self.last or last
        if not 0 <= (last - first).days <= _MAX_DAYS:
            raise ValueError(f"the season must last 1 to {_MAX_DAYS} days")
        return self

    def season(self, area: Area) -> tuple[date, date]:
        """Return the first and the last day in an area, both inclusive."""
        first, last = area.season(self.year)
        return self.first or first, self.last or last


def _check_json(outline: dict[str, Any] | None) -> None:
    """Raise ``ValueError`` for an outline that is too long or deep, or cannot be written as JSON.

    Python's reader accepts NaN, infinity and lone surrogates, which JSON does not have.
    """
    try:
        depth = _depth(outline)
        length = len(json.dumps(outline, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        raise ValueError(_NOT_GEOJSON) from error
    if length > _MAX_OUTLINE_BYTES:
        raise ValueError(f"the outline has more than {_MAX_OUTLINE_BYTES} bytes; upload it instead")
    if depth > _MAX_OUTLINE_DEPTH:
        raise ValueError(_NOT_GEOJSON)


def _depth(value: object) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


class RegisterSource(_Strict):
    """Official parcels: an uploaded file, or its URL."""

    upload: Id | None = None
    """Id of the upload."""
    url: Url | None = None
    """URL of the file, in place of ``upload``."""
    codes: Id | None = None
    """Id of an uploaded CSV with the columns code and class."""
    column: Name | None = None
    """Column of the crop codes; by default the one with the most codes of the table."""

    @model_validator(mode="after")
    def _one_source(self) -> RegisterSource:
        if (self.upload is None) == (self.url is None):
            raise ValueError("give either upload or url")
        if self.column is not None and self.codes is None:
            raise ValueError("column needs codes")
        return self


class MapChoices(_Strict):
    """Options of the map; those of ``panoseg map``."""

    views: int = Field(default=2, ge=1, le=8)
    """Number of test-time augmentations (flips and rotations) per tile."""
    min_clear: float = Field(default=MapOptions.min_clear, ge=0, le=1)
    """Smallest clear share of a date that is used, 0 to 1."""
    max_dates: int = Field(default=MapOptions.max_dates, ge=2, le=200)
    """Largest number of dates that are used."""
    min_area_ha: float = Field(default=MapOptions.min_area_ha, ge=0, le=100)
    """Area in hectares below which a parcel is left out."""
    simplify: float = Field(default=MapOptions.simplify, ge=0, le=10)
    """Tolerance of the simplification of outlines in pixels."""

    def map_options(self, year: int | None) -> MapOptions:
        """Return the options of a map that the pages can show.

        Args:
            year: Year of the harvest, None for that of the season.
        """
        return MapOptions(
            tta=self.views,
            min_clear=self.min_clear,
            max_dates=self.max_dates,
            min_area_ha=self.min_area_ha,
            simplify=self.simplify,
            year=year,
            gpkg=True,
            pmtiles=True,
        )


class MapRequest(_Strict):
    """A map of parcels."""

    kind: Literal["map"] = "map"
    """Kind of the job."""
    name: Name = "Map"
    """Name for display."""
    source: Annotated[SampleSource | CubeSource | CatalogueSource, Field(discriminator="type")]
    """Where the season comes from."""
    weights: Name = PACKAGE_WEIGHTS
    """Name of the weights."""
    options: MapChoices = MapChoices()
    """Options of the map."""
    register_of: RegisterSource | None = None
    """Official parcels with which the map is refined."""


class PhotoRequest(_Strict):
    """The segmentation of a photograph."""

    kind: Literal["photo"]
    """Kind of the job."""
    name: Name = "Photograph"
    """Name for display."""
    upload: Id
    """Id of the uploaded photograph."""
    weights: Name
    """Name of the weights."""


AnyRequest = Annotated[MapRequest | PhotoRequest, Field(discriminator="kind")]
_ANY_REQUEST: TypeAdapter[MapRequest | PhotoRequest] = TypeAdapter(AnyRequest)


def parse_request(request: MapRequest | PhotoRequest | dict[str, Any]) -> MapRequest | PhotoRequest:
    """Return a checked request, or raise ``AppError`` that says what is wrong."""
    if isinstance(request, (MapRequest, PhotoRequest)):
        return request
    try:
        return _ANY_REQUEST.validate_python(request)
    except ValidationError as error:
        raise _invalid(error) from error


def parse_register(register: RegisterSource | dict[str, Any]) -> RegisterSource:
    """Return checked official parcels, or raise ``AppError`` that says what is wrong."""
    if isinstance(register, RegisterSource):
        return register
    try:
        return RegisterSource.model_validate(register)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> AppError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the request"
    return AppError(f"The request is not valid: {place}: {first['msg']}. See /docs.")
