"""Imports point one way: a package imports only from those to its left in the way of the data."""

from __future__ import annotations

import ast
from pathlib import Path

import panoseg

ROOT = Path(panoseg.__file__).parent
LONGEST_BODY = 60
LONGEST_FILE = 500
BASE = (
    "__init__",
    "errors",
    "classes",
    "files",
    "text_files",
    "platforms",
    "progress",
    "processes",
)
ORDER = (
    "imagery",
    "cube",
    "panoptic",
    "metrics",
    "coco",
    "data",
    "simulation",
    "pictures",
    "models",
    "training",
    "maps",
    "results",
    "register",
    "photo",
    "api",
    "app",
    "cli",
    "__main__",
)

# The methods that ``Panoptic`` offers its users need the packages that build on it: each imports
# its implementation when it is called. No other import may point right.
METHODS = {("panoseg.panoptic", "panoseg.results")}
# The package itself names what it offers and imports it when it is used.
DOOR = "panoseg"


def level(module: str) -> int:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return 0 if name in BASE or name == "__version__" else 1 + ORDER.index(name)


def arrows() -> list[tuple[str, str]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("panoseg", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        if module == DOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and node.level == 0
                and (node.module or "").split(".")[0] == "panoseg"
            ):
                names = (
                    [node.module]
                    if node.module != "panoseg"
                    else [f"panoseg.{alias.name}" for alias in node.names]
                )
                found += [(module, name) for name in names]
            elif isinstance(node, ast.Import):
                found += [(module, a.name) for a in node.names if a.name.split(".")[0] == "panoseg"]
            elif isinstance(node, ast.ImportFrom) and node.level:
                found.append((module, "relative"))
    return [arrow for arrow in found if arrow not in METHODS]


def test_imports_point_left():
    wrong = [(a, b) for a, b in arrows() if b == "relative" or level(b) > level(a)]
    assert not wrong, f"arrows that point right (or are relative): {wrong}"


def test_no_cycles_between_modules():
    modules = {
        ".".join(("panoseg", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for p in ROOT.rglob("*.py")
    }
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for source, target in arrows():
        if target in modules:
            graph[source].add(target)
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"import cycle: {' -> '.join((*way, name))}"
        if name not in done:
            for target in graph[name]:
                visit(target, (*way, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_every_package_is_in_the_order():
    for path in ROOT.iterdir():
        if path.suffix == ".py" or any(path.glob("*.py")):
            assert path.stem in BASE + ORDER, f"{path.name} has no place in the order"


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_fit_on_a_screen():
    """Without signature and docstring: a longer one is several steps, each of which has a name."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > LONGEST_BODY
    ]
    assert not long, f"functions of more than {LONGEST_BODY} lines: {long}"


def fields_without_docstring(tree: ast.Module) -> list[str]:
    """Fields of dataclasses and named tuples that are not followed by a docstring."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = {
            ast.unparse(entry).split("(")[0].split(".")[-1] for entry in node.decorator_list
        }
        bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
        if "dataclass" not in decorators and not bases & {"NamedTuple", "TypedDict"}:
            continue
        for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(entry, ast.AnnAssign) or "ClassVar" in ast.unparse(entry.annotation):
                continue
            text = after.value if isinstance(after, ast.Expr) else None
            if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
                found.append(f"{node.name}.{ast.unparse(entry.target)}")
    return found


def test_every_field_has_a_docstring():
    missing = [
        f"{path.relative_to(ROOT)} {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for name in fields_without_docstring(ast.parse(path.read_text()))
    ]
    assert not missing, f"{len(missing)} fields without a docstring: {missing}"


def test_files_are_not_too_long():
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for path in sorted(ROOT.rglob("*.py"))
        if (lines := path.read_text().count("\n")) > LONGEST_FILE
    ]
    assert not long, f"files of more than {LONGEST_FILE} lines: {long}"


def test_no_name_of_a_package_is_that_of_one_of_its_modules():
    """Importing the module would replace the name, such as ``json`` in a package with json.py."""
    clashes = []
    for path in sorted(ROOT.rglob("__init__.py")):
        module = ".".join(("panoseg", *path.parent.relative_to(ROOT).parts))
        modules = {other.stem for other in path.parent.iterdir()}
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
                # A name of the very module comes after it.
                origin = (getattr(node, "module", None) or "").removeprefix(f"{module}.")
                names = [name for name in names if name != origin]
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                names = [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]
            clashes += [f"{module}.{name}" for name in names if name in modules]
    assert not clashes, f"names that a module of the package replaces: {clashes}"
