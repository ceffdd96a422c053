"""Terminals of all kinds: encodings without our characters, closed pipes, warnings of libraries,
limits of the system.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from panoseg import cli
from panoseg.classes import ClassTable, SegmentClass
from panoseg.cli import main, script
from panoseg.cli.terminal import say, system_limit
from panoseg.coco.format import write_coco
from panoseg.panoptic import Panoptic

PEOPLE = ClassTable(
    "people",
    (
        SegmentClass(1, "person", "#dc143c", "thing"),
        SegmentClass(2, "人", "#00ff00", "thing"),
        SegmentClass(3, "sky ± ²", "#0000ff", "stuff"),
    ),
)


class Pipe(io.RawIOBase):
    """What a command prints; with a limit, a pipe whose reader goes after that many bytes."""

    def __init__(self, limit: int | None = None) -> None:
        self.text, self.limit = b"", limit

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._null

    def write(self, data) -> int:
        if self.limit is not None and len(self.text) + len(data) > self.limit:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.text += bytes(data)
        return len(data)


@pytest.fixture
def run(monkeypatch):
    """Run a command as from a terminal; gives the exit code, and what is printed."""
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.setattr(sys, "warnoptions", [])

    def call(words: list[str], encoding: str = "utf-8", limit: int | None = None, **options):
        out, errors = Pipe(limit), Pipe()
        out._null = os.open(os.devnull, os.O_WRONLY)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["panoseg", *words])
            patch.setattr(
                sys, "stdout", io.TextIOWrapper(io.BufferedWriter(out), encoding, **options)
            )
            patch.setattr(
                sys,
                "stderr",
                io.TextIOWrapper(io.BufferedWriter(errors), encoding, "backslashreplace"),
            )
            with pytest.raises(SystemExit) as ended:
                script()
            sys.stderr.flush()
        return ended.value.code, out.text.decode(encoding), errors.text.decode(encoding)

    return call


@pytest.fixture
def truth(tmp_path) -> Path:
    segment_HW = np.ones((8, 8), np.int32)
    segment_HW[4:] = 2
    write_coco(
        tmp_path / "gt.json",
        [("a.png", Panoptic.from_maps(segment_HW, {1: 1, 2: 3}, PEOPLE))],
        PEOPLE,
    )
    return tmp_path / "gt.json"


@pytest.mark.parametrize("encoding", ["cp932", "cp949", "gbk", "latin-1", "cp1252", "ascii"])
def test_what_an_encoding_lacks_is_replaced(run, truth, tmp_path, encoding):
    words = ["coco", "evaluate", "--truth", str(truth), "--prediction", str(truth)]
    code, printed, errors = run([*words, "--json", str(tmp_path / "scores.json")], encoding)
    assert (code, errors) == (0, "")
    assert "| person" in printed
    assert "1 images scored" in printed
    assert ("人" in printed) == (encoding in ("cp932", "cp949", "gbk"))
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 1
    # Python's choice under LANG=C, and what a user asks for.
    assert run(words, encoding, errors="surrogateescape")[0] == 0
    assert "\\xb1" in run(words, "ascii", errors="backslashreplace")[1]


def test_streams_that_are_closed_are_no_streams(run, monkeypatch):
    code = []
    monkeypatch.setattr(sys, "argv", ["panoseg", "--version"])
    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        with pytest.raises(SystemExit) as ended:
            script()
        code.append(ended.value.code)
        sys.stdout.close()
        sys.stderr.close()
    assert code == [0]


def test_a_closed_pipe_ends_quietly_with_the_files_whole(run, truth, tmp_path, monkeypatch):
    scores = tmp_path / "scores.json"
    words = ["coco", "evaluate", "--truth", str(truth), "--prediction", str(truth)]
    code, _, errors = run([*words, "--json", str(scores)], limit=10)
    assert (code, errors) == (1, "")
    assert json.loads(scores.read_text())["images"] == 1
    closed = io.TextIOWrapper(io.BufferedWriter(Pipe(0)), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        say("a line in the middle of a training")


def test_warnings_of_libraries_are_shown_to_those_who_ask(run, monkeypatch):
    def noisy(words=None) -> int:
        with warnings.catch_warnings(record=True) as shown:
            warnings.warn("of a library", FutureWarning, stacklevel=2)
        noisy.shown = len(shown)
        noisy.inherited = os.environ["PYTHONWARNINGS"]
        return 0

    monkeypatch.setattr(cli, "main", noisy)
    run(["experiments"])
    assert (noisy.shown, noisy.inherited) == (0, "ignore")
    for word in ("-v", "--verbose"):
        run(["experiments", word])
        assert (noisy.shown, noisy.inherited) == (1, "default")
    # Who tells Python what to do with warnings is not overruled.
    monkeypatch.setattr(sys, "warnoptions", ["always"])
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    run(["experiments"])
    assert noisy.inherited == "always"


def test_the_word_for_warnings_may_stand_anywhere(capsys):
    assert main(["-v", "--version"]) == 0
    assert main(["experiments", "pastis-utae", "-v"]) == 0
    assert "pastis-utae" in capsys.readouterr().out


LIMITS = {
    "files": (OSError(errno.EMFILE, "Too many open files", "a.npy"), "ulimit -n", "--workers 0"),
    "a worker's files": (RuntimeError("received 0 items of ancdata"), "ulimit -n", "--workers 0"),
    "shared memory": (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
            " dataloader's workers are out of shared memory."
        ),
        "/dev/shm",
        "--workers 0",
    ),
    "a piece of it": (
        RuntimeError("unable to write to file </torch_12_34>: No space left on device (28)"),
        "/dev/shm",
        "--workers 0",
    ),
    "disk": (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x has no space"),
    "temporary files": (
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
        "TMPDIR",
    ),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    "threads": (RuntimeError("can't start new thread"), "ulimit -u"),
    "memory": (MemoryError(), "memory is full", "--batch-size"),
    "memory of a device": (RuntimeError("CUDA out of memory. Tried"), "--batch-size"),
    "a killed worker": (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        "memory is full",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_system_is_a_line_with_the_option_that_helps(capsys, monkeypatch, name):
    from panoseg.cli import training

    error, *said = LIMITS[name]

    def ends(words) -> None:
        raise error

    monkeypatch.setattr(training, "train", ends)
    assert main(["train", "pastis-utae"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert all(words in line for words in said), line


def test_locks_between_processes_need_shared_memory(monkeypatch):
    from multiprocessing import synchronize

    def no_semaphore(*words):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(synchronize._multiprocessing, "SemLock", no_semaphore)
    with pytest.raises(FileNotFoundError) as caught:
        synchronize.Lock(ctx=__import__("multiprocessing").get_context("spawn"))
    assert "/dev/shm" in system_limit(caught.value, "train")
    assert "--processes 1" in system_limit(caught.value, "coco")


def test_a_bug_keeps_its_traceback(monkeypatch):
    from panoseg.cli import training

    def ends(words) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(training, "train", ends)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["train", "pastis-utae"])
