"""The server: the ASGI application, the processes of its workers, housekeeping, and the API page.

``run_server`` puts them together. ``build_app`` makes the application without pages, for tests.
"""

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
from panoseg.app.confined import preload
from panoseg.app.egress import guard_process
from panoseg.app.monitoring import metrics_text, set_up_logging
from panoseg.app.result_api import router as result_router
from panoseg.app.security import Guard
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings, is_loopback
from panoseg.app.users import Users
from panoseg.app.worker import run_worker
from panoseg.app.world import world_bytes
from panoseg.errors import AppError, CatalogueError, ConfigError, PanosegError

LOG = logging.getLogger("panoseg.app.server")
_HOUSEKEEPING_S = 300.0
_SUPERVISION_S = 0.5
_SHORT_LIFE_S = 5.0
_MAX_PAUSE_S = 60.0
_GRACE_S = 10
_MIN_FREE_BYTES = 100 * 1024**2
_BACKLOG = 512
# A busy thread makes others wait for one interval at each step of a request; Python's is 5 ms.
_SWITCH_INTERVAL_S = 0.001
# Longer than browsers and proxies keep idle connections: else the server may close a connection
# just while the other side sends a request.
_KEEP_ALIVE_S = 75


def build_app(service: Service, users: Users) -> FastAPI:
    """Return the ASGI application of a service, without pages."""
    app = FastAPI(
        title="panoseg",
        version=panoseg.__version__,
        description="Panoptic segmentation of satellite image time series and photographs.",
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
    )
    app.state.service, app.state.users = service, users
    app.include_router(router)
    app.include_router(result_router)
    _add_operations(app)
    _add_errors(app)
    app.add_middleware(Guard, settings=service.settings)
    return app


def add_all_pages(app: FastAPI) -> None:
    """Add the pages to an application; once per process, as NiceGUI knows only one."""
    from nicegui import ui

    from panoseg.app.pages import add_pages

    add_pages(app.state.service, lambda request: app.state.users.user_of(token_of(request)))
    ui.run_with(
        app,
        title="panoseg",
        language="en-US",
        dark=None,  # as the browser
        reconnect_timeout=30.0,
        binding_refresh_interval=0.5,
        show_welcome_message=False,
    )


def _add_operations(app: FastAPI) -> None:
    """Add the routes for operators, and the page that describes the API."""
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

    @app.get("/api/world", include_in_schema=False)
    def world_map() -> Response:
        headers = {"content-encoding": "gzip", "cache-control": "public, max-age=86400"}
        return Response(world_bytes(), media_type="application/json", headers=headers)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))


def _from_this_machine(request: Request) -> bool:
    """Return whether a request comes from this machine and not through a proxy on it.

    Requests through a proxy name another host.
    """
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and is_loopback(request.url.hostname or "")
    )


def health_of(service: Service) -> dict[str, Any]:
    """Return whether the database answers and the disk has space, and how many workers live."""
    try:
        workers = service.all_jobs.workers.count()
        free = shutil.disk_usage(service.settings.folder).free
    except SQLAlchemyError:
        return {"status": "the database does not answer"}
    except OSError:
        return {"status": "the folder of the server cannot be read"}
    status = "ok" if free > _MIN_FREE_BYTES else "the disk is full"
    return {
        "status": status,
        "version": panoseg.__version__,
        "workers": workers,
        "disk_free_bytes": free,
    }


def _add_errors(app: FastAPI) -> None:
    """Answer errors with a status and {"error": message}."""

    @app.exception_handler(PanosegError)
    def refused(request: Request, error: PanosegError) -> JSONResponse:
        status = 503 if isinstance(error, CatalogueError) else 422
        if isinstance(error, AppError):
            status = error.status
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"The request is not valid: {place}: {first['msg']}. See /docs."
        return JSONResponse({"error": message}, 422)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        LOG.error(
            "the database does not answer",
            extra={"reason": str(getattr(error, "orig", error))[:200]},
        )
        return JSONResponse({"error": "The database does not answer; try again soon."}, 503)


class Supervisor:
    """Keeps ``settings.workers`` worker processes alive.

    A worker that ends is replaced; one that ends soon after its start is replaced after a pause,
    which doubles each time.
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
        """Stop the workers, which put their jobs back; kill those that do not end in time."""
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
                self._pause = min(max(1.0, 2 * self._pause), _MAX_PAUSE_S) if short else 0.0
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
        except OSError as error:  # too many processes, or too little memory
            LOG.warning("no worker could be started", extra={"reason": str(error)})
            self._pause = min(max(1.0, 2 * self._pause), _MAX_PAUSE_S)
            return
        self._workers.append((process, time.monotonic()))


def housekeeping(service: Service) -> None:
    """Remove expired jobs and uploads, files of deleted jobs, and stray folders and files."""
    days = service.settings.limits.keep_days
    if days:
        for id in service.all_jobs.expired(days):
            service.all_jobs.mark_deleted(id)
            LOG.info("expired job removed", extra={"job": id})
        for owner, id in service.uploads.expired(days):
            service.uploads.delete(owner, id)
    service.remove_deleted()
    service.remove_strays()


def _keep_house(service: Service, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            housekeeping(service)
        except Exception:  # tried again later; one bad folder must not end the thread
            LOG.exception("housekeeping failed")
        stop.wait(_HOUSEKEEPING_S)


def run_server(settings: AppSettings, announce: Callable[[str], None]) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        settings: The settings.
        announce: Called with the address once the server answers.

    Raises:
        PanosegError: The server cannot start.
    """
    set_up_logging()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
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
        # uvicorn handles signals while it runs, and raises them again afterwards, which must not
        # end the cleanup below. A signal before its start stops it as soon as it starts.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        threading.Thread(target=preload, daemon=True).start()
        supervisor.start()
        keeper.start()
        server.run(sockets=[listener])
    finally:
        stop.set()
        supervisor.stop()
        service.close()
        LOG.info("server stopped")


class _Server(uvicorn.Server):
    """A uvicorn server that calls a function once it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call the function."""
        await super().startup(sockets)
        self._started()


def _listen(settings: AppSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror or error}). Choose"
            " another --port or --host."
        ) from error


def _address(settings: AppSettings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


# -- the page that describes the API

_METHODS = ("get", "post", "put", "delete")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2420 }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: #f2f5f3; padding: .8rem; overflow-x: auto }
h2 { margin: 2rem 0 .2rem; font-size: 1.05rem }
b { display: inline-block; min-width: 4rem; color: #0b5d3b }
summary { cursor: pointer } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} Bodies and answers are JSON. If users sign in at this server, send
<code>Authorization: Bearer TOKEN</code>.
An error is answered by <code>{"error": "what is wrong and what to do"}</code>.
The description for programs: <a href="/openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<h2><b>{{ route.method }}</b> <code>{{ route.path }}</code></h2>
<p>{{ route.text }}</p>
{% if route.parameters %}<table>{% for one in route.parameters %}
<tr><td><code>{{ one.name }}</code></td><td>in the {{ one["in"] }}</td>
<td><code>{{ one.schema | brief }}</code></td></tr>
{% endfor %}</table>{% endif %}
{% if route.body %}<details><summary>body</summary>
<pre>{{ route.body | brief }}</pre></details>{% endif %}
{% endfor %}
<h1>Schemas</h1>
{% for name, schema in schemas.items() %}
<details id="{{ name }}"><summary><code>{{ name }}</code> {{ schema.description or "" }}</summary>
<pre>{{ schema | brief }}</pre></details>
{% endfor %}
</body></html>"""


def api_page(description: dict[str, Any]) -> str:
    """Return an OpenAPI description as a page that loads nothing from other servers."""
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
