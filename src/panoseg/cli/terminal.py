"""The terminal of a command: its streams, the warnings of libraries, and the system's limits.

``prepare`` sets all of it up once, in ``script``; ``main``, the Python API and pytest keep their
own streams and warning filters.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

VERBOSE = ("-v", "--verbose")
"""Words, anywhere on the command line, that show the warnings of libraries."""

_WORKERS = {
    "train": "--workers 0",
    "test": "--workers 0",
    "simulate": "--workers 1",
    "dataset": "--workers 1",
    "map": "--workers 1",
    "coco": "--processes 1",
}
"""The option of each command with which it starts no other process."""


def prepare(verbose: bool) -> None:
    """Set up the streams and the warning filters of this process and of those that it starts.

    A character that the encoding of standard output lacks is printed as a question mark, instead of
    ending the command. Warnings of libraries are hidden unless ``verbose``, or unless Python itself
    was told what to do with them (-W, PYTHONWARNINGS).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the program that started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in (
            "strict",
            "surrogateescape",  # Python's choice where the locale is C
        ):
            stream.reconfigure(errors="replace")
    if verbose:
        warnings.simplefilter("default")
        os.environ["PYTHONWARNINGS"] = "default"
    elif not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; everything lets go as at Ctrl-C."""


def end_as_interrupted() -> None:
    """Make SIGTERM end this process like Ctrl-C; its child processes keep the default."""

    def terminate(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=_end_at_once)


def _end_at_once() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say(line: str) -> None:
    """Print a line in the middle of long work, which goes on if it cannot be printed."""
    try:
        print(line, flush=True)
    except OSError:  # a closed pipe, a full disk
        return


def is_closed_pipe(error: OSError) -> bool:
    """Return whether a stream could not be written because its reader has gone."""
    return error.errno == errno.EPIPE or (sys.platform == "win32" and error.errno == errno.EINVAL)


def system_limit(error: BaseException, command: str) -> str | None:
    """Return the sentence for a limit of the system that ``error`` reports; None for others.

    torch and multiprocessing report such limits with exceptions of many types, of which the text
    alone tells the cause.

    >>> system_limit(OSError(24, "Too many open files"), "train")
    'Too many files are open at once. Raise the limit (ulimit -n 65536), or pass --workers 0.'
    >>> system_limit(ValueError("another one"), "train")

    Args:
        error: What ended the command.
        command: Its name.
    """
    if not isinstance(error, OSError | RuntimeError | MemoryError):
        return None
    number, text = getattr(error, "errno", None), str(error)
    fewer = _WORKERS.get(command, "")
    or_pass = f", or pass {fewer}" if fewer else ""
    if number in (errno.EMFILE, errno.ENFILE) or _names(
        text, "Too many open files", "items of ancdata"
    ):
        return f"Too many files are open at once. Raise the limit (ulimit -n 65536){or_pass}."
    if _names(text, "shared memory", "Bus error", "torch_shm_manager", "</torch_", "SemLock") or (
        number in (errno.ENOSPC, errno.ENOSYS, errno.ENOENT, errno.EACCES) and _is_semaphore(error)
    ):
        return (
            "The shared memory of this system, /dev/shm, is full, too small or not there. Enlarge"
            f" it (docker run --shm-size 8g){or_pass}."
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        where = getattr(error, "filename", None)
        # Without a name it is standard output, of which ``script`` tells.
        return where and f"{where} has no space left. Free some space, or choose another disk."
    if _names(text, "No space left on device"):
        return "The disk has no space left. Free some space, or choose another disk."
    if _names(text, "No usable temporary directory"):
        return (
            "No folder for temporary files can be written. Free some space in /tmp, or set TMPDIR"
            " to another folder."
        )
    if number == errno.EAGAIN or _names(text, "start new thread", "Resource temporarily"):
        return f"The system starts no more processes. Raise the limit (ulimit -u){or_pass}."
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or _names(
            text, "out of memory", "Cannot allocate memory", "not enough memory", "signal: Killed"
        )
    ):
        smaller = "a smaller --batch-size" if command in ("train", "test") else "smaller input"
        return f"The memory is full. Use {smaller}{f' or {fewer}' if fewer else ''}."
    return None


def _names(text: str, *phrases: str) -> bool:
    return any(phrase in text for phrase in phrases)


def _is_semaphore(error: BaseException) -> bool:
    """Return whether an error comes from a lock between processes, which lies in /dev/shm."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "multiprocessing.synchronize":
            return True
        trace = trace.tb_next
    return False


def without_verbose(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without those of ``VERBOSE``."""
    return [word for word in words if word not in VERBOSE]
