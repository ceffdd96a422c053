"""The package on systems other than Linux, as far as Linux can show it: modules and names that
Windows lacks are taken away, processes are spawned, open files cannot be renamed or removed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from panoseg import platforms

ROOT = Path(__file__).resolve().parents[1]
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)),
}
LONGEST_PATH = 120
"""Characters; Windows takes 260 with the folder that the user names."""


def problems_of(paths: list[Path]) -> list[str]:
    """What Windows and macOS do not take about relative paths that lie in one folder."""
    found = []
    for path in paths:
        for part in path.parts:
            if re.search(r'[<>:"|?*\\\x00-\x1f]', part) or part[-1] in ". ":
                found.append(f"{path}: a character that Windows does not take")
            if part.split(".")[0].lower() in RESERVED:
                found.append(f"{path}: a name that Windows keeps for a device")
        if len(str(path)) > LONGEST_PATH:
            found.append(f"{path}: too long")
    alike = Counter(
        str(path).casefold() for path in {p for path in paths for p in (path, *path.parents)}
    )
    return found + [f"{name}: two names differ by case alone" for name, n in alike.items() if n > 1]


def test_names_that_other_systems_do_not_take_are_found():
    assert len(problems_of([Path("a/B"), Path("a/b"), Path("A/c")])) == 2
    for wrong in ("12:30.txt", "aux.py", "end.", "x" * 130):
        assert problems_of([Path(wrong)])
    assert problems_of([Path("a/b"), Path("a/c")]) == []


def test_the_files_of_the_project_can_be_checked_out_everywhere():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("this is no clone")
    assert problems_of([Path(name) for name in listed.stdout.strip("\0").split("\0")]) == []


@pytest.mark.slow
def test_every_module_and_small_jobs_where_the_system_is_windows(tmp_path):
    """Sub-processes find the same system, since they inherit the environment."""
    place = Path(__file__).parent / "other_system"
    done = subprocess.run(
        [sys.executable, str(place / "run_everything.py"), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": str(place),
            "PANOSEG_TEST_SYSTEM": "windows",
            "PYTHONWARNDEFAULTENCODING": "1",
            "PYTHONIOENCODING": "cp1252",
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode("cp1252")[-3000:]
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    assert len(written) > 100
    assert problems_of(written) == []
    assert not [path for path in written if path.suffix in (".part", ".lock")]


def test_a_file_that_another_program_has_open_is_waited_for(tmp_path, monkeypatch):
    """On Windows alone; elsewhere the error is one of permissions."""
    refusals = [PermissionError(13, "open")] * 2
    replace = os.replace

    def refusing(source, target):
        if refusals:
            raise refusals.pop()
        replace(source, target)

    (tmp_path / "a").write_text("new", encoding="utf-8")
    (tmp_path / "b").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(PermissionError):
        platforms.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(platforms.sys, "platform", "win32")
    refusals.append(PermissionError(13, "open"))
    platforms.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "new"
    monkeypatch.setattr(platforms, "OPEN_WAIT_S", 0.05)
    refusals.extend([PermissionError(13, "open")] * 1_000_000)
    with pytest.raises(PermissionError):
        platforms.move(tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_processes_are_spawned_where_forking_is_unsafe(monkeypatch, system):
    monkeypatch.setattr(platforms.multiprocessing, "get_start_method", lambda **_: None)
    assert platforms.reader_context().get_start_method() == "fork"
    monkeypatch.setattr(platforms.sys, "platform", system)
    assert platforms.reader_context().get_start_method() == "spawn"
    assert platforms.start_fork_server(["json"]).get_start_method() == "spawn"
