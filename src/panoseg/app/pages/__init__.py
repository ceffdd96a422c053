"""The pages of the web application, by NiceGUI: a thin layer over the service and the files of
results.
"""

from __future__ import annotations

from typing import Any

from nicegui import app, ui
from starlette.requests import Request

from panoseg.app.pages.frame import UserOf, Visit, empty, frame, sign_in_page, unforeseen, visit
from panoseg.app.pages.job import job_page, jobs_page
from panoseg.app.pages.photo import photo_page, photo_result_page
from panoseg.app.pages.result import result_page, shared_page
from panoseg.app.pages.start import start_page
from panoseg.app.service import Service


def add_pages(service: Service, user_of: UserOf) -> None:
    """Add all pages to NiceGUI's application; ``nicegui.ui.run_with`` puts that under another one.

    user_of: who asks; raises ``NotSignedInError``.
    """
    for path, build in (("/", start_page), ("/jobs", jobs_page), ("/photo", photo_page)):
        _add(path, service, user_of, build)
    for path, build_job in (("/jobs/{id_}", job_page), ("/jobs/{id_}/photo", photo_result_page)):
        _add_of_job(path, service, user_of, build_job)

    @ui.page("/jobs/{id_}/map", response_timeout=30)
    async def result(request: Request, id_: str) -> Any:
        found = visit(service, user_of, request)
        return await result_page(found, id_) if isinstance(found, Visit) else found

    @ui.page("/shared/{token}", response_timeout=30)
    async def shared(token: str) -> None:
        await shared_page(service, token)

    @ui.page("/sign-in")
    def sign_in(to: str = "/") -> None:
        sign_in_page(to)

    app.on_page_exception(_failed_page)


def _failed_page(error: Exception) -> None:
    """What stands where a page could not be made."""
    with frame("Error", "", notices=False):
        empty("This page cannot be shown", unforeseen(error), alert=True)


def _add(path: str, service: Service, user_of: UserOf, build: Any) -> None:
    @ui.page(path)
    def page(request: Request) -> Any:
        found = visit(service, user_of, request)
        return build(found) if isinstance(found, Visit) else found


def _add_of_job(path: str, service: Service, user_of: UserOf, build: Any) -> None:
    @ui.page(path)
    def page(request: Request, id_: str) -> Any:
        found = visit(service, user_of, request)
        return build(found, id_) if isinstance(found, Visit) else found
