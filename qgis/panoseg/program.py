"""panoseg as a program of its own: find it, make an environment for it, run it and stop it.

Imports nothing but the standard library, so that it can be tested without QGIS, and works with
Python 3.9, which QGIS 3.22 has. What the program prints is described in docs/qgis.md of panoseg.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

EVENTS_VERSION = 1
"""Version of the JSON lines that this plugin reads."""
GRACE_S = 15.0
"""Seconds that the program has to end by itself after a cancel."""
MARKER = "panoseg-environment.json"
"""File in an environment that says that it is complete, and of what it was made."""
WINDOWS = os.name == "nt"
_NO_WINDOW = 0x08000000  # CREATE_NO_WINDOW, which subprocess has on Windows alone
_POLL_S = 0.1
_QUIET_POLLS = 20
_LAST_LINES = 20
_LEAKS = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONEXECUTABLE",
    "PYTHONNOUSERSITE",
    "PYTHONSTARTUP",
    "PYTHONPLATLIBDIR",
    "PYTHONUSERBASE",
    "__PYVENV_LAUNCHER__",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "GDAL_DATA",
    "GDAL_DRIVER_PATH",
    "GDAL_PYTHON_DRIVER_PATH",
    "GDAL_CONFIG_FILE",
    "OGR_DRIVER_PATH",
    "PROJ_LIB",
    "PROJ_DATA",
    "PROJ_AUX_DB",
    "GEOTIFF_CSV",
    "QGIS_PREFIX_PATH",
    "QT_PLUGIN_PATH",
    "QT_QPA_PLATFORM_PLUGIN_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "DYLD_FRAMEWORK_PATH",
    "DYLD_INSERT_LIBRARIES",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GDAL_CURL_CA_BUNDLE")
_NO_NETWORK = (
    "dns error",
    "error sending request",
    "failed to lookup",
    "Network is unreachable",
    "Connection refused",
    "Could not connect",
    "Failed to fetch",
    "Could not find a version",
    "timed out",
)

Event = dict


class ProgramError(Exception):
    """A sentence for the user: what is wrong, and what to do."""


class Cancelled(Exception):
    """The user cancelled, and no process of the program is left."""


def clean_environment(
    base: Mapping[str, str],
    proxies: Mapping[str, str] | None = None,
    certificates: str | None = None,
) -> dict[str, str]:
    """Return the variables for the program: those of the system without what QGIS set for itself.

    Args:
        base: The variables of the process of QGIS.
        proxies: Variables of ``proxy_variables`` in place of the system's; None keeps those.
        certificates: File with the authorities that QGIS trusts; None keeps the system's.
    """
    leaks = {name.upper() for name in _LEAKS}
    clean = {name: value for name, value in base.items() if name.upper() not in leaks}
    if proxies is not None:
        clean = {name: value for name, value in clean.items() if name.upper() not in _PROXIES}
        for name, value in proxies.items():
            clean[name] = value
            if not WINDOWS:  # where names have no case
                clean[name.lower()] = value
    if certificates is not None:
        clean.update(dict.fromkeys(_CERTIFICATES, certificates))
    clean["PYTHONUNBUFFERED"] = "1"
    clean["PYTHONUTF8"] = "1"
    return clean


def proxy_variables(
    enabled: bool,
    kind: str,
    host: str,
    port: str,
    user: str = "",
    password: str = "",
    excluded: Sequence[str] = (),
) -> dict[str, str] | None:
    """Return the variables for the proxy that is set in QGIS; None for the system's own.

    >>> proxy_variables(True, "HttpProxy", "proxy.example", "8080", "ann", "a b")["HTTPS_PROXY"]
    'http://ann:a%20b@proxy.example:8080'

    Args:
        enabled: Whether QGIS uses a proxy.
        kind: QGIS's name of the kind.
        host: The host.
        port: Its port.
        user: The user, if it wants one.
        password: The user's password.
        excluded: Addresses that are reached without it.
    """
    if not enabled or kind in ("", "DefaultProxy") or not host:
        return None
    scheme = "socks5h" if kind == "Socks5Proxy" else "http"
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    address = f"{scheme}://{login + '@' if user else ''}{host}{':' + port if port else ''}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    variables = dict.fromkeys(names, address)
    if any(excluded):
        hosts = [entry.split("://")[-1].split("/")[0] for entry in excluded if entry]
        variables["NO_PROXY"] = ",".join(hosts)
    return variables


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    on_event: Callable[[Event], None] = lambda event: None,
    on_line: Callable[[str], None] = lambda line: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run a command of the program and return the values of its result.

    Args:
        words: The program and the words of the command.
        environment: The variables of the process, see ``clean_environment``.
        on_event: Called with each event.
        on_line: Called with each line for people, of standard error.
        is_cancelled: Asked ten times a second.

    Raises:
        ProgramError: The command failed; the text is the program's own sentence.
        Cancelled: The user cancelled.
    """
    program, *command = words
    words = [program, "--progress", "jsonl", "--end-with-input", *command]
    ended: dict[str, Event] = {}

    def read(line: str) -> None:
        event = _event_of(line)
        if event is None:
            on_line(line)
            return
        if event.get("event") in ("result", "error"):
            ended[event["event"]] = event
        on_event(event)

    code, last = _follow(words, environment, read, on_line, is_cancelled)
    if "error" in ended:
        raise ProgramError(str(ended["error"].get("text", "panoseg failed without a reason.")))
    if code or "result" not in ended:
        raise ProgramError(_unexplained(code, last))
    return dict(ended["result"].get("values") or {})


def _event_of(line: str) -> Event | None:
    """Return the event of a line; None for a line that is none.

    Raises:
        ProgramError: The program speaks another version.
    """
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or "panoseg" not in event:
        return None
    if event["panoseg"] != EVENTS_VERSION:
        raise ProgramError(
            f"The program reports in version {event['panoseg']} and this plugin reads version"
            f" {EVENTS_VERSION}. Run panoseg qgis install and start QGIS again."
        )
    return event


def _unexplained(code: int, last: Sequence[str]) -> str:
    if code in (-signal.SIGTERM, -9, 137):
        return (
            "panoseg was ended by the system, perhaps because the memory was full. Choose a smaller"
            " area."
        )
    if any("--progress" in line or "no command" in line for line in last):
        return (
            "This panoseg is too old for the plugin. Upgrade it, e.g. with pip install --upgrade"
            " panoseg, or name another one in the settings of Processing."
        )
    reason = f" Its last line is: {last[-1][:300]}" if last else ""
    return f"panoseg ended with code {code} and no reason.{reason}"


def _follow(
    words: Sequence[str],
    environment: Mapping[str, str],
    on_output: Callable[[str], None],
    on_line: Callable[[str], None],
    is_cancelled: Callable[[], bool],
) -> tuple[int, list[str]]:
    """Run a process to its end; return its exit code and the last lines of standard error."""
    process = _start(words, environment)
    lines: queue.Queue = queue.Queue()
    for stream in (process.stdout, process.stderr):
        threading.Thread(
            target=_read, args=(stream, stream is process.stdout, lines), daemon=True
        ).start()
    open_streams, quiet = 2, 0
    last: list[str] = []
    finished = False
    try:
        while open_streams and quiet < _QUIET_POLLS:
            if is_cancelled():
                raise Cancelled
            try:
                is_output, line = lines.get(timeout=_POLL_S)
            except queue.Empty:
                # Something that the program started may keep its streams open after its end.
                quiet += process.poll() is not None
                continue
            if line is None:
                open_streams -= 1
            elif is_output:
                on_output(line)
            else:
                last = [*last, line][-_LAST_LINES:]
                on_line(line)
        while process.poll() is None:
            if is_cancelled():
                raise Cancelled
            time.sleep(_POLL_S)
        finished = True
    finally:
        if not finished:
            stop(process)
        if process.stdin is not None:
            process.stdin.close()
    return process.returncode, last


def _start(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    options: dict[str, Any] = {}
    if WINDOWS:
        options["creationflags"] = _NO_WINDOW
    else:
        options["start_new_session"] = True  # its own group, which is stopped as a whole
    try:
        return subprocess.Popen(
            list(words),
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
    except (OSError, ValueError) as error:
        raise ProgramError(
            f"{words[0]} cannot be started: {getattr(error, 'strerror', None) or error}. Name"
            " another program in the settings of Processing."
        ) from error


def _read(stream: Any, is_output: bool, lines: queue.Queue) -> None:  # noqa: ANN401
    with stream:
        for line in stream:
            lines.put((is_output, line.decode("utf-8", "replace").rstrip("\r\n")))
    lines.put((is_output, None))


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started: by itself within ``GRACE_S``, or by force."""
    if WINDOWS:
        if process.stdin is not None:
            process.stdin.close()  # at which the program ends by itself
        _wait(process, GRACE_S)
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(process.pid)],
            capture_output=True,
            check=False,
            creationflags=_NO_WINDOW,
        )
    else:
        _signal_group(process, signal.SIGTERM)
        _wait(process, GRACE_S)
        _signal_group(process, signal.SIGKILL)
    _wait(process, GRACE_S)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def version_of(program: str, environment: Mapping[str, str]) -> str:
    """Return the version of a program, which shows that it is panoseg and can be read.

    Raises:
        ProgramError: It is something else, too old or too new.
    """
    started: list[Event] = []
    run([program, "--version"], environment, started.append)
    return str(started[0].get("version", "")) if started else ""


def find_program(setting: str, path: str | None, own: Environment) -> str | None:
    """Return the program to run: the one that is set, the one on the path, or the own one.

    Args:
        setting: Path of the program that the user has set; empty for none.
        path: The variable PATH.
        own: The environment that the plugin makes.

    Returns:
        None where there is none yet.

    Raises:
        ProgramError: The program that is set is not there.
    """
    if setting:
        found = shutil.which(os.path.expanduser(setting), path=path)
        if found is None:
            raise ProgramError(
                f"There is no program {setting}. Correct the path of panoseg in the settings of"
                " Processing, under Providers."
            )
        return found
    found = shutil.which("panoseg", path=path)
    if found is not None:
        return found
    return str(own.program) if own.is_ready() else None


class Environment:
    """An environment of Python with panoseg that the plugin makes with uv."""

    def __init__(self, folder: Path, requirement: str) -> None:
        """Describe an environment; nothing is made.

        Args:
            folder: Where it lies.
            requirement: What is installed, e.g. ``panoseg==0.1.0``, or the path of a wheel.
        """
        self.folder = folder
        self.requirement = requirement

    @property
    def program(self) -> Path:
        """The program panoseg in it."""
        return self._tool("panoseg")

    def _tool(self, name: str) -> Path:
        if WINDOWS:
            return self.folder / "Scripts" / f"{name}.exe"
        return self.folder / "bin" / name

    def is_ready(self) -> bool:
        """Return whether it is complete, and made of the requirement."""
        try:
            made_of = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return made_of == {"requirement": self.requirement} and self.program.exists()

    def make(
        self,
        environment: Mapping[str, str],
        on_line: Callable[[str], None] = lambda line: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make it; one that was left half made is removed first, and so is one that fails.

        Raises:
            ProgramError: It cannot be made.
            Cancelled: The user cancelled.
        """
        uv = find_uv(environment, self.folder.parent / "uv", on_line, is_cancelled)
        environment = {**environment, "UV_NO_PROGRESS": "1"}
        if WINDOWS:  # the Python of QGIS, which is on the path, makes no environments
            environment.setdefault("UV_PYTHON_PREFERENCE", "only-managed")
        shutil.rmtree(self.folder, ignore_errors=True)
        venv = [uv, "venv", "--python", ">=3.11", str(self.folder)]
        python = str(self._tool("python"))
        install = [uv, "pip", "install", "--python", python, self.requirement]
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            # The build of PyTorch for this machine, which is much smaller without a GPU; where its
            # index is not reached, a mirror may still have the usual build.
            tries = [{"UV_TORCH_BACKEND": "auto"}, {}]
            if "UV_TORCH_BACKEND" in environment:
                tries = [{}]
            _check_made(*_follow(venv, environment, on_line, on_line, is_cancelled))
            for more in tries:
                on_line(" ".join(install))
                code, last = _follow(
                    install, {**environment, **more}, on_line, on_line, is_cancelled
                )
                if not code:
                    break
            _check_made(code, last)
            on_line(f"panoseg {version_of(str(self.program), environment)} is installed")
            made_of = json.dumps({"requirement": self.requirement})
            (self.folder / MARKER).write_text(made_of, encoding="utf-8")
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ProgramError(
                f"The environment for panoseg cannot be written to {self.folder}: {error.strerror}."
            ) from error
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise


def _check_made(code: int, last: Sequence[str]) -> None:
    if not code:
        return
    if any(phrase in " ".join(last) for phrase in _NO_NETWORK):
        raise ProgramError(
            "The packages of panoseg cannot be fetched. Check the network and the proxy (Settings >"
            " Options > Network), or install panoseg yourself and name it in the settings of"
            " Processing."
        )
    reason = f" uv says: {last[-1].strip()[:300]}" if last else ""
    raise ProgramError(f"The environment for panoseg cannot be made.{reason}")


def find_uv(
    environment: Mapping[str, str],
    tools: Path,
    on_line: Callable[[str], None] = lambda line: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """Return the program uv: an installed one, or one that pip of QGIS's Python puts into tools.

    Raises:
        ProgramError: There is none.
    """
    home = Path(environment.get("HOME") or environment.get("USERPROFILE") or Path.home())
    name = "uv.exe" if WINDOWS else "uv"
    places = [home / ".local" / "bin", home / ".cargo" / "bin", tools / "bin", tools / "Scripts"]
    found = shutil.which("uv", path=environment.get("PATH"))
    for place in places:
        if found is None and (place / name).is_file():
            found = str(place / name)
    if found is not None:
        return found
    for python in _pythons():
        words = [str(python), "-m", "pip", "install", "--quiet", "--target", str(tools), "uv"]
        # With the variables of QGIS, whose Python it is.
        code, _ = _follow(words, os.environ, on_line, on_line, is_cancelled)
        if not code and (tools / "bin" / name).is_file():
            return str(tools / "bin" / name)
    raise ProgramError(
        "panoseg is not installed. Install uv (https://docs.astral.sh/uv), with which this plugin"
        " installs panoseg, or install panoseg yourself and name it in the settings of Processing."
    )


def _pythons() -> list[Path]:
    """Return the interpreter of QGIS; sys.executable may be QGIS itself."""
    prefix = Path(sys.exec_prefix)
    names = ("python.exe", "python3.exe") if WINDOWS else ("bin/python3",)
    return [prefix / name for name in names if (prefix / name).is_file()][:1]
