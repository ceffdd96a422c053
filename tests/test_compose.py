"""compose.yaml, checked as far as that goes without an engine: its commands parse, its parts fit,
and it holds no secret.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from panoseg.app.settings import AppSettings
from panoseg.cli import app as command

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]


def given(service: str, monkeypatch) -> AppSettings:
    """The settings that a service's command gives."""
    words = SERVICES[service]["command"].split()
    assert words.pop(0) == "app"
    found = []
    verb = "worker" if words[0] == "worker" else ""
    monkeypatch.setitem(command.APP_VERBS, verb, _taking(command.APP_VERBS[verb], found))
    command.app(words)
    return found[0]


def _taking(original, found):
    import functools

    @functools.wraps(original)
    def take(settings):
        found.append(settings)

    return take


def test_server_and_worker_have_the_same_place(monkeypatch):
    server, worker = given("app", monkeypatch), given("worker", monkeypatch)
    assert (server.folder, server.dask, server.tokens) == (
        worker.folder,
        worker.dask,
        worker.tokens,
    )
    assert (server.host, server.workers, server.port) == ("0.0.0.0", 0, 8080)
    assert str(server.folder).startswith("/data/")


def test_services_find_each_other(monkeypatch):
    server = given("app", monkeypatch)
    host, port = re.fullmatch(r"tcp://(\w+):(\d+)", server.dask).groups()
    assert f"--port {port}" in SERVICES[host]["command"]
    assert SERVICES["dask-worker"]["command"].split()[1] == server.dask
    url = SERVICES["app"]["environment"]["PANOSEG_DATABASE"]
    user, database, name = re.fullmatch(
        r"postgresql\+psycopg://(\w+):\$\{POSTGRES_PASSWORD:\?.*\}@(\w+)/(\w+)", url
    ).groups()
    assert SERVICES[database]["environment"]["POSTGRES_USER"] == user
    assert SERVICES[database]["environment"]["POSTGRES_DB"] == name
    for service in SERVICES.values():
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert condition["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"]


def test_no_password_stands_in_it():
    assert re.findall(r"PASSWORD: (.*)", TEXT) == ["${POSTGRES_PASSWORD:?write it to .env}"]
    assert "ports" not in SERVICES["database"]
    assert SERVICES["app"]["ports"] == ["127.0.0.1:8080:8080"]


def test_the_image_can_do_what_is_asked_of_it():
    dockerfile = (ROOT / "Dockerfile").read_text()
    extras = re.search(r'"\.\[(.*)\]"', dockerfile)[1].split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known)
    assert {"all", "postgres"} & set(extras)
    assert "postgres" in known["all"][0]
    assert 'ENTRYPOINT ["panoseg"]' in dockerfile
    for service in ("app", "worker", "scheduler", "dask-worker"):
        assert SERVICES[service]["read_only"]
        assert SERVICES[service]["cap_drop"] == ["ALL"]
        assert SERVICES[service]["init"]
    user = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)[-1]
    assert int(user) > 0
    for volume in SERVICES["app"]["volumes"]:
        assert (
            volume.split(":")[1] in re.search(r"chown --recursive \S+ (.*)", dockerfile)[1].split()
        ), volume


def test_the_server_is_healthy_where_it_is_asked(monkeypatch):
    """The health check asks the very address and path, by a name that the guard of hosts lets
    in.
    """
    from panoseg.app.security import Guard

    server = given("app", monkeypatch)
    [url] = re.findall(r"urlopen\('([^']*)'", SERVICES["app"]["healthcheck"]["test"][-1])
    host, path = re.fullmatch(r"http://([^/]*)(/.*)", url).groups()
    assert (path, int(host.split(":")[1])) == ("/healthz", server.port)
    assert Guard(None, server)._known_host(host)
    assert Guard(None, server)._known_host(SERVICES["app"]["ports"][0].rpartition(":")[0])
    compile(SERVICES["app"]["healthcheck"]["test"][-1], "", "exec")


def test_time_to_stop_is_longer_than_a_graceful_stop_takes():
    from panoseg.app.server import _GRACE_S

    for service in ("app", "worker"):
        assert int(SERVICES[service]["stop_grace_period"].removesuffix("s")) > 2 * _GRACE_S


@pytest.mark.parametrize("service", ["scheduler", "dask-worker"])
def test_dask_knows_its_options(service):
    """The options of a command stand in its help."""
    words = SERVICES[service]["command"].split()
    done = subprocess.run(
        [sys.executable, "-m", "dask", words[0], "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for option in [word for word in words if word.startswith("--")]:
        assert option.replace("--no-dashboard", "--no-dashboard") in done.stdout, option


def has_engine() -> bool:
    """Whether there is a docker with its compose."""
    found = shutil.which("docker")
    return (
        found is not None
        and subprocess.run(
            [found, "compose", "version"], capture_output=True, timeout=60
        ).returncode
        == 0
    )


def test_the_engine_reads_it():
    if not has_engine():
        pytest.skip("docker compose is not installed")
    words = ["docker", "compose", "-f", str(ROOT / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(
        words,
        env={"PATH": "/usr/bin:/usr/local/bin", "POSTGRES_PASSWORD": "x"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
