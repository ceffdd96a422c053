"""The terminal of a command: its streams, the warnings of libraries, and the system's limits.

``prepare`` sets all of it up once, in ``script``; ``main``, the Python API and pytest keep their
own streams and warning filters. ``Events`` replaces standard output for programs that run panoseg
(``panoseg --progress jsonl``, docs/qgis.md).
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

import panoseg
from panoseg.progress import listening, print_line

VERBOSE = ("-v", "--verbose")
"""Words, anywhere on the command line, that show the warnings of libraries."""

EVENTS_VERSION = 1
"""Version of the JSON lines; it changes when a program that reads them would fail."""
_SECONDS_BETWEEN_EVENTS = 0.2
_SECONDS_TO_STOP = 60.0
_HANDED_OVER: ContextVar[dict[str, Any] | None] = ContextVar("handed_over", default=None)

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


class Events(io.TextIOBase):
    """A stream that replaces standard output and writes what a command does as JSON lines.

    Printed lines become messages, progress becomes stages and progress, and at the end there is
    one result or one error. docs/qgis.md describes each event.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._line = ""
        self._began: dict[str, float] = {}
        self._told = 0.0
        self.ended = False
        """Whether the result or the error has been written."""

    def emit(self, event: str, **values: object) -> None:
        """Write one event; the work goes on if it cannot be written."""
        self.ended |= event in ("result", "error")
        line = {"panoseg": EVENTS_VERSION, "event": event, **_without_nan(values)}
        with self._lock:
            print_line(json.dumps(line), self._stream)

    def write(self, text: str) -> int:
        """Write the lines of a text as messages."""
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._message(line)
        return len(text)

    def _message(self, line: str) -> None:
        level, _, text = line.partition(": ")
        if level in ("note", "warning"):
            self.emit("message", level=level, text=text.strip())
        elif line.strip():
            self.emit("message", level="info", text=line.rstrip())

    def _progress(self, stage: str, done: int, total: int | None) -> None:
        """Write how far a stage is; a listener of ``panoseg.progress``."""
        now = time.monotonic()
        if done == 0 or stage not in self._began:
            self._began[stage] = now
            self.emit("stage", stage=stage, total=total)
        elif done == total or now - self._told >= _SECONDS_BETWEEN_EVENTS:
            self._told = now
            seconds = now - self._began[stage]
            left = None if total is None else round(seconds / done * (total - done), 1)
            self.emit("progress", stage=stage, done=done, total=total, seconds_left=left)

    @contextmanager
    def reporting(self, command: str) -> Iterator[None]:
        """Write the events of a command that runs in the block, up to the result."""
        start, handed = time.monotonic(), dict[str, Any]()
        token = _HANDED_OVER.set(handed)
        self.emit("start", command=command, version=panoseg.__version__, process=os.getpid())
        try:
            with redirect_stdout(self), listening(self._progress):
                yield
                self._message(self._line)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.emit("error", code=1, text=f"This is a fault of panoseg: {reason}")
            raise
        finally:
            _HANDED_OVER.reset(token)
        if not self.ended:
            seconds = round(time.monotonic() - start, 1)
            self.emit("result", command=command, seconds=seconds, values=handed)


def hand_over(**values: object) -> None:
    """Add values to the result of ``--progress jsonl``; without it nothing happens."""
    handed = _HANDED_OVER.get()
    if handed is not None:
        handed.update(values)


def _without_nan(value: Any) -> Any:  # noqa: ANN401
    """Return a JSON-ready value with None for numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def end_with_input() -> None:
    """Stop this process, as SIGTERM does, when its standard input ends.

    So the work ends with the program that started it, however that ends.
    """

    def wait() -> None:
        try:
            while os.read(0, 4096):  # not sys.stdin, whose lock Python needs at exit
                pass
        except OSError:  # closed
            pass
        if sys.platform == "win32":  # os.kill would end it at once
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_STOP)
        os._exit(143)  # the interrupt was swallowed: nobody waits for the result

    threading.Thread(target=wait, daemon=True).start()
