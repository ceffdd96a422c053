"""Tiles that were drawn lately, and how many are drawn at once: memory and processors are bounded
whoever browses.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from panoseg.app.api import ERRORS, User, current_user
from panoseg.app.corrections import (
    Corrections,
    TrainingOptions,
    change_crop,
    merge_parcels,
    read_corrections,
    split_parcel,
    undo,
    version_of,
)
from panoseg.app.layers import read_layers
from panoseg.app.limits import LOOKS, TILES, BoundedCache, Turns
from panoseg.app.official import differences, has_official, official_at
from panoseg.app.parcels import areas, curve_of, in_degrees, outline_of, parcel_at, parcel_of
from panoseg.app.result_map import ResultMap, open_result
from panoseg.app.service import Service
from panoseg.app.stages import LAYERS
from panoseg.app.tiles import Kind, Tile, TileRequest, draw_tile, etag
from panoseg.processes import usable_cores

_MIB = 1024**2


class TileCache:
    """Draws tiles, each once however many ask for it at once, and keeps those that were asked for
    last.
    """

    def __init__(self, megabytes: int = 16) -> None:
        self.tiles = BoundedCache[Tile](megabytes * _MIB, lambda tile: len(tile.content))
        self._drawing = threading.BoundedSemaphore(max(2, usable_cores()))

    def get(self, etag: str, result: ResultMap, request: TileRequest) -> Tile:
        """The tile of an ``etag``. Raises what ``draw_tile`` raises."""
        return self.tiles.get(etag, lambda: self._draw(result, request))

    def _draw(self, result: ResultMap, request: TileRequest) -> Tile:
        with self._drawing:
            return draw_tile(result, request)


Scope = Literal["jobs", "shared"]
_HOUR = 3600
_Longitude = Annotated[float, Query(ge=-180, le=180)]
_Latitude = Annotated[float, Query(ge=-90, le=90)]
_Key = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-]{32}$", description="id of a job, or token of a link")
]
_Parcel = Annotated[str, Field(pattern=r"^c?[0-9]{1,10}$")]


class CropChange(BaseModel):
    """Another crop for a parcel."""

    model_config = ConfigDict(extra="forbid")
    what: Literal["crop"]
    parcel: _Parcel
    crop: Annotated[str, Field(max_length=100)]


class Split(BaseModel):
    """A parcel cut along a line of longitudes and latitudes."""

    model_config = ConfigDict(extra="forbid")
    what: Literal["split"]
    parcel: _Parcel
    line: Annotated[list[tuple[float, float]], Field(min_length=2, max_length=1000)]


class Merge(BaseModel):
    """One parcel of two neighbours, with the crop of the first."""

    model_config = ConfigDict(extra="forbid")
    what: Literal["merge"]
    first: _Parcel
    second: _Parcel


Change = Annotated[CropChange | Split | Merge, Field(discriminator="what")]


def correct(result: ResultMap, change: CropChange | Split | Merge) -> Corrections:
    """Make one correction. Raises ``NotFoundError``, ``ParcelsError``."""
    if isinstance(change, CropChange):
        return change_crop(result, change.parcel, change.crop)
    if isinstance(change, Split):
        return split_parcel(result, change.parcel, change.line)
    return merge_parcels(result, change.first, change.second)


def corrections_json(result: ResultMap, corrections: Corrections) -> dict[str, Any]:
    """The corrected parcels with outlines in degrees, and how many steps can be undone."""
    parcels = [
        {
            "id": p.id,
            "crop": p.crop,
            "area_ha": p.area_ha,
            "outline": in_degrees(result, p.geometry),
        }
        for p in corrections.parcels.values()
    ]
    steps = [
        {"what": step.what, "removed": step.removed, "made": [p.id for p in step.made]}
        for step in corrections.steps
    ]
    return {"steps": steps, "parcels": parcels}


def describe_result(result: ResultMap) -> dict[str, Any]:
    """What a page must know to show a map: bounds in degrees, classes, dates, areas, and what else
    there is.
    """
    return {
        "bounds": result.bounds,
        "parcels": result.count,
        "classes": [asdict(entry) for entry in result.classes.classes],
        "dates": [asdict(layer) for layer in read_layers(result.folder / LAYERS)],
        "areas": [asdict(row) for row in areas(result)],
        "official": has_official(result.folder),
        "version": version_of(result.folder),
    }


def _of_scope(request: Request, scope: Scope, key: _Key) -> ResultMap:
    """The map of a job of the user, or of a shared link."""
    service: Service = request.app.state.service
    if scope == "shared":
        return open_result(service.settings.jobs_folder / service.shared(key).id)
    return open_result(service.folder(current_user(request), key))


def _of_owner(request: Request, key: _Key) -> ResultMap:
    service: Service = request.app.state.service
    return open_result(service.folder(current_user(request), key))


Shown = Annotated[ResultMap, Depends(_of_scope)]
Own = Annotated[ResultMap, Depends(_of_owner)]

router = APIRouter(prefix="/api", tags=["maps"], responses=ERRORS)
_CACHE = TileCache()
_TURNS = Turns(4)
_CLOSED = 499  # as web servers log it: whoever asked has gone, and reads no answer


@router.get("/{scope}/{key}/tiles/{kind}/{z}/{x}/{y}", response_class=Response)
async def tile(
    request: Request,
    scope: Scope,
    key: _Key,
    kind: Kind,
    z: int,
    x: int,
    y: int,
    date: Annotated[str | None, Query(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] = None,
    hidden: Annotated[str, Query(pattern=r"^([0-9]{1,3}(,[0-9]{1,3})*)?$", max_length=2000)] = "",
    by_confidence: bool = False,
) -> Response:
    """A tile of Web Mercator, 256 x 256 pixels. hidden: numbers of classes, separated by commas.
    date: of a picture.
    """
    classes = frozenset(int(number) for number in hidden.split(",") if number)
    wanted = TileRequest(kind, z, x, y, date, classes, by_confidence)
    async with _TURNS.of(key if scope == "shared" else f"user {current_user(request)}"):
        if await request.is_disconnected():  # a browser gives up tiles that were moved out of sight
            return Response(status_code=_CLOSED)
        return await to_thread.run_sync(_tile, request, scope, key, wanted, limiter=TILES)


def _tile(request: Request, scope: Scope, key: str, wanted: TileRequest) -> Response:
    """All of a tile in one thread: each change of threads takes longer than to find a tile that was
    drawn before.
    """
    result = _of_scope(request, scope, key)
    tag = etag(result, wanted)
    headers = {"ETag": f'"{tag}"', "Cache-Control": f"private, max-age={_HOUR}, must-revalidate"}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    drawn = _CACHE.get(tag, result, wanted)
    return Response(drawn.content, media_type=drawn.media_type, headers=headers)


@router.get("/{scope}/{key}/description")
def description(result: Shown) -> dict[str, Any]:
    """Where a map lies, its classes, dates and areas."""
    return describe_result(result)


@router.get("/{scope}/{key}/areas")
def crop_areas(result: Shown) -> list[dict[str, Any]]:
    """Parcels and hectares by crop, as corrected."""
    return [asdict(row) for row in areas(result)]


@router.get("/{scope}/{key}/parcels")
async def at_place(result: Shown, longitude: _Longitude, latitude: _Latitude) -> dict[str, Any]:
    """The parcel, and the official parcel, at a place in degrees; null where there is none."""
    return await to_thread.run_sync(_at_place, result, longitude, latitude, limiter=LOOKS)


def _at_place(result: ResultMap, longitude: float, latitude: float) -> dict[str, Any]:
    found = parcel_at(result, longitude, latitude)
    official = official_at(result, longitude, latitude) if has_official(result.folder) else None
    return {"parcel": found and asdict(found), "official": official and asdict(official)}


@router.get("/{scope}/{key}/parcels/{parcel}")
async def one(result: Shown, parcel: _Parcel) -> dict[str, Any]:
    """A parcel: crop, area, confidence, shares of crops, outline. shares_of: whether these are
    probabilities of the network, or shares of the area inside the outline, as of corrected parcels
    and of maps that hold no probabilities.
    """
    return asdict(await to_thread.run_sync(parcel_of, result, parcel, limiter=LOOKS))


@router.get("/{scope}/{key}/parcels/{parcel}/ndvi")
async def ndvi(result: Shown, parcel: _Parcel) -> dict[str, Any]:
    """The NDVI of a parcel on each date of the season."""
    return asdict(
        await to_thread.run_sync(
            lambda: curve_of(result.folder, outline_of(result, parcel)), limiter=LOOKS
        )
    )


@router.get("/{scope}/{key}/differences")
async def compared(result: Shown) -> dict[str, Any]:
    """How official parcels and those of the map differ."""
    return asdict(await to_thread.run_sync(differences, result, limiter=LOOKS))


@router.get("/{scope}/{key}/corrections")
def corrections(result: Shown) -> dict[str, Any]:
    """What was corrected."""
    return corrections_json(result, read_corrections(result.folder))


@router.post("/jobs/{key}/corrections")
def add(result: Own, change: Change) -> dict[str, Any]:
    """Correct a parcel: another crop, a split, a merge."""
    return corrections_json(result, correct(result, change))


@router.delete("/jobs/{key}/corrections/last")
def take_back(result: Own) -> dict[str, Any]:
    """Undo the latest correction."""
    return corrections_json(result, undo(result.folder))


@router.get("/jobs/{key}/training", response_class=FileResponse)
def training(
    request: Request,
    user: User,
    key: _Key,
    everything: bool = False,
    size: Annotated[int, Query(ge=16, le=256, multiple_of=16)] = 64,
) -> FileResponse:
    """The corrected map as training data: a register and patches in PASTIS's layout, zipped."""
    path = request.app.state.service.training_data(user, key, TrainingOptions(everything, size))
    return FileResponse(path, filename="training.zip", media_type="application/zip")
