"""The panels of a map for corrections and for the comparison with official parcels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

from panoseg.app.corrections import (
    Corrections,
    change_crop,
    merge_parcels,
    read_corrections,
    split_parcel,
    undo,
    version_of,
)
from panoseg.app.official import (
    MISSED,
    OTHER,
    SAME,
    UNKNOWN,
    Differences,
    OfficialView,
    differences,
    official_at,
)
from panoseg.app.pages.frame import (
    checkbox,
    empty_state,
    entered_text,
    file_drop,
    heading,
    heading_text,
    hectares,
    in_thread,
    sentence,
    with_error_messages,
)
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.result_context import ResultContext
from panoseg.app.parcels import ParcelView, parcel_of
from panoseg.app.result_map import crops
from panoseg.app.tiles import DIFFERENCE_COLOURS
from panoseg.errors import AppError, PanosegError

_STEPS = {"crop": "crop changed", "split": "split", "merge": "merged"}
_MAX_STEPS = 12


class CorrectionsPanel:
    """Changes the crop of the selected parcel, splits it, or merges it with a neighbour.

    Args:
        context: The result.
        layers: The map of the page.
        changed: Called after a correction with the new version of the map and the new parcel.
        turn: Held while a click or an entry is carried out, so that each one finds what the one
            before it has selected.
    """

    def __init__(
        self,
        context: ResultContext,
        layers: LayersBar,
        changed: Callable[[int, ParcelView | None], None],
        turn: asyncio.Lock,
    ) -> None:
        self.context, self.layers, self.result = context, layers, context.result
        self._changed, self.turn = changed, turn
        self.view: ParcelView | None = None
        self.merging = False  # whether the next click selects the neighbour
        self.everything = False  # whether the training data include uncorrected parcels

    def build(self) -> None:
        """Make the elements of the panel."""
        with ui.element("div").classes("stack"):
            with ui.element("div").classes("stack").props('aria-live="polite"'):
                self.nothing = empty_state(
                    "Select a parcel",
                    "Click a parcel, or enter its number under Parcel; then change its crop, split"
                    " it, or merge it with a neighbour.",
                )
                with ui.element("div").classes("stack") as self.tools:
                    self._tools()
            self._history()
        self._show()

    def _tools(self) -> None:
        """Make the tools once: one that is made anew under the mouse loses the click."""
        with ui.element("div").classes("line"):
            self.swatch = ui.element("span").classes("swatch")
            self.title = heading("")
            self.area = ui.label().classes("quiet")
        self.crop = ui.select(
            crops(self.result.classes), label="Crop of the parcel", on_change=self._crop_selected
        ).props("outlined dense options-dense")
        with ui.element("div").classes("line"):
            ui.button("Split along a line", on_click=self._split).props("outline")
            ui.button("Merge with a neighbour", on_click=self._merge).props("outline")
        with ui.element("div").classes("stack") as self.neighbour:
            ui.label("Click the neighbour on the map, or:").classes("quiet")
            self.number = ui.input("Number of the neighbour").props("outlined dense")
            self.number.on("change", with_error_messages(self._neighbour_entered))

    def _show(self) -> None:
        """Show the selected parcel, and the field for its neighbour while they are merged."""
        view = self.view
        self.nothing.set_visibility(view is None)
        self.tools.set_visibility(view is not None)
        self.neighbour.set_visibility(self.merging)
        if view is not None:
            self.swatch.style(replace=f"background: {view.colour}")
            self.title.set_content(heading_text(f"Parcel {view.id}: {view.crop}"))
            self.area.set_text(hectares(view.area_ha))
            self.crop.set_value(view.crop)

    @ui.refreshable_method
    def _history(self) -> None:
        steps = read_corrections(self.result.folder).steps
        with ui.element("div").classes("stack"):
            heading("Corrections")
            if not steps:
                ui.label(
                    "None yet. The prediction stays as it is; corrections are stored separately."
                ).classes("quiet")
                return
            items = "".join(
                f"<li>{_STEPS[step.what]}:"
                f" {escape(', '.join(parcel.crop for parcel in step.made))}</li>"
                for step in reversed(steps[-_MAX_STEPS:])
            )
            ui.html(
                f"<ol reversed start={len(steps)}"
                f" style='padding-left:1.6rem;margin:0'>{items}</ol>",
                sanitize=False,
            )
            ui.button("Undo the latest", on_click=with_error_messages(self._undo)).props(
                'outline title="Ctrl+Z"'
            ).classes("undo")
            checkbox("Include uncorrected parcels", self._include)
            ui.button("Export as training data", on_click=self._export).props("unelevated")

    def choose(self, view: ParcelView | None) -> None:
        """Select another parcel, or none."""
        self.view, self.merging = view, False
        self._show()

    async def merge(self, neighbour: ParcelView) -> None:
        """Merge the selected parcel with a neighbour."""
        self.merging = False
        self._show()
        if self.view is not None:
            await self._done(
                await in_thread(merge_parcels, self.result, self.view.id, neighbour.id)
            )

    async def _neighbour_entered(self, event: GenericEventArguments) -> None:
        number = entered_text(event)
        async with self.turn:
            if number:
                await self.merge(await in_thread(parcel_of, self.result, number))

    async def drawn(self, line: list[tuple[float, float]]) -> None:
        """Split the selected parcel along a line of longitudes and latitudes."""
        if self.view is not None:
            await self._done(await in_thread(split_parcel, self.result, self.view.id, line))

    def _crop_selected(self, event: ValueChangeEventArguments[str]) -> Awaitable[None] | None:
        # Showing another parcel selects its crop, too; that is no change.
        if self.view is None or event.value == self.view.crop:
            return None
        return with_error_messages(self._change_crop)(self.view.id, event.value)

    async def _change_crop(self, parcel: str, crop: str) -> None:
        async with self.turn:
            try:
                await self._done(await in_thread(change_crop, self.result, parcel, crop))
            finally:
                self._show()  # the crop that the parcel has, if it could not be changed

    def _split(self) -> None:
        ui.notify(
            "Draw a line across the parcel: click where it starts, and double-click where it ends."
            " Escape cancels."
        )
        self.layers.draw_line()

    async def _merge(self) -> None:
        async with self.turn:
            self.merging = True
            self.number.set_value("")
            self._show()
            self.number.run_method("focus")

    async def _undo(self) -> None:
        async with self.turn:
            await self._done(await in_thread(undo, self.result.folder))

    async def _done(self, corrections: Corrections) -> None:
        """Show the corrected map and the parcel that the latest correction made."""
        made = corrections.steps[-1].made if corrections.steps else ()
        self.view = await in_thread(parcel_of, self.result, made[0].id) if made else None
        self.merging = False
        self.layers.show_outlines([(self.view.outline, SELECTED)] if self.view else [])
        self._changed(version_of(self.result.folder), self.view)
        self._show()
        self._history.refresh()

    def _include(self, everything: bool) -> None:
        self.everything = everything

    def _export(self) -> None:
        ui.notify("The training data are being prepared; the download starts when they are ready.")
        ui.download.from_url(
            f"{self.context.address}/training?everything={str(self.everything).lower()}"
        )


_TEXTS = {
    SAME: "Same crop as declared",
    OTHER: "Other crop than declared",
    UNKNOWN: "No crop to compare with",
    MISSED: "Parcel not found",
}


class OfficialPanel:
    """Shows how the map differs from official parcels, or offers to upload them."""

    def __init__(self, context: ResultContext, layers: LayersBar) -> None:
        self.context, self.layers, self.address = context, layers, ""
        self.codes: dict[str, str] = {}

    def build(self) -> None:
        """Make the elements of the panel."""
        with ui.element("div").classes("stack"):
            self.detail = ui.element("div").props('aria-live="polite"')
            self.summary = ui.element("div").classes("stack")
        if self.context.description["official"]:
            with self.summary:
                ui.skeleton(height="120px").classes("w-full")
            ui.timer(0.1, self._load, once=True)
        else:
            with self.summary:
                empty_state(
                    "No official parcels",
                    "Add a register of parcels to compare the map with.",
                )
        if self.context.visit:
            self._upload_fields()

    def _upload_fields(self) -> None:
        title = (
            "Use other official parcels"
            if self.context.description["official"]
            else "Add official parcels"
        )
        folded = (
            ui.expansion(title, value=not self.context.description["official"])
            .props("dense")
            .classes("w-full")
        )
        with folded, ui.element("div").classes("stack"):
            file_drop(
                "Drop a register here: GeoParquet, GeoPackage, GeoJSON, Shapefile (zip)",
                "",
                self._uploaded,
                self._max_mib,
            )
            ui.input("Or its URL (https://...)").bind_value(self, "address").props("outlined dense")
            ui.button("Fetch", on_click=with_error_messages(self._fetch)).props("outline")
            table = (
                "If the crops are codes, first drop their classes here: CSV with the columns code"
                " and class"
            )
            file_drop(table, ".csv", self._codes_uploaded, self._max_mib)
            self.codes_name = ui.label().classes("quiet")

    @property
    def _max_mib(self) -> int:
        return self.context.service.settings.limits.upload_mib

    async def _codes_uploaded(self, upload: dict[str, Any]) -> None:
        if upload["kind"] != "codes":
            raise AppError(
                f"This file is a {upload['kind']}, not a CSV with the columns code and class;"
                " choose another."
            )
        self.codes = {"codes": upload["id"]}
        self.codes_name.set_text(f"{upload['summary']['codes']} codes from {upload['name']}")

    async def _uploaded(self, upload: dict[str, Any]) -> None:
        await self._compare({"upload": upload["id"]})

    async def _fetch(self) -> None:
        await self._compare({"url": self.address.strip()})

    async def _compare(self, register: dict[str, Any]) -> None:
        visit = self.context.visit
        assert visit is not None, "only the owner can upload official parcels"
        await in_thread(
            visit.service.set_register, visit.user, self.context.job.id, register | self.codes
        )
        ui.navigate.to(f"/jobs/{self.context.job.id}")

    async def _load(self) -> None:
        try:
            found: Differences | PanosegError = await in_thread(differences, self.context.result)
        except PanosegError as error:
            found = error
        if self.summary.is_deleted:
            return
        self.summary.clear()
        with self.summary:
            if isinstance(found, PanosegError):
                empty_state("The comparison failed", sentence(found), alert=True)
            else:
                self._show(found)

    def _show(self, found: Differences) -> None:
        rows = "".join(
            f'<tr><td><span class="swatch" style="background:{DIFFERENCE_COLOURS[name]}"></span>'
            f" {text}</td><td class=number>{found.counts[name]:,}</td><td"
            f" class=number>{hectares(found.hectares[name])}</td></tr>"
            for name, text in _TEXTS.items()
        )
        ui.html(
            '<table class="plain"><tr><th>Official parcels</th><th class=number>Parcels</th><th'
            f" class=number>Area</th></tr>{rows}</table>",
            sanitize=False,
        )
        ui.label(f"{len(found.invented):,} parcels of the map match no official parcel.").classes(
            "quiet"
        )
        with ui.element("div").classes("line"):
            ui.button("Show the differences", on_click=lambda: self._overlay("differences")).props(
                "unelevated"
            )
            ui.button(
                "Crops inside official parcels", on_click=lambda: self._overlay("official")
            ).props("outline")
            ui.button("Parcels found", on_click=lambda: self._overlay("parcels")).props("flat")

    def _overlay(self, name: str) -> None:
        self.layers.overlay = name
        self.layers.update()

    async def clicked(self, longitude: float, latitude: float) -> None:
        """Show the official parcel at a place that was clicked."""
        view = await in_thread(official_at, self.context.result, longitude, latitude)
        self.layers.show_outlines([(view.outline, SELECTED)] if view else [])
        self.detail.clear()
        with self.detail:
            if view is None:
                ui.label("There is no official parcel here.").classes("quiet")
            else:
                _facts(view)


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
        cells = "".join(
            f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items()
        )
        ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)
