"""Imports every module of panoseg and runs small jobs in a folder: ``run_everything.py OUT``.

test_other_systems.py starts it as on Windows, the workflow on each system and with the oldest
versions of libraries.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def import_all() -> None:
    import panoseg

    package = Path(panoseg.__file__).parent
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(("panoseg", *parts)).removesuffix(".__init__"))


COMMANDS = """
simulate simulated --cube --size 48 --dates 3 4 --seed 3
simulate pictures --layout coco --patches 5 --size 64 --workers 2
inspect simulated/cube.nc --out season.html
map simulated/cube.nc --weights networks/tiny --out map --year 2019 --tta 1
train pastis-utae-paps --data data --out run --epochs 1 TINY --workers 1
test run --data data --out test --accelerator cpu --workers 0 --pictures 1
describe data --out described
photo pictures/val --weights networks/boxes --out photo
coco shards --data pictures --out shards --processes 1
"""


def main(out: Path) -> None:
    import_all()
    sys.path.insert(0, str(ROOT / "tests"))
    from panoseg.app.confined import UPLOAD, run_confined
    from panoseg.classes import PASTIS
    from panoseg.cli import main as panoseg
    from panoseg.platforms import end_with_starter, limit_resources, lower_priority
    from small_networks import save_small_networks
    from tiny_runs import tiny_options, write_tiny_dataset

    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    save_small_networks(out / "networks")
    write_tiny_dataset(out / "data")
    tiny = " ".join(tiny_options("pastis-utae-paps"))
    for line in COMMANDS.strip().splitlines():
        words = line.replace("TINY", tiny).split()
        start = time.monotonic()
        assert panoseg(words) == 0, line
        print(f"{time.monotonic() - start:.1f} s  {line}")
    if "PANOSEG_TEST_SYSTEM" in os.environ:  # elsewhere a second of processor time is the limit
        lower_priority(1)
        end_with_starter()
        limit_resources(1, 1)
    assert run_confined(UPLOAD, PASTIS.same_classes, PASTIS)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
