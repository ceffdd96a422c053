"""Kills workers and servers of the web application at random moments, and looks at what became of the jobs.

    python benchmarks/app_kills.py [--moments 10] [--size 48]

Ends with exit code 1 unless every job is done, none twice, and each with the files that an undisturbed job has.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx

COMPARED = ("map/classes.tif", "map/segments.tif", "map/confidence.tif", "map/areas.csv", "refined/classes.tif")


class Server:
    """panoseg app on a folder, started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--folder", self.folder, "--port", self.port, "--workers", 2, "--lease-seconds", 5]
        with (self.folder.parent / "log").open("a") as log:
            words = [sys.executable, "-m", "panoseg", "app", *map(str, options)]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().split()[2]
        self.port = int(address.rsplit(":", 1)[1])
        self.client = httpx.Client(base_url=address, timeout=60)

    def kill(self) -> None:
        """As the system would for memory."""
        self.process.kill()
        self.process.wait()
        self.client.close()

    def submit(self, size: int, seed: int) -> str:
        """A job of a sample."""
        source = {"type": "sample", "size": size, "seed": seed}
        answer = self.client.post("/api/jobs", json={"kind": "map", "source": source, "options": {"views": 1}})
        return str(answer.raise_for_status().json()["id"])

    def open_jobs(self) -> int:
        """How many jobs wait or run."""
        return sum(job["state"] in ("queued", "running") for job in self.client.get("/api/jobs").json())

    def wait(self) -> None:
        """Until all jobs have ended."""
        while self.open_jobs():
            time.sleep(0.5)

    def workers(self) -> list[int]:
        """Process numbers of the workers."""
        return [int(id.rsplit("-", 2)[1]) for (id,) in rows(self.folder, "SELECT id FROM workers ORDER BY seen DESC LIMIT 2")]


def rows(folder: Path, query: str) -> list[tuple]:
    """What the database says."""
    with closing(sqlite3.connect(folder / "app.sqlite", timeout=60)) as connection, connection:
        return connection.execute(query).fetchall()


def digests(folder: Path) -> list[str]:
    """Of the files of a result."""
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED]


def disturb(server: Server, moments: int, chance: random.Random) -> None:
    """Kill a worker and a server in turn, while jobs run."""
    for moment in range(2 * moments):
        time.sleep(chance.uniform(0.5, 8.0))
        if moment % 2:
            server.kill()
            server.start()
        else:
            workers = server.workers()
            with suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(workers), signal.SIGKILL)
        print(f"killed a {'server' if moment % 2 else 'worker'}; {server.open_jobs()} jobs to go", flush=True)


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "app")
        rows(server.folder, "CREATE TABLE ends (job TEXT)")
        body = "WHEN NEW.state = 'done' BEGIN INSERT INTO ends VALUES (NEW.id); END"
        rows(server.folder, f"CREATE TRIGGER count_ends AFTER UPDATE OF state ON jobs {body}")
        calm = {seed: server.submit(chosen.size, seed) for seed in range(chosen.seeds)}
        server.wait()
        killed = [(seed, server.submit(chosen.size, seed)) for seed in [*range(chosen.seeds)] * (16 // chosen.seeds)]
        disturb(server, chosen.moments, random.Random(0))
        server.wait()
        states = dict(rows(server.folder, "SELECT id, state FROM jobs"))
        ends = [job for (job,) in rows(server.folder, "SELECT job FROM ends")]
        jobs = server.folder / "jobs"
        done = [(seed, id) for seed, id in killed if states[id] == "done"]
        equal = sum(digests(jobs / id) == digests(jobs / calm[seed]) for seed, id in done)
        starts = rows(server.folder, "SELECT SUM(claim) FROM jobs")[0][0]
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
    twice = len(ends) - len(set(ends))
    print(f"{len(killed)} jobs, {starts} starts: {len(done)} done, {twice} ended twice, {equal} equal to undisturbed ones")
    return 0 if len(done) == equal == len(killed) and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
