"""What users may ask for, checked: the bodies of the API, and what a job's folder and row keep."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from panoseg.app.settings import PACKAGE_WEIGHTS
from panoseg.errors import AppError
from panoseg.imagery.calendar import season_span

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f]+$")]
Year = Annotated[int, Field(ge=2016, le=2100, description="year of the harvest")]
_MOST_DAYS = 800
_LONGEST_OUTLINE, _DEEPEST_OUTLINE = 1024**2, 50
_NO_OUTLINE = "an outline is GeoJSON of finite numbers and whole letters"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleSource(_Strict):
    """A simulated season of a landscape that no weights have seen; needs no network."""

    type: Literal["sample"] = "sample"
    size: int = Field(default=256, ge=32, le=512, description="pixels of 10 m on a side")
    seed: int = Field(default=0, ge=0, le=9999, description="which landscape")
    year: Year = 2019


class CubeSource(_Strict):
    """A season that was uploaded: a NetCDF file, or a zipped Zarr store."""

    type: Literal["cube"]
    upload: Id


class CatalogueSource(_Strict):
    """Scenes of a catalogue over an outline, which is drawn (GeoJSON, degrees) or uploaded."""

    type: Literal["catalogue"]
    catalogue: Annotated[str, Field(max_length=2000, pattern=r"^[^\s\x00-\x1f\x7f]+$")] | None = (
        Field(default=None, description="name or URL; the server's by default")
    )
    outline: dict[str, Any] | None = Field(
        default=None, description="a GeoJSON geometry or feature"
    )
    upload: Id | None = None
    year: Year = Field(description="the season is 1 September of the year before to 31 October")
    first: date | None = Field(default=None, description="other first day")
    last: date | None = Field(default=None, description="other last day")

    @model_validator(mode="after")
    def _one_outline(self) -> CatalogueSource:
        if (self.outline is None) == (self.upload is None):
            raise ValueError("give outline or upload, one of them")
        _check_json(self.outline)
        first, last = self.season
        if not 0 <= (last - first).days <= _MOST_DAYS:
            raise ValueError(f"the season must last 1 to {_MOST_DAYS} days")
        return self

    @property
    def season(self) -> tuple[date, date]:
        """The first and the last day, both inclusive."""
        first, last = season_span(self.year)
        return self.first or first, self.last or last


def _check_json(outline: dict[str, Any] | None) -> None:
    """Raise ``ValueError`` for what JSON has no words for, though Python reads it, and for what is
    too long or deep.
    """
    try:
        deepest, length = (
            _depth(outline),
            len(json.dumps(outline, allow_nan=False, ensure_ascii=False).encode()),
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(_NO_OUTLINE) from error
    if length > _LONGEST_OUTLINE:
        raise ValueError(f"an outline has at most {_LONGEST_OUTLINE} bytes; upload a longer one")
    if deepest > _DEEPEST_OUTLINE:
        raise ValueError(_NO_OUTLINE)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


class RegisterSource(_Strict):
    """The official parcels: a file that was uploaded, or its URL."""

    upload: Id | None = None
    url: Url | None = None
    codes: Id | None = Field(
        default=None, description="an upload: a CSV with the columns code and class"
    )
    column: Name | None = Field(
        default=None, description="that holds the codes; by default the one in which most are found"
    )

    @model_validator(mode="after")
    def _one_source(self) -> RegisterSource:
        if (self.upload is None) == (self.url is None):
            raise ValueError("give upload or url, one of them")
        if self.column is not None and self.codes is None:
            raise ValueError("give codes with column")
        return self


class MapChoices(_Strict):
    """How the map is made; as the options of ``panoseg map``."""

    views: int = Field(default=2, ge=1, le=8)
    min_clear: float = Field(default=0.1, ge=0, le=1)
    max_dates: int = Field(default=60, ge=2, le=200)
    min_area_ha: float = Field(default=0.05, ge=0, le=100)
    simplify: float = Field(default=1.0, ge=0, le=10)


class MapRequest(_Strict):
    """A map of parcels."""

    kind: Literal["map"] = "map"
    name: Name = "Map"
    source: Annotated[SampleSource | CubeSource | CatalogueSource, Field(discriminator="type")]
    weights: Name = PACKAGE_WEIGHTS
    options: MapChoices = MapChoices()
    register_of: RegisterSource | None = Field(
        default=None, description="official parcels, to refine the map by"
    )


class PhotoRequest(_Strict):
    """The segmentation of a photograph."""

    kind: Literal["photo"]
    name: Name = "Photograph"
    upload: Id
    weights: Name


AnyRequest = Annotated[MapRequest | PhotoRequest, Field(discriminator="kind")]
_ANY: TypeAdapter[MapRequest | PhotoRequest] = TypeAdapter(AnyRequest)


def parse_request(request: MapRequest | PhotoRequest | dict[str, Any]) -> MapRequest | PhotoRequest:
    """A checked request. Raises ``AppError`` that names what is wrong."""
    if isinstance(request, (MapRequest, PhotoRequest)):
        return request
    try:
        return _ANY.validate_python(request)
    except ValidationError as error:
        raise _wrong(error) from error


def parse_register(register: RegisterSource | dict[str, Any]) -> RegisterSource:
    """Checked official parcels. Raises ``AppError`` that names what is wrong."""
    if isinstance(register, RegisterSource):
        return register
    try:
        return RegisterSource.model_validate(register)
    except ValidationError as error:
        raise _wrong(error) from error


def _wrong(error: ValidationError) -> AppError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the request"
    return AppError(f"{place}: {first['msg']}", "a request as the API describes it", "see /docs")
