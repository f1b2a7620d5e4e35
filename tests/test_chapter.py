"""A new chapter: what `make chapter` writes passes every check of the house, but for what its author has to say."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("chapter", ROOT / "_ext" / "chapter.py")
chapter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chapter)

COPIED = ["_toc.yml", "README.md", "index.md", "pyproject.toml", "settings.ini", "references.bib"]
FOLDERS = ["_ext", "api", "arbook", "nbs", "tests"]


LAST = max(path.stem[:2] for path in (ROOT / "nbs").glob("[0-9]*.ipynb"))


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """A copy of this book with one chapter more, whose name is that of no other."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    done = run(folder, "python", "_ext/chapter.py", "hot_air", "Hot air: a $p$ of “one”")
    assert done.returncode == 0, done.stderr
    assert run(folder, "nbdev_export").returncode == 0
    return folder


def test_every_list_has_the_chapter_in_its_place(book):
    stems = sorted(path.stem for path in (book / "nbs").glob("*_hot_air.ipynb"))
    assert stems == [f"{int(LAST) + 1:02d}_hot_air"]
    for name in ("_toc.yml", "README.md", "index.md", "arbook/__init__.pyi"):
        old = (ROOT / name).read_text("utf8").splitlines()
        new = (book / name).read_text("utf8").splitlines()
        added = [line for line in new if "hot_air" in line]
        assert [line for line in new if line not in added] == old, name
        assert len(added) == (2 if name == "_toc.yml" else 1)


def test_a_page_of_ideas_that_comes_last_is_no_chapter(tmp_path):
    for name in COPIED:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("nbs", "arbook"):
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    cell = {"cell_type": "markdown", "id": "00000001", "metadata": {}, "source": "# One idea"}
    idea = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs" / f"{LAST}_zz.ipynb").write_text(json.dumps(idea), "utf8")
    files = chapter.begin(tmp_path, "hot_air", "Hot air")
    assert f"nbs/{int(LAST) + 1:02d}_hot_air.ipynb" in files
    assert "import" in files[f"nbs/{int(LAST) + 1:02d}_hot_air.ipynb"]


@pytest.mark.slow
def test_the_tests_of_the_house_name_what_is_left_to_write_and_nothing_else(book):
    result = run(book, "python", "-m", "pytest", "tests/test_house.py", "-m", "not slow")
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    (line,) = failed
    assert "test_nothing_of_a_new_chapter_is_left_to_write" in line, result.stdout
    for name in ("README.md", "index.md", "tests/test_hot_air.py", "_hot_air.ipynb"):
        assert name in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    [
        ["tests/test_hot_air.py"],
        ["tests/test_docs.py", "tests/test_notebooks.py", "tests/test_front.py", "-k", "hot_air"],
    ],
)
def test_its_own_tests_and_those_of_docs_and_notebooks_pass(book, tests):
    result = run(book, "python", "-m", "pytest", *tests)
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout or "." in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--force-exclude"],
        ["ruff", "format", "--check", "--force-exclude"],
        ["python", "-m", "nbdev_book.sync"],
        ["codespell"],
        ["mypy", "-m", "arbook.hot_air"],
    ],
    ids=lambda command: " ".join(command),
)
def test_the_checks_of_style_and_types_pass(book, command, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{book}{os.pathsep}{book / '_ext' / 'nbdev-book'}")
    written = [
        str(path) for path in book.rglob("*hot_air*") if path.suffix in {".md", ".py", ".ipynb"}
    ]
    program = Path(sys.executable).with_name(command[0])
    files = written if command[0] in {"ruff", "codespell"} else []
    assert len(written) == 4
    result = subprocess.run(
        [program, *command[1:], *files], cwd=book, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_its_page_runs_and_shows_its_numbers(book):
    (path,) = (book / "nbs").glob("*_hot_air.ipynb")
    cells = json.loads(path.read_text("utf8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program = "\n".join(code[1:] + ["print(shares([2, 3, 5]))"])  # the first installs the library
    result = run(book, "python", "-c", program)
    assert (result.returncode, result.stdout) == (0, "[0.2, 0.3, 0.5]\n"), result.stderr


@pytest.mark.parametrize("name", ["ar", "Two", "2nd", "two words", "a-b", "class", "", "../x"])
def test_a_name_that_is_none_or_is_taken_is_refused_and_nothing_is_written(name):
    with pytest.raises(ValueError, match="^NAME must be"):
        chapter.begin(ROOT, name, "Title")


def test_a_line_goes_after_the_last_one_of_its_kind_and_what_hangs_on_it():
    text = "a:\n  - file: x1\n    sections:\n      - file: y\n  - file: z\nb:\n"
    assert chapter.after(text, " *- file: x", "  NEW") == text.replace(
        "  - file: z", "  NEW\n  - file: z"
    )
    assert chapter.after(text, " *- file: z", "  NEW") == text.replace("b:", "  NEW\nb:")
    with pytest.raises(ValueError, match="no line is like"):
        chapter.after(text, "c:", "  NEW")
