"""The command line: ``main`` looks a command up in ``COMMANDS`` and calls its function.

A command is a function whose typed parameters are the options (tyro parses them) and whose
docstring is the help text. A command with verbs, such as ``panoseg coco evaluate``, parses its
own arguments with ``run_verb``. Only options and their checks are imported at the top of the
modules; torch, xarray and the like are imported inside the functions, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from panoseg import __version__
from panoseg.cli.output import holding
from panoseg.cli.terminal import (
    VERBOSE,
    Events,
    Terminated,
    end_as_interrupted,
    end_with_input,
    is_closed_pipe,
    prepare,
    system_limit,
    without_verbose,
)
from panoseg.errors import ConfigError, PanosegError


class Command(NamedTuple):
    """One entry of the table of commands."""

    target: str
    """Where the function is: ``module:function``, the module relative to ``panoseg.cli``."""
    summary: str
    """One line for ``panoseg --help``."""
    parses_arguments: bool = False
    """Whether the function takes the list of arguments instead of typed options."""
    goes_on: str = "nothing was left half written; run it again"
    """How to go on after the command was stopped."""


_CONTINUES = "the same command continues"
_RESUMES = "panoseg train --resume RUN continues"
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "maps:demo", "simulate a season, map it, compare with the truth, write report.html"
    ),
    "simulate": Command(
        "data:simulate",
        "write simulated seasons as a dataset or a cube, or simulated photographs",
        goes_on=_CONTINUES,
    ),
    "dataset": Command(
        "data:dataset",
        "make training data from a register of parcels and cubes of its land",
        goes_on=_CONTINUES,
    ),
    "describe": Command(
        "data:describe", "summarise a dataset: classes, dates, parcels; with figures"
    ),
    "experiments": Command("training:experiments", "list every named experiment"),
    "train": Command("training:train", "train an experiment, or resume a run", True, _RESUMES),
    "test": Command("training:score", "score a run, or published weights, on the test fold"),
    "weights": Command("weights:weights", "weights by name: list, fetch, import, publish", True),
    "show": Command(
        "weights:show",
        "draw image, truth and prediction of a patch side by side, or the attention over dates",
    ),
    "cube": Command(
        "data:cube", "fetch the season of an area from a catalogue: a Zarr store", False, _CONTINUES
    ),
    "inspect": Command("maps:inspect", "say how a season is understood, before it is mapped"),
    "map": Command(
        "maps:map_season",
        "map a cube: parcels with classes, rasters and a report",
        goes_on=_CONTINUES,
    ),
    "adapt": Command("maps:adapt", "make weights better for a season by fields that you drew"),
    "photo": Command(
        "photo:photo",
        "segment photographs: panoptic PNG files, overlays with names, a table of segments",
    ),
    "refine": Command(
        "maps:refine", "one class for each parcel of a map: hard by area, soft by probability"
    ),
    "compare": Command("maps:compare", "score a file of parcels against a file of true parcels"),
    "app": Command(
        "app:app", "the web application: draw a place, get its parcels", True, "start it again"
    ),
    "job": Command(
        "app:job", "jobs of a web application: submit, watch, fetch", True, "run it again"
    ),
    "qgis": Command(
        "qgis:qgis", "the plugin for QGIS: install it, or write it as a zip file", True
    ),
    "coco": Command(
        "coco:coco", "score, merge and convert COCO panoptic files; write a dataset as shards", True
    ),
}


def usage() -> str:
    """Return the text of ``panoseg --help``."""
    rows = _columns({name: command.summary for name, command in COMMANDS.items()})
    return (
        f"panoseg {__version__}: panoptic segmentation of satellite image time series and"
        " photographs\n\nusage: panoseg COMMAND [options]      panoseg COMMAND --help shows the"
        f" options\n\n{rows}\n\n-v, with any command, shows the warnings of libraries\n"
        "--progress jsonl, before a command, prints JSON lines for another program\n\n"
        "example: panoseg demo"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after ``panoseg``; by default those of the process.

    Returns:
        The exit code: 0 on success, 2 for an error that the printed message explains, 130 when
        interrupted, 143 when ended by SIGTERM.
    """
    arguments = without_verbose(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0].partition("=")[0] == "--progress":
        return _as_events(arguments)
    return _run(arguments, lambda text, _: print(text, file=sys.stderr))


def _as_events(arguments: Sequence[str]) -> int:
    """Run the command behind ``--progress jsonl`` and return its exit code."""
    _, _, form = arguments[0].partition("=")
    rest = list(arguments[1:])
    if not form and rest:
        form = rest.pop(0)
    if form != "jsonl":
        print(
            "panoseg: --progress before a command takes jsonl, as in panoseg --progress jsonl map"
            " season.nc --out MAP.",
            file=sys.stderr,
        )
        return 2
    if rest[:1] == ["--end-with-input"]:
        rest.pop(0)
        end_with_input()
    events = Events(sys.stdout)

    def fail(text: str, code: int) -> None:
        events.emit("error", code=code, text=text.partition(": ")[2])

    code = 0
    try:
        with events.reporting(rest[0] if rest else ""):
            try:
                code = _run(rest, fail)
            except SystemExit as end:  # of tyro, which has printed what is wrong
                code = end.code if isinstance(end.code, int) else 2 * bool(end.code)
                if code:
                    fail(f"panoseg: The options of panoseg {rest[0]} are not understood.", code)
    except KeyboardInterrupt as stop:  # before or after the command itself
        code = _stopped(stop, rest[0] if rest else "", fail)
    return code


def _stopped(stop: KeyboardInterrupt, name: str, fail: Callable[[str, int], None]) -> int:
    """Say how to go on after a command was stopped, and return its exit code."""
    code = 143 if isinstance(stop, Terminated) else 130
    goes_on = COMMANDS[name].goes_on if name in COMMANDS else "run it again"
    fail(f"panoseg {name}: stopped; {goes_on}", code)
    return code


def _run(arguments: Sequence[str], fail: Callable[[str, int], None]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The words after ``panoseg``.
        fail: Called with the line of an error and the exit code.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        fail(
            f"panoseg: no command {name[:80]!r}. The commands are {', '.join(COMMANDS)};"
            " see panoseg --help.",
            2,
        )
        return 2
    module, _, function = COMMANDS[name].target.partition(":")
    try:
        command = getattr(importlib.import_module(f"panoseg.cli.{module}"), function)
        if COMMANDS[name].parses_arguments:
            command(rest)
        else:
            parse(command, f"panoseg {name}", rest)
    except PanosegError as error:
        fail(f"panoseg {name}: {error}", 2)
        return 2
    except KeyboardInterrupt as stop:
        return _stopped(stop, name, fail)
    except (OSError, RuntimeError, MemoryError) as error:
        reason = system_limit(error, name)
        if reason is None:
            raise
        fail(f"panoseg {name}: {reason}", 2)
        return 2
    return 0


def parse(
    function: Callable[..., None],
    program: str,
    arguments: Sequence[str],
    *,
    omit_prefixes: bool = False,
) -> None:
    """Call ``function`` with the options that ``arguments`` give.

    Args:
        function: A command; its parameters are the options, its docstring is the help text.
        program: The name in the help text, e.g. ``panoseg map``.
        arguments: The words that follow it.
        omit_prefixes: Name options of nested dataclasses without the name of the dataclass.
    """
    import tyro

    # Positional arguments are named as in the help text; None is the absence of an option.
    config: list[Any] = [tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone]
    if omit_prefixes:
        config.append(tyro.conf.OmitArgPrefixes)
    tyro.cli(holding(function), prog=program, args=arguments, config=config)


Verbs = Mapping[str, tuple[Callable[..., None], str]]
"""The function of each verb of a command, and one line about it for the help text."""


def run_verb(
    command: str, verbs: Verbs, arguments: Sequence[str], about: str, example: str
) -> None:
    """Call the function of the verb ``arguments[0]``, or list the verbs for ``--help`` or nothing.

    Args:
        command: Name of the command, e.g. ``coco``.
        verbs: The verbs of the command.
        arguments: The words after the command.
        about: First line of the help text.
        example: Last line of the help text.

    Raises:
        ConfigError: There is no such verb.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        rows = _columns({verb: line for verb, (_, line) in verbs.items()})
        print(
            f"{about}\n\nusage: panoseg {command} VERB [options]      panoseg {command} VERB"
            f" --help shows the options\n\n{rows}\n\nexample: {example}\n"
        )
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in verbs:
        raise ConfigError(
            f"There is no verb {verb!r}; panoseg {command} has {', '.join(verbs)}. See panoseg"
            f" {command} --help."
        )
    parse(verbs[verb][0], f"panoseg {command} {verb}", rest)


def _columns(rows: Mapping[str, str]) -> str:
    """Return names and descriptions in two aligned columns."""
    width = max(len(name) for name in rows)
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in rows.items())


def script() -> None:
    """Entry point of the installed command."""
    prepare(verbose=any(word in VERBOSE for word in sys.argv[1:]))
    end_as_interrupted()
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC and not is_closed_pipe(error):
            raise
        code = 1  # the reader of a pipe, e.g. head, has closed it
        if error.errno == errno.ENOSPC:
            print(
                "panoseg: The output cannot be printed: the disk is full. Free some space and try"
                " again.",
                file=sys.stderr,
            )
            code = 2
        # Python flushes standard output once more at exit and would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
