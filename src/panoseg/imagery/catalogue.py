"""Catalogues of scenes (STAC APIs) by name or URL -> the items of an area and a season, saved
before any pixel is read.

Sources: STAC API 1.0 (item search); the collections of Earth Search v1, Planetary Computer and the
Copernicus Data Space.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import urljoin, urlsplit

import shapely
from pystac.link import HREF, Link
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from urllib3 import Retry

from panoseg.errors import CatalogueError
from panoseg.files import write_text
from panoseg.imagery.area import Area, grid_of, may_meet, sun_ahead
from panoseg.imagery.remote import REMOTE, is_remote, limit_answers
from panoseg.imagery.scenes import BROKEN_ITEM, Scene, scene_of_item
from panoseg.progress import track

_PAGE = 100
_DAYS_END = time(23, 59, 59)
_MOST_ITEMS = (
    50_000  # of a month: all of the land on Earth has fewer; pages that never end have more
)
_PATIENCE = Retry(
    total=6,
    connect=4,  # an address where nobody is, or no network, is known within seconds
    backoff_factor=0.5,
    backoff_max=30,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # a search by POST changes nothing, so it may be asked again
    raise_on_status=False,
    retry_after_max=120,
)
_TIMEOUT_S = (20.0, 120.0)  # to connect, between two bytes
_TRIES = 6  # of an answer that ends in its middle
_WAIT_S = 0.5
_MOST_VERTICES = 200  # of the outline that is sent: servers bound a question's length
_LARGEST_LIST_BYTES = 1024**3
# Of a page of a hundred items, a hundred times; and of pages: a season of France has three hundred.
_LARGEST_ANSWER_BYTES, _MOST_ANSWERS = 256 * 1024**2, 10_000


@dataclass(frozen=True)
class Catalogue:
    """A STAC API. collections: of Sentinel-2 L2A, tried in this order; the first that the catalogue
    has is searched.
    """

    url: str
    collections: tuple[str, ...]


CATALOGUES = {
    "earth-search": Catalogue("https://earth-search.aws.element84.com/v1", ("sentinel-2-l2a",)),
    "planetary-computer": Catalogue(
        "https://planetarycomputer.microsoft.com/api/stac/v1", ("sentinel-2-l2a",)
    ),
    "copernicus": Catalogue("https://stac.dataspace.copernicus.eu/v1", ("sentinel-2-l2a",)),
}
# What catalogues that are given by URL may call it.
_USUAL_COLLECTIONS = (
    "sentinel-2-l2a",
    "sentinel-2-c1-l2a",
    "sentinel-s2-l2a-cogs",
    "S2_L2A",
    "s2_l2a",
)


def find_catalogue(name: str, collection: str | None = None) -> Catalogue:
    """A catalogue by name or URL. Raises ``CatalogueError`` for neither."""
    known = CATALOGUES.get(name)
    if known is None and urlsplit(name).scheme not in ("http", "https"):
        raise CatalogueError(
            f"catalogue {name!r}",
            f"{', '.join(CATALOGUES)}, or the URL of a STAC API",
            "change --catalog",
        )
    found = known or Catalogue(name, _USUAL_COLLECTIONS)
    return Catalogue(found.url, (collection,) if collection else found.collections)


def search(area: Area, first: date, last: date, catalogue: Catalogue) -> list[dict[str, Any]]:
    """The STAC items, as the catalogue delivers them, of scenes from ``first`` to ``last`` whose
    outline meets the area.

    Days are those of the sun in the middle of the area. Asked month by month; sorted by time and
    id, none twice. Raises ``CatalogueError`` where the catalogue does not answer, has no such
    collection, or has no such scene.
    """
    client = _open(catalogue)
    collection = _collection(client, catalogue)
    outline, ahead = _sent(area.outline), sun_ahead(grid_of(area))
    found: dict[str, dict[str, Any]] = {}
    months = list(_months(first, last))
    for start, end in track(months, "months searched"):
        try:
            asked = client.search(
                collections=[collection],
                intersects=mapping(outline),
                datetime=[
                    datetime.combine(day, clock, UTC) - ahead
                    for day, clock in ((start, time.min), (end, _DAYS_END))
                ],
                limit=_PAGE,
            )
            items = list(islice(asked.items_as_dicts(), _MOST_ITEMS + 1))
            if len(items) > _MOST_ITEMS:
                raise ValueError(f"more than {_MOST_ITEMS} scenes of a month")
            found |= {str(item.get("id")): item for item in items if _meets(item, area.outline)}
        except (APIError, *BROKEN_ITEM) as error:
            raise _no_answer(catalogue, error) from error
    if not found:
        raise CatalogueError(
            f"{catalogue.url} has no scene of {area.name} from {first} to {last}",
            f"scenes of Sentinel-2 L2A in its collection {collection}",
            "check the outline and the dates, or choose another --catalog",
        )
    return sorted(found.values(), key=_place_in_time)


def _place_in_time(item: dict[str, Any]) -> tuple[str, str]:
    """What items are sorted by, those that say nothing of their time too: they are named where they
    are read.
    """
    properties = item.get("properties")
    return str(properties.get("datetime") if isinstance(properties, dict) else None), str(
        item.get("id")
    )


class _PatientIO(StacApiIO):
    """Asks again where a connection ends in the middle of an answer; what urllib3 sees of it ends
    earlier.

    Only what lies on servers is read: a link in an answer cannot lead to a file of ours. What all
    answers together may be is
    bounded: a catalogue that never ends costs neither the memory nor for ever.
    """

    def __init__(self) -> None:
        super().__init__(timeout=_TIMEOUT_S, max_retries=_PATIENCE)
        limit_answers(self.session, _LARGEST_ANSWER_BYTES)
        self._answers = self._characters = 0

    def read_text(self, source: HREF, *args: Any, **kwargs: Any) -> str:
        """The text behind an address or a link; raises ``APIError``."""
        address = str(source.to_dict()["href"] if isinstance(source, Link) else source)
        if urlsplit(address).scheme not in ("http", "https"):
            raise APIError(f"{address[:80]!r} is no address of a server")
        return super().read_text(source, *args, **kwargs)

    def request(self, *args: Any, **kwargs: Any) -> str:
        """The text of a whole answer; raises ``APIError``."""
        for attempt in range(_TRIES):
            try:
                text = super().request(*args, **kwargs)
                json.loads(text)
                self._count(text)
                return text
            except RecursionError as error:
                raise APIError("an answer that is nested too deeply") from error
            except (APIError, ValueError) as error:
                broken_off = (
                    isinstance(error, ValueError)
                    or "IncompleteRead" in str(error)
                    or "Connection broken" in str(error)
                )
                if not broken_off or attempt == _TRIES - 1:
                    raise APIError(str(error)) from error
                sleep(_WAIT_S * 2**attempt)
        raise AssertionError("unreachable")

    def _count(self, text: str) -> None:
        self._answers, self._characters = self._answers + 1, self._characters + len(text)
        if self._answers > _MOST_ANSWERS or self._characters > _LARGEST_LIST_BYTES:
            raise APIError(
                f"{self._answers:,} answers with {self._characters:,} characters, and no end"
            )


def _open(catalogue: Catalogue) -> Client:
    try:
        return Client.open(catalogue.url, stac_io=_PatientIO())
    except (
        Exception
    ) as error:  # what a URL of anything else but a catalogue leads to is up to pystac
        raise _no_answer(catalogue, error) from error


def _no_answer(catalogue: Catalogue, error: Exception) -> CatalogueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # The innermost of nested connection errors is the one that says what happened.
    innermost = reason.rsplit("Caused by ", 1)[-1].strip("()")[:160]
    return CatalogueError(
        f"catalogue {catalogue.url} does not answer ({innermost})",
        "a STAC API",
        "try again later, or choose another --catalog",
    )


def _collection(client: Client, catalogue: Catalogue) -> str:
    """The first of the wanted collections that there is."""
    if len(catalogue.collections) == 1:
        return catalogue.collections[0]
    try:
        present = {collection.id for collection in client.get_collections()}
    except Exception as error:  # collections of anybody are parsed
        raise _no_answer(catalogue, error) from error
    for name in catalogue.collections:
        if name in present:
            return name
    raise CatalogueError(
        f"{catalogue.url} has the collections {', '.join(sorted(present)[:8]) or '(none)'}",
        f"one of {', '.join(catalogue.collections)}",
        "name the one with Sentinel-2 L2A: --collection",
    )


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """The days from first to last, cut at the ends of months."""
    while first <= last:
        following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        yield first, min(last, following - timedelta(days=1))
        first = following


def _sent(outline: BaseGeometry) -> BaseGeometry:
    """An outline of few vertices that holds the true one; the scenes that it meets more are taken
    out afterwards.
    """
    if shapely.get_num_coordinates(outline) <= _MOST_VERTICES:
        return outline
    parts = shapely.get_parts(outline)
    hulls = (
        shapely.convex_hull(parts)
        if len(parts) <= _MOST_VERTICES // 10
        else shapely.envelope(_halves(outline))
    )
    simple = shapely.union_all(hulls)
    return (
        simple
        if shapely.get_num_coordinates(simple) <= _MOST_VERTICES
        else shapely.union_all(shapely.envelope(_halves(outline)))
    )


def _halves(outline: BaseGeometry) -> Sequence[BaseGeometry]:
    """What lies east and what lies west of Greenwich, so that an envelope of either does not span
    the globe.
    """
    halves = (outline.intersection(shapely.box(west, -90, west + 180, 90)) for west in (-180, 0))
    return [half for half in halves if not half.is_empty]


def _meets(item: dict[str, Any], outline: BaseGeometry) -> bool:
    """Whether a scene lies on the area; one whose outline cannot be understood is kept, and fails
    where it is read.
    """
    try:
        return may_meet(shape(item["geometry"]), outline)
    except BROKEN_ITEM:
        return True


def save_scenes(items: Sequence[dict[str, Any]], path: Path, asked: dict[str, str]) -> None:
    """Write items as an item collection, atomically; ``asked``: what was searched for, kept beside
    them.
    """
    write_text(
        path,
        json.dumps(
            {"type": "FeatureCollection", "panoseg": asked, "features": list(items)}, indent=1
        )
        + "\n",
    )


def load_scenes(path: Path | str) -> tuple[list[Scene], dict[str, str]]:
    """The scenes of a saved item collection, by time, and why others are none: id -> reason.

    Several items of one acquisition of a tile stay; the newest processing comes first. Raises
    ``CatalogueError`` for a file that is no item collection.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_LIST_BYTES:
            raise ValueError("larger than any list of scenes")
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        if not isinstance(features, list):
            raise ValueError("its features are no list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CatalogueError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "an item collection",
            "remove it, and search again",
        ) from error
    scenes, broken = [], {}
    for place, item in enumerate(features):
        try:
            scenes.append(scene_of_item(item, partial(_remote, item)))
        except BROKEN_ITEM as error:
            name = str(item["id"]) if isinstance(item, dict) and "id" in item else f"item {place}"
            broken[name] = f"not a complete STAC item ({type(error).__name__}: {error})"
    return sorted(scenes, key=lambda scene: (scene.time, -scene.baseline, scene.id)), broken


def _remote(item: dict[str, Any], href: str) -> str:
    """The absolute URL of an asset. Raises ``ValueError`` for one that is none: a catalogue must
    not name files of ours.
    """
    links = item.get("links") or []
    itself = next(
        (
            str(link.get("href"))
            for link in links
            if isinstance(link, dict) and link.get("rel") == "self"
        ),
        "",
    )
    url = urljoin(itself, href) if not urlsplit(href).scheme else href
    if not is_remote(url) or not urlsplit(url).netloc:
        raise ValueError(f"{href[:80]!r} is no URL of {', '.join(REMOTE)}")
    return url
