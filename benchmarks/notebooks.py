"""Executes the notebooks of docs/notebooks: ``python benchmarks/notebooks.py [--tiny] [NAME ..]``.

Prints how long each takes; with ``--out DIR`` the executed ones, with their pictures, are written
there. What is stored has no outputs.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
TINY = {
    "SIZE": {"map": 64, "register": 192, "score": 64, "photographs": 32},
    "DATES": (12, 12),
    "TTA": 1,
    "STEPS": 1,
    "EPOCHS": 1,
    "PHOTOGRAPHS": 10,
}
"""Sizes for tests, by the name in the cell that is tagged "parameters"."""


def made_tiny(name: str, notebook: nbformat.NotebookNode) -> None:
    """Change the numbers of the cell of parameters."""
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for variable, sizes in TINY.items():
        value = sizes[name] if isinstance(sizes, dict) else sizes
        cell.source = re.sub(
            rf"^{variable} = [^#\n]+", f"{variable} = {value}  ", cell.source, flags=re.MULTILINE
        )


def executed(name: str, tiny: bool) -> nbformat.NotebookNode:
    """Return a notebook with its outputs; an error of a cell is raised."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    if tiny:
        made_tiny(name, notebook)
    NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="by default all of them")
    parser.add_argument("--tiny", action="store_true", help="as small as the tests run them")
    parser.add_argument("--out", type=Path, help="folder for the executed notebooks")
    options = parser.parse_args()
    for name in options.names or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        start = time.monotonic()
        notebook = executed(name, options.tiny)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, options.out / f"{name}.ipynb")


if __name__ == "__main__":
    main()
