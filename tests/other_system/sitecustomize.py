"""Python on Linux that looks to panoseg as Windows does; the tests put this folder on PYTHONPATH.

Modules of panoseg get an ``os`` and a ``signal`` without what Windows lacks, a ``sys`` whose
platform is win32, no ``fcntl`` and ``resource``, and processes that are spawned. Libraries get the
real ones, since they choose by platform themselves. A file that is open, or mapped into memory, can
neither be renamed nor removed. Text files must name their encoding.
"""

from __future__ import annotations

import builtins
import multiprocessing
import multiprocessing.context
import os
import shutil
import signal
import stat
import sys
import types
import warnings

NO_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
NOT_IN_OS = [
    "fork",
    "forkpty",
    "register_at_fork",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "getresuid",
    "sysconf",
    "confstr",
    "pathconf",
    "uname",
    "nice",
    "getpriority",
    "setpriority",
    "killpg",
    "getpgid",
    "getpgrp",
    "setpgid",
    "setsid",
    "getsid",
    "wait",
    "wait3",
    "wait4",
    "waitid",
    "WNOHANG",
    "WIFEXITED",
    "WEXITSTATUS",
    "pread",
    "pwrite",
    "preadv",
    "pwritev",
    "readv",
    "writev",
    "sendfile",
    "copy_file_range",
    "splice",
    "memfd_create",
    "eventfd",
    "posix_fadvise",
    "posix_fallocate",
    "posix_spawn",
    "lockf",
    "fdatasync",
    "sync",
    "fchmod",
    "fchown",
    "chown",
    "lchown",
    "mkfifo",
    "mknod",
    "statvfs",
    "fstatvfs",
    "chroot",
    "getloadavg",
    "ctermid",
    "openpty",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_yield",
    "pidfd_open",
    "O_NOFOLLOW",
    "O_DIRECTORY",
    "O_ASYNC",
    "O_CLOEXEC",
    "O_SYNC",
    "O_DSYNC",
    "O_NONBLOCK",
    "O_TMPFILE",
    "O_PATH",
    "getxattr",
    "setxattr",
    "listxattr",
    "removexattr",
]
NOT_IN_SIGNAL = [
    "SIGIO",
    "SIGPOLL",
    "SIGHUP",
    "SIGKILL",
    "SIGALRM",
    "SIGCHLD",
    "SIGPIPE",
    "SIGUSR1",
    "SIGUSR2",
    "SIGTSTP",
    "SIGSTOP",
    "SIGCONT",
    "SIGQUIT",
    "SIGWINCH",
    "SIGXCPU",
    "SIGBUS",
    "setitimer",
    "getitimer",
    "alarm",
    "pause",
    "pthread_sigmask",
    "pthread_kill",
    "sigwait",
    "siginterrupt",
    "sigtimedwait",
]
O_TEMPORARY = 1 << 30
_temporary: dict[int, str] = {}


class _Windows(types.ModuleType):
    """A module without some of its names."""

    def __init__(self, real: types.ModuleType, missing: set[str], **instead: object) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, _missing=missing, **instead)

    def __getattr__(self, name: str) -> object:
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)


def _open(path, flags, mode=0o777, **options):
    descriptor = os.open(path, flags & ~O_TEMPORARY, mode, **options)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(13, "folders cannot be opened on Windows", str(path))
    if flags & O_TEMPORARY:
        _temporary[descriptor] = os.path.abspath(path)
    return descriptor


def _close(descriptor):
    os.close(descriptor)
    path = _temporary.pop(descriptor, None)
    if path is not None and os.path.exists(path):
        os.unlink(path)


_MODULES = {
    "os": _Windows(
        os, set(NOT_IN_OS), O_BINARY=0, O_TEMPORARY=O_TEMPORARY, open=_open, close=_close
    ),
    "signal": _Windows(signal, set(NOT_IN_SIGNAL)),
    "sys": _Windows(sys, {"getwindowsversion"}, platform="win32"),
}
_import = builtins.__import__


def _import_as_on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.split(".")[0] == "panoseg" and level == 0:
        if name in NO_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        if name in _MODULES:
            return _MODULES[name]
    return _import(name, globals, locals, fromlist, level)


def _used() -> list[str]:
    """Return the regular files that this process has open or mapped."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
            if stat.S_ISREG(os.stat(f"/proc/self/fd/{name}").st_mode):
                found.append(path)
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        found += {line.rstrip("\n").split(maxsplit=5)[5] for line in maps if " /" in line}
    return [path for path in found if not path.endswith(" (deleted)")]


def _refuse_open_files(function, count):
    """Return ``os.replace`` and the like as on Windows; ``count`` paths are arguments."""

    def refusing(*arguments, **options):
        if not any(key.endswith("dir_fd") and value for key, value in options.items()):
            for path in arguments[:count]:
                whole = os.path.realpath(os.path.dirname(os.path.abspath(path)))
                whole = os.path.join(whole, os.path.basename(os.path.abspath(path)))
                for used in _used():
                    if used == whole or used.startswith(whole + "/"):
                        raise PermissionError(13, f"open on Windows: {used}", str(path))
        return function(*arguments, **options)

    return refusing


def _spawned_only(real):
    def get_context(self, method=None):
        if method in ("fork", "forkserver"):
            raise ValueError(f"cannot find context for {method!r}")
        return real(self, method)

    return get_context


if os.environ.get("PANOSEG_TEST_SYSTEM") == "windows":
    builtins.__import__ = _import_as_on_windows
    for name, count in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
        setattr(os, name, _refuse_open_files(getattr(os, name), count))
    shutil._use_fd_functions = False  # it gives whole paths to os.unlink, as on Windows
    multiprocessing.context.DefaultContext.get_context = _spawned_only(
        multiprocessing.context.DefaultContext.get_context
    )
    multiprocessing.get_context = multiprocessing.context._default_context.get_context
    multiprocessing.context._default_context._default_context = (
        multiprocessing.context._concrete_contexts["spawn"]
    )
    warnings.filterwarnings("ignore", category=EncodingWarning)
    warnings.filterwarnings("error", category=EncodingWarning, module=r"panoseg\b")
