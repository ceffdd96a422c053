"""``panoseg experiments``: every named experiment."""

from __future__ import annotations

import sys


def run() -> None:
    """List every named experiment: model, task, data and published score.

    Train one with panoseg train NAME --data DIR --out RUN.

    example: panoseg experiments
    """
    from panoseg.training.experiments import EXPERIMENTS

    header = ("experiment", "model", "task", "data", "published", "source")
    rows = [header, *((name, e.model, e.config.task, e.data, e.published or "-", e.source) for name, e in EXPERIMENTS.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
