"""The frame of every page: style sheet, script, colours, error messages, and common elements.

Text colours reach the AA contrast of WCAG on their backgrounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from html import escape
from importlib import resources
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import quote

from nicegui import context, run, ui
from nicegui.events import GenericEventArguments
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse

from panoseg.app.service import Service
from panoseg.errors import NotSignedInError, PanosegError

INK, PAPER, GREEN, RED, QUIET = "#1b2620", "#f6f7f4", "#1c6b45", "#a8261c", "#55615a"
"""Colours of text, background, buttons, errors, and secondary text."""


@cache
def head() -> str:
    """Return the style sheet and the script as HTML for the head of every page."""
    folder = resources.files("panoseg.app.pages")
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("panoseg.css", "panoseg.js")
    )
    return f"<style>{style}</style><script>{script}</script>"


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it; text needs 4.5.

    >>> round(contrast("#ffffff", "#000000"), 1)
    21.0
    """
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


P = ParamSpec("P")
Result = TypeVar("Result")
UserOf = Callable[[Request], str]
"""Returns the user who sends a request; raises ``NotSignedInError``."""
_LINKS = (("/", "New map"), ("/jobs", "Results"), ("/photo", "Photograph"))
_SIGN_OUT = """async () => {
  await fetch("/api/sign-out", { method: "POST" });
  location.href = "/sign-in";
}"""
_MIB = 1024**2
BROWSER_S = 60.0
"""Seconds in which a browser, perhaps a busy one, answers a question of a page."""
DATABASE_AWAY = "The database of this server does not respond at the moment; try again soon."


@dataclass(frozen=True)
class Visit:
    """A signed-in user who looks at a page."""

    service: Service
    """The service behind the page."""
    find_user: Callable[[], str]
    """Returns the name of the user; raises ``NotSignedInError``."""

    @property
    def user(self) -> str:
        """Name of the user, looked up each time: a page may stay open longer than its token."""
        return self.find_user()


@contextmanager
def frame(
    title: str, address: str | None, user: str | None = None, *, notify: bool = True
) -> Iterator[None]:
    """Draw the frame around a page; the page itself is made inside the ``with`` block.

    Args:
        title: Title of the page in the tab of the browser.
        address: Address of the menu entry that the page belongs to; None hides the menu.
        user: Name of the signed-in user, who is offered to sign out.
        notify: Whether unexpected errors on the page are shown as notifications.
    """
    set_title(title)
    if notify:
        ui.on_exception(lambda error: notify_error(describe_error(error)))
    ui.colors(primary=GREEN, negative=RED, positive=GREEN, accent=GREEN)
    ui.add_head_html(head())
    layout = context.client.layout  # the page inside it is the element <main>
    with layout:
        skip = ui.html('<a class="skip" href="#main">Skip to the content</a>', sanitize=False)
        bar = ui.element("header").classes("bar")
    skip.move(layout, 0)
    bar.move(layout, 1)
    with bar:
        ui.link("panoseg", "/").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for target, name in _LINKS if address is not None else ():
                link = ui.link(name, target)
                if target == address:
                    link.props('aria-current="page"')
        if user is not None and user != "local":
            ui.label(user).classes("quiet user")
            ui.button("Sign out").props("flat dense").on("click", js_handler=_SIGN_OUT)
    with ui.element("div").props('id="main" tabindex="-1"'):
        yield


def set_title(title: str) -> None:
    """Set the title in the tab of the browser."""
    ui.page_title(f"{title} · panoseg")


def describe_error(error: Exception) -> str:
    """Return what a page says about an error; details of internal errors are only in the log."""
    if isinstance(error, SQLAlchemyError):
        return DATABASE_AWAY
    if isinstance(error, PanosegError):
        return sentence(error)
    if isinstance(error, HTTPException) and error.status_code == 404:
        return "There is no page at this address; follow one of the links above."
    return (
        "That did not work because of an internal error. Try again; the log of the server has the"
        " details."
    )


def notify_error(text: str) -> None:
    """Show an error as a notification, long enough to be read."""
    ui.notify(text, type="negative", multi_line=True, timeout=8000, close_button="Close")


def visit_or_sign_in(
    service: Service, user_of: UserOf, request: Request
) -> Visit | RedirectResponse:
    """Return the visit of the user who sends a request, or a redirect to the sign-in page."""
    try:
        user_of(request)
        return Visit(service, lambda: user_of(request))
    except NotSignedInError:
        return RedirectResponse(f"/sign-in?to={quote(request.url.path)}", status_code=303)


def with_error_messages(handler: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Wrap an event handler so that a ``PanosegError`` becomes a notification."""

    @wraps(handler)
    async def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            await handler(*arguments, **options)
        except PanosegError as error:
            notify_error(sentence(error))

    return wrapped


def sentence(error: PanosegError) -> str:
    """Return the message of an error as one or more complete sentences for a page."""
    text = page_words(str(error))
    return text if text.endswith((".", "!", "?")) else f"{text}."


_OPTIONS = {
    "--catalog": "catalogue",
    "--season": "season",
    "--area": "area",
    "--weights": "weights",
    "--out": "name",
    "--layer": "layer",
    "--encoding": "encoding",
    "--crs": "coordinate system",
}


def _short_path(found: re.Match[str]) -> str:
    """Return the end of a path: the name of a user's file, or a file with its folder."""
    parts = found[0].split("/")
    of_user = "uploads" in parts or "jobs" in parts
    return "/".join(parts[-1:] if of_user else parts[-2:])


def page_words(text: str) -> str:
    """Return a message that was written for a terminal in the words of a page.

    Paths of the server and ids of uploads say nothing to a user, options are fields of a page, and
    how a connection failed is in the log.

    >>> page_words("/srv/app/uploads/ada/farm.kml is empty: choose another --catalog.")
    'farm.kml is empty: choose another catalogue.'
    >>> page_words(f"{'0f' * 16}.geojson has no outline.")
    'The file has no outline.'
    >>> page_words("It does not answer (403 Forbidden by proxy http://127.0.0.1:4711): wait.")
    'It does not answer: wait.'
    """
    text = re.sub(r"(?<![\w:/.])/(?:[^\s/:,'\"()]+/)+[^\s/:,'\"()]+", _short_path, text)
    text = re.sub(r"\b[0-9a-f]{32}\b(?:\.\w+)*", "the file", text)
    text = re.sub(r" \([^()]*(?:[Pp]roxy|127\.0\.0\.1|Errno|Connection)[^()]*\)", "", text)
    text = re.sub(r"(?:, )?e\.g\. with --[\w-]+ \S*[^\s.]", "", text)
    text = re.sub(r"--[a-z][\w-]+", lambda found: _OPTIONS.get(found[0], found[0][2:]), text)
    return text[:1].upper() + text[1:] if text.startswith("the file") else text


async def in_thread(
    function: Callable[P, Result], *arguments: P.args, **options: P.kwargs
) -> Result:
    """Call a function that reads or computes in a thread, so that the server stays responsive."""
    # NiceGUI returns None only while the server shuts down and nobody sees the page any more.
    return cast("Result", await run.io_bound(function, *arguments, **options))


def empty_state(title: str, text: str, *, alert: bool = False, level: int = 2) -> ui.element:
    """Show that there is nothing yet, or nothing that can be shown.

    Args:
        title: What is missing.
        text: Why, or what to do.
        alert: Whether screen readers announce it at once.
        level: Level of the title; 1 where it is that of the page.

    Returns:
        The element, so that buttons can be added to it.
    """
    with ui.element("div").classes("empty").props('role="alert"' if alert else "") as box:
        heading(title, level)
        ui.html(f"<p>{escape(text)}</p>", sanitize=False)
    return box


def heading(text: str, level: int = 2) -> ui.html:
    """Add a heading that screen readers recognise."""
    return ui.html(heading_text(text, level), sanitize=False)


def heading_text(text: str, level: int = 2) -> str:
    """Return a heading as HTML."""
    return f"<h{level}>{escape(text)}</h{level}>"


def file_drop(
    text: str,
    accept: str,
    uploaded: Callable[[dict[str, Any]], Awaitable[None]],
    max_mib: int,
    *,
    large: bool = False,
    refused: Callable[[], None] | None = None,
) -> ui.element:
    """Add an area on which a file can be dropped, or chosen by keyboard; errors appear above it.

    Args:
        text: Label of the area.
        accept: File types as in the HTML attribute ``accept``; empty for all.
        uploaded: Called with the upload as the API describes it.
        max_mib: Largest file in MiB; a larger one is not sent.
        large: Whether the area is large.
        refused: Called when a file is refused, so that none that was chosen before is used.
    """
    wrong = ui.label().classes("wrong").props('role="alert"')
    event = f"uploaded-{wrong.id}"
    with ui.element("div") as box:
        ui.html(
            f'<label class="drop{" large" if large else ""}"><span>{escape(text)}</span><progress'
            ' max="1" value="0"></progress>'
            f'<input type="file" accept="{escape(accept)}" aria-label="{escape(text)}"'
            f' data-most="{max_mib * _MIB}"'
            f" onchange=\"panoseg.upload(this, '{event}')\"></label>",
            sanitize=False,
        )

    async def answered(answer: GenericEventArguments) -> None:
        upload = answer.args if isinstance(answer.args, dict) else {}
        text = page_words(upload.get("error", ""))
        wrong.set_text(text[:1].upper() + text[1:])
        if "error" not in upload:
            await uploaded(upload)
        elif refused is not None:
            refused()

    ui.on(event, with_error_messages(answered))
    return box


def checkbox(text: str, changed: Callable[[bool], object]) -> None:
    """Add a native checkbox, which works with every keyboard and screen reader."""
    with ui.element("label").classes("line box"):
        box = ui.element("input").props('type="checkbox"')
        ui.html(escape(text), sanitize=False, tag="span")
    box.on(
        "change",
        lambda event: changed(bool(event.args)),
        js_handler="(event) => emit(event.target.checked)",
    )


def entered_text(event: GenericEventArguments) -> str:
    """Return the text of the input element that sends an event."""
    return str(getattr(event.sender, "value", None) or "").strip()


def hectares(value: float) -> str:
    """Format an area with a useful number of digits."""
    return (
        f"{value:,.0f} ha"
        if value >= 100
        else f"{value:.1f} ha"
        if value >= 10
        else f"{value:.2f} ha"
    )


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> duration(80), duration(600), duration(9000)
    ('80 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


def time_left(seconds: float) -> str:
    """Format an estimate of the time that is left as a range, because it is rough.

    >>> time_left(20), time_left(600), time_left(9000)
    ('less than a minute', '7 to 15 minutes', '1.8 to 3.8 hours')
    """
    low, high = 0.7 * seconds, 1.5 * seconds
    if high < 60:
        return "less than a minute"
    if high < 5400:
        return f"{max(1, round(low / 60))} to {max(2, round(high / 60))} minutes"
    return f"{low / 3600:.1f} to {high / 3600:.1f} hours"


def size(count: int) -> str:
    """Format a number of bytes.

    >>> size(999), size(1_500), size(12_000_000)
    ('999 B', '1.5 kB', '12 MB')
    """
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


_SEND = """
const answer = await fetch("/api/sign-in", {{
  method: "POST", headers: {{"Content-Type": "application/json"}}, body: {body},
}});
if (answer.status === 401)
  return "This token is not known. Ask the administrator of this server for one.";
return answer.ok ? "" : (await answer.json()).error || "The server does not respond; try again.";
"""


def own_path(to: str) -> str:
    r"""Return ``to`` if it is a path on this server, and "/" if a browser might leave the server.

    >>> own_path("/jobs/0a1b/map"), own_path("evil.example"), own_path("")
    ('/jobs/0a1b/map', '/', '/')
    >>> own_path("//evil.example"), own_path("/\\evil.example"), own_path("/\t/evil.example")
    ('/', '/', '/')
    """
    return to if re.fullmatch(r"/([\w-][\w./-]*)?", to, re.ASCII) else "/"


def sign_in_page(to: str) -> None:
    """Make the sign-in page. to: path of the page to open afterwards."""
    with frame("Sign in", None), ui.element("div").classes("page").style("max-width: 420px"):
        heading("Sign in", 1)
        ui.label("The administrator of this server gives you a token.").classes("quiet")
        token = ui.input("Token", password=True).props(
            'outlined autofocus autocomplete="current-password"'
        )
        wrong = ui.label().classes("wrong").props('role="alert"')

        async def send() -> None:
            body = json.dumps(json.dumps({"token": token.value})).replace("</", "<\\/")
            try:
                error = await ui.run_javascript(_SEND.format(body=body), timeout=BROWSER_S)
            except TimeoutError:
                error = "The server does not respond; try again."
            if error:
                wrong.set_text(error)
            else:
                # Only a path on this server: a link to the sign-in page must not lead elsewhere.
                ui.navigate.to(own_path(to))

        token.on("keydown.enter", send)
        ui.button("Sign in", on_click=send).props("unelevated")
