"""What a command writes: a folder is held while it runs, and --wait waits for another command.

The type of a parameter says what it names, e.g. ``out: Annotated[Path, Output.FOLDER]``; the rest
follows for every command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from panoseg.data.places import is_url
from panoseg.files import hold_folder, waiting


class Output(Enum):
    """What a parameter of a command names."""

    FOLDER = "a folder, which is held while the command runs"
    HELD = "a folder or store that the functions behind the command hold"
    FILE = "a file, which appears whole"


_WAIT = "Wait while another command writes to the same folder, instead of ending."


def outputs_of(function: Callable[..., None]) -> dict[str, Output]:
    """Return what the parameters of a command name that are outputs."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Output)
    }


def holding(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command that holds its output folders, with the option --wait."""
    outputs = outputs_of(function)
    if not {Output.FOLDER, Output.HELD} & set(outputs.values()):
        return function
    signature = inspect.signature(function)

    @wraps(function)
    def held(*args: Any, wait: bool = False, **options: Any) -> None:  # noqa: ANN401
        given = signature.bind(*args, **options)
        given.apply_defaults()
        with waiting(wait), ExitStack() as held_folders:
            for name, mark in outputs.items():
                folder = given.arguments[name]
                if mark is Output.FOLDER and _is_folder(folder):
                    held_folders.enter_context(hold_folder(folder))
            function(*args, **options)

    option = inspect.Parameter("wait", inspect.Parameter.KEYWORD_ONLY, default=False)
    held.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    hints = get_type_hints(function, include_extras=True)
    held.__annotations__ = {**hints, "wait": Annotated[bool, tyro.conf.arg(help=_WAIT)]}
    del held.__wrapped__  # tyro would parse that function
    return held


def _is_folder(value: Path | str | None) -> bool:
    """Return whether an output is a folder on this machine, and no URL and no table."""
    if value is None or is_url(str(value)):
        return False
    return Path(value).suffix not in (".parquet", ".gpkg")
