"""Official parcels beside a map: given by a file or an address, shown as an overlay, with what differs."""

from __future__ import annotations

from html import escape
from typing import Any

from nicegui import ui

from panoseg.app.official import MISSED, OTHER, SAME, UNKNOWN, Differences, OfficialView, differences, official_at
from panoseg.app.pages.frame import drop, empty, heading, hectares, in_thread, sentence, told
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.shown import Shown
from panoseg.app.tiles import DIFFERENCE_COLOURS
from panoseg.errors import AppError, PanosegError

_TEXTS = {
    SAME: "The crop that is declared",
    OTHER: "Another crop than declared",
    UNKNOWN: "No crop to compare with",
    MISSED: "No such parcel was found",
}


class OfficialPanel:
    """Shows how the map and official parcels differ, or asks for some."""

    def __init__(self, shown: Shown, layers: LayersBar) -> None:
        self.shown, self.layers, self.address = shown, layers, ""
        self.codes: dict[str, str] = {}

    def build(self) -> None:
        """The panel."""
        with ui.element("div").classes("stack"):
            self.detail = ui.element("div").props('aria-live="polite"')
            self.summary = ui.element("div").classes("stack")
        if self.shown.description["official"]:
            with self.summary:
                ui.skeleton(height="120px").classes("w-full")
            ui.timer(0.1, self._load, once=True)
        else:
            with self.summary:
                empty("No official parcels", "Compare the map with a register of parcels: where do they agree?")
        if self.shown.visit:
            self._give()

    def _give(self) -> None:
        title = "Use other official parcels" if self.shown.description["official"] else "Add official parcels"
        folded = ui.expansion(title, value=not self.shown.description["official"]).props("dense").classes("w-full")
        with folded, ui.element("div").classes("stack"):
            drop(
                "Drop a register here: GeoParquet, GeoPackage, GeoJSON, Shapefile (zip)", "", self._uploaded, _most(self.shown)
            )
            ui.input("or its address (https://...)").bind_value(self, "address").props("outlined dense")
            ui.button("Fetch", on_click=told(self._fetch)).props("outline")
            table = "Their crops are codes? First drop a table of them here: CSV with the columns code and class"
            drop(table, ".csv", self._named, _most(self.shown))
            self.codes_name = ui.label().classes("quiet")

    async def _named(self, upload: dict[str, Any]) -> None:
        if upload["kind"] != "codes":
            raise AppError(f"a file that is a {upload['kind']}", "a CSV with the columns code and class", "choose another")
        self.codes = {"codes": upload["id"]}
        self.codes_name.set_text(f"{upload['summary']['codes']} codes by {upload['name']}")

    async def _uploaded(self, upload: dict[str, Any]) -> None:
        await self._compare({"upload": upload["id"]})

    async def _fetch(self) -> None:
        await self._compare({"url": self.address.strip()})

    async def _compare(self, register: dict[str, Any]) -> None:
        visit = self.shown.visit
        assert visit is not None, "only an owner gives official parcels"
        await in_thread(visit.service.set_register, visit.user, self.shown.job.id, register | self.codes)
        ui.navigate.to(f"/jobs/{self.shown.job.id}")

    async def _load(self) -> None:
        try:
            found: Differences | PanosegError = await in_thread(differences, self.shown.result)
        except PanosegError as error:
            found = error
        if self.summary.is_deleted:
            return
        self.summary.clear()
        with self.summary:
            if isinstance(found, PanosegError):
                empty("They cannot be compared", sentence(found), alert=True)
            else:
                self._show(found)

    def _show(self, found: Differences) -> None:
        rows = "".join(
            f'<tr><td><span class="swatch" style="background:{DIFFERENCE_COLOURS[name]}"></span> {text}</td>'
            f"<td class=number>{found.counts[name]:,}</td><td class=number>{hectares(found.hectares[name])}</td></tr>"
            for name, text in _TEXTS.items()
        )
        ui.html(
            '<table class="plain"><tr><th>Official parcels</th><th class=number>Parcels</th><th class=number>Area</th></tr>'
            f"{rows}</table>",
            sanitize=False,
        )
        ui.label(f"{len(found.invented):,} parcels of the map match no official one.").classes("quiet")
        with ui.element("div").classes("line"):
            ui.button("Show the differences", on_click=lambda: self._overlay("differences")).props("unelevated")
            ui.button("Crops inside official parcels", on_click=lambda: self._overlay("official")).props("outline")
            ui.button("Parcels found", on_click=lambda: self._overlay("parcels")).props("flat")

    def _overlay(self, name: str) -> None:
        self.layers.overlay = name
        self.layers.update()

    async def clicked(self, longitude: float, latitude: float) -> None:
        """A place was clicked while official parcels are shown."""
        view = await in_thread(official_at, self.shown.result, longitude, latitude)
        self.layers.show_outlines([(view.outline, SELECTED)] if view else [])
        self.detail.clear()
        with self.detail:
            if view is None:
                ui.label("No official parcel is here.").classes("quiet")
            else:
                _facts(view)


def _most(shown: Shown) -> int:
    """MiB of an upload."""
    return shown.service.settings.limits.upload_mib


def _facts(view: OfficialView) -> None:
    with ui.element("div").classes("card stack"):
        heading(f"Official parcel {view.id}")
        share = "" if view.confidence is None else f" ({view.confidence:.0%} of it)"
        rows = {
            "Declared": view.declared or "nothing",
            "Found inside": (view.found or "nothing") + share,
            "Area": hectares(view.area_ha),
            "Result": _TEXTS[view.difference],
        }
        cells = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items())
        ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)
