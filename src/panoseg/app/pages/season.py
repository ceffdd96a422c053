"""The card of an uploaded season: how it is understood, and fields to correct this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from html import escape
from typing import Any

from nicegui import ui

from panoseg.app.pages.frame import Visit, in_thread, size, with_error_messages
from panoseg.app.requests import FIELD_LABELS

_SHOWN_ROWS = (
    "Format",
    "Bands",
    "Values",
    "No data",
    "Coordinate system",
    "Place",
    "Season",
    "Dates",
    "Data",
)
_HINTS = {
    "bands": "e.g. B02=blue,B03=green,B04=red",
    "nodata": "e.g. -9999",
    "scale": "e.g. 0.0001",
    "offset": "e.g. -1000",
    "crs": "e.g. EPSG:32631",
    "season_start": "e.g. 05-01",
    "first": "e.g. 2019-05-01",
    "last": "e.g. 2020-01-31",
}
_LONGEST = {"bands": 1000}
_MAX_LENGTH = 60


class SeasonCard:
    """Shows what the check of an uploaded season found.

    Args:
        visit: The user who looks at the page.
        changed: Called when another season was uploaded or checked, or a field was edited.
    """

    def __init__(self, visit: Visit, changed: Callable[[], None]) -> None:
        self.visit, self._changed = visit, changed
        self.upload: dict[str, Any] | None = None
        self.fields: dict[str, str] = {}

    @property
    def missing(self) -> str:
        """What has to be done before a map can be started; empty if nothing."""
        if self.upload is None:
            return "Choose a file with a season of images."
        if self._given() != self._checked():
            return "Press “Check again”: the fields have changed."
        if self._summary.get("problem"):
            return "The season cannot be mapped like this: state what its file does not say."
        return ""

    def source(self) -> dict[str, Any] | None:
        """Return the season for a request, or None while something is missing."""
        if self.upload is None or self.missing:
            return None
        return {"type": "cube", "upload": self.upload["id"], "read": self._summary.get("read", {})}

    def show(self, upload: dict[str, Any]) -> None:
        """Show an upload; its fields are those of its latest check."""
        self.upload = upload
        self.fields = dict.fromkeys(FIELD_LABELS, "") | self._checked()
        self.build.refresh()
        self._changed()

    def clear(self) -> None:
        """Forget the upload: another file was refused."""
        self.upload = None
        self.build.refresh()
        self._changed()

    @ui.refreshable_method
    def build(self) -> None:
        """Make the elements of the card; none before an upload."""
        if self.upload is None:
            return
        summary = self._summary
        with ui.element("div").classes("card stack season").props('aria-live="polite"'):
            ui.label(f"{self.upload['name']}, {size(self.upload['bytes'])}").classes("quiet")
            if summary.get("problem"):
                ui.label(summary["problem"]).classes("wrong").props('role="alert"')
            self._rows(summary)
            for warning in summary.get("warnings", ()):
                ui.label(warning).classes("quiet note")
            self._dates(summary)
            if summary.get("content"):
                _folded("What the file holds", [escape(line) for line in summary["content"]])
            self._correction(opened=bool(summary.get("problem")))

    def _rows(self, summary: dict[str, Any]) -> None:
        cells = "".join(
            f"<dt>{escape(label)}</dt><dd>{escape(_short(label, text))}</dd>"
            for label, text in summary.get("rows", ())
            if label in _SHOWN_ROWS
        )
        if cells:
            ui.html(f'<dl class="facts">{cells}</dl>', sanitize=False)

    def _dates(self, summary: dict[str, Any]) -> None:
        days = summary.get("days", ())
        if not days:
            return
        lines = [
            f"<b>{escape(day['date'])}</b> {_clear(day)}"
            if day["used"]
            else f"<s>{escape(day['date'])}</s> not used: {escape(day['reason'])}"
            for day in days
        ]
        _folded(f"Dates, {summary['used']} of {summary['dates']} used", lines)

    def _correction(self, *, opened: bool) -> None:
        with (
            ui.expansion("State what the file does not say", value=opened)
            .props("dense")
            .classes("w-full"),
            ui.element("div").classes("fields"),
        ):
            for name, label in FIELD_LABELS.items():
                ui.input(label, on_change=self._changed).bind_value(self.fields, name).props(
                    f'outlined dense stack-label placeholder="{_HINTS[name]}"'
                    f" maxlength={_LONGEST.get(name, _MAX_LENGTH)}"
                ).classes("wide" if name == "bands" else "")
            self.button = ui.button(
                "Check again", on_click=with_error_messages(self._check_again)
            ).props("outline")

    async def _check_again(self) -> None:
        assert self.upload is not None
        button, service = self.button, self.visit.service
        button.props("loading")
        try:
            checked = await in_thread(
                service.uploads.check_season, self.visit.user, self.upload["id"], self._given()
            )
        finally:
            button.props(remove="loading")
        self.show(asdict(checked))

    @property
    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = (self.upload or {}).get("summary", {})
        return summary

    def _given(self) -> dict[str, str]:
        """Return the fields that are filled in."""
        given = {name: str(text or "").strip() for name, text in self.fields.items()}
        return {name: text for name, text in given.items() if text}

    def _checked(self) -> dict[str, str]:
        """Return the fields of the latest check, as text."""
        return {
            name: f"{value:.15g}" if isinstance(value, float) else str(value)
            for name, value in self._summary.get("read", {}).items()
            if name in FIELD_LABELS
        }


def _folded(title: str, lines: list[str]) -> None:
    """Add a folded list of HTML lines."""
    with ui.expansion(title).props("dense").classes("w-full"):
        items = "".join(f"<li>{line}</li>" for line in lines)
        ui.html(
            f'<ul class="lines" tabindex="0" aria-label="{escape(title)}">{items}</ul>',
            sanitize=False,
        )


def _short(label: str, text: str) -> str:
    """Return the text of a row without line breaks in pairs of bands, and without the corner."""
    if label == "Bands":
        return text.replace(" = ", "\u00a0=\u00a0")
    return text.partition(";")[0] if label == "Place" else text


def _clear(day: dict[str, Any]) -> str:
    return "used" if day["clear"] is None else f"used, {day['clear']:.0%} clear"
