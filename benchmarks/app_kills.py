"""Kills workers, servers and processes of jobs of the web application at random moments, and looks
at what became of the jobs.

    python benchmarks/app_kills.py [--moments 10] [--size 48] [--seeds 3] [--deadline 1800]
        [--database URL] [--folder DIR]

A worker and the server are killed so often each, the process of a job half as often, in an order
drawn from a fixed seed, while jobs of the sample place run; new jobs come in so that there is
always one to disturb. Ends with exit code 1 unless every job is done, none twice, each with the
files that an undisturbed job has, and no process is left. No process outlives it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from sqlalchemy import Engine, create_engine, text

COMPARED = (
    "map/classes.tif",
    "map/segments.tif",
    "map/confidence.tif",
    "map/areas.csv",
    "map/parcels.parquet",
    "map/parcels.pmtiles",
    "refined/classes.tif",
    "refined/parcels.parquet",
    "layers/layers.json",
)
_MARK = "PANOSEG_KILLS"
_LEASE_S = 5
_START_S = 600
_LEAVE_S = 60
_NEWS_S = 10
_COUNTED = {
    "sqlite": (
        (
            "CREATE TRIGGER count_ends AFTER UPDATE OF state ON jobs WHEN NEW.state = 'done'"
            " BEGIN INSERT INTO kills_ends VALUES (NEW.id); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE OR REPLACE FUNCTION count_ends() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO kills_ends VALUES (NEW.id); RETURN NEW; END'"
        ),
        (
            "CREATE TRIGGER count_ends AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN (NEW.state ="
            " 'done') EXECUTE FUNCTION count_ends()"
        ),
    ),
}


class DeadlineError(Exception):
    """It has taken longer than it may."""


class Clock:
    """The time that is left, and lines about what happens."""

    def __init__(self, seconds: float) -> None:
        self._start = time.monotonic()
        self._end = self._start + seconds

    def say(self, line: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"{time.monotonic() - self._start:6.0f} s  {line}", flush=True)

    def until(self, holds: Callable[[], object], what: str, seconds: float = float("inf")) -> None:
        """Wait until something holds. Raises ``DeadlineError``."""
        end = min(self._end, time.monotonic() + seconds)
        while not holds():
            if time.monotonic() > end:
                raise DeadlineError(what)
            time.sleep(0.3)


class Server:
    """panoseg app on a folder, started again on the same port. All its processes carry a mark, so
    that all can be ended.
    """

    def __init__(self, folder: Path, database: str | None, clock: Clock) -> None:
        self.folder, self.clock, self.port = folder, clock, 0
        self.database = database
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen | None = None
        self.client = httpx.Client()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [
            "--folder",
            self.folder,
            "--port",
            self.port,
            "--workers",
            2,
            "--lease-seconds",
            _LEASE_S,
        ]
        words = [sys.executable, "-m", "panoseg", "app", *map(str, options)]
        environment = {**os.environ, _MARK: self.mark} | (
            {"PANOSEG_DATABASE": self.database} if self.database else {}
        )
        with (
            (self.folder.parent / "log").open("a") as log,
            (self.folder.parent / "address").open("w+") as address,
        ):
            self.process = subprocess.Popen(words, stdout=address, stderr=log, env=environment)
            self.clock.until(
                lambda: self.process.poll() is not None or _text(address),
                "the server does not start",
                _START_S,
            )
            said = _text(address).split()
        if self.process.poll() is not None or len(said) < 3:
            raise SystemExit(
                "the server ended at its start:\n"
                + (self.folder.parent / "log").read_text()[-3000:]
            )
        self.port = int(said[2].rsplit(":", 1)[1])
        self.client = httpx.Client(base_url=said[2], timeout=60)

    def kill(self) -> None:
        """As the system would for memory; its workers live on for as long as their jobs do."""
        self.client.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it in peace; returns its exit code."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_LEAVE_S)

    def submit(self, size: int, seed: int) -> str:
        """A job of a sample."""
        source = {"type": "sample", "size": size, "seed": seed}
        answer = self.client.post(
            "/api/jobs", json={"kind": "map", "source": source, "options": {"views": 1}}
        )
        return str(answer.raise_for_status().json()["id"])

    def processes(self) -> list[psutil.Process]:
        """Every process that was started by one of the servers, however it is related to it now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(_MARK) == self.mark
            )
        return False

    def workers(self, engine: Engine) -> list[int]:
        """Process numbers of the living workers."""
        living = {process.pid for process in self.processes()}
        return [
            pid
            for (id,) in rows(engine, "SELECT id FROM workers")
            if (pid := int(id.rsplit("-", 2)[1])) in living
        ]

    def job_processes(self, engine: Engine) -> list[int]:
        """Process numbers of the jobs that run: children of what a worker starts to make them."""
        found = []
        for pid in self.workers(engine):
            with suppress(psutil.Error):
                worker = psutil.Process(pid)
                found += [
                    grandchild.pid for child in worker.children() for grandchild in child.children()
                ]
        return found

    def end_all(self) -> int:
        """Wait for all processes to leave, and kill those that do not; returns how many those
        were.
        """
        with suppress(DeadlineError):
            self.clock.until(lambda: not self.processes(), "processes stay", _LEAVE_S)
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return len(left)


def _text(file) -> str:
    file.seek(0)
    found = file.read()
    return found if found.endswith("\n") else ""


def rows(engine: Engine, query: str) -> list[tuple]:
    """What the database says."""
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def count_ends(engine: Engine) -> None:
    """Let the database count how often each job becomes done."""
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE kills_ends (job VARCHAR(32))",
            *_COUNTED[engine.dialect.name],
        ):
            connection.execute(text(statement))


def digests(folder: Path) -> list[str]:
    """Of the files of a result."""
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED]


class Trial:
    """Jobs, first left alone, then disturbed."""

    def __init__(
        self, server: Server, engine: Engine, chosen: argparse.Namespace, clock: Clock
    ) -> None:
        self.server, self.engine, self.chosen, self.clock = server, engine, chosen, clock
        self.calm: dict[int, str] = {}
        self.disturbed: list[tuple[int, str]] = []
        self._said = 0.0

    def leave_alone(self) -> None:
        """A job of each seed."""
        self.calm = {
            seed: self.server.submit(self.chosen.size, seed) for seed in range(self.chosen.seeds)
        }
        self.clock.until(self._none_open, "undisturbed jobs do not end")

    def disturb(self) -> None:
        """Kill while jobs run."""
        chance, moments = random.Random(0), self.chosen.moments
        kills = ["worker"] * moments + ["server"] * moments + ["job"] * ((moments + 1) // 2)
        chance.shuffle(kills)
        for number, what in enumerate(kills, 1):
            self._keep_busy()
            time.sleep(chance.uniform(0.5, 8.0))
            done = self._kill(what, chance)
            self.clock.say(f"{number} of {len(kills)}: {what} {done}; {self._open()}")
        self.clock.until(self._none_open, "disturbed jobs do not end")

    def _keep_busy(self) -> None:
        while sum(state in ("queued", "running") for state in self.states().values()) < 3:
            seed = len(self.disturbed) % self.chosen.seeds
            self.disturbed.append((seed, self.server.submit(self.chosen.size, seed)))

    def _kill(self, what: str, chance: random.Random) -> str:
        if what == "server":
            self.server.kill()
            self.server.start()
            return "killed and started again"
        found: list[int] = []
        find = self.server.workers if what == "worker" else self.server.job_processes
        self.clock.until(
            lambda: found.extend(find(self.engine)) or found,
            f"there is no {what} to be killed",
            _START_S,
        )
        with suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
        return "killed"

    def states(self) -> dict[str, str]:
        """Of all jobs."""
        return dict(rows(self.engine, "SELECT id, state FROM jobs"))

    def _open(self) -> str:
        states = [*self.states().values()]
        return (
            f"{states.count('queued')} jobs wait, {states.count('running')} run,"
            f" {states.count('done')} are done"
        )

    def _none_open(self) -> bool:
        if time.monotonic() > self._said + _NEWS_S:
            self._said = time.monotonic()
            self.clock.say(self._open())
        return not {"queued", "running"} & set(self.states().values())

    def result(self) -> bool:
        """Print what became of the jobs; returns whether all is well."""
        states, jobs = self.states(), self.server.folder / "jobs"
        ends = [job for (job,) in rows(self.engine, "SELECT job FROM kills_ends")]
        done = [(seed, id) for seed, id in self.disturbed if states[id] == "done"]
        for id, state in states.items():
            if state != "done":
                error = rows(self.engine, f"SELECT error FROM jobs WHERE id = '{id}'")[0][0]
                self.clock.say(f"job {id} is {state}: {error}")
        equal = 0
        for seed, id in done:
            pairs = zip(COMPARED, digests(jobs / id), digests(jobs / self.calm[seed]), strict=True)
            differs = [name for name, own, calm in pairs if own != calm]
            equal += not differs
            if differs:
                self.clock.say(f"job {id} differs in {', '.join(differs)}")
        unfinished = [
            path for path in jobs.rglob("*") if ".part" in path.name or path.name == "unfinished"
        ]
        twice, starts = (
            len(ends) - len(set(ends)),
            rows(self.engine, "SELECT SUM(claim) FROM jobs")[0][0],
        )
        self.clock.say(
            f"{len(self.disturbed)} jobs disturbed, {starts - len(self.calm)} starts: {len(done)}"
            f" done, {twice} ended twice, {equal} equal to undisturbed ones, {len(unfinished)}"
            " half-written files"
        )
        return len(done) == equal == len(self.disturbed) and not twice and not unfinished


@contextmanager
def folder_of(chosen: argparse.Namespace) -> Iterator[Path]:
    """Where everything lies: what was asked for, which stays, or a temporary folder."""
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def run(chosen: argparse.Namespace, folder: Path) -> int:
    """The trial; returns the exit code."""
    clock = Clock(chosen.deadline)
    server = Server(folder / "app", chosen.database, clock)
    engine = create_engine(
        chosen.database or f"sqlite:///{(folder / 'app' / 'app.sqlite').absolute()}"
    )
    well = False
    try:
        server.start()
        count_ends(engine)
        trial = Trial(server, engine, chosen, clock)
        trial.leave_alone()
        trial.disturb()
        well = trial.result()
        code = server.stop()
        left = len(server.processes()) and server.end_all()
        clock.say(
            f"the server stopped with exit code {code}; {left} processes did not leave by"
            " themselves"
        )
        return 0 if well and code == 0 and not left else 1
    except DeadlineError as error:
        clock.say(
            f"given up: {error}; what the server wrote last:\n"
            + (folder / "log").read_text()[-3000:]
        )
        return 1
    finally:
        engine.dispose()
        for process in server.processes():
            with suppress(psutil.Error):
                process.kill()


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--moments", type=int, default=10, help="how often a worker and the server are killed"
    )
    parser.add_argument("--size", type=int, default=48, help="pixels of a sample on a side")
    parser.add_argument("--seeds", type=int, default=3, help="different samples")
    parser.add_argument(
        "--deadline", type=float, default=1800, help="seconds after which it is given up"
    )
    parser.add_argument("--database", help="an empty PostgreSQL database; the embedded one without")
    parser.add_argument(
        "--folder", type=Path, help="a new folder that is kept; a temporary one without"
    )
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with folder_of(chosen) as folder:
        return run(chosen, folder)


if __name__ == "__main__":
    sys.exit(main())
