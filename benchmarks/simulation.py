"""Seconds to simulate one patch of 43 x 10 x 128 x 128 on one core, over several seeds.

    OMP_NUM_THREADS=1 python benchmarks/simulation.py [SEASONS]

Prints the time on the wall and of the processor; the latter tells more where others share the
machine.
"""

from __future__ import annotations

import statistics
import sys
import time

from panoseg.simulation import SimulationOptions, simulate_season

SIZE, DATES, GOAL_S = (128, 128), 43, 0.5


def main(seasons: int = 14) -> None:
    """Time ``seasons`` seasons, each of another landscape."""
    options = SimulationOptions(dates=(DATES, DATES))
    simulate_season(SIZE, 0, options)
    wall, processor = [], []
    for seed in range(seasons):
        started = time.perf_counter(), time.process_time()
        simulate_season(SIZE, seed, options)
        wall.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    print(
        f"one season of {DATES} x 10 x {SIZE[0]} x {SIZE[1]}, {seasons} seeds, one core; goal"
        f" {GOAL_S} s"
    )
    for name, seconds in (("wall", wall), ("processor", processor)):
        print(
            f"{name:9}  median {statistics.median(seconds):.3f} s  best {min(seconds):.3f} s  worst"
            f" {max(seconds):.3f} s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
