"""Workers and the processes of jobs without a server: if anything is killed, full or away, a job
ends once, with its result.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app_postgres import postgres
from app_stand_in import expected
from panoseg.app import job_process, stages
from panoseg.app.database import Database
from panoseg.app.job_folder import REQUEST, FolderLockedError, locked, remove_deleted, without_paths
from panoseg.app.job_process import run_claimed
from panoseg.app.jobs import MAX_STARTS, Jobs, LostClaimError
from panoseg.app.requests import MapRequest, SampleSource
from panoseg.app.settings import AppSettings
from panoseg.app.stages import Stage
from panoseg.app.worker import _connect, _Worker
from panoseg.errors import ClusterError, NotFoundError, OutputError
from panoseg.files import write_json
from waiting import HANGS_S, signs_by, wait_until

STAND_IN = Path(__file__).with_name("app_stand_in.py")
AWAY = OperationalError("SELECT", {}, Exception("the server closed the connection"))


class Place:
    """A folder and a database with jobs, and the workers that were started on them."""

    def __init__(self, folder: Path, database: str | None = None, lease: float = 2) -> None:
        self.settings = AppSettings(folder / "app", database=database, lease_seconds=lease)
        self.settings.jobs_folder.mkdir(parents=True)
        self.database = Database(self.settings.database_url)
        self.jobs = Jobs(self.database, self.settings.lease_seconds)
        self.log = folder / "log"
        self.workers: list[subprocess.Popen] = []

    def submit(self, name: str = "map") -> str:
        """A job of the stand-in's stages."""
        id, given = (
            uuid.uuid4().hex,
            MapRequest(name=name, source=SampleSource(size=32)).model_dump(mode="json"),
        )
        self.folder(id).mkdir()
        write_json(self.folder(id) / REQUEST, given)
        return self.jobs.submit(id, "ada", name, given, 100, 1.0).id

    def folder(self, id: str) -> Path:
        return self.settings.jobs_folder / id

    def texts(self, id: str) -> list[str]:
        return [line.text for line in self.jobs.log(id)]

    def start(self, **environment: str) -> subprocess.Popen:
        """A worker."""
        words = [
            sys.executable,
            str(STAND_IN),
            "worker",
            str(self.settings.folder),
            str(self.settings.lease_seconds),
        ]
        given = {"PANOSEG_DATABASE": self.settings.database} if self.settings.database else {}
        everything = {**os.environ, **given, **environment, "PYTHONPATH": str(STAND_IN.parent)}
        with self.log.open("a") as log:
            self.workers.append(subprocess.Popen(words, stderr=log, env=everything))
        return self.workers[-1]

    def claims(self, id: str) -> int:
        from panoseg.app.database import JobRow

        with self.database.reading() as session:
            return session.get(JobRow, id).claim

    def until(self, holds):
        """What that gives as soon as it is true, for as long as jobs move, or what workers tell."""
        return wait_until(
            holds, lambda: (self.signs(), self.log.stat().st_size if self.log.exists() else 0)
        )

    def signs(self) -> tuple:
        try:
            with self.database.reading() as session:
                return signs_by(lambda query: session.execute(text(query)).all())
        except OperationalError:
            return ()

    def check_done(self, id: str) -> None:
        self.until(lambda: self.jobs.get(id).state not in ("queued", "running"))
        assert self.jobs.get(id).state == "done", self.texts(id)
        assert (self.folder(id) / "map" / "three").read_text() == expected(self.folder(id))
        assert not [path for path in self.folder(id).rglob("*") if ".part" in path.name]


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    close(place)


def close(place: Place) -> None:
    for worker in place.workers:
        worker.kill()
        worker.wait()
    place.database.close()
    print(place.log.read_text()[-4000:] if place.log.exists() else "")


def job_process_of(place: Place, worker: subprocess.Popen, id: str) -> psutil.Process:
    """The process of a job that has begun; its parent is what the worker started to fork from."""
    begun(place, id)
    [process] = [own for child in psutil.Process(worker.pid).children() for own in child.children()]
    return process


def begun(place: Place, id: str) -> None:
    place.until(lambda: "Stage map/one" in place.texts(id))


# -- processes that are killed


def test_no_job_waits_for_imports(tmp_path):
    """What a worker imports first takes longer than a lease here; no job is in hand meanwhile, so
    that none is taken over.
    """
    place = Place(tmp_path, lease=8)
    try:
        id = place.submit()
        for _ in range(2):
            place.start(PANOSEG_SLOW_S="16")
        place.check_done(id)
        view = place.jobs.get(id)
        assert (view.started - view.created).total_seconds() > 16
        assert place.claims(id) == 1
    finally:
        close(place)


def test_a_process_that_hears_nothing_ends_with_its_worker(place):
    id = place.submit("deaf")
    worker = place.start()
    process = job_process_of(place, worker, id)
    time.sleep(2)
    worker.kill()
    place.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_a_job_survives_what_forks_its_processes(place):
    id = place.submit("long")
    worker = place.start()
    process = job_process_of(place, worker, id)
    os.kill(process.ppid(), signal.SIGKILL)
    place.check_done(id)
    assert [text for text in place.texts(id) if "The process of the job was ended" in text]


def test_the_files_of_a_deleted_job_that_runs_go_with_it(place):
    id = place.submit("long")
    place.start()
    begun(place, id)
    place.jobs.mark_deleted(id)
    place.until(lambda: not place.folder(id).exists() and not place.jobs.exists(id))


def test_a_worker_that_is_asked_to_stop_puts_its_job_back_at_once(place):
    id = place.submit("long")
    worker = place.start()
    process = job_process_of(place, worker, id)
    worker.terminate()
    assert worker.wait(HANGS_S) == 0
    assert place.jobs.get(id).state == "queued"
    assert place.jobs.workers.count() == 0
    place.until(lambda: not process.is_running())
    assert place.jobs.starts(place.jobs.claim("w")) == 1


# -- a database that is away


@pytest.fixture
def server():
    with postgres() as server:
        yield server


def test_a_database_that_is_away_costs_no_work(server, tmp_path):
    place = Place(tmp_path, server.url)
    try:
        id = place.submit("long")
        server.stop()
        place.start()
        place.until(lambda: "the database does not answer" in place.log.read_text())
        server.start()
        begun(place, id)
        server.stop()
        time.sleep(3 * place.settings.lease_seconds)
        server.start()
        place.check_done(id)
        assert (place.claims(id), place.texts(id)) == (
            1,
            ["Stage map/one", "Stage map/two", "Stage map/three"],
        )
    finally:
        close(place)


def test_a_worker_that_was_deaf_itself_takes_nothing_over(place):
    asked = []

    class Heard:
        @property
        def workers(self):
            return self

        def report(self, worker, job):
            pass

        def claim(self, worker, take_over):
            asked.append(take_over)

    worker = _Worker(place.settings, Heard(), threading.Event(), None)
    worker.stop.set()  # so that it does not pause
    worker.step()
    with worker.surviving_outages():
        raise AWAY
    worker.step()
    assert asked == [True, False]


def test_a_worker_waits_for_a_database(tmp_path):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    settings = AppSettings(tmp_path, database=f"postgresql+psycopg://panoseg@/none?host={tmp_path}")
    assert _connect(settings, stop) is None


# -- what a job's process does, in this one


def claimed(place: Place, monkeypatch, run):
    """A job of such a stage, claimed."""
    own = (Stage("own", "Stage own", 1.0, run, lambda _: False),)
    monkeypatch.setattr(stages, "MAP_STAGES", own)
    monkeypatch.setattr(job_process, "RETRY_S", 0.01)
    monkeypatch.setattr(job_process, "LOCK_TIMEOUT_S", 0.01)
    id = place.submit()
    return id, place.jobs.claim("w")


def raises(error):
    def run(work):
        raise error

    return run


def test_a_cluster_that_is_away_is_asked_again_and_then_given_up(place, monkeypatch):
    away = ClusterError("No dask scheduler answers at tcp://a:1: start it.")
    id, claim = claimed(place, monkeypatch, raises(away))
    monkeypatch.setattr(job_process, "CLUSTER_RETRY_S", 0.01)
    for start in range(1, MAX_STARTS):
        run_claimed(place.settings, place.jobs, claim)
        view = place.jobs.get(id)
        assert (view.state, view.message) == ("queued", f"waiting: {away}"), start
        time.sleep(0.4)
        claim = place.jobs.claim("w")
    run_claimed(place.settings, place.jobs, claim)
    assert (place.jobs.get(id).state, place.jobs.get(id).error) == ("failed", str(away))
    assert sum("is tried again" in text for text in place.texts(id)) == MAX_STARTS - 1


def test_a_full_disk_is_called_so(place, monkeypatch):
    id, claim = claimed(
        place, monkeypatch, raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    )
    run_claimed(place.settings, place.jobs, claim)
    error = place.jobs.get(id).error
    assert error == "The disk of the server is full. Delete some jobs, then try again."
    assert str(place.settings.folder) not in error


def test_an_error_of_ours_is_said_without_what_it_says(place, monkeypatch):
    id, claim = claimed(place, monkeypatch, raises(ValueError("secret")))
    run_claimed(place.settings, place.jobs, claim)
    assert (place.jobs.get(id).error or "").startswith("An internal error occurred (ValueError)")
    assert [line.level for line in place.jobs.log(id)] == ["info", "error"]


def test_calls_are_made_again_until_the_database_answers(place, monkeypatch):
    id, claim = claimed(place, monkeypatch, lambda work: work.write("a line"))
    for name in ("write", "report", "finish"):
        monkeypatch.setattr(place.jobs, name, _failing_twice(getattr(place.jobs, name)))
    run_claimed(place.settings, place.jobs, claim)
    assert place.jobs.get(id).state == "done"
    assert place.texts(id) == ["Stage own", "a line"]


def _failing_twice(call):
    left = [1, 2]

    def fails(*given):
        if left:
            left.pop()
            raise AWAY
        return call(*given)

    return fails


def test_a_job_that_is_lost_ends_nothing(place, monkeypatch):
    id, claim = claimed(place, monkeypatch, lambda work: None)
    place.jobs.release(claim, 0.0, counted=True, message="")
    with pytest.raises(LostClaimError):
        run_claimed(place.settings, place.jobs, claim)
    assert (place.jobs.get(id).state, place.texts(id)) == ("queued", [])


def test_one_process_works_in_a_folder(place, monkeypatch):
    id, claim = claimed(place, monkeypatch, raises(AssertionError("it must not run")))
    with locked(place.folder(id), 0.0):
        run_claimed(place.settings, place.jobs, claim)
    assert (place.jobs.get(id).state, place.jobs.get(id).message) == (
        "queued",
        "waiting: an earlier process of the job is still running",
    )


# -- folders


def test_the_lock_of_a_folder(tmp_path):
    with locked(tmp_path, 0.0), pytest.raises(FolderLockedError), locked(tmp_path, 0.2):
        pass
    with locked(tmp_path, 0.0):
        pass
    with pytest.raises(NotFoundError), locked(tmp_path / "gone", 0.0):
        pass


def test_a_lock_that_cannot_be_made_is_no_folder_that_has_gone(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OutputError), locked(tmp_path, 0.0):
        pass


def test_a_deleted_folder_that_is_held_goes_later(place):
    id = place.submit()
    place.jobs.finish(place.jobs.claim("w"), 0, 0.0, "done")
    with locked(place.folder(id), 0.0):
        place.jobs.mark_deleted(id)
        assert remove_deleted(place.jobs, place.settings.jobs_folder) == 0
        assert place.folder(id).exists()
        assert place.jobs.exists(id)
    assert remove_deleted(place.jobs, place.settings.jobs_folder) == 1
    assert not place.folder(id).exists()
    assert not place.jobs.exists(id)


def test_results_that_a_database_does_not_know_stay(place):
    from panoseg.app.service import Service

    worked, made = place.folder("a" * 32), place.folder("b" * 32)
    for folder in (worked, made):
        folder.mkdir()
    with locked(worked, 0.0):
        pass
    for folder in (worked, made):
        os.utime(folder, (0, 0))
    service = Service(place.settings)
    service.remove_strays()
    service.close()
    assert (worked.exists(), made.exists()) == (True, False)


def test_a_worker_that_cannot_be_started_is_tried_again(place, monkeypatch):
    from panoseg.app import server

    class Process:
        exitcode, tries = 0, []

        def __init__(self, **given):
            pass

        def start(self):
            self.tries.append(1)
            if len(self.tries) == 1:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        def is_alive(self):
            return True

    supervisor = server.Supervisor(place.settings)
    monkeypatch.setattr(supervisor, "_context", type("Context", (), {"Process": Process}))
    supervisor.start()
    place.until(lambda: len(Process.tries) == 2)
    supervisor._stop.set()
    supervisor._thread.join()


def test_errors_name_no_folder_of_the_server(tmp_path):
    text = f"{tmp_path}/secret/farms/card.json is damaged, {tmp_path}/jobs/1/cube.zarr too"
    told = without_paths(
        text, tmp_path / "jobs" / "1", (Path("coco"), tmp_path / "secret" / "farms")
    )
    assert told == "farms/card.json is damaged, cube.zarr too"
