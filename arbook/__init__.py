"""Autoregressive models from the ground up: the library of the book.

    >>> from arbook import LinearAR, series
    >>> spots = series("sunspots")
    >>> LinearAR(9, intercept=True).fit(spots).forecast(spots, 3).shape
    (3,)

What one starts with can be had from here; `dir(arbook)` lists it. Everything else is in the modules, one for each
chapter. A module is imported when it is first asked for, so nobody waits for PyTorch who needs only NumPy.
"""

# Written by hand. nbdev keeps the line of the version up to date, from settings.ini, and leaves the others alone.
__version__ = "0.1.0"


def _front() -> dict[str, str]:
    """Read from `__init__.pyi`, where editors and type checkers look, which name comes from which module."""
    import ast  # here, and not above, because what stands above is a part of the front
    from importlib.resources import files

    stub = files(__name__).joinpath("__init__.pyi").read_text(encoding="utf-8")
    imports = (node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def __getattr__(name: str) -> object:
    """Import a name of the front when it is first used: Python asks here for what it does not find."""
    from importlib import import_module

    module = None if name.startswith("_") else _front().get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    found = import_module(f"{__name__}.{module or name}")
    value = getattr(found, name) if module else found
    globals()[name] = value  # so that it is asked for once
    return value


def __dir__() -> list[str]:
    """List the names of the front, imported or not."""
    return sorted({*globals(), *_front()})
