"""Corrections on the page of a map: another crop, a cut along a line, two parcels made one, undo; and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from nicegui import ui

from panoseg.app.corrections import Corrections, change_crop, merge_parcels, read_corrections, split_parcel, undo, version_of
from panoseg.app.pages.frame import checkbox, empty, heading, hectares, in_thread, told
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.shown import Shown
from panoseg.app.parcels import ParcelView, parcel_of
from panoseg.app.result_map import crops

_STEPS = {"crop": "other crop", "split": "cut", "merge": "joined"}
_MOST_STEPS = 12


class CorrectionsPanel:
    """What is done to the parcel that is chosen. merging: the next click chooses its neighbour.

    changed: called after a correction with the version of the map and the parcel that came of it.
    """

    def __init__(self, shown: Shown, layers: LayersBar, changed: Callable[[int, ParcelView | None], None]) -> None:
        self.shown, self.layers, self.result, self._changed = shown, layers, shown.result, changed
        self.view: ParcelView | None = None
        self.merging = False
        self.everything = False

    def build(self) -> None:
        """The panel."""
        with ui.element("div").classes("stack"):
            self._tools()
            self._history()

    @ui.refreshable_method
    def _tools(self) -> None:
        with ui.element("div").classes("stack").props('aria-live="polite"'):
            if self.view is None:
                empty(
                    "Choose a parcel",
                    "Click the one that is wrong, or give its number under Parcel; then say what it is, cut it, or join it with"
                    " another.",
                )
                return
            view = self.view
            with ui.element("div").classes("line"):
                ui.element("span").classes("swatch").style(f"background: {view.colour}")
                heading(f"Parcel {view.id}: {view.crop}")
                ui.label(hectares(view.area_ha)).classes("quiet")
            ui.select(crops(self.result.classes), value=view.crop, label="It grows", on_change=told(self._crop)).props(
                "outlined dense options-dense"
            )
            with ui.element("div").classes("line"):
                ui.button("Cut along a line", on_click=self._cut).props("outline")
                ui.button("Join with a neighbour", on_click=self._join).props("outline")
            if self.merging:
                ui.label("Click the neighbour on the map, or:").classes("quiet")
                ui.input("Number of the neighbour").props("outlined dense autofocus").on("change", told(self._neighbour))

    @ui.refreshable_method
    def _history(self) -> None:
        steps = read_corrections(self.result.folder).steps
        with ui.element("div").classes("stack"):
            heading("Corrections")
            if not steps:
                ui.label("None yet. The prediction stays as it is; corrections are kept beside it.").classes("quiet")
                return
            items = "".join(
                f"<li>{_STEPS[step.what]}: {escape(', '.join(parcel.crop for parcel in step.made))}</li>"
                for step in reversed(steps[-_MOST_STEPS:])
            )
            ui.html(f"<ol reversed start={len(steps)} style='padding-left:1.6rem;margin:0'>{items}</ol>", sanitize=False)
            ui.button("Undo the latest", on_click=told(self._undo)).props("outline")
            checkbox("With parcels that nobody corrected", self._include)
            ui.button("Export as training data", on_click=self._export).props("unelevated")

    # -- what happens

    def choose(self, view: ParcelView | None) -> None:
        """Another parcel was chosen, or none."""
        self.view, self.merging = view, False
        self._tools.refresh()

    async def join(self, neighbour: ParcelView) -> None:
        """The neighbour of the chosen parcel was chosen."""
        self.merging = False
        self._tools.refresh()
        if self.view is not None:
            await self._done(await in_thread(merge_parcels, self.result, self.view.id, neighbour.id))

    async def _neighbour(self, event: Any) -> None:
        number = str(event.sender.value or "").strip()
        if number:
            await self.join(await in_thread(parcel_of, self.result, number))

    async def drawn(self, line: list[tuple[float, float]]) -> None:
        """A line was drawn over the map."""
        if self.view is not None:
            await self._done(await in_thread(split_parcel, self.result, self.view.id, line))

    async def _crop(self, event: Any) -> None:
        if self.view is not None and event.value != self.view.crop:
            await self._done(await in_thread(change_crop, self.result, self.view.id, event.value))

    def _cut(self) -> None:
        ui.notify("Draw a line across the parcel: click where it begins, and twice where it ends. Escape stops.")
        self.layers.draw_line()

    def _join(self) -> None:
        self.merging = True
        self._tools.refresh()

    async def _undo(self) -> None:
        await self._done(await in_thread(undo, self.result.folder))

    async def _done(self, corrections: Corrections) -> None:
        """Show the map as it is now, and the parcel that came of the latest step."""
        made = corrections.steps[-1].made if corrections.steps else ()
        self.view = await in_thread(parcel_of, self.result, made[0].id) if made else None
        self.merging = False
        self._mark()
        self._changed(version_of(self.result.folder), self.view)
        self._tools.refresh()
        self._history.refresh()

    def _mark(self) -> None:
        self.layers.show_outlines([(self.view.outline, SELECTED)] if self.view else [])

    def _include(self, everything: bool) -> None:
        self.everything = everything

    def _export(self) -> None:
        ui.notify("The training data are being put together; the download begins when they are.")
        ui.download.from_url(f"{self.shown.address}/training?everything={str(self.everything).lower()}")
