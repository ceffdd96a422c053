"""The description of the API as one page that asks nobody else for anything."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from jinja2 import Environment
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

import panoseg
from panoseg.app.api import current_user, router, token_of
from panoseg.app.confined import prepare
from panoseg.app.egress import guard_process
from panoseg.app.monitoring import metrics_text, set_up_logging
from panoseg.app.result_api import router as result_router
from panoseg.app.security import Guard
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings, is_loopback
from panoseg.app.users import Users
from panoseg.app.worker import run_worker
from panoseg.errors import AppError, CatalogueError, ConfigError, PanosegError

_METHODS = ("get", "post", "put", "delete")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2420 }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { background: #f2f5f3; padding: .8rem; overflow-x: auto }
h2 { margin: 2rem 0 .2rem; font-size: 1.05rem } b { display: inline-block; min-width: 4rem; color: #0b5d3b }
summary { cursor: pointer } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} Bodies and answers are JSON; where people sign in, send <code>Authorization: Bearer TOKEN</code>.
A refusal is <code>{"error": "what was found; what was expected; what to do"}</code>.
The description for programs: <a href="/openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<h2><b>{{ route.method }}</b> <code>{{ route.path }}</code></h2>
<p>{{ route.text }}</p>
{% if route.parameters %}<table>{% for one in route.parameters %}
<tr><td><code>{{ one.name }}</code></td><td>in the {{ one["in"] }}</td><td><code>{{ one.schema | brief }}</code></td></tr>
{% endfor %}</table>{% endif %}
{% if route.body %}<details><summary>body</summary><pre>{{ route.body | brief }}</pre></details>{% endif %}
{% endfor %}
<h1>Forms</h1>
{% for name, schema in schemas.items() %}
<details id="{{ name }}"><summary><code>{{ name }}</code> {{ schema.description or "" }}</summary>
<pre>{{ schema | brief }}</pre></details>
{% endfor %}
</body></html>"""


def api_page(description: dict[str, Any]) -> str:
    """An OpenAPI description as HTML."""
    environment = Environment(autoescape=True)
    environment.filters["brief"] = lambda value: json.dumps(value, indent=1).replace(
        "#/components/schemas/", ""
    )
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "text": (operation.get("description") or "").strip(),
            "parameters": operation.get("parameters", []),
            "body": operation.get("requestBody"),
        }
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    page = environment.from_string(_PAGE)
    return page.render(
        info=description["info"], routes=routes, schemas=description["components"]["schemas"]
    )


LOG = logging.getLogger("panoseg.app.server")
_HOUSEKEEPING_S = 300.0
_SUPERVISION_S = 0.5
_SHORT_LIFE_S = 5.0
_LONGEST_PAUSE_S = 60.0
_GRACE_S = 10
_LEAST_FREE = 100 * 1024**2
_BACKLOG = 512
# Python lets a busy thread keep others waiting for five times as long, at each of a request's steps
_SWITCH_S = 0.001
# longer than browsers and proxies keep idle connections, or both sides close and use one at once
_KEEP_ALIVE_S = 75


def build_app(service: Service, users: Users) -> FastAPI:
    """The application (ASGI) of a service."""
    app = FastAPI(
        title="panoseg",
        version=panoseg.__version__,
        description="Panoptic segmentation of satellite image time series and photographs.",
        docs_url=None,  # theirs asks a CDN
        redoc_url=None,
    )
    app.state.service, app.state.users = service, users
    app.include_router(router)
    app.include_router(result_router)
    _add_operation(app)
    _add_errors(app)
    app.add_middleware(Guard, settings=service.settings)
    return app


def add_all_pages(app: FastAPI) -> None:
    """Put the pages beside the API; once in a process, for their library knows one application
    alone.
    """
    from nicegui import ui

    from panoseg.app.pages import add_pages

    add_pages(app.state.service, lambda request: app.state.users.user_of(token_of(request)))
    ui.run_with(
        app,
        title="panoseg",
        language="en-US",
        reconnect_timeout=30.0,
        binding_refresh_interval=0.5,
        show_welcome_message=False,
    )


def _add_operation(app: FastAPI) -> None:
    service: Service = app.state.service

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> JSONResponse:
        health = health_of(service)
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        if not _from_this_machine(request):
            current_user(request)
        return PlainTextResponse(
            metrics_text(service), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))


def _from_this_machine(request: Request) -> bool:
    """Whether nobody else asks: a proxy on this machine passes on requests of others, which name
    another host.
    """
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and is_loopback(request.url.hostname or "")
    )


def health_of(service: Service) -> dict[str, Any]:
    """Whether the server can work: its database answers and its disk has room; and how many workers
    live.
    """
    try:
        workers = service.all_jobs.workers()
        free = shutil.disk_usage(service.settings.folder).free
    except SQLAlchemyError:
        return {"status": "the database does not answer"}
    except OSError:
        return {"status": "the folder of the server cannot be read"}
    status = "ok" if free > _LEAST_FREE else "the disk is full"
    return {
        "status": status,
        "version": panoseg.__version__,
        "workers": workers,
        "disk_free_bytes": free,
    }


def _add_errors(app: FastAPI) -> None:
    """Every refusal is one sentence."""

    @app.exception_handler(PanosegError)
    def refused(request: Request, error: PanosegError) -> JSONResponse:
        status = (
            error.status
            if isinstance(error, AppError)
            else 503
            if isinstance(error, CatalogueError)
            else 422
        )
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse(
            {"error": f"{place}: {first['msg']}; expected what /docs describes; correct it"}, 422
        )

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        LOG.error(
            "the database does not answer",
            extra={"reason": str(getattr(error, "orig", error))[:200]},
        )
        return JSONResponse(
            {"error": "the database does not answer; expected an answer; try again soon"}, 503
        )


class Supervisor:
    """Keeps so many workers alive: one that ends is replaced, one that ends at once after a
    pause.
    """

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._workers: list[tuple[BaseProcess, float]] = []
        self._pause = 0.0

    def start(self) -> None:
        """Start the workers."""
        self._thread.start()

    def stop(self) -> None:
        """Let workers put their jobs back and end; those that do not are ended."""
        self._stop.set()
        self._thread.join()
        for process, _ in self._workers:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process, _ in self._workers:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _supervise(self) -> None:
        while not self._stop.is_set():
            for process, started in [pair for pair in self._workers if not pair[0].is_alive()]:
                LOG.warning("a worker ended", extra={"exit_code": process.exitcode})
                short = time.monotonic() - started < _SHORT_LIFE_S
                self._pause = min(max(1.0, 2 * self._pause), _LONGEST_PAUSE_S) if short else 0.0
            self._workers = [pair for pair in self._workers if pair[0].is_alive()]
            if len(self._workers) < self.settings.workers and not self._stop.wait(self._pause):
                self._start_one()
            self._stop.wait(_SUPERVISION_S)

    def _start_one(self) -> None:
        process = self._context.Process(
            target=run_worker, args=(self.settings, True), name="worker"
        )
        try:
            process.start()
        except OSError as error:  # too many processes, too little memory: it is tried again
            LOG.warning("no worker could be started", extra={"reason": str(error)})
            self._pause = min(max(1.0, 2 * self._pause), _LONGEST_PAUSE_S)
            return
        self._workers.append((process, time.monotonic()))


def housekeeping(service: Service) -> None:
    """Remove jobs and uploads that are too old, what deleted jobs left, and folders and files that
    nothing knows of.
    """
    days = service.settings.limits.keep_days
    if days:
        for id in service.all_jobs.expired(days):
            service.all_jobs.mark_deleted(id)
            LOG.info("job removed: it ended too long ago", extra={"job": id})
        for owner, id in service.uploads.expired(days):
            service.uploads.delete(owner, id)
    service.remove_deleted()
    service.remove_strays()


def _keep_house(service: Service, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            housekeeping(service)
        except Exception:  # it is tried again; the server must not lose it for one bad folder
            LOG.exception("housekeeping failed")
        stop.wait(_HOUSEKEEPING_S)


def run_server(settings: AppSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. announce: called with the address once it answers. Raises
    ``PanosegError``.
    """
    set_up_logging()
    sys.setswitchinterval(_SWITCH_S)
    guard_process(settings)
    users = Users(settings.tokens)
    service = Service(settings)
    listener = _listen(settings)
    stop = threading.Event()
    supervisor = Supervisor(settings)
    app = build_app(service, users)
    add_all_pages(app)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        proxy_headers=False,
    )
    server = _Server(config, lambda: announce(_address(settings, listener)))
    keeper = threading.Thread(
        target=_keep_house, args=(service, stop), name="housekeeping", daemon=True
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # While it runs uvicorn handles them; one that comes before stops it then, and afterwards it
        # raises them once more,
        # which must not end what follows.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        threading.Thread(target=prepare, daemon=True).start()
        supervisor.start()
        keeper.start()
        server.run(sockets=[listener])
    finally:
        stop.set()
        supervisor.stop()
        service.close()
        LOG.info("server stopped")


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._started()


def _listen(settings: AppSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{settings.host}:{settings.port} ({error.strerror or error})",
            "an address that is free",
            "choose another --port",
        ) from error


def _address(settings: AppSettings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
