"""``panoseg demo``: the whole way once, on a simulated season."""

from __future__ import annotations

from pathlib import Path


def run(
    out: Path = Path("panoseg-demo"), size: int = 256, seed: int = 0, weights: Path | None = None
) -> None:
    """Simulate a season of an unseen landscape, map it, compare with the truth, write report.html.

    example: panoseg demo

    Args:
        out: Folder for the season and its map; new or empty.
        size: Pixels of 10 m on a side.
        seed: Which landscape.
        weights: Folder of weights; without it the ones in the package are used.
    """
    from panoseg.demo import run_demo

    result = run_demo(out, size, seed, weights)
    for note in result.notes:
        print(f"note: {note}")
    if result.comparison is not None:
        print(f"\n{result.comparison.table()}\n")
        print(
            f"PQ {100 * result.comparison.quality.pq:.1f} whatever the class, on {size} x {size}"
            " pixels never seen before"
        )
    print(f"open {result.report}")
