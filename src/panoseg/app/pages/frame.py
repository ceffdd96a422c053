"""How the pages look: one style sheet, one script, and colours that stand apart from each other at
WCAG's AA contrast.
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
from typing import Any, ParamSpec
from urllib.parse import quote

from nicegui import run, ui
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import RedirectResponse

from panoseg.app.service import Service
from panoseg.errors import NotSignedInError, PanosegError

INK, PAPER, GREEN, RED, QUIET = "#1b2620", "#f6f7f4", "#1c6b45", "#a8261c", "#55615a"
"""Text, background, what can be pressed, what went wrong, and what matters less."""


@cache
def head() -> str:
    """What the head of every page holds."""
    folder = resources.files("panoseg.app.pages")
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("panoseg.css", "panoseg.js")
    )
    return f"<style>{style}</style><script>{script}</script>"


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2.2 defines it; text needs 4.5.

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
UserOf = Callable[[Request], str]
_LINKS = (("/", "New map"), ("/jobs", "Results"), ("/photo", "Photograph"))
_SIGN_OUT = """async () => { await fetch("/api/sign-out", { method: "POST" }); location.href = "/sign-in"; }"""
_MIB = 1024**2
DATABASE_AWAY = "The database of this server does not answer at present; try again soon."


@dataclass(frozen=True)
class Visit:
    """Somebody who looks at a page, and the service behind it. who: the user; raises
    ``NotSignedInError``.
    """

    service: Service
    who: Callable[[], str]

    @property
    def user(self) -> str:
        """The user, asked for anew each time: a page may stay open for longer than its token is
        worth anything.
        """
        return self.who()


@contextmanager
def frame(
    title: str, here: str | None, user: str | None = None, *, notices: bool = True
) -> Iterator[None]:
    """The frame around a page. here: address of the entry of the menu that it belongs to, None for
    a shared result.

    notices: whether errors that nobody foresaw are said on it.
    """
    name_page(title)
    if notices:
        ui.on_exception(lambda error: complain(unforeseen(error)))
    ui.colors(primary=GREEN, negative=RED, positive=GREEN, accent=GREEN)
    ui.add_head_html(head())
    ui.html('<a class="skip" href="#main">Skip to the content</a>', sanitize=False)
    with ui.element("header").classes("bar"):
        ui.link("panoseg", "/").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for address, name in _LINKS if here is not None else ():
                link = ui.link(name, address)
                if address == here:
                    link.props('aria-current="page"')
        if user is not None and user != "local":
            ui.label(user).classes("quiet user")
            ui.button("Sign out").props("flat dense").on("click", js_handler=_SIGN_OUT)
    with ui.element("main").props('id="main" tabindex="-1"'):
        yield


def name_page(title: str) -> None:
    """Say in the tab of the browser what a page shows."""
    ui.page_title(f"{title} · panoseg")


def unforeseen(error: Exception) -> str:
    """What is said of an error that no handler foresaw, for silence would be taken for success; the
    log has it whole.
    """
    if isinstance(error, SQLAlchemyError):
        return DATABASE_AWAY
    if isinstance(error, PanosegError):
        return sentence(error)
    return (
        "That did not work: an error inside of panoseg. Try again; whoever runs this server finds"
        " it in its log."
    )


def complain(text: str) -> None:
    """Show what went wrong until somebody has had time to read it."""
    ui.notify(text, type="negative", multi_line=True, timeout=8000, close_button="Close")


def visit(service: Service, user_of: UserOf, request: Request) -> Visit | RedirectResponse:
    """Who looks at a page, or the way to the page where people sign in."""
    try:
        user_of(request)
        return Visit(service, lambda: user_of(request))
    except NotSignedInError:
        return RedirectResponse(f"/sign-in?to={quote(request.url.path)}", status_code=303)


def told(handler: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """A handler whose refusals are told in a sentence."""

    @wraps(handler)
    async def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            await handler(*arguments, **options)
        except PanosegError as error:
            complain(sentence(error))

    return wrapped


def sentence(error: PanosegError) -> str:
    """Return the message of an error as one or more complete sentences."""
    if error.expected:
        found = f"{error.found[:1].upper()}{error.found[1:]}"
        return f"{found}. Expected {error.expected}: {error.fix}."
    text = str(error)
    return text if text.endswith((".", "!", "?")) else f"{text}."


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that reads or computes, while the server goes on."""
    return await run.io_bound(function, *arguments)


def empty(title: str, text: str, *, alert: bool = False) -> ui.element:
    """What stands where there is nothing yet, or nothing that can be shown; gives the element, to
    add what to do.
    """
    with ui.element("div").classes("empty").props('role="alert"' if alert else "") as box:
        ui.html(f"<h2>{escape(title)}</h2>", sanitize=False)
        ui.html(f"<p>{escape(text)}</p>", sanitize=False)
    return box


def heading(text: str, level: int = 2) -> ui.html:
    """A heading that screen readers know for one."""
    return ui.html(f"<h{level}>{escape(text)}</h{level}>", sanitize=False)


def drop(
    text: str,
    accept: str,
    done: Callable[[dict[str, Any]], Awaitable[None]],
    most_mib: int,
    *,
    large: bool = False,
) -> ui.element:
    """A place to drop a file, or choose one by keyboard; done: called with the upload as the API
    describes it.

    most_mib: of a file; a larger one is not sent. Refusals are told beside it.
    """
    wrong = ui.label().classes("wrong").props('role="alert"')
    event = f"uploaded-{wrong.id}"
    with ui.element("div") as box:
        ui.html(
            f'<label class="drop{" large" if large else ""}"><span>{escape(text)}</span><progress'
            ' max="1" value="0"></progress>'
            f'<input type="file" accept="{escape(accept)}" aria-label="{escape(text)}"'
            f' data-most="{most_mib * _MIB}"'
            f" onchange=\"panoseg.upload(this, '{event}')\"></label>",
            sanitize=False,
        )

    async def answered(answer: Any) -> None:
        given = answer.args if isinstance(answer.args, dict) else {}
        text = given.get("error", "")
        wrong.set_text(text[:1].upper() + text[1:])
        if "error" not in given:
            await done(given)

    ui.on(event, told(answered))
    return box


def checkbox(text: str, changed: Callable[[bool], Any]) -> None:
    """A box of the browser's own to check, which every keyboard and screen reader knows."""
    with ui.element("label").classes("line box"):
        box = ui.element("input").props('type="checkbox"')
        ui.html(escape(text), sanitize=False, tag="span")
    box.on(
        "change",
        lambda event: changed(bool(event.args)),
        js_handler="(event) => emit(event.target.checked)",
    )


def hectares(value: float) -> str:
    """An area for people."""
    return (
        f"{value:,.0f} ha"
        if value >= 100
        else f"{value:.1f} ha"
        if value >= 10
        else f"{value:.2f} ha"
    )


def duration(seconds: float) -> str:
    """A time for people, as much of it as matters."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


def size(count: int) -> str:
    """A number of bytes for people."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


_SEND = """
const answer = await fetch("/api/sign-in", {{method: "POST", headers: {{"Content-Type": "application/json"}}, body: {body}}});
if (answer.status === 401) return "This token is not known here. Ask whoever runs this server for one.";
return answer.ok ? "" : (await answer.json()).error || "The server does not answer; try again.";
"""


def own_path(to: str) -> str:
    r"""A path of this server, or its first page for what a browser may take for another's address.

    >>> [own_path(to) for to in ("/jobs/0a1b/map", "//evil.example", "/\\evil.example", "/\t/evil.example", "evil.example", "")]
    ['/jobs/0a1b/map', '/', '/', '/', '/', '/']
    """
    return to if re.fullmatch(r"/([\w-][\w./-]*)?", to, re.ASCII) else "/"


def sign_in_page(to: str) -> None:
    """A field for the token. to: the path of a page of ours to go to afterwards."""
    with frame("Sign in", None), ui.element("div").classes("page").style("max-width: 420px"):
        heading("Sign in", 1)
        ui.label("Whoever runs this server gives you a token.").classes("quiet")
        token = ui.input("Token", password=True).props(
            'outlined autofocus autocomplete="current-password"'
        )
        wrong = ui.label().classes("wrong").props('role="alert"')

        async def send() -> None:
            body = json.dumps(json.dumps({"token": token.value})).replace("</", "<\\/")
            try:
                error = await ui.run_javascript(_SEND.format(body=body), timeout=10)
            except TimeoutError:
                error = "The server does not answer; try again."
            if error:
                wrong.set_text(error)
            else:
                # Only a path of this server: whoever wrote the link must not send people elsewhere.
                ui.navigate.to(own_path(to))

        token.on("keydown.enter", send)
        ui.button("Sign in", on_click=send).props("unelevated")
