"""Every table of docs/performance.md, one after the other: ``python benchmarks/all.py``.

Each benchmark is a process of its own, so that none sees the memory or threads of another. Leave
the machine alone meanwhile.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    ("models.py", {}),
    ("gpu.py", {}),
    ("metrics.py", {}),
    ("loader.py", {"OMP_NUM_THREADS": "1"}),
    ("simulation.py", {"OMP_NUM_THREADS": "1"}),
)


def main() -> None:
    """Run them and print their tables."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        flush=True,
    )
    for name, environment in BENCHMARKS:
        print(f"\n## {name}\n", flush=True)
        script = Path(__file__).with_name(name)
        subprocess.run([sys.executable, str(script)], env={**os.environ, **environment}, check=True)


if __name__ == "__main__":
    main()
