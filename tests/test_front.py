"""The front of the package: what `import arbook` offers, and what it costs."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
import typing

import arbook
import pytest
from conftest import ROOT

STUB = ast.parse((ROOT / "arbook" / "__init__.pyi").read_text(encoding="utf-8"))
OFFERED = [
    (node.module, alias)
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]
WITHOUT_TORCH = [
    "ar",
    "leastsquares",
    "tokens",
    "data",
    "tables",
    "sources",
    "micro",
    "cli",
    "workshop",
    "check",
]


def loaded(program: str) -> set[str]:
    """Run a program by itself, and return the names of the modules that were imported meanwhile."""
    program += "\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(("module", "alias"), OFFERED, ids=lambda part: getattr(part, "name", None))
def test_every_name_of_the_front_is_the_one_of_its_module(module, alias):
    assert alias.asname == alias.name, "a stub exports only `X as X`"
    full = importlib.import_module(f"arbook.{module or alias.name}")
    expected = getattr(full, alias.name) if module else full
    assert getattr(arbook, alias.name) is expected
    assert alias.name in dir(arbook)
    assert not module or alias.name in full.__all__


def test_the_front_offers_every_module_but_the_one_that_needs_what_only_the_book_needs():
    modules = {name for _, name, _ in pkgutil.iter_modules(arbook.__path__) if name[0] != "_"}
    assert {alias.name for module, alias in OFFERED if module is None} == modules - {"plots"}


def test_no_name_of_the_front_hides_another():
    names = [alias.name for _, alias in OFFERED]
    assert len(names) == len(set(names))
    assert not {name for name in dir(arbook) if name[0] != "_"} - set(names) - {"plots"}


def test_other_names_are_an_attribute_error_that_says_so():
    for name in ("LinearRA", "_front_", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'arbook' has no attribute '{name}'"):
            getattr(arbook, name)
    with pytest.raises(ImportError, match="cannot import name 'LinearRA' from 'arbook'"):
        exec("from arbook import LinearRA")


def test_the_front_says_what_the_library_is():
    first = inspect.getdoc(arbook).splitlines()[0]
    assert first.startswith("Autoregressive models")
    result = doctest.testmod(arbook)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    "program",
    [
        "import arbook",
        "import arbook; dir(arbook)",
        "import arbook; assert not hasattr(arbook, 'LinearRA')",
    ],
)
def test_the_front_imports_nothing_before_it_is_asked(program):
    assert not {name.split(".")[0] for name in loaded(program)} & {"torch", "numpy", "tokenizers"}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_of_plain_numbers_and_texts_do_not_import_torch(name):
    assert "torch" not in loaded(f"import arbook; arbook.{name}")


def test_an_autoregression_from_the_front_does_not_import_torch():
    assert "torch" not in loaded("from arbook import LinearAR, backtest, series")


def test_the_help_of_the_command_imports_neither_torch_nor_numpy():
    program = "from arbook.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(program) & {"torch", "numpy"}


def test_python_runs_the_package_as_the_command():
    command = [sys.executable, "-m", "arbook", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"arbook {arbook.__version__}\n")
    command[-1] = "no-such-command"
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("usage: arbook ")


@pytest.mark.parametrize("name", ["train", "score", "generate", "LinearAR.fit", "CharTokenizer"])
def test_help_shows_signatures_as_they_are_written(name):
    found = arbook
    for part in name.split("."):
        found = getattr(found, part)
    signature = str(inspect.signature(found))
    assert "Union" not in signature and "numpy._typing" not in signature
    assert not any(module in signature for module in ("torch.Tensor", "collections.abc", "arbook."))


def test_a_forecast_does_not_import_pandas():
    program = (
        "from arbook import LinearAR; LinearAR(1).fit([1, 2, 4, 8]).forecast([8], 2, level=0.9)"
    )
    assert "pandas" not in loaded(program)


WITH_INTERFACE = {name for _, name, _ in pkgutil.iter_modules(arbook.__path__) if name[0] != "_"}


def only_for_type_checkers(module: types.ModuleType) -> dict[str, object]:
    """What a module imports below `if TYPE_CHECKING:`, which it names in annotations and does not load."""
    names: dict[str, object] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__name__, "exec"), names)
    return names


@pytest.mark.parametrize("name", sorted(WITH_INTERFACE - {"cli"}))  # which imports when it runs
def test_every_annotation_means_something_where_it_stands(name):
    """Annotations are kept as text, so a wrong name in one would otherwise never be noticed."""
    module = importlib.import_module(f"arbook.{name}")
    own = [getattr(module, public) for public in module.__all__]
    own = [thing for thing in own if getattr(thing, "__module__", None) == module.__name__]
    methods = [part for kind in own if inspect.isclass(kind) for part in vars(kind).values()]
    described = [thing for thing in own + methods if inspect.isfunction(thing)]
    assert described
    names = only_for_type_checkers(module)
    for thing in described + [kind for kind in own if inspect.isclass(kind)]:
        typing.get_type_hints(thing, localns=names)
