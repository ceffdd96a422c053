"""Workers and servers that are killed at any moment: every job ends, none twice, and each with the
result that it must have.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app_stand_in import expected
from waiting import signs_of_jobs, wait_until

STAND_IN = Path(__file__).with_name("app_stand_in.py")
SAMPLE = {"kind": "map", "source": {"type": "sample", "size": 32}}


class Server:
    """A server of stand-in stages, in a process of its own."""

    def __init__(self, folder: Path, workers: int = 2, lease: float = 2.0, port: int = 0) -> None:
        words = [
            sys.executable,
            str(STAND_IN),
            "serve",
            str(folder),
            str(port),
            str(workers),
            str(lease),
        ]
        self.folder = folder
        with (folder.parent / "log").open("a") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=address, timeout=30)

    def submit(self, name: str, seed: int = 0) -> str:
        request = {**SAMPLE, "name": name, "source": {**SAMPLE["source"], "seed": seed}}
        answer = self.client.post("/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def states(self) -> dict[str, str]:
        return {job["id"]: job["state"] for job in self.client.get("/api/jobs").json()}

    def wait(self, ids: list[str], state: str = "done") -> None:
        self.until(lambda: all(self.states()[id] == state for id in ids))

    def until(self, holds):
        """What that gives as soon as it is true, for as long as jobs move."""
        return wait_until(holds, lambda: signs_of_jobs(self.folder))

    def workers(self) -> list[int]:
        """Process numbers of the workers."""
        return [
            int(id.rsplit("-", 2)[1])
            for (id,) in rows(self.folder, "SELECT id FROM workers ORDER BY started")
        ]

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.close()
        return code

    def close(self) -> None:
        self.client.close()
        self.process.wait(60)
        self.process.stdout.close()


def rows(folder: Path, query: str) -> list[tuple]:
    connection = sqlite3.connect(folder / "app.sqlite", timeout=30)
    try:
        found = connection.execute(query).fetchall()
        connection.commit()
        return found
    finally:
        connection.close()


def count_ends(folder: Path) -> None:
    """Let the database count how often each job becomes done."""
    rows(folder, "CREATE TABLE ends (job TEXT)")
    body = "WHEN NEW.state = 'done' BEGIN INSERT INTO ends VALUES (NEW.id); END"
    rows(folder, f"CREATE TRIGGER count_ends AFTER UPDATE OF state ON jobs {body}")


def check(folder: Path, ids: list[str]) -> None:
    """Each job has ended once, with its result, and nothing unfinished next to it."""
    assert sorted(job for (job,) in rows(folder, "SELECT job FROM ends")) == sorted(ids)
    for id in ids:
        job = folder / "jobs" / id
        assert (job / "map" / "three").read_text() == expected(job)
        assert not [path for path in job.rglob("*") if ".part" in path.name]


@pytest.fixture
def folder(tmp_path):
    """A server's folder; its log is shown where a test fails."""
    yield tmp_path / "app"
    print((tmp_path / "log").read_text()[-8000:])


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def test_workers_and_servers_are_killed(folder):
    chance = random.Random(0)
    server = Server(folder)
    count_ends(folder)
    ids = [server.submit(f"map {number}", number) for number in range(6)]
    port = server.client.base_url.port
    for moment in range(4):
        time.sleep(chance.uniform(0.2, 1.2))
        if moment % 2:
            server.kill()
            server = Server(folder, port=port)
        else:
            kill(chance.choice(server.until(server.workers)))
    server.wait(ids)
    check(folder, ids)
    server.stop()


def test_a_graceful_stop_puts_jobs_back_at_once(folder):
    server = Server(folder, workers=1, lease=60)
    id = server.submit("held")
    server.until(lambda: (folder / "jobs" / id / "map" / "one").exists())
    assert server.stop() == 0
    [(state, starts, workers)] = rows(
        folder, "SELECT state, starts, (SELECT COUNT(*) FROM workers) FROM jobs"
    )
    assert (state, starts, workers) == ("queued", 0, 0)
    (folder / "jobs" / id / "go").touch()
    again = Server(folder, workers=1, lease=60)
    again.wait([id])  # well before the lease would have ended
    assert [line["text"] for line in again.client.get(f"/api/jobs/{id}/log").json()].count(
        "Stage map/one"
    ) == 1
    assert again.stop() == 0


def test_a_job_of_a_killed_process_goes_on_until_it_is_given_up(folder):
    server = Server(folder, workers=1)
    id = server.submit("bomb")
    server.wait([id], "failed")
    error = server.client.get(f"/api/jobs/{id}").json()["error"]
    assert re.search("ended 5 times", error)
    assert server.client.get("/healthz").status_code == 200
    assert server.stop() == 0


def test_cancel_and_delete_end_running_jobs(folder):
    server = Server(folder, workers=1, lease=1)
    first, second = server.submit("held"), server.submit("held")
    server.wait([first], "running")
    assert server.client.post(f"/api/jobs/{first}/cancel").status_code == 200
    server.wait([first], "cancelled")
    server.wait([second], "running")
    assert server.client.delete(f"/api/jobs/{second}").status_code == 204
    assert server.client.get(f"/api/jobs/{second}").status_code == 404
    (folder / "jobs" / first / "go").touch()
    assert server.client.post(f"/api/jobs/{first}/retry").status_code == 200
    server.wait([first])
    assert (folder / "jobs" / first / "map" / "three").read_text() == expected(
        folder / "jobs" / first
    )
    assert server.stop() == 0
