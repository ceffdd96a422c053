"""The commands of the web application: app and job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from panoseg.app.settings import AppSettings, limit_drivers
from panoseg.cli import Verbs, parse, run_verb
from panoseg.cli.output import Output
from panoseg.cli.terminal import say
from panoseg.cube import ReadOptions
from panoseg.errors import AppError, ConfigError, require

if TYPE_CHECKING:
    from panoseg.app.client import Client

PUBLISHED = "coco"  # of panoseg.models.model, whose import takes seconds
DATABASE_VARIABLE = "PANOSEG_DATABASE"
TOKEN_VARIABLE = "PANOSEG_TOKEN"
_LOCAL = "http://127.0.0.1:8080"


def app(arguments: Sequence[str]) -> None:
    """Run the server, or the verb that comes before the options."""
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if verb not in APP_VERBS:
        raise ConfigError(
            f"There is no verb {verb!r}; pass only options, or one of the verbs"
            f" {' and '.join(filter(None, APP_VERBS))}. See panoseg app --help."
        )
    rest = arguments[1:] if verb else arguments
    parse(APP_VERBS[verb], f"panoseg app {verb}".strip(), rest, omit_prefixes=True)


def serve(settings: Annotated[AppSettings, tyro.conf.arg(name="")] = AppSettings()) -> None:  # noqa: B008
    """Serve the web application: draw a place, get its parcels.

    example: panoseg app

    example: panoseg app --host 0.0.0.0 --tokens users --workers 0

    Jobs run in separate processes. panoseg app worker runs another worker, on this machine or on
    one with the same folder and database; panoseg app token NAME --tokens FILE adds a user. Ctrl-C
    or SIGTERM stops the server; unfinished jobs continue when it is started again.
    """
    settings = _prepared(settings)
    limit_drivers(writing=False)
    from panoseg.app.server import run_server

    def announce(address: str) -> None:
        who = (
            f"users of {settings.tokens} sign in"
            if settings.tokens
            else "for this machine alone; nobody signs in"
        )
        say(f"panoseg app: {address} ({who}; Ctrl-C stops)")

    run_server(settings, announce)


def worker(settings: Annotated[AppSettings, tyro.conf.arg(name="")] = AppSettings()) -> None:  # noqa: B008
    """Run one worker for a server with the same --folder and --database.

    Ctrl-C or SIGTERM stops it.

    example: panoseg app worker --folder /srv/panoseg --database
    postgresql+psycopg://panoseg@db/panoseg
    """
    settings = _prepared(settings)
    limit_drivers(writing=True)
    from panoseg.app.service import Service
    from panoseg.app.worker import run_worker

    Service(settings).close()  # fails at once if the folder or the database cannot be used
    run_worker(settings)


def token(name: tyro.conf.Positional[str], tokens: Path) -> None:
    """Add a user, or another token of a user, and print the token.

    The token itself is stored nowhere.

    example: panoseg app token ada --tokens users

    Args:
        name: Name of the user.
        tokens: File of users; made if it does not exist.
    """
    from panoseg.app.users import add_user

    print(add_user(tokens, name))


def _prepared(settings: AppSettings) -> AppSettings:
    """Return the settings with the database of the environment, unless an option names one.

    Raises:
        ConfigError: The settings need packages that are not installed.
    """
    require("app", "panoseg app")
    if settings.dask is not None:
        require("cluster", "--dask")
    database = settings.database or os.environ.get(DATABASE_VARIABLE) or None
    return replace(
        settings,
        database=database,
        weights=_located(settings.weights),
        photo_weights=_located(settings.photo_weights),
    )


def _located(places: tuple[str | Path, ...]) -> tuple[str | Path, ...]:
    """Return weights with the folders of those that are known by name, which are fetched."""
    named = [str(place) for place in places if str(place) != PUBLISHED]
    if not any(_is_name(place) for place in named):
        return places
    from panoseg.models.weights_by_name import locate

    return tuple(
        locate(str(place)) if _is_name(str(place)) and str(place) != PUBLISHED else place
        for place in places
    )


def _is_name(place: str) -> bool:
    """Return whether weights are named, without the import that finds out which they are."""
    return not Path(place).exists() and (":" in place or "/" not in place)


APP_VERBS: dict[str, Callable[..., None]] = {"": serve, "worker": worker, "token": token}


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
    """What the job does."""

    sample: int | None = None
    """Map a simulated season with this number of pixels on a side."""
    area: Path | None = None
    """Map the outline in this file."""
    season: int | None = None
    """Harvest year of --area or --sample."""
    catalog: str | None = None
    """Catalogue of scenes, by name or URL; by default the catalogue of the server."""
    cube: Path | None = None
    """Map this season: a NetCDF file, or a zipped Zarr store."""
    photo: Path | None = None
    """Segment this photograph."""
    register: str | None = None
    """Official parcels to compare the map with: a file or a URL."""
    codes: Path | None = None
    """Classes of the crop codes of --register: a CSV file with the columns code and class, as for
    panoseg dataset.
    """
    weights: str | None = None
    """Name of the weights, as the server offers them."""
    name: str | None = None
    """Name of the job."""
    tta: Annotated[int | None, tyro.conf.arg(name="views", aliases=["--tta"])] = None
    """Number of test-time augmentations (flips and rotations) per tile, 1-8. Runtime grows
    linearly.
    """

    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    """What the file of --cube does not say about itself."""

    def __post_init__(self) -> None:
        places = ("sample", "area", "cube", "photo")
        if sum(getattr(self, name) is not None for name in places) != 1:
            raise ConfigError("Pass exactly one of --sample, --area, --cube and --photo.")
        if self.cube is None and self.read.to_json():
            raise ConfigError(
                "--bands, --nodata, --scale, --offset, --crs, --season-start, --from and --to need"
                " --cube; leave them out."
            )
        if self.area is not None and self.season is None:
            raise ConfigError("--area needs a harvest year; add e.g. --season 2024.")
        if self.photo is not None and (self.register is not None or self.tta is not None):
            raise ConfigError(
                "--photo cannot be combined with --register or --tta; leave them out."
            )
        if self.codes is not None and self.register is None:
            raise ConfigError("--codes needs --register, the official parcels with these codes.")


def submit(
    options: Annotated[JobOptions, tyro.conf.arg(name="")],
    server: str = _LOCAL,
    wait: bool = False,
) -> None:
    """Start a job and print its id.

    Pass --sample, --area with --season, --cube, or --photo.

    example: panoseg job submit --area farm.geojson --season 2024 --wait

    example: panoseg job submit --server https://maps.example.org --sample 256

    If the server has users, set the variable PANOSEG_TOKEN to your token.

    Args:
        options: What the job does.
        server: Address of panoseg app.
        wait: Wait until the job has ended, as panoseg job watch does.
    """
    with _client(server) as client:
        started = client.submit(_request(client, options))
        say(started["id"])
        if wait:
            _watch(client, started["id"])


def watch(id: tyro.conf.Positional[str], server: str = _LOCAL) -> None:
    """Print the progress of a job until it has ended.

    The exit code is 2 unless the job succeeds.

    example: panoseg job watch 0123456789abcdef0123456789abcdef

    Args:
        id: Id of the job.
        server: Address of panoseg app.
    """
    with _client(server) as client:
        _watch(client, id)


def fetch(
    id: tyro.conf.Positional[str], out: Annotated[Path, Output.FOLDER], server: str = _LOCAL
) -> None:
    """Download the files of a finished job to a new folder.

    example: panoseg job fetch 0123456789abcdef0123456789abcdef --out map

    Args:
        id: Id of the job.
        out: Folder for the files; must be new or empty.
        server: Address of panoseg app.
    """
    with _client(server) as client:
        files = client.fetch(id, out)
    print(f"{len(files)} files in {out}")


def _client(server: str) -> Client:
    require("app", "panoseg job")
    from panoseg.app.client import Client

    return Client(server, os.environ.get(TOKEN_VARIABLE))


def _request(client: Client, options: JobOptions) -> dict[str, Any]:
    """Upload the files of a job and return its request as the API expects it."""
    common = {"name": options.name, "weights": options.weights}
    request: dict[str, Any] = {key: value for key, value in common.items() if value is not None}
    if options.photo is not None:
        upload = client.upload(options.photo)["id"]
        return {"weights": "coco", **request, "kind": "photo", "upload": upload}
    request |= {"kind": "map", "source": _source(client, options)}
    if options.tta is not None:
        request["options"] = {"views": options.tta}
    if options.register is not None:
        request["register_of"] = _register(client, options.register, options.codes)
    return request


def _source(client: Client, options: JobOptions) -> dict[str, Any]:
    year = {} if options.season is None else {"year": options.season}
    if options.cube is not None:
        upload, read = client.upload(options.cube)["id"], options.read.to_json()
        if read:
            client.check_season(upload, read)  # the job is refused if the season still is
        return {"type": "cube", "upload": upload, "read": read}
    if options.area is not None:
        return {
            "type": "catalogue",
            "upload": client.upload(options.area)["id"],
            "catalogue": options.catalog,
            **year,
        }
    return {"type": "sample", "size": options.sample, **year}


def _register(client: Client, register: str, codes: Path | None) -> dict[str, Any]:
    request = (
        {"url": register} if "://" in register else {"upload": client.upload(Path(register))["id"]}
    )
    return request if codes is None else {**request, "codes": client.upload(codes)["id"]}


def _watch(client: Client, id_: str) -> None:
    def show_progress(view: dict[str, Any]) -> None:
        seconds = view["seconds_left"]
        left = "" if seconds is None else f", about {seconds:.0f} s left"
        print(
            f"{view['state']:9} {view['progress']:4.0%}  {view['message']}{left}",
            file=sys.stderr,
            flush=True,
        )

    def show_log(line: dict[str, Any]) -> None:
        print(f"{line['time'][:19]}  {line['text']}", flush=True)

    ended = client.watch(id_, show_progress, show_log)
    if ended["state"] != "done":
        reason = f": {ended['error']}" if ended["error"] else ""
        raise AppError(f"Job {id_} is {ended['state']}{reason}. Submit it again.")


JOB_VERBS: Verbs = {
    "submit": (submit, "start a job"),
    "watch": (watch, "print its progress until it has ended"),
    "fetch": (fetch, "download its files"),
}
