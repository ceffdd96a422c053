"""Builds the wheel and the source archive, checks them, installs the wheel into bare environments,
and runs it there: versions, a demo of 96 pixels, a map, photographs.

    uv run python benchmarks/wheel.py                        # this Python
    uv run python benchmarks/wheel.py --python 3.11 3.13     # others that uv finds
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST_MB = 60
PROGRAM = """
import sys
from pathlib import Path

import numpy as np
import panoseg

assert "site-packages" in panoseg.__file__, panoseg.__file__
cube, truth = panoseg.simulate(96, seed=1, dates=(8, 8))
result = panoseg.map(cube, "map", tta=1, device="cpu")
print(len(result.parcels), "parcels,", sorted(path.name for path in Path("map").iterdir()))
images = np.stack([cube[name].values for name in cube.data_vars if name != "SCL"], 1)
print(panoseg.load(device="cpu").predict(images, cube["time"].values).segment_HW.shape)
"""


def run(*words: object, folder: Path | None = None, **more: str) -> str:
    """Run a command; its output, or the end of the program with what it printed."""
    # The environment of the caller must not be seen from the bare one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")
    }
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder or ROOT,
        env={**environment, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
        sys.exit(f"failed: {' '.join(map(str, words))}")
    return done.stdout


def megabytes(path: Path) -> float:
    """Size of a file or a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.lstat().st_size for each in files) / 1e6


def build(out: Path) -> Path:
    """Build and check both archives; the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    run("uv", "build", "--out-dir", out)
    wheel, source = next(out.glob("*.whl")), next(out.glob("*.tar.gz"))
    print(run("uvx", "twine", "check", "--strict", wheel, source).strip())
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "panoseg/py.typed" in names
    assert all(name.startswith(("panoseg/", "panoseg-")) for name in names), names
    with tarfile.open(source) as archive:
        print(f"{wheel.name}: {megabytes(wheel):.1f} MB, {len(names)} files")
        print(f"{source.name}: {megabytes(source):.1f} MB, {len(archive.getnames())} files")
    assert megabytes(wheel) < LARGEST_MB
    return wheel


def try_it(wheel: Path, python: str, backend: str | None, folder: Path) -> None:
    """Install the wheel into a bare environment and use it."""

    def timed(what: str, *words: object) -> None:
        start = time.monotonic()
        text = run(*words, folder=folder).strip().splitlines()
        print(f"  {time.monotonic() - start:6.1f} s  {what}: {text[-1] if text else ''}")

    environment = folder / "environment"
    run("uv", "venv", "--python", python, environment)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    torch = ["--torch-backend", backend] if backend else []
    install = ["uv", "pip", "install", *torch, "--python", scripts / "python", wheel]
    timed("installed", *install)
    version = run(scripts / "python", "--version").strip()
    count = len(run("uv", "pip", "list", "--python", scripts / "python").splitlines()) - 2
    print(f"  {version}, {count} packages, {megabytes(environment):.0f} MB")
    timed("panoseg --version", scripts / "panoseg", "--version")
    timed("demo", scripts / "panoseg", "demo", "--size", 96, "--out", folder / "demo")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    timed("map, from Python", scripts / "python", "program.py")
    timed(
        "photographs",
        scripts / "panoseg",
        "simulate",
        "pictures",
        "--layout",
        "coco",
        "--patches",
        5,
        "--size",
        64,
    )
    train = [
        "simulated-photographs-panoptic-fpn-r18",
        "--data",
        "pictures",
        "--out",
        "run",
        "--epochs",
        1,
    ]
    train += ["--batch-size", 2, "--workers", 0, "--max-steps-per-epoch", 1, "--accelerator", "cpu"]
    timed("a step of training", scripts / "panoseg", "train", *train)
    timed(
        "photo",
        scripts / "panoseg",
        "photo",
        "pictures/val",
        "--weights",
        "run",
        "--out",
        "segmented",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", nargs="+", default=[f"{sys.version_info[0]}.{sys.version_info[1]}"]
    )
    parser.add_argument("--torch-backend", help="cpu, cu128, ..; as pip takes it if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "dist")
    options = parser.parse_args()
    wheel = build(options.out.absolute())
    for python in options.python:
        print(f"Python {python}")
        with tempfile.TemporaryDirectory() as folder:
            try_it(wheel, python, options.torch_backend, Path(folder))


if __name__ == "__main__":
    main()
