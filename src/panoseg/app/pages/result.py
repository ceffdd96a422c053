"""The page of a finished map.

Parcels over the image of any date, a legend that filters them, and panels for details, comparison
with official parcels, corrections and downloads.
"""

from __future__ import annotations

import asyncio
from html import escape
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import (
    Visit,
    empty_state,
    frame,
    heading,
    hectares,
    in_thread,
    set_title,
    with_error_messages,
)
from panoseg.app.pages.job import ask_delete, show_not_available
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.panels import CorrectionsPanel, OfficialPanel
from panoseg.app.pages.parcel_panel import ParcelPanel
from panoseg.app.pages.photo import show_photo
from panoseg.app.pages.result_context import ResultContext, result_actions
from panoseg.app.parcels import CropArea, ParcelView, areas, parcel_at
from panoseg.app.result_api import describe_result
from panoseg.app.result_map import ResultMap, open_result, trained_on
from panoseg.app.service import Service
from panoseg.errors import PanosegError

_LARGE = 50_000


class ResultPage:
    """The map and the panels next to it."""

    def __init__(self, context: ResultContext) -> None:
        self.context, self.result = context, context.result
        self.layers = LayersBar(
            context.address, context.description, context.service.settings.background_map
        )
        # Clicks and entries are carried out one after the other, in the order of the user: a slow
        # answer to an earlier one must not undo what a later one began.
        self.turn = asyncio.Lock()
        self.parcel = ParcelPanel(context.result, self.select, self.turn)
        self.official = OfficialPanel(context, self.layers)
        self.corrections = (
            CorrectionsPanel(context, self.layers, self.changed, self.turn)
            if context.visit
            else None
        )
        self.selected: ParcelView | None = None
        self._rows: dict[int, tuple[ui.element, ui.element]] = {}

    def build(self) -> None:
        """Make the elements of the page."""
        set_title(self.context.job.name)
        with ui.element("div").classes("split"):
            with ui.element("aside").props('id="details" aria-label="About the map"'):
                self._title()
                with (
                    ui.tabs(on_change=with_error_messages(self._show_selected))
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
                self.layers.build(
                    with_error_messages(self._clicked), with_error_messages(self._drawn)
                )
                # On a phone the panels are below the map: this line links to them.
                self.summary = ui.link("", "#details").classes("said")
                self.summary.set_visibility(False)

    def _title(self) -> None:
        job, rows = self.context.job, self.context.description["areas"]
        heading(job.name, 1)
        total = hectares(sum(row["area_ha"] for row in rows))
        dates = self.context.description["dates"]
        ui.label(
            f"{self.result.count:,} parcels, {total}, by {sum(layer['used'] for layer in dates)}"
            f" dates from {dates[0]['date']} to {dates[-1]['date']}"
        ).classes("quiet")
        if self.result.count > _LARGE:
            ui.label("This map is large: outlines of parcels appear when you zoom in.").classes(
                "quiet"
            )
        self._caution()
        with ui.element("div").classes("line"):
            result_actions(self.context)
            if self.context.visit:
                visit = self.context.visit
                ui.button("Delete", on_click=lambda: ask_delete(visit, job)).props(
                    "flat dense color=negative"
                )

    def _caution(self) -> None:
        """Say what the weights know, and that crops are less sure than fields."""
        learned = trained_on(self.result.folder)
        source = f"The network has learned from {learned}. " if learned else ""
        link = f"{self.context.address}/files/map/report.html"
        ui.html(
            f"{escape(source)}Fields are found more surely than crops, which are often wrong: check"
            f' them before you rely on them. <a href="{link}" target="_blank">How the map was'
            " made</a>",
            sanitize=False,
            tag="p",
        ).classes("quiet")

    @ui.refreshable_method
    def _legend(self) -> None:
        rows = areas(self.result)
        self._rows = {}
        if not rows:
            empty_state(
                "No parcel was found",
                "Clouds, water or an area without fields may be the reason; see the report.",
            )
            return
        with ui.element("div").classes("stack"):
            self._bar(rows)
            with ui.element("div").classes("line"):
                ui.button("Show all", on_click=lambda: self._hide(set())).props("flat dense")
                all_ids = {self.result.class_id(row.crop) for row in rows}
                ui.button("Hide all", on_click=lambda: self._hide(all_ids)).props("flat dense")
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
                "Confidence: how certain the network is of a parcel and its crop. Corrected parcels"
                " have none."
            ).classes("quiet")

    def _bar(self, rows: list[CropArea]) -> None:
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

    def _legend_row(self, row: CropArea) -> None:
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
        """Hide these classes and show all others.

        The rows of the legend are not rebuilt, so that keyboard focus stays.
        """
        self.layers.hidden = class_ids
        self.layers.update()
        for class_id, (line, box) in self._rows.items():
            hidden = class_id in class_ids
            line.classes(add="off" if hidden else "", remove="" if hidden else "off")
            box.props(add="" if hidden else "checked", remove="checked" if hidden else "")

    async def _clicked(self, event: GenericEventArguments) -> None:
        place = event.args["latlng"]
        longitude, latitude = (place["lng"] + 180) % 360 - 180, place["lat"]
        async with self.turn:
            if self.layers.overlay in ("official", "differences"):
                await self.official.clicked(longitude, latitude)
                self.tabs.set_value("Official")
                return
            view = await in_thread(parcel_at, self.result, longitude, latitude)
            merging = self.corrections and self.corrections.merging and self.tabs.value == "Correct"
            if self.corrections and merging and view is not None:
                await self.corrections.merge(view)
            else:
                await self.select(view)

    async def _drawn(self, event: GenericEventArguments) -> None:
        if self.corrections:
            points = event.args["layer"]["_latlngs"]
            async with self.turn:
                await self.corrections.drawn([(point["lng"], point["lat"]) for point in points])

    async def select(self, view: ParcelView | None, *, go: bool = False) -> None:
        """Select a parcel, or none. go: whether the map moves to it."""
        self.selected = view
        self.layers.show_outlines([(view.outline, SELECTED)] if view else [], go=go)
        self.summary.set_text(_summary(view))
        self.summary.set_visibility(True)
        if self.tabs.value == "Parcel":
            await self.parcel.show(view)
        elif self.tabs.value == "Correct":
            await self._show_selected()
        else:
            self.tabs.set_value("Parcel")

    async def _show_selected(self) -> None:
        """Show the selected parcel in the visible panel."""
        if self.tabs.value == "Parcel" and self.selected is not self.parcel.view:
            await self.parcel.show(self.selected)
        elif (
            self.tabs.value == "Correct"
            and self.corrections
            and self.selected is not self.corrections.view
        ):
            self.corrections.choose(self.selected)

    def changed(self, version: int, view: ParcelView | None) -> None:
        """Show a corrected map. view: the parcel that the correction made."""
        self.selected = view
        self.summary.set_text(_summary(view))
        self.layers.corrected(version)
        self._legend.refresh()


def _summary(view: ParcelView | None) -> str:
    """Describe a parcel in one line."""
    if view is None:
        return "No parcel here"
    sure = "corrected" if view.confidence is None else f"{view.confidence:.0%} sure"
    return f"{view.crop}, {hectares(view.area_ha)}, {sure}; details below"


async def result_page(visit: Visit, id_: str) -> None:
    """Make the page of a finished map of a user."""
    with frame("Map", "/jobs", visit.user):
        try:
            job = visit.service.job(visit.user, id_)
            folder = visit.service.folder(visit.user, id_)
            opened = await in_thread(_open, folder)
            ResultPage(
                ResultContext(visit.service, job, f"/api/jobs/{id_}", visit, *opened)
            ).build()
        except PanosegError as error:
            show_not_available(error)


async def shared_page(service: Service, token: str) -> None:
    """Make the page of a result that was shared by a link."""
    with frame("Map", None):
        try:
            job = service.shared(token)
            folder = service.settings.jobs_folder / job.id
            if job.kind == "photo":
                show_photo(folder, f"/api/shared/{token}", job, service.shared_files(token))
                return
            opened = await in_thread(_open, folder)
            ResultPage(ResultContext(service, job, f"/api/shared/{token}", None, *opened)).build()
        except PanosegError as error:
            show_not_available(error, own=False)


def _open(folder: Path) -> tuple[ResultMap, dict[str, Any]]:
    result = open_result(folder)
    return result, describe_result(result)
