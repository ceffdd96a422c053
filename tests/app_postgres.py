"""A PostgreSQL server of Debian's package for the tests, in a temporary folder, reached by a socket there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/bin", "/usr/bin")


def programs() -> Path | None:
    """The folder with PostgreSQL's programs; None where it is not installed."""
    found = [path.parent for place in _PLACES for path in Path("/").glob(f"{place[1:]}/initdb")]
    return found[-1] if found else None


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start a server in a new folder; gives the URL of its database."""
    found = programs()
    assert found is not None
    folder.mkdir(mode=0o700)
    run = _as_somebody(folder)
    data, log = folder / "data", folder / "log"
    run(str(found / "initdb"), "-D", str(data), "-U", "panoseg", "-A", "trust", "--no-sync")
    options = f"-k {folder} -h '' -F"
    run(str(found / "pg_ctl"), "-D", str(data), "-l", str(log), "-o", options, "-w", "-t", "60", "start")
    try:
        yield f"postgresql+psycopg://panoseg@/postgres?host={folder}"
    finally:
        run(str(found / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


def _as_somebody(folder: Path):
    """A function that runs programs; PostgreSQL refuses to be run by root."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def run(*words: str) -> None:
        done = subprocess.run([*prefix, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)
        assert done.returncode == 0, done.stderr.decode()

    return run
