"""The page of a job (stages, progress, log) and the list of all jobs of a user."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from itertools import accumulate

from nicegui import ui
from sqlalchemy.exc import SQLAlchemyError

from panoseg.app.job_views import ENDED, JobView, LogLine, State
from panoseg.app.pages.frame import (
    DATABASE_AWAY,
    Visit,
    duration,
    empty_state,
    frame,
    heading,
    in_thread,
    page_words,
    sentence,
    set_title,
    size,
    time_left,
    with_error_messages,
)
from panoseg.app.requests import MapRequest, PhotoRequest, parse_request
from panoseg.app.stages import COMPARISON, Stage, stages_of
from panoseg.errors import NotFoundError, NotSignedInError, PanosegError

_STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
_RUNNING_S, _ENDED_S, _LIST_S = 1.0, 5.0, 5.0  # between two updates of a page
_MAX_LINES = 400
_ROUNDING = 1e-6
_COLUMNS = {"Name": "", "State": "", "Created": "", "Size": " class=number"}


def result_address(job: JobView) -> str:
    """Return the address of the result of a job, or of the job itself while it has none."""
    if job.state != "done":
        return f"/jobs/{job.id}"
    return f"/jobs/{job.id}/{'map' if job.kind == 'map' else 'photo'}"


class JobPage:
    """Follows a job until it ends, then opens its result."""

    def __init__(self, visit: Visit, job: JobView) -> None:
        self.visit, self.job, self._line = visit, job, 0
        self._waits_for, self._title = "", ""
        self._lines: deque[ui.html] = deque()
        self._actions_state: State | None = None
        self._cancelled = False
        # One update after the other: a slow one must not show what a later one has replaced.
        self._updating = asyncio.Lock()

    def build(self) -> None:
        """Make the elements of the page."""
        with ui.element("div").classes("page"):
            with ui.element("div").classes("line spread"):
                heading(self.job.name, 1)
                self.state = ui.label().props('aria-live="polite"')
            with ui.element("div").classes("card stack"):
                self.message = ui.label().props('aria-live="polite"')
                self.bar = ui.linear_progress(show_value=False, size="10px").props(
                    'rounded aria-label="Progress"'
                )
                self.left = ui.label().classes("quiet")
                self.stages = ui.html("", sanitize=False)
            with ui.element("div").classes("line"):
                self.actions = ui.element("div").classes("line")
                ui.button("Delete", on_click=self._ask_delete).props("flat color=negative")
            with ui.element("div").classes("stack-tight"):
                heading("Log")
                self.nothing = ui.label("Nothing yet.").classes("quiet")
                # The style sheet keeps the newest line in sight, unless somebody has scrolled up.
                with (
                    ui.element("div")
                    .classes("log")
                    .props('role="log" tabindex="0" aria-label="Log"') as self.log
                ):
                    self.lines = ui.element("div")
            self.close = ui.label(
                "You can close this page: the job continues, and this address shows it again."
            ).classes("quiet")
        self._show()
        self.timer = ui.timer(_RUNNING_S, self._refresh)

    async def _refresh(self) -> None:
        async with self._updating:
            await self._update()

    async def _update(self) -> None:
        before = self.job.state
        try:
            self.job, new, self._waits_for = await in_thread(self._read)
        except (NotFoundError, NotSignedInError):
            ui.navigate.to("/jobs")
            return
        except SQLAlchemyError:
            self.left.set_text(DATABASE_AWAY)
            return
        self._write(new)
        self._show()
        self.timer.interval = _ENDED_S if self.job.state in ENDED else _RUNNING_S
        if self.job.state == "done" and before != "done":
            if self._cancelled:
                self.left.set_text("It was done before it could be cancelled; the result is kept.")
                return
            ui.navigate.to(result_address(self.job))

    def _read(self) -> tuple[JobView, list[LogLine], str]:
        """Return the job, the new lines of its log, and what it waits for."""
        service, user = self.visit.service, self.visit.user
        job = service.job(user, self.job.id)
        return (
            job,
            service.log(user, job.id, self._line),
            self._queue() if job.state == "queued" else "",
        )

    def _queue(self) -> str:
        if not self.visit.service.all_jobs.workers.count():
            if self.visit.service.settings.workers:
                return "the worker of this server is starting"
            return "no worker runs at the moment; start one with panoseg app worker"
        before = self.visit.service.position(self.visit.user, self.job.id)
        return (
            f"at most {before} {'job is' if before == 1 else 'jobs are'} ahead of it"
            if before
            else "next in the queue"
        )

    def _write(self, new: list[LogLine]) -> None:
        self.log.set_visibility(bool(self._lines or new))
        self.nothing.set_visibility(not (self._lines or new))
        for line in new:
            if line.number <= self._line:
                continue  # read by the update after a button, too
            self._line = line.number
            with self.lines:
                self._lines.append(
                    ui.html(f"{line.time:%H:%M:%S} {escape(line.text)}", sanitize=False).classes(
                        line.level
                    )
                )
        while len(self._lines) > _MAX_LINES:
            self._lines.popleft().delete()

    def _show(self) -> None:
        job = self.job
        title = f"{job.progress:.0%} of {job.name}" if job.state == "running" else job.name
        if title != self._title:
            self._title = title
            set_title(title)
        self.state.set_text(_STATES[job.state])
        self.state.classes(replace=f"state state-{job.state}")
        self.message.set_text(page_words(job.message) or _STATES[job.state])
        self.message.classes(replace="wrong" if job.state == "failed" else "")
        self.bar.set_value(job.progress)
        self.left.set_text(self._time())
        self.stages.set_content(_stage_list(job))
        self.close.set_visibility(job.state not in ENDED)
        self._show_actions()

    def _time(self) -> str:
        job = self.job
        if job.state == "running" and job.seconds_left is not None:
            return f"{job.progress:.0%} done, {time_left(job.seconds_left)} left"
        if job.state == "queued":
            return self._waits_for
        if job.started and job.ended:
            return f"took {duration((job.ended - job.started).total_seconds())}"
        return f"{job.progress:.0%} done"

    def _show_actions(self) -> None:
        if self.job.state == self._actions_state:
            return  # a new button would lose the click on the old one
        self._actions_state = self.job.state
        self.actions.clear()
        with self.actions:
            if self.job.state == "done":
                ui.button(
                    "Show the result", on_click=lambda: ui.navigate.to(result_address(self.job))
                ).props("unelevated")
            if self.job.state in ("failed", "cancelled"):
                ui.button("Try again", on_click=with_error_messages(self._retry)).props(
                    "unelevated"
                )
            if self.job.state not in ENDED:
                ui.button("Cancel", on_click=with_error_messages(self._cancel)).props("outline")

    async def _cancel(self) -> None:
        await in_thread(self.visit.service.cancel, self.visit.user, self.job.id)
        self._cancelled = True
        ui.notify("The job will stop in a moment.")
        await self._refresh()

    async def _retry(self) -> None:
        self._cancelled = False
        await in_thread(self.visit.service.retry, self.visit.user, self.job.id)
        await self._refresh()

    def _ask_delete(self) -> None:
        ask_delete(self.visit, self.job)


def ask_delete(visit: Visit, job: JobView) -> None:
    """Ask whether to delete a job with its result, and delete it."""
    with ui.dialog(value=True) as dialog, ui.card().classes("stack"):
        heading(f"Delete “{job.name}”?")
        ui.label("Its result is deleted too, and links to it stop working.")

        @with_error_messages
        async def delete() -> None:
            await in_thread(visit.service.delete, visit.user, job.id)
            dialog.close()
            ui.navigate.to("/jobs")

        with ui.element("div").classes("line"):
            ui.button("Delete", on_click=delete).props("unelevated color=negative")
            ui.button("Keep", on_click=dialog.close).props("flat autofocus")


def _stage_list(job: JobView) -> str:
    """Return the stages of a job as an HTML list: done, running, pending, or stopped."""
    request = parse_request(job.request)
    stages = stages_of(request)
    at = len(stages) if job.state == "done" else _stage_at(job, stages)
    states = {
        "running": ("now", "running"),
        "failed": ("stopped", "failed"),
        "cancelled": ("stopped", "stopped"),
    }
    rows = []
    for number, stage in enumerate(stages):
        if stage.name == COMPARISON and not _has_register(request):
            continue
        kind, word = (
            ("done", "done")
            if number < at
            else states.get(job.state, ("", "pending"))
            if number == at
            else ("", "pending")
        )
        rows.append(
            f'<li class="{kind}">{escape(stage.title)}<span class="quiet">{word}</span></li>'
        )
    return f'<ol class="stages">{"".join(rows)}</ol>'


def _has_register(request: MapRequest | PhotoRequest) -> bool:
    """Return whether a map is compared with official parcels; samples bring their own."""
    return isinstance(request, MapRequest) and (
        request.register_of is not None or request.source.type == "sample"
    )


def _stage_at(job: JobView, stages: tuple[Stage, ...]) -> int:
    """Return the index of the current stage, or of the stage in which the job stopped.

    A job that has ended no longer names its stage; it follows from the progress.
    """
    names = [stage.name for stage in stages]
    if job.stage in names:
        return names.index(job.stage)
    if job.state not in ("failed", "cancelled") or job.started is None:
        return -1
    reached = accumulate(stage.share for stage in stages)
    return sum(job.progress >= share - _ROUNDING for share in reached)


def job_page(visit: Visit, id_: str) -> None:
    """Make the page of a job."""
    with frame("Job", "/jobs", visit.user):
        try:
            JobPage(visit, visit.service.job(visit.user, id_)).build()
        except PanosegError as error:
            show_not_available(error)


def show_not_available(error: PanosegError, *, own: bool = True) -> None:
    """Show that a job or a result is not available.

    Args:
        error: The reason.
        own: Whether the page is one of a signed-in user, who has a list of results.
    """
    with empty_state("Not available", sentence(error), alert=True, level=1):
        if own:
            ui.link("Your results", "/jobs")


class JobsPage:
    """The list of all jobs of a user.

    The table is only rebuilt when a state changes, so that keyboard focus and scroll position stay.
    """

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self._states: list[tuple[str, State]] | None = None
        self._shares: dict[str, ui.label] = {}

    def build(self) -> None:
        """Make the elements of the page."""
        with ui.element("div").classes("page"):
            heading("Your results", 1)
            self.box = ui.element("div")
        self._show(self.visit.service.jobs(self.visit.user))
        ui.timer(_LIST_S, self._refresh)

    async def _refresh(self) -> None:
        with suppress(SQLAlchemyError):  # the next update tries again
            self._show(await in_thread(self.visit.service.jobs, self.visit.user))

    def _show(self, jobs: list[JobView]) -> None:
        states = [(job.id, job.state) for job in jobs]
        if states != self._states:
            self._states, self._shares = states, {}
            self.box.clear()
            with self.box:
                if jobs:
                    self._table(jobs)
                else:
                    _no_jobs()
        for job in jobs:
            if job.id in self._shares:
                self._shares[job.id].set_text(f"{job.progress:.0%}")

    def _table(self, jobs: list[JobView]) -> None:
        with ui.element("div").classes("card"), ui.element("table").classes("plain"):
            cells = "".join(f"<th scope=col{kind}>{name}</th>" for name, kind in _COLUMNS.items())
            ui.html(f"<tr>{cells}</tr>", sanitize=False, tag="thead")
            with ui.element("tbody"):
                for job in jobs:
                    self._row(job)

    def _row(self, job: JobView) -> None:
        with ui.element("tr"):
            ui.html(
                f'<a href="{result_address(job)}">{escape(job.name)}</a>', sanitize=False, tag="td"
            )
            with ui.element("td"), ui.element("div").classes("line"):
                ui.label(_STATES[job.state]).classes(f"state state-{job.state}")
                if job.state == "running":
                    self._shares[job.id] = ui.label().classes("quiet")
            ui.html(_ago(job.created), sanitize=False, tag="td")
            ui.html(size(job.bytes) if job.bytes else "", sanitize=False, tag="td").classes(
                "number"
            )


def _no_jobs() -> None:
    with (
        empty_state("Nothing here yet", "Maps and photographs appear here, finished or not."),
        ui.element("div").classes("line"),
    ):
        ui.button("Make a map", on_click=lambda: ui.navigate.to("/")).props("unelevated")


def jobs_page(visit: Visit) -> None:
    """Make the page of all jobs of a user."""
    with frame("Results", "/jobs", visit.user):
        JobsPage(visit).build()


def _ago(time: datetime) -> str:
    """Format the time since ``time``, or its date if that is longer than a day."""
    seconds = (datetime.now(UTC) - time).total_seconds()
    return f"{duration(seconds)} ago" if seconds < 86_400 else f"{time:%Y-%m-%d}"
