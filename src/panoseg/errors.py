"""Every failure that a user can meet, and the one for a missing optional dependency.

The command line prints the message of a ``PanosegError`` on one line and exits with code 2.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Literal, Self

LONGEST_VALUE = 80
"""Characters of a value in a message."""
_LONGEST_NAME = 255
"""Characters of a part of a path; no system has longer ones."""
_LONGEST_LINE = 2000
_WORD = re.compile(rf"[^\s/\\'\":,;]{{{LONGEST_VALUE + 1},}}")
_QUOTED = re.compile(
    rf"(?<![^\s(\[])('[^'/\\]{{{LONGEST_VALUE + 1},}}'|\"[^\"/\\]{{{LONGEST_VALUE + 1},}}\")"
)


def _cut(line: str) -> str:
    """Cut what a file or a command line can make as long as it likes.

    >>> len(_cut("The code " + "9" * 5000 + " is not known."))
    103
    """

    def cut_word(found: re.Match[str]) -> str:
        around = line[found.start() - 1 : found.start()] + line[found.end() : found.end() + 1]
        most = _LONGEST_NAME if set(around) & {"/", "\\"} else LONGEST_VALUE
        return found[0] if len(found[0]) <= most else f"{found[0][: most - 1]}…"

    line = _QUOTED.sub(lambda found: f"{found[0][:LONGEST_VALUE]}…{found[0][-1]}", line)
    line = _WORD.sub(cut_word, line)
    if len(line) <= _LONGEST_LINE:
        return line
    end = _LONGEST_LINE // 5  # what to do is said at the end
    return f"{line[: _LONGEST_LINE - end - 1]}…{line[-end:]}"


class PanosegError(Exception):
    """A failure that the user can fix.

    Args:
        message: One or two sentences: what is wrong, with the name of the file or option, and what
            to do about it.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        line = _cut(" ".join(message.split()))
        # Names of files need not be valid text.
        super().__init__(line.encode("utf-8", "backslashreplace").decode())

    def with_text(self, old: str, new: str) -> Self:
        """Return the same error with ``old`` replaced by ``new`` in its text."""
        return type(self)(self.message.replace(old, new))


class DatasetError(PanosegError):
    """A dataset on disk is missing, damaged, or contradicts itself."""


class CubeError(PanosegError):
    """A cube or a folder of scenes breaks the conventions of ``panoseg.cube``."""


class MissingBandsError(CubeError):
    """A cube lacks bands that are needed."""


class AreaError(PanosegError):
    """An outline cannot be read, is not a polygon, or is where no season can be fetched."""


class CatalogueError(PanosegError):
    """A catalogue of scenes does not answer, or knows no scene of the area and season."""


class WeightsError(PanosegError):
    """Weights or a checkpoint cannot be read, or belong to another model."""


class ConfigError(PanosegError):
    """An option has an impossible value, or two options contradict each other."""


class ClusterError(PanosegError):
    """No dask scheduler answers, or a cluster has gone.

    The same work can be done when the cluster is there again.
    """


class OutputError(PanosegError):
    """An output cannot be written: a folder in use, no permission, a full disk."""


class ParcelsError(PanosegError):
    """A file of parcels cannot be read or compared."""


class RasterError(PanosegError):
    """A raster of classes or of their probabilities cannot be read or used."""


class PanopticFormatError(PanosegError):
    """A panoptic picture and its table of segments contradict each other."""


class AppError(PanosegError):
    """A wish that the web application does not fulfil. status: of HTTP."""

    status = 422


class NotSignedInError(AppError):
    """Somebody without a valid token."""

    status = 401


class NotFoundError(AppError):
    """A job, an upload or a file that is not there, or belongs to somebody else."""

    status = 404


class ConflictError(AppError):
    """A wish that does not fit the state in which a job is."""

    status = 409


class TooLargeError(AppError):
    """An upload beyond its limit."""

    status = 413


class LimitError(AppError):
    """More jobs, uploads or disk space than a user may have."""

    status = 429


class BusyError(AppError):
    """A wish that the server could fulfil if it had less to do."""

    status = 503


Extra = Literal["app", "cluster", "tensorboard", "s3", "gs", "postgres", "heif", "hub"]

_MODULES: dict[Extra, tuple[str, ...]] = {
    "app": (
        "nicegui",
        "fastapi",
        "sqlalchemy",
        "rio_tiler",
        "python_multipart",
        "prometheus_client",
        "uvicorn",
        "httpx",
        "cachetools",
        "mgrs",
        "openlocationcode",
    ),
    "cluster": ("distributed",),
    "tensorboard": ("tensorboard",),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "postgres": ("psycopg",),
    "heif": ("pillow_heif",),
    "hub": ("transformers", "timm", "huggingface_hub"),
}


def is_installed(extra: Extra) -> bool:
    """Return whether all packages of an extra can be imported; imports none of them."""
    return all(find_spec(module) is not None for module in _MODULES[extra])


def require(extra: Extra, feature: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: Name of the extra in pyproject.toml.
        feature: What needs it, e.g. ``panoseg app``; the beginning of the error message.

    Raises:
        ConfigError: A package is missing; the message says what to install.
    """
    if not is_installed(extra):
        raise ConfigError(missing(extra, feature))


def missing(extra: Extra, feature: str) -> str:
    """Return the sentence that says which extra a feature needs.

    >>> missing("app", "panoseg app")
    "panoseg app needs the extra 'app': pip install 'panoseg[app]'."
    """
    return f"{feature} needs the extra {extra!r}: pip install 'panoseg[{extra}]'."
