"""Names of places that a server on the internet knows: Nominatim or Photon.

Requests go through this server, one a second as the public servers ask for, and answers are kept.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit

from cachetools import LRUCache

import panoseg
from panoseg.app.egress import AllowedUrls
from panoseg.app.limits import ConcurrencyLimit
from panoseg.app.places import Place, in_letters
from panoseg.app.settings import AppSettings
from panoseg.errors import AppError

ATTRIBUTION = "Names: © OpenStreetMap contributors"
_MOST, _LONGEST = 6, 200
_PAUSE_S, _TIMEOUT_S = 1.0, 20.0
_KEPT, _MAX_BYTES = 2000, 1024**2
_FAILED = "The server for names does not answer; write coordinates or a larger town."


class Geocoder:
    """Finds places by name.

    Args:
        settings: Settings with a ``geocoder``.
    """

    def __init__(self, settings: AppSettings) -> None:
        self.kind, self._url = (settings.geocoder or "").partition("=")[0], settings.geocoder_url
        self._allowed = AllowedUrls(settings)
        self._known: LRUCache[str, list[Place]] = LRUCache(_KEPT)
        self._searches = ConcurrencyLimit("searches for names", per_user=2, total=8)
        self._turn, self._cache = threading.Lock(), threading.Lock()
        self._next = 0.0

    def search(self, user: str, text: str) -> list[Place]:
        """Return the places with a name, the most important first.

        Raises:
            LimitError: The user has too many searches running.
            AppError: The server does not answer.
        """
        name = " ".join(text.split())[:_LONGEST]
        found = self._answer(name)
        if found is not None:
            return found
        with self._searches.slot(user), self._turn:
            found = self._answer(name)
            if found is None:
                time.sleep(max(0.0, self._next - time.monotonic()))
                try:
                    found = [place for place in map(self._place, self._ask(name)) if place]
                finally:
                    self._next = time.monotonic() + _PAUSE_S
                with self._cache:
                    self._known[name] = found
        return found

    def _answer(self, name: str) -> list[Place] | None:
        """Return the places with a name if they are known from an earlier search."""
        with self._cache:
            found: list[Place] | None = self._known.get(name)
        return found

    def _ask(self, name: str) -> list[dict[str, Any]]:
        """Return the places of an answer as the server describes them."""
        import httpx

        path = "/api" if self.kind == "photon" else "/search"
        options = "" if self.kind == "photon" else "&format=jsonv2"
        url = f"{self._url}{path}?q={quote(name)}&limit={_MOST}{options}"
        headers = {"user-agent": f"panoseg/{panoseg.__version__}", "accept-language": "en"}
        end = time.monotonic() + _TIMEOUT_S
        try:
            parts = urlsplit(url)
            # The operator gave the host, so it need not be one that users may name.
            self._allowed.addresses(parts.hostname or "", parts.port or 443)
            with httpx.stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as answer:
                answer.raise_for_status()
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_BYTES or time.monotonic() > end:
                        raise AppError(_FAILED)
            rows = json.loads(body)
            rows = rows["features"] if self.kind == "photon" else rows
            return [row for row in rows if isinstance(row, dict)][:_MOST]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise AppError(_FAILED) from error

    def _place(self, row: dict[str, Any]) -> Place | None:
        """Return a place of an answer, or None if it has no coordinates on the map."""
        try:
            if self.kind == "photon":
                longitude, latitude = map(float, row["geometry"]["coordinates"][:2])
                known = row["properties"]
                parts = dict.fromkeys(
                    str(known[key]) for key in ("name", "city", "state", "country") if key in known
                )
                name = ", ".join(parts)
            else:
                latitude, longitude = float(row["lat"]), float(row["lon"])
                name = str(row["display_name"])
        except (ValueError, KeyError, TypeError):
            return None
        if not (-80 <= latitude <= 84 and abs(longitude) <= 180):
            return None
        box = (longitude - 0.1, latitude - 0.1, longitude + 0.1, latitude + 0.1)
        return Place(
            latitude,
            longitude,
            name[:_LONGEST] or in_letters(latitude, longitude),
            box,
            only_view=True,
        )
