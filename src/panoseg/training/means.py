"""The mean over the five folds, which is what the published tables report; never over fewer."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoseg.data.pastis import FOLDS
from panoseg.errors import DatasetError
from panoseg.files import write_json, write_text
from panoseg.metrics.tables import render_table

METRICS, TABLE = "metrics.json", "metrics.md"


def read_test_scores(folder: Path) -> dict[str, float]:
    """The main test scores of a run or of a test. Raises ``DatasetError`` where they are missing."""
    path = folder / METRICS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["test"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is missing or damaged", "the scores of all five folds", "resume the run") from error


def write_mean(folder: Path, scores: Mapping[int, Mapping[str, float]]) -> str:
    """Write ``metrics.json`` and ``metrics.md`` of five folds; returns the table."""
    table, summary = mean_of_folds(scores)
    write_text(folder / TABLE, table + "\n")
    write_json(folder / METRICS, summary)
    return table


def mean_of_folds(scores: Mapping[int, Mapping[str, float]]) -> tuple[str, dict[str, Any]]:
    """A Markdown table of each fold's scores with their mean and sample deviation, and the same JSON-ready.

    >>> print(mean_of_folds({fold: {"PQ": 40.0 + fold} for fold in range(1, 6)})[0])
    | fold      |   PQ |
    |:----------|-----:|
    | 1         | 41.0 |
    | 2         | 42.0 |
    | 3         | 43.0 |
    | 4         | 44.0 |
    | 5         | 45.0 |
    | mean      | 43.0 |
    | deviation |  1.6 |
    """
    missing = sorted(FOLDS.keys() - scores.keys())
    if missing:
        raise DatasetError(f"scores of folds {sorted(scores)}", "all five folds", f"train or test fold {missing[0]} too")
    names = list(scores[1])
    columns = {name: [scores[fold][name] for fold in FOLDS] for name in names}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    deviation = {name: statistics.stdev(values) for name, values in columns.items()}
    rows = [(str(fold), _cells(scores[fold], names)) for fold in FOLDS]
    rows += [("mean", _cells(mean, names)), ("deviation", _cells(deviation, names))]
    table = render_table(["fold", *names], [[label, *cells] for label, cells in rows])
    return table, {"folds": {str(fold): dict(scores[fold]) for fold in FOLDS}, "mean": mean, "deviation": deviation}


def _cells(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{numbers[name]:.1f}" for name in names]
