"""The bar under the map of a result: which date is seen below the parcels, in which colours, and
how the parcels lie on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import checkbox
from panoseg.app.pages.place import base_map
from panoseg.app.tiles import MAX_ZOOM, NDVI_STOPS

SELECTED = "#1b2620"
_CLOSE = 14
_PICTURES = {
    "true-colour": "True colour",
    "false-colour": "False colour",
    "ndvi": "NDVI",
    "none": "No picture",
}
_OVERLAYS = {
    "parcels": "Parcels found",
    "official": "Official parcels",
    "differences": "Differences",
}


class LayersBar:
    """The map of a result with its layers.

    address: where tiles are, as /api/jobs/ID. description: of the result, see
    ``panoseg.app.result_api``.
    """

    def __init__(self, address: str, description: dict[str, Any], background: str | None) -> None:
        self.address, self.background = address, background
        self.description, self.version = description, description["version"]
        self.dates = description["dates"]
        self.date = max(
            range(len(self.dates)), key=lambda at: (self.dates[at]["used"], _liked(self.dates[at]))
        )
        self.picture, self.overlay, self.opacity, self.by_confidence = (
            "true-colour",
            "parcels",
            0.75,
            False,
        )
        self.hidden: set[int] = set()
        self.drawing = False
        self._layers: dict[str, Any] = {}
        self._outlines: list[Any] = []

    def build(self, clicked: Callable[..., Any], drawn: Callable[..., Any]) -> None:
        """Map and bar. clicked, drawn: hear of a click that draws nothing, and of a line that was
        drawn.
        """
        draws = dict.fromkeys(
            ("polyline", "polygon", "rectangle", "circle", "circlemarker", "marker"), False
        )
        west, south, east, north = self.description["bounds"]
        centre = (south + north) / 2, (west + east) / 2
        self.map = (
            base_map(self.background, draws, centre, zoom=_CLOSE)
            .classes("no-draw-bar")
            .props('aria-label="Map of the result"')
        )
        self.map.on("map-click", lambda event: None if self.drawing else clicked(event))
        self.map.on("draw:drawstop", self._stopped)
        self.map.on("draw:created", drawn)
        self.map.on("init", self.whole)
        self._ramp()
        with ui.element("div").classes("tools").props('role="group" aria-label="Layers"'):
            self._date_tools()
            ui.select(_PICTURES, on_change=self.update).bind_value(self, "picture").props(
                'dense outlined options-dense aria-label="Picture below the parcels"'
            )
            official = self.description["official"]
            overlays = {
                name: text for name, text in _OVERLAYS.items() if official or name == "parcels"
            } | {"none": "No parcels"}
            ui.select(overlays, on_change=self.update).bind_value(self, "overlay").props(
                'dense outlined options-dense aria-label="Parcels on the map"'
            )
            with ui.element("label").classes("line"):
                ui.label("Strength").classes("quiet")
                _range(0, 1, 0.05, self.opacity, "Opacity of the parcels", self._fade).style(
                    "width: 90px"
                )
            checkbox("Fainter where unsure", self._fainter)
        self.update()

    def draw_line(self) -> None:
        """Let a line be drawn on the map."""
        self.drawing = True
        ui.run_javascript(f"panoseg.drawLine(getElement({self.map.id}).map)")

    def _stopped(self) -> None:
        self.drawing = False

    def _date_tools(self) -> None:
        with ui.element("div").classes("when"):
            self.day = ui.label().classes("day").props('aria-live="polite"')
            _range(0, len(self.dates) - 1, 1, self.date, "Date of the picture", self._dated).style(
                "flex: 1"
            )
        self._say_date()

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

    def _say_date(self) -> None:
        layer = self.dates[self.date]
        note = f"{1 - layer['clear']:.0%} cloud" if layer["used"] else "not used"
        self.day.set_text(f"{layer['date']} · {note}")

    def _dated(self, event: GenericEventArguments) -> None:
        self.date = int(event.args)
        self._say_date()
        self.update()

    def _fade(self, event: GenericEventArguments) -> None:
        self.opacity = float(event.args)
        layer = self._layers.get("overlay")
        if layer is not None:
            layer.run_method("setOpacity", self.opacity)

    def _fainter(self, chosen: bool) -> None:
        self.by_confidence = chosen
        self.update()

    # -- layers

    def update(self, *_: Any) -> None:
        """Show what is chosen."""
        self.ramp.set_visibility(self.picture == "ndvi")
        date = self.dates[self.date]["date"]
        picture = None if self.picture == "none" else f"{self._tiles(self.picture)}?date={date}"
        self._set("picture", picture, 2, 1.0)
        hidden = ",".join(str(number) for number in sorted(self.hidden))
        options = (
            f"hidden={hidden}&by_confidence={str(self.by_confidence).lower()}&v={self.version}"
        )
        overlay = None if self.overlay == "none" else f"{self._tiles(self.overlay)}?{options}"
        self._set("overlay", overlay, 3, self.opacity)

    def corrected(self, version: int) -> None:
        """Parcels were corrected: other tiles."""
        self.version = version
        self.update()

    def whole(self) -> None:
        """Show the whole map."""
        west, south, east, north = self.description["bounds"]
        self.map.run_map_method("fitBounds", [[south, west], [north, east]])

    def show_outlines(
        self, outlines: list[tuple[dict[str, Any], str]], *, go: bool = False
    ) -> None:
        """Draw outlines, GeoJSON in degrees, each in its colour, in place of those before. go: so
        that they are seen.
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
    low: float, high: float, step: float, value: float, name: str, moved: Callable[..., Any]
) -> ui.element:
    """A slider of the browser's own, which every keyboard and screen reader knows."""
    slider = ui.element("input").props(
        f'type="range" min="{low}" max="{high}" step="{step}" aria-label="{name}"'
    )
    slider.props["^value"] = (
        value  # an attribute: as a property it would be set back whenever the page is drawn anew
    )
    slider.on(
        "input", moved, js_handler="(event) => emit(Number(event.target.value))", throttle=0.1
    )
    return slider


def _liked(layer: dict[str, Any]) -> float:
    """Clear days in summer are seen first."""
    return layer["clear"] + (0.1 if layer["date"][5:7] in ("05", "06", "07") else 0.0)


def _script(value: Any) -> str:
    return json.dumps(value).replace("</", "<\\/")
