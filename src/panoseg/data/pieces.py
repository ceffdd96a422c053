"""Write a dataset in numbered pieces, in several processes, so that a stopped run can continue.

A piece depends on its number and on the contents of the dataset, so that an interrupted run goes
on, and a larger one keeps the pieces that exist. What the tables of a dataset need of a piece lies
in .<kind>/<name>.json, written when the piece is done; the contents lie in <kind>.json.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from panoseg.data.pastis_files import read_json
from panoseg.errors import OutputError
from panoseg.files import Written, new_folder, note_written, noting_written, write_json
from panoseg.processes import usable_cores, worker_pool
from panoseg.progress import track


def write_pieces(
    folder: Path | str,
    contents: Mapping[str, Any],
    names: list[str],
    write: Callable[[Path, int], dict[str, Any]],
    workers: int | None,
    *,
    kind: str = "simulation",
    verb: str = "simulating",
) -> list[Path]:
    """Write the pieces of a dataset that are not there yet.

    Args:
        folder: New, empty, or of an earlier run with the same ``contents``.
        contents: Everything besides its number that a piece depends on, JSON-ready.
        names: Name of each piece, by number.
        write: Writes the files of a piece, given folder and number, and returns what the tables
            need of it, JSON-ready. It is pickled for other processes.
        workers: Number of processes; None takes one per core.
        kind: What the folder holds, in a word.
        verb: What is being done, for the progress bar.

    Returns:
        A JSON file for each piece with what ``write`` returned.

    Raises:
        OutputError: The folder cannot be written, or holds something else.
    """
    folder = new_folder(folder, resumable=f"{kind}.json")
    _claim(folder, contents, kind)
    records = [folder / f".{kind}" / f"{name}.json" for name in names]
    todo = [(number, record) for number, record in enumerate(records) if not record.exists()]
    for written in track(
        _run(functools.partial(_write_piece, folder, write), todo, workers), verb, total=len(todo)
    ):
        note_written(written)
    return records


def _claim(folder: Path, contents: Mapping[str, Any], kind: str) -> None:
    """Note what the folder holds; raise ``OutputError`` where it holds something else."""
    mark = json.loads(json.dumps(contents))
    path = folder / f"{kind}.json"
    if path.exists():
        found = read_json(path)
        found = found if isinstance(found, dict) else {}
        differing = [key for key in {**mark, **found} if found.get(key) != mark.get(key)]
        if differing:
            raise OutputError(
                f"{folder} holds a {kind} that differs in {', '.join(differing)}; repeat its"
                " options or choose another folder."
            )
    else:
        write_json(path, mark)


def _run(
    write: Callable[[tuple[int, Path]], Written], todo: list[tuple[int, Path]], workers: int | None
) -> Iterator[Written]:
    workers = min(workers or usable_cores(), len(todo))
    if workers <= 1:
        yield from map(write, todo)
        return
    with worker_pool(workers) as pool:
        yield from pool.map(write, todo)


def _write_piece(
    folder: Path, write: Callable[[Path, int], dict[str, Any]], piece: tuple[int, Path]
) -> Written:
    """Write a piece; return its files, for the process that checks them at the end."""
    number, record = piece
    with noting_written() as written:
        write_json(record, write(folder, number))
    return written
