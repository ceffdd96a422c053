"""Whether the published network for photographs is on this machine, or could be fetched: what a
page says before anybody waits.

PyTorch itself is not loaded for that: the server has no other need of it.
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
from panoseg.app.pages.frame import Visit, drop, empty, frame, heading, in_thread, told
from panoseg.app.pages.job import ask_delete, not_there
from panoseg.app.pages.result_context import download_button, share
from panoseg.app.service import ResultFile
from panoseg.app.stages import PHOTO
from panoseg.errors import NotFoundError, PanosegError

PUBLISHED = "coco"
"""The name under which the network is offered."""
URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
_PATIENCE_S = 5.0
_REMEMBERED_S = 60


@dataclass(frozen=True)
class Published:
    """Where the network would be. here: whether it is. reachable: whether it can be fetched; True
    for one that is here.
    """

    path: Path
    here: bool
    reachable: bool


def find_published() -> Published:
    """Look for the network; asks for its address where it is not here, and waits some seconds for
    an answer.
    """
    path = checkpoints() / URL.rsplit("/", 1)[-1]
    here = path.is_file()
    return Published(path, here, here or _reachable(int(time.monotonic() / _REMEMBERED_S)))


def checkpoints() -> Path:
    """The folder in which PyTorch keeps what it has fetched, as ``torch.hub.get_dir`` says."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"


@lru_cache(1)
def _reachable(minute: int) -> bool:
    """Whether the address answers; asked once a minute, whoever looks at the page."""
    import httpx

    try:
        return httpx.head(URL, timeout=_PATIENCE_S, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


_MOST_ROWS = 200
_NETWORKS = {PUBLISHED: "Mask R-CNN of torchvision: 80 kinds of objects"}


class GivePage:
    """A photograph and the network that looks at it."""

    def __init__(self, visit: Visit, names: list[str]) -> None:
        self.visit, self.weights = visit, names[0]
        self.names = names

    def build(self) -> None:
        """The page."""
        heading("What is on a photograph?", 1)
        ui.label("Every pixel gets a class, every object an outline of its own.").classes("quiet")
        if len(self.names) > 1:
            ui.select(
                {name: _NETWORKS.get(name, name) for name in self.names},
                label="Network",
                on_change=self._offer,
            ).bind_value(self, "weights").props("outlined dense")
        self.box = ui.element("div").classes("stack").props('aria-live="polite"')
        with self.box:
            ui.skeleton(height="120px").classes("w-full")
        ui.timer(0.1, self._offer, once=True)

    async def _offer(self) -> None:
        """Offer a place to drop a photograph, unless it is known beforehand that its network cannot
        be had.
        """
        chosen = self.visit.service.settings.photo_weights_folder(self.weights)
        published = await in_thread(find_published) if chosen == Path(PUBLISHED) else None
        if self.box.is_deleted:
            return
        self.box.clear()
        with self.box:
            if published and not published.reachable:
                empty(
                    "The network for photographs is not on this server",
                    _how_to_get(published),
                    alert=True,
                )
                return
            if published and not published.here:
                ui.label(
                    "The first photograph takes longer: its network (178 MB) is fetched once."
                ).classes("quiet")
            most = self.visit.service.settings.limits.upload_mib
            drop(
                "Drop a photograph here, or choose one: JPEG, PNG, WebP, TIFF",
                "image/*",
                self._given,
                most,
                large=True,
            )

    async def _given(self, upload: dict[str, Any]) -> None:
        request = {
            "kind": "photo",
            "name": upload["name"],
            "upload": upload["id"],
            "weights": self.weights,
        }
        job = await in_thread(self.visit.service.submit, self.visit.user, request)
        ui.navigate.to(f"/jobs/{job.id}")


def _how_to_get(published: Published) -> str:
    """What whoever runs the server does about a network that cannot be fetched."""
    return (
        f"It cannot be fetched from {urlsplit(URL).hostname} at present: connect the server once,"
        f" put {published.path.name} into PyTorch's cache, or start it with weights of your own,"
        " panoseg app --photo-weights FOLDER."
    )


def photo_page(visit: Visit) -> None:
    """The page on which a photograph is given."""
    with frame("Photograph", "/photo", visit.user), ui.element("div").classes("page"):
        names = visit.service.weights("photo")
        if names:
            GivePage(visit, names).build()
        else:
            text = (
                "This server was started without a network for photographs: panoseg app"
                " --photo-weights FOLDER gives it one."
            )
            empty("No network for photographs", text)


def photo_result_page(visit: Visit, id_: str) -> None:
    """The page of a segmented photograph."""
    with frame("Photograph", "/photo", visit.user):
        try:
            job = visit.service.job(visit.user, id_)
            files = visit.service.files(visit.user, id_)
            show_photo(visit.service.folder(visit.user, id_), f"/api/jobs/{id_}", job, files, visit)
        except PanosegError as error:
            not_there(error)


def show_photo(
    folder: Path, address: str, job: JobView, files: list[ResultFile], visit: Visit | None = None
) -> None:
    """A photograph under its segments, with their names. Raises ``NotFoundError`` where it is not
    done.
    """
    rows = read_segments(folder)
    with ui.element("div").classes("page").style("max-width: 1180px"):
        with ui.element("div").classes("line spread"):
            heading(job.name, 1)
            with ui.element("div").classes("line"):
                download_button(files, address)
                if visit:
                    ui.button("Share", on_click=told(lambda: share(visit, job))).props("outline")
                    ui.button("Delete", on_click=lambda: ask_delete(visit, job)).props(
                        "flat color=negative"
                    )
        seen = ui.switch("Colours", value=True).props('aria-label="Show the segments in colour"')
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
        seen.on_value_change(
            lambda event: ui.run_javascript(f"{shade} = '{'visible' if event.value else 'hidden'}'")
        )
        _table(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        empty(
            "Nothing was found",
            "Try a larger photograph, or one with things that the network knows.",
        )
        return
    body = "".join(
        f'<tr><td><button onclick="panoseg.showSegment({row["id"]})"'
        f' onfocus="panoseg.showSegment({row["id"]})">'
        f"{escape(row['class'])}</button></td><td>{'object' if row['kind'] == 'thing' else 'area'}</td>"
        f"<td class=number>{row['score']:.0%}</td><td class=number>{row['area']:,}</td></tr>"
        for row in rows[:_MOST_ROWS]
    )
    head = (
        "<tr><th>Name</th><th>Kind</th><th class=number>Score</th><th class=number>Pixels</th></tr>"
    )
    ui.html(
        f'<div class="card segment-list"><table class="plain">{head}{body}</table></div>',
        sanitize=False,
    )
    if len(rows) > _MOST_ROWS:
        ui.label(
            f"The largest {_MOST_ROWS} of {len(rows):,}; the table of segments has all."
        ).classes("quiet")


def read_segments(folder: Path) -> list[dict[str, Any]]:
    """The segments of a photograph, the largest first: id, class, kind, score 0..1, area in pixels.

    Raises ``NotFoundError``.
    """
    try:
        with (folder / PHOTO / "segments.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise NotFoundError(
            "no photograph of this job", "one that is done", "wait until it is done"
        ) from error
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
