"""The reader that myst-nb calls for every notebook: the text of an nbdev notebook in, a notebook for the page out.

Each directive becomes a cell tag or cell metadata, and its line disappears. What later steps need travels in the cell's
metadata under ``nbdev``:

``module``   where nbdev exports the cell to, as ``package.module``
``names``    the public names that an exported cell defines, as ``package.module.name``
``preface``  imports that make code links work: from hidden cells, and of names that earlier cells exported
``inputs``   on the first code cell, a hash of the library and data files that the notebook uses. The key of the
             execution cache covers cell metadata, so a notebook runs again when such a file changes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from . import directives as dv
from . import plain
from .project import Project, data_files, fingerprint, library_files
from .source import (
    definitions,
    import_lines,
    imported_names,
    is_setup,
    parse,
    shorten_docstrings,
    summary,
)


@dataclass(frozen=True)
class Cell:
    """A code cell, taken apart."""

    number: int  # its place in the notebook, counted from 1
    node: NotebookNode
    directives: dict[str, str]
    code: str
    module: str | None  # where it is exported to
    imported: Mapping[
        str, str
    ]  # what the names mean that it and earlier cells take from the library

    @property
    def names(self) -> list[str]:
        """The public names that it adds to the library. nbdev keeps those of ``exporti`` out of ``__all__``."""
        if self.module is None or "exporti" in self.directives:
            return []
        return [self.full_name(name) for name in definitions(parse(self.code))]

    def full_name(self, name: str) -> str:
        """A name with its module in front: a method may be added to the class of another module."""
        owner, dot, member = name.partition(".")
        if dot and owner in self.imported:
            return f"{self.imported[owner]}.{member}"
        return f"{self.module}.{name}"


def code_cells(notebook: NotebookNode, project: Project) -> Iterator[Cell]:
    """The code cells of a notebook that take part in the page, each with the module that it is exported to."""
    default = None
    imported: dict[str, str] = {}
    for number, node in enumerate(notebook.cells, start=1):
        if node.cell_type != "code" or dv.writes_library(node.source):
            continue
        directives, code = dv.split(node.source)
        default = directives.get("default_exp", default)
        export = next((name for name in directives if name in dv.EXPORTS), None)
        target = (directives[export] or default) if export else None
        module = f"{project.package}.{target}" if target else None
        imported = imported | imported_names(parse(code), project.package)
        yield Cell(number, node, directives, code, module, imported)


def input_files(cells: list[Cell], project: Project) -> set[Path]:
    """Every file of the project whose content can change what these cells print."""
    trees = [parse(cell.code) for cell in cells]
    return library_files(trees, project) | data_files(trees, project)


def read(text: str, root: str = ".") -> NotebookNode:
    """Turn the text of an nbdev notebook into the notebook that the page shows. ``root`` is the project's."""
    project = Project.load(root)
    notebook = nbformat.reads(text, as_version=4)
    cells = list(code_cells(notebook, project))
    preface: list[str] = []
    for cell in cells:
        _fold_by_length(cell, project)
        _apply_directives(cell)
        is_shown = not {"remove-cell", "remove-input"} & set(cell.node.metadata.tags)
        if is_shown and preface:
            cell.node.metadata.setdefault("nbdev", {})["preface"] = preface
            preface = []
        preface = preface + _preface_for_later(cell, is_shown)
    kept = {cell.number: cell.node for cell in cells if cell.code.strip()}
    for first in list(kept.values())[:1]:
        first.metadata.setdefault("nbdev", {})["inputs"] = fingerprint(
            input_files(cells, project), project
        )
    numbered = enumerate(notebook.cells, start=1)
    shown = [node for number, node in numbered if node.cell_type != "code" or number in kept]
    notebook.cells = plain.in_myst_cells(shown, plain.bibliography(project.root))
    return notebook


def _fold_by_length(cell: Cell, project: Project) -> None:
    """Fold what a page shows for completeness only: long exported cells, and imports. `code-fold` decides if given.

    Over the fold stand words of the author, or else what the code says of itself; and its length.
    """
    if project.fold is None:
        return
    code = dv.visible(cell.code)
    shown = shorten_docstrings(code) if cell.module and project.short_docstrings else code
    n_lines = len(shown.strip("\n").split("\n"))
    if "code-fold" not in cell.directives and (
        (cell.module is not None and n_lines > project.fold) or is_setup(parse(code))
    ):
        cell.directives["code-fold"] = "true"
    if dv.is_on(cell.directives, "code-fold"):
        words = cell.directives.get("code-summary") or summary(shown)
        cell.directives["code-summary"] = f"{words} · {n_lines} line" + "s" * (n_lines > 1)


def _apply_directives(cell: Cell) -> None:
    """Put a cell's directives into the notebook's own terms."""
    node = cell.node
    node.source = cell.code
    node.metadata.tags = [
        *dict.fromkeys([*node.metadata.get("tags", []), *dv.tags(cell.directives)])
    ]
    if options := dv.rendering(cell.directives):
        node.metadata.mystnb = {**node.metadata.get("mystnb", {}), **options}
    if cell.module:
        node.metadata.nbdev = {"module": cell.module, "names": cell.names}


def _preface_for_later(cell: Cell, is_shown: bool) -> list[str]:
    """Import statements that tell the code linker what later cells mean by the names that this cell defines."""
    hidden = [] if is_shown else import_lines(parse(cell.code))
    exported = [name.removeprefix(f"{cell.module}.") for name in cell.names]
    return hidden + [f"from {cell.module} import {name}" for name in exported if "." not in name]
