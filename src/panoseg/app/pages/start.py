"""The page on which a map is started: place, season, and an estimate of time and download."""

from __future__ import annotations

import asyncio
from datetime import date
from html import escape
from pathlib import PurePath
from typing import Any

from nicegui import background_tasks, ui
from nicegui.events import ValueChangeEventArguments

from panoseg.app.estimate import Estimate
from panoseg.app.pages.frame import (
    Visit,
    duration,
    file_drop,
    frame,
    heading,
    in_thread,
    sentence,
    size,
    with_error_messages,
)
from panoseg.app.pages.place import PlaceFinder, PlaceMap, middle_of
from panoseg.app.pages.season import SeasonCard
from panoseg.errors import AppError, PanosegError

_CATALOGUES = {
    "earth-search": "Earth Search (AWS, free)",
    "planetary-computer": "Planetary Computer (Microsoft, free)",
    "copernicus": "Copernicus Data Space (EU)",
}
_KINDS = {"sample": "Sample place", "catalogue": "My own place", "cube": "My own images"}
_SIZES = {128: "1.3 km", 256: "2.6 km", 512: "5.1 km"}
_PAUSE_S = 0.5  # without further changes, before an estimate is computed
_FIRST_YEAR = 2016  # the first with Sentinel-2 from September on
_LAST_MONTH = 10  # of a season


class StartPage:
    """The choices for a map, and the elements that show them."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.kind, self.size, self.landscape, self.year = (
            "sample",
            256,
            0,
            latest_harvest(date.today()),
        )
        self.catalogue = visit.service.settings.catalog
        self.weights = visit.service.weights("map")[0]
        self.name, self.register_url = "", ""
        self.outline: dict[str, Any] | None = None
        self.outline_upload: dict[str, Any] | None = None
        self.season = SeasonCard(visit, self.changed)
        self.register: dict[str, Any] | None = None
        self._changes = 0

    def build(self) -> None:
        """Make the elements of the page."""
        with ui.element("div").classes("split form"):
            with ui.element("aside").props('aria-label="Choices"'):
                heading("Which crops grow where?", 1)
                ui.label("Choose a place and a season; the map of its parcels follows.").classes(
                    "quiet"
                )
                self.kinds = ui.toggle(
                    _KINDS, value=self.kind, on_change=self._kind_selected
                ).props(
                    'unelevated no-caps spread toggle-color="primary" color="grey-3"'
                    ' text-color="grey-9" aria-label="Place"'
                )
                with ui.element("div").classes("stack"):
                    self._place()
                self._more()
                with (
                    ui.element("div").classes("card stack").props('aria-live="polite"') as self.card
                ):
                    pass
                self.button = (
                    ui.button("Start", on_click=with_error_messages(self._start))
                    .props("unelevated size=lg")
                    .classes("start")
                )
            with ui.element("section"):
                self.map = PlaceMap(self.visit.service.settings.background_map, self._outline_drawn)
                self.finder = PlaceFinder(self.map, self._outline_chosen, self.visit)
                self.note = ui.label("").classes("map-note")
        self._show_kind()
        self.changed()

    @ui.refreshable_method
    def _place(self) -> None:
        if self.kind == "sample":
            ui.label(
                "A simulated landscape that no network has seen. Nothing is downloaded."
            ).classes("quiet")
            ui.select(_SIZES, label="Side of the square", on_change=self.changed).bind_value(
                self, "size"
            ).props("outlined dense")
            ui.number(
                "Which place, 0 to 9999",
                min=0,
                max=9999,
                step=1,
                format="%d",
                on_change=self.changed,
            ).bind_value(self, "landscape").props(
                'outlined dense hint="Each number is another simulated place."'
            )
        elif self.kind == "catalogue":
            self._own_place()
        else:
            ui.label("A season of Sentinel-2 as NetCDF, or as a zipped Zarr store.").classes(
                "quiet"
            )
            file_drop(
                "Drop a season here, or choose a file",
                ".nc,.zip",
                self._cube_uploaded,
                self._max_mib,
                refused=self.season.clear,
            )
            self.season.build()

    def _own_place(self) -> None:
        ui.label("Draw a polygon on the map, or:").classes("quiet")
        self.finder.build()
        kinds = ".json,.geojson,.gpkg,.zip,.kml"
        file_drop(
            "Drop an outline here: GeoJSON, GeoPackage, Shapefile (zip), KML",
            kinds,
            self._outline_uploaded,
            self._max_mib,
            refused=self._outline_refused,
        )
        years = {
            year: f"Harvest of {year}" for year in range(date.today().year, _FIRST_YEAR - 1, -1)
        }
        ui.select(years, label="Season", on_change=self.changed).bind_value(self, "year").props(
            "outlined dense"
        )
        known = {**_CATALOGUES}
        known.setdefault(self.visit.service.settings.catalog, self.visit.service.settings.catalog)
        ui.select(
            known,
            label="Catalogue of satellite images",
            on_change=self.changed,
            new_value_mode="add-unique",
            with_input=True,
        ).bind_value(self, "catalogue").props("outlined dense").tooltip(
            "One of these, or the URL of a STAC API"
        )

    def _more(self) -> None:
        with (
            ui.expansion("More choices").classes("w-full").props("dense"),
            ui.element("div").classes("stack"),
        ):
            ui.input("Name of the map").bind_value(self, "name").props(
                "outlined dense maxlength=100"
            )
            names = {
                name: "Weights in the package (trained on simulated seasons)"
                if name == "package"
                else name
                for name in self._weights()
            }
            ui.select(names, label="Weights", on_change=self.changed).bind_value(
                self, "weights"
            ).props("outlined dense")
            ui.label("Official parcels to compare with (optional):").classes("quiet")
            file_drop(
                "Drop a register here: GeoParquet, GeoPackage, GeoJSON, Shapefile (zip)",
                "",
                self._register_uploaded,
                self._max_mib,
                refused=self._register_refused,
            )
            self.register_name = ui.label().classes("quiet")
            ui.input("Or their URL (https://...)", on_change=self.changed).bind_value(
                self, "register_url"
            ).props("outlined dense")

    @property
    def _max_mib(self) -> int:
        return self.visit.service.settings.limits.upload_mib

    def _weights(self) -> list[str]:
        return self.visit.service.weights("map")

    def _kind_selected(self, event: ValueChangeEventArguments[str]) -> None:
        self.kind = event.value
        self._place.refresh()
        self._show_kind()
        self.changed()

    def _show_kind(self) -> None:
        texts = {
            "sample": "The sample place is simulated; it does not exist.",
            "cube": "The location is read from the images.",
        }
        self.note.set_text(texts.get(self.kind, "Draw your area with the tools on the left."))
        self.note.set_visibility(
            self.kind != "catalogue" or not (self.outline or self.outline_upload)
        )

    async def _outline_drawn(self, outline: dict[str, Any]) -> None:
        await self._outline_chosen(outline)
        await self.finder.say(outline)

    async def _outline_chosen(self, outline: dict[str, Any]) -> None:
        self.outline, self.outline_upload = outline, None
        self.kinds.set_value("catalogue")
        self._show_kind()
        self.changed()

    async def _outline_uploaded(self, upload: dict[str, Any]) -> None:
        self.outline, self.outline_upload = None, upload
        outline = upload["summary"].get("outline")
        self.map.show(outline)
        if outline:
            await self.finder.say(outline)
        self._show_kind()
        self.changed()

    def _outline_refused(self) -> None:
        self.outline = self.outline_upload = None
        self.map.show(None)
        self._show_kind()
        self.changed()

    def _register_refused(self) -> None:
        self.register = None
        self.register_name.set_text("")
        self.changed()

    async def _cube_uploaded(self, upload: dict[str, Any]) -> None:
        if upload["kind"] != "cube":
            self.season.clear()
            raise AppError(f"This file is a {upload['kind']}, not a season; choose another.")
        self.season.show(upload)

    async def _register_uploaded(self, upload: dict[str, Any]) -> None:
        self.register = upload
        self.register_name.set_text(f"{upload['name']}, {size(upload['bytes'])}")
        self.changed()

    def request(self) -> dict[str, Any] | None:
        """Return the request as the API describes it, or None while something is missing."""
        source = self._source()
        if source is None:
            return None
        register: dict[str, Any] | None = {"url": self.register_url} if self.register_url else None
        if self.register:
            register = {"upload": self.register["id"]}
        name = self.name.strip() or self._default_name()
        return {
            "kind": "map",
            "name": name,
            "source": source,
            "weights": self.weights,
            "register_of": register,
        }

    def _default_name(self) -> str:
        """Return a name that distinguishes the map from others."""
        if self.kind == "sample":
            return f"Sample place {int(self.landscape or 0)}"
        if self.kind == "cube":
            return str((self.season.upload or {}).get("name"))
        if self.outline_upload:
            return f"{PurePath(self.outline_upload['name']).stem[:80]}, {self.year}"
        return f"{middle_of(self.outline or {})}, {self.year}"

    def _source(self) -> dict[str, Any] | None:
        if self.kind == "sample":
            return {"type": "sample", "size": self.size, "seed": int(self.landscape or 0)}
        if self.kind == "cube":
            return self.season.source()
        if not (self.outline or self.outline_upload):
            return None
        place = (
            {"upload": self.outline_upload["id"]}
            if self.outline_upload
            else {"outline": self.outline}
        )
        return {"type": "catalogue", "catalogue": self.catalogue, "year": self.year, **place}

    async def _start(self) -> None:
        request = self.request()
        if request is not None:
            self.button.props("loading")
            try:
                job = await in_thread(self.visit.service.submit, self.visit.user, request)
                ui.navigate.to(f"/jobs/{job.id}")
            finally:
                self.button.props(remove="loading")

    def changed(self, *_: object) -> None:
        """Update the estimate, as soon as nothing else has changed for a moment."""
        self._changes += 1
        background_tasks.create(self._estimate(self._changes), name="estimate")

    async def _estimate(self, change: int) -> None:
        await asyncio.sleep(_PAUSE_S)
        if change != self._changes or self.card.is_deleted:
            return
        request = self.request()
        self._show(
            self._missing() if request is None else "Looking for images …",
            ready=False,
        )
        if request is None:
            return
        try:
            estimate = await in_thread(self.visit.service.estimate, self.visit.user, request)
        except PanosegError as error:
            if change == self._changes and not self.card.is_deleted:
                self._show(sentence(error), ready=False, wrong=True)
            return
        except Exception:  # otherwise the card would stay at "Looking for images"
            self._show("The estimate failed; try again.", ready=False, wrong=True)
            raise
        if change == self._changes and not self.card.is_deleted:
            self._show(estimate, ready=True)

    def _missing(self) -> str:
        """Return what has to be entered next."""
        if self.kind == "cube":
            return self.season.missing
        return "Choose an area: draw, type or upload it."

    def _show(self, content: Estimate | str, *, ready: bool, wrong: bool = False) -> None:
        self.button.set_enabled(ready)
        self.card.clear()
        with self.card:
            if isinstance(content, Estimate):
                show_estimate(content)
            else:
                ui.label(content).classes("wrong" if wrong else "quiet").props(
                    'role="alert"' if wrong else ""
                )


def show_estimate(estimate: Estimate) -> None:
    """Show area, time and download of a map, and the cloud cover of each date."""
    clear = sum(scene.cloud_percent <= 50 for scene in estimate.scenes)
    rows = {
        "Area": f"{estimate.km2:,.1f} km²" if estimate.km2 else "as in the file",
        "Time": f"about {duration(estimate.seconds)}",
        "Images": (
            f"{len(estimate.scenes)} dates, {clear} of them mostly clear"
            if estimate.scenes
            else "as in the file"
        ),
        "Download": size(estimate.download_bytes) if estimate.download_bytes else "nothing",
    }
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items()
    )
    ui.html(f'<dl class="figures">{cells}</dl>', sanitize=False)
    if estimate.scenes:
        bars = "".join(
            f'<i class="{"cloudy" if scene.cloud_percent > 50 else ""}"'
            f' style="height:{max(4, 100 - scene.cloud_percent):.0f}%" title="{scene.date}:'
            f' {scene.cloud_percent:.0f} % clouds"></i>'
            for scene in estimate.scenes
        )
        label = f"Clear sky by date, {estimate.scenes[0].date} to {estimate.scenes[-1].date}"
        ui.html(f'<div class="clouds" role="img" aria-label="{label}">{bars}</div>', sanitize=False)
        ui.label(f"{label}; grey: mostly cloudy").classes("quiet")
    for note in estimate.notes:
        ui.label(note).classes("quiet")


def latest_harvest(today: date) -> int:
    """Return the harvest year of the latest season that is over.

    >>> latest_harvest(date(2026, 10, 31)), latest_harvest(date(2026, 11, 1))
    (2025, 2026)
    """
    return today.year if today.month > _LAST_MONTH else today.year - 1


def start_page(visit: Visit) -> None:
    """Make the page on which a map is started."""
    with frame("New map", "/", visit.user):
        StartPage(visit).build()
