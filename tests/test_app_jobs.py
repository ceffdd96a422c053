"""Jobs: each claimed by one worker, taken over when that falls silent, ended once, in turns between
users.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from app_postgres import postgres
from panoseg.app import database
from panoseg.app.database import Database
from panoseg.app.job_views import MAX_CLAIMS
from panoseg.app.jobs import MAX_STARTS, Jobs, LostClaimError
from panoseg.errors import AppError, ConflictError, LimitError, NotFoundError

LEASE = 60.0


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('jobs')}/app.sqlite"
        return
    with postgres() as server:
        yield server.url


@pytest.fixture
def jobs(url):
    database = Database(url)
    with database.writing() as session:
        for table in ("log_lines", "shares", "jobs", "workers"):
            session.execute(text(f"DELETE FROM {table}"))
    yield Jobs(database, LEASE)
    database.close()


def silence(jobs: Jobs) -> None:
    """Let the leases of all workers end, as if they had been silent for so long."""
    with jobs.database.writing() as session:
        session.execute(
            text("UPDATE jobs SET lease_until = lease_until - :lease - 1"), {"lease": LEASE}
        )
        session.execute(text("UPDATE workers SET seen = seen - 2 * :lease - 1"), {"lease": LEASE})


def submit(jobs: Jobs, owner: str = "ada", name: str = "map", most: int = 100) -> str:
    return jobs.submit(uuid.uuid4().hex, owner, name, {"kind": "map"}, most, 1.0).id


def test_a_job_from_the_queue_to_its_end(jobs):
    id = submit(jobs)
    assert (jobs.get(id).state, jobs.get(id).progress) == ("queued", 0)
    claim = jobs.claim("w")
    assert claim is not None
    assert claim.job == id
    assert jobs.claim("v") is None
    jobs.report(claim, "map", 0.5, "half", 3.0)
    jobs.write(claim, "a line")
    jobs.write(claim, "another", "warning")
    view = jobs.get(id)
    assert (view.state, view.stage, view.progress, view.message, view.seconds_left) == (
        "running",
        "map",
        0.5,
        "half",
        3.0,
    )
    first, second = jobs.log(id)
    assert (first.text, second.level) == ("a line", "warning")
    assert jobs.log(id, first.number) == [second]
    jobs.finish(claim, 123, 8.0, "done")
    view = jobs.get(id)
    assert (view.state, view.progress, view.bytes, view.seconds_left, view.stage) == (
        "done",
        1.0,
        123,
        None,
        "",
    )
    assert view.created <= view.started <= view.ended
    assert jobs.seconds_per_km2() == 8.0
    assert jobs.counts() == {"done": 1}


def test_no_job_is_claimed_twice(jobs):
    ids = {submit(jobs, owner) for owner in "abcd" for _ in range(5)}
    claimed: list[str] = []

    def worker(name: str) -> None:
        while (claim := jobs.claim(name)) is not None:
            claimed.append(claim.job)
            jobs.finish(claim, 0, 0.0, "done")

    threads = [threading.Thread(target=worker, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


def test_a_silent_worker_loses_its_job_and_cannot_end_it(jobs):
    submit(jobs)
    lost = jobs.claim("w")
    silence(jobs)
    held = jobs.claim("v")
    assert (held.job, held.number) == (lost.job, lost.number + 1)
    for act in (
        lambda: jobs.heartbeat(lost),
        lambda: jobs.report(lost, "map", 0.9, "", None),
        lambda: jobs.write(lost, "a line"),
        lambda: jobs.end_cancelled(lost, 0),
        lambda: jobs.finish(lost, 0, 0.0, "done"),
        lambda: jobs.fail(lost, "no", 0),
        lambda: jobs.release(lost, 0, counted=True, message=""),
    ):
        with pytest.raises(LostClaimError):
            act()
    jobs.finish(held, 0, 0.0, "done")
    with pytest.raises(LostClaimError):
        jobs.finish(held, 0, 0.0, "done")


def test_heartbeats_keep_a_job(jobs):
    submit(jobs)
    claim = jobs.claim("w")
    silence(jobs)
    assert jobs.heartbeat(claim)
    assert jobs.claim("v") is None


def test_users_take_turns(jobs):
    [submit(jobs, "ada", f"a{number}") for number in range(4)]
    [submit(jobs, "bob", f"b{number}") for number in range(2)]
    submit(jobs, "cy", "c0")
    order = []
    while (claim := jobs.claim("w")) is not None:
        order.append(jobs.get(claim.job).name)
        jobs.finish(claim, 0, 0.0, "done")
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_who_has_fewer_running_comes_first(jobs):
    [submit(jobs, "ada", f"a{number}") for number in range(3)]
    first, second = jobs.claim("w"), jobs.claim("w")
    submit(jobs, "bob", "b0")
    assert jobs.get(jobs.claim("w").job).owner == "bob"
    assert {first.job, second.job} != set()


def test_a_job_that_ends_its_workers_is_given_up(jobs):
    id = submit(jobs)
    for _ in range(MAX_CLAIMS):
        claim = jobs.claim("w")
        assert claim is not None
        assert jobs.starts(claim) == 1, "the death of a worker is not its job's"
        silence(jobs)
    assert jobs.claim("w") is None
    view = jobs.get(id)
    assert view.state == "failed"
    assert "again and again" in view.error


def test_graceful_stops_do_not_count(jobs):
    submit(jobs)
    for _ in range(MAX_STARTS + 2):
        claim = jobs.claim("w")
        jobs.release(claim, 0.0, counted=False, message="stopped")
    assert jobs.starts(jobs.claim("w")) == 1


def test_a_job_that_is_given_back_waits(jobs):
    id = submit(jobs)
    jobs.release(jobs.claim("w"), 600.0, counted=True, message="again")
    assert jobs.claim("w") is None
    assert jobs.get(id).state == "queued"
    with jobs.database.writing() as session:
        session.execute(text("UPDATE jobs SET not_before = not_before - 601"))
    assert jobs.claim("w").job == id


def test_cancelling(jobs):
    waiting, running = submit(jobs), submit(jobs)
    claim = jobs.claim("w")
    waiting, running = (running, waiting) if claim.job == waiting else (waiting, running)
    assert jobs.cancel(waiting).state == "cancelled"
    assert jobs.cancel(running).state == "running"
    assert not jobs.heartbeat(claim)
    jobs.end_cancelled(claim, 0)
    assert jobs.get(running).state == "cancelled"
    assert jobs.cancel(running).state == "cancelled"
    assert jobs.claim("w") is None


def test_a_cancelled_job_whose_worker_died_ends(jobs):
    id = submit(jobs)
    jobs.claim("w")
    jobs.cancel(id)
    silence(jobs)
    assert jobs.claim("v") is None
    assert jobs.get(id).state == "cancelled"


def test_a_job_that_is_given_back_unwanted_ends(jobs):
    cancelled, deleted = submit(jobs), submit(jobs, "bob")
    claims = {claim.job: claim for claim in (jobs.claim("w"), jobs.claim("w"))}
    jobs.cancel(cancelled)
    jobs.mark_deleted(deleted)
    for claim in claims.values():
        jobs.release(claim, 0.0, counted=False, message="waiting: the worker was stopped")
    view = jobs.get(cancelled)
    assert (view.state, view.message) == ("cancelled", "cancelled")
    assert view.ended is not None
    assert jobs.removable() == [deleted]
    assert jobs.claim("v") is None


def test_a_job_cannot_escape_its_cancelling_by_going_back(jobs):
    id = submit(jobs)
    claim = jobs.claim("w")
    cancelling = threading.Thread(target=jobs.cancel, args=(id,))
    with jobs.database.writing() as session:
        session.execute(
            text("UPDATE jobs SET state = 'queued' WHERE id = :id AND worker = :worker"),
            {"id": id, "worker": "w"},
        )
        cancelling.start()
        time.sleep(0.5)
    cancelling.join()
    assert jobs.get(id).state == "cancelled"
    with pytest.raises(LostClaimError):
        jobs.finish(claim, 0, 0.0, "done")


def test_jobs_of_the_silent_are_left_where_nobody_was_heard(jobs):
    id = submit(jobs)
    jobs.claim("w")
    silence(jobs)
    assert jobs.claim("v", take_over=False) is None
    assert jobs.log(id) == []
    assert jobs.claim("v").job == id
    assert ["stopped responding" in line.text for line in jobs.log(id)] == [True]


def test_the_log_has_how_a_job_ended(jobs):
    failed, done = submit(jobs), submit(jobs, "bob")
    claims = {claim.job: claim for claim in (jobs.claim("w"), jobs.claim("w"))}
    jobs.fail(claims[failed], "no\0 expected \udc80", 0)
    jobs.finish(claims[done], 0, 0.0, "done; but", ["but"])
    assert [(line.level, line.text) for line in jobs.log(failed)] == [
        ("error", "no\ufffd expected ?")
    ]
    assert jobs.get(failed).error == jobs.get(failed).message == "no\ufffd expected ?"
    assert [(line.level, line.text) for line in jobs.log(done)] == [("error", "but")]


def test_counting_workers_waits_for_nobody(jobs):
    jobs.workers.report("w", None)
    with jobs.database.writing() as session:
        session.execute(text("DELETE FROM workers"))
        assert jobs.workers.count() == 1


def test_a_machine_that_vanishes_keeps_postgresql_for_a_minute_at_most(url):
    if url.startswith("sqlite"):
        pytest.skip("of PostgreSQL")
    shown = {}
    for address in (url, f"{url}&options=-c%20lock_timeout%3D7s"):
        database = Database(address)
        with database.reading() as session:
            shown[address] = [
                session.scalar(text(f"SHOW {name}"))
                for name in ("lock_timeout", "tcp_user_timeout")
            ]
            limit = session.scalar(text("SHOW idle_in_transaction_session_timeout"))
        database.close()
        assert (limit == "1min") == (address == url)
    assert [lock for lock, _ in shown.values()] == ["30s", "7s"]


def test_again(jobs):
    id = submit(jobs)
    with pytest.raises(ConflictError, match="queued"):
        jobs.requeue(id, 5)
    jobs.fail(jobs.claim("w"), "No. Try again.", 5)
    assert jobs.get(id).error == "No. Try again."
    view = jobs.requeue(id, 5, {"kind": "map", "new": 1})
    assert (view.state, view.error, view.request["new"], view.ended) == ("queued", None, 1, None)
    assert jobs.claim("w").job == id


def test_limit_of_open_jobs(jobs):
    for _ in range(2):
        submit(jobs, most=2)
    with pytest.raises(LimitError, match="at most 2"):
        submit(jobs, most=2)
    submit(jobs, "bob", most=2)
    jobs.finish(jobs.claim("w"), 0, 0.0, "done")
    submit(jobs, most=2)


def test_deleting(jobs):
    id, running = submit(jobs), submit(jobs, "bob")
    claims = [jobs.claim("w"), jobs.claim("w")]
    claim = next(claim for claim in claims if claim.job == running)
    jobs.finish(next(claim for claim in claims if claim.job == id), 0, 0.0, "done")
    jobs.mark_deleted(id)
    jobs.mark_deleted(running)
    with pytest.raises(NotFoundError):
        jobs.get(id)
    assert jobs.of("ada") == []
    assert jobs.removable() == [id]
    assert not jobs.heartbeat(claim)
    jobs.end_cancelled(claim, 0)
    assert set(jobs.removable()) == {id, running}
    assert jobs.exists(id)
    jobs.remove(id)
    assert not jobs.exists(id)


def test_the_pace_is_that_of_the_land_not_of_tiny_maps(jobs):
    for km2, seconds in ((100.0, 100.0), (0.1, 60.0), (0.1, 60.0)):
        jobs.submit(uuid.uuid4().hex, "ada", "map", {"kind": "map"}, 100, km2)
        jobs.finish(jobs.claim("w"), 0, seconds, "done")
    assert jobs.seconds_per_km2() == pytest.approx(220 / 100.2)


def test_old_jobs_and_workers(jobs):
    id = submit(jobs)
    assert jobs.longest_wait() >= 0
    jobs.finish(jobs.claim("w"), 7, 0.0, "done")
    assert jobs.expired(0) == [id]
    assert jobs.expired(1) == []
    jobs.workers.report("w", None)
    jobs.workers.report("w", id)
    jobs.workers.report("v", None)
    assert jobs.workers.count() == 2
    jobs.workers.remove("v")
    assert jobs.workers.count() == 1
    silence(jobs)
    assert jobs.workers.count() == 0


def test_a_database_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("no database" * 100)
    with pytest.raises(AppError, match="not a database"):
        Database(f"sqlite:///{tmp_path / 'file'}")
    with pytest.raises(AppError, match="panoseg:\\*\\*\\*@"):
        Database(f"postgresql+psycopg://panoseg:secret@/none?host={tmp_path}")
    database = Database(f"sqlite:///{tmp_path / 'other'}")
    with database.writing() as session:
        session.execute(text("UPDATE version SET number = 99"))
    with pytest.raises(AppError, match="version 99"):
        Database(f"sqlite:///{tmp_path / 'other'}")
    database.close()


def test_a_new_database_is_opened_by_many_at_once(tmp_path):
    """A server and workers of other commands start together."""
    together, failures = threading.Barrier(8), []

    def open_it(number: int) -> None:
        together.wait()
        try:
            Database(f"sqlite:///{tmp_path / str(number // 8)}.sqlite").close()
        except AppError as error:
            failures.append(error)

    for round in range(5):
        threads = [
            threading.Thread(target=open_it, args=(8 * round + number,)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_new_file_that_others_are_just_opening_is_tried_again():
    """SQLite waits for nobody while a file begins to be written ahead."""

    class Connection:
        def __init__(self, *codes: int) -> None:
            self.codes = list(codes)

        def execute(self, words: str) -> SimpleNamespace:
            if self.codes:
                error = sqlite3.OperationalError("no")
                error.sqlite_errorcode = self.codes.pop(0)
                raise error
            return SimpleNamespace(close=lambda: None)

    busy = Connection(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
    database._use_wal(busy)
    assert busy.codes == []
    with pytest.raises(sqlite3.OperationalError):
        database._use_wal(Connection(sqlite3.SQLITE_READONLY))
