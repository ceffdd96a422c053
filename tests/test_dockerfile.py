"""The Dockerfile without an engine: its instructions, files, packages and entry point are what they
should be.

The checks are functions of a text, so that wrong Dockerfiles show that they can fail.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from panoseg.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = {
    "FROM",
    "ARG",
    "RUN",
    "ENV",
    "COPY",
    "USER",
    "WORKDIR",
    "ENTRYPOINT",
    "CMD",
    "LABEL",
    "EXPOSE",
    "VOLUME",
}
UV_OPTIONS = {"--no-cache": 0, "--torch-backend": 1}
BACKEND = re.compile(r"cpu|cu\d{3}")
SECRET = re.compile(r"secret|token|passw|credential|api_?key|aws_|ssh", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """One instruction. stage: the number of the FROM above it."""

    name: str
    value: str
    stage: int


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found, stage = [], -1
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, value = line.strip().partition(" ")
            stage += name == "FROM"
            found.append(Instruction(name, value.strip(), stage))
    return found


def values(text: str, name: str, stage: int | None = None) -> list[str]:
    return [
        entry.value for entry in parse(text) if entry.name == name and stage in (None, entry.stage)
    ]


def last_stage(text: str) -> int:
    return parse(text)[-1].stage


def check_instructions(text: str) -> None:
    found = parse(text)
    unknown = {entry.name for entry in found} - INSTRUCTIONS
    assert not unknown, f"unknown instructions {unknown}"
    assert all(entry.value for entry in found)
    assert all(entry.stage >= 0 or entry.name == "ARG" for entry in found), (
        "an instruction before FROM"
    )
    bases = [shlex.split(value)[0] for value in values(text, "FROM")]
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base) for base in bases), bases
    assert len(set(bases)) == 1, "an environment is copied between images of one Python"


def check_copies(text: str) -> None:
    stages = [
        match[1] for value in values(text, "FROM") if (match := re.search(r" AS (\w+)$", value))
    ]
    for value in values(text, "COPY"):
        options = [word for word in shlex.split(value) if word.startswith("--")]
        *sources, _ = [word for word in shlex.split(value) if not word.startswith("--")]
        if options:
            assert options == [f"--from={stages[0]}"], f"COPY {value}"
            continue
        for source in sources:
            assert (ROOT / source).exists(), f"{source} does not exist"
            assert not is_ignored(source), f"{source} is left out by .dockerignore"


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path at the top out: the last pattern that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and fnmatch(path, pattern.removeprefix("!")):
            ignored = not pattern.startswith("!")
    return ignored


def commands(text: str) -> list[list[str]]:
    """The words of all commands that are run."""
    return [shlex.split(command) for value in values(text, "RUN") for command in value.split("&&")]


def check_commands(text: str) -> None:
    for value in values(text, "RUN"):
        run = subprocess.run(
            [shutil.which("sh") or "sh", "-n"], input=value, text=True, capture_output=True
        )
        assert run.returncode == 0, run.stderr
    for words in commands(text):
        if words[:2] == ["apt-get", "install"]:
            assert {"--yes", "--no-install-recommends"} <= set(words)
    assert any(
        words[:2] == ["rm", "-rf"] and words[2].startswith("/var/lib/apt")
        for words in commands(text)
    )


def uv_installs(text: str) -> list[tuple[dict[str, str], list[str]]]:
    """Options and requirements of each call of uv."""
    found = []
    for words in commands(text):
        if words[:3] == ["uv", "pip", "install"]:
            options: dict[str, str] = {}
            rest = iter(words[3:])
            requirements = []
            for word in rest:
                if word.startswith("-"):
                    assert word in UV_OPTIONS, f"unknown option {word} of uv"
                    options[word] = next(rest) if UV_OPTIONS[word] else ""
                else:
                    requirements.append(word)
            found.append((options, requirements))
    return found


def check_packages(text: str, torch: str) -> None:
    """torch: the build argument."""
    (torch_options, torch_requirements), (own_options, own) = uv_installs(
        text.replace("${TORCH}", torch)
    )
    assert BACKEND.fullmatch(torch_options["--torch-backend"]), torch_options
    assert torch_options["--torch-backend"] == torch
    assert "--torch-backend" not in own_options, "PyTorch is there already"
    wanted = {
        str(Requirement(line))
        for line in PROJECT["dependencies"]
        if Requirement(line).name in ("torch", "torchvision")
    }
    assert {str(Requirement(line)) for line in torch_requirements} == wanted, (
        "other versions than pyproject.toml asks for"
    )
    [place] = own
    match = re.fullmatch(r"\.\[(.+)\]", place)
    assert match
    assert set(match[1].split(",")) <= set(PROJECT["optional-dependencies"]), place
    assert all("--no-cache" in options for options in (torch_options, own_options))


def check_start(text: str) -> None:
    last = last_stage(text)
    entry, default = (json.loads(values(text, name, last)[0]) for name in ("ENTRYPOINT", "CMD"))
    assert entry[0] in PROJECT["scripts"], entry
    assert default == ["--help"] or default[0] in COMMANDS
    environment = dict(
        pair.split("=", 1) for value in values(text, "ENV", last) for pair in shlex.split(value)
    )
    [copied] = [value.split()[-1] for value in values(text, "COPY", last) if "--from" in value]
    assert environment["PATH"].startswith(f"{copied}/bin:"), "the command is not on the path"


def check_user(text: str) -> None:
    last = last_stage(text)
    user = values(text, "USER", last)[-1]
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user), f"USER {user}"
    created = [words for words in commands(text) if words[0] == "useradd"]
    assert created
    assert created[0][created[0].index("--uid") + 1] == user.split(":")[0]
    order = [entry.name for entry in parse(text) if entry.stage == last]
    assert "RUN" not in order[order.index("USER") :], "nothing is installed as the user"


def check_secrets(text: str) -> None:
    for entry in parse(text):
        if entry.name in ("ARG", "ENV"):
            assert not SECRET.search(entry.value), entry.value
    assert not re.search(r"https?://", "\n".join(entry.value for entry in parse(text))), (
        "where packages come from is uv's affair"
    )
    for name in (".git", ".venv", ".env", "id_rsa", "tests", "uv.lock"):
        assert is_ignored(name), f"{name} would be sent to the engine"


def check_arguments(text: str) -> None:
    """Every argument that is used is declared in its stage, and has a default."""
    for stage in range(last_stage(text) + 1):
        declared = {
            value.partition("=")[0]: value.partition("=")[2] for value in values(text, "ARG", stage)
        }
        used = {
            name
            for value in values(text, "RUN", stage)
            for name in re.findall(r"\$\{(\w+)\}", value)
        }
        assert used <= declared.keys(), f"{used} in stage {stage}"
        assert all(declared.values())
    assert "ARG TORCH=cpu" in text


CHECKS = [
    check_instructions,
    check_copies,
    check_commands,
    check_start,
    check_user,
    check_secrets,
    check_arguments,
]


@pytest.mark.parametrize("check", CHECKS)
def test_the_dockerfile_is_right(check):
    check(TEXT)


@pytest.mark.parametrize("torch", ["cpu", "cu126", "cu128"])
def test_pytorch_is_that_of_the_argument(torch):
    check_packages(TEXT, torch)


WRONG = {
    "unknown instruction": (check_instructions, ("WORKDIR /data", "WORKDRI /data")),
    "other Python in the end": (
        check_instructions,
        ("\nFROM python:3.11-slim-bookworm\n", "\nFROM python:3.12-slim-bookworm\n"),
    ),
    "file that is not there": (check_copies, ("COPY src ./src", "COPY source ./src")),
    "file that is not sent": (check_copies, ("COPY src ./src", "COPY tests ./src")),
    "stage that is not there": (check_copies, ("--from=build", "--from=builder")),
    "shell that does not parse": (check_commands, ("RUN apt-get update", "RUN if apt-get update")),
    "lists that stay": (check_commands, (" \\\n && rm -rf /var/lib/apt/lists/*", "")),
    "entry point that is none": (check_start, ('["panoseg"]', '["panoptic"]')),
    "command that is none": (check_start, ('["--help"]', '["segment"]')),
    "off the path": (
        check_start,
        ("ENV PATH=/opt/venv/bin:$PATH \\", "ENV PATH=/opt/bin:$PATH \\"),
    ),
    "root": (check_user, ("USER 1000:1000", "USER root")),
    "root by number": (check_user, ("USER 1000:1000", "USER 0")),
    "user that is not made": (check_user, ("USER 1000:1000", "USER 1001:1000")),
    "a secret": (check_secrets, ("ARG TORCH=cpu", "ARG TORCH=cpu\nARG API_KEY=1")),
    "another host": (check_secrets, ("--torch-backend", "--index-url https://example.org")),
    "argument of another stage": (
        check_arguments,
        ("RUN groupadd", "RUN echo ${TORCH} && groupadd"),
    ),
    "argument without default": (check_arguments, ("ARG TORCH=cpu", "ARG TORCH")),
    "other torch": (lambda text: check_packages(text, "cpu"), ('"torch>=2.8"', '"torch>=1.0"')),
    "extra that is none": (lambda text: check_packages(text, "cpu"), ("[all]", "[everything]")),
    "fixed index": (lambda text: check_packages(text, "cu128"), ("${TORCH}", "cpu")),
    "option that is none": (
        lambda text: check_packages(text, "cpu"),
        ("--no-cache --torch", "--no-cash --torch"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_is_found(name):
    check, (right, wrong) = WRONG[name]
    assert right in TEXT
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(TEXT.replace(right, wrong))
