"""Pages of the site that are made of something else: the first page, of README.md; a page for each
command, of its ``--help``; the changelog and the guide for contributors.

mkdocs calls the functions ``on_*``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Page of the site, and the file at the top of the repository that it shows."""
WIDTH = 80


@cache
def help_of(words: str) -> str:
    """Return the text of ``panoseg WORDS --help``."""
    from panoseg.cli import COMMANDS, parse

    name, *rest = words.split()
    command = COMMANDS[name]
    module, _, function = command.target.partition(":")
    call = getattr(importlib.import_module(f"panoseg.cli.{module}"), function)
    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            if command.parses_arguments:
                call([*rest, "--help"])
            else:
                parse(call, f"panoseg {name}", ["--help"])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).replace(str(Path.home()), "~").rstrip()


def verbs_of(name: str) -> list[str]:
    """Return the verbs of a command, such as ``evaluate`` of ``coco``."""
    from panoseg.cli.app import APP_VERBS

    if name == "app":
        return [verb for verb in APP_VERBS if verb]
    text = help_of(name)
    if " VERB " not in text:
        return []
    return re.findall(r"^  (\S+)  ", text, re.MULTILINE)


def commands() -> dict[str, list[str]]:
    """Return each command with the words of all its pages of help."""
    from panoseg.cli import COMMANDS

    pages = {}
    for name in COMMANDS:
        verbs = verbs_of(name)
        pages[name] = [name, *(f"{name} {verb}" for verb in verbs)]
    pages["train"].append("train pastis-utae-paps")
    return pages


def command_page(name: str, pages: list[str]) -> str:
    """Return the page of a command, in Markdown."""
    from panoseg.cli import COMMANDS

    summary = COMMANDS[name].summary
    lines = [f"# panoseg {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    for words in pages:
        if words != name:
            lines += [f"## panoseg {words}", ""]
        lines += [*section(help_of(words)), ""]
    return "\n".join(lines)


def section(text: str) -> list[str]:
    """Return a text of help in Markdown: examples, what the command does, options as they are."""
    examples = re.findall(r"^example: (panoseg .*(?:\n[^\n\s].*)*)", text, re.MULTILINE)
    if " VERB " in text:
        verbs = re.findall(r"^  (\S+)  +(.*)", text, re.MULTILINE)
        return [text.partition("\n")[0], "", *(f"- `{verb}`: {line}" for verb, line in verbs)]
    head, groups = re.match(
        r"(.*?)(^ (?:positional|options|subcommands).*|\Z)", text, re.S | re.M
    ).groups()
    prose = re.sub(r"^(usage|example): .*(\n[^\n].*)*", "", head, flags=re.MULTILINE)
    parts = [re.match(r"usage: .*(?:\n +.*)*", head)]
    usage = parts[0][0] if parts[0] else ""
    lines = re.sub(r"^ -+ *\n", "", groups, flags=re.MULTILINE).splitlines()
    return [
        *(["```sh", *(" ".join(each.split()) for each in examples), "```", ""] if examples else []),
        prose.strip(),
        "",
        "```text",
        *(line.rstrip() for line in [*usage.splitlines(), "", *lines]),
        "```",
    ]


def on_config(config: Any) -> Any:
    """Put the pages of commands into the navigation."""
    reference = next(each["Reference"] for each in config.nav if "Reference" in each)
    place = next(number for number, each in enumerate(reference) if "Commands" in each)
    reference[place] = {"Commands": [f"commands/{name}.md" for name in commands()]}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    made = {f"commands/{name}.md": command_page(name, pages) for name, pages in commands().items()}
    for page, source in COPIES.items():
        made[page] = relinked((ROOT / source).read_text(encoding="utf-8"), config.repo_url)
    for page, text in made.items():
        if page not in files.src_uris:
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links out of the folder of documents to the repository, or to the copy of the file."""
    up = "../" * page.file.src_uri.count("/")
    copies = {source: copy for copy, source in COPIES.items()}

    def leads(match: re.Match[str]) -> str:
        target = match[1]
        if target in copies:
            return f"]({up}{copies[target]})"
        return f"]({config.repo_url}/blob/main/{target})"

    return re.sub(rf"\]\({re.escape(up)}\.\./([^)#]+)\)", leads, markdown)


def relinked(text: str, repository: str) -> str:
    """Return a file of the top of the repository with its links as they are from ``docs``."""
    copies = {source: copy for copy, source in COPIES.items()}

    def leads(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}{anchor})"
        return f"]({copies.get(target, f'{repository}/blob/main/{target}')}{anchor})"

    return re.sub(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)", leads, text)
