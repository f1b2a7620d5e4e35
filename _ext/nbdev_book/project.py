"""What a notebook has to do with its project: which names it defines, which files its results depend on."""

from __future__ import annotations

import ast
import configparser
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager


@dataclass(frozen=True)
class Project:
    """The entries of ``settings.ini`` that the book needs."""

    root: Path
    package: str  # the import name
    library: Path  # the folder that nbdev_export writes
    notebooks: Path
    test_flags: frozenset[str]  # directives such as `slow`, which concern only nbdev_test
    environment: tuple[str, ...]  # variables that change what a notebook prints: `book_environment`
    short_docstrings: (
        bool  # `book_docstrings = summary`: a page shows the first line of each docstring
    )
    version: str
    repository: str  # `git_url`: the address of the book's repository, empty while there is none
    branch: str

    @classmethod
    def load(cls, root: str | Path) -> Project:
        """Read ``settings.ini`` in the folder ``root``."""
        root = Path(root).resolve()
        config = configparser.ConfigParser(interpolation=None)
        with open(root / "settings.ini", encoding="utf8") as file:
            config.read_file(file)
        settings = config["DEFAULT"]
        lib_path = settings.get("lib_path", settings["lib_name"].replace("-", "_"))
        return cls(
            root=root,
            package=Path(lib_path).name,
            library=root / lib_path,
            notebooks=root / settings.get("nbs_path", "nbs"),
            test_flags=frozenset(settings.get("tst_flags", "notest").split()),
            environment=tuple(settings.get("book_environment", "").split()),
            short_docstrings=settings.get("book_docstrings", "full") == "summary",
            version=settings.get("version", ""),
            repository=settings.get("git_url", "").strip(),
            branch=settings.get("branch", "main"),
        )


def find_notebooks(project: Project) -> list[Path]:
    """The notebooks that nbdev sees: those whose path has no part that starts with a dot or an underscore."""
    paths = sorted(project.notebooks.rglob("*.ipynb"))
    return [
        path
        for path in paths
        if not any(part[0] in "._" for part in path.relative_to(project.notebooks).parts)
    ]


def parse(code: str) -> ast.Module:
    """The syntax tree of a cell, its magics turned into Python. Broken code has none; running it will say why."""
    try:
        return ast.parse(TransformerManager().transform_cell(code))
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def definitions(tree: ast.Module) -> list[str]:
    """The public names that a cell defines, methods as ``Class.method``, in the order of the text; overloads once."""
    names = [name for node in tree.body for name in _defined_by(node)]
    return [
        name
        for name in dict.fromkeys(names)
        if not any(part.startswith("_") for part in name.split("."))
    ]


def _defined_by(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.ClassDef(name=name, body=body):
            yield name
            yield from (
                f"{name}.{member}" for statement in body for member in _defined_by(statement)
            )
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def shorten_docstrings(code: str) -> str:
    """Keep the first line of every docstring. The rest stands on the reference page, one click away."""
    code = code.lstrip("\n")  # as IPython does before it counts lines
    lines = code.split("\n")
    for node in reversed(list(ast.walk(parse(code)))):
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and ast.get_docstring(node):
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno
            if last - first > 1:
                quotes = lines[last - 1].rstrip()[-3:]
                lines[first:last] = [lines[first].rstrip() + quotes, *[None] * (last - first - 1)]
    return "\n".join(line for line in lines if line is not None)


def import_lines(tree: ast.Module) -> list[str]:
    """The import statements of a cell as text."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def imported_names(tree: ast.Module, project: Project) -> dict[str, str]:
    """What the names stand for that a cell imports from the library: ``{"f": "package.module.f"}``."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == project.package
        for alias in node.names
    }


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
