"""The commands of the web application: app and job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from panoseg.app.settings import AppSettings, limit_drivers
from panoseg.cli import Verbs, parse, run_verb
from panoseg.errors import AppError, ConfigError

if TYPE_CHECKING:
    from panoseg.app.client import Client


DATABASE = "PANOSEG_DATABASE"


def app(arguments: Sequence[str]) -> None:
    """Run the server, or, with a verb before the options, a worker or ``token``."""
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if verb not in APP_VERBS:
        raise ConfigError(
            f"There is no verb {verb!r}; pass options alone, or one of the verbs"
            f" {' and '.join(filter(None, APP_VERBS))}. See panoseg app --help."
        )
    rest = arguments[1:] if verb else arguments
    parse(APP_VERBS[verb], f"panoseg app {verb}".strip(), rest, omit_prefixes=True)


def serve(settings: Annotated[AppSettings, tyro.conf.arg(name="")] = AppSettings()) -> None:  # noqa: B008
    """Serve the web application: draw a place, get its parcels; its jobs run in processes beside
    it.

    example: panoseg app

    example: panoseg app --host 0.0.0.0 --tokens users --workers 0

    panoseg app worker runs one more worker, here or on another machine with the same folder and
    database; panoseg app token NAME --tokens FILE adds a user. Ctrl-C or SIGTERM stops it; jobs go
    on after the next start.
    """
    limit_drivers(writing=False)
    from panoseg.app.server import run_server

    settings = _with_environment(settings)

    def announce(address: str) -> None:
        who = (
            f"users of {settings.tokens} sign in"
            if settings.tokens
            else "for this machine alone; nobody signs in"
        )
        print(f"panoseg app: {address} ({who}; Ctrl-C stops)", flush=True)

    run_server(settings, announce)


def worker(settings: Annotated[AppSettings, tyro.conf.arg(name="")] = AppSettings()) -> None:  # noqa: B008
    """Run one worker, for a server with the same --folder and --database, until Ctrl-C or SIGTERM.

    example: panoseg app worker --folder /srv/panoseg --database
    postgresql+psycopg://panoseg@db/panoseg
    """
    limit_drivers(writing=True)
    from panoseg.app.service import Service
    from panoseg.app.worker import run_worker

    settings = _with_environment(settings)
    Service(settings).close()  # folder and tables are there, or one line says why not
    run_worker(settings)


def token(name: tyro.conf.Positional[str], tokens: Path) -> None:
    """Add a user to the file of users, or a further token of one, and print the token, which is
    kept nowhere else.

    example: panoseg app token ada --tokens users

    Args:
        name: The user.
        tokens: The file, made where it is not there.
    """
    from panoseg.app.users import add_user

    print(add_user(tokens, name))


def _with_environment(settings: AppSettings) -> AppSettings:
    """The same with the database that the environment names, unless an option does."""
    given = os.environ.get(DATABASE)
    return replace(settings, database=given) if given and settings.database is None else settings


APP_VERBS: dict[str, Callable[..., None]] = {"": serve, "worker": worker, "token": token}


TOKEN = "PANOSEG_TOKEN"
_LOCAL = "http://127.0.0.1:8080"


def job(arguments: Sequence[str]) -> None:
    """Parse the verb, then its options."""
    run_verb(
        "job",
        JOB_VERBS,
        arguments,
        "Jobs of a web application (panoseg app).",
        "panoseg job submit --sample 256 --wait",
    )


@dataclass(frozen=True)
class JobOptions:
    """What is wished for."""

    sample: int | None = None
    """A map of a simulated season of so many pixels a side."""
    area: Path | None = None
    """A map of the outline in this file."""
    season: int | None = None
    """Harvest year of --area or --sample."""
    catalog: str | None = None
    """Catalogue of scenes, by name or URL; without it the server's own."""
    cube: Path | None = None
    """A map of this season: a NetCDF file, or a zipped Zarr store."""
    photo: Path | None = None
    """The segmentation of this photograph."""
    register: str | None = None
    """Official parcels, a file or a URL, to compare the map with."""
    codes: Path | None = None
    """Which class each crop code of --register is: a CSV with the columns code and class, as for
    panoseg dataset.
    """
    weights: str | None = None
    """Name of the weights, as the server offers them."""
    name: str | None = None
    """What the job is called."""
    views: int | None = None
    """As how many turned and mirrored images the network sees each tile."""

    def __post_init__(self) -> None:
        places = {name: getattr(self, name) for name in ("sample", "area", "cube", "photo")}
        given = [f"--{name}" for name, value in places.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                " and ".join(given) or "no place",
                "one of --sample, --area, --cube, --photo",
                "say one of them",
            )
        if self.area is not None and self.season is None:
            raise ConfigError(
                "--area without a season",
                "the year of a harvest",
                "add --season, as in --season 2024",
            )
        if self.photo is not None and (self.register is not None or self.views is not None):
            raise ConfigError(
                "--photo with --register or --views", "a photograph alone", "leave them out"
            )
        if self.codes is not None and self.register is None:
            raise ConfigError(
                "--codes without --register", "the parcels that have such codes", "add --register"
            )


def submit(
    options: Annotated[JobOptions, tyro.conf.arg(name="")],
    server: str = _LOCAL,
    wait: bool = False,
) -> None:
    """Start a job: of --sample, of --area and --season, of --cube, or of --photo; prints its id.

    example: panoseg job submit --area farm.geojson --season 2024 --wait

    example: panoseg job submit --server https://maps.example.org --sample 256

    The variable PANOSEG_TOKEN holds your token, where people sign in.

    Args:
        options: What is wished for.
        server: Where panoseg app answers.
        wait: Wait until the job has ended, as panoseg job watch does.
    """
    with _client(server) as client:
        job = client.submit(_request(client, options))
        print(job["id"], flush=True)
        if wait:
            _watch(client, job["id"])


def watch(id: tyro.conf.Positional[str], server: str = _LOCAL) -> None:
    """Show what a job does until it has ended; exit code 2 unless it is done.

    example: panoseg job watch 0123456789abcdef0123456789abcdef

    Args:
        id: Of the job.
        server: Where panoseg app answers.
    """
    with _client(server) as client:
        _watch(client, id)


def fetch(id: tyro.conf.Positional[str], out: Path, server: str = _LOCAL) -> None:
    """Write the files of a job that is done to a new folder.

    example: panoseg job fetch 0123456789abcdef0123456789abcdef --out map

    Args:
        id: Of the job.
        out: Folder for the files; new or empty.
        server: Where panoseg app answers.
    """
    with _client(server) as client:
        files = client.fetch(id, out)
    print(f"{len(files)} files in {out}")


def _client(server: str) -> Client:
    from panoseg.app.client import Client

    return Client(server, os.environ.get(TOKEN))


def _request(client: Client, options: JobOptions) -> dict[str, Any]:
    """The request of the API; files are uploaded for it."""
    request: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("name", "weights")
        if getattr(options, name) is not None
    }
    if options.photo is not None:
        return {
            "weights": "coco",
            **request,
            "kind": "photo",
            "upload": client.upload(options.photo)["id"],
        }
    request |= {"kind": "map", "source": _source(client, options)}
    request |= {} if options.views is None else {"options": {"views": options.views}}
    return request | (
        {}
        if options.register is None
        else {"register_of": _register(client, options.register, options.codes)}
    )


def _source(client: Client, options: JobOptions) -> dict[str, Any]:
    year = {} if options.season is None else {"year": options.season}
    if options.cube is not None:
        return {"type": "cube", "upload": client.upload(options.cube)["id"]}
    if options.area is not None:
        return {
            "type": "catalogue",
            "upload": client.upload(options.area)["id"],
            "catalogue": options.catalog,
            **year,
        }
    return {"type": "sample", "size": options.sample, **year}


def _register(client: Client, register: str, codes: Path | None) -> dict[str, Any]:
    given = (
        {"url": register} if "://" in register else {"upload": client.upload(Path(register))["id"]}
    )
    return given | ({} if codes is None else {"codes": client.upload(codes)["id"]})


def _watch(client: Client, id: str) -> None:
    def show(job: dict[str, Any]) -> None:
        left = (
            f", about {job['seconds_left']:.0f} s left" if job["seconds_left"] is not None else ""
        )
        print(
            f"{job['state']:9} {job['progress']:4.0%}  {job['message']}{left}",
            file=sys.stderr,
            flush=True,
        )

    def log(line: dict[str, Any]) -> None:
        print(f"{line['time'][:19]}  {line['text']}", flush=True)

    job = client.watch(id, show, log)
    if job["state"] != "done":
        raise AppError(
            f"job {id} is {job['state']} ({job['error'] or 'it was cancelled'})",
            "one that is done",
            "start it again",
        )


JOB_VERBS: Verbs = {
    "submit": (submit, "start a job"),
    "watch": (watch, "show what it does until it has ended"),
    "fetch": (fetch, "get its files"),
}
