"""The pages of photographs: upload, and result.

The upload page warns if the published network is neither on this machine nor can be
downloaded. PyTorch is not imported for that: nothing else in the server needs it.
"""

from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nicegui import ui

from panoseg.app.job_views import JobView
from panoseg.app.pages.frame import (
    Visit,
    empty_state,
    file_drop,
    frame,
    heading,
    in_thread,
    with_error_messages,
)
from panoseg.app.pages.job import ask_delete, show_not_available
from panoseg.app.pages.result_context import download_button, share
from panoseg.app.service import ResultFile
from panoseg.app.stages import PHOTO
from panoseg.errors import NotFoundError, PanosegError

PUBLISHED = "coco"
"""Name of the published network in the settings."""
URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
_TIMEOUT_S = 5.0
_CACHE_S = 60


@dataclass(frozen=True)
class Published:
    """Availability of the published network."""

    path: Path
    """File in the cache of PyTorch, whether it exists or not."""
    cached: bool
    """Whether the file exists."""
    available: bool
    """Whether the file exists or can be downloaded."""


def find_published() -> Published:
    """Look for the network in the cache, or else check that its URL responds within seconds."""
    path = checkpoints() / URL.rsplit("/", 1)[-1]
    cached = path.is_file()
    return Published(path, cached, cached or _reachable(int(time.monotonic() / _CACHE_S)))


def checkpoints() -> Path:
    """Return the folder of checkpoints that PyTorch has downloaded, as in ``torch.hub.get_dir``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"


@lru_cache(1)
def _reachable(minute: int) -> bool:
    """Return whether the URL responds; the cached result is valid for one value of ``minute``."""
    import httpx

    try:
        return httpx.head(URL, timeout=_TIMEOUT_S, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


_MAX_ROWS = 200
_NETWORKS = {PUBLISHED: "Mask R-CNN of torchvision: 80 kinds of objects"}


class UploadPage:
    """Upload of a photograph, and choice of the network that segments it."""

    def __init__(self, visit: Visit, names: list[str]) -> None:
        self.visit, self.weights = visit, names[0]
        self.names = names

    def build(self) -> None:
        """Make the elements of the page."""
        heading("What is on a photograph?", 1)
        ui.label("Every pixel gets a class, and every object its own outline.").classes("quiet")
        if len(self.names) > 1:
            ui.select(
                {name: _NETWORKS.get(name, name) for name in self.names},
                label="Network",
                on_change=self._show_upload,
            ).bind_value(self, "weights").props("outlined dense")
        self.box = ui.element("div").classes("stack").props('aria-live="polite"')
        with self.box:
            ui.skeleton(height="120px").classes("w-full")
        ui.timer(0.1, self._show_upload, once=True)

    async def _show_upload(self) -> None:
        """Show the upload, or how to get the network if it is not available."""
        chosen = self.visit.service.settings.photo_weights_folder(self.weights)
        published = await in_thread(find_published) if chosen == Path(PUBLISHED) else None
        if self.box.is_deleted:
            return
        self.box.clear()
        with self.box:
            if published and not published.available:
                empty_state(
                    "The network for photographs is not on this server",
                    _how_to_get(published),
                    alert=True,
                )
                return
            if published and not published.cached:
                ui.label(
                    "The first photograph takes longer: the network (178 MB) is downloaded once."
                ).classes("quiet")
            file_drop(
                "Drop a photograph here, or choose one: JPEG, PNG, WebP, TIFF",
                "image/*",
                self._uploaded,
                self.visit.service.settings.limits.upload_mib,
                large=True,
            )

    async def _uploaded(self, upload: dict[str, Any]) -> None:
        request = {
            "kind": "photo",
            "name": upload["name"],
            "upload": upload["id"],
            "weights": self.weights,
        }
        job = await in_thread(self.visit.service.submit, self.visit.user, request)
        ui.navigate.to(f"/jobs/{job.id}")


def _how_to_get(published: Published) -> str:
    """Return what the administrator can do if the network cannot be downloaded."""
    return (
        f"It cannot be downloaded from {urlsplit(URL).hostname} at the moment. Connect the server"
        f" to the Internet once, put {published.path.name} into the cache of PyTorch, or start the"
        " server with other weights: panoseg app --photo-weights FOLDER."
    )


def photo_page(visit: Visit) -> None:
    """Make the page on which a photograph is uploaded."""
    with frame("Photograph", "/photo", visit.user), ui.element("div").classes("page"):
        names = visit.service.weights("photo")
        if names:
            UploadPage(visit, names).build()
        else:
            text = (
                "This server was started without a network for photographs. Start it with"
                " panoseg app --photo-weights FOLDER."
            )
            empty_state("No network for photographs", text)


def photo_result_page(visit: Visit, id_: str) -> None:
    """Make the page of a segmented photograph."""
    with frame("Photograph", "/photo", visit.user):
        try:
            job = visit.service.job(visit.user, id_)
            files = visit.service.files(visit.user, id_)
            show_photo(visit.service.folder(visit.user, id_), f"/api/jobs/{id_}", job, files, visit)
        except PanosegError as error:
            show_not_available(error)


def show_photo(
    folder: Path, address: str, job: JobView, files: list[ResultFile], visit: Visit | None = None
) -> None:
    """Show a photograph with its segments and their names.

    Args:
        folder: Folder of the job.
        address: Address of the API of the result.
        job: The job.
        files: Files to download.
        visit: The visit of the owner; None for a shared result, which is read-only.

    Raises:
        NotFoundError: The photograph is not segmented yet.
    """
    rows = read_segments(folder)
    with ui.element("div").classes("page").style("max-width: 1180px"):
        with ui.element("div").classes("line spread"):
            heading(job.name, 1)
            with ui.element("div").classes("line"):
                download_button(files, address)
                if visit:
                    ui.button(
                        "Share", on_click=with_error_messages(lambda: share(visit, job))
                    ).props("outline")
                    ui.button("Delete", on_click=lambda: ask_delete(visit, job)).props(
                        "flat color=negative"
                    )
        overlay = ui.switch("Colours", value=True).props('aria-label="Show the segments in colour"')
        data = escape(
            json.dumps(
                [{"id": row["id"], "class": row["class"], "score": row["score"]} for row in rows]
            )
        )
        place = f"{address}/files/{PHOTO}"
        with ui.element("div"):
            ui.html(
                f'<div class="photo" data-ids="{place}/panoptic/photograph.png"'
                f' data-segments="{data}"><img src="{place}/image.jpg"'
                f' alt="{escape(job.name)}"><img class="over" src="{place}/overlay/photograph.jpg"'
                ' alt=""><canvas></canvas><output></output></div>',
                sanitize=False,
            )
        ui.timer(
            0.1,
            lambda: ui.run_javascript("panoseg.photo(document.querySelector('.photo'))"),
            once=True,
        )
        shade = "document.querySelector('.photo img.over').style.visibility"
        overlay.on_value_change(
            lambda event: ui.run_javascript(f"{shade} = '{'visible' if event.value else 'hidden'}'")
        )
        _table(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        empty_state(
            "Nothing was found",
            "Try a larger photograph, or one with objects of the classes of the network.",
        )
        return
    body = "".join(
        f'<tr><td><button onclick="panoseg.showSegment({row["id"]})"'
        f' onfocus="panoseg.showSegment({row["id"]})">'
        f"{escape(row['class'])}</button></td>"
        f"<td>{'object' if row['kind'] == 'thing' else 'area'}</td>"
        f"<td class=number>{row['score']:.0%}</td><td class=number>{row['area']:,}</td></tr>"
        for row in rows[:_MAX_ROWS]
    )
    head = (
        "<tr><th>Name</th><th>Kind</th><th class=number>Score</th><th class=number>Pixels</th></tr>"
    )
    ui.html(
        f'<div class="card segment-list"><table class="plain">{head}{body}</table></div>',
        sanitize=False,
    )
    if len(rows) > _MAX_ROWS:
        ui.label(
            f"The largest {_MAX_ROWS} of {len(rows):,} segments; the downloaded table has all."
        ).classes("quiet")


def read_segments(folder: Path) -> list[dict[str, Any]]:
    """Read the segments of a photograph, the largest first.

    Returns:
        Rows with id, class, kind ("thing" or "stuff"), score (0..1) and area (pixels).

    Raises:
        NotFoundError: The photograph is not segmented yet.
    """
    try:
        with (folder / PHOTO / "segments.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise NotFoundError("This photograph is not segmented yet; wait until it is.") from error
    return [
        {
            "id": int(r["id"]),
            "class": r["class"],
            "kind": r["kind"],
            "score": float(r["score"] or 0),
            "area": int(r["area"]),
        }
        for r in rows
    ]
