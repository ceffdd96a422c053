"""What those see who do not know the project: README, documents, site, notebooks, workflows."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

import panoseg

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_readme_is_short_and_its_numbers_are_those_of_the_page_of_weights():
    readme = text_of("README.md")
    assert readme.count("\n") <= 150
    table = readme[readme.index("## How good it is") : readme.index("## Who it is for")]
    numbers = re.findall(r"(?<![\d.])\d\d\.\d\b", table)
    assert len(numbers) >= 9
    known = text_of("docs/weights.md")
    assert [number for number in numbers if not re.search(rf"(?<!\d){number}\b", known)] == []


def anchors_of(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!https?:|mailto:)[^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link} in {page.name}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors_of(path), f"{link} in {page.name}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "docs/add-a-model.md"])
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:src/panoseg|tests|benchmarks|docs)/[\w/.-]+\.\w+)`", text_of(page))
    assert [path for path in named if "NAME" not in path and not (ROOT / path).is_file()] == []


def commands_in(page: Path) -> list[str]:
    """The lines of a page that run panoseg, with their continuations."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4,}(panoseg [^\n]*)$", text, re.MULTILINE)
    found += re.findall(r"`(panoseg [a-z]+ [^`]*)`", text)
    return [line.split("  #")[0].split(" && ")[0].split(" | ")[0] for line in found]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if commands_in(page) and page.name != "CHANGELOG.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_commands_of_documents_have_the_options_that_they_use(page, site):
    """A document is not run, but no option in it may have gone."""
    for line in commands_in(page):
        line = re.sub(r"\[|\]|\.\.+", " ", line)
        words = shlex.split(line, posix=False)[1:]
        known = site.commands()
        name = words[0]
        if not re.fullmatch("[a-z]+", name):
            continue
        assert name in known, line
        verb = f"{name} {words[1]}" if len(words) > 1 else name
        pages = [each for each in known[name] if each == verb] or known[name]
        text = " ".join(site.help_of(each) for each in pages)
        for word in words:
            if re.match(r"--[a-z]", word) and "." not in word:
                option = re.match(r"--[a-z0-9-]+", word)[0]
                assert re.search(rf"{option}(?![\w-])", text) or option == "--help", (option, line)


def test_every_document_has_a_place_on_the_site(site):
    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            page
            for each in (entry.values() if isinstance(entry, dict) else entry)
            for page in pages(each)
        ]

    listed = set(pages(NAV["nav"]))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written | set(site.COPIES) == listed
    assert NAV["repo_url"] == SOURCE
    assert NAV["site_url"] == PROJECT["urls"]["Documentation"]


def test_each_command_has_a_page_with_an_example_and_all_its_options(site):
    from panoseg.cli import COMMANDS

    known = site.commands()
    assert set(known) == set(COMMANDS)
    assert {"coco evaluate", "weights publish", "app worker"} <= {
        p for each in known.values() for p in each
    }
    for name, pages in known.items():
        page = site.command_page(name, pages)
        assert f"```sh\npanoseg {name}" in page
        for words in pages:
            options = set(
                re.findall(r"--[a-z][a-z-]+", site.help_of(words).split("options", 1)[-1])
            )
            assert options <= set(re.findall(r"--[a-z][a-z-]+", page)), words


def test_the_page_of_python_has_all_public_names():
    text = text_of("docs/python.md")
    assert {name for name in panoseg.__all__ if f"panoseg.{name}`" not in text} == {"__version__"}
    shown = re.findall(r"^::: panoseg\.([\w.]+)$", text, re.MULTILINE)
    made = {f"{module}.{name}" for name, module in panoseg._MODULES.items()}
    assert set(shown) == made


def test_the_typed_program_uses_all_public_names():
    """mypy checks it with the package: it is among ``files`` of pyproject.toml."""
    assert (Path(panoseg.__file__).parent / "py.typed").is_file()
    tree = ast.parse(text_of("tests/typed_program.py"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "panoseg"
    }
    assert used == set(panoseg.__all__)
    config = tomllib.loads(text_of("pyproject.toml"))["tool"]["mypy"]
    assert "tests/typed_program.py" in config["files"]
    assert config["strict"] is True


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_and_forms_are_whole(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        assert content["permissions"] == {"contents": "read"}
        for job in content["jobs"].values():
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                for script in re.findall(r"(?:benchmarks|\.ci)/[\w.]+", step.get("run", "")):
                    assert (ROOT / script).is_file()
    elif path.name != "config.yml":
        assert content.keys() >= {"name", "description", "body"}
        assert all(part["type"] in ("textarea", "input", "markdown") for part in content["body"])
        ids = [part["id"] for part in content["body"]]
        assert len(set(ids)) == len(ids)


def test_tests_run_on_three_systems_and_all_versions_of_python():
    tests = yaml.safe_load(text_of(".github/workflows/tests.yml"))["jobs"]
    matrix = tests["systems"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    assert "lowest-direct" in str(tests["oldest"])
    release = yaml.safe_load(text_of(".github/workflows/release.yml"))["jobs"]["publish"]
    assert release["permissions"] == {"id-token": "write"}
    assert "secret" not in text_of(".github/workflows/release.yml").replace("no secret", "")


def test_the_version_and_the_address_are_the_same_everywhere():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == PROJECT["version"] == panoseg.__version__
    assert citation["repository-code"] == SOURCE
    for path in [*PAGES, *WORKFLOWS, ROOT / "mkdocs.yml"]:
        for found in re.findall(r"github\.com/([\w.-]*)/panoseg", path.read_text(encoding="utf-8")):
            assert SOURCE.endswith(f"/{found}/panoseg")


def notebooks() -> list[Path]:
    found = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_are_whole(path):
    """``python benchmarks/notebooks.py --tiny`` runs them, which takes some minutes: the workflow
    of the site does so.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    address = f"colab.research.google.com/github/{SOURCE.split('.com/')[1]}/blob/main/docs/notebooks/{path.name}"
    assert address in "".join(cells[0]["source"])
    assert address in text_of("docs/notebooks.md")
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    programs = ["".join(cell["source"]) for cell in code]
    assert "pip install -q panoseg" in programs[0]
    used = set()
    for program in programs[1:]:
        used |= {
            node.attr
            for node in ast.walk(ast.parse(program))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "panoseg"
        }
    assert used - {"cli"} <= set(panoseg.__all__)
