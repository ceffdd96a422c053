"""Search catalogues of scenes (STAC APIs), and save and load what they list.

The items of a season are saved before any pixel is read, so that a run repeats exactly.

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
from panoseg.imagery.area import Area, grid_of, may_intersect, solar_offset
from panoseg.imagery.remote import REMOTE, is_remote, limit_answers
from panoseg.imagery.scenes import ITEM_ERRORS, Scene, scene_of_item
from panoseg.progress import track
from panoseg.text_files import read_json

PAGE_SIZE = 100
"""Items per page of a search."""
_DAYS_END = time(23, 59, 59)
# Items of a month: all of the land on Earth has fewer; pages that never end have more.
MAX_ITEMS = 50_000
RETRIES = Retry(
    total=6,
    connect=4,  # a wrong address, or no network, is known within seconds
    backoff_factor=0.5,
    backoff_max=30,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # a search by POST changes nothing, so it may be asked again
    raise_on_status=False,
    retry_after_max=120,
)
_TIMEOUT_S = (20.0, 120.0)  # to connect, between two bytes
_TRIES = 6  # for an answer that breaks off
RETRY_WAIT_S = 0.5
"""Seconds before the second attempt; doubled for each further one."""
_MOST_VERTICES = 200  # of the outline that is sent: servers limit the length of a request
MAX_LIST_BYTES = 1024**3
# A hundred times a page of a hundred items; and of pages: a season of France has three hundred.
MAX_ANSWER_BYTES, MAX_ANSWERS = 256 * 1024**2, 10_000


@dataclass(frozen=True)
class Catalogue:
    """A STAC API."""

    url: str
    """Root of the API."""
    collections: tuple[str, ...]
    """Names of its Sentinel-2 L2A collection; the first that the catalogue has is searched."""


CATALOGUES = {
    "earth-search": Catalogue("https://earth-search.aws.element84.com/v1", ("sentinel-2-l2a",)),
    "planetary-computer": Catalogue(
        "https://planetarycomputer.microsoft.com/api/stac/v1", ("sentinel-2-l2a",)
    ),
    "copernicus": Catalogue("https://stac.dataspace.copernicus.eu/v1", ("sentinel-2-l2a",)),
}
# Names that catalogues given by URL may use.
_USUAL_COLLECTIONS = (
    "sentinel-2-l2a",
    "sentinel-2-c1-l2a",
    "sentinel-s2-l2a-cogs",
    "S2_L2A",
    "s2_l2a",
)


def find_catalogue(name: str, collection: str | None = None) -> Catalogue:
    """Return a catalogue by name or URL.

    Args:
        name: A key of ``CATALOGUES``, or a URL.
        collection: Collection to search, if not the catalogue's usual one.

    Raises:
        CatalogueError: ``name`` is neither.
    """
    known = CATALOGUES.get(name)
    if known is None and urlsplit(name).scheme not in ("http", "https"):
        raise CatalogueError(
            f"Unknown catalogue {name!r}: give {', '.join(CATALOGUES)}, or the URL of a STAC API."
        )
    found = known or Catalogue(name, _USUAL_COLLECTIONS)
    return Catalogue(found.url, (collection,) if collection else found.collections)


def search(area: Area, first: date, last: date, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the STAC items of scenes whose outline meets the area, as the catalogue delivers them.

    The catalogue is asked month by month. Items are sorted by time and id, without repeats.

    Args:
        area: The area.
        first: First day, in solar time of the area.
        last: Last day, inclusive.
        catalogue: Where to search.

    Raises:
        CatalogueError: The catalogue does not answer, has no such collection, or has no such scene.
    """
    client = _open(catalogue)
    collection = _collection(client, catalogue)
    outline, ahead = _simplified(area.outline), solar_offset(grid_of(area))
    found: dict[str, dict[str, Any]] = {}
    # By month, so that a search has few pages and its progress can be shown.
    months = list(_months(first, last))
    for start, end in track(months, "months searched"):
        try:
            asked = client.search(
                collections=[collection],
                intersects=mapping(outline),
                # Solar days of the area, as times in UTC.
                datetime=[
                    datetime.combine(day, clock, UTC) - ahead
                    for day, clock in ((start, time.min), (end, _DAYS_END))
                ],
                limit=PAGE_SIZE,
            )
            items = list(islice(asked.items_as_dicts(), MAX_ITEMS + 1))
            if len(items) > MAX_ITEMS:
                raise ValueError(f"more than {MAX_ITEMS} scenes of a month")
            found |= {str(item.get("id")): item for item in items if _meets(item, area.outline)}
        except (APIError, *ITEM_ERRORS) as error:
            raise _no_answer(catalogue, error) from error
    if not found:
        raise CatalogueError(
            f"{catalogue.url} has no scene of {area.name} from {first} to {last} in its collection"
            f" {collection}: check the outline and the dates, or choose another --catalog."
        )
    return sorted(found.values(), key=_sort_key)


def _sort_key(item: dict[str, Any]) -> tuple[str, str]:
    """Return what items are sorted by.

    Items without a time are sorted, too: they are reported when they are read.
    """
    properties = item.get("properties")
    return str(properties.get("datetime") if isinstance(properties, dict) else None), str(
        item.get("id")
    )


class _RetryingIO(StacApiIO):
    """Repeat requests whose connection ends in the middle of an answer.

    urllib3 repeats only those that fail before. Only servers are read: a link in an answer cannot
    lead to a local file. The size of all answers together is limited, so that an endless catalogue
    costs neither memory nor endless time.
    """

    def __init__(self) -> None:
        super().__init__(timeout=_TIMEOUT_S, max_retries=RETRIES)
        limit_answers(self.session, MAX_ANSWER_BYTES)
        self._answers = self._characters = 0

    def read_text(self, source: HREF, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401
        """Return the text of an address or a link.

        Raises:
            APIError: It is not the address of a server.
        """
        address = str(source.to_dict()["href"] if isinstance(source, Link) else source)
        if urlsplit(address).scheme not in ("http", "https"):
            raise APIError(f"{address[:80]!r} is not the address of a server")
        return super().read_text(source, *args, **kwargs)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return the text of a complete answer. Raises ``APIError``."""
        for attempt in range(_TRIES):
            try:
                text = super().request(href, method, headers, parameters)
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
                sleep(RETRY_WAIT_S * 2**attempt)
        raise AssertionError("unreachable")

    def _count(self, text: str) -> None:
        self._answers, self._characters = self._answers + 1, self._characters + len(text)
        if self._answers > MAX_ANSWERS or self._characters > MAX_LIST_BYTES:
            raise APIError(
                f"{self._answers:,} answers with {self._characters:,} characters, and no end"
            )


def _open(catalogue: Catalogue) -> Client:
    try:
        return Client.open(catalogue.url, stac_io=_RetryingIO())
    except Exception as error:  # pystac raises anything for a URL that is not a catalogue
        raise _no_answer(catalogue, error) from error


def _no_answer(catalogue: Catalogue, error: Exception) -> CatalogueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # The innermost of nested connection errors is the one that says what happened.
    innermost = reason.rsplit("Caused by ", 1)[-1].strip("()")[:160]
    return CatalogueError(
        f"The catalogue {catalogue.url} does not answer ({innermost}): try again later, or choose"
        " another --catalog."
    )


def _collection(client: Client, catalogue: Catalogue) -> str:
    """Return the first of the wanted collections that the catalogue has."""
    if len(catalogue.collections) == 1:
        return catalogue.collections[0]
    try:
        present = {collection.id for collection in client.get_collections()}
    except Exception as error:  # pystac parses anything that the server sends
        raise _no_answer(catalogue, error) from error
    for name in catalogue.collections:
        if name in present:
            return name
    raise CatalogueError(
        f"{catalogue.url} has none of the collections {', '.join(catalogue.collections)}, but"
        f" {', '.join(sorted(present)[:8]) or '(none)'}: name the one with Sentinel-2 L2A by"
        " --collection."
    )


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Yield the days from first to last, cut at the ends of months."""
    while first <= last:
        following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        yield first, min(last, following - timedelta(days=1))
        first = following


def _simplified(outline: BaseGeometry) -> BaseGeometry:
    """Return an outline of few vertices that contains the true one.

    Scenes that meet only the simpler outline are removed afterwards.
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
    """Return the parts east and west of Greenwich.

    The envelope of either does not span the globe.
    """
    halves = (outline.intersection(shapely.box(west, -90, west + 180, 90)) for west in (-180, 0))
    return [half for half in halves if not half.is_empty]


def _meets(item: dict[str, Any], outline: BaseGeometry) -> bool:
    """Return whether a scene meets the area.

    A scene whose outline cannot be understood is kept, and reported when it is read.
    """
    try:
        return may_intersect(shape(item["geometry"]), outline)
    except ITEM_ERRORS:
        return True


def save_scenes(items: Sequence[dict[str, Any]], path: Path, asked: dict[str, str]) -> None:
    """Write items as an item collection, atomically.

    Args:
        items: STAC items.
        path: File to write.
        asked: What was searched for; stored with the items.
    """
    write_text(
        path,
        json.dumps(
            {"type": "FeatureCollection", "panoseg": asked, "features": list(items)}, indent=1
        )
        + "\n",
    )


def load_scenes(path: Path | str) -> tuple[list[Scene], dict[str, str]]:
    """Return the scenes of a saved item collection, by time, and the items that are broken.

    Several items of one acquisition of a tile stay; the newest processing comes first.

    Returns:
        The scenes, and of each broken item id and reason.

    Raises:
        CatalogueError: The file is not an item collection.
    """
    path = Path(path)
    try:
        features = read_json(path, MAX_LIST_BYTES)["features"]
        if not isinstance(features, list):
            raise ValueError("its features are not a list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CatalogueError(
            f"The list of scenes {path} cannot be read ({type(error).__name__}: {error}): remove"
            " it, and search again."
        ) from error
    scenes, broken = [], {}
    for place, item in enumerate(features):
        try:
            scenes.append(scene_of_item(item, partial(_remote, item)))
        except ITEM_ERRORS as error:
            name = str(item["id"]) if isinstance(item, dict) and "id" in item else f"item {place}"
            broken[name] = f"not a complete STAC item ({type(error).__name__}: {error})"
    return sorted(scenes, key=lambda scene: (scene.time, -scene.baseline, scene.id)), broken


def _remote(item: dict[str, Any], href: str) -> str:
    """Return the absolute URL of an asset.

    Raises ``ValueError`` for anything else: a catalogue must not name local files.
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
        raise ValueError(f"{href[:80]!r} is not a URL of {', '.join(REMOTE)}")
    return url
