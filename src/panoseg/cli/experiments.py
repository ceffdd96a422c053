"""``panoseg experiments``: every named experiment, or one with all its options."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import tyro


def run(name: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """List every named experiment: model, task, data and published score; or all options of one.

    Train one with panoseg train NAME --data DIR --out RUN.

    example: panoseg experiments

    example: panoseg experiments pastis-utae-paps

    Args:
        name: Show this experiment alone, with its source and its options as panoseg train takes
            them.
    """
    print(_list() if name is None else _details(name))


def _list() -> str:
    """A line for each experiment, in aligned columns."""
    from panoseg.training.experiments import EXPERIMENTS

    header = ("experiment", "model", "task", "data", "published")
    rows = [
        header,
        *(
            (name, e.model, e.config.task, e.data, e.published or "-")
            for name, e in EXPERIMENTS.items()
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _details(name: str) -> str:
    from panoseg.training.experiments import experiment

    entry = experiment(name)
    about = {
        "experiment": name,
        "model": entry.model,
        "task": entry.config.task,
        "data": entry.data,
        "published": entry.published or "-",
        "source": entry.source,
    }
    lines = [f"{key:<12}{value}" for key, value in about.items()]
    return "\n".join(
        [*lines, "", *(f"  {' '.join(words)}" for words in option_words(entry.config))]
    )


def option_words(config: Any, prefix: str = "") -> list[list[str]]:
    """The options of a configuration as words of a command line, which set them to the values they
    have; None is left out.

    >>> from panoseg.data.config import PhotographConfig
    >>> option_words(PhotographConfig(scale=(0.5, 2.0), crop=473), "photographs.")[2:]
    [['--photographs.scale', '0.5', '2.0'], ['--photographs.no-flip'], ['--photographs.crop', '473']]
    """
    found: list[list[str]] = []
    for entry in fields(config):
        value, option = getattr(config, entry.name), entry.name.replace("_", "-")
        if is_dataclass(value):
            found += option_words(value, f"{prefix}{option}.")
        elif isinstance(value, bool):
            found.append([f"--{prefix}{'' if value else 'no-'}{option}"])
        elif value is not None:
            found.append(
                [f"--{prefix}{option}", *map(str, value if isinstance(value, tuple) else [value])]
            )
    return found
