"""The panel of one parcel: crop, area, confidence, shares of the classes, and its NDVI curve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from html import escape

from nicegui import ui
from nicegui.events import GenericEventArguments

from panoseg.app.pages.frame import (
    empty_state,
    entered_text,
    heading,
    hectares,
    in_thread,
    sentence,
    with_error_messages,
)
from panoseg.app.parcels import NdviCurve, ParcelView, curve_of, outline_of, parcel_of
from panoseg.app.result_map import ResultMap
from panoseg.errors import NotFoundError, PanosegError

_SHARES = {
    "probability": ("Class", "Probability"),
    "area": ("Class of the pixels inside", "Share"),
}
_LINE, _CLOUDY, _BAND = "#1c6b45", "#8b958f", "rgba(28,107,69,0.16)"


class ParcelPanel:
    """Shows one parcel.

    Args:
        result: The map.
        select: Called with the parcel whose number was entered.
        turn: Held while an entry is carried out.
    """

    def __init__(
        self, result: ResultMap, select: Callable[..., Awaitable[None]], turn: asyncio.Lock
    ) -> None:
        self.result, self._select, self.turn = result, select, turn
        self.view: ParcelView | None = None

    def build(self) -> None:
        """Make the elements of the panel."""
        with ui.element("div").classes("stack"):
            with ui.element("div").props('aria-live="polite"') as self.box:
                empty_state("No parcel selected", "Click a parcel on the map, or enter its number.")
            ui.input("Number of a parcel").props("outlined dense").on(
                "change", with_error_messages(self._number_entered)
            )

    async def _number_entered(self, event: GenericEventArguments) -> None:
        number = entered_text(event)
        async with self.turn:
            if number:
                await self._select(await in_thread(parcel_of, self.result, number), go=True)

    async def show(self, view: ParcelView | None) -> None:
        """Show a parcel, and its NDVI curve as soon as it is computed."""
        self.view = view
        self.box.clear()
        with self.box:
            if view is None:
                empty_state(
                    "No parcel here",
                    "Land between parcels is town, forest, water or road. Click a coloured area.",
                )
                return
            _parcel_facts(view, self.result)
            chart = ui.element("div").classes("w-full")
            with chart:
                ui.skeleton(height="190px").classes("w-full")
            # The next click does not wait for the curve.
            ui.timer(0, lambda: self._add_curve(view, chart), once=True)

    async def _add_curve(self, view: ParcelView, chart: ui.element) -> None:
        try:
            curve: NdviCurve | PanosegError = await in_thread(self._curve, view.id)
        except NotFoundError:
            return  # the parcel was corrected in the meantime
        except PanosegError as error:
            curve = error
        if self.view is view and not chart.is_deleted:
            chart.clear()
            with chart:
                if isinstance(curve, PanosegError):
                    ui.label(f"The NDVI cannot be shown. {sentence(curve)}").classes("wrong")
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
        sure = "corrected" if view.confidence is None else f"{view.confidence:.0%}"
        rows = {"Area": hectares(view.area_ha), "Confidence": sure}
        cells = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows.items())
        ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)
        ui.html(share_table(view, result), sanitize=False)
        if view.confidence is not None:
            ui.label(
                "Confidence is how surely there is one field with this crop here. A probability"
                " only compares the crops: one can lead clearly in a field that is unsure itself."
            ).classes("quiet")


def share_table(view: ParcelView, result: ResultMap) -> str:
    """Return the shares of the classes as an HTML table, with those below 1 % in one row."""
    what, number = _SHARES[view.shares_of]
    colours = {entry.name: entry.colour for entry in result.classes.classes}
    large = [(name, share) for name, share in view.shares if share >= 0.01]
    rest = sum(share for _, share in view.shares) - sum(share for _, share in large)
    rows = [
        '<tr><td><span class="swatch"'
        f' style="background:{colours[name]};vertical-align:-2px"></span> {escape(name)}</td><td'
        f" class=number>{share:.1%}</td></tr>"
        for name, share in large
    ]
    if rest >= 0.0005:
        rows.append(f"<tr><td>other</td><td class=number>{rest:.1%}</td></tr>")
    return (
        f'<table class="plain"><tr><th>{what}</th><th'
        f" class=number>{number}</th></tr>{''.join(rows)}</table>"
    )


def _chart(curve: NdviCurve) -> None:
    """Draw the mean and the quartiles of NDVI; cloudy dates are grey and off the line."""
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
        "name": "cloudy",
        "data": grey,
        "symbolSize": 7,
        "symbol": "triangle",
        "color": _CLOUDY,
    }
    options = {
        "animation": False,
        "grid": {"left": 36, "right": 10, "top": 30, "bottom": 26},
        "legend": {"top": 0, "data": ["clear", "cloudy"], "textStyle": {"color": "#1b2620"}},
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
    label = f"NDVI on {len(clear)} clear dates; {len(grey)} cloudy dates"
    ui.echart(options).classes("chart").style("height: 220px; width: 100%").props(
        f'role="img" aria-label="{label}"'
    )
    ui.label(f"{label}. The band covers the middle half of the pixels.").classes("quiet")
