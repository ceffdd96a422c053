"""Corrections on the page of a map: another crop, a cut along a line, two parcels made one, undo;
and what becomes of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from nicegui import ui

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
    drop,
    empty,
    heading,
    hectares,
    in_thread,
    sentence,
    told,
)
from panoseg.app.pages.layers_bar import SELECTED, LayersBar
from panoseg.app.pages.result_context import Shown
from panoseg.app.parcels import NdviCurve, ParcelView, curve_of, outline_of, parcel_of
from panoseg.app.result_map import ResultMap, crops
from panoseg.app.tiles import DIFFERENCE_COLOURS
from panoseg.errors import AppError, NotFoundError, PanosegError

_STEPS = {"crop": "other crop", "split": "cut", "merge": "joined"}
_MOST_STEPS = 12


class CorrectionsPanel:
    """What is done to the parcel that is chosen. merging: the next click chooses its neighbour.

    changed: called after a correction with the version of the map and the parcel that came of it.
    """

    def __init__(
        self, shown: Shown, layers: LayersBar, changed: Callable[[int, ParcelView | None], None]
    ) -> None:
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
                    "Click the one that is wrong, or give its number under Parcel; then say what it"
                    " is, cut it, or join it with another.",
                )
                return
            view = self.view
            with ui.element("div").classes("line"):
                ui.element("span").classes("swatch").style(f"background: {view.colour}")
                heading(f"Parcel {view.id}: {view.crop}")
                ui.label(hectares(view.area_ha)).classes("quiet")
            ui.select(
                crops(self.result.classes),
                value=view.crop,
                label="It grows",
                on_change=told(self._crop),
            ).props("outlined dense options-dense")
            with ui.element("div").classes("line"):
                ui.button("Cut along a line", on_click=self._cut).props("outline")
                ui.button("Join with a neighbour", on_click=self._join).props("outline")
            if self.merging:
                ui.label("Click the neighbour on the map, or:").classes("quiet")
                ui.input("Number of the neighbour").props("outlined dense autofocus").on(
                    "change", told(self._neighbour)
                )

    @ui.refreshable_method
    def _history(self) -> None:
        steps = read_corrections(self.result.folder).steps
        with ui.element("div").classes("stack"):
            heading("Corrections")
            if not steps:
                ui.label(
                    "None yet. The prediction stays as it is; corrections are kept beside it."
                ).classes("quiet")
                return
            items = "".join(
                f"<li>{_STEPS[step.what]}:"
                f" {escape(', '.join(parcel.crop for parcel in step.made))}</li>"
                for step in reversed(steps[-_MOST_STEPS:])
            )
            ui.html(
                f"<ol reversed start={len(steps)}"
                f" style='padding-left:1.6rem;margin:0'>{items}</ol>",
                sanitize=False,
            )
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
            await self._done(
                await in_thread(merge_parcels, self.result, self.view.id, neighbour.id)
            )

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
        ui.notify(
            "Draw a line across the parcel: click where it begins, and twice where it ends. Escape"
            " stops."
        )
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
        ui.download.from_url(
            f"{self.shown.address}/training?everything={str(self.everything).lower()}"
        )


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
                empty(
                    "No official parcels",
                    "Compare the map with a register of parcels: where do they agree?",
                )
        if self.shown.visit:
            self._give()

    def _give(self) -> None:
        title = (
            "Use other official parcels"
            if self.shown.description["official"]
            else "Add official parcels"
        )
        folded = (
            ui.expansion(title, value=not self.shown.description["official"])
            .props("dense")
            .classes("w-full")
        )
        with folded, ui.element("div").classes("stack"):
            drop(
                "Drop a register here: GeoParquet, GeoPackage, GeoJSON, Shapefile (zip)",
                "",
                self._uploaded,
                _most(self.shown),
            )
            ui.input("or its address (https://...)").bind_value(self, "address").props(
                "outlined dense"
            )
            ui.button("Fetch", on_click=told(self._fetch)).props("outline")
            table = (
                "Their crops are codes? First drop a table of them here: CSV with the columns code"
                " and class"
            )
            drop(table, ".csv", self._named, _most(self.shown))
            self.codes_name = ui.label().classes("quiet")

    async def _named(self, upload: dict[str, Any]) -> None:
        if upload["kind"] != "codes":
            raise AppError(
                f"a file that is a {upload['kind']}",
                "a CSV with the columns code and class",
                "choose another",
            )
        self.codes = {"codes": upload["id"]}
        self.codes_name.set_text(f"{upload['summary']['codes']} codes by {upload['name']}")

    async def _uploaded(self, upload: dict[str, Any]) -> None:
        await self._compare({"upload": upload["id"]})

    async def _fetch(self) -> None:
        await self._compare({"url": self.address.strip()})

    async def _compare(self, register: dict[str, Any]) -> None:
        visit = self.shown.visit
        assert visit is not None, "only an owner gives official parcels"
        await in_thread(
            visit.service.set_register, visit.user, self.shown.job.id, register | self.codes
        )
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
        ui.label(f"{len(found.invented):,} parcels of the map match no official one.").classes(
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
        cells = "".join(
            f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items()
        )
        ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)


_SHARES = {
    "probability": ("What the network takes it for", "Probability"),
    "area": ("Pixels inside its outline", "Share"),
}
_LINE, _CLOUDY, _BAND = "#1c6b45", "#8b958f", "rgba(28,107,69,0.16)"


class ParcelPanel:
    """Shows one parcel. select: called with the one that was asked for by its number."""

    def __init__(self, result: ResultMap, select: Callable[..., Awaitable[None]]) -> None:
        self.result, self._select = result, select
        self.view: ParcelView | None = None

    def build(self) -> None:
        """The panel."""
        with ui.element("div").classes("stack"):
            with ui.element("div").props('aria-live="polite"') as self.box:
                empty("No parcel chosen", "Click a parcel on the map, or type its number.")
            ui.input("Number of a parcel").props("outlined dense").on("change", told(self._asked))

    async def _asked(self, event: Any) -> None:
        number = str(event.sender.value or "").strip()
        if number:
            await self._select(await in_thread(parcel_of, self.result, number), go=True)

    async def show(self, view: ParcelView | None) -> None:
        """Show a parcel; its curve follows when it is there."""
        self.view = view
        self.box.clear()
        with self.box:
            if view is None:
                empty(
                    "No parcel here",
                    "Between parcels are towns, woods, water and roads. Click a coloured place.",
                )
                return
            _parcel_facts(view, self.result)
            chart = ui.element("div").classes("w-full")
            with chart:
                ui.skeleton(height="190px").classes("w-full")
        try:
            curve: NdviCurve | PanosegError = await in_thread(self._curve, view.id)
        except NotFoundError:
            return  # it was corrected meanwhile
        except PanosegError as error:
            curve = error
        if self.view is view and not chart.is_deleted:
            chart.clear()
            with chart:
                if isinstance(curve, PanosegError):
                    ui.label(f"Its NDVI cannot be shown. {sentence(curve)}").classes("wrong")
                else:
                    _chart(curve)

    def _curve(self, id_: str) -> NdviCurve:
        return curve_of(self.result.folder, outline_of(self.result, id_))


def _parcel_facts(view: ParcelView, result: ResultMap) -> None:
    with ui.element("div").classes("stack"):
        with ui.element("div").classes("line"):
            ui.element("span").classes("swatch").style(f"background: {view.colour}")
            heading(view.crop)
            ui.label(f"parcel {view.id}" + (", corrected" if view.corrected else "")).classes(
                "quiet"
            )
        sure = "a person said so" if view.confidence is None else f"{view.confidence:.0%}"
        cells = f"<div><dt>Area</dt><dd>{hectares(view.area_ha)}</dd></div><div><dt>Confidence</dt><dd>{sure}</dd></div>"
        ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)
        ui.html(_shares(view, result), sanitize=False)


def _shares(view: ParcelView, result: ResultMap) -> str:
    """The table of shares; what is less than a hundredth stands in one row."""
    what, number = _SHARES[view.shares_of]
    colours = {entry.name: entry.colour for entry in result.classes.classes}
    told = [(name, share) for name, share in view.shares if share >= 0.01]
    rest = sum(share for _, share in view.shares) - sum(share for _, share in told)
    rows = [
        '<tr><td><span class="swatch"'
        f' style="background:{colours[name]};vertical-align:-2px"></span> {escape(name)}</td><td'
        f" class=number>{share:.1%}</td></tr>"
        for name, share in told
    ]
    if rest >= 0.0005:
        rows.append(f"<tr><td>other</td><td class=number>{rest:.1%}</td></tr>")
    return (
        f'<table class="plain"><tr><th>{what}</th><th'
        f" class=number>{number}</th></tr>{''.join(rows)}</table>"
    )


def _chart(curve: NdviCurve) -> None:
    """NDVI with the quartiles of the pixels; dates in cloud are grey and not on the line."""
    rows = zip(curve.dates, curve.mean, curve.low, curve.high, curve.cloudy, strict=True)
    seen = [
        (day, mean, low, high, cloudy)
        for day, mean, low, high, cloudy in rows
        if None not in (mean, low, high)
    ]
    clear = [[day, mean] for day, mean, _, _, cloudy in seen if not cloudy]
    grey = [[day, mean] for day, mean, _, _, cloudy in seen if cloudy]
    band = [(day, low or 0.0, high or 0.0) for day, _, low, high, cloudy in seen if not cloudy]
    area = {
        "type": "line",
        "stack": "band",
        "symbol": "none",
        "lineStyle": {"opacity": 0},
        "silent": True,
    }
    low_line = area | {"data": [[day, low] for day, low, _ in band]}
    high_line = area | {
        "data": [[day, round(high - low, 4)] for day, low, high in band],
        "areaStyle": {"color": _BAND},
    }
    line = {
        "type": "line",
        "name": "clear",
        "data": clear,
        "symbolSize": 6,
        "color": _LINE,
        "lineStyle": {"width": 2},
    }
    dots = {
        "type": "scatter",
        "name": "in cloud",
        "data": grey,
        "symbolSize": 7,
        "symbol": "triangle",
        "color": _CLOUDY,
    }
    options = {
        "animation": False,
        "grid": {"left": 36, "right": 10, "top": 30, "bottom": 26},
        "legend": {"top": 0, "data": ["clear", "in cloud"], "textStyle": {"color": "#1b2620"}},
        "tooltip": {"trigger": "item"},
        "xAxis": {"type": "time", "axisLabel": {"color": "#55615a", "hideOverlap": True}},
        "yAxis": {
            "type": "value",
            "min": -0.2,
            "max": 1,
            "axisLabel": {"color": "#55615a"},
            "name": "NDVI",
        },
        "series": [low_line, high_line, line, dots],
    }
    label = f"NDVI on {len(clear)} clear dates; {len(grey)} dates in cloud"
    ui.echart(options).style("height: 220px; width: 100%").props(f'role="img" aria-label="{label}"')
    ui.label(f"{label}. The band holds the middle half of its pixels.").classes("quiet")
