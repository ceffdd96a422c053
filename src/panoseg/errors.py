"""Every failure that a user can meet: what was found, what was expected, what to do.

The command line prints the message of a ``PanosegError`` on one line and exits with code 2.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import Self


class PanosegError(Exception):
    """A failure that the user can fix.

    Args:
        message: One or two sentences: what is wrong, with the name of the file or option, and what
            to do about it.
        expected: Deprecated; what would have been right.
        fix: Deprecated; what to do.
    """

    def __init__(self, message: str, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = message, expected, fix
        text = f"{message}; expected {expected}; {fix}" if expected else message
        # Names of files need not be valid text.
        line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
        super().__init__(line)

    def __reduce__(self) -> tuple[type[PanosegError], tuple[str, str, str]]:
        """Errors come back from worker processes as they were."""
        return type(self), (self.found, self.expected, self.fix)

    def with_text(self, old: str, new: str) -> Self:
        """Return the same error with ``old`` replaced by ``new`` in its text."""
        return type(self)(self.found.replace(old, new), self.expected, self.fix)


class DatasetError(PanosegError):
    """A dataset on disk is missing, damaged, or contradicts itself."""


class CubeError(PanosegError):
    """A cube or a folder of scenes breaks the conventions of ``panoseg.cube``."""


class AreaError(PanosegError):
    """An outline cannot be read, is none, or lies where no season can be fetched."""


class CatalogueError(PanosegError):
    """A catalogue of scenes does not answer, or knows no scene of the area and season."""


class WeightsError(PanosegError):
    """Weights or a checkpoint cannot be read, or belong to another model."""


class ConfigError(PanosegError):
    """An option has an impossible value, or two options contradict each other."""


class ClusterError(PanosegError):
    """No dask scheduler answers, or a cluster has gone: the same work may be done when it is there
    again.
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
