"""The pages of the web application, made with NiceGUI on top of the service and its files."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import Client, app, ui
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from panoseg.app.pages.frame import (
    UserOf,
    Visit,
    describe_error,
    empty_state,
    frame,
    sign_in_page,
    visit_or_sign_in,
)
from panoseg.app.pages.job import job_page, jobs_page
from panoseg.app.pages.photo import photo_page, photo_result_page
from panoseg.app.pages.result import result_page, shared_page
from panoseg.app.pages.start import start_page
from panoseg.app.service import Service

_OPENING_S = 120
"""Seconds in which the page of a map is made; a large map on a busy server takes long."""


def add_pages(service: Service, user_of: UserOf) -> None:
    """Add all pages to the NiceGUI application, which ``nicegui.ui.run_with`` mounts.

    Args:
        service: The service behind the pages.
        user_of: Returns the user who sends a request; raises ``NotSignedInError``.
    """
    for path, build in (("/", start_page), ("/jobs", jobs_page), ("/photo", photo_page)):
        _add(path, service, user_of, build)
    for path, build_job in (("/jobs/{id_}", job_page), ("/jobs/{id_}/photo", photo_result_page)):
        _add_job_page(path, service, user_of, build_job)

    @ui.page("/jobs/{id_}/map", response_timeout=_OPENING_S)
    async def result(request: Request, id_: str) -> RedirectResponse | None:
        found = visit_or_sign_in(service, user_of, request)
        if not isinstance(found, Visit):
            return found
        await result_page(found, id_)
        return None

    @ui.page("/shared/{token}", response_timeout=_OPENING_S)
    async def shared(token: str) -> None:
        await shared_page(service, token)

    @ui.page("/sign-in")
    def sign_in(to: str = "/") -> None:
        sign_in_page(to)

    app.on_page_exception(_failed_page)
    app.add_exception_handler(404, _not_found)


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer a request for a page that does not exist."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": "There is no such address; see /docs."}, 404)
    with Client(ui.page(""), request=request) as client, frame("Not found", ""):
        empty_state("This page does not exist", describe_error(HTTPException(404)), level=1)
    return client.build_response(request, 404)


def _failed_page(error: Exception) -> None:
    """Show the error of a page that could not be made."""
    with frame("Error", "", notify=False):
        empty_state("This page cannot be shown", describe_error(error), alert=True, level=1)


def _add(path: str, service: Service, user_of: UserOf, build: Callable[[Visit], None]) -> None:
    @ui.page(path)
    def page(request: Request) -> RedirectResponse | None:
        found = visit_or_sign_in(service, user_of, request)
        if not isinstance(found, Visit):
            return found
        build(found)
        return None


def _add_job_page(
    path: str, service: Service, user_of: UserOf, build: Callable[[Visit, str], None]
) -> None:
    @ui.page(path)
    def page(request: Request, id_: str) -> RedirectResponse | None:
        found = visit_or_sign_in(service, user_of, request)
        if not isinstance(found, Visit):
            return found
        build(found, id_)
        return None
