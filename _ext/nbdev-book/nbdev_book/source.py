"""What the text of a cell says: the names that it defines and imports, and its code with short docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from IPython.core.inputtransformer2 import TransformerManager


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
            classes = _patched(node)
            yield from [f"{each}.{name}" for each in classes] or [name]
        case ast.ClassDef(name=name, body=body):
            yield name
            yield from (
                f"{name}.{member}" for statement in body for member in _defined_by(statement)
            )
        case ast.Assign(targets=targets):
            parts = [part for target in targets for part in getattr(target, "elts", [target])]
            yield from (part.id for part in parts if isinstance(part, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _patched(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The classes to which fastcore's ``@patch`` or ``@patch_to`` adds a function as a method."""
    for decorator in function.decorator_list:
        name, given = decorator, []
        if isinstance(decorator, ast.Call):
            name, given = decorator.func, decorator.args[:1]
        if ast.unparse(name).rpartition(".")[2] == "patch_to":
            return _class_names(given[0]) if given else []
        if ast.unparse(name).rpartition(".")[2] == "patch":
            arguments = [*function.args.posonlyargs, *function.args.args]
            owner = arguments[0].annotation if arguments else None
            return _class_names(owner) if owner else []
    return []


def _class_names(node: ast.expr) -> list[str]:
    """The classes that an expression names: one, a tuple of several, ``A | B``, or an annotation as text."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return [name]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [name for part in parts for name in _class_names(part)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _class_names(left) + _class_names(right)
        case ast.Constant(value=str(text)):
            return [
                name
                for part in parse(text).body
                for name in _class_names(getattr(part, "value", part))
            ]
    return []


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


def imported_names(tree: ast.Module, package: str) -> dict[str, str]:
    """What the names stand for that a cell imports from a package: ``{"f": "package.module.f"}``."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package
        for alias in node.names
    }


def is_setup(tree: ast.Module) -> bool:
    """Whether a cell imports and does nothing else but call something, such as a function that sets the style."""
    kinds = (ast.Import, ast.ImportFrom, ast.If, ast.Expr)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return bool(imports) and all(isinstance(node, kinds) for node in tree.body)


def summary(code: str) -> str:
    """What a folded cell is: its names, and what the first of them does."""
    tree = parse(code)
    if is_setup(tree):
        return "Imports"
    defined = [name for node in tree.body for name in _defined_by(node) if "." not in name]
    names = [name for name in defined if not name.startswith("_")] or defined
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    documented = [
        ast.get_docstring(node) or ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names
    ]
    does = next(
        (text.split("\n")[0].rstrip(".:").replace("`", "") for text in documented if text), ""
    )
    return f"{named}: {does[:1].lower()}{does[1:]}" if does else named or "Code"
