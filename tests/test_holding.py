"""A folder that a command makes is held by one at a time; what a killed process held is free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from panoseg import files
from panoseg.errors import OutputError
from panoseg.files import hold_folder
from waiting import held_elsewhere

pytestmark = pytest.mark.usefixtures("short_lock_wait")


def is_held(folder: Path) -> bool:
    """Whether another thread is refused."""
    refused = []

    def ask() -> None:
        try:
            with hold_folder(folder):
                pass
        except OutputError:
            refused.append(folder)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(refused)


def test_a_folder_is_held_by_one(tmp_path):
    folder = tmp_path / "a" / "out"
    with held_elsewhere(folder):
        with (
            pytest.raises(
                OutputError, match=r"Another command writes .*season\.zarr: wait until it ends"
            ),
            hold_folder(folder, output=tmp_path / "season.zarr"),
        ):
            pass
        with hold_folder(tmp_path / "a" / "other"):
            pass
    with hold_folder(folder):
        pass


def test_who_holds_a_folder_may_hold_it_inside(tmp_path):
    with hold_folder(tmp_path / "out"):
        with hold_folder(tmp_path / "b" / ".." / "out"):
            (tmp_path / "out" / "x").touch()
        assert is_held(tmp_path / "out")  # the inner block has not let go
    assert not is_held(tmp_path / "out")


def test_only_empty_folders_that_were_made_for_it_go_again(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new", "full"):
        with suppress(KeyError), hold_folder(tmp_path / name):
            if name == "full":
                (tmp_path / name / "x").touch()
            raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "mine"]


def test_a_folder_that_was_taken_away_meanwhile_is_made_anew(tmp_path, monkeypatch):
    """Its holder ends between the opening and the lock, so that the lock is of a folder that is no
    more.
    """
    folder, original = tmp_path / "out", files.lock
    taken = []

    def lock(descriptor):
        if not taken:
            taken.append(folder.rmdir())
        return original(descriptor)

    monkeypatch.setattr(files, "lock", lock)
    with hold_folder(folder):
        assert folder.is_dir()
        assert is_held(folder)


def test_what_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="a file of that name exists"),
        hold_folder(tmp_path / "file"),
    ):
        pass


_HOLDER = """
import os, sys, time
from panoseg.files import hold_folder
with hold_folder(sys.argv[1]):
    if os.fork() == 0:  # as workers are made
        sys.stdout.close()
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_hold_of_a_killed_process_ends_though_its_children_live(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputError, match="Another command writes"),
            hold_folder(tmp_path / "out"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.killpg(process.pid, 0)  # the child is there
        with hold_folder(tmp_path / "out"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


_WITHOUT_POSIX = """
import concurrent.futures.process, logging, os, random, sys  # the library itself uses the hook
sys.modules["fcntl"] = sys.modules["resource"] = None  # as on Windows
del os.register_at_fork
import panoseg.classes, panoseg.files, panoseg.processes, panoseg.progress
"""


def test_base_modules_are_imported_without_modules_of_posix():
    subprocess.run([sys.executable, "-c", _WITHOUT_POSIX], check=True)
