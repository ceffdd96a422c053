"""The map on which a place is chosen: drawn, typed as coordinates, or read from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import told
from panoseg.errors import AreaError

_HALF_SIDE_KM = 1.0
_KM_A_DEGREE = 111.32
_EUROPE = (47.5, 8.0)
_STYLE = {"color": "#1c6b45", "weight": 3, "fillOpacity": 0.12}
_DRAW = dict.fromkeys(("polyline", "circle", "circlemarker", "marker"), False) | {
    "polygon": True,
    "rectangle": True,
}


def outline_from_text(text: str) -> dict[str, Any]:
    """A square of two kilometres around a place, "latitude, longitude", or a box, "west, south,
    east, north"; GeoJSON.

    >>> outline_from_text("3, 51, 3.1, 51.1")["coordinates"][0][0]
    [3.0, 51.0]
    """
    numbers = [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]
    if len(numbers) == 2:
        latitude, longitude = numbers
        if abs(latitude) > 84 or abs(longitude) > 180:
            raise AreaError(
                f"the place {text!r}",
                "latitude up to 84 degrees and longitude up to 180",
                "exchange or correct them",
            )
        north = _HALF_SIDE_KM / _KM_A_DEGREE
        east = north / math.cos(math.radians(latitude))
        numbers = [longitude - east, latitude - north, longitude + east, latitude + north]
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise AreaError(
            f"the coordinates {text!r}",
            "latitude, longitude; or west, south, east, north",
            "correct them",
        )
    west, south, east, north = (round(number, 6) for number in numbers)
    return {
        "type": "Polygon",
        "coordinates": [
            [[west, south], [east, south], [east, north], [west, north], [west, south]]
        ],
    }


def middle_of(outline: dict[str, Any]) -> str:
    """The middle of an outline for people, latitude first.

    >>> middle_of({"type": "Polygon", "coordinates": [[[3, 51], [3.5, 51], [3.5, 51.1], [3, 51.1], [3, 51]]]})
    '51.050, 3.250'
    """
    (south, west), (north, east) = _corners(outline)
    return f"{(south + north) / 2:.3f}, {(west + east) / 2:.3f}"


def outline_from_drawing(layer: dict[str, Any]) -> dict[str, Any]:
    """What was drawn, as GeoJSON."""
    [ring] = layer["_latlngs"]
    points = [[round(point["lng"], 6), round(point["lat"], 6)] for point in ring]
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


def base_map(
    background: str | None,
    drawing: dict[str, Any],
    centre: tuple[float, float] = _EUROPE,
    zoom: int = 4,
) -> Any:
    """A map without any layer but the background, where one is configured, and lines of longitude
    and latitude.

    drawing: which shapes its tools draw. centre: latitude and longitude.
    """
    settings = {"attributionControl": False, "maxZoom": 18, "worldCopyJump": True}
    control: Any = {"draw": drawing, "edit": {"remove": False}}
    element = ui.leaflet(
        center=centre, zoom=zoom, options=settings, draw_control=control, hide_drawn_items=True
    ).classes("map")
    element.clear_layers()  # the default asks a server on the Internet
    if background:
        element.tile_layer(url_template=background, options={"maxZoom": 18, "zIndex": 1})
    element.on(
        "init", lambda: ui.run_javascript(f"panoseg.graticule(getElement({element.id}).map)")
    )
    return element


class PlaceMap:
    """Shows the outline that is chosen, and hears of drawn ones. chosen: called with an outline as
    GeoJSON.
    """

    def __init__(
        self, background: str | None, chosen: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        self._chosen, self._shown = chosen, None
        self.element = base_map(background, _DRAW).props(
            'aria-label="Map on which the area is drawn"'
        )
        self.element.classes("no-edit")
        self.element.on("draw:created", told(self._drawn))

    async def _drawn(self, event: GenericEventArguments) -> None:
        outline = outline_from_drawing(event.args["layer"])
        self.show(outline)
        await self._chosen(outline)

    def show(self, outline: dict[str, Any] | None) -> None:
        """Show an outline in place of the one before, and go there."""
        if self._shown is not None:
            self.element.remove_layer(self._shown)
            self._shown = None
        if outline is not None:
            self._shown = self.element.generic_layer(
                name="geoJSON", args=[outline, {"style": _STYLE}]
            )
            self.element.run_map_method(
                "fitBounds", _corners(outline), {"padding": [40, 40], "maxZoom": 14}
            )


def _corners(outline: dict[str, Any]) -> list[list[float]]:
    """South-west and north-east, as Leaflet wants them."""
    points = list(_points(outline["coordinates"]))
    longitudes, latitudes = zip(*points, strict=True)
    return [[min(latitudes), min(longitudes)], [max(latitudes), max(longitudes)]]


def _points(coordinates: Any) -> Any:
    if isinstance(coordinates[0], (int, float)):
        yield coordinates[0], coordinates[1]
    else:
        for part in coordinates:
            yield from _points(part)
