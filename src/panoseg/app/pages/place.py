"""The map on which a place is selected: drawn, entered as coordinates, or read from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from nicegui import ui
from nicegui.elements.leaflet.leaflet_layers import GenericLayer
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import with_error_messages
from panoseg.errors import AreaError

_HALF_SIDE_KM = 1.0
_KM_PER_DEGREE = 111.32
_EUROPE = (47.5, 8.0)
_STYLE = {"color": "#1c6b45", "weight": 3, "fillOpacity": 0.12}
_DRAW = dict.fromkeys(("polyline", "circle", "circlemarker", "marker"), False) | {
    "polygon": True,
    "rectangle": True,
}


def outline_from_text(text: str) -> dict[str, Any]:
    """Convert coordinates to an outline as GeoJSON.

    Args:
        text: "latitude, longitude" of the centre of a square of two kilometres, or a box as "west,
            south, east, north", in degrees.

    Raises:
        AreaError: The text has other numbers.

    >>> outline_from_text("3, 51, 3.1, 51.1")["coordinates"][0][0]
    [3.0, 51.0]
    """
    numbers = [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]
    if len(numbers) == 2:
        latitude, longitude = numbers
        if abs(latitude) > 84 or abs(longitude) > 180:
            raise AreaError(
                f"The place {text!r} is not on the map: the latitude must be within 84 degrees and"
                " the longitude within 180. Check their order."
            )
        north = _HALF_SIDE_KM / _KM_PER_DEGREE
        east = north / math.cos(math.radians(latitude))
        numbers = [longitude - east, latitude - north, longitude + east, latitude + north]
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise AreaError(
            f"The coordinates {text!r} cannot be used. Enter latitude, longitude; or west, south,"
            " east, north."
        )
    west, south, east, north = (round(number, 6) for number in numbers)
    return {
        "type": "Polygon",
        "coordinates": [
            [[west, south], [east, south], [east, north], [west, north], [west, south]]
        ],
    }


def middle_of(outline: dict[str, Any]) -> str:
    """Return the centre of an outline as text, latitude first.

    >>> ring = [[3, 51], [3.5, 51], [3.5, 51.1], [3, 51.1], [3, 51]]
    >>> middle_of({"type": "Polygon", "coordinates": [ring]})
    '51.050, 3.250'
    """
    (south, west), (north, east) = _corners(outline)
    return f"{(south + north) / 2:.3f}, {(west + east) / 2:.3f}"


def outline_from_drawing(layer: dict[str, Any]) -> dict[str, Any]:
    """Convert a polygon that Leaflet drew to GeoJSON."""
    [ring] = layer["_latlngs"]
    points = [[round(point["lng"], 6), round(point["lat"], 6)] for point in ring]
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


def base_map(
    background: str | None,
    drawing: dict[str, Any],
    centre: tuple[float, float] = _EUROPE,
    zoom: int = 4,
) -> ui.leaflet:
    """Add a map with lines of longitude and latitude, and with the background if there is one.

    Args:
        background: URL template of background tiles, or None.
        drawing: Shapes that can be drawn, as in the ``draw`` option of Leaflet.Draw.
        centre: Latitude and longitude in degrees.
        zoom: Zoom level.
    """
    settings = {"attributionControl": False, "maxZoom": 18, "worldCopyJump": True}
    control: Any = {"draw": drawing, "edit": {"remove": False}}
    element = ui.leaflet(
        center=centre, zoom=zoom, options=settings, draw_control=control, hide_drawn_items=True
    ).classes("map")
    element.clear_layers()  # the default layer is a server on the Internet
    if background:
        element.tile_layer(url_template=background, options={"maxZoom": 18, "zIndex": 1})
    element.on(
        "init", lambda: ui.run_javascript(f"panoseg.graticule(getElement({element.id}).map)")
    )
    return element


class PlaceMap:
    """The map that shows the selected outline and on which one can be drawn.

    Args:
        background: URL template of background tiles, or None.
        drawn: Called with an outline that was drawn, as GeoJSON.
    """

    def __init__(
        self, background: str | None, drawn: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        self._drawn = drawn
        self._layer: GenericLayer | None = None
        self.element = base_map(background, _DRAW).props(
            'aria-label="Map on which the area is drawn"'
        )
        self.element.classes("no-edit")
        self.element.on("draw:created", with_error_messages(self._shape_drawn))

    async def _shape_drawn(self, event: GenericEventArguments) -> None:
        outline = outline_from_drawing(event.args["layer"])
        self.show(outline)
        await self._drawn(outline)

    def show(self, outline: dict[str, Any] | None) -> None:
        """Show an outline instead of the previous one, and move the map to it."""
        if self._layer is not None:
            self.element.remove_layer(self._layer)
            self._layer = None
        if outline is not None:
            self._layer = self.element.generic_layer(
                name="geoJSON", args=[outline, {"style": _STYLE}]
            )
            self.element.run_map_method(
                "fitBounds", _corners(outline), {"padding": [40, 40], "maxZoom": 14}
            )


def _corners(outline: dict[str, Any]) -> list[list[float]]:
    """Return the south-west and north-east corners as [latitude, longitude], as in Leaflet."""
    points = list(_points(outline["coordinates"]))
    longitudes, latitudes = zip(*points, strict=True)
    return [[min(latitudes), min(longitudes)], [max(latitudes), max(longitudes)]]


def _points(coordinates: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """Yield the points of nested GeoJSON coordinates."""
    if isinstance(coordinates[0], (int, float)):
        yield coordinates[0], coordinates[1]
    else:
        for part in coordinates:
            yield from _points(part)
