"""The first five minutes of somebody new, timed, with the text that is seen on the screen.

    python benchmarks/first_minutes.py clone        # git clone, uv run panoseg demo
    python benchmarks/first_minutes.py photograph   # pip install of the wheel, panoseg photo

Each runs in a new folder and a terminal of its own, 100 columns wide; of a line that is drawn again
and again the last state is shown. Packages that uv has downloaded before are not downloaded again.
A photograph needs weights: those of ``--weights``, or of a training of one step.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 100


def seen(data: str) -> str:
    """What stays on the screen of what a terminal was sent."""
    data = re.sub(r"\x1b\[\d*[ABF]", "\r", data)
    data = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data).replace("\r\n", "\n")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in data.split("\n")]
    return "\n".join(line for line in lines if line)


def show(words: list[str], folder: Path) -> None:
    """Run a command in a terminal, then print time, first sign of life, and the screen."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH", "CI", "NO_COLOR")
    }
    environment |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    start, first, data = time.monotonic(), None, b""
    own, its = pty.openpty()
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    silent, longest = start, 0.0
    while True:
        ready, _, _ = select.select([own], [], [], 0.2)
        if ready:
            try:
                part = os.read(own, 65536)
            except OSError:  # the terminal was closed by its last user
                break
            if not part:
                break
            now = time.monotonic()
            first = first or now - start
            silent, longest = now, max(longest, now - silent)
            data += part
    code = process.wait()
    os.close(own)
    print(f"$ {' '.join(words)}")
    print(seen(data.decode("utf-8", "replace")))
    print(
        f"-> {time.monotonic() - start:.1f} s, exit code {code}, text after {first or 0:.1f} s,"
        f" longest silence {longest:.1f} s\n",
        flush=True,
    )
    if code:
        sys.exit(code)


def clone(folder: Path, _: str | None) -> None:
    """From a clone to a map of parcels."""
    show(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", "panoseg"], folder)
    show(["uv", "run", "panoseg", "demo"], folder / "panoseg")


def photograph(folder: Path, weights: str | None) -> None:
    """From an installed wheel to a segmented photograph."""
    show(["uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], folder)
    wheel = str(next(folder.glob("*.whl")))
    show(["uv", "venv", "--quiet", "environment"], folder)
    show(["uv", "pip", "install", "--quiet", "--python", "environment", wheel], folder)
    panoseg = str(folder / "environment" / "bin" / "panoseg")
    show([panoseg, "simulate", "pictures", "--layout", "coco", "--patches", "5"], folder)
    if weights is None:
        weights = "run"
        train = ["simulated-photographs-panoptic-fpn-r18", "--data", "pictures", "--out", weights]
        short = ["--epochs", "1", "--max-steps-per-epoch", "1", "--workers", "0"]
        show([panoseg, "train", *train, *short], folder)
    show([panoseg, "photo", "pictures/val", "--weights", weights, "--out", "segmented"], folder)


WAYS = {"clone": clone, "photograph": photograph}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "ways", nargs="*", metavar="WAY", help=f"{', '.join(WAYS)}; by default both"
    )
    parser.add_argument("--weights", help="folder or name of weights for photographs")
    options = parser.parse_args()
    for way in options.ways or WAYS:
        with tempfile.TemporaryDirectory() as folder:
            WAYS[way](Path(folder), options.weights)


if __name__ == "__main__":
    main()
