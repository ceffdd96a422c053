"""Progress as lines: the time left."""

from __future__ import annotations

import doctest

import pytest

from panoseg import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_what_is_left_is_told_by_the_pace_after_the_first_item(clock, capsys):
    for item in progress.track(range(11), "tiles"):
        clock[0] += 600 if item == 0 else 30
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tiles: 1 of 11"
    assert lines[1] == "tiles: 2 of 11, 4 min left"
    assert lines[-2] == "tiles: 10 of 11, 30 s left"


def test_lines_come_now_and_then_and_without_a_total_tell_no_time(clock, capsys):
    for _ in progress.track(iter(range(6)), "scenes"):
        clock[0] += 4
    assert capsys.readouterr().err.splitlines() == ["scenes: 3", "scenes: 6"]


def test_durations():
    assert doctest.testmod(progress).failed == 0
