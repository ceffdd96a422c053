"""The page of a finished map: parcels over the picture of any date, a legend that filters, details,
corrections, downloads.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import (
    Visit,
    empty,
    frame,
    heading,
    hectares,
    in_thread,
    name_page,
    told,
)
from panoseg.app.pages.job import ask_delete, not_there
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.panels import CorrectionsPanel, OfficialPanel, ParcelPanel
from panoseg.app.pages.photo import show_photo
from panoseg.app.pages.result_context import Shown, take_along
from panoseg.app.parcels import ParcelView, areas, parcel_at
from panoseg.app.result_api import describe_result
from panoseg.app.result_map import ResultMap, open_result
from panoseg.app.service import Service
from panoseg.errors import PanosegError

_HUGE = 50_000


class ResultPage:
    """The map, and what stands beside it."""

    def __init__(self, shown: Shown) -> None:
        self.shown, self.result = shown, shown.result
        self.layers = LayersBar(shown.address, shown.description, shown.service.settings.background)
        self.parcel = ParcelPanel(shown.result, self.select)
        self.official = OfficialPanel(shown, self.layers)
        self.corrections = (
            CorrectionsPanel(shown, self.layers, self.changed) if shown.visit else None
        )
        self.chosen: ParcelView | None = None
        self._rows: dict[int, tuple[ui.element, ui.element]] = {}

    def build(self) -> None:
        """The page."""
        name_page(self.shown.job.name)
        with ui.element("div").classes("split"):
            with ui.element("aside").props('id="details" aria-label="About the map"'):
                self._title()
                with (
                    ui.tabs(on_change=told(self._tell))
                    .props('dense no-caps align="left" active-color="primary"')
                    .classes("w-full") as self.tabs
                ):
                    names = [
                        "Crops",
                        "Parcel",
                        "Official",
                        *(["Correct"] if self.corrections else []),
                    ]
                    for name in names:
                        ui.tab(name)
                with ui.tab_panels(self.tabs, value="Crops", animated=False).props("keep-alive"):
                    with ui.tab_panel("Crops"):
                        self._legend()
                    with ui.tab_panel("Parcel"):
                        self.parcel.build()
                    with ui.tab_panel("Official"):
                        self.official.build()
                    if self.corrections:
                        with ui.tab_panel("Correct"):
                            self.corrections.build()
            with ui.element("section"):
                self.layers.build(told(self._clicked), told(self._drawn))
                self.said = ui.link("", "#details").classes(
                    "said"
                )  # on a phone the panels are below the map
                self.said.set_visibility(False)

    def _title(self) -> None:
        job, rows = self.shown.job, self.shown.description["areas"]
        heading(job.name, 1)
        total = hectares(sum(row["area_ha"] for row in rows))
        dates = self.shown.description["dates"]
        ui.label(
            f"{self.result.count:,} parcels, {total}, by {sum(layer['used'] for layer in dates)}"
            f" dates from {dates[0]['date']} to {dates[-1]['date']}"
        ).classes("quiet")
        if self.result.count > _HUGE:
            ui.label("A large map: parcels have outlines once you are close to them.").classes(
                "quiet"
            )
        with ui.element("div").classes("line"):
            take_along(self.shown)
            if self.shown.visit:
                visit = self.shown.visit
                ui.button("Delete", on_click=lambda: ask_delete(visit, job)).props(
                    "flat dense color=negative"
                )

    # -- the legend

    @ui.refreshable_method
    def _legend(self) -> None:
        rows = areas(self.result)
        self._rows = {}
        if not rows:
            empty(
                "No parcel was found",
                "Clouds, water or a place without fields may be the reason; the report tells more.",
            )
            return
        with ui.element("div").classes("stack"):
            self._bar(rows)
            with ui.element("div").classes("line"):
                ui.button("Show all", on_click=lambda: self._hide(set())).props("flat dense")
                every = {self.result.class_id(row.crop) for row in rows}
                ui.button("Hide all", on_click=lambda: self._hide(every)).props("flat dense")
            with ui.element("table").classes("plain"):
                ui.html(
                    "<tr><th scope=col>Crop</th><th scope=col class=number>Parcels</th><th"
                    " scope=col class=number>Area</th><th scope=col"
                    " class=number>Confidence</th></tr>",
                    sanitize=False,
                    tag="thead",
                )
                with ui.element("tbody"):
                    for row in rows:
                        self._legend_row(row)
            ui.label(
                "Confidence: how sure the network is of a parcel and its crop, but for corrected"
                " ones."
            ).classes("quiet")

    def _bar(self, rows: list[Any]) -> None:
        total = sum(row.area_ha for row in rows) or 1.0
        parts = "".join(
            f'<span style="width:{100 * row.area_ha / total:.2f}%;background:{row.colour}"'
            f' title="{escape(row.crop)}: {row.area_ha / total:.0%}"></span>'
            for row in rows
        )
        ui.html(
            f'<div class="share-bar" role="img" aria-label="Shares of the crops">{parts}</div>',
            sanitize=False,
        )

    def _legend_row(self, row: Any) -> None:
        class_id = self.result.class_id(row.crop)
        shown = class_id not in self.layers.hidden
        with ui.element("tr").classes("" if shown else "off") as line:
            with ui.element("td"), ui.element("label"):
                box = ui.element("input").props(f'type="checkbox" {"checked" if shown else ""}')
                box.on("change", lambda: self._toggle(class_id))
                self._rows[class_id] = line, box
                ui.element("span").classes("swatch").style(f"background: {row.colour}")
                ui.html(escape(row.crop), sanitize=False, tag="span")
            sure = "corrected" if row.confidence is None else f"{row.confidence:.0%}"
            for text in (f"{row.parcels:,}", hectares(row.area_ha), sure):
                ui.html(text, sanitize=False, tag="td").classes("number")

    def _toggle(self, class_id: int) -> None:
        self._hide(self.layers.hidden ^ {class_id})

    def _hide(self, class_ids: set[int]) -> None:
        """Hide these classes. Rows stay what they are, so that whoever goes through them by
        keyboard keeps their place.
        """
        self.layers.hidden = class_ids
        self.layers.update()
        for class_id, (line, box) in self._rows.items():
            hidden = class_id in class_ids
            line.classes(add="off" if hidden else "", remove="" if hidden else "off")
            box.props(add="" if hidden else "checked", remove="checked" if hidden else "")

    # -- what happens

    async def _clicked(self, event: GenericEventArguments) -> None:
        place = event.args["latlng"]
        longitude, latitude = (place["lng"] + 180) % 360 - 180, place["lat"]
        if self.layers.overlay in ("official", "differences"):
            await self.official.clicked(longitude, latitude)
            self.tabs.set_value("Official")
            return
        view = await in_thread(parcel_at, self.result, longitude, latitude)
        if (
            self.corrections
            and self.corrections.merging
            and self.tabs.value == "Correct"
            and view is not None
        ):
            await self.corrections.join(view)
            return
        await self.select(view)

    async def _drawn(self, event: GenericEventArguments) -> None:
        if self.corrections:
            points = event.args["layer"]["_latlngs"]
            await self.corrections.drawn([(point["lng"], point["lat"]) for point in points])

    async def select(self, view: ParcelView | None, *, go: bool = False) -> None:
        """Choose a parcel, or none. go: so that it is seen."""
        self.chosen = view
        self.layers.show_outlines([(view.outline, SELECTED)] if view else [], go=go)
        self.said.set_text(_in_short(view))
        self.said.set_visibility(True)
        if self.tabs.value == "Parcel":
            await self.parcel.show(view)
        elif self.tabs.value == "Correct":
            await self._tell()
        else:
            self.tabs.set_value("Parcel")

    async def _tell(self) -> None:
        """Let the panel that is seen know which parcel is chosen."""
        if self.tabs.value == "Parcel" and self.chosen is not self.parcel.view:
            await self.parcel.show(self.chosen)
        elif (
            self.tabs.value == "Correct"
            and self.corrections
            and self.chosen is not self.corrections.view
        ):
            self.corrections.choose(self.chosen)

    def changed(self, version: int, view: ParcelView | None) -> None:
        """The map was corrected; view: what came of it."""
        self.chosen = view
        self.said.set_text(_in_short(view))
        self.layers.corrected(version)
        self._legend.refresh()


def _in_short(view: ParcelView | None) -> str:
    """A parcel in a line."""
    if view is None:
        return "No parcel here"
    sure = "corrected" if view.confidence is None else f"{view.confidence:.0%} sure"
    return f"{view.crop}, {hectares(view.area_ha)}, {sure}: more below"


async def result_page(visit: Visit, id_: str) -> None:
    """The page of a finished map of a user."""
    with frame("Map", "/jobs", visit.user):
        try:
            job = visit.service.job(visit.user, id_)
            folder = visit.service.folder(visit.user, id_)
            await _show(
                Shown(
                    visit.service, job, f"/api/jobs/{id_}", visit, *await in_thread(_opened, folder)
                )
            )
        except PanosegError as error:
            not_there(error)


async def shared_page(service: Service, token: str) -> None:
    """The page of a map that was shared by a link."""
    with frame("Map", None):
        try:
            job = service.shared(token)
            folder = service.settings.jobs_folder / job.id
            if job.kind == "photo":
                show_photo(folder, f"/api/shared/{token}", job, service.shared_files(token))
                return
            await _show(
                Shown(service, job, f"/api/shared/{token}", None, *await in_thread(_opened, folder))
            )
        except PanosegError as error:
            not_there(error, own=False)


async def _show(shown: Shown) -> None:
    ResultPage(shown).build()


def _opened(folder: Path) -> tuple[ResultMap, dict[str, Any]]:
    result = open_result(folder)
    return result, describe_result(result)
