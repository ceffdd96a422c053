"""The map of a result and the bar below it: date and bands of the image, and layer of parcels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

from panoseg.app.pages.frame import checkbox
from panoseg.app.pages.place import base_map
from panoseg.app.settings import Background
from panoseg.app.tiles import MAX_ZOOM, NDVI_STOPS

SELECTED = "#1b2620"
"""Colour of the outline of the selected parcel."""
Handler = Callable[..., object]
_ZOOM = 14
_OVER_NDVI = 0.15  # opacity of the parcels
_IMAGES = {
    "true-colour": "True colour",
    "false-colour": "False colour",
    "ndvi": "NDVI",
    "none": "No image",
}
_OVERLAYS = {
    "parcels": "Parcels found",
    "official": "Official parcels",
    "differences": "Differences",
}


class LayersBar:
    """The map of a result with its layers.

    Args:
        address: Address of the API of the result, e.g. /api/jobs/ID.
        description: The result as ``panoseg.app.result_api.describe_result`` returns it.
        background: The background map, or None.
    """

    def __init__(
        self, address: str, description: dict[str, Any], background: Background | None
    ) -> None:
        self.address, self.background = address, background
        self.description, self.version = description, description["version"]
        self.dates = description["dates"]
        self.date = max(
            range(len(self.dates)),
            key=lambda at: (self.dates[at]["used"], _preference(self.dates[at])),
        )
        self.image, self.overlay, self.opacity, self.by_confidence = (
            "true-colour",
            "parcels",
            0.75,
            False,
        )
        self._before_ndvi: float | None = None  # the opacity that NDVI has replaced
        self.hidden: set[int] = set()
        self.drawing = False
        self._layers: dict[str, Any] = {}
        self._outlines: list[Any] = []

    def build(self, clicked: Handler, drawn: Handler) -> None:
        """Make the map and the bar.

        Args:
            clicked: Called on a click that is not part of a drawing.
            drawn: Called with a line that was drawn.
        """
        draws = dict.fromkeys(
            ("polyline", "polygon", "rectangle", "circle", "circlemarker", "marker"), False
        )
        west, south, east, north = self.description["bounds"]
        centre = (south + north) / 2, (west + east) / 2
        self.map = (
            base_map(self.background, draws, centre, zoom=_ZOOM)
            .classes("no-draw-bar")
            .props('aria-label="Map of the result"')
        )
        self.map.on("map-click", lambda event: None if self.drawing else clicked(event))
        self.map.on("draw:drawstop", self._stopped)
        self.map.on("draw:created", drawn)
        self.map.on("init", self.show_all)
        self._ramp()
        with ui.element("div").classes("tools").props('role="group" aria-label="Layers"'):
            self._date_tools()
            ui.select(_IMAGES, on_change=self._image_chosen).bind_value(self, "image").props(
                'dense outlined options-dense aria-label="Image below the parcels"'
            )
            official = self.description["official"]
            overlays = {
                name: text for name, text in _OVERLAYS.items() if official or name == "parcels"
            } | {"none": "No parcels"}
            ui.select(overlays, on_change=self.update).bind_value(self, "overlay").props(
                'dense outlined options-dense aria-label="Parcels on the map"'
            )
            with ui.element("label").classes("line"):
                ui.label("Opacity").classes("quiet")
                self.slider = _range(
                    0, 1, 0.05, self.opacity, "Opacity of the parcels", self._opacity_moved
                ).style("width: 90px")
            checkbox("Fade uncertain parcels", self._fade_uncertain)
        self.update()

    def draw_line(self) -> None:
        """Start drawing a line on the map."""
        self.drawing = True
        ui.run_javascript(f"panoseg.drawLine(getElement({self.map.id}).map)")

    def _stopped(self) -> None:
        self.drawing = False

    def _date_tools(self) -> None:
        with ui.element("div").classes("when"):
            self.day = ui.label().classes("day").props('aria-live="polite"')
            _range(
                0, len(self.dates) - 1, 1, self.date, "Date of the image", self._date_moved
            ).style("flex: 1")
        self._show_date()

    def _ramp(self) -> None:
        low, high = NDVI_STOPS[0][0], NDVI_STOPS[-1][0]
        stops = ", ".join(
            f"{colour} {100 * (level - low) / (high - low):.0f}%" for level, colour in NDVI_STOPS
        )
        with ui.element("div").classes("tools") as self.ramp:
            ui.label("NDVI: bare").classes("quiet")
            ui.element("div").classes("ramp").style(
                f"flex: 1; max-width: 260px; background: linear-gradient(90deg, {stops})"
            )
            ui.label("dense green").classes("quiet")

    def _show_date(self) -> None:
        layer = self.dates[self.date]
        note = f"{1 - layer['clear']:.0%} cloud" if layer["used"] else "not used"
        self.day.set_text(f"{layer['date']} · {note}")

    def _date_moved(self, event: GenericEventArguments) -> None:
        self.date = int(event.args)
        self._show_date()
        self.update()

    def _image_chosen(self, event: ValueChangeEventArguments[str]) -> None:
        """Show the image; the colours of crops would hide those of NDVI."""
        if event.value == "ndvi" and self.opacity > _OVER_NDVI:
            self._before_ndvi = self.opacity
            self._set_opacity(_OVER_NDVI)
        elif event.value != "ndvi" and self._before_ndvi is not None:
            self._set_opacity(self._before_ndvi)
            self._before_ndvi = None
        self.update()

    def _opacity_moved(self, event: GenericEventArguments) -> None:
        self._before_ndvi = None
        self._show_opacity(float(event.args))

    def _set_opacity(self, opacity: float) -> None:
        self._show_opacity(opacity)
        ui.run_javascript(f"getHtmlElement({self.slider.id}).value = {opacity}")

    def _show_opacity(self, opacity: float) -> None:
        self.opacity = opacity
        layer = self._layers.get("overlay")
        if layer is not None:
            layer.run_method("setOpacity", self.opacity)

    def _fade_uncertain(self, checked: bool) -> None:
        self.by_confidence = checked
        self.update()

    def update(self, *_: object) -> None:
        """Show the selected image and overlay."""
        self.ramp.set_visibility(self.image == "ndvi")
        date = self.dates[self.date]["date"]
        image = None if self.image == "none" else f"{self._tiles(self.image)}?date={date}"
        self._set("image", image, 2, 1.0)
        hidden = ",".join(str(number) for number in sorted(self.hidden))
        options = (
            f"hidden={hidden}&by_confidence={str(self.by_confidence).lower()}&v={self.version}"
        )
        overlay = None if self.overlay == "none" else f"{self._tiles(self.overlay)}?{options}"
        self._set("overlay", overlay, 3, self.opacity)

    def corrected(self, version: int) -> None:
        """Load the tiles of another version of the map, after a correction."""
        self.version = version
        self.update()

    def show_all(self) -> None:
        """Show the whole map."""
        west, south, east, north = self.description["bounds"]
        self.map.run_map_method("fitBounds", [[south, west], [north, east]])

    def show_outlines(
        self, outlines: list[tuple[dict[str, Any], str]], *, go: bool = False
    ) -> None:
        """Draw outlines instead of the previous ones.

        Args:
            outlines: GeoJSON geometries in degrees, each with its colour.
            go: Whether the map moves to the first of them.
        """
        for layer in self._outlines:
            self.map.remove_layer(layer)
        self._outlines = []
        for outline, colour in outlines:
            style = {"color": colour, "weight": 4, "fill": False, "interactive": False}
            self._outlines.append(
                self.map.generic_layer(
                    name="geoJSON", args=[outline, {"style": style, "interactive": False}]
                )
            )
        if go and outlines:
            self.map.run_map_method(
                ":fitBounds", f"L.geoJSON({_script(outlines[0][0])}).getBounds().pad(1)"
            )

    def _tiles(self, kind: str) -> str:
        return f"{self.address}/tiles/{kind}/{{z}}/{{x}}/{{y}}"

    def _set(self, name: str, url: str | None, level: int, opacity: float) -> None:
        layer = self._layers.get(name)
        if layer is not None and (url is None or layer.url_template == url):
            if url is None:
                self.map.remove_layer(self._layers.pop(name))
            return
        if layer is not None:
            layer.url_template = url
            layer.run_method("setUrl", url)
            return
        if url is not None:
            west, south, east, north = self.description["bounds"]
            options = {
                "maxZoom": MAX_ZOOM,
                "zIndex": level,
                "opacity": opacity,
                "bounds": [[south, west], [north, east]],
            }
            self._layers[name] = self.map.tile_layer(url_template=url, options=options)


def _range(
    low: float, high: float, step: float, value: float, name: str, moved: Handler
) -> ui.element:
    """Add a native slider, which works with every keyboard and screen reader."""
    slider = ui.element("input").props(
        f'type="range" min="{low}" max="{high}" step="{step}" aria-label="{name}"'
    )
    # "^" sets the attribute: as a property it would be reset whenever the page is rendered again.
    slider.props["^value"] = value
    slider.on(
        "input", moved, js_handler="(event) => emit(Number(event.target.value))", throttle=0.1
    )
    return slider


def _preference(layer: dict[str, Any]) -> float:
    """Return how suitable a date is as the first image; clear dates in summer are best."""
    clear: float = layer["clear"]
    return clear + (0.1 if layer["date"][5:7] in ("05", "06", "07") else 0.0)


def _script(value: object) -> str:
    """Return a value as JavaScript that is safe inside a <script> element."""
    return json.dumps(value).replace("</", "<\\/")
