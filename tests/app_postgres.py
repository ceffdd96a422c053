"""A PostgreSQL server of Debian's package for the tests, in a temporary folder, reached by a socket
there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/bin", "/usr/bin")


def programs() -> Path | None:
    """The folder with PostgreSQL's programs; None where it is not installed."""
    found = [path.parent for place in _PLACES for path in Path("/").glob(f"{place[1:]}/initdb")]
    return found[-1] if found else None


class Postgres:
    """A server in a new folder, which can be away for a while. url: of its database."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None
        self.folder, self.programs = folder, found
        self.url = f"postgresql+psycopg://panoseg@/postgres?host={folder}"
        folder.mkdir(mode=0o700)
        self._prefix: list[str] = []
        if os.geteuid() == 0:  # by whom PostgreSQL refuses to be run
            shutil.chown(folder, "postgres")
            self._prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._run("initdb", "-U", "panoseg", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run(
            "pg_ctl",
            "-l",
            str(self.folder / "log"),
            "-o",
            f"-k {self.folder} -h '' -F",
            "-w",
            "-t",
            "60",
            "start",
        )

    def stop(self) -> None:
        """End it as a crash would."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *words: str) -> None:
        command = [
            *self._prefix,
            str(self.programs / program),
            "-D",
            str(self.folder / "data"),
            *words,
        ]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs in a new folder; the test is skipped where PostgreSQL is not installed."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    # Short: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        try:
            yield server
        finally:
            server.stop()
