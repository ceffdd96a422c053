"""Requests of users, checked: bodies of the API, stored in a job's folder and row.

The docstrings of fields are their descriptions in the API.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from panoseg.app.settings import PACKAGE_WEIGHTS
from panoseg.cube import ReadOptions
from panoseg.errors import AppError, ConfigError
from panoseg.imagery.sentinel2 import season_span
from panoseg.maps import MapOptions

if TYPE_CHECKING:
    from panoseg.imagery.area import Area

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f]+$")]
Year = Annotated[int, Field(ge=2016, le=2100)]
Day = Annotated[date, Field(ge=date(1985, 1, 1), le=date(2200, 12, 31))]
FIELD_LABELS = {
    "bands": "Bands",
    "nodata": "No data",
    "scale": "Scale",
    "offset": "Offset",
    "crs": "Coordinate system",
    "season_start": "Season start",
    "first": "First day",
    "last": "Last day",
}
"""Fields of ``ReadChoices`` as the pages name them."""
# "--from" and "--to" are how the command line names the first and the last day.
_LABEL_OF_OPTION = {
    {"first": "from", "last": "to"}.get(name, name.replace("_", "-")): label
    for name, label in FIELD_LABELS.items()
}
_OPTION = f"--({'|'.join(_LABEL_OF_OPTION)})(?![\\w-])"
_NUMBERED_CRS = re.compile(r"([A-Za-z]{1,10}:)?[0-9]{1,7}", re.ASCII)
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


class ReadChoices(_Strict):
    """What the file of a season does not say about itself; the rest is read from the file."""

    bands: Annotated[str, Field(max_length=1000)] | None = None
    """Names of bands in the file, where they are not recognised: B08=NIR,B8A=BROADNIR."""
    nodata: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Number in the file that stands for no data, in addition to what the file says."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Factor from the numbers in the file to reflectance 0-1, such as 0.0001."""
    offset: Annotated[str, Field(max_length=60)] | None = None
    """Number added before the scale; with a date, from that date on: -1000@2022-01-25."""
    crs: Annotated[str, Field(max_length=20)] | None = None
    """Number of the coordinate system of x and y, such as EPSG:32631."""
    season_start: Annotated[str, Field(max_length=10)] | None = None
    """Month and day that start a season, such as 05-01."""
    first: Day | None = None
    """First day to use, in place of the season's."""
    last: Day | None = None
    """Last day to use, in place of the season's."""

    @model_validator(mode="after")
    def _is_understood(self) -> ReadChoices:
        texts = (self.bands, self.offset, self.crs, self.season_start)
        if not all(text.isprintable() for text in texts if text is not None):
            raise ValueError("use only letters, digits and signs")
        # Only numbers: definitions of coordinate systems can name files of the server.
        if self.crs is not None and not _NUMBERED_CRS.fullmatch(self.crs):
            raise ValueError("Write the coordinate system as its number, such as EPSG:32631.")
        try:
            self.options()
        except ConfigError as error:
            raise ValueError(in_field_words(str(error))) from error
        return self

    def options(self) -> ReadOptions:
        """Return the options by which a season is read."""
        return ReadOptions(**self.model_dump(mode="json", exclude_none=True))


def names_field(text: str) -> bool:
    """Return whether a message of the core names an option that a page has as a field."""
    return re.search(_OPTION, text) is not None


def in_field_words(text: str) -> str:
    """Return a message of the core with the names of the page's fields in place of options.

    >>> in_field_words("Say which is which with --bands, e.g. --bands B02=NAME.")
    'Say which is which in the field Bands, e.g. B02=NAME.'
    >>> in_field_words("--crs moon is no coordinate system; write its number: EPSG:32631.")
    '"moon" in the field Coordinate system is no coordinate system; write its number: EPSG:32631.'
    >>> in_field_words("Add it again with --offset 1000@2022-01-25.")
    'Add it again with 1000@2022-01-25 in the field Offset.'
    """

    def field(found: re.Match[str]) -> str:
        return f"the field {_LABEL_OF_OPTION[found[1]]}"

    def value(found: re.Match[str]) -> str:
        return f"{found[2]} in {field(found)}"

    def quoted(found: re.Match[str]) -> str:
        return f'"{found[2]}" in {field(found)} {found[3]}'

    starts = text.startswith("--")
    text = re.sub(r"--(?:year|min-dates|min-clear),? (?:or )?", "", text)  # no fields of the page
    text = re.sub(rf"^{_OPTION} (.+?) (is no|lies)\b", quoted, text)
    text = re.sub(rf"(?<=e\.g\. ){_OPTION} ", "", text)
    text = re.sub(
        rf"{_OPTION} (?!(?:and|or|names|must|chooses?)\b)(\S+?)(?=[.,;:]?(?:\s|$))", value, text
    )
    text = re.sub(rf"\bwith (?={_OPTION})", "in ", text)
    text = re.sub(rf"\bpass (?={_OPTION})", "fill in ", text)
    text = re.sub(_OPTION, field, text)
    return text[:1].upper() + text[1:] if starts else text


class CubeSource(_Strict):
    """An uploaded season: a NetCDF file, or a zipped Zarr store."""

    type: Literal["cube"]
    """Kind of the source."""
    upload: Id
    """Id of the upload."""
    read: ReadChoices = ReadChoices()
    """What the file does not say about itself."""


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

    def map_options(self, year: int | None, read: ReadOptions) -> MapOptions:
        """Return the options of a map that the pages can show.

        Args:
            year: Year of the harvest, None for that of the season.
            read: What the file of the season does not say about itself.
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
            read=read,
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

    @property
    def read(self) -> ReadOptions:
        """What the file of the season does not say about itself."""
        return self.source.read.options() if isinstance(self.source, CubeSource) else ReadOptions()


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


def parse_read(fields: ReadChoices | dict[str, Any]) -> ReadChoices:
    """Return checked fields, or raise ``AppError`` with a sentence for the page that has them."""
    if isinstance(fields, ReadChoices):
        return fields
    try:
        return ReadChoices.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = first["msg"].removeprefix("Value error, ")
        label = FIELD_LABELS.get(str(first["loc"][0])) if first["loc"] else None
        raise AppError(text if label is None else f"{label}: {text}.") from error


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
