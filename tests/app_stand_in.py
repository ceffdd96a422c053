"""A server or a worker of the web application whose stages are quick stand-ins: for tests of what
happens around stages.

    python app_stand_in.py serve FOLDER PORT WORKERS LEASE      python app_stand_in.py worker FOLDER LEASE

The database is that of PANOSEG_DATABASE, or the folder's. Processes of workers import this file
again, and with it the stages.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
from pathlib import Path

from panoseg.app import stages, worker
from panoseg.app.settings import AppSettings
from panoseg.app.stages import JobContext, Stage
from panoseg.files import write_text
from panoseg.progress import track

STEPS, SECONDS = 4, 0.08
LONG_S = 4.0


def _stage(name: str, before: str | None) -> Stage:
    """A stage whose result depends on the request and on the stage before."""

    def run(job: JobContext) -> None:
        text = (
            job.request.model_dump_json() if before is None else (job.folder / before).read_text()
        )
        for _ in track(range(STEPS), "steps"):
            time.sleep(SECONDS)
            text = hashlib.sha256(text.encode()).hexdigest()
        if job.request.name == "bomb":
            os.kill(os.getpid(), 9)
        if job.request.name == "deaf":
            ctypes.PyDLL(None).sleep(
                600
            )  # as a library would that keeps the interpreter for itself
        while (
            job.request.name == "held" and before is not None and not (job.folder / "go").exists()
        ):
            time.sleep(SECONDS)
        if job.request.name == "long":
            time.sleep(LONG_S)
        write_text(job.folder / name, text)

    return Stage(name, f"Stage {name}", 1 / 3, run, lambda job: (job.folder / name).is_file())


if (
    __name__ != "app_stand_in"
):  # tests import this file for ``expected`` alone, and keep the stages that they have
    stages.MAP_STAGES = (
        _stage("map/one", None),
        _stage("map/two", "map/one"),
        _stage("map/three", "map/two"),
    )
    worker._PRELOADED = ("panoseg.app.job_process", "panoseg.app.egress", "panoseg.app.monitoring")
    if "PANOSEG_SLOW_S" in os.environ:
        worker._PRELOADED += ("app_slow_import",)


def expected(folder: Path) -> str:
    """The result that a job must have."""
    from panoseg.app.requests import MapRequest

    text = MapRequest.model_validate_json((folder / "request.json").read_text()).model_dump_json()
    for _ in range(3 * STEPS):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


def settings(folder: str, port: int = 0, workers: int = 1, lease: float = 2.0) -> AppSettings:
    """Those of the server that is tested."""
    database = os.environ.get("PANOSEG_DATABASE")
    return AppSettings(
        Path(folder), port=port, workers=workers, lease_seconds=lease, database=database
    )


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from panoseg.app.server import run_server

        run_server(
            settings(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])),
            lambda address: print(address, flush=True),
        )
    else:
        worker.run_worker(settings(sys.argv[2], lease=float(sys.argv[3])))
