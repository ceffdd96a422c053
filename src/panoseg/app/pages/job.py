"""The page of a job: what is being done, how far it is, its log; and the list of all jobs of a user."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from nicegui import ui

from panoseg.app.jobs import ENDED, JobView
from panoseg.app.pages.frame import Visit, duration, empty, frame, heading, in_thread, sentence, size, told
from panoseg.app.service import parse_request
from panoseg.app.stages import stages_of
from panoseg.errors import NotFoundError, PanosegError

_STATES = {"queued": "waiting", "running": "running", "done": "done", "failed": "failed", "cancelled": "cancelled"}
_EVERY_S = 1.0
_MOST_LINES = 400


def result_address(job: JobView) -> str:
    """Where the result of a job is shown, or the job itself while it has none."""
    if job.state != "done":
        return f"/jobs/{job.id}"
    return f"/jobs/{job.id}/{'map' if job.kind == 'map' else 'photo'}"


class JobPage:
    """Follows a job until it ends; then its result takes its place."""

    def __init__(self, visit: Visit, job: JobView) -> None:
        self.visit, self.job, self._line = visit, job, 0

    def build(self) -> None:
        """The page."""
        with ui.element("div").classes("page"):
            with ui.element("div").classes("line spread"):
                heading(self.job.name, 1)
                self.state = ui.label().props('aria-live="polite"')
            with ui.element("div").classes("card stack"):
                self.message = ui.label().props('aria-live="polite"')
                self.bar = ui.linear_progress(show_value=False, size="10px").props('rounded aria-label="Progress"')
                self.left = ui.label().classes("quiet")
                self.stages = ui.html("", sanitize=False)
            self.actions = ui.element("div").classes("line")
            with ui.element("div").classes("stack-tight"):
                heading("What happened")
                self.log = ui.html('<p class="quiet">Nothing yet.</p>', sanitize=False)
            ui.label("You may close this page: the work goes on, and this address finds it again.").classes("quiet")
        self._lines: list[str] = []
        self._show()
        self.timer = ui.timer(_EVERY_S, self._refresh)

    async def _refresh(self) -> None:
        service, user = self.visit.service, self.visit.user
        before = self.job.state
        try:
            self.job = await in_thread(service.job, user, self.job.id)
            new = await in_thread(service.log, user, self.job.id, self._line)
        except NotFoundError:
            ui.navigate.to("/jobs")
            return
        if new:
            self._line = new[-1].number
            rows = (f'<div class="{line.level}">{line.time:%H:%M:%S} {escape(line.text)}</div>' for line in new)
            self._lines = [*self._lines, *rows][-_MOST_LINES:]
            self.log.set_content(f'<div class="log" role="log" tabindex="0" aria-label="Log">{"".join(self._lines)}</div>')
        self._show()
        if self.job.state == "done" and before != "done":
            ui.navigate.to(result_address(self.job))

    def _show(self) -> None:
        job = self.job
        self.state.set_text(_STATES[job.state])
        self.state.classes(replace=f"state state-{job.state}")
        self.message.set_text(job.message or _STATES[job.state])
        self.message.classes(replace="wrong" if job.state == "failed" else "")
        self.bar.set_value(job.progress)
        self.left.set_text(self._time())
        self.stages.set_content(_stage_list(job))
        self._show_actions()

    def _time(self) -> str:
        job = self.job
        if job.state == "running" and job.seconds_left is not None:
            return f"{job.progress:.0%} done, about {duration(job.seconds_left)} left"
        if job.state == "queued":
            if not self.visit.service.all_jobs.workers():
                return "no worker runs at present; panoseg app worker starts one"
            before = self.visit.service.position(self.visit.user, job.id)
            return "next in the queue" if not before else f"at most {before} jobs are before it"
        if job.started and job.ended:
            return f"took {duration((job.ended - job.started).total_seconds())}"
        return f"{job.progress:.0%} done"

    def _show_actions(self) -> None:
        shown = getattr(self, "_actions_of", None)
        if shown == self.job.state:
            return  # or a button would go while it is pressed
        self._actions_of = self.job.state
        self.actions.clear()
        with self.actions:
            if self.job.state == "done":
                ui.button("Look at the result", on_click=lambda: ui.navigate.to(result_address(self.job))).props("unelevated")
            if self.job.state in ("failed", "cancelled"):
                ui.button("Try again", on_click=told(self._retry)).props("unelevated")
            if self.job.state not in ENDED:
                ui.button("Cancel", on_click=told(self._cancel)).props("outline")
            ui.button("Delete", on_click=self._ask_delete).props("flat color=negative")

    async def _cancel(self) -> None:
        await in_thread(self.visit.service.cancel, self.visit.user, self.job.id)
        ui.notify("It will stop in a moment.")

    async def _retry(self) -> None:
        await in_thread(self.visit.service.retry, self.visit.user, self.job.id)

    def _ask_delete(self) -> None:
        ask_delete(self.visit, self.job)


def ask_delete(visit: Visit, job: JobView) -> None:
    """Ask whether a job is to be deleted with its result, and do so."""
    with ui.dialog(value=True) as dialog, ui.card().classes("stack"):
        heading(f"Delete “{job.name}”?")
        ui.label("Its result goes with it, and links to it lead nowhere.")

        @told
        async def delete() -> None:
            await in_thread(visit.service.delete, visit.user, job.id)
            dialog.close()
            ui.navigate.to("/jobs")

        with ui.element("div").classes("line"):
            ui.button("Delete", on_click=delete).props("unelevated color=negative")
            ui.button("Keep", on_click=dialog.close).props("flat autofocus")


def _stage_list(job: JobView) -> str:
    """The stages, each done, under way or to come."""
    names = [stage.name for stage in stages_of(parse_request(job.request))]
    at = names.index(job.stage) if job.stage in names else (len(names) if job.state == "done" else -1)
    rows = []
    for number, stage in enumerate(stages_of(parse_request(job.request))):
        kind = "done" if number < at else "now" if number == at and job.state == "running" else ""
        word = {"done": "done", "now": "under way"}.get(kind, "to come")
        rows.append(f'<li class="{kind}">{escape(stage.title)}<span class="quiet">{word}</span></li>')
    return f'<ol class="stages">{"".join(rows)}</ol>'


def job_page(visit: Visit, id_: str) -> None:
    """The page of a job."""
    with frame("Job", "/jobs", visit.user):
        try:
            JobPage(visit, visit.service.job(visit.user, id_)).build()
        except PanosegError as error:
            not_there(error)


def not_there(error: PanosegError) -> None:
    """What stands where a job or a result cannot be shown."""
    with empty("This is not here", sentence(error), alert=True):
        ui.link("To your results", "/jobs")


def jobs_page(visit: Visit) -> None:
    """All jobs of a user."""
    with frame("Results", "/jobs", visit.user), ui.element("div").classes("page"):
        heading("Your results", 1)
        rows = visit.service.jobs(visit.user)
        if not rows:
            with (
                empty("Nothing here yet", "Maps and photographs appear here, finished or not."),
                ui.element("div").classes("line"),
            ):
                ui.button("Make a map", on_click=lambda: ui.navigate.to("/")).props("unelevated")
            return
        body = "".join(_job_row(job) for job in rows)
        head = "<tr><th>Name</th><th>State</th><th>Begun</th><th class=number>Size</th></tr>"
        ui.html(f'<div class="card"><table class="plain">{head}{body}</table></div>', sanitize=False)
        if any(job.state not in ENDED for job in rows):
            ui.timer(5.0, lambda: ui.navigate.reload())


def _job_row(job: JobView) -> str:
    state = f'<span class="state state-{job.state}">{_STATES[job.state]}</span>'
    if job.state == "running":
        state += f' <span class="quiet">{job.progress:.0%}</span>'
    link = f'<a href="{result_address(job)}">{escape(job.name)}</a>'
    taken = size(job.bytes) if job.bytes else ""
    return f"<tr><td>{link}</td><td>{state}</td><td>{_ago(job.created)}</td><td class=number>{taken}</td></tr>"


def _ago(time: datetime) -> str:
    seconds = (datetime.now(UTC) - time).total_seconds()
    return f"{duration(seconds)} ago" if seconds < 86_400 else f"{time:%Y-%m-%d}"
