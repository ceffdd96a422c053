"""``panoseg app``: the web application."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from panoseg.app.settings import AppSettings, limit_drivers
from panoseg.errors import ConfigError

DATABASE = "PANOSEG_DATABASE"


def main(arguments: Sequence[str]) -> None:
    """The server, or, with a word before the options, a worker or a new user."""
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if verb not in VERBS:
        raise ConfigError(
            f"panoseg app {verb}",
            f"options, or {' or '.join(filter(None, VERBS))}",
            "see panoseg app --help",
        )
    config = (
        tyro.conf.PositionalMetavarFromFieldName,
        tyro.conf.DisallowNone,
        tyro.conf.OmitArgPrefixes,
    )
    rest = arguments[1:] if verb else arguments
    tyro.cli(VERBS[verb], prog=f"panoseg app {verb}".strip(), args=rest, config=config)


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


VERBS: dict[str, Callable[..., None]] = {"": serve, "worker": worker, "token": token}
