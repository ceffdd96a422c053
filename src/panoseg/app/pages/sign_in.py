"""The page where people sign in with their token."""

from __future__ import annotations

import json
import re

from nicegui import ui

from panoseg.app.pages.frame import frame, heading

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
        token = ui.input("Token", password=True).props('outlined autofocus autocomplete="current-password"')
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
