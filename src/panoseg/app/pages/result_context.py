"""What all parts of the page of a result share: its context, downloads, and the shared link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nicegui import ui

from panoseg.app.exports import Format
from panoseg.app.job_views import JobView
from panoseg.app.pages.frame import BROWSER_S, Visit, heading, in_thread, size, with_error_messages
from panoseg.app.result_map import ResultMap
from panoseg.app.service import ResultFile, Service


@dataclass(frozen=True)
class ResultContext:
    """A result that is shown on a page."""

    service: Service
    """The service behind the page."""
    job: JobView
    """The finished job."""
    address: str
    """Address of the API of the result, e.g. /api/jobs/ID."""
    visit: Visit | None
    """The visit of the owner; None for a shared result, which is read-only."""
    result: ResultMap
    """The map."""
    description: dict[str, Any]
    """The map as ``panoseg.app.result_api.describe_result`` returns it."""


_CORRECTED: dict[Format, str] = {
    "gpkg": "Parcels, GeoPackage",
    "parquet": "Parcels, GeoParquet",
    "geojson": "Parcels, GeoJSON",
    "shapefile": "Parcels, Shapefile (zip)",
    "areas": "Areas by crop, CSV",
}
_NAMES = {
    "map/parcels.parquet": "Parcels, GeoParquet",
    "map/parcels.gpkg": "Parcels, GeoPackage",
    "map/parcels.pmtiles": "Parcels, PMTiles for web maps",
    "map/classes.tif": "Crops, GeoTIFF",
    "map/segments.tif": "Parcel numbers, GeoTIFF",
    "map/confidence.tif": "Confidence, GeoTIFF",
    "map/areas.csv": "Areas by crop, CSV",
    "map/report.html": "Report, HTML",
    "map/map.json": "How it was made, JSON",
    "map/item.json": "STAC item, JSON",
    "refined/parcels.parquet": "Crops of official parcels, GeoParquet",
    "refined/official.gpkg": "Official parcels with differences, GeoPackage",
    "refined/classes.tif": "Crops of official parcels, GeoTIFF",
    "photo/overlay/photograph.jpg": "Overlay, JPEG",
    "photo/panoptic/photograph.png": "Segments, COCO panoptic PNG",
    "photo/panoptic.json": "Segments, COCO panoptic JSON",
    "photo/segments.csv": "Table of segments, CSV",
    "photo/image.jpg": "The photograph, JPEG",
}
_ORDER = {path: place for place, path in enumerate(_NAMES)}
_LEFT_OUT = ("refined/source.json", "refined/invented.json")


def result_actions(context: ResultContext) -> None:
    """Add the button for downloads and, for the owner, the button to share the result."""
    service, visit = context.service, context.visit
    token = context.address.rsplit("/", 1)[-1]
    files = service.files(visit.user, context.job.id) if visit else service.shared_files(token)
    with ui.dropdown_button("Download", auto_close=True).props("unelevated no-caps"):
        _menu_title("As corrected by you" if visit else "As corrected")
        for form, text in _CORRECTED.items():
            _menu_item(text, f"{context.address}/corrected/{form}")
        _menu_title("As predicted")
        _file_items(files, context.address)
    if visit:
        ui.button("Share", on_click=with_error_messages(lambda: share(visit, context.job))).props(
            "outline"
        )


def download_button(files: list[ResultFile], address: str) -> None:
    """Add a menu of the files of a result. address: address of the API of the result."""
    with ui.dropdown_button("Download", auto_close=True).props("unelevated no-caps"):
        _file_items(files, address)


def _file_items(files: list[ResultFile], address: str) -> None:
    for file in sorted(files, key=lambda file: _ORDER.get(file.path, len(_ORDER))):
        if file.path not in _LEFT_OUT:
            text = f"{_NAMES.get(file.path, file.path)} ({size(file.bytes)})"
            _menu_item(text, f"{address}/files/{file.path}")


def _menu_title(text: str) -> None:
    ui.item_label(text).props("header").classes("quiet")


def _menu_item(text: str, address: str) -> None:
    ui.item(text, on_click=lambda: ui.download.from_url(address))


async def share(visit: Visit, job: JobView) -> None:
    """Show the link with which anyone can open the result, until sharing is stopped."""
    token = await in_thread(visit.service.share, visit.user, job.id)
    # Only the browser knows the address of the server behind a proxy; one that draws tiles is slow.
    origin = await ui.run_javascript("location.origin", timeout=BROWSER_S)
    with (
        ui.dialog(value=True) as dialog,
        ui.card().classes("stack").style("min-width: min(520px, 90vw)"),
    ):
        heading("Share by a link")
        ui.label(
            "Anyone with the link can see and download the result, but not change it."
        ).classes("quiet")
        ui.input("Link", value=f"{origin}/shared/{token}").props("outlined dense readonly").classes(
            "w-full share-link"
        )

        @with_error_messages
        async def end() -> None:
            await in_thread(visit.service.unshare, visit.user, job.id)
            dialog.close()
            ui.notify("The link no longer works.")

        async def copy() -> None:
            done = await ui.run_javascript(
                "panoseg.copy(document.querySelector('.share-link input'))", timeout=BROWSER_S
            )
            ui.notify(
                "The link is copied."
                if done
                else "The browser did not copy the link; select it and copy it."
            )

        with ui.element("div").classes("line"):
            ui.button("Copy", on_click=copy).props("unelevated")
            ui.button("Stop sharing", on_click=end).props("flat color=negative")
            ui.button("Close", on_click=dialog.close).props("flat")
