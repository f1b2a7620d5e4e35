"""The nbdev project that a book belongs to: its settings, its notebooks, and the files that their results depend on."""

from __future__ import annotations

import ast
import configparser
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Project:
    """What the book needs of nbdev's settings."""

    root: Path
    package: str  # the import name
    library: Path  # the folder that nbdev_export writes
    notebooks: Path
    is_recursive: bool  # whether notebooks in folders inside that one count
    test_flags: frozenset[str]  # directives such as `slow`, which concern only nbdev_test
    environment: tuple[str, ...]  # variables that change what a notebook prints: `book_environment`
    # `book_docstrings = summary`: a page shows the first line of each docstring
    short_docstrings: bool
    # `book_fold = 12`: an exported cell with more visible lines is folded, and so is a cell of imports
    fold: int | None
    version: str
    repository: str  # `git_url`: the address of the book's repository, empty while there is none
    branch: str

    @classmethod
    def load(cls, root: str | Path) -> Project:
        """Read the settings of the project whose root is this folder."""
        root = Path(root).resolve()
        settings = read_settings(root)
        name = settings.get("repo") or settings["lib_name"]
        library = root / settings.get("lib_path", name.replace("-", "_"))
        return cls(
            root=root,
            package=library.name,
            library=library,
            notebooks=root / settings.get("nbs_path", "nbs"),
            is_recursive=settings.get("recursive", "True").lower() in {"true", "1", "yes"},
            test_flags=frozenset(settings.get("tst_flags", "notest").split()),
            environment=tuple(settings.get("book_environment", "").split()),
            short_docstrings=settings.get("book_docstrings", "full") == "summary",
            fold=int(settings["book_fold"]) if settings.get("book_fold") else None,
            version=settings.get("version") or _version(library),
            repository=settings.get("git_url", "").strip().removesuffix("/"),
            branch=settings.get("branch", "main"),
        )


def find_settings(root: Path) -> Path:
    """The file with a project's settings: ``settings.ini`` as nbdev 2 has it, or ``pyproject.toml`` with nbdev 3."""
    old, new = root / "settings.ini", root / "pyproject.toml"
    if old.is_file():
        return old
    if new.is_file() and "nbdev" in tomllib.loads(new.read_text("utf8")).get("tool", {}):
        return new
    raise FileNotFoundError(
        f"{root} is not the root of an nbdev project: no settings.ini, no pyproject.toml with [tool.nbdev]"
    )


def read_settings(root: Path) -> Mapping[str, str]:
    """A project's settings as text, under the names of ``settings.ini`` in either case."""
    file = find_settings(root)
    text = file.read_text("utf8")
    if file.suffix == ".ini":
        config = configparser.ConfigParser(
            delimiters=["="]
        )  # as nbdev reads it: %(user)s stands for a setting
        config.read_string(text, str(file))
        return config["DEFAULT"]
    table = tomllib.loads(text)
    project = table.get("project", {})
    urls = project.get("urls", {})
    settings = {
        "lib_name": project.get("name", root.name),
        "git_url": urls.get("Repository") or urls.get("Source") or "",
        "version": project.get("version", ""),
    } | table["tool"]["nbdev"]
    return {
        name: " ".join(value) if isinstance(value, list) else str(value)
        for name, value in settings.items()
    }


def _version(library: Path) -> str:
    """The version that nbdev writes into a library's first file."""
    first = library / "__init__.py"
    text = first.read_text("utf8") if first.is_file() else ""
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found[1] if found else ""


def find_notebooks(project: Project) -> list[Path]:
    """The notebooks that nbdev sees: those whose path has no part that starts with a dot or an underscore."""
    pattern = "**/*.ipynb" if project.is_recursive else "*.ipynb"
    return [
        path
        for path in sorted(project.notebooks.glob(pattern))
        if not any(part[0] in "._" for part in path.relative_to(project.notebooks).parts)
    ]


def library_files(trees: Iterable[ast.Module], project: Project) -> set[Path]:
    """The library files that code imports, and those that these import in turn."""
    found: set[Path] = set()
    waiting = [file for tree in trees for file in _imported(tree, project)]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(
                ast.parse(file.read_text(encoding="utf8")), project, inside=file.parent
            )
    return found


def _imported(tree: ast.Module, project: Project, inside: Path | None = None) -> Iterator[Path]:
    """Files named by import statements; relative imports start at the folder ``inside``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), project)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                if inside is None:
                    continue
                folder = inside.parents[node.level - 2] if node.level > 1 else inside
                module = [project.package, *folder.relative_to(project.library).parts, *module]
            yield from _files(module, project)
            for alias in node.names:  # `from package import module`
                yield from _files([*module, alias.name], project)


def _files(dotted: list[str], project: Project) -> Iterator[Path]:
    """Importing ``a.b.c`` runs ``a/__init__.py``, ``a/b/__init__.py`` and ``a/b/c.py``."""
    if dotted[0] != project.package:
        return
    for depth in range(len(dotted)):
        path = project.library.joinpath(*dotted[1 : depth + 1])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file


def data_files(trees: Iterable[ast.Module], project: Project) -> set[Path]:
    """The files of the project that string literals name, as in ``json.load(open("../runs/ar.json"))``.

    A literal counts if it has a slash and names a file or folder inside the project, seen from the notebooks' folder
    or from the root. Of a folder, every file directly in it counts.
    """
    literals = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "/" in node.value[:200]
    }
    found: set[Path] = set()
    for path in (
        base / text
        for text in literals
        if _is_plain(text)
        for base in (project.notebooks, project.root)
    ):
        path = path.resolve()
        if project.root in path.parents and path.exists():
            found |= (
                {path} if path.is_file() else {file for file in path.iterdir() if file.is_file()}
            )
    return found


def _is_plain(text: str) -> bool:
    """Whether a string could be a path at all; longer ones and those with line breaks are prose."""
    return len(text) < 200 and text.isprintable()


def fingerprint(files: Iterable[Path], project: Project) -> str:
    """A short hash of the files' contents and of the environment variables that the project names."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(project.root)}\0".encode() + file.read_bytes() + b"\0")
    for name in project.environment:
        digest.update(f"{name}={os.environ.get(name)}\0".encode())
    return digest.hexdigest()[:16]
