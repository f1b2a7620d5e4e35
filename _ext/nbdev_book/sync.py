"""Check that notebooks and library agree: exporting and cleaning again would change nothing, and no output is stored.

    python -m nbdev_book.sync              check
    python -m nbdev_book.sync --write      write the library, the names of cited works, and the address of the book

The check works on a copy, so that it never edits what it checks.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from . import plain
from .home import rewritten
from .project import Project, find_notebooks


def outputs(project: Project) -> list[str]:
    """Notebooks that carry results: these belong to the book, which computes them."""
    return [
        f"{path.relative_to(project.root)}: holds outputs or execution counts; run nbdev_clean --clear_all"
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
        shutil.copy(project.root / "settings.ini", copy)
        for source in (project.library, project.notebooks):
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, copy / source.relative_to(project.root), ignore=ignored)
        before = _contents(copy)
        for command in ("nbdev_export", "nbdev_clean"):
            subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, check=True)
        after = _contents(copy)
    return [
        f"{name}: differs from what nbdev_export and nbdev_clean write"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def addresses(project: Project) -> list[str]:
    """Files in which another address stands than that of settings.ini."""
    return [
        f"{path.relative_to(project.root)}: names another address than settings.ini; run make export"
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
        f"{path.relative_to(project.root)}: cites a work by another name than its author and year; run make export"
        for path in renamed(project)
    ]


def _contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def write(project: Project) -> None:
    """Write what follows from the notebooks and from settings.ini."""
    for change in (rewritten, renamed):
        for path, text in change(project).items():
            path.write_text(text, "utf8")
            print(path.relative_to(project.root))
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=project.root, check=True)


def main(arguments: list[str]) -> int:
    project = Project.load(".")
    if arguments == ["--write"]:
        write(project)
        return 0
    complaints = outputs(project) + citations(project) + differences(project) + addresses(project)
    print("\n".join(complaints) or "notebooks and library agree")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
