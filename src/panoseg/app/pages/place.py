"""The map on which a place is selected: drawn, found by what is written, or read from a file."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from html import escape
from typing import Any

from nicegui import ui
from nicegui.elements.leaflet.leaflet_layers import GenericLayer
from nicegui.events import GenericEventArguments

from panoseg.app.geocoder import ATTRIBUTION
from panoseg.app.pages.frame import Visit, entered_text, in_thread, with_error_messages
from panoseg.app.places import Place, UnknownNameError, find_towns, in_letters, read_place
from panoseg.app.settings import Background
from panoseg.app.world import world
from panoseg.errors import AppError

_HALF_SIDE_KM = 1.0
_KM_PER_DEGREE = 111.32
_EUROPE = (47.5, 8.0)
_STYLE = {"color": "#1c6b45", "weight": 3, "fillOpacity": 0.12}
_DRAW = dict.fromkeys(("polyline", "circle", "circlemarker", "marker"), False) | {
    "polygon": True,
    "rectangle": True,
}


def outline_of(place: Place) -> dict[str, Any]:
    """Return the outline of a place as GeoJSON: its extent, or a square of two kilometres.

    >>> outline_of(read_place("3, 51, 3.1, 51.1"))["coordinates"][0][0]
    [3.0, 51.0]
    """
    box = place.box
    if box is None or place.only_view:
        north = _HALF_SIDE_KM / _KM_PER_DEGREE
        east = north / math.cos(math.radians(place.latitude))
        box = (
            place.longitude - east,
            place.latitude - north,
            place.longitude + east,
            place.latitude + north,
        )
    west, south, east, north = (round(float(side), 6) for side in box)
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
    background: Background | None,
    drawing: dict[str, Any],
    centre: tuple[float, float] = _EUROPE,
    zoom: int = 4,
) -> ui.leaflet:
    """Add a map of the world with its towns, and with the background if there is one.

    Args:
        background: The background map, or None.
        drawing: Shapes that can be drawn, as in the ``draw`` option of Leaflet.Draw.
        centre: Latitude and longitude in degrees.
        zoom: Zoom level.
    """
    settings = {"maxZoom": 18, "minZoom": 2, "worldCopyJump": True}
    control: Any = {"draw": drawing, "edit": {"remove": False}}
    element = ui.leaflet(
        center=centre, zoom=zoom, options=settings, draw_control=control, hide_drawn_items=True
    ).classes("map")
    element.clear_layers()  # the default layer is a server on the Internet
    if background:
        options = {"maxZoom": 18, "zIndex": 1, "attribution": escape(background.attribution)}
        # Servers of tiles ask for the origin of the page; its path may hold the token of a link.
        options["referrerPolicy"] = "strict-origin"
        element.tile_layer(url_template=background.url, options=options)
    element.on("init", lambda: ui.run_javascript(f"panoseg.world(getElement({element.id}).map)"))
    return element


class PlaceMap:
    """The map that shows the selected outline and on which one can be drawn.

    Args:
        background: The background map, or None.
        drawn: Called with an outline that was drawn, as GeoJSON.
    """

    def __init__(
        self, background: Background | None, drawn: Callable[[dict[str, Any]], Awaitable[None]]
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
            self.view(_corners(outline))

    def view(self, corners: list[list[float]]) -> None:
        """Move the map to a box: its south-west and north-east corners, as in Leaflet."""
        self.element.run_map_method("fitBounds", corners, {"padding": [40, 40], "maxZoom": 14})

    @property
    def centre(self) -> tuple[float, float]:
        """Latitude and longitude of the middle of the map."""
        latitude, longitude = self.element.center
        return latitude, (longitude + 180) % 360 - 180


class PlaceFinder:
    """A field for a place in any notation, and what was understood.

    Args:
        map_: The map that shows the place.
        chosen: Called with the outline of the place, as GeoJSON.
        visit: The user who looks at the page.
    """

    def __init__(
        self, map_: PlaceMap, chosen: Callable[[dict[str, Any]], Awaitable[None]], visit: Visit
    ) -> None:
        self.map, self._chosen, self.visit = map_, chosen, visit
        self._asked = 0  # how many places were entered or chosen: a late answer is not shown

    def build(self) -> None:
        """Make the elements."""
        ui.input("Coordinates or name of a place").props(
            'outlined dense hint="any notation, UTM, 31UES, a Plus code, a map link"'
        ).on("change", with_error_messages(self._entered)).classes("find")
        self.answer = ui.element("div").classes("stack-tight").props('aria-live="polite"')
        if self.visit.service.geocoder:
            ui.label(ATTRIBUTION).classes("quiet")

    async def _entered(self, event: GenericEventArguments) -> None:
        asked = self._ask()
        text = entered_text(event)
        self.answer.clear()
        if not text:
            return
        first, *others = await in_thread(self._places, text)
        if not self._is_late(asked):
            await self.show(first, others)

    def _ask(self) -> int:
        """Count another place that was entered or chosen; returns its number."""
        self._asked += 1
        return self._asked

    def _is_late(self, asked: int) -> bool:
        """Return whether another place was entered or chosen since, or the page has changed."""
        return asked != self._asked or self.answer.is_deleted

    def _places(self, text: str) -> list[Place]:
        """Return the places that a text may mean, the likeliest first."""
        geocoder = self.visit.service.geocoder
        try:
            place = read_place(text, whole=geocoder is not None)
        except UnknownNameError:
            if geocoder is None:
                raise
            towns = find_towns(text)
            try:
                found = geocoder.search(self.visit.user, text) or towns
            except AppError:
                if not towns:
                    raise
                found = towns
            if not found:
                raise
            return found
        return (find_towns(text) if place.only_view else []) or [place]

    async def show(self, place: Place, others: Sequence[Place] = ()) -> None:
        """Show how a place was understood, and choose it unless it is only to be looked at.

        Args:
            place: The place.
            others: Other places of the same name.
        """
        asked = self._ask()
        where = await in_thread(_where, place)
        if self._is_late(asked):
            return
        self.answer.clear()
        with self.answer:
            ui.label(f"{place.understood}: {where}." if where else f"{place.understood}.")
            if place.exchanged:
                self._offer(_exchanged(place), "Exchanged: ")
            for other in others:
                self._offer(other, "")
            if place.only_view:
                ui.label("Draw your area on the map, or take its middle.").classes("quiet")
                ui.button(
                    "Take the middle of the map", on_click=with_error_messages(self._take_middle)
                ).props("outline dense")
        if place.only_view and place.box:
            west, south, east, north = place.box
            self.map.view([[south, west], [north, east]])
        else:
            outline = outline_of(place)
            self.map.show(outline)
            await self._chosen(outline)

    def _offer(self, place: Place, before: str) -> None:
        """Add a button for another meaning of what was written."""
        where = _where(place)
        text = f"{before}{place.understood}" + (f", {where}" if where else "")
        ui.button(text, on_click=with_error_messages(lambda: self.show(place))).props(
            "flat dense no-caps align=left"
        )

    async def _take_middle(self) -> None:
        latitude, longitude = self.map.centre
        await self.show(Place(latitude, longitude, in_letters(latitude, longitude)))

    async def say(self, outline: dict[str, Any]) -> None:
        """Say where an outline lies that was drawn or uploaded."""
        (south, west), (north, east) = _corners(outline)
        longitude = ((west + east) / 2 + 180) % 360 - 180
        latitude = (south + north) / 2
        place = Place(latitude, longitude, in_letters(latitude, longitude))
        asked = self._ask()
        where = await in_thread(_where, place)
        if self._is_late(asked):
            return
        self.answer.clear()
        with self.answer:
            ui.label(f"{place.understood}: {where}.")


def _where(place: Place) -> str:
    """Say where a place is; nothing if it is a town, which says so itself."""
    if place.only_view and "MGRS" not in place.understood:
        return ""
    return world().near(place.latitude, place.longitude)


def _exchanged(place: Place) -> Place:
    assert place.exchanged is not None
    latitude, longitude = place.exchanged
    return Place(latitude, longitude, in_letters(latitude, longitude))


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
