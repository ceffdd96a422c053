"""The command line: one file a command, each thin; heavy imports happen only in the command that
needs them.

A command module has ``run``, a function whose typed arguments are the options (``tyro`` parses
them) and whose docstring is the help, or ``main(arguments)`` where the options depend on an earlier
word.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from panoseg import __version__
from panoseg.errors import PanosegError

COMMANDS: dict[str, str] = {
    "demo": "simulate a season, map it, compare with the truth, write report.html",
    "simulate": "write simulated seasons as a dataset or a cube, or simulated photographs",
    "dataset": "make training data from a register of parcels and cubes of its land",
    "describe": "what a dataset holds: classes, dates, parcels; with pictures",
    "experiments": "list every named experiment",
    "train": "train an experiment, or resume a run",
    "test": "score a run, or published weights, on the test fold",
    "weights": "import published weights to safetensors + json",
    "show": (
        "draw image, truth and prediction of a patch side by side, or when in the season the"
        " network looked"
    ),
    "cube": "fetch the season of an area from a catalogue: a Zarr store",
    "map": "map a cube: parcels with classes, rasters and a report",
    "photo": "segment photographs: panoptic pictures, overlays with names, a table of segments",
    "refine": "one class for each parcel of a map: hard by area, soft by probability",
    "compare": "score a file of parcels against a file of true parcels",
    "app": "the web application: draw a place, get its parcels",
    "job": "jobs of a web application: submit, watch, fetch",
    "coco": "score, merge and convert COCO panoptic files; write a dataset as shards",
}


def usage() -> str:
    """The text of ``panoseg --help``."""
    width = max(
        len(name) for name in COMMANDS
    )  # not map(): that is a command of this package once it has run
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        f"panoseg {__version__}: panoptic segmentation of satellite image time series and"
        " photographs\n\nusage: panoseg COMMAND [options]      panoseg COMMAND --help tells"
        f" more\n\n{rows}\n\nexample: panoseg demo"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 a mistake that the message explains, 130
    interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(
            f"panoseg: no command {name!r}; expected one of {', '.join(COMMANDS)}; see panoseg"
            " --help",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(f"panoseg.cli.{name}")
    try:
        if hasattr(module, "main"):
            module.main(rest)
        else:
            import tyro

            # Positional arguments are called as in the help's text; None is said by leaving an
            # option out.
            config = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)
            tyro.cli(module.run, prog=f"panoseg {name}", args=rest, config=config)
    except PanosegError as error:
        print(f"panoseg {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"panoseg {name}: stopped", file=sys.stderr)
        return 130
    return 0


def script() -> None:
    """Entry point of the installed command."""
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        code = 1  # the reader of a pipe, head for example, has seen enough
        if error.errno == errno.ENOSPC:
            print(
                "panoseg: what was to be printed: the disk is full; expected free space; free some",
                file=sys.stderr,
            )
            code = 2
        # What is left to print would be tried once more at the end, and complained about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
