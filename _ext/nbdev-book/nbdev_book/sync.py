"""Check that notebooks and library agree: exporting and cleaning again would change nothing, and no output is stored.

    python -m nbdev_book.sync                      check
    python -m nbdev_book.sync --allow-outputs      the same, for notebooks that carry their results
    python -m nbdev_book.sync --clear              take the results out of the notebooks, and leave all else in them
    python -m nbdev_book.sync --write              write the library, the names of cited works, and the book's address

The check works on a copy, so that it never edits what it checks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from . import plain
from .home import rewritten
from .project import Project, find_notebooks


WRITE = "run python -m nbdev_book.sync --write"


def program(name: str) -> Path:
    """Where this environment has a command of nbdev, which nbdev 3 writes with a hyphen."""
    places = [Path(sys.executable).with_name(each) for each in (name, name.replace("_", "-"))]
    return next((place for place in places if place.exists()), places[0])


def outputs(project: Project) -> list[str]:
    """Notebooks that carry results: these belong to the book, which computes them."""
    return [
        f"{path.relative_to(project.root)}: holds outputs or execution counts; run python -m nbdev_book.sync --clear"
        for path in find_notebooks(project)
        if any(
            cell.get("outputs") or cell.get("execution_count")
            for cell in nbformat.read(path, as_version=4).cells
        )
    ]


def differences(project: Project) -> list[str]:
    """Files that nbdev_export or nbdev_clean would change."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("settings.ini", "pyproject.toml"):
            if (project.root / name).is_file():
                shutil.copy(project.root / name, copy)
        folders = [path.relative_to(project.root) for path in (project.library, project.notebooks)]
        for name in folders:
            ignored = shutil.ignore_patterns("__pycache__", ".*", "_build")
            shutil.copytree(project.root / name, copy / name, ignore=ignored, dirs_exist_ok=True)
        before = _contents(copy, folders)
        for command in ("nbdev_export", "nbdev_clean"):
            subprocess.run([program(command)], cwd=copy, check=True)
        after = _contents(copy, folders)
    return [
        f"{name}: differs from what nbdev_export and nbdev_clean write"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def addresses(project: Project) -> list[str]:
    """Files in which another address stands than that of the settings."""
    return [
        f"{path.relative_to(project.root)}: names another address than git_url; {WRITE}"
        for path in rewritten(project)
    ]


def renamed(project: Project) -> dict[Path, str]:
    """Notebooks that cite a work under another name than the bibliography gives, each with its new text."""
    works = plain.bibliography(project.root)
    changed = {}
    for path in find_notebooks(project):
        notebook = nbformat.read(path, as_version=4)
        prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        before = [cell.source for cell in prose]
        for cell in prose:
            cell.source = plain.with_names(cell.source, works)
        if [cell.source for cell in prose] != before:
            changed[path] = nbformat.writes(notebook) + "\n"
    return changed


def citations(project: Project) -> list[str]:
    """Notebooks in which a citation has another text than its work."""
    return [
        f"{path.relative_to(project.root)}: cites a work by another name than its author and year; {WRITE}"
        for path in renamed(project)
    ]


def _contents(root: Path, folders: list[Path]) -> dict[Path, bytes]:
    return {
        path.relative_to(root): path.read_bytes()
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def clear(project: Project) -> None:
    """Take results out of notebooks, and unlike ``nbdev_clean --clear_all``, leave the cells' metadata in them."""
    for path in find_notebooks(project):
        text = path.read_text("utf8")
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"]):
                cell["outputs"], cell["execution_count"] = [], None
        if json.loads(text) != notebook:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf8")
            print(path.relative_to(project.root))


def write(project: Project) -> None:
    """Write what follows from the notebooks and from the settings."""
    for change in (rewritten, renamed):
        for path, text in change(project).items():
            path.write_text(text, "utf8")
            print(path.relative_to(project.root))
    subprocess.run([program("nbdev_export")], cwd=project.root, check=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nbdev_book.sync", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="write what is checked otherwise")
    parser.add_argument(
        "--clear", action="store_true", help="take the results out of the notebooks"
    )
    parser.add_argument(
        "--allow-outputs", action="store_true", help="notebooks may carry their results"
    )
    options = parser.parse_args(arguments)
    project = Project.load(".")
    if options.clear:
        clear(project)
    if options.write:
        write(project)
    if options.clear or options.write:
        return 0
    complaints = [] if options.allow_outputs else outputs(project)
    complaints += citations(project) + differences(project) + addresses(project)
    print("\n".join(complaints) or "notebooks and library agree")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
