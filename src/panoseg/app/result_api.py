"""The part of the HTTP API for finished maps: tiles, parcels, corrections, training data.

Tiles are cached, and the number that are drawn at once is limited, so that memory and processors
stay bounded however many people browse.
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
from panoseg.app.exports import NAMES, Format
from panoseg.app.layers import read_layers
from panoseg.app.limits import CLICK_THREADS, TILE_THREADS, BoundedCache, RequestQueue
from panoseg.app.official import differences, has_official, official_at
from panoseg.app.parcels import areas, curve_of, in_degrees, outline_of, parcel_at, parcel_of
from panoseg.app.result_map import ResultMap, open_result
from panoseg.app.service import Service
from panoseg.app.stages import LAYERS
from panoseg.app.tiles import Tile, TileKind, TileRequest, draw_tile, etag
from panoseg.processes import usable_cores

_MIB = 1024**2


class TileCache:
    """Draws tiles and caches the most recently used ones.

    Requests for the same tile at the same time draw it once.

    Args:
        mib: Size of the cache in MiB.
    """

    def __init__(self, mib: int = 16) -> None:
        self.tiles = BoundedCache[Tile](mib * _MIB, lambda tile: len(tile.content))
        self._drawing = threading.BoundedSemaphore(max(2, usable_cores()))

    def get(self, etag: str, result: ResultMap, request: TileRequest) -> Tile:
        """Return the tile of an ``etag``; raises what ``draw_tile`` raises."""

        def draw() -> Tile:
            with self._drawing:
                return draw_tile(result, request)

        return self.tiles.get(etag, draw)


Scope = Literal["jobs", "shared"]
_HOUR = 3600
_Longitude = Annotated[float, Query(ge=-180, le=180)]
_Latitude = Annotated[float, Query(ge=-90, le=90)]
_Key = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-]{32}$", description="id of a job, or token of a link")
]
_Parcel = Annotated[str, Field(pattern=r"^c?[0-9]{1,10}$")]


class _Correction(BaseModel):
    """A correction, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class CropChange(_Correction):
    """Give a parcel another crop."""

    what: Literal["crop"]
    """Kind of the correction."""
    parcel: _Parcel
    """Id of the parcel."""
    crop: Annotated[str, Field(max_length=100)]
    """Name of the crop."""


class Split(_Correction):
    """Split a parcel along a line."""

    what: Literal["split"]
    """Kind of the correction."""
    parcel: _Parcel
    """Id of the parcel."""
    line: Annotated[list[tuple[float, float]], Field(min_length=2, max_length=1000)]
    """Longitude and latitude of each point of the line."""


class Merge(_Correction):
    """Merge two neighbours to one parcel with the crop of the first."""

    what: Literal["merge"]
    """Kind of the correction."""
    first: _Parcel
    """Id of the parcel whose crop is kept."""
    second: _Parcel
    """Id of the other parcel."""


Change = Annotated[CropChange | Split | Merge, Field(discriminator="what")]


def correct(result: ResultMap, change: CropChange | Split | Merge) -> Corrections:
    """Make a correction.

    Raises:
        NotFoundError: The map has no such parcel or crop.
        ParcelsError: The line does not split the parcel, or the parcels are not neighbours.
    """
    if isinstance(change, CropChange):
        return change_crop(result, change.parcel, change.crop)
    if isinstance(change, Split):
        return split_parcel(result, change.parcel, change.line)
    return merge_parcels(result, change.first, change.second)


def corrections_json(result: ResultMap, corrections: Corrections) -> dict[str, Any]:
    """Return the steps, and the corrected parcels with outlines in degrees, as JSON."""
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
    """Return what a page needs to show a map as JSON: bounds in degrees, classes, dates, areas."""
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
    """Return the map of a job of the user, or of a public link."""
    service: Service = request.app.state.service
    if scope == "shared":
        return open_result(service.settings.jobs_folder / service.shared(key).id)
    return open_result(service.folder(current_user(request), key))


def _of_owner(request: Request, key: _Key) -> ResultMap:
    """Return the map of a job of the user."""
    return _of_scope(request, "jobs", key)


ReadableMap = Annotated[ResultMap, Depends(_of_scope)]
OwnMap = Annotated[ResultMap, Depends(_of_owner)]

router = APIRouter(prefix="/api", tags=["maps"], responses=ERRORS)
_CACHE = TileCache()
_QUEUE = RequestQueue(4)
_CLIENT_CLOSED = 499  # the client closed the connection and reads no answer; nginx's code for it


@router.get("/{scope}/{key}/tiles/{kind}/{z}/{x}/{y}", response_class=Response)
async def tile(
    request: Request,
    scope: Scope,
    key: _Key,
    kind: TileKind,
    z: int,
    x: int,
    y: int,
    date: Annotated[str | None, Query(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] = None,
    hidden: Annotated[str, Query(pattern=r"^([0-9]{1,3}(,[0-9]{1,3})*)?$", max_length=2000)] = "",
    by_confidence: bool = False,
) -> Response:
    """Get a tile of Web Mercator, 256 x 256 pixels.

    ``date`` is that of an image layer, ``hidden`` are ids of classes, separated by commas, and
    ``by_confidence`` draws parcels more transparent the lower their confidence is.
    """
    classes = frozenset(int(number) for number in hidden.split(",") if number)
    wanted = TileRequest(kind, z, x, y, date, classes, by_confidence)
    async with _QUEUE.slot(key if scope == "shared" else f"user {current_user(request)}"):
        if await request.is_disconnected():  # browsers cancel tiles that have left the view
            return Response(status_code=_CLIENT_CLOSED)
        return await to_thread.run_sync(_tile, request, scope, key, wanted, limiter=TILE_THREADS)


def _tile(request: Request, scope: Scope, key: str, wanted: TileRequest) -> Response:
    """Answer a request for a tile, all in one thread.

    Changing threads takes longer than finding a cached tile.
    """
    result = _of_scope(request, scope, key)
    tag = etag(result, wanted)
    headers = {"ETag": f'"{tag}"', "Cache-Control": f"private, max-age={_HOUR}, must-revalidate"}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    drawn = _CACHE.get(tag, result, wanted)
    return Response(drawn.content, media_type=drawn.media_type, headers=headers)


@router.get("/{scope}/{key}/description")
def description(result: ReadableMap) -> dict[str, Any]:
    """Get the bounds of a map, its classes, dates and areas."""
    return describe_result(result)


@router.get("/{scope}/{key}/areas")
def crop_areas(result: ReadableMap) -> list[dict[str, Any]]:
    """Get the number and area of parcels by crop, with corrections."""
    return [asdict(row) for row in areas(result)]


@router.get("/{scope}/{key}/parcels")
async def at_place(
    result: ReadableMap, longitude: _Longitude, latitude: _Latitude
) -> dict[str, Any]:
    """Get the parcel and the official parcel at a place in degrees; null if there is none."""
    return await to_thread.run_sync(_at_place, result, longitude, latitude, limiter=CLICK_THREADS)


def _at_place(result: ResultMap, longitude: float, latitude: float) -> dict[str, Any]:
    found = parcel_at(result, longitude, latitude)
    official = official_at(result, longitude, latitude) if has_official(result.folder) else None
    return {"parcel": found and asdict(found), "official": official and asdict(official)}


@router.get("/{scope}/{key}/parcels/{parcel}")
async def one(result: ReadableMap, parcel: _Parcel) -> dict[str, Any]:
    """Get a parcel: crop, area, confidence, shares of crops, outline.

    ``shares_of`` says whether the shares are probabilities of the network, or shares of the area
    inside the outline. The latter are used for corrected parcels and for maps without
    probabilities.
    """
    return asdict(await to_thread.run_sync(parcel_of, result, parcel, limiter=CLICK_THREADS))


@router.get("/{scope}/{key}/parcels/{parcel}/ndvi")
async def ndvi(result: ReadableMap, parcel: _Parcel) -> dict[str, Any]:
    """Get the NDVI of a parcel on each date of the season."""
    return asdict(
        await to_thread.run_sync(
            lambda: curve_of(result.folder, outline_of(result, parcel)), limiter=CLICK_THREADS
        )
    )


@router.get("/{scope}/{key}/differences")
async def compared(result: ReadableMap) -> dict[str, Any]:
    """Get how official parcels and those of the map differ."""
    return asdict(await to_thread.run_sync(differences, result, limiter=CLICK_THREADS))


@router.get("/{scope}/{key}/corrections")
def corrections(result: ReadableMap) -> dict[str, Any]:
    """Get the corrections."""
    return corrections_json(result, read_corrections(result.folder))


@router.get("/{scope}/{key}/corrected/{form}", response_class=FileResponse)
def as_corrected(request: Request, scope: Scope, key: _Key, form: Format) -> FileResponse:
    """Download the parcels of a map, with corrections and what was predicted in two columns."""
    service: Service = request.app.state.service
    result = _of_scope(request, scope, key)
    user = key if scope == "shared" else current_user(request)
    path = service.export(user, result.folder.name, form)
    return FileResponse(path, filename=NAMES[form])


@router.post("/jobs/{key}/corrections")
def add(result: OwnMap, change: Change) -> dict[str, Any]:
    """Make a correction: another crop, a split, a merge."""
    return corrections_json(result, correct(result, change))


@router.delete("/jobs/{key}/corrections/last")
def take_back(result: OwnMap) -> dict[str, Any]:
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
    """Download the corrected map as training data: parcels and patches in PASTIS's layout."""
    path = request.app.state.service.training_data(user, key, TrainingOptions(everything, size))
    return FileResponse(path, filename="training.zip", media_type="application/zip")
